/* The console of a running container: its terminal's master, a log of what came out of it, and those who look at it. */
#ifndef SYSTEM_LIFE_CONSOLE_H
#define SYSTEM_LIFE_CONSOLE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define CONSOLE_MAX_CLIENTS 16
/* Of poll descriptors: the listener, the master, the clients. */
#define CONSOLE_POLL (2 + CONSOLE_MAX_CLIENTS)

struct console_client {
    int fd; /* -1: none */
    bool is_attached;
};

struct console {
    int listener;
    int master; /* -1: none now */
    int slave; /* kept open, so that the master does not report the end whenever nobody else has it */
    int log;
    size_t log_size;
    const char *log_path;
    struct console_client client[CONSOLE_MAX_CLIENTS];
};

/* 'socket_path': where it listens; 'log_path' is borrowed. */
int must_check console_open(struct console *console, const char *socket_path, const char *log_path,
                            struct error *err);
/* A terminal of the host for a container whose root is 'owner' there: the master's descriptor; 'out_slave' is the caller's. */
int must_check console_make_terminal(uint32_t owner, int *out_slave, struct error *err);
/* The master of a new terminal, now the console's; -1: none. */
void console_set_master(struct console *console, int master);
void console_poll(const struct console *console, struct pollfd out[CONSOLE_POLL]);
void console_serve(struct console *console, const struct pollfd polled[CONSOLE_POLL]);
/* What is still in the terminal, for the log. */
void console_drain(struct console *console);
void console_close(struct console *console);

#endif
