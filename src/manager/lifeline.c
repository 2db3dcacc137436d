#include "manager/lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "base/host/log.h"

#define FIRST_ACTIVATED_FD 3

int lifeline_lock(const struct place *place, int *out_fd, struct error *err)
{
    char path[PATH_MAX], pid[32] = "";
    snprintf(path, sizeof(path), "%s/hulld.lock", place->state);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "lock %s", path);
    }
    /* A lock of the process, not of the descriptor: a worker that is about to be executed has that, too, and may outlive us. */
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &whole) < 0) {
        int code = errno;
        ssize_t got = pread(fd, pid, sizeof(pid) - 1, 0);
        pid[got > 0 ? (size_t)got : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        return code == EAGAIN || code == EACCES
                   ? error_set(err, EBUSY, "state folder %s: hulld serves it already, process %s",
                               place->state, pid)
                   : error_set_errno(err, code, "lock %s", path);
    }
    int length = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)length, 0) != length) {
        return error_set_errno(err, errno, "lock %s", path);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

int lifeline_activated_socket(int *out_fd, struct error *err)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    uint64_t for_whom = 0, count = 0;
    bool is_for_us = pid != NULL && fds != NULL &&
                     number_parse(pid, 1, INT_MAX, &for_whom, NULL) == 0 &&
                     for_whom == (uint64_t)getpid() &&
                     number_parse(fds, 0, 1024, &count, NULL) == 0 && count > 0;
    (void)unsetenv("LISTEN_PID"); /* not for the programs that we start */
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    *out_fd = -1;
    if (!is_for_us) {
        return 0;
    }
    if (count > 1) {
        return error_set(err, EINVAL, "systemd gave %u sockets: one is expected", (unsigned)count);
    }
    int is_listening = 0, domain = 0;
    socklen_t size = sizeof(int);
    if (getsockopt(FIRST_ACTIVATED_FD, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) < 0 ||
        getsockopt(FIRST_ACTIVATED_FD, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
        !is_listening || domain != AF_UNIX) {
        return error_set(err, EINVAL, "systemd gave something else than a listening unix socket");
    }
    if (fcntl(FIRST_ACTIVATED_FD, F_SETFD, FD_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "systemd's socket");
    }
    *out_fd = FIRST_ACTIVATED_FD;
    return 0;
}

void lifeline_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@') ||
        strlen(path) >= sizeof(address.sun_path)) {
        return;
    }
    size_t length = strlen(path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (fd < 0 ||
        sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0) {
        log_warning("telling systemd %s: %s, ignoring", state, strerror(errno));
    }
}
