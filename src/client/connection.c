#include "client/connection.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "client/remote.h"

static int connect_local(const struct client *client, int *out_fd, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, client->where, sizeof(address.sun_path)); /* client_init: it fits */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_set_errno(err, errno, "a socket");
    }
    int rc = connect(fd, (struct sockaddr *)&address, sizeof(address));
    if (rc < 0) {
        int code = errno == ENOENT ? ECONNREFUSED : errno;
        (void)close(fd);
        return error_set_errno(err, code, "hulld at %s", client->where);
    }
    *out_fd = fd;
    return 0;
}

int client_dial(const struct client *client, int *out_fd, struct error *err)
{
    struct remote remote;
    if (!client->is_remote) {
        return connect_local(client, out_fd, err);
    }
    int rc = remote_parse(client->where, &remote, err);
    return rc < 0 ? rc : remote_connect(&remote, out_fd, err);
}

int connection_open(const struct client *client, struct connection *out_connection,
                    struct error *err)
{
    out_connection->client = client;
    out_connection->used = 0;
    return client_dial(client, &out_connection->fd, err);
}

void connection_close(struct connection *connection)
{
    (void)close(connection->fd);
}

/* Until the connection can be read or written; the client's own descriptor is looked at, too. */
static int wait_for(const struct connection *connection, short events, struct error *err)
{
    const struct client *client = connection->client;
    int64_t deadline = clock_monotonic_ms() + client->timeout_ms;
    for (;;) {
        int64_t left = deadline - clock_monotonic_ms();
        struct pollfd polled[] = {{.fd = connection->fd, .events = events},
                                  {.fd = client->wake_fd, .events = POLLIN}};
        int ready = poll(polled, 2, client->timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);
        if (ready < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for hulld");
        }
        if (ready == 0) {
            return error_set(err, ETIMEDOUT, "hulld at %s: does not answer", client->where);
        }
        if (ready > 0 && polled[1].revents != 0) {
            int rc = client->wake(client->wake_ctx, err);
            if (rc < 0) {
                return rc;
            }
        }
        if (ready > 0 && polled[0].revents != 0) {
            return 0;
        }
    }
}

static int send_all(struct connection *connection, const char *data, size_t size, struct error *err)
{
    while (size > 0) {
        ssize_t sent = send(connection->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            int rc = wait_for(connection, POLLOUT, err);
            if (rc < 0) {
                return rc;
            }
        } else if (sent < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "sending to hulld");
        } else if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
    }
    return 0;
}

/* More bytes behind those in the buffer; -ENODATA: the connection has ended. */
static int receive_more(struct connection *connection, struct error *err)
{
    for (;;) {
        ssize_t got = recv(connection->fd, connection->buffer + connection->used,
                           sizeof(connection->buffer) - connection->used, MSG_DONTWAIT);
        if (got > 0) {
            connection->used += (size_t)got;
            return 0;
        }
        if (got == 0 || errno == ECONNRESET) {
            return error_set(err, ENODATA, "hulld at %s: has ended the connection",
                             connection->client->where);
        }
        if (errno != EAGAIN && errno != EINTR) {
            return error_set_errno(err, errno, "receiving from hulld");
        }
        int rc = errno == EAGAIN ? wait_for(connection, POLLIN, err) : 0;
        if (rc < 0) {
            return rc;
        }
    }
}

static void take(struct connection *connection, size_t size)
{
    connection->used -= size;
    memmove(connection->buffer, connection->buffer + size, connection->used);
}

int connection_ask(struct connection *connection, const char *method, const char *path,
                   const char *headers, const char *body, struct http_head *out_head,
                   struct error *err)
{
    char *request = NULL;
    int length =
        body != NULL
            ? asprintf(&request,
                       "%s %s HTTP/1.1\r\nHost: hulld\r\nUser-Agent: hull/" HULL_VERSION "\r\n%s"
                       "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       method, path, headers, strlen(body), body)
            : asprintf(&request,
                       "%s %s HTTP/1.1\r\nHost: hulld\r\nUser-Agent: hull/" HULL_VERSION
                       "\r\n%s\r\n",
                       method, path, headers);
    if (length < 0) {
        return error_set(err, ENOMEM, "a request to hulld");
    }
    int rc = send_all(connection, request, (size_t)length, err);
    free(request);
    size_t used = 0;
    while (rc == 0) {
        rc = http_parse_head(connection->buffer, connection->used, out_head, &used, err);
        if (rc == -EAGAIN) {
            rc = receive_more(connection, err);
        } else if (rc == 0) {
            take(connection, used);
            if (out_head->status >= 200 || out_head->status == 101) {
                return 0; /* else a "100 Continue": the answer follows */
            }
        }
    }
    return rc;
}

int connection_read_body(struct connection *connection, const struct http_head *head,
                         connection_part_fn fn, void *ctx, struct error *err)
{
    struct http_body body;
    http_body_begin(&body, head);
    int rc = 0;
    while (rc == 0 && body.state != HTTP_BODY_DONE) {
        size_t used, offset, part;
        rc =
            http_body_take(&body, connection->buffer, connection->used, &used, &offset, &part, err);
        if (rc == 0 && part > 0) {
            rc = fn(ctx, connection->buffer + offset, part, err);
        }
        if (rc == 0) {
            take(connection, used);
        } else if (rc == -EAGAIN) {
            rc = receive_more(connection, err);
            if (rc == -ENODATA) {
                return http_body_end(&body, err);
            }
        }
    }
    return rc;
}

struct text {
    char *data;
    size_t size, capacity;
};

static int add_part(void *ctx, const char *data, size_t size, struct error *err)
{
    struct text *text = ctx;
    if (text->size + size + 1 > text->capacity) {
        size_t capacity = (text->size + size + 1) * 2;
        char *larger = text->size + size <= CLIENT_MAX_BODY ? realloc(text->data, capacity) : NULL;
        if (larger == NULL) {
            return error_set(err, EPROTO, "hulld's answer: more than %u bytes", CLIENT_MAX_BODY);
        }
        text->data = larger;
        text->capacity = capacity;
    }
    memcpy(text->data + text->size, data, size);
    text->size += size;
    text->data[text->size] = '\0';
    return 0;
}

int connection_read_text(struct connection *connection, const struct http_head *head,
                         char **out_text, size_t *out_size, struct error *err)
{
    struct text text = {0};
    int rc = add_part(&text, "", 0, err);
    rc = rc < 0 ? rc : connection_read_body(connection, head, add_part, &text, err);
    if (rc < 0) {
        free(text.data);
        return rc;
    }
    *out_text = text.data;
    *out_size = text.size;
    return 0;
}

static int code_of(int status)
{
    static const struct {
        int status, code;
    } codes[] = {
        {400, EINVAL}, {401, EACCES},          {403, EACCES}, {404, ENOENT},
        {409, EEXIST}, {501, EPROTONOSUPPORT}, {507, ENOSPC},
    };
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].status == status) {
            return codes[i].code;
        }
    }
    return EIO;
}

int connection_read_error(struct connection *connection, const struct http_head *head,
                          struct error *err)
{
    AUTO_FREE char *text = NULL;
    size_t size;
    int rc = connection_read_text(connection, head, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_t *answer = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const char *message =
        json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    rc = message != NULL && message[0] != '\0'
             ? client_error(err, code_of(head->status), message)
             : error_set(err, code_of(head->status), "hulld: answers with status %d", head->status);
    json_decref(answer);
    return rc;
}
