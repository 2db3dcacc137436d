/* The listeners of notified system calls, which the runtime hands to the keeper: one of the container's init, and one of each
 * program that was executed in it from outside. */
#ifndef SYSTEM_LIFE_NOTIFY_H
#define SYSTEM_LIFE_NOTIFY_H

#include <poll.h>
#include <stdbool.h>

struct views;

#define NOTIFY_MAX  64 /* further ones are closed: their calls fail with ENOSYS */
#define NOTIFY_POLL (1 + NOTIFY_MAX)

struct notify {
    int socket; /* where the runtime comes; -1: none */
    struct {
        int fd;           /* -1: none */
        bool is_listener; /* else a connection at which one will come */
    } item[NOTIFY_MAX];
};

/* 'socket' is its own from now on. */
void notify_init(struct notify *notify, int socket);
void notify_poll(const struct notify *notify, struct pollfd out[NOTIFY_POLL]);
/* 'views' NULL: every call goes on in the kernel. */
void notify_serve(struct notify *notify, const struct pollfd polled[NOTIFY_POLL],
                  struct views *views);
/* The container has ended: its listeners are closed. */
void notify_reset(struct notify *notify);

/* A descriptor that comes as a message at a connected socket, or -1. */
int notify_take_fd(int connection);

#endif
