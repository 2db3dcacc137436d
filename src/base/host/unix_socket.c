#include "base/host/unix_socket.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/host/file.h"

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

static int socket_make(const char *what, const char *path, int *out_fd, struct error *err)
{
    *out_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return *out_fd < 0 ? error_set_errno(err, errno, "%s %s", what, path) : 0;
}

/* Removes a socket that nobody listens on. */
static int clear_path(const char *path, const char *what, const struct sockaddr_un *address,
                      struct error *err)
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
    int rc = socket_make(what, path, &fd, err);
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

int unix_socket_listen(const char *path, const char *what, int *out_fd, struct error *err)
{
    struct sockaddr_un address;
    int rc = address_make(path, what, &address, err);
    if (rc == 0) {
        rc = clear_path(path, what, &address, err);
    }
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = -1;
    rc = socket_make(what, path, &fd, err);
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

int unix_socket_connect(const char *path, const char *what, int *out_fd, struct error *err)
{
    struct sockaddr_un address;
    int rc = address_make(path, what, &address, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = -1;
    rc = socket_make(what, path, &fd, err);
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
