#include "cli/managed/transfer_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "session/frames.h"

#define OUT_SIZE 32768

int transfer_begin(struct transfer_stream *stream, struct client_socket *socket,
                   struct progress *progress, struct error *err)
{
    *stream = (struct transfer_stream){.socket = socket,
                                       .progress = progress,
                                       .out = malloc(OUT_SIZE),
                                       .status = -1,
                                       .wake_fd = -1};
    return stream->out != NULL ? 0 : error_set(err, ENOMEM, "a transfer");
}

void transfer_end(struct transfer_stream *stream)
{
    free(stream->out);
    stream->out = NULL;
}

static int take_control(struct transfer_stream *stream, const uint8_t *data, size_t size,
                        struct error *err)
{
    json_t *control = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *exit = json_object_get(control, "exit");
    const json_t *error = json_object_get(control, "error");
    int rc = 0;
    if (json_is_integer(exit)) {
        stream->status = (int)(json_integer_value(exit) & 0xff);
    } else if (json_object_get(control, "signalled") != NULL) {
        stream->status = 1;
    } else if (json_is_object(error)) {
        const char *message = json_string_value(json_object_get(error, "message"));
        rc = client_error(err, EIO, message != NULL ? message : "the session has failed");
    }
    json_decref(control);
    return rc;
}

/* What the other side says of files, in lines. */
static int tell(const uint8_t *data, size_t size, struct error *err)
{
    char text[SESSION_MAX_PAYLOAD];
    for (size_t i = 0; i < size; i++) {
        bool is_control = (data[i] < ' ' && data[i] != '\n') || data[i] == 0x7f;
        text[i] = (char)(is_control ? '?' : data[i]);
    }
    return file_write_all(STDERR_FILENO, text, size, "stderr", err);
}

/* One message, if there is one. -EAGAIN */
static int take_message(struct transfer_stream *stream, struct error *err)
{
    bool is_text;
    const uint8_t *data;
    size_t size;
    int rc = client_socket_receive(stream->socket, &is_text, &data, &size, err);
    if (rc < 0) {
        return rc;
    }
    if (is_text || size == 0 || size > SESSION_MAX_PAYLOAD + 1) {
        return error_set(err, EPROTO, "hulld's connection: a message that is no frame");
    }
    if (data[0] == SESSION_CONTROL) {
        return take_control(stream, data + 1, size - 1, err);
    }
    if (data[0] == SESSION_STDERR) {
        return tell(data + 1, size - 1, err);
    }
    if (data[0] == SESSION_STDOUT) {
        stream->data = data + 1;
        stream->size = size - 1;
    }
    return 0;
}

static int wait_for(struct transfer_stream *stream, struct error *err)
{
    bool is_sending = client_socket_is_sending(stream->socket);
    struct pollfd polled[] = {{.fd = client_socket_fd(stream->socket),
                               .events = (short)(POLLIN | (is_sending ? POLLOUT : 0))},
                              {.fd = stream->wake_fd, .events = POLLIN}};
    if (poll(polled, 2, -1) < 0 && errno != EINTR) {
        return error_set_errno(err, errno, "waiting");
    }
    if (polled[1].revents != 0) {
        return error_set(err, EINTR, "interrupted");
    }
    return polled[0].revents & POLLOUT ? client_socket_flush(stream->socket, err) : 0;
}

/* Until there is data, or the session has ended. */
static int receive(struct transfer_stream *stream, struct error *err)
{
    int rc = 0;
    while (rc == 0 && stream->size == 0 && stream->status < 0) {
        rc = take_message(stream, err);
        if (rc == -EAGAIN) {
            rc = wait_for(stream, err);
        }
    }
    return rc;
}

int transfer_take(void *ctx, void *data, size_t size, struct error *err)
{
    struct transfer_stream *stream = ctx;
    for (size_t got = 0; got < size;) {
        int rc = receive(stream, err);
        if (rc < 0) {
            return rc;
        }
        if (stream->size == 0) {
            return stream->status > 0
                       ? error_set(err, EIO, "cannot be read there (status %d)", stream->status)
                       : error_set(err, ENODATA, "the stream has ended in its middle");
        }
        size_t part = MIN(size - got, stream->size);
        memcpy((uint8_t *)data + got, stream->data, part);
        stream->data += part;
        stream->size -= part;
        stream->moved += part;
        got += part;
    }
    progress_update(stream->progress, stream->moved, stream->total);
    return 0;
}

int transfer_take_some(struct transfer_stream *stream, void *data, size_t size, size_t *out_size,
                       struct error *err)
{
    int rc = receive(stream, err);
    *out_size = rc == 0 ? MIN(size, stream->size) : 0;
    if (rc == 0 && *out_size == 0 && stream->status != 0) {
        return error_set(err, EIO, "the other side has ended with status %d", stream->status);
    }
    if (*out_size > 0) {
        memcpy(data, stream->data, *out_size);
    }
    stream->data += *out_size;
    stream->size -= *out_size;
    stream->moved += *out_size;
    progress_update(stream->progress, stream->moved, stream->total);
    return rc;
}

/* Also hears what the other side says meanwhile. */
static int send_waiting(struct transfer_stream *stream, struct error *err)
{
    int rc = 0;
    while (rc == 0 && client_socket_is_sending(stream->socket)) {
        rc = wait_for(stream, err);
        while (rc == 0 && stream->status < 0) {
            rc = take_message(stream, err);
            stream->size = 0; /* nothing is expected */
        }
        rc = rc == -EAGAIN ? 0 : rc;
        if (rc == 0 && stream->status >= 0) {
            return error_set(err, EPIPE, "the other side has ended with status %d", stream->status);
        }
    }
    return rc;
}

static int send_out(struct transfer_stream *stream, struct error *err)
{
    int rc = send_waiting(stream, err);
    if (rc == 0 && stream->out_size > 0) {
        rc = client_socket_send(stream->socket, SESSION_STDIN, stream->out, stream->out_size, err);
        stream->moved += stream->out_size;
        stream->out_size = 0;
        progress_update(stream->progress, MIN(stream->moved, stream->total), stream->total);
    }
    return rc;
}

int transfer_give(void *ctx, const void *data, size_t size, struct error *err)
{
    struct transfer_stream *stream = ctx;
    while (size > 0) {
        size_t part = MIN(size, OUT_SIZE - stream->out_size);
        memcpy(stream->out + stream->out_size, data, part);
        stream->out_size += part;
        data = (const uint8_t *)data + part;
        size -= part;
        int rc = stream->out_size == OUT_SIZE ? send_out(stream, err) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int transfer_drain(struct transfer_stream *stream, struct error *err)
{
    int rc = 0;
    while (rc == 0 && stream->status < 0) {
        stream->size = 0;
        rc = receive(stream, err);
    }
    return rc < 0 ? rc : stream->status;
}

int transfer_finish(struct transfer_stream *stream, struct error *err)
{
    static const char end[] = "{\"eof\":true}";
    int rc = send_out(stream, err);
    rc = rc < 0 ? rc : send_waiting(stream, err);
    rc = rc < 0 ? rc
                : client_socket_send(stream->socket, SESSION_CONTROL, end, sizeof(end) - 1, err);
    return rc < 0 ? rc : transfer_drain(stream, err);
}
