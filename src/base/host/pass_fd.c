#include "base/host/pass_fd.h"

#include <string.h>
#include <sys/socket.h>

ssize_t pass_fd_send(int socket, const void *bytes, size_t size, const int *fd, size_t fd_count,
                     int flags)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(PASS_FD_MAX * sizeof(int))];
    } ancillary = {0};
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    size_t fds_size = fd_count * sizeof(int);
    if (fd_count > 0) {
        message.msg_control = &ancillary;
        message.msg_controllen = CMSG_SPACE(fds_size);
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds_size);
        memcpy(CMSG_DATA(part), fd, fds_size);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL | flags);
}
