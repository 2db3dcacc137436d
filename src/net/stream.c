/* Frames over a connected stream socket, each after its 32-bit big-endian length: how the helper hull-net-user, passt and QEMU's
 * stream netdev speak. The peer is not trusted: it can lose or make up frames, and nothing else. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "net/backend.h"

#define LENGTH_SIZE 4
#define MAX_MESSAGE (LENGTH_SIZE + NET_MAX_FRAME)
/* Several frames per system call; in any case more than one whole message. */
#define IN_SIZE   (256 * 1024)
#define MIN_FRAME 14 /* an Ethernet header; whatever is shorter is dropped */

struct stream {
    struct net net;
    /* What the socket did not take of the last frame: [out_start, out_end). */
    size_t out_start, out_end;
    /* Bytes received and not yet delivered: [in_start, in_end). */
    size_t in_start, in_end;
    uint8_t out[MAX_MESSAGE];
    uint8_t in[IN_SIZE];
};

static struct stream *stream_from_net(struct net *net)
{
    return container_of(net, struct stream, net);
}

/* The part of 'iov' after its first 'skip' bytes, copied together. */
static size_t gather(uint8_t *out, const struct iovec *iov, int iov_count, size_t skip)
{
    size_t done = 0;
    for (int i = 0; i < iov_count; i++) {
        size_t cut = MIN(skip, iov[i].iov_len);
        memcpy(out + done, (const uint8_t *)iov[i].iov_base + cut, iov[i].iov_len - cut);
        done += iov[i].iov_len - cut;
        skip -= cut;
    }
    return done;
}

static int stream_send(struct net *net, const struct iovec *iov, int iov_count, size_t size)
{
    struct stream *stream = stream_from_net(net);
    if (size > NET_MAX_FRAME) {
        return -EMSGSIZE;
    }
    if (stream->out_start < stream->out_end) {
        return -EAGAIN;
    }
    uint8_t length[LENGTH_SIZE];
    be32_put(length, (uint32_t)size);
    struct iovec parts[NET_MAX_BUFFERS + 1];
    parts[0] = (struct iovec){.iov_base = length, .iov_len = sizeof(length)};
    memcpy(&parts[1], iov, (size_t)iov_count * sizeof(*iov));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)iov_count + 1};
    ssize_t sent;
    do {
        sent = sendmsg(net->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        int code = errno;
        if (code == EAGAIN) {
            return -EAGAIN;
        }
        net_go_down(net, "sending a frame: %s", strerror(code));
        return -ENETDOWN;
    }
    if ((size_t)sent < LENGTH_SIZE + size) {
        stream->out_start = 0;
        stream->out_end = gather(stream->out, parts, iov_count + 1, (size_t)sent);
        net_await_writable(net);
    }
    return 0;
}

static bool stream_writable(struct net *net)
{
    struct stream *stream = stream_from_net(net);
    while (stream->out_start < stream->out_end) {
        ssize_t sent = send(net->fd, stream->out + stream->out_start,
                            stream->out_end - stream->out_start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            stream->out_start += (size_t)sent;
        } else if (errno == EAGAIN) {
            return false;
        } else if (errno != EINTR) {
            net_go_down(net, "sending a frame: %s", strerror(errno));
            return false;
        }
    }
    return true;
}

/* Gives whole frames to the card until they end or it has no room. */
static void deliver_frames(struct stream *stream)
{
    while (stream->in_end - stream->in_start >= LENGTH_SIZE) {
        const uint8_t *message = stream->in + stream->in_start;
        uint32_t size = be32_get(message);
        if (size > NET_MAX_FRAME) {
            net_go_down(&stream->net,
                        "the other side announced a frame of %u bytes, at most %u may be", size,
                        NET_MAX_FRAME);
            return;
        }
        if (stream->in_end - stream->in_start < LENGTH_SIZE + size) {
            return;
        }
        if (size >= MIN_FRAME && !net_deliver(&stream->net, message + LENGTH_SIZE, size)) {
            return;
        }
        stream->in_start += LENGTH_SIZE + size;
    }
}

static void stream_readable(struct net *net, bool is_resumed)
{
    struct stream *stream = stream_from_net(net);
    if (is_resumed) {
        deliver_frames(stream);
        return;
    }
    if (stream->in_start == stream->in_end) {
        stream->in_start = stream->in_end = 0;
    } else if (stream->in_start > IN_SIZE - MAX_MESSAGE) {
        stream->in_end -= stream->in_start;
        memmove(stream->in, stream->in + stream->in_start, stream->in_end);
        stream->in_start = 0;
    }
    ssize_t got =
        recv(net->fd, stream->in + stream->in_end, IN_SIZE - stream->in_end, MSG_DONTWAIT);
    if (got > 0) {
        stream->in_end += (size_t)got;
        deliver_frames(stream);
    } else if (got == 0) {
        net_go_down(net, "the other side closed the connection");
    } else if (errno != EAGAIN && errno != EINTR) {
        net_go_down(net, "receiving frames: %s", strerror(errno));
    }
}

static void stream_destroy(struct net *net)
{
    net_fini(net);
    free(stream_from_net(net));
}

static const struct net_ops stream_net_ops = {
    .send = stream_send,
    .readable = stream_readable,
    .writable = stream_writable,
    .destroy = stream_destroy,
};

int net_open_stream(int fd, const char *name, struct event_loop *loop, struct net **out_net,
                    struct error *err)
{
    int type = 0;
    socklen_t type_size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 || type != SOCK_STREAM) {
        close(fd);
        return error_set(err, EINVAL,
                         "network %s: descriptor %d: expected a connected stream socket", name, fd);
    }
    struct stream *stream = malloc(sizeof(*stream));
    if (stream == NULL) {
        close(fd);
        return error_set_errno(err, ENOMEM, "opening network %s", name);
    }
    stream->net = (struct net){0};
    stream->out_start = stream->out_end = 0;
    stream->in_start = stream->in_end = 0;
    int rc = net_init(&stream->net, &stream_net_ops, fd, name, loop, err);
    if (rc < 0) {
        free(stream);
        return rc;
    }
    *out_net = &stream->net;
    return 0;
}
