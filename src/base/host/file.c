#include "base/host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

int file_read_at(int fd, void *out_data, size_t size, uint64_t offset, const char *what,
                 struct error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = pread(fd, (char *)out_data + done, size - done, (off_t)(offset + done));
        if (count == 0) {
            return error_set(err, EIO, "%s ends early: %zu bytes at offset %llu expected", what,
                             size, (unsigned long long)offset);
        }
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            return error_set_errno(err, errno, "reading %s", what);
        }
        done += (size_t)count;
    }
    return 0;
}

int file_write_at(int fd, const void *data, size_t size, uint64_t offset, const char *what,
                  struct error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = pwrite(fd, (const char *)data + done, size - done, (off_t)(offset + done));
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            return error_set_errno(err, errno, "writing %s", what);
        }
        done += (size_t)count;
    }
    return 0;
}

int file_write_all(int fd, const void *data, size_t size, const char *what, struct error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = write(fd, (const char *)data + done, size - done);
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            return error_set_errno(err, errno, "writing %s", what);
        }
        done += (size_t)count;
    }
    return 0;
}

int file_read_whole(int fd, size_t max_size, const char *what, void **out_data, size_t *out_size,
                    struct error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_set_errno(err, errno, "reading %s", what);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, EINVAL, "reading %s: not a regular file", what);
    }
    if ((uint64_t)status.st_size > max_size) {
        return error_set(err, E2BIG, "reading %s: %lld bytes, at most %zu are accepted", what,
                         (long long)status.st_size, max_size);
    }
    size_t size = (size_t)status.st_size;
    AUTO_FREE char *data = malloc(size + 1);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "reading %s", what);
    }
    int rc = file_read_at(fd, data, size, 0, what, err);
    if (rc < 0) {
        return rc;
    }
    data[size] = '\0';
    *out_data = TAKE_PTR(data);
    *out_size = size;
    return 0;
}

int file_copy(int from, int to, const char *what, struct error *err)
{
    bool is_shared = true;
    for (;;) {
        ssize_t done = is_shared ? copy_file_range(from, NULL, to, NULL, 1 << 24, 0)
                                 : sendfile(to, from, NULL, 1 << 24);
        if (is_shared && done <= 0 && (done == 0 || errno != EINTR)) {
            is_shared = false;
            continue;
        }
        if (done < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "copying %s", what);
        }
        if (done == 0) {
            return 0;
        }
    }
}

int file_replace(const char *path, const char *text, mode_t mode, bool is_synced, struct error *err)
{
    char made[PATH_MAX];
    if (snprintf(made, sizeof(made), "%s.new", path) >= (int)sizeof(made)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
    }
    AUTO_CLOSE int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) {
        return error_set_errno(err, errno, "writing %s", made);
    }
    int rc = file_write_all(fd, text, strlen(text), made, err);
    if (rc == 0 && ((is_synced && fsync(fd) < 0) || rename(made, path) < 0)) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    if (rc < 0) {
        (void)unlink(made); /* it has failed already */
    }
    return rc;
}

int file_make_folders(const char *path, mode_t mode, mode_t mode_above, struct error *err)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof(part)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
    }
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, i == length ? mode : mode_above) < 0 && errno != EEXIST) {
            return error_set_errno(err, errno, "making the folder %s", part);
        }
    }
    return 0;
}

int file_set_nonblocking(int fd, struct error *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return error_set_errno(err, errno, "setting descriptor %d non-blocking", fd);
    }
    return 0;
}
