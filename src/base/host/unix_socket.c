#include "base/host/unix_socket.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/host/file.h"
#include "base/host/pass_fd.h"

static int address_make(const char *path, const char *what, struct sockaddr_un *out_address,
                        struct error *err)
{
    *out_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(out_address->sun_path)) {
        return error_set(err, ENAMETOOLONG, "%s %s: the path is too long: at most %zu characters",
                         what, path, sizeof(out_address->sun_path) - 1);
    }
    memcpy(out_address->sun_path, path, strlen(path) + 1);
    return 0;
}

static int socket_make(int type, const char *what, const char *path, int *out_fd, struct error *err)
{
    *out_fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    return *out_fd < 0 ? error_set_errno(err, errno, "%s %s", what, path) : 0;
}

/* Removes a socket that nobody listens on. */
static int clear_path(int type, const char *path, const char *what,
                      const struct sockaddr_un *address, struct error *err)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "%s %s", what, path);
    }
    if (!S_ISSOCK(status.st_mode)) {
        return error_set(err, EEXIST,
                         "%s %s: a file that is no socket is there: a path that is free", what,
                         path);
    }
    AUTO_CLOSE int fd = -1;
    int rc = socket_make(type, what, path, &fd, err);
    if (rc < 0) {
        return rc;
    }
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
        errno != ECONNREFUSED) {
        return error_set(err, EADDRINUSE, "%s %s: in use by a running program: a path that is free",
                         what, path);
    }
    if (unlink(path) < 0) {
        return error_set_errno(err, errno, "%s %s: removing what a dead program left", what, path);
    }
    return 0;
}

static int listen_on(int type, const char *path, const char *what, int *out_fd, struct error *err)
{
    struct sockaddr_un address;
    int rc = address_make(path, what, &address, err);
    if (rc == 0) {
        rc = clear_path(type, path, what, &address, err);
    }
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = -1;
    rc = socket_make(type, what, path, &fd, err);
    if (rc < 0) {
        return rc;
    }
    /* The mask, not a later chmod: there is no moment in which others may connect. */
    mode_t old_mask = umask(0177);
    int failed = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? errno : 0;
    (void)umask(old_mask);
    if (failed == 0 && listen(fd, 16) < 0) {
        failed = errno;
        (void)unlink(path);
    }
    if (failed != 0) {
        return error_set(err, failed, "%s %s: %s: a path in a folder that can be written", what,
                         path, strerror(failed));
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

int unix_socket_listen(const char *path, const char *what, int *out_fd, struct error *err)
{
    return listen_on(SOCK_STREAM, path, what, out_fd, err);
}

int unix_socket_listen_packets(const char *path, const char *what, int *out_fd, struct error *err)
{
    return listen_on(SOCK_SEQPACKET, path, what, out_fd, err);
}

int unix_socket_connect(const char *path, const char *what, int *out_fd, struct error *err)
{
    struct sockaddr_un address;
    int rc = address_make(path, what, &address, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = -1;
    rc = socket_make(SOCK_STREAM, what, path, &fd, err);
    if (rc < 0) {
        return rc;
    }
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set(err, errno, "%s %s: %s: the --control path of a running VM", what, path,
                         strerror(errno));
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

static int ask(int fd, const char *text, int passed_fd, char **out_answer)
{
    if (pass_fd_send(fd, text, strlen(text), &passed_fd, passed_fd >= 0 ? 1 : 0, 0) < 0) {
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    /* Its size first: a message that is read in part is lost. */
    ssize_t size;
    do {
        size = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC);
    } while (size < 0 && errno == EINTR);
    if (size <= 0) {
        return size == 0 ? -EPROTO : errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    AUTO_FREE char *answer = malloc((size_t)size + 1);
    if (answer == NULL) {
        return -ENOMEM;
    }
    size = recv(fd, answer, (size_t)size, 0);
    if (size < 0) {
        return -errno;
    }
    answer[size] = '\0';
    *out_answer = TAKE_PTR(answer);
    return 0;
}

int unix_socket_ask(const char *path, const char *what, const char *text, int fd,
                    unsigned timeout_ms, char **out_answer, struct error *err)
{
    struct sockaddr_un address;
    int rc = address_make(path, what, &address, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int connection = -1;
    rc = socket_make(SOCK_SEQPACKET, what, path, &connection, err);
    if (rc < 0) {
        return rc;
    }
    const struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(connection, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        rc = -errno;
    } else {
        rc = ask(connection, text, fd, out_answer);
    }
    return rc < 0 ? error_set_errno(err, -rc, "%s %s", what, path) : 0;
}
