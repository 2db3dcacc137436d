/* Listening sockets on paths, without stale files. */
#ifndef BASE_HOST_UNIX_SOCKET_H
#define BASE_HOST_UNIX_SOCKET_H

#include "base/core/error.h"

/* Listens on 'path' with mode 0600. What a dead program left there is replaced; a live socket and any other kind of
 * file are refused. 'what' begins the error text ("control socket"). */
int must_check unix_socket_listen(const char *path, const char *what, int *out_fd,
                                  struct error *err);

/* The same for messages (SOCK_SEQPACKET). */
int must_check unix_socket_listen_packets(const char *path, const char *what, int *out_fd,
                                          struct error *err);
/* One message of text to such a socket, with the descriptor 'fd' (-1: none; it stays the caller's), and its answer, in new
 * memory. Errors: -ENOENT, -ECONNREFUSED: nobody listens; -ETIMEDOUT; -EPROTO: it ended without an answer. */
int must_check unix_socket_ask(const char *path, const char *what, const char *text, int fd,
                               unsigned timeout_ms, char **out_answer, struct error *err);

/* Connects to 'path'. */
int must_check unix_socket_connect(const char *path, const char *what, int *out_fd,
                                   struct error *err);

#endif
