/* What an image has in a directory, into the tmpfs that covers it (tmpcopyup). The image is not trusted: links are copied and never
 * followed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

#define DEPTH_MAX      128 /* each level holds three descriptors */
#define ATTRIBUTES_MAX 65536

static int copy_directory(int from_fd, int to_fd, unsigned depth);

/* A tmpfs may not take all of them; what it does not take is left away. */
static int copy_attributes(int from_fd, int to_fd)
{
    AUTO_FREE char *names = malloc(XATTR_LIST_MAX), *value = malloc(ATTRIBUTES_MAX);
    if (names == NULL || value == NULL) {
        return -ENOMEM;
    }
    ssize_t size = flistxattr(from_fd, names, XATTR_LIST_MAX);
    for (const char *name = names; size > 0 && name < names + size; name += strlen(name) + 1) {
        ssize_t length = fgetxattr(from_fd, name, value, ATTRIBUTES_MAX);
        if (length >= 0 && fsetxattr(to_fd, name, value, (size_t)length, 0) < 0 &&
            errno == ENOSPC) {
            return -ENOSPC;
        }
    }
    return 0;
}

/* Owner, then mode (a change of owner clears set-id bits), then times. */
static int copy_status(int to_fd, const struct stat *st)
{
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    if (fchown(to_fd, st->st_uid, st->st_gid) < 0 || fchmod(to_fd, st->st_mode & 07777) < 0 ||
        futimens(to_fd, times) < 0) {
        return -errno;
    }
    return 0;
}

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *expected)
{
    AUTO_HANDLE int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (from < 0 || fstat(from, &st) < 0) {
        return -errno;
    }
    if (st.st_ino != expected->st_ino || !S_ISREG(st.st_mode)) {
        return -ESTALE;
    }
    AUTO_HANDLE int to =
        openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0) {
        return -errno;
    }
    for (off_t left = st.st_size; left > 0;) {
        ssize_t moved = sendfile(to, from, NULL, (size_t)MIN(left, 1 << 30));
        if (moved < 0 && errno != EINTR) {
            return -errno;
        }
        if (moved == 0) {
            break; /* became shorter meanwhile */
        }
        left -= moved > 0 ? moved : 0;
    }
    int rc = copy_attributes(from, to);
    return rc < 0 ? rc : copy_status(to, &st);
}

static int copy_link(int from_dir, int to_dir, const char *name, const struct stat *st)
{
    char target[PATH_MAX];
    ssize_t size = readlinkat(from_dir, name, target, sizeof(target) - 1);
    if (size < 0) {
        return -errno;
    }
    target[size] = '\0';
    return symlinkat(target, to_dir, name) < 0 ||
                   fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0
               ? -errno
               : 0;
}

static int copy_entry(int from_dir, int to_dir, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (S_ISREG(st.st_mode)) {
        return copy_file(from_dir, to_dir, name, &st);
    }
    if (S_ISLNK(st.st_mode)) {
        return copy_link(from_dir, to_dir, name, &st);
    }
    if (!S_ISDIR(
            st.st_mode)) { /* a device that may not be made here is no loss: it could not be used */
        if (mknodat(to_dir, name, st.st_mode & (S_IFMT | 07777), st.st_rdev) < 0) {
            return errno == EPERM ? 0 : -errno;
        }
        return fchownat(to_dir, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
    }
    AUTO_HANDLE int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0 || mkdirat(to_dir, name, 0700) < 0) {
        return -errno;
    }
    AUTO_HANDLE int to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return to < 0 ? -errno : copy_directory(from, to, depth + 1);
}

static int copy_directory(int from_fd, int to_fd, unsigned depth)
{
    if (depth > DEPTH_MAX) {
        return -ELOOP;
    }
    int list_fd = fcntl(from_fd, F_DUPFD_CLOEXEC, 0);
    DIR *list = list_fd < 0 ? NULL : fdopendir(list_fd);
    if (list == NULL) {
        int rc = -errno;
        if (list_fd >= 0) {
            close(list_fd);
        }
        return rc;
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(list)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = copy_entry(from_fd, to_fd, entry->d_name, depth);
        }
    }
    rc = rc == 0 && errno != 0 ? -errno : rc;
    closedir(list);
    struct stat st;
    if (rc == 0 && fstat(from_fd, &st) < 0) {
        rc = -errno;
    }
    rc = rc < 0 ? rc : copy_attributes(from_fd, to_fd);
    return rc < 0 ? rc : depth == 0 ? 0 : copy_status(to_fd, &st);
}

int tree_copy_up(int from_fd, int to_fd, struct error *err)
{
    AUTO_HANDLE int from = openat(from_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_HANDLE int to = openat(to_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = from < 0 || to < 0 ? -errno : copy_directory(from, to, 0);
    return rc < 0 ? error_set_errno(err, -rc, "copying the directory's files into the tmpfs") : 0;
}
