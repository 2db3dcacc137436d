#include "manager/transfer/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"

#define AREA       "transfers"
#define ACCEPT_MS  120000
#define PATIENCE_S 3600 /* a client that takes or gives nothing for so long is gone */

/* The folder, and the address of a socket in it, however long its path is. */
static int find_socket(const struct place *place, const char *id, bool makes, int *out_folder,
                       struct sockaddr_un *out_address, struct error *err)
{
    char path[PATH_MAX];
    place_run_path(place, AREA, NULL, NULL, path);
    int rc = makes ? file_make_folders(path, 0700, 0755, err) : 0;
    if (rc < 0) {
        return rc;
    }
    int folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        return error_set_errno(err, errno, "folder %s", path);
    }
    *out_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(out_address->sun_path, sizeof(out_address->sun_path), "/proc/self/fd/%d/%.40s",
                   folder, id);
    *out_folder = folder;
    return 0;
}

static int wait_for_client(struct job *job, int listener, int *out_fd, struct error *err)
{
    int64_t end_ms = clock_monotonic_ms() + ACCEPT_MS;
    for (;;) {
        struct pollfd polled = {.fd = listener, .events = POLLIN};
        if (job_is_cancelled(job)) {
            return error_set(err, ECANCELED, "it was cancelled");
        }
        if (clock_monotonic_ms() > end_ms) {
            return error_set(err, ETIMEDOUT, "no client came for the stream of operation %s",
                             job->id);
        }
        if (poll(&polled, 1, 1000) > 0) {
            *out_fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            return *out_fd < 0 ? error_set_errno(err, errno, "the client's stream") : 0;
        }
    }
}

int stream_open(struct job *job, struct transfer_stream **out_stream, struct error *err)
{
    struct sockaddr_un address;
    AUTO_CLOSE int folder = -1;
    struct transfer_stream *stream = calloc(1, sizeof(*stream));
    if (stream == NULL) {
        return error_set_errno(err, ENOMEM, "a stream");
    }
    stream->job = job;
    stream->fd = -1;
    int rc = find_socket(&job->place, job->id, true, &folder, &address, err);
    AUTO_CLOSE int listener = rc < 0 ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (rc == 0) {
        (void)unlinkat(folder, job->id, 0); /* of a worker that died */
        if (listener < 0 ||
            bind(listener, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(listener, 1) < 0) {
            rc = error_set_errno(err, errno, "the stream of operation %s", job->id);
        }
    }
    if (rc == 0) {
        job_progress(job, "waiting for the client", 0, 0);
        rc = wait_for_client(job, listener, &stream->fd, err);
        (void)unlinkat(folder, job->id, 0); /* for one client only */
    }
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    if (rc == 0 &&
        (setsockopt(stream->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
         setsockopt(stream->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)) {
        rc = error_set_errno(err, errno, "the client's stream");
    }
    if (rc < 0) {
        stream_close(stream);
        return rc;
    }
    *out_stream = stream;
    return 0;
}

void stream_close(struct transfer_stream *stream)
{
    if (stream != NULL && stream->fd >= 0) {
        close(stream->fd);
    }
    free(stream);
}

/* Until there is something to do, or it was cancelled. */
static int wait_for(struct transfer_stream *stream, short events, struct error *err)
{
    for (;;) {
        struct pollfd polled = {.fd = stream->fd, .events = events};
        if (job_is_cancelled(stream->job)) {
            return error_set(err, ECANCELED, "it was cancelled");
        }
        if (poll(&polled, 1, 1000) > 0) {
            return 0;
        }
    }
}

static int gone(struct error *err)
{
    return error_set(err, EPIPE, "the client is gone");
}

static int send_all(struct transfer_stream *stream, struct error *err)
{
    int rc = stream->used > 0 ? wait_for(stream, POLLOUT, err) : 0;
    if (rc == 0 && stream->used > 0) {
        rc = session_send(stream->fd, SESSION_STDOUT, stream->data, stream->used, err);
        rc = rc == -EPIPE || rc == -ECONNRESET ? gone(err) : rc;
    }
    stream->used = 0;
    return rc;
}

int stream_write(void *ctx, const void *data, size_t size, struct error *err)
{
    struct transfer_stream *stream = ctx;
    int rc = 0;
    stream->moved += size;
    for (size_t done = 0; rc == 0 && done < size;) {
        size_t part = MIN(size - done, sizeof(stream->data) - stream->used);
        memcpy(stream->data + stream->used, (const uint8_t *)data + done, part);
        stream->used += part;
        done += part;
        if (stream->used == sizeof(stream->data)) {
            rc = send_all(stream, err);
        }
    }
    return rc;
}

/* One frame of the client's. */
static int receive(struct transfer_stream *stream, struct error *err)
{
    enum session_frame type;
    int rc = wait_for(stream, POLLIN, err);
    stream->at = stream->used = 0;
    rc = rc < 0 ? rc : session_receive(stream->fd, &type, stream->data, &stream->used, err);
    if (rc < 0) {
        return rc == -ENODATA ? gone(err) : rc;
    }
    if (type == SESSION_CONTROL) {
        json_t *control = json_loadb((const char *)stream->data, stream->used, 0, NULL);
        stream->is_over = json_is_true(json_object_get(control, "eof"));
        json_decref(control);
    }
    if (type != SESSION_STDIN) {
        stream->used = 0;
    }
    return 0;
}

int stream_read(void *ctx, void *data, size_t size, size_t *out_size, struct error *err)
{
    struct transfer_stream *stream = ctx;
    int rc = 0;
    while (rc == 0 && stream->at == stream->used && !stream->is_over) {
        rc = receive(stream, err);
    }
    *out_size = rc == 0 ? MIN(size, stream->used - stream->at) : 0;
    memcpy(data, stream->data + stream->at, *out_size);
    stream->at += *out_size;
    stream->moved += *out_size;
    return rc;
}

int stream_finish(struct transfer_stream *stream, struct error *err)
{
    int rc = 0;
    if (stream->at > 0 || stream->is_over) { /* an import: the client waits for the answer */
        uint8_t rest;
        size_t size;
        rc = stream_read(stream, &rest, 1, &size, err);
        rc = rc == 0 && size > 0 ? error_set(err, EBADMSG, "something is behind the archive") : rc;
    } else {
        rc = send_all(stream, err);
    }
    return rc < 0 ? rc : session_send_control(stream->fd, json_pack("{s:i}", "exit", 0), err);
}

int stream_connect(const struct place *place, const char *id, int *out_fd, struct error *err)
{
    struct sockaddr_un address;
    AUTO_CLOSE int folder = -1;
    int rc = find_socket(place, id, false, &folder, &address, err);
    AUTO_CLOSE int fd =
        rc < 0 ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (rc < 0 || fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set(err, EBUSY, "operation %s: nobody waits at its stream", id);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}
