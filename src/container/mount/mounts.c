/* The mounts of a configuration, one after the other. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/filesystem.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

#define PROC_ROOT_INODE 1

static bool is_type(const struct spec_mount *mount, const char *type)
{
    return mount->type != NULL && strcmp(mount->type, type) == 0;
}

/* "/proc/" and "//proc" are "/proc". Whether 'path' is 'prefix' (NULL) or below it (what follows). */
static bool is_path_at(const char *path, const char *prefix, const char **out_below)
{
    while (*path == '/' && path[1] == '/') {
        path++;
    }
    size_t size = strlen(prefix);
    if (strncmp(path, prefix, size) != 0 || (path[size] != '/' && path[size] != '\0')) {
        return false;
    }
    path += size;
    path += strspn(path, "/");
    *out_below = *path == '\0' ? NULL : path;
    return true;
}

/* Files in /proc that programs like lxcfs mount over; anything else there would let a configuration change what the process or its
 * runtime reads and writes. */
static bool may_cover_in_proc(const char *below)
{
    static const char *const names[] = {
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "pressure/cpu",
        "pressure/io",
        "pressure/memory",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(below, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_procfs(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* A directory inside of one could be chosen so that names in it mean other files. */
static bool is_procfs_root(int fd)
{
    struct stat st;
    return is_procfs(fd) && fstat(fd, &st) == 0 && st.st_ino == PROC_ROOT_INODE;
}

/* A tree on /proc or below it must be what belongs there (CVE-2019-16884). 'mount_fd': -1 for a new file system other than proc. */
static int check_proc(const struct spec_mount *mount, int mount_fd, int target_fd,
                      struct error *err)
{
    const char *below = NULL;
    bool is_named = is_path_at(mount->destination, "/proc", &below);
    if (is_named && below == NULL) {
        return mount_fd >= 0 && is_procfs_root(mount_fd)
                   ? 0
                   : error_set(err, EINVAL, "only a proc file system may be mounted on /proc");
    }
    if (!is_named && !is_procfs(target_fd)) {
        return 0;
    }
    if (is_named && may_cover_in_proc(below)) {
        return 0;
    }
    return error_set(err, EINVAL, "cannot be mounted because it is inside /proc");
}

static int open_target(const struct rootfs *rootfs, const struct spec_mount *mount,
                       bool is_directory, struct error *err)
{
    const char *path = mount->destination;
    if (path[strspn(path, "/.")] == '\0') {
        return error_set(err, EINVAL, "mounting over the container's root is not possible");
    }
    int fd = beneath_make(rootfs->root_fd, path, is_directory);
    return fd < 0 ? error_set_errno(err, -fd, "opening the mount point") : fd;
}

/* For proc and sysfs: a link as mount point would have the kernel's files appear elsewhere, and an image's own in their place. */
static int open_plain_target(const struct rootfs *rootfs, const struct spec_mount *mount,
                             struct error *err)
{
    AUTO_HANDLE int made = open_target(rootfs, mount, true, err);
    if (made < 0) {
        return made;
    }
    int fd = beneath_open(rootfs->root_fd, mount->destination, O_PATH | O_DIRECTORY,
                          RESOLVE_NO_SYMLINKS);
    if (fd == -ELOOP || fd == -ENOTDIR) {
        return error_set(err, -fd, "file system %s must be mounted on an ordinary directory",
                         mount->type);
    }
    return fd < 0 ? error_set_errno(err, -fd, "opening the mount point") : fd;
}

int tree_make_readonly_later(struct rootfs *rootfs, int mount_fd, struct error *err)
{
    int fd = fcntl(mount_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return error_set_errno(err, errno, "keeping a mount's descriptor");
    }
    rootfs->late_readonly[rootfs->late_readonly_count++] = fd;
    return 0;
}

static bool is_readonly_later(const struct spec_mount *mount)
{
    const char *below;
    return (mount->attributes_set & MOUNT_ATTR_RDONLY) != 0 &&
           (is_type(mount, "tmpfs") ||
            (is_path_at(mount->destination, "/dev", &below) && below == NULL));
}

/* What the options say about a mount, in the order in which mount(8) would do it; 'is_new': the plain attributes are there. */
static int finish_mount(struct rootfs *rootfs, const struct spec_mount *mount, int mount_fd,
                        bool is_new, struct error *err)
{
    bool is_late = is_readonly_later(mount);
    uint64_t late = is_late ? MOUNT_ATTR_RDONLY : 0;
    int rc = handle_apply(mount_fd, mount->recursive_attributes_set,
                          mount->recursive_attributes_cleared, true);
    if (rc == 0 && !is_new) {
        rc =
            handle_apply(mount_fd, mount->attributes_set & ~late, mount->attributes_cleared, false);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "setting the options%s",
                               rc == -EPERM ? " (locked by the user namespace of the source)" : "");
    }
    return is_late ? tree_make_readonly_later(rootfs, mount_fd, err) : 0;
}

static int attach(const struct spec_mount *mount, int mount_fd, int target_fd, struct error *err)
{
    int rc = handle_attach(mount_fd, target_fd);
    if (rc == 0 &&
        mount->propagation != 0) { /* attached: below a shared mount all becomes shared */
        rc = handle_propagate(mount_fd, mount->propagation);
    }
    return rc < 0 ? error_set_errno(err, -rc, "attaching the mount") : 0;
}

int tree_open_source(const struct rootfs *rootfs, const struct spec_mount *mount, struct error *err)
{
    if (mount->source == NULL) {
        return error_set(err, EINVAL, "a bind mount needs a source");
    }
    int fd = handle_clone(AT_FDCWD, mount->source, mount->is_recursive_bind);
    if (fd == -EINVAL && rootfs->has_own_user_namespace && !mount->is_recursive_bind) {
        fd =
            handle_clone(AT_FDCWD, mount->source, true); /* what is mounted below is locked to it */
    }
    return fd < 0 ? error_set_errno(err, -fd, "source %s", mount->source) : fd;
}

static int mount_bind(struct rootfs *rootfs, size_t index, struct error *err)
{
    const struct spec_mount *mount = &rootfs->spec->mounts[index];
    AUTO_HANDLE int tree = TAKE_FD(rootfs->trees[index]);
    if (tree < 0) {
        tree = tree_open_source(rootfs, mount, err);
        if (tree < 0) {
            return tree;
        }
    }
    struct stat st;
    if (fstat(tree, &st) < 0) {
        return error_set_errno(err, errno, "source %s", mount->source);
    }
    AUTO_HANDLE int target = open_target(rootfs, mount, S_ISDIR(st.st_mode), err);
    int rc = target < 0 ? target : check_proc(mount, tree, target, err);
    rc = rc < 0 ? rc : finish_mount(rootfs, mount, tree, false, err);
    return rc < 0 ? rc : attach(mount, tree, target, err);
}

/* Kernel file systems that belong to a namespace which the container has not got for itself: the host's, read-only as a whole
 * where it shows more than the container's own. */
static const char *host_path_of(const struct spec_mount *mount)
{
    return is_type(mount, "sysfs")    ? "/sys"
           : is_type(mount, "proc")   ? "/proc"
           : is_type(mount, "mqueue") ? "/dev/mqueue"
                                      : NULL;
}

static int open_host_tree(const char *path, struct error *err)
{
    AUTO_HANDLE int tree = handle_clone(AT_FDCWD, path, true);
    if (tree < 0) {
        return error_set_errno(err, -tree, "the host's %s", path);
    }
    int rc = handle_propagate(tree, MS_SLAVE | MS_REC);
    if (rc == 0 && strcmp(path, "/sys") == 0) {
        rc = handle_apply(tree, MOUNT_ATTR_RDONLY, 0, true);
    }
    return rc < 0 ? error_set_errno(err, -rc, "the host's %s", path) : TAKE_FD(tree);
}

/* The mount on a directory that mount(2) has made there, by its path again; it must be that one. */
static int reopen_mount(const struct rootfs *rootfs, const struct spec_mount *mount, int below_fd,
                        struct error *err)
{
    AUTO_HANDLE int fd = beneath_open(rootfs->root_fd, mount->destination, O_PATH | O_DIRECTORY, 0);
    struct statx now, below;
    if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &now) < 0 ||
        statx(below_fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &below) < 0) {
        return error_set_errno(err, fd < 0 ? -fd : errno, "opening the mount");
    }
    if ((now.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0 || now.stx_mnt_id == below.stx_mnt_id) {
        return error_set(err, EXDEV, "the mount point was replaced while it was mounted on");
    }
    return TAKE_FD(fd);
}

/* The mode of a tmpfs is that of the directory below it, unless the options say another. */
static int tmpfs_data(const struct spec_mount *mount, int target_fd, bool is_made_now,
                      char **out_data)
{
    struct stat st;
    const char *data = mount->data == NULL ? "" : mount->data;
    if (is_made_now || fstat(target_fd, &st) < 0) {
        *out_data = strdup(data);
    } else if (asprintf(out_data, "mode=%04o%s%s", st.st_mode & 07777, *data != '\0' ? "," : "",
                        data) < 0) {
        *out_data = NULL;
    }
    return *out_data == NULL ? -ENOMEM : 0;
}

static int mount_new(struct rootfs *rootfs, const struct spec_mount *mount, struct degrade *degrade,
                     struct error *err)
{
    bool is_tmpfs = is_type(mount, "tmpfs"),
         is_kernel = is_type(mount, "proc") || is_type(mount, "sysfs");
    bool is_there = true;
    if (is_tmpfs) {
        AUTO_HANDLE int before = beneath_open(rootfs->root_fd, mount->destination, O_PATH, 0);
        is_there = before >= 0;
    }
    AUTO_HANDLE int target =
        is_kernel ? open_plain_target(rootfs, mount, err) : open_target(rootfs, mount, true, err);
    if (target < 0) {
        return target;
    }
    struct filesystem_request request = {
        .type = mount->type,
        .source = mount->source,
        .data = mount->data,
        .superblock_flags = mount->superblock_flags,
        .superblock_cleared = mount->superblock_cleared,
        .attributes = mount->attributes_set,
    };
    AUTO_FREE char *data = NULL;
    if (is_tmpfs) {
        if (tmpfs_data(mount, target, !is_there, &data) < 0) {
            return error_set(err, ENOMEM, "no memory for the mount's options");
        }
        request.data = data;
    }
    if (is_readonly_later(mount)) {
        request.attributes &= ~(uint64_t)MOUNT_ATTR_RDONLY;
    }
    const char *host_path = host_path_of(mount);
    if (is_tmpfs || host_path != NULL || is_type(mount, "devpts")) {
        request.superblock_flags &=
            ~(unsigned long)MS_RDONLY; /* the mount alone; others may share the file system */
    }
    if (rootfs->spec->linux_.mount_label != NULL && host_path == NULL) {
        if (access("/sys/fs/selinux/enforce", F_OK) == 0) {
            request.label = rootfs->spec->linux_.mount_label;
        } else {
            degrade_add(degrade, "linux.mountLabel", "SELinux is not enabled on this host");
        }
    }
    AUTO_HANDLE int tree = -1;
    int rc = filesystem_open(&request, target, &tree, err);
    bool is_host_tree = rc == -EPERM && rootfs->has_own_user_namespace && host_path != NULL;
    if (is_host_tree) {
        tree = open_host_tree(host_path, err);
        rc = tree < 0 ? tree : 0;
    }
    bool is_attached = rc == 0 && tree < 0;
    if (is_attached) {
        tree = reopen_mount(rootfs, mount, target, err);
        rc = tree < 0 ? tree : 0;
    }
    if (rc < 0) {
        return rc;
    }
    rc = check_proc(mount, is_type(mount, "proc") ? tree : -1, target, err);
    if (rc == 0 && mount->copies_up && is_tmpfs && is_there) {
        rc = tree_copy_up(target, tree, err);
    }
    rc = rc < 0 ? rc : finish_mount(rootfs, mount, tree, !is_host_tree, err);
    if (rc == 0 && !is_attached) {
        rc = attach(mount, tree, target, err);
    } else if (rc == 0 && mount->propagation != 0) {
        rc = handle_propagate(tree, mount->propagation);
        rc = rc < 0 ? error_set_errno(err, -rc, "setting the propagation") : 0;
    }
    if (rc == 0 && is_type(mount, "devpts")) {
        if (rootfs->devpts_fd >= 0) {
            close(rootfs->devpts_fd);
        }
        rootfs->devpts_fd = TAKE_FD(tree);
    }
    return rc;
}

/* Changes what is mounted there already. */
static int remount(struct rootfs *rootfs, const struct spec_mount *mount, struct error *err)
{
    AUTO_HANDLE int fd = beneath_open(rootfs->root_fd, mount->destination, O_PATH, 0);
    if (fd < 0) {
        return error_set_errno(err, -fd, "opening what is to be remounted");
    }
    bool has_data = mount->data != NULL && *mount->data != '\0';
    if (!mount->is_bind &&
        (has_data || mount->superblock_flags != 0 || mount->superblock_cleared != 0)) {
        struct filesystem_request request = {
            .data = mount->data,
            .superblock_flags = mount->superblock_flags,
            .superblock_cleared = mount->superblock_cleared,
        };
        int rc = filesystem_reconfigure(&request, fd, err);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = finish_mount(rootfs, mount, fd, false, err);
    if (rc == 0 && mount->propagation != 0) {
        rc = handle_propagate(fd, mount->propagation);
        rc = rc < 0 ? error_set_errno(err, -rc, "setting the propagation") : 0;
    }
    return rc;
}

static int mount_groups(struct rootfs *rootfs, const struct spec_mount *mount, struct error *err)
{
    AUTO_HANDLE int target = open_target(rootfs, mount, true, err);
    int rc = target < 0 ? target : check_proc(mount, -1, target, err);
    return rc < 0 ? rc : tree_mount_control_groups(rootfs, mount, target, err);
}

int tree_mount_all(struct rootfs *rootfs, struct degrade *degrade, struct error *err)
{
    for (size_t i = 0; i < rootfs->spec->mount_count; i++) {
        const struct spec_mount *mount = &rootfs->spec->mounts[i];
        int rc = mount->is_remount ? remount(rootfs, mount, err)
                 : mount->is_bind  ? mount_bind(rootfs, i, err)
                 : mount->type == NULL
                     ? error_set(err, EINVAL, "neither a type nor the option bind")
                 : is_type(mount, "cgroup") || is_type(mount, "cgroup2")
                     ? mount_groups(rootfs, mount, err)
                     : mount_new(rootfs, mount, degrade, err);
        if (rc < 0) {
            return error_prefix(err, rc, "mounting %s", mount->destination);
        }
    }
    return 0;
}
