/* What `hull boot` leaves for those who look after it: a locked file as long as it runs, its exit status when it has ended. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/boot_files.h"

/* A number alone could be another process's by now; the lock goes with this one, however it ends. */
int boot_open_pid_file(const char *path, int *out_fd, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "pid file %s", path);
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        bool is_busy = errno == EAGAIN || errno == EACCES;
        return error_set(err, is_busy ? EBUSY : errno, "pid file %s: %s", path,
                         is_busy ? "locked: the VM runs already" : strerror(errno));
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

int boot_write_status(const char *path, int status, struct error *err)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%d\n", status);
    return file_replace(path, text, 0644, false, err);
}
