#include "block/nbd/stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"

#define SEND_PARTS 64

static void ready(void *ctx, int fd, uint32_t events)
{
    struct nbd_stream *stream = ctx;
    if (stream->is_blocked && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
        stream->is_blocked = false;
    }
    stream->woken(stream->ctx);
}

int nbd_stream_init(struct nbd_stream *stream, struct event_loop *loop, int fd,
                    void (*woken)(void *ctx), void *ctx, struct error *err)
{
    *stream = (struct nbd_stream){.fd = fd, .woken = woken, .ctx = ctx};
    stream->buffer = malloc(NBD_STREAM_BUFFER);
    int rc = stream->buffer == NULL ? error_set_errno(err, ENOMEM, "serving a client")
                                    : file_set_nonblocking(fd, err);
    if (rc == 0) {
        /* Edges: each change wakes once, and nobody has to say what is waited for. */
        rc = event_loop_add_fd(loop, fd, EPOLLIN | EPOLLOUT | EPOLLET, ready, stream,
                               &stream->source, err);
    }
    if (rc < 0) {
        nbd_stream_fini(stream);
    }
    return rc;
}

void nbd_stream_fini(struct nbd_stream *stream)
{
    if (stream->tls != NULL) {
        stream->tls->ops->end(stream->tls);
        stream->tls = NULL;
    }
    nbd_stream_kill(stream);
    event_source_remove(stream->source);
    close(stream->fd);
    free(stream->buffer);
}

void nbd_stream_kill(struct nbd_stream *stream)
{
    if (stream->is_dead) {
        return;
    }
    stream->is_dead = true;
    (void)shutdown(stream->fd, SHUT_RDWR); /* the peer may have gone already */
    while (stream->first != NULL) {
        struct nbd_message *message = stream->first;
        stream->first = message->next;
        message->done(message);
    }
}

static ssize_t receive_plain(const struct nbd_stream *stream, struct iovec *iov, size_t count)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    for (;;) {
        /* Descriptors that a peer sends along are not asked for: the kernel closes them. */
        ssize_t size = recvmsg(stream->fd, &message, 0);
        if (size >= 0 || errno != EINTR) {
            return size >= 0 ? size : -errno;
        }
    }
}

ssize_t nbd_stream_receive(struct nbd_stream *stream, void *out_data, size_t size)
{
    if (stream->is_dead) {
        return -EPIPE;
    }
    size_t buffered = nbd_stream_buffered(stream);
    if (buffered > 0) {
        size = MIN(size, buffered);
        memcpy(out_data, stream->buffer + stream->start, size);
        stream->start += size;
        return (ssize_t)size;
    }
    stream->start = stream->end = 0;
    ssize_t got;
    if (stream->tls == NULL) {
        /* What comes after the wanted bytes goes to the buffer with the same call. */
        struct iovec iov[2] = {{out_data, size}, {stream->buffer, NBD_STREAM_BUFFER}};
        got = receive_plain(stream, iov, size < NBD_STREAM_BUFFER ? 2 : 1);
        if (got > (ssize_t)size) {
            stream->end = (size_t)got - size;
            got = (ssize_t)size;
        }
    } else if (size >= NBD_STREAM_BUFFER) {
        got = stream->tls->ops->receive(stream->tls, out_data, size);
    } else {
        got = stream->tls->ops->receive(stream->tls, stream->buffer, NBD_STREAM_BUFFER);
        if (got > 0) {
            stream->end = (size_t)got;
            return nbd_stream_receive(stream, out_data, size);
        }
    }
    return got;
}

void nbd_message_set(struct nbd_message *message, size_t head_size, const void *data, size_t size)
{
    message->own_iov[0] = (struct iovec){message->head, head_size};
    message->own_iov[1] = (struct iovec){(void *)data, size}; /* is only read */
    message->iov = message->own_iov;
    message->iov_count = size > 0 ? 2 : 1;
}

void nbd_stream_queue(struct nbd_stream *stream, struct nbd_message *message)
{
    if (stream->is_dead) {
        message->done(message);
        return;
    }
    message->next = NULL;
    if (stream->first != NULL) {
        stream->last->next = message;
    } else {
        stream->first = message;
        stream->sent = 0;
    }
    stream->last = message;
}

/* The messages' parts from 'sent' on. */
static int gather(const struct nbd_stream *stream, struct iovec *out_iov)
{
    int count = 0;
    size_t skip = stream->sent;
    for (const struct nbd_message *at = stream->first; at != NULL; at = at->next) {
        for (int i = 0; i < at->iov_count; i++) {
            if (skip >= at->iov[i].iov_len) {
                skip -= at->iov[i].iov_len;
                continue;
            }
            if (count == SEND_PARTS) {
                return count;
            }
            out_iov[count++] =
                (struct iovec){(uint8_t *)at->iov[i].iov_base + skip, at->iov[i].iov_len - skip};
            skip = 0;
        }
    }
    return count;
}

static size_t message_size(const struct nbd_message *message)
{
    size_t size = 0;
    for (int i = 0; i < message->iov_count; i++) {
        size += message->iov[i].iov_len;
    }
    return size;
}

static void drop_sent(struct nbd_stream *stream)
{
    while (stream->first != NULL && stream->sent >= message_size(stream->first)) {
        struct nbd_message *message = stream->first;
        stream->sent -= message_size(message);
        stream->first = message->next;
        message->done(message);
    }
}

static ssize_t send_parts(struct nbd_stream *stream, struct iovec *iov, int count)
{
    if (stream->tls != NULL) {
        return stream->tls->ops->send(stream->tls, iov, count);
    }
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    ssize_t size = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
    return size >= 0 ? size : -errno;
}

void nbd_stream_push(struct nbd_stream *stream)
{
    if (stream->is_pushing) {
        return; /* a message that is done with had this called */
    }
    stream->is_pushing = true;
    while (stream->first != NULL && !stream->is_blocked && !stream->is_dead) {
        struct iovec iov[SEND_PARTS];
        ssize_t size = send_parts(stream, iov, gather(stream, iov));
        if (size >= 0) {
            stream->sent += (size_t)size;
            drop_sent(stream);
        } else if (size == -EAGAIN) {
            stream->is_blocked = true;
        } else if (size != -EINTR) {
            nbd_stream_kill(stream);
        }
    }
    stream->is_pushing = false;
}
