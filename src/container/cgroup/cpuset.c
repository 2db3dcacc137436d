/* CPUs and memory nodes of v1. */
#include "container/cgroup/cpuset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"

#define LIST_MAX 4096 /* the kernel shows a page at most */

/* From the root on downwards: each group has what the one above has, unless it has something already. */
static int fill_file(int hierarchy_fd, const char *path, const char *file)
{
    char list[LIST_MAX];
    AUTO_FREE char *copy = strdup(path);
    if (copy == NULL) {
        return -ENOMEM;
    }
    /* Upwards to the first one that has something ... */
    AUTO_HANDLE int fd = -1;
    size_t end = strlen(copy);
    for (;;) {
        copy[end] = '\0';
        fd = group_open(hierarchy_fd, copy);
        int rc = fd < 0 ? fd : control_read(fd, file, list, sizeof(list));
        if (rc < 0) {
            return rc;
        }
        if (*list != '\0') {
            break;
        }
        if (end == 0) {
            return -ENODEV;
        }
        close(TAKE_FD(fd));
        const char *slash = strrchr(copy, '/');
        end = slash == NULL ? 0 : (size_t)(slash - copy);
    }
    /* ... and down again. */
    while (path[end] != '\0') {
        size_t next = end + (path[end] == '/');
        end = next + strcspn(path + next, "/");
        memcpy(copy, path, end);
        copy[end] = '\0';
        close(TAKE_FD(fd));
        fd = group_open(hierarchy_fd, copy);
        int rc = fd < 0 ? fd : control_write(fd, file, list);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int cpuset_fill(int hierarchy_fd, const char *path)
{
    int rc = fill_file(hierarchy_fd, path, "cpuset.cpus");
    return rc < 0 ? rc : fill_file(hierarchy_fd, path, "cpuset.mems");
}
