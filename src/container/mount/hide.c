/* Masked and read-only paths. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/filesystem.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

/* What covers masked paths: the host's null device, and one empty directory that is made when it is needed first. */
struct covers {
    int null_fd, directory_fd;
};

/* A directory's cover is a copy of the first one. */
static int open_empty_directory(struct covers *covers, struct error *err)
{
    if (covers->directory_fd >= 0) {
        int copy = handle_clone(covers->directory_fd, "", false);
        return copy < 0 ? error_set_errno(err, -copy, "copying an empty directory") : copy;
    }
    struct filesystem_request request = {
        .type = "tmpfs",
        .source = "tmpfs",
        .data = "nr_blocks=1,nr_inodes=1,mode=755",
        .attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
    };
    int fd = -1;
    int rc = filesystem_open(&request, -1, &fd, err);
    return rc < 0 ? rc : fd;
}

static int cover(struct covers *covers, int target_fd, struct error *err)
{
    struct stat st;
    if (fstat(target_fd, &st) < 0) {
        return error_set_errno(err, errno, "looking at it");
    }
    bool is_directory = S_ISDIR(st.st_mode);
    AUTO_HANDLE int tree =
        is_directory ? open_empty_directory(covers, err) : handle_clone(covers->null_fd, "", false);
    if (tree < 0) {
        return is_directory ? tree : error_set_errno(err, -tree, "copying the null device");
    }
    int rc = handle_attach(tree, target_fd);
    if (rc < 0) {
        return error_set_errno(err, -rc, "covering it");
    }
    if (is_directory && covers->directory_fd < 0) {
        covers->directory_fd = TAKE_FD(tree);
    }
    return 0;
}

static bool is_missing(int fd)
{
    return fd == -ENOENT || fd == -ENOTDIR;
}

static int mask_paths(const struct rootfs *rootfs, struct error *err)
{
    const struct spec_strings *paths = &rootfs->spec->linux_.masked_paths;
    AUTO_HANDLE int null_fd = paths->count == 0 ? -1 : tree_open_null(err);
    if (paths->count != 0 && null_fd < 0) {
        return null_fd;
    }
    struct covers covers = {.null_fd = null_fd, .directory_fd = -1};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < paths->count; i++) {
        AUTO_HANDLE int target = beneath_open(rootfs->root_fd, paths->item[i], O_PATH, 0);
        if (!is_missing(target)) {
            rc = target < 0 ? error_set_errno(err, -target, "opening it")
                            : cover(&covers, target, err);
            rc = rc < 0 ? error_prefix(err, rc, "masking %s", paths->item[i]) : 0;
        }
    }
    if (covers.directory_fd >= 0) {
        close(covers.directory_fd);
    }
    return rc;
}

static int make_readonly(const struct rootfs *rootfs, const char *path)
{
    AUTO_HANDLE int target = beneath_open(rootfs->root_fd, path, O_PATH, 0);
    if (target < 0) {
        return is_missing(target) ? 0 : target;
    }
    AUTO_HANDLE int tree = handle_clone(target, "", true);
    int rc = tree < 0 ? tree : handle_apply(tree, MOUNT_ATTR_RDONLY, 0, true);
    return rc < 0 ? rc : handle_attach(tree, target);
}

int tree_hide_paths(struct rootfs *rootfs, struct error *err)
{
    const struct spec_strings *paths = &rootfs->spec->linux_.readonly_paths;
    for (size_t i = 0; i < paths->count; i++) {
        int rc = make_readonly(rootfs, paths->item[i]);
        if (rc < 0) {
            return error_set_errno(err, -rc, "making %s read-only", paths->item[i]);
        }
    }
    return mask_paths(rootfs, err);
}
