/* Rubbish as what hulld says: an HTTP answer, or WebSocket frames (by the first byte). The bytes come over a socket, so the connection's own code
 * is under test, too. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "client/connection.h"
#include "client/http.h"

#define MAX_SIZE 60000 /* fits into the socket, as nobody reads meanwhile */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run_answer(const uint8_t *data, size_t size)
{
    static struct connection connection;
    struct client client;
    struct http_head head;
    struct error err;
    int pair[2];
    invariant(client_init(&client, "/none", &err) == 0);
    invariant(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    invariant(size == 0 || write(pair[1], data, size) == (ssize_t)size);
    invariant(shutdown(pair[1], SHUT_WR) == 0);
    connection.client = &client;
    connection.fd = pair[0];
    connection.used = 0;
    char *text = NULL;
    size_t text_size = 0;
    int rc = connection_ask(&connection, "GET", "/", "", NULL, &head, &err);
    if (rc == 0 && head.status >= 300) {
        rc = connection_read_error(&connection, &head, &err);
        invariant(rc < 0 && strpbrk(err.text, "\r\n\033") == NULL);
    } else if (rc == 0) {
        rc = connection_read_text(&connection, &head, &text, &text_size, &err);
        invariant(rc < 0 || (text[text_size] == '\0' && text_size <= size));
    }
    invariant(rc == 0 || err.text[0] != '\0');
    if (rc == 0) {
        free(text);
    }
    connection_close(&connection);
    (void)close(pair[1]);
}

static void run_frames(const uint8_t *data, size_t size)
{
    static struct connection connection;
    struct client_socket *socket;
    struct error err;
    int pair[2], rc;
    invariant(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    size_t with_head =
        size < 16 ? size : 16; /* what came behind the head of the handshake's answer */
    connection.fd = pair[0];
    connection.used = with_head;
    if (size > 0) {
        memcpy(connection.buffer, data, with_head);
    }
    invariant(write(pair[1], data + with_head, size - with_head) == (ssize_t)(size - with_head));
    invariant(shutdown(pair[1], SHUT_WR) == 0);
    invariant(connection_make_socket(&connection, &socket, &err) == 0);
    do {
        bool is_text;
        const uint8_t *message;
        size_t message_size;
        rc = client_socket_receive(socket, &is_text, &message, &message_size, &err);
        invariant(rc < 0 || message_size <= size);
    } while (rc == 0);
    invariant(rc == -ECONNRESET || rc == -ENODATA || rc == -EPROTO || rc == -EMSGSIZE);
    client_socket_close(socket);
    (void)close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > MAX_SIZE) {
        return 0;
    }
    if (data[0] & 1) {
        run_frames(data + 1, size - 1);
    } else {
        run_answer(data + 1, size - 1);
    }
    return 0;
}
