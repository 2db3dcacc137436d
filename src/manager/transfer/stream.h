/* The bytes of an export or import, between its worker and a client. The worker listens at RUN/transfers/ID, ID being the
 * operation's; hulld connects what asks for /v1/operations/ID/stream with it, and only passes frames (session/frames.h).
 *
 *   export: STDOUT frames, then CONTROL {"exit":0}
 *   import: STDIN frames, then CONTROL {"eof":true}; the worker answers {"exit":0} when it has them all
 *
 * A client that goes away ends the operation, which undoes what it did.
 *
 * Threads: none. */
#ifndef MANAGER_TRANSFER_STREAM_H
#define MANAGER_TRANSFER_STREAM_H

#include "manager/operation/job.h"
#include "session/frames.h"

struct transfer_stream {
    struct job *job;
    int fd;
    size_t used;  /* export: of 'data', not sent yet */
    size_t at;    /* import: of 'data', taken already */
    bool is_over; /* import: the client has sent all */
    uint64_t moved;
    uint8_t data[SESSION_MAX_PAYLOAD];
};

/* Waits for the client. -ETIMEDOUT: none came; -ECANCELED. */
int must_check stream_open(struct job *job, struct transfer_stream **out_stream, struct error *err);
/* NULL is fine. */
void stream_close(struct transfer_stream *stream);
/* bundle_write_fn and bundle_read_fn: 'ctx' is the stream. */
int stream_write(void *ctx, const void *data, size_t size, struct error *err);
int stream_read(void *ctx, void *data, size_t size, size_t *out_size, struct error *err);
/* All was sent, or all was received: tells the client. */
int must_check stream_finish(struct transfer_stream *stream, struct error *err);

/* In hulld: a connection to the worker's end. -EBUSY: it does not listen (yet), or another client has it. */
int must_check stream_connect(const struct place *place, const char *id, int *out_fd,
                              struct error *err);

#endif
