#include "share/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/core/bits.h"
#include "base/host/file.h"

#define IN_SIZE (sizeof(struct fs_frame) + FS_MAX_MESSAGE)

struct connection {
    struct share *share;
    int fd;
    size_t start, end; /* of what is there */
    uint8_t in[IN_SIZE];
    uint8_t out[IN_SIZE];
};

static int send_all(int fd, const void *data, size_t size)
{
    const uint8_t *from = data;
    while (size > 0) {
        ssize_t sent = send(fd, from, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            return -errno;
        }
        size_t done = sent > 0 ? (size_t)sent : 0;
        from += done;
        size -= done;
    }
    return 0;
}

/* Has at least 'size' bytes there. 1; 0: the VM is gone; -errno. */
static int want(struct connection *connection, size_t size)
{
    while (connection->end - connection->start < size) {
        if (connection->start > 0) {
            memmove(connection->in, connection->in + connection->start,
                    connection->end - connection->start);
            connection->end -= connection->start;
            connection->start = 0;
        }
        ssize_t got =
            recv(connection->fd, connection->in + connection->end, IN_SIZE - connection->end, 0);
        if (got < 0 && errno != EINTR) {
            return errno == ECONNRESET ? 0 : -errno;
        }
        if (got == 0) {
            return 0;
        }
        connection->end += got > 0 ? (size_t)got : 0;
    }
    return 1;
}

static int serve_request(struct connection *connection, const struct fs_frame *frame)
{
    int rc = want(connection, frame->size);
    if (rc <= 0) {
        return rc;
    }
    uint8_t *reply = connection->out + sizeof(*frame);
    size_t room = MIN(frame->room, FS_MAX_MESSAGE);
    size_t size = share_serve(connection->share, connection->in + connection->start, frame->size,
                              reply, room);
    connection->start += frame->size;
    if (size == 0) {
        return 1;
    }
    const struct fs_frame head = {.size = (uint32_t)size, .kind = FS_REQUEST, .tag = frame->tag};
    memcpy(connection->out, &head, sizeof(head)); /* one piece with the reply behind it */
    rc = send_all(connection->fd, connection->out, sizeof(head) + size);
    return rc < 0 ? rc : 1;
}

static int save(struct connection *connection)
{
    size_t size = 0;
    AUTO_FREE uint8_t *state = share_save(connection->share, &size);
    if (state == NULL) {
        return -ENOMEM;
    }
    const struct fs_frame head = {.size = (uint32_t)size, .kind = FS_SAVE};
    int rc = send_all(connection->fd, &head, sizeof(head));
    if (rc == 0) {
        rc = send_all(connection->fd, state, size);
    }
    return rc < 0 ? rc : 1;
}

static int restore(struct connection *connection, size_t size)
{
    AUTO_FREE uint8_t *state = malloc(size + 1);
    if (state == NULL) {
        return -ENOMEM;
    }
    for (size_t done = 0; done < size;) {
        int rc = want(connection, 1);
        if (rc <= 0) {
            return rc;
        }
        size_t part = MIN(size - done, connection->end - connection->start);
        memcpy(state + done, connection->in + connection->start, part);
        connection->start += part;
        done += part;
    }
    int rc = share_restore(connection->share, state, size);
    const struct fs_frame head = {.kind = FS_RESTORE, .tag = (uint32_t)-rc};
    rc = send_all(connection->fd, &head, sizeof(head));
    return rc < 0 ? rc : 1;
}

static int serve_frame(struct connection *connection)
{
    struct fs_frame frame;
    int rc = want(connection, sizeof(frame));
    if (rc <= 0) {
        return rc;
    }
    memcpy(&frame, connection->in + connection->start, sizeof(frame));
    connection->start += sizeof(frame);
    switch (frame.kind) {
    case FS_REQUEST:
        return frame.size <= FS_MAX_MESSAGE ? serve_request(connection, &frame) : -EBADMSG;
    case FS_FORGET_ALL:
        share_forget_all(connection->share);
        return frame.size == 0 ? 1 : -EBADMSG;
    case FS_SAVE:
        return frame.size == 0 ? save(connection) : -EBADMSG;
    case FS_RESTORE:
        return frame.size <= FS_MAX_STATE ? restore(connection, frame.size) : -EBADMSG;
    default:
        return -EBADMSG;
    }
}

int connection_serve(struct share *share, int fd, struct error *err)
{
    struct connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL) {
        return error_set_errno(err, ENOMEM, "serving the VM");
    }
    connection->share = share;
    connection->fd = fd;
    int rc;
    do {
        rc = serve_frame(connection);
    } while (rc > 0);
    free(connection);
    return rc < 0 ? error_set_errno(err, -rc, "serving the VM") : 0;
}
