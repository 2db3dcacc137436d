#include "base/host/pid_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"

int pid_file_open(const char *path, const char *whose, int *out_fd, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "pid file %s", path);
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno == EAGAIN || errno == EACCES) {
            return error_set(err, EBUSY, "pid file %s: locked: %s runs already", path, whose);
        }
        return error_set_errno(err, errno, "pid file %s", path);
    }
    char text[16];
    int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0) {
        return error_set_errno(err, errno, "pid file %s", path);
    }
    int rc = file_write_at(fd, text, (size_t)length, 0, path, err);
    if (rc == 0) {
        *out_fd = TAKE_FD(fd);
    }
    return rc;
}

pid_t pid_file_find(const char *path)
{
    char text[24] = "", *end;
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0 || fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK ||
        read(fd, text, sizeof(text) - 1) <= 0) {
        return 0;
    }
    long number = strtol(text, &end, 10);
    return *end == '\n' && number > 0 && number <= INT_MAX ? (pid_t)number : 0;
}
