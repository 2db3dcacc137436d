/* Listening sockets on paths, without stale files. */
#ifndef BASE_HOST_UNIX_SOCKET_H
#define BASE_HOST_UNIX_SOCKET_H

#include "base/core/error.h"

/* Listens on 'path' with mode 0600. What a dead program left there is replaced; a live socket and any other kind of
 * file are refused. 'what' begins the error text ("control socket"). */
int must_check unix_socket_listen(const char *path, const char *what, int *out_fd,
                                  struct error *err);

/* Connects to 'path'. */
int must_check unix_socket_connect(const char *path, const char *what, int *out_fd,
                                   struct error *err);

#endif
