/* The client of hulld's API: requests, sessions and events over its unix socket, TLS or ssh. Blocking; one connection a request.
 *
 * What hulld answers is checked like what any peer says: sizes are bounded, and texts of errors have no control characters.
 *
 * Threads: none. */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define CLIENT_TIMEOUT_MS 60000
#define CLIENT_MAX_BODY   (64u << 20)

struct client {
    char where[280]; /* a socket's path, "https://HOST:PORT", or "ssh://USER@HOST" */
    bool is_remote;
    int timeout_ms; /* how long hulld may be silent; -1: for ever */
    /* Watched, too, while an answer is awaited; -1: nothing. 'wake' is called when it can be read, and ends the wait with what it
     * returns below 0. */
    int wake_fd;
    int (*wake)(void *ctx, struct error *err);
    void *wake_ctx;
};

/* At a unix socket's path; "https://HOST[:PORT]": over TLS, with the certificates in a folder (see hull(1)); "ssh://[USER@]HOST[:PORT]".
 * -ENAMETOOLONG, -EINVAL */
int must_check client_init(struct client *client, const char *where, struct error *err);

/* A connection and no more, for the caller to close. What passes one on says CLIENT_READY before hulld's first byte, or "hull: " and an
 * error in a line. */
int must_check client_dial(const struct client *client, int *out_fd, struct error *err);
#define CLIENT_READY "connected\n"

/* "/v1/instances" and words, each behind a slash and percent-encoded, NULL at the end. New memory; NULL: there is none left. */
char *client_path(const char *first, ...) __attribute__((sentinel));
/* 'path' (freed; may be NULL) with a further parameter, encoded. */
char *client_add_query(char *path, const char *name, const char *value);

/* Makes a request. 'body' (may be NULL) is borrowed. 'out_status' may be NULL. 'out_answer': a new reference, {} where there is no content.
 *
 * Errors are the API's: its message, with an errno for its status: 400 EINVAL, 403 EACCES, 404 ENOENT, 409 EEXIST, 501
 * EPROTONOSUPPORT, 507 ENOSPC, else EIO. Otherwise -ECONNREFUSED: nobody listens there; -ETIMEDOUT; -EPROTO. */
int must_check client_call(const struct client *client, const char *method, const char *path,
                           const json_t *body, int *out_status, json_t **out_answer,
                           struct error *err);
/* GET of a text, as it comes. */
int must_check client_read(const struct client *client, const char *path,
                           int (*fn)(void *ctx, const char *data, size_t size, struct error *err),
                           void *ctx, struct error *err);

/* An error with hulld's or a worker's words: without control characters, as a terminal may show it. Returns -code. */
int client_error(struct error *err, int code, const char *message);

/* A WebSocket. */
struct client_socket;
int must_check client_socket_open(const struct client *client, const char *path,
                                  struct client_socket **out_socket, struct error *err);
/* NULL is fine. */
void client_socket_close(struct client_socket *socket);
/* To wait on: for reading, and for writing as long as client_socket_is_sending. Borrowed. */
int client_socket_fd(const struct client_socket *socket);
/* The next message, which stays valid until the next call. -EAGAIN: there is none yet; -ENODATA: the other side has closed the
 * connection in order; -EPROTO; -ECONNRESET. Never blocks. */
int must_check client_socket_receive(struct client_socket *socket, bool *out_is_text,
                                     const uint8_t **out_data, size_t *out_size, struct error *err);
/* One binary message: 'type', and the data. Keeps what cannot be sent at once: to be called when !client_socket_is_sending only. */
int must_check client_socket_send(struct client_socket *socket, uint8_t type, const void *data,
                                  size_t size, struct error *err);
bool client_socket_is_sending(const struct client_socket *socket);
/* Sends more of what is kept. */
int must_check client_socket_flush(struct client_socket *socket, struct error *err);

#endif
