/* hulld on another host. For the client's own files. */
#ifndef CLIENT_REMOTE_H
#define CLIENT_REMOTE_H

#include <stdbool.h>

#include "base/core/error.h"

#define REMOTE_MAX_HOST    256
#define REMOTE_DEFAULT_TLS "8443"

struct remote {
    bool is_ssh;
    char host[REMOTE_MAX_HOST]; /* without brackets; of ssh with its user: "root@web" */
    char port[6];               /* "": ssh's own */
};

/* "https://HOST[:PORT]" or "ssh://[USER@]HOST[:PORT]". -EINVAL */
int must_check remote_parse(const char *text, struct remote *out_remote, struct error *err);
/* A connection there, made by a program of its own (hull-dial or ssh), which ends with it: a stream socket, for the caller to close. Waits
 * until it is there. */
int must_check remote_connect(const struct remote *remote, int *out_fd, struct error *err);

#endif
