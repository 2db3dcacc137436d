/* What those who hold and those who need a user's namespace share. */
#ifndef SYSTEM_ROOTLESS_SPACE_H
#define SYSTEM_ROOTLESS_SPACE_H

#include <sys/un.h>

#include "base/core/error.h"

#define SPACE_SOCKET "space.sock"
#define SPACE_LOCK   "space.lock"

/* Descriptors of hull-ct-keeper --hold. */
enum space_fd {
    SPACE_FD_LISTENER = 3,
    SPACE_FD_NAMESPACE = 4,
    SPACE_FD_LOCK = 5,
};

/* RUN/space.sock. -ENAMETOOLONG. */
int must_check space_address(const char *run, struct sockaddr_un *out_address, struct error *err);
/* Asks the holder for the namespace: its descriptor, and the connection by which it is needed. -ENOENT without a text: nobody holds
 * one, or he who did was just about to end. */
int must_check space_connect(const struct sockaddr_un *address, int *out_connection,
                             int *out_namespace);

#endif
