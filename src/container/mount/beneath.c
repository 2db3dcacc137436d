/* Paths below a directory that somebody else fills. */
#include "container/mount/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"

#define TRIES_MAX 256 /* of a lookup that races with a rename */
#define LINKS_MAX 40  /* as the kernel's own limit */

int beneath_open(int root_fd, const char *path, int flags, uint64_t resolve)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
    };
    for (int i = 0; i < TRIES_MAX; i++) {
        long fd = syscall(SYS_openat2, root_fd, *path != '\0' ? path : ".", &how, sizeof(how));
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
    }
    return -EAGAIN;
}

static int make_entry(int dir_fd, const char *name, bool is_directory)
{
    if (is_directory) {
        return mkdirat(dir_fd, name, 0755) < 0 ? -errno : 0;
    }
    AUTO_HANDLE int fd = openat(
        dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    return fd < 0 ? -errno : 0;
}

/* Puts the target of the link whose name is 'whole' between 'start' and 'end' in the name's place. */
static int follow_link(int dir_fd, char whole[static PATH_MAX], size_t start, size_t end)
{
    char name[NAME_MAX + 1], target[PATH_MAX], joined[PATH_MAX];
    if (end - start > NAME_MAX) {
        return -ENAMETOOLONG;
    }
    memcpy(name, whole + start, end - start);
    name[end - start] = '\0';
    ssize_t size = readlinkat(dir_fd, name, target, sizeof(target) - 1);
    if (size < 0) {
        return -errno;
    }
    target[size] = '\0';
    int kept = target[0] == '/' ? 0 : (int)start;
    int length = snprintf(joined, sizeof(joined), "%.*s%s%s", kept, whole, target, whole + end);
    if (length < 0 || (size_t)length >= sizeof(joined)) {
        return -ENAMETOOLONG;
    }
    memcpy(whole, joined, (size_t)length + 1);
    return 0;
}

int beneath_make(int root_fd, const char *path, bool is_directory)
{
    int found = beneath_open(root_fd, path, O_PATH, 0);
    if (found != -ENOENT) {
        return found;
    }
    char whole[PATH_MAX];
    if (strlen(path) >= sizeof(whole)) {
        return -ENAMETOOLONG;
    }
    memcpy(whole, path, strlen(path) + 1);
    AUTO_HANDLE int parent = beneath_open(root_fd, ".", O_PATH | O_DIRECTORY, 0);
    if (parent < 0) {
        return parent;
    }
    size_t end = 0;
    int tries = 0;
    for (;;) {
        size_t start = end + strspn(whole + end, "/");
        if (whole[start] == '\0') {
            return TAKE_FD(parent);
        }
        end = start + strcspn(whole + start, "/");
        bool is_last = whole[end + strspn(whole + end, "/")] == '\0';
        char after = whole[end];
        whole[end] = '\0';
        int fd = beneath_open(root_fd, whole, O_PATH, 0);
        if (fd == -ENOENT) {
            int rc = make_entry(parent, whole + start, is_directory || !is_last);
            if (rc == 0) {
                /* Not by the path again: what was made just now is no link, and must not have become one. */
                fd = openat(parent, whole + start,
                            O_PATH | O_CLOEXEC | O_NOFOLLOW |
                                (is_directory || !is_last ? O_DIRECTORY : 0));
                fd = fd < 0 ? -errno : fd;
            } else if (rc == -EEXIST && tries++ < LINKS_MAX) {
                whole[end] = after;
                rc = follow_link(parent, whole, start, end);
                if (rc == -EINVAL ||
                    rc == -ENOENT) { /* no link: somebody else made or removed it */
                    end = start;
                    continue;
                }
                if (rc < 0) {
                    return rc;
                }
                end = 0;
                close(parent);
                parent = beneath_open(root_fd, ".", O_PATH | O_DIRECTORY, 0);
                if (parent < 0) {
                    return parent;
                }
                continue;
            } else {
                return rc == -EEXIST ? -ELOOP : rc;
            }
        }
        if (fd < 0) {
            return fd;
        }
        whole[end] = after;
        close(parent);
        parent = fd;
    }
}

int beneath_make_parent(int root_fd, const char *path, const char **out_name)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return -EINVAL;
    }
    char parent[PATH_MAX];
    int length = snprintf(parent, sizeof(parent), "%.*s", (int)(name - path), path);
    if (length < 0 || (size_t)length >= sizeof(parent)) {
        return -ENAMETOOLONG;
    }
    int fd = beneath_make(root_fd, parent, true);
    if (fd >= 0) {
        *out_name = name;
    }
    return fd;
}
