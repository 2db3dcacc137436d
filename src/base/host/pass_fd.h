/* Descriptors as ancillary data of Unix sockets' messages (unix(7), cmsg(3)). */
#ifndef BASE_HOST_PASS_FD_H
#define BASE_HOST_PASS_FD_H

#include <stddef.h>
#include <sys/types.h>

/* One sendmsg of 'size' bytes with 'fd_count' (at most PASS_FD_MAX, 0 is fine) descriptors, which stay the caller's. Returns as
 * sendmsg does. */
#define PASS_FD_MAX 20
ssize_t pass_fd_send(int socket, const void *bytes, size_t size, const int *fd, size_t fd_count,
                     int flags);

#endif
