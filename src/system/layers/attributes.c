/* Owners, modes, extended attributes, times, flags. */
#include "system/layers/attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/file.h"

#define ACL_VERSION    2
#define ACL_ENTRY_SIZE 8
#define ACL_TAG_USER   0x02
#define ACL_TAG_GROUP  0x08

#define KEPT_FLAGS (FS_APPEND_FL | FS_IMMUTABLE_FL | FS_NODUMP_FL)

#define PATH_TEXT_SIZE (NAME_MAX + 32)

static bool is_shifted(const struct attributes_shift *shift)
{
    return shift->from.count != 0 || shift->to.count != 0;
}

int attributes_shift_id(const struct attributes_shift *shift, uint32_t id, uint32_t *out_id)
{
    if (!is_shifted(shift)) {
        *out_id = id;
        return 0;
    }
    uint32_t from = shift->from.count != 0 ? shift->from.first : 0;
    uint32_t to = shift->to.count != 0 ? shift->to.first : 0;
    uint32_t count = shift->from.count == 0 ? shift->to.count
                     : shift->to.count == 0 ? shift->from.count
                                            : MIN(shift->from.count, shift->to.count);
    if (id < from || id - from >= count) {
        return -EINVAL;
    }
    *out_id = to + (id - from);
    return 0;
}

static int shift_acl(const struct attributes_shift *shift, uint8_t *value, size_t size)
{
    if (size < 4 || size % ACL_ENTRY_SIZE != 4 || le32_get(value) != ACL_VERSION) {
        return -EINVAL;
    }
    for (uint8_t *entry = value + 4; entry < value + size; entry += ACL_ENTRY_SIZE) {
        uint16_t tag = le16_get(entry);
        uint32_t id = le32_get(entry + 4);
        if (tag == ACL_TAG_USER || tag == ACL_TAG_GROUP) {
            int rc = attributes_shift_id(shift, id, &id);
            if (rc < 0) {
                return rc;
            }
            le32_put(entry + 4, id);
        }
    }
    return (int)size;
}

/* Version 2 is for the root of the host, version 3 for the root that it names. */
static int shift_capability(const struct attributes_shift *shift, uint8_t *value, size_t size)
{
    uint32_t head = size < 4 ? 0 : le32_get(value), version = head & VFS_CAP_REVISION_MASK;
    uint32_t root = 0, old;
    if (version == VFS_CAP_REVISION_3 && size == XATTR_CAPS_SZ_3) {
        root = le32_get(value + XATTR_CAPS_SZ_2);
    } else if (version != VFS_CAP_REVISION_2 || size != XATTR_CAPS_SZ_2) {
        return (int)size; /* none that a kernel of today writes */
    }
    old = root;
    if (attributes_shift_id(shift, old, &root) < 0) {
        return version == VFS_CAP_REVISION_3 ? -EINVAL : (int)size;
    }
    head = (head & ~VFS_CAP_REVISION_MASK) | (root == 0 ? VFS_CAP_REVISION_2 : VFS_CAP_REVISION_3);
    le32_put(value, head);
    if (root != 0) {
        le32_put(value + XATTR_CAPS_SZ_2, root);
    }
    return root == 0 ? XATTR_CAPS_SZ_2 : XATTR_CAPS_SZ_3;
}

static bool is_acl(const char *name)
{
    return strcmp(name, "system.posix_acl_access") == 0 ||
           strcmp(name, "system.posix_acl_default") == 0;
}

int attributes_shift_value(const struct attributes_shift *shift, const char *name, uint8_t *value,
                           size_t size)
{
    if (!is_shifted(shift)) {
        return (int)size;
    }
    return is_acl(name)                               ? shift_acl(shift, value, size)
           : strcmp(name, "security.capability") == 0 ? shift_capability(shift, value, size)
                                                      : (int)size;
}

static const char *path_of(const struct attributes_file *file, char text[PATH_TEXT_SIZE])
{
    (void)snprintf(text, PATH_TEXT_SIZE, "/proc/self/fd/%d/%s", file->folder_fd, file->name);
    return text;
}

static ssize_t list_names(const struct attributes_file *file, char *names, size_t size)
{
    char path[PATH_TEXT_SIZE];
    ssize_t rc = file->fd >= 0 ? flistxattr(file->fd, names, size)
                               : llistxattr(path_of(file, path), names, size);
    return rc < 0 && errno == EOPNOTSUPP ? 0 : rc < 0 ? -errno : rc;
}

