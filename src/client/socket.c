/* WebSockets to hulld. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "client/connection.h"
#include "client/websocket.h"

#define MAX_INPUT  (WEBSOCKET_MAX_MESSAGE + WEBSOCKET_MAX_HEAD)
#define MAX_OUTPUT (128u << 10)
#define READ_SIZE  65536
#define PONG_ROOM  512 /* at the end of 'output': pongs are sent whenever they are due */

struct client_socket {
    int fd;
    /* What came: bytes from 'taken' to 'used' are new; the message that was returned last lies before 'taken'. */
    uint8_t *input;
    size_t taken, used, capacity;
    /* A message in pieces. */
    uint8_t *whole;
    size_t whole_size;
    bool is_in_pieces, is_text;
    /* What goes: bytes from 'sent' to 'kept'. */
    uint8_t output[MAX_OUTPUT];
    size_t sent, kept;
};

static int handshake(struct connection *connection, const char *path, struct error *err)
{
    uint8_t random[16];
    char key[WEBSOCKET_KEY_SIZE], accept[WEBSOCKET_ACCEPT_SIZE], headers[256];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        return error_set_errno(err, errno, "random numbers");
    }
    websocket_make_key(random, key);
    websocket_make_accept(key, accept);
    (void)snprintf(headers, sizeof(headers),
                   "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   "Sec-WebSocket-Key: %s\r\n",
                   key);
    struct http_head head;
    int rc = connection_ask(connection, "GET", path, headers, NULL, &head, err);
    if (rc == 0 && head.status != 101) {
        rc = connection_read_error(connection, &head, err);
    } else if (rc == 0 && (!head.is_websocket || strcmp(head.accept, accept) != 0)) {
        rc = error_set(err, EPROTO, "hulld's answer: it is no WebSocket");
    }
    return rc;
}

int connection_make_socket(const struct connection *connection, struct client_socket **out_socket,
                           struct error *err)
{
    int rc = file_set_nonblocking(connection->fd, err);
    struct client_socket *made = rc == 0 ? calloc(1, sizeof(*made)) : NULL;
    if (made != NULL) {
        made->input = malloc(sizeof(connection->buffer));
    }
    if (made == NULL || made->input == NULL) {
        free(made);
        return rc < 0 ? rc : error_set(err, ENOMEM, "a connection to hulld");
    }
    made->fd = connection->fd;
    made->capacity = sizeof(connection->buffer);
    made->used = connection->used; /* frames that came behind the head */
    memcpy(made->input, connection->buffer, connection->used);
    *out_socket = made;
    return 0;
}

int client_socket_open(const struct client *client, const char *path,
                       struct client_socket **out_socket, struct error *err)
{
    struct connection connection;
    if (path == NULL) {
        return error_set(err, ENOMEM, "a request to hulld");
    }
    int rc = connection_open(client, &connection, err);
    if (rc < 0) {
        return rc;
    }
    rc = handshake(&connection, path, err);
    rc = rc < 0 ? rc : connection_make_socket(&connection, out_socket, err);
    if (rc < 0) {
        connection_close(&connection);
    }
    return rc;
}

void client_socket_close(struct client_socket *socket)
{
    if (socket != NULL) {
        (void)close(socket->fd);
        free(socket->input);
        free(socket->whole);
        free(socket);
    }
}

int client_socket_fd(const struct client_socket *socket)
{
    return socket->fd;
}

bool client_socket_is_sending(const struct client_socket *socket)
{
    return socket->sent < socket->kept;
}

int client_socket_flush(struct client_socket *socket, struct error *err)
{
    while (socket->sent < socket->kept) {
        ssize_t sent = send(socket->fd, socket->output + socket->sent, socket->kept - socket->sent,
                            MSG_NOSIGNAL);
        if (sent >= 0) {
            socket->sent += (size_t)sent;
        } else if (errno == EAGAIN) {
            return 0;
        } else if (errno == EPIPE || errno == ECONNRESET) {
            socket->sent = socket->kept; /* what it said before is still to be read */
        } else if (errno != EINTR) {
            return error_set_errno(err, errno, "sending to hulld");
        }
    }
    socket->sent = socket->kept = 0;
    return 0;
}

/* A frame behind what is kept, with 'head_size' bytes of 'head' before the data. */
static int keep(struct client_socket *socket, enum websocket_opcode opcode, const uint8_t *head,
                size_t head_size, const void *data, size_t size, size_t room, struct error *err)
{
    uint8_t mask[4];
    if (socket->kept + WEBSOCKET_MAX_HEAD + head_size + size > room) {
        return error_set(err, EMSGSIZE, "hulld's connection: too much at once");
    }
    if (getrandom(mask, sizeof(mask), 0) != (ssize_t)sizeof(mask)) {
        return error_set_errno(err, errno, "random numbers");
    }
    uint8_t *at = socket->output + socket->kept;
    size_t used = websocket_make_head(opcode, head_size + size, mask, at);
    if (head_size > 0) {
        memcpy(at + used, head, head_size);
    }
    if (size > 0) {
        memcpy(at + used + head_size, data, size);
    }
    websocket_mask(at + used, head_size + size, mask);
    socket->kept += used + head_size + size;
    return client_socket_flush(socket, err);
}

