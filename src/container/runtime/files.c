/* Small files that the runtime writes. */
#include "container/runtime/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"

int files_write_at(int folder, const char *name, const void *data, size_t size, struct error *err)
{
    AUTO_CLOSE int fd =
        openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set_errno(err, errno, "writing %s", name)
                  : file_write_all(fd, data, size, name, err);
}

int files_write_pid(const char *path, pid_t pid, struct error *err)
{
    char text[16], temporary[PATH_MAX];
    int length = snprintf(text, sizeof(text), "%d", (int)pid);
    if (snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)getpid()) >=
        (int)sizeof(temporary)) {
        return error_set(err, ENAMETOOLONG, "--pid-file: the name is too long");
    }
    AUTO_CLOSE int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        return error_set_errno(err, errno, "--pid-file: writing %s", path);
    }
    int rc = file_write_all(fd, text, (size_t)length, path, err);
    if (rc == 0 && rename(temporary, path) < 0) {
        rc = error_set_errno(err, errno, "--pid-file: writing %s", path);
    }
    if (rc < 0) {
        (void)unlink(temporary);
    }
    return rc;
}
