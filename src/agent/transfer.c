#include "agent/transfer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "agent/pack.h"
#include "agent/unpack.h"
#include "base/host/file.h"
#include "session/frames.h"

struct transfer {
    int fd;
    uint8_t *data; /* SESSION_MAX_PAYLOAD: of a frame that came, or the one that will go */
    size_t start, size;
    bool has_ended;  /* the host sends no more */
    bool has_warned; /* something could not be packed */
};

static int receive_more(struct transfer *t, struct error *err)
{
    enum session_frame type;
    t->start = 0;
    int rc = session_stream_receive(t->fd, &type, t->data, &t->size, err);
    if (rc == 0 && type == SESSION_CONTROL) {
        json_t *control = json_loadb((const char *)t->data, t->size, 0, NULL);
        t->has_ended = json_is_true(json_object_get(control, "eof"));
        json_decref(control);
    }
    if (type != SESSION_STDIN) {
        t->size = 0;
    }
    return rc;
}

static int take(void *ctx, void *data, size_t size, struct error *err)
{
    struct transfer *t = ctx;
    for (size_t got = 0; got < size;) {
        if (t->size == 0) {
            int rc = t->has_ended ? error_set(err, ENODATA, "the tar stream ends too early")
                                  : receive_more(t, err);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        size_t part = MIN(size - got, t->size);
        memcpy((uint8_t *)data + got, t->data + t->start, part);
        t->start += part;
        t->size -= part;
        got += part;
    }
    return 0;
}

/* What follows the archive's end: programs fill the last record with zeros. */
static int take_rest(struct transfer *t, struct error *err)
{
    int rc = 0;
    while (rc == 0 && !t->has_ended) {
        rc = receive_more(t, err);
    }
    return rc;
}

static int end_session(struct transfer *t, struct error *err)
{
    return session_stream_send_control(t->fd, json_pack("{s:i}", "exit", t->has_warned ? 1 : 0),
                                       err);
}

static int begin(struct transfer *t, int fd, struct error *err)
{
    *t = (struct transfer){.fd = fd, .data = malloc(SESSION_MAX_PAYLOAD)};
    if (t->data == NULL) {
        return error_set_errno(err, ENOMEM, "session");
    }
    return session_stream_send_control(fd, json_pack("{s:b}", "started", true), err);
}

static int push(struct transfer *t, int root, struct error *err)
{
    struct tar_reader reader = {.read = take, .ctx = t};
    int rc = begin(t, t->fd, err);
    rc = rc < 0 ? rc : unpack(root, &reader, err);
    tar_reader_end(&reader);
    rc = rc < 0 ? rc : take_rest(t, err);
    return rc < 0 ? rc : end_session(t, err);
}

int transfer_push(int fd, const char *path, struct error *err)
{
    struct transfer t = {.fd = fd};
    int rc = file_make_folders(path, 0755, 0755, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        return error_set_errno(err, errno, "%.200s", path);
    }
    rc = push(&t, root, err);
    free(t.data);
    return rc;
}

static int send_waiting(struct transfer *t, struct error *err)
{
    int rc = t->size == 0 ? 0 : session_stream_send(t->fd, SESSION_STDOUT, t->data, t->size, err);
    t->size = 0;
    return rc;
}

static int give(void *ctx, const void *data, size_t size, struct error *err)
{
    struct transfer *t = ctx;
    while (size > 0) {
        size_t part = MIN(size, SESSION_MAX_PAYLOAD - t->size);
        memcpy(t->data + t->size, data, part);
        t->size += part;
        data = (const uint8_t *)data + part;
        size -= part;
        if (t->size == SESSION_MAX_PAYLOAD) {
            int rc = send_waiting(t, err);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static void warn(void *ctx, const char *path, const char *why)
{
    struct transfer *t = ctx;
    struct error line;
    error_ignore(error_set(&line, EIO, "%.160s: %s\n", path, why));
    t->has_warned = true;
    error_ignore(session_stream_send(t->fd, SESSION_STDERR, line.text, strlen(line.text), NULL));
}

int transfer_pull(int fd, const char *path, struct error *err)
{
    struct transfer t;
    int rc = begin(&t, fd, err);
    rc = rc < 0 ? rc : pack(path, give, warn, &t, err);
    rc = rc < 0 ? rc : send_waiting(&t, err);
    rc = rc < 0 ? rc : end_session(&t, err);
    free(t.data);
    return rc;
}
