/* Messages between the runtime and the container's process. */
#include "container/runtime/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int channel_create(int out_sockets[2], struct error *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, out_sockets) < 0) {
        return error_set_errno(err, errno, "making a pair of sockets");
    }
    return 0;
}

int channel_send(int socket, enum channel_type type, const void *data, size_t size, const int *fds,
                 size_t fd_count, struct error *err)
{
    uint32_t head = type;
    struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)data, size}};
    union {
        char bytes[CMSG_SPACE(CHANNEL_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = size != 0 ? 2 : 1};
    if (fd_count > CHANNEL_MAX_FDS || size > CHANNEL_MAX_BYTES) {
        return error_set(err, E2BIG, "a message of %zu bytes and %zu descriptors", size, fd_count);
    }
    if (fd_count != 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
    }
    ssize_t sent;
    do {
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? error_set_errno(err, errno, "sending to the container's process") : 0;
}

void channel_send_error(int socket, const struct error *error)
{
    struct error ignored;
    error_ignore(channel_send(socket, CHANNEL_ERROR, error, sizeof(*error), NULL, 0, &ignored));
}

/* The message's type; -ENODATA at the end. */
static int receive(int socket, struct channel_message *out, struct error *err)
{
    uint32_t head;
    struct iovec iov[2] = {{&head, sizeof(head)}, {out->data, sizeof(out->data)}};
    union {
        char bytes[CMSG_SPACE(CHANNEL_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov,
                             .msg_iovlen = 2,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t got;
    do {
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno != ECONNRESET) {
        return error_set_errno(err, errno, "receiving from the container's process");
    }
    out->fd_count = 0;
    if (got <= 0) {
        return -ENODATA;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            out->fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(out->fds, CMSG_DATA(c), out->fd_count * sizeof(int));
        }
    }
    if ((size_t)got < sizeof(head) || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return error_set(err, EPROTO, "the container's process sent a broken message");
    }
    out->size = (size_t)got - sizeof(head);
    return (int)head;
}

static void close_all(struct channel_message *message)
{
    for (size_t i = 0; i < message->fd_count; i++) {
        close(message->fds[i]);
    }
    message->fd_count = 0;
}

/* The error that a message carries. */
static int told_error(const struct channel_message *message, struct error *err)
{
    struct error told;
    if (message->size != sizeof(told)) {
        return error_set(err, EPROTO, "the container's process sent a broken error");
    }
    memcpy(&told, message->data, sizeof(told));
    told.text[ERROR_TEXT_SIZE - 1] = '\0';
    return error_set(err, told.code > 0 ? told.code : EIO, "%s", told.text);
}

int channel_expect(int socket, enum channel_type type, struct channel_message *out_message,
                   const char *who, struct error *err)
{
    int got = receive(socket, out_message, err);
    if (got == (int)type) {
        return 0;
    }
    close_all(out_message);
    if (got == -ENODATA) {
        return error_set(err, EPIPE, "%s ended before it was done", who);
    }
    if (got == CHANNEL_ERROR) {
        return told_error(out_message, err);
    }
    return got < 0 ? got
                   : error_set(err, EPROTO, "%s sent message %d, not %d", who, got, (int)type);
}

int channel_expect_end(int socket, struct error *err)
{
    struct channel_message message;
    int got = receive(socket, &message, err);
    close_all(&message);
    if (got == -ENODATA) {
        return 0;
    }
    return got == CHANNEL_ERROR ? told_error(&message, err)
           : got < 0            ? got
                                : error_set(err, EPROTO, "message %d in place of the end", got);
}
