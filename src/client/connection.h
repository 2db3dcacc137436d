/* One connection to hulld: a request, and its answer. For the client's own files. */
#ifndef CLIENT_CONNECTION_H
#define CLIENT_CONNECTION_H

#include <jansson.h>

#include "client/client.h"
#include "client/http.h"

struct connection {
    const struct client *client;
    int fd;
    size_t used; /* of 'buffer': not yet taken */
    char buffer[65536];
};

int must_check connection_open(const struct client *client, struct connection *out_connection,
                               struct error *err);
void connection_close(struct connection *connection);
/* Sends a request with further header lines (each with CR LF) and 'body' (may be NULL), and receives the head of the answer. */
int must_check connection_ask(struct connection *connection, const char *method, const char *path,
                              const char *headers, const char *body, struct http_head *out_head,
                              struct error *err);
/* The content to 'fn', part by part; what that returns below 0 ends it. */
typedef int (*connection_part_fn)(void *ctx, const char *data, size_t size, struct error *err);
int must_check connection_read_body(struct connection *connection, const struct http_head *head,
                                    connection_part_fn fn, void *ctx, struct error *err);
/* The content as a whole, with a NUL byte behind it; the caller frees. */
int must_check connection_read_text(struct connection *connection, const struct http_head *head,
                                    char **out_text, size_t *out_size, struct error *err);
/* The error that an answer with such a status is. */
int must_check connection_read_error(struct connection *connection, const struct http_head *head,
                                     struct error *err);
/* A WebSocket of what has become one; the descriptor is taken over. */
int must_check connection_make_socket(const struct connection *connection,
                                      struct client_socket **out_socket, struct error *err);

#endif