int client_socket_send(struct client_socket *socket, uint8_t type, const void *data, size_t size,
                       struct error *err)
{
    return keep(socket, WEBSOCKET_BINARY, &type, 1, data, size, MAX_OUTPUT - PONG_ROOM, err);
}

/* Makes room and reads; 'needed' is how long the frame at the front is, as far as that is known. */
static int read_more(struct client_socket *socket, size_t needed, struct error *err)
{
    if (socket->taken > 0) {
        socket->used -= socket->taken;
        memmove(socket->input, socket->input + socket->taken, socket->used);
        socket->taken = 0;
    }
    size_t capacity = MAX(needed, socket->used + 1);
    if (capacity > socket->capacity) {
        capacity = MIN(capacity + READ_SIZE, (size_t)MAX_INPUT + READ_SIZE);
        uint8_t *larger = realloc(socket->input, capacity);
        if (larger == NULL) {
            return error_set(err, ENOMEM, "hulld's connection");
        }
        socket->input = larger;
        socket->capacity = capacity;
    }
    ssize_t got;
    do {
        got = recv(socket->fd, socket->input + socket->used, socket->capacity - socket->used, 0);
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
        socket->used += (size_t)got;
        return 0;
    }
    if (got < 0 && errno == EAGAIN) {
        return -EAGAIN;
    }
    return error_set(err, ECONNRESET, "hulld has ended the connection");
}

static int add_piece(struct client_socket *socket, const uint8_t *data, size_t size,
                     struct error *err)
{
    if (size > WEBSOCKET_MAX_MESSAGE - socket->whole_size) {
        return error_set(err, EPROTO, "hulld's connection: a message of more than %u bytes",
                         WEBSOCKET_MAX_MESSAGE);
    }
    uint8_t *larger = realloc(socket->whole, socket->whole_size + size + 1);
    if (larger == NULL) {
        return error_set(err, ENOMEM, "hulld's connection");
    }
    memcpy(larger + socket->whole_size, data, size);
    socket->whole = larger;
    socket->whole_size += size;
    return 0;
}

/* A whole frame. 1: it completes a message, which is told. */
static int take_frame(struct client_socket *socket, const struct websocket_head *head,
                      const uint8_t *payload, bool *out_is_text, const uint8_t **out_data,
                      size_t *out_size, struct error *err)
{
    switch (head->opcode) {
    case WEBSOCKET_CLOSE:
        return error_set(err, ENODATA, "hulld has ended the connection");
    case WEBSOCKET_PING:
        return socket->kept + PONG_ROOM > MAX_OUTPUT
                   ? 0 /* hulld is not reading: it cannot be waiting for this */
                   : keep(socket, WEBSOCKET_PONG, NULL, 0, payload, head->payload_size, MAX_OUTPUT,
                          err);
    case WEBSOCKET_PONG:
        return 0;
    case WEBSOCKET_TEXT:
    case WEBSOCKET_BINARY:
    case WEBSOCKET_MORE:
        break;
    }
    bool is_first = head->opcode != WEBSOCKET_MORE;
    if (is_first == socket->is_in_pieces) {
        return error_set(err, EPROTO, "hulld's connection: pieces of a message out of order");
    }
    if (is_first) {
        socket->is_text = head->opcode == WEBSOCKET_TEXT;
        socket->whole_size = 0;
    }
    socket->is_in_pieces = !head->is_final;
    if (is_first && head->is_final) {
        *out_data = payload;
        *out_size = head->payload_size;
    } else {
        int rc = add_piece(socket, payload, head->payload_size, err);
        if (rc < 0 || !head->is_final) {
            return rc;
        }
        *out_data = socket->whole;
        *out_size = socket->whole_size;
    }
    *out_is_text = socket->is_text;
    return 1;
}

int client_socket_receive(struct client_socket *socket, bool *out_is_text, const uint8_t **out_data,
                          size_t *out_size, struct error *err)
{
    for (;;) {
        struct websocket_head head = {0};
        size_t there = socket->used - socket->taken;
        int rc = websocket_parse_head(socket->input + socket->taken, there, &head, err);
        size_t needed = head.head_size + head.payload_size;
        if (rc == -EAGAIN || (rc == 0 && there < needed)) {
            rc = read_more(socket, needed, err);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        if (rc == 0) {
            const uint8_t *payload = socket->input + socket->taken + head.head_size;
            socket->taken += needed;
            rc = take_frame(socket, &head, payload, out_is_text, out_data, out_size, err);
        }
        if (rc != 0) {
            return rc < 0 ? rc : 0;
        }
    }
}
