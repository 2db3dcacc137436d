/* Device nodes and links below /dev. What is there already must be the device that is asked for: a link or another device in an
 * image would have the container's programs, or this one, write elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

/* config-linux.md, Default Devices. */
static const struct spec_device default_devices[] = {
    {.path = "/dev/null", .type = 'c', .major = 1, .minor = 3},
    {.path = "/dev/zero", .type = 'c', .major = 1, .minor = 5},
    {.path = "/dev/full", .type = 'c', .major = 1, .minor = 7},
    {.path = "/dev/random", .type = 'c', .major = 1, .minor = 8},
    {.path = "/dev/urandom", .type = 'c', .major = 1, .minor = 9},
    {.path = "/dev/tty", .type = 'c', .major = 5, .minor = 0},
};

static const struct {
    const char *name, *target;
} default_links[] = {
    {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"},
};

static mode_t file_type(const struct spec_device *device)
{
    return device->type == 'b' ? S_IFBLK : device->type == 'p' ? S_IFIFO : S_IFCHR;
}

static bool is_device(const struct stat *st, const struct spec_device *device)
{
    return (st->st_mode & S_IFMT) == file_type(device) &&
           (device->type == 'p' || st->st_rdev == makedev(device->major, device->minor));
}

/* A copy of the mount of the host's node, which is that device. Returns a descriptor or -errno. */
static int clone_host_node(const struct spec_device *device)
{
    AUTO_HANDLE int tree = handle_clone(AT_FDCWD, device->path, false);
    struct stat st;
    if (tree >= 0 && fstat(tree, &st) == 0 && is_device(&st, device)) {
        return TAKE_FD(tree);
    }
    char path[64];
    (void)snprintf(path, sizeof(path), "/dev/%s/%u:%u", device->type == 'b' ? "block" : "char",
                   device->major, device->minor);
    AUTO_HANDLE int by_number = handle_clone(AT_FDCWD, path, false);
    if (by_number < 0) {
        return tree < 0 ? tree : -ENODEV;
    }
    return fstat(by_number, &st) == 0 && is_device(&st, device) ? TAKE_FD(by_number) : -ENODEV;
}

/* Where no node may be made (in a user namespace): the host's is mounted over an empty file. */
static int bind_node(int dir_fd, const char *name, const struct spec_device *device)
{
    AUTO_HANDLE int tree = clone_host_node(device);
    if (tree < 0) {
        return tree;
    }
    AUTO_HANDLE int made =
        openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (made < 0 && errno != EEXIST) {
        return -errno;
    }
    AUTO_HANDLE int target = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (target < 0 || fstat(target, &st) < 0) {
        return -errno;
    }
    return is_device(&st, device) ? 0 : S_ISREG(st.st_mode) ? handle_attach(tree, target) : -EEXIST;
}

static int make_node(int dir_fd, const char *name, const struct spec_device *device)
{
    mode_t mode = device->file_mode.has ? (mode_t)(device->file_mode.value & 07777) : 0666;
    bool has_owner = device->uid.has || device->gid.has;
    if (mknodat(dir_fd, name, file_type(device) | mode, makedev(device->major, device->minor)) ==
        0) {
        if (!has_owner) {
            return 0;
        }
    } else if (errno != EEXIST) {
        return -errno;
    }
    AUTO_HANDLE int fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!is_device(&st, device)) {
        return -EEXIST;
    }
    uid_t uid = device->uid.has ? (uid_t)device->uid.value : (uid_t)-1;
    gid_t gid = device->gid.has ? (gid_t)device->gid.value : (gid_t)-1;
    return has_owner && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int add_device(const struct rootfs *rootfs, int dir_fd, const char *name,
                      const struct spec_device *device, struct error *err)
{
    int rc = rootfs->has_own_user_namespace && device->type != 'p'
                 ? -EPERM
                 : make_node(dir_fd, name, device);
    rc = rc == -EPERM ? bind_node(dir_fd, name, device) : rc;
    if (rc == -EEXIST) {
        return error_set(err, EEXIST, "device %s: another file of that name is there",
                         device->path);
    }
    return rc < 0 ? error_set_errno(err, -rc, "device %s", device->path) : 0;
}

static bool is_listed(const struct spec_linux *linux_, const char *path)
{
    for (size_t i = 0; i < linux_->device_count; i++) {
        if (strcmp(linux_->devices[i].path, path) == 0) {
            return true;
        }
    }
    return false;
}

/* A configuration that binds a directory on /dev has devices of its own. */
static bool has_bound_dev(const struct spec *spec)
{
    for (size_t i = 0; i < spec->mount_count; i++) {
        const char *path = spec->mounts[i].destination;
        if (spec->mounts[i].is_bind && (strcmp(path, "/dev") == 0 || strcmp(path, "/dev/") == 0)) {
            return true;
        }
    }
    return false;
}

static int make_links(int dev_fd, struct error *err)
{
    bool has_core = access("/proc/kcore", F_OK) == 0;
    for (size_t i = 0; i < ARRAY_COUNT(default_links); i++) {
        if (!has_core && strcmp(default_links[i].name, "core") == 0) {
            continue;
        }
        if (symlinkat(default_links[i].target, dev_fd, default_links[i].name) < 0 &&
            errno != EEXIST) {
            return error_set_errno(err, errno, "linking /dev/%s", default_links[i].name);
        }
    }
    /* An image's own ptmx would be the host's. */
    if (symlinkat("pts/ptmx", dev_fd, "ptmx") < 0 &&
        (errno != EEXIST || unlinkat(dev_fd, "ptmx", 0) < 0 ||
         symlinkat("pts/ptmx", dev_fd, "ptmx") < 0)) {
        return error_set_errno(err, errno, "linking /dev/ptmx");
    }
    return 0;
}

static int make_listed(const struct rootfs *rootfs, struct error *err)
{
    const struct spec_linux *linux_ = &rootfs->spec->linux_;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < linux_->device_count; i++) {
        const char *name, *path = linux_->devices[i].path;
        if (strcmp(path, "/dev/ptmx") == 0) {
            continue; /* the link to that of the container's devpts */
        }
        AUTO_HANDLE int dir = beneath_make_parent(rootfs->root_fd, path, &name);
        rc = dir < 0 ? error_set_errno(err, -dir, "device %s", path)
                     : add_device(rootfs, dir, name, &linux_->devices[i], err);
    }
    return rc;
}

int tree_make_devices(struct rootfs *rootfs, struct error *err)
{
    if (has_bound_dev(rootfs->spec)) {
        return 0;
    }
    AUTO_HANDLE int dev = beneath_make(rootfs->root_fd, "/dev", true);
    if (dev < 0) {
        return error_set_errno(err, -dev, "opening /dev");
    }
    int rc = make_listed(rootfs, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(default_devices); i++) {
        const struct spec_device *device = &default_devices[i];
        if (!is_listed(&rootfs->spec->linux_, device->path)) {
            rc = add_device(rootfs, dev, device->path + strlen("/dev/"), device, err);
        }
    }
    return rc < 0 ? rc : make_links(dev, err);
}

int tree_open_null(struct error *err)
{
    AUTO_HANDLE int fd = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return error_set_errno(err, errno, "opening /dev/null");
    }
    if (!is_device(&st, &default_devices[0])) {
        return error_set(err, ENODEV, "/dev/null is not the null device");
    }
    return TAKE_FD(fd);
}
