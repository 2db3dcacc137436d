#include "session/frames.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/core/endian.h"
#include "base/host/file.h"

static int check_size(size_t size, struct error *err)
{
    return size <= SESSION_MAX_PAYLOAD
               ? 0
               : error_set(err, EMSGSIZE, "session: a frame of %zu bytes: at most %d", size,
                           SESSION_MAX_PAYLOAD);
}

int session_send(int fd, enum session_frame type, const void *data, size_t size, struct error *err)
{
    int rc = check_size(size, err);
    uint8_t head = (uint8_t)type;
    struct iovec parts[2] = {{&head, 1}, {(void *)data, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    while (rc == 0) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent >= 0) {
            return 0;
        }
        if (errno != EINTR) {
            return error_set(err, errno, "session: sending");
        }
    }
    return rc;
}

static int with_control(int fd, json_t *control,
                        int (*send)(int, enum session_frame, const void *, size_t, struct error *),
                        struct error *err)
{
    AUTO_FREE char *text = json_dumps(control, JSON_COMPACT);
    json_decref(control);
    if (text == NULL) {
        return error_set(err, ENOMEM, "session: writing a control frame");
    }
    return send(fd, SESSION_CONTROL, text, strlen(text), err);
}

int session_send_control(int fd, json_t *control, struct error *err)
{
    return with_control(fd, control, session_send, err);
}

static int check_type(uint8_t type, enum session_frame *out_type, struct error *err)
{
    if (type > SESSION_CONTROL) {
        return error_set(err, EPROTO, "session: a frame of kind %u: 0 to 3", type);
    }
    *out_type = (enum session_frame)type;
    return 0;
}

int session_receive(int fd, enum session_frame *out_type, void *data, size_t *out_size,
                    struct error *err)
{
    uint8_t head;
    struct iovec parts[2] = {{&head, 1}, {data, SESSION_MAX_PAYLOAD}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t got;
    do {
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno != ECONNRESET) {
        return error_set(err, errno, "session: receiving");
    }
    if (got <= 0) {
        return error_set(err, ENODATA, "session: the other side is gone");
    }
    if (message.msg_flags & MSG_TRUNC) {
        return error_set(err, EPROTO, "session: a frame of more than %d bytes",
                         SESSION_MAX_PAYLOAD);
    }
    *out_size = (size_t)got - 1;
    return check_type(head, out_type, err);
}

int session_stream_send(int fd, enum session_frame type, const void *data, size_t size,
                        struct error *err)
{
    int rc = check_size(size, err);
    uint8_t head[5];
    le32_put(head, (uint32_t)size + 1);
    head[4] = (uint8_t)type;
    if (rc == 0) {
        rc = file_write_all(fd, head, sizeof(head), "session", err);
    }
    return rc < 0 ? rc : file_write_all(fd, data, size, "session", err);
}

int session_stream_send_control(int fd, json_t *control, struct error *err)
{
    return with_control(fd, control, session_stream_send, err);
}

static int read_all(int fd, uint8_t *data, size_t size, struct error *err)
{
    while (size > 0) {
        ssize_t got = read(fd, data, size);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0 && errno != ECONNRESET) {
            return error_set(err, errno, "session: receiving");
        }
        if (got <= 0) {
            return error_set(err, ENODATA, "session: the other side is gone");
        }
        data += got;
        size -= (size_t)got;
    }
    return 0;
}

int session_stream_receive(int fd, enum session_frame *out_type, void *data, size_t *out_size,
                           struct error *err)
{
    uint8_t head[5];
    int rc = read_all(fd, head, sizeof(head), err);
    if (rc < 0) {
        return rc;
    }
    uint32_t size = le32_get(head);
    if (size == 0 || size - 1 > SESSION_MAX_PAYLOAD) {
        return error_set(err, EPROTO, "session: a frame of %u bytes: 1 to %d", size,
                         SESSION_MAX_PAYLOAD + 1);
    }
    *out_size = size - 1;
    rc = check_type(head[4], out_type, err);
    return rc < 0 ? rc : read_all(fd, data, size - 1, err);
}
