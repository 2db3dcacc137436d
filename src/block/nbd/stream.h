/* The bytes of one connection, plain or through TLS. What is to be sent is queued and goes out as the peer takes it. */
#ifndef BLOCK_NBD_STREAM_H
#define BLOCK_NBD_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/host/event_loop.h"
#include "block/nbd/session.h"
#include "block/nbd_server.h"

#define NBD_STREAM_BUFFER (64u << 10)
#define NBD_MESSAGE_HEAD  96u

/* Something on its way out. */
struct nbd_message {
    struct nbd_message *next;
    struct iovec *iov;
    int iov_count;
    /* It is sent, or never will be. */
    void (*done)(struct nbd_message *message);
    /* Room for what most messages consist of: a head, and data that follow it. */
    struct iovec own_iov[2];
    uint8_t head[NBD_MESSAGE_HEAD];
};

struct nbd_stream {
    int fd;
    struct event_source *source;
    struct nbd_tls_session *tls; /* all goes through it; NULL: plain */
    /* Something has changed: bytes may be there, everything is sent, or the stream is dead. May free the stream. */
    void (*woken)(void *ctx);
    void *ctx;
    bool is_dead;    /* nothing goes in or out any more */
    bool is_blocked; /* the peer takes no more for the moment */
    bool is_pushing;
    struct nbd_message *first, *last;
    size_t sent;     /* of 'first' */
    uint8_t *buffer; /* what was read ahead lies in [start, end) */
    size_t start, end;
};

/* Takes 'fd', also on failure. */
int must_check nbd_stream_init(struct nbd_stream *stream, struct event_loop *loop, int fd,
                               void (*woken)(void *ctx), void *ctx, struct error *err);
void nbd_stream_fini(struct nbd_stream *stream);

/* At least 1 byte, at most 'size'. 0: the peer has closed; -EAGAIN: nothing is there yet, and woken() will be called; another
 * -errno: broken. */
ssize_t nbd_stream_receive(struct nbd_stream *stream, void *out_data, size_t size);
static inline size_t nbd_stream_buffered(const struct nbd_stream *stream)
{
    return stream->end - stream->start;
}

/* Its own iov: 'head_size' bytes of the head, and data. */
void nbd_message_set(struct nbd_message *message, size_t head_size, const void *data, size_t size);
/* Queues a message: it goes out with the next push. On a dead stream it is done at once. */
void nbd_stream_queue(struct nbd_stream *stream, struct nbd_message *message);
/* Sends what the peer takes; the rest follows by itself. */
void nbd_stream_push(struct nbd_stream *stream);
static inline bool nbd_stream_is_sent(const struct nbd_stream *stream)
{
    return stream->first == NULL;
}
/* Cuts it off. Messages are done with; woken() is not called. */
void nbd_stream_kill(struct nbd_stream *stream);

#endif