static ssize_t get_value(const struct attributes_file *file, const char *name, uint8_t *value)
{
    char path[PATH_TEXT_SIZE];
    ssize_t rc = file->fd >= 0 ? fgetxattr(file->fd, name, value, XATTR_SIZE_MAX)
                               : lgetxattr(path_of(file, path), name, value, XATTR_SIZE_MAX);
    return rc < 0 ? -errno : rc;
}

static int set_value(const struct attributes_file *file, const char *name, const uint8_t *value,
                     size_t size)
{
    char path[PATH_TEXT_SIZE];
    int rc = file->fd >= 0 ? fsetxattr(file->fd, name, value, size, 0)
                           : lsetxattr(path_of(file, path), name, value, size, 0);
    return rc < 0 ? -errno : 0;
}

/* Labels of security modules are the host's business: what cannot be set is left away. */
static bool is_label(const char *name)
{
    return strncmp(name, "security.", 9) == 0 && strcmp(name, "security.capability") != 0;
}

static int copy_value(const struct attributes_shift *shift, const struct attributes_file *from,
                      const struct attributes_file *to, const char *name, uint8_t *value)
{
    if (strncmp(name, "system.", 7) == 0 && !is_acl(name)) {
        return 0; /* views of file systems on something else */
    }
    ssize_t size = get_value(from, name, value);
    if (size < 0) {
        return size == -ENODATA ? 0 : (int)size;
    }
    int rc = attributes_shift_value(shift, name, value, (size_t)size);
    rc = rc < 0 ? rc : set_value(to, name, value, (size_t)rc);
    return rc < 0 && is_label(name) && rc != -ENOSPC ? 0 : rc;
}

static int copy_extended(const struct attributes_shift *shift, const struct attributes_file *from,
                         const struct attributes_file *to)
{
    char few[1024];
    AUTO_FREE char *many = NULL;
    const char *names = few;
    ssize_t size = list_names(from, few, sizeof(few));
    if (size == -ERANGE) {
        names = many = malloc(XATTR_LIST_MAX);
        size = many == NULL ? -ENOMEM : list_names(from, many, XATTR_LIST_MAX);
    }
    if (size <= 0) {
        return (int)size;
    }
    AUTO_FREE uint8_t *value = malloc(XATTR_SIZE_MAX + 4);
    int rc = value == NULL ? -ENOMEM : 0;
    for (const char *name = names; rc == 0 && name < names + size; name += strlen(name) + 1) {
        rc = copy_value(shift, from, to, name, value);
    }
    return rc;
}

/* A change of owner takes set-id bits and capabilities away. */
static int set_owner(const struct attributes_file *file, uint32_t uid, uint32_t gid, mode_t mode)
{
    if (file->fd >= 0) {
        return fchown(file->fd, uid, gid) < 0 || fchmod(file->fd, mode & 07777) < 0 ? -errno : 0;
    }
    if (fchownat(file->folder_fd, file->name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0) {
        return -errno;
    }
    return S_ISLNK(mode) || fchmodat(file->folder_fd, file->name, mode & 07777, 0) == 0 ? 0
                                                                                        : -errno;
}

/* Overlayfs makes whiteouts as who mounted it, so that they belong to nobody in the container. */
static int shift_owner(const struct attributes_shift *shift, const struct stat *st, uint32_t id,
                       uint32_t *out_id)
{
    int rc = attributes_shift_id(shift, id, out_id);
    if (rc < 0 && S_ISCHR(st->st_mode) && st->st_rdev == 0) {
        *out_id = id;
        return 0;
    }
    return rc;
}

int attributes_copy(const struct attributes_shift *shift, const struct attributes_file *from,
                    const struct attributes_file *to, const struct stat *st)
{
    uint32_t uid, gid;
    int rc = shift_owner(shift, st, st->st_uid, &uid);
    rc = rc < 0 ? rc : shift_owner(shift, st, st->st_gid, &gid);
    rc = rc < 0 ? rc : set_owner(to, uid, gid, st->st_mode);
    rc = rc < 0 ? rc : copy_extended(shift, from, to);
    if (rc < 0) {
        return rc;
    }
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    int failed = to->fd >= 0 ? futimens(to->fd, times)
                             : utimensat(to->folder_fd, to->name, times, AT_SYMLINK_NOFOLLOW);
    return failed < 0 ? -errno : 0;
}

int attributes_flags(int fd)
{
    int flags = 0;
    return ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ? 0 : flags & KEPT_FLAGS;
}

int attributes_set_flags(int fd, int flags)
{
    int old;
    if (flags == 0) {
        return 0;
    }
    if (ioctl(fd, FS_IOC_GETFLAGS, &old) < 0) {
        return -errno;
    }
    flags |= old;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}
