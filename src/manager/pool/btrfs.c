/* Pools on btrfs: disks as in any folder, copied by reference; folders that are volumes are subvolumes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/pool/dir.h"

/* The nearest folder that is there: the pool's own is yet to be made. */
int btrfs_check(const json_t *pool, struct error *err)
{
    char path[PATH_MAX];
    struct statfs info;
    int rc = dir_driver.check(pool, err);
    if (rc < 0) {
        return rc;
    }
    snprintf(path, sizeof(path), "%s",
             json_string_value(json_object_get(json_object_get(pool, "config"), "path")));
    while (statfs(path, &info) < 0) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || slash == NULL || slash == path) {
            return error_set_errno(err, errno, "folder %s", path);
        }
        *slash = '\0';
    }
    return (unsigned long)info.f_type == BTRFS_SUPER_MAGIC
               ? 0
               : error_set(err, EINVAL, "%s is not on btrfs: the driver dir takes any file system",
                           path);
}

int btrfs_create(const json_t *pool, struct error *err)
{
    int rc = btrfs_check(pool, err);
    return rc < 0 ? rc : dir_driver.create(pool, err);
}

/* The folder above a tree's, open, and its own name. */
static int open_above(char *path, int *out_fd, const char **out_name, struct error *err)
{
    char *slash = strrchr(path, '/');
    *slash = '\0';
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? error_set_errno(err, errno, "folder %s", path) : 0;
    *slash = '/';
    *out_fd = fd;
    *out_name = slash + 1;
    return rc;
}

int btrfs_tree_create(const json_t *pool, const char *name, uint64_t quota, char out_path[PATH_MAX],
                      struct error *err)
{
    struct btrfs_ioctl_vol_args args = {0};
    AUTO_CLOSE int fd = -1;
    const char *last = NULL;
    /* As an ordinary folder, with all checks; then the subvolume takes its place. */
    int rc = dir_driver.tree_create(pool, name, quota, out_path, err);
    if (rc == 0) {
        rc = open_above(out_path, &fd, &last, err);
    }
    if (rc < 0) {
        return rc;
    }
    snprintf(args.name, sizeof(args.name), "%s", last);
    if (unlinkat(fd, last, AT_REMOVEDIR) < 0 || ioctl(fd, BTRFS_IOC_SUBVOL_CREATE, &args) < 0 ||
        fchmodat(fd, last, 0755, 0) < 0) {
        return error_set_errno(err, errno, "volume %s: making a subvolume", name);
    }
    return 0;
}

int btrfs_tree_remove(const json_t *pool, const char *name, struct error *err)
{
    struct btrfs_ioctl_vol_args args = {0};
    char path[PATH_MAX];
    AUTO_CLOSE int fd = -1;
    const char *last = NULL;
    int rc = dir_tree_find(pool, name, path, err);
    if (rc == -ENOENT) {
        return dir_driver.tree_remove(pool, name, err); /* the pool itself may be what is missing */
    }
    if (rc == 0) {
        rc = open_above(path, &fd, &last, err);
    }
    if (rc < 0) {
        return rc;
    }
    snprintf(args.name, sizeof(args.name), "%s", last);
    if (ioctl(fd, BTRFS_IOC_SNAP_DESTROY, &args) == 0) {
        return 0;
    }
    /* One with subvolumes in it, or a folder; EPERM: as an ordinary user. */
    return dir_driver.tree_remove(pool, name, err);
}
