/* What the runtime and the container's process say to each other while the container is made: messages over a pair of sockets,
 * with descriptors; an error of the one side comes out as the other's. */
#ifndef CONTAINER_RUNTIME_CHANNEL_H
#define CONTAINER_RUNTIME_CHANNEL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"

enum channel_type {
    CHANNEL_ERROR,   /* struct error: the sender has given up */
    CHANNEL_PID,     /* pid_t: of the process that goes on; the sender only made it */
    CHANNEL_GO,      /* go on */
    CHANNEL_TIME,    /* the process has made a time namespace for its children */
    CHANNEL_TIMED,   /* its offsets are written: it may go there itself */
    CHANNEL_MOUNTED, /* hooks of the runtime may run */
    CHANNEL_HOOKED,  /* they have */
    CHANNEL_ENTERED, /* the tree is '/' */
    CHANNEL_LOCKED,  /* descriptor: the mount namespace to go to */
    CHANNEL_READY, /* struct degrade; descriptor: the terminal's master where the runtime asked for it */
    CHANNEL_START, /* of `run`: execute the program */
};

#define CHANNEL_MAX_BYTES 8192
#define CHANNEL_MAX_FDS   128

int must_check channel_create(int out_sockets[2], struct error *err);
int must_check channel_send(int socket, enum channel_type type, const void *data, size_t size,
                            const int *fds, size_t fd_count, struct error *err);
/* Tells the error to the other side; there is nobody to tell if that fails. */
void channel_send_error(int socket, const struct error *error);

struct channel_message {
    size_t size, fd_count;
    uint8_t data[CHANNEL_MAX_BYTES];
    int fds[CHANNEL_MAX_FDS]; /* the receiver's */
};

/* Waits for that message. Errors: what the other side told, or -EPIPE "... ended" with 'who' if it is gone. */
int must_check channel_expect(int socket, enum channel_type type,
                              struct channel_message *out_message, const char *who,
                              struct error *err);
/* Waits until the other side has closed its end, which exec does: 0, or the error that it told before. */
int must_check channel_expect_end(int socket, struct error *err);

#endif
