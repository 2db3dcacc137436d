/* Mounts that are held by a descriptor. */
#include "container/mount/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>

static int set_attributes(int mount_fd, struct mount_attr *attributes, bool is_recursive)
{
    unsigned flags = AT_EMPTY_PATH | (is_recursive ? AT_RECURSIVE : 0);
    return mount_setattr(mount_fd, "", flags, attributes, sizeof(*attributes)) < 0 ? -errno : 0;
}

int handle_apply(int mount_fd, uint64_t set, uint64_t cleared, bool is_recursive)
{
    if (set == 0 && cleared == 0) {
        return 0;
    }
    struct mount_attr attributes = {.attr_set = set, .attr_clr = cleared & ~set};
    bool changes_atime = ((set | cleared) & MOUNT_ATTR__ATIME) != 0;
    if (changes_atime) { /* one field, that is replaced as a whole */
        attributes.attr_clr |= MOUNT_ATTR__ATIME;
    }
    int rc = set_attributes(mount_fd, &attributes, is_recursive);
    if (rc == -EPERM && (changes_atime || ((set | cleared) & MOUNT_ATTR_NODIRATIME))) {
        attributes.attr_set &= ~(uint64_t)(MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME);
        attributes.attr_clr &= ~(uint64_t)(MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME);
        rc = set_attributes(mount_fd, &attributes, is_recursive);
    }
    return rc;
}

int handle_propagate(int mount_fd, unsigned long propagation)
{
    struct mount_attr attributes = {.propagation = propagation & ~(unsigned long)MS_REC};
    return set_attributes(mount_fd, &attributes, (propagation & MS_REC) != 0);
}

int handle_map_ids(int mount_fd, int user_namespace_fd, bool is_recursive)
{
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_IDMAP,
        .userns_fd = (uint64_t)user_namespace_fd,
    };
    return set_attributes(mount_fd, &attributes, is_recursive);
}

int handle_clone(int dir_fd, const char *path, bool is_recursive)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path == '\0' ? AT_EMPTY_PATH : 0) |
                     (is_recursive ? AT_RECURSIVE : 0);
    int fd = open_tree(dir_fd, path, flags);
    return fd < 0 ? -errno : fd;
}

int handle_attach(int mount_fd, int target_fd)
{
    unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    return move_mount(mount_fd, "", target_fd, "", flags) < 0 ? -errno : 0;
}
