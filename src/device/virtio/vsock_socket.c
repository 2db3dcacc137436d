#include "device/virtio/vsock_socket.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"

#define LISTENER_NAME "connect"
#define BACKLOG       16

typedef int (*address_fn)(int fd, const struct sockaddr *address, socklen_t size);

/* connect(2) or bind(2) to 'name' in the directory. */
static int with_address(address_fn call, int fd, int dir_fd, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", dir_fd,
                   name); /* far shorter than the path may be */
    return call(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : -errno;
}

static int new_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 ? fd : -errno;
}

static int connect_to(int dir_fd, const char *name)
{
    AUTO_CLOSE int fd = new_socket();
    if (fd < 0) {
        return fd;
    }
    int rc = with_address(connect, fd, dir_fd, name);
    return rc < 0 ? rc : TAKE_FD(fd);
}

int vsock_socket_connect(int dir_fd, uint32_t port)
{
    char name[16];
    (void)snprintf(name, sizeof(name), "%u", port); /* ten digits at most */
    return connect_to(dir_fd, name);
}

int vsock_socket_listen(int dir_fd, int *out_fd, struct error *err)
{
    AUTO_CLOSE int fd = new_socket();
    if (fd < 0) {
        return error_set_errno(err, -fd, "making the vsock socket \"connect\"");
    }
    int rc = with_address(bind, fd, dir_fd, LISTENER_NAME);
    if (rc == -EADDRINUSE) {
        int other = connect_to(dir_fd, LISTENER_NAME);
        if (other >= 0 || other != -ECONNREFUSED) {
            if (other >= 0) {
                close(other);
            }
            return error_set(err, EADDRINUSE,
                             "making the vsock socket \"connect\": it is in use by another VM");
        }
        vsock_socket_unlink(dir_fd);
        rc = with_address(bind, fd, dir_fd, LISTENER_NAME);
    }
    if (rc == 0 && listen(fd, BACKLOG) < 0) {
        rc = -errno;
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "making the vsock socket \"connect\"");
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

void vsock_socket_unlink(int dir_fd)
{
    (void)unlinkat(dir_fd, LISTENER_NAME, 0); /* gone already is as good */
}

int vsock_socket_read_connect(int fd, struct vsock_line *line, uint32_t *out_port)
{
    /* Looks first: what follows the line is the guest's. */
    char *at = line->text + line->size;
    ssize_t size = recv(fd, at, sizeof(line->text) - line->size, MSG_PEEK);
    if (size <= 0) {
        return size == 0 ? -ECONNRESET : -errno;
    }
    char *end = memchr(at, '\n', (size_t)size);
    size_t wanted = end != NULL ? (size_t)(end - at) + 1 : (size_t)size;
    if (recv(fd, at, wanted, 0) != (ssize_t)wanted) {
        return -EPROTO; /* not on a stream that only we read */
    }
    line->size += (uint32_t)wanted;
    if (end == NULL) {
        return line->size == sizeof(line->text) ? -EPROTO : -EAGAIN;
    }
    *end = '\0';
    static const char verb[] = "CONNECT ";
    const char *digit = line->text + sizeof(verb) - 1;
    if (strncmp(line->text, verb, sizeof(verb) - 1) != 0 || *digit == '\0') {
        return -EPROTO;
    }
    uint64_t port = 0;
    for (; *digit != '\0'; digit++) {
        port = port * 10 + (uint64_t)(*digit - '0');
        if (*digit < '0' || *digit > '9' || port > UINT32_MAX) {
            return -EPROTO;
        }
    }
    *out_port = (uint32_t)port;
    return 0;
}
