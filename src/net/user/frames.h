/* The helper's end of the frame socket: 32-bit big-endian length, then an Ethernet frame. */
#ifndef NET_USER_FRAMES_H
#define NET_USER_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define FRAMES_MAX_SIZE 65550
/* Frames that wait for the VM: from here on nothing more is asked from the host's sockets ... */
#define FRAMES_OUT_HIGH (256 * 1024)
/* ... and what comes nevertheless is lost when the queue is full. */
#define FRAMES_OUT_SIZE (2 * 1024 * 1024)
#define FRAMES_IN_SIZE  (256 * 1024)

struct frames {
    int fd; /* borrowed */
    size_t in_start, in_end;
    size_t out_start, out_end;
    uint8_t in[FRAMES_IN_SIZE];
    uint8_t out[FRAMES_OUT_SIZE];
};

void frames_init(struct frames *frames, int fd);

/* Sends or queues one frame; false: there is no room, and it is lost. Errors show in frames_flush or frames_receive. */
bool frames_send(struct frames *frames, const void *frame, size_t size);
/* Sends what was queued, as far as the socket takes it. */
int must_check frames_flush(struct frames *frames, struct error *err);
bool frames_has_queued(const struct frames *frames);
bool frames_is_congested(const struct frames *frames);

/* Receives once. 1: some bytes; 0: the VM closed the socket; -EAGAIN; another -errno. */
int must_check frames_receive(struct frames *frames, struct error *err);
/* The next whole frame, borrowed until frames_receive. 1; 0: none; -EPROTO: it announced too large a one. */
int must_check frames_next(struct frames *frames, const uint8_t **out_frame, size_t *out_size,
                           struct error *err);

#endif
