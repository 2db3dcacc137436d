/* One row for each option: config.md (Linux mount options), and what runc and crun know beside those. Sorted by name. A file
 * system's own flags are the same for all below (rsync is sync). */
#include "container/spec/mount_options.h"

#include <linux/mount.h>
#include <stddef.h>
#include <string.h>

#include "base/core/compiler.h"

/* linux/mount.h and sys/mount.h do not go together in every libc. */
#ifndef MS_SYNCHRONOUS
#include <linux/fs.h>
#endif

enum option_kind {
    OPTION_SET, /* MOUNT_ATTR_* of the mount */
    OPTION_CLEAR,
    OPTION_SET_RECURSIVE, /* and of those below */
    OPTION_CLEAR_RECURSIVE,
    OPTION_SET_SUPERBLOCK, /* MS_* of the file system */
    OPTION_CLEAR_SUPERBLOCK,
    OPTION_READ_ONLY, /* mount and file system */
    OPTION_READ_WRITE,
    OPTION_PROPAGATION,
    OPTION_BIND,
    OPTION_BIND_RECURSIVE,
    OPTION_IDMAP,
    OPTION_IDMAP_RECURSIVE,
    OPTION_REMOUNT,
    OPTION_COPY_UP,
    OPTION_IGNORED,
};

struct option {
    const char *name;
    enum option_kind kind;
    unsigned long value;
};

static const struct option options[] = {
    {"async", OPTION_CLEAR_SUPERBLOCK, MS_SYNCHRONOUS},
    {"atime", OPTION_CLEAR, MOUNT_ATTR_NOATIME},
    {"bind", OPTION_BIND},
    {"defaults", OPTION_IGNORED},
    {"dev", OPTION_CLEAR, MOUNT_ATTR_NODEV},
    {"diratime", OPTION_CLEAR, MOUNT_ATTR_NODIRATIME},
    {"dirsync", OPTION_SET_SUPERBLOCK, MS_DIRSYNC},
    {"exec", OPTION_CLEAR, MOUNT_ATTR_NOEXEC},
    {"idmap", OPTION_IDMAP},
    {"iversion", OPTION_SET_SUPERBLOCK, MS_I_VERSION},
    {"lazytime", OPTION_SET_SUPERBLOCK, MS_LAZYTIME},
    {"loud", OPTION_CLEAR_SUPERBLOCK, MS_SILENT},
    {"mand", OPTION_SET_SUPERBLOCK, MS_MANDLOCK},
    {"noatime", OPTION_SET, MOUNT_ATTR_NOATIME},
    {"nodev", OPTION_SET, MOUNT_ATTR_NODEV},
    {"nodiratime", OPTION_SET, MOUNT_ATTR_NODIRATIME},
    {"noexec", OPTION_SET, MOUNT_ATTR_NOEXEC},
    {"noiversion", OPTION_CLEAR_SUPERBLOCK, MS_I_VERSION},
    {"nolazytime", OPTION_CLEAR_SUPERBLOCK, MS_LAZYTIME},
    {"nomand", OPTION_CLEAR_SUPERBLOCK, MS_MANDLOCK},
    {"norelatime", OPTION_CLEAR, MOUNT_ATTR_RELATIME},
    {"nostrictatime", OPTION_CLEAR, MOUNT_ATTR_STRICTATIME},
    {"nosuid", OPTION_SET, MOUNT_ATTR_NOSUID},
    {"nosymfollow", OPTION_SET, MOUNT_ATTR_NOSYMFOLLOW},
    {"private", OPTION_PROPAGATION, MS_PRIVATE},
    {"rasync", OPTION_CLEAR_SUPERBLOCK, MS_SYNCHRONOUS},
    {"ratime", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NOATIME},
    {"rbind", OPTION_BIND_RECURSIVE},
    {"rdev", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NODEV},
    {"rdiratime", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NODIRATIME},
    {"rdirsync", OPTION_SET_SUPERBLOCK, MS_DIRSYNC},
    {"relatime", OPTION_SET, MOUNT_ATTR_RELATIME},
    {"remount", OPTION_REMOUNT},
    {"rexec", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NOEXEC},
    {"ridmap", OPTION_IDMAP_RECURSIVE},
    {"rmand", OPTION_SET_SUPERBLOCK, MS_MANDLOCK},
    {"rnoatime", OPTION_SET_RECURSIVE, MOUNT_ATTR_NOATIME},
    {"rnodev", OPTION_SET_RECURSIVE, MOUNT_ATTR_NODEV},
    {"rnodiratime", OPTION_SET_RECURSIVE, MOUNT_ATTR_NODIRATIME},
    {"rnoexec", OPTION_SET_RECURSIVE, MOUNT_ATTR_NOEXEC},
    {"rnomand", OPTION_CLEAR_SUPERBLOCK, MS_MANDLOCK},
    {"rnorelatime", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_RELATIME},
    {"rnostrictatime", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_STRICTATIME},
    {"rnosuid", OPTION_SET_RECURSIVE, MOUNT_ATTR_NOSUID},
    {"rnosymfollow", OPTION_SET_RECURSIVE, MOUNT_ATTR_NOSYMFOLLOW},
    {"ro", OPTION_READ_ONLY},
    {"rprivate", OPTION_PROPAGATION, MS_PRIVATE | MS_REC},
    {"rrelatime", OPTION_SET_RECURSIVE, MOUNT_ATTR_RELATIME},
    {"rro", OPTION_SET_RECURSIVE, MOUNT_ATTR_RDONLY},
    {"rrw", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_RDONLY},
    {"rshared", OPTION_PROPAGATION, MS_SHARED | MS_REC},
    {"rslave", OPTION_PROPAGATION, MS_SLAVE | MS_REC},
    {"rstrictatime", OPTION_SET_RECURSIVE, MOUNT_ATTR_STRICTATIME},
    {"rsuid", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NOSUID},
    {"rsymfollow", OPTION_CLEAR_RECURSIVE, MOUNT_ATTR_NOSYMFOLLOW},
    {"rsync", OPTION_SET_SUPERBLOCK, MS_SYNCHRONOUS},
    {"runbindable", OPTION_PROPAGATION, MS_UNBINDABLE | MS_REC},
    {"rw", OPTION_READ_WRITE},
    {"shared", OPTION_PROPAGATION, MS_SHARED},
    {"silent", OPTION_SET_SUPERBLOCK, MS_SILENT},
    {"slave", OPTION_PROPAGATION, MS_SLAVE},
    {"strictatime", OPTION_SET, MOUNT_ATTR_STRICTATIME},
    {"suid", OPTION_CLEAR, MOUNT_ATTR_NOSUID},
    {"symfollow", OPTION_CLEAR, MOUNT_ATTR_NOSYMFOLLOW},
    {"sync", OPTION_SET_SUPERBLOCK, MS_SYNCHRONOUS},
    {"tmpcopyup", OPTION_COPY_UP},
    {"unbindable", OPTION_PROPAGATION, MS_UNBINDABLE},
};

const char *mount_option_name(size_t index)
{
    return index < ARRAY_COUNT(options) ? options[index].name : NULL;
}

/* How access times are kept is one value of several bits: a new one replaces the old one, and for mount_setattr(2) all the bits
 * must be among the cleared. norelatime is nothing: relatime is what the kernel falls back to. */
static void change_time(uint64_t *set, uint64_t *cleared, uint64_t value, bool is_set)
{
    if (is_set || (*set & MOUNT_ATTR__ATIME) == value) {
        *set = (*set & ~(uint64_t)MOUNT_ATTR__ATIME) | (is_set ? value : MOUNT_ATTR_RELATIME);
    }
    if (is_set || value != MOUNT_ATTR_RELATIME) {
        *cleared |= MOUNT_ATTR__ATIME;
    }
}

static void change(uint64_t *set, uint64_t *cleared, uint64_t value, bool is_set)
{
    if ((value & ~(uint64_t)MOUNT_ATTR__ATIME) == 0) {
        change_time(set, cleared, value, is_set);
        return;
    }
    *set = is_set ? *set | value : *set & ~value;
    *cleared = is_set ? *cleared & ~value : *cleared | value;
}

static void change_superblock(struct spec_mount *mount, unsigned long flag, bool is_set)
{
    mount->superblock_flags =
        is_set ? mount->superblock_flags | flag : mount->superblock_flags & ~flag;
    mount->superblock_cleared =
        is_set ? mount->superblock_cleared & ~flag : mount->superblock_cleared | flag;
}

static void apply(struct spec_mount *mount, const struct option *option)
{
    bool is_set = option->kind == OPTION_SET || option->kind == OPTION_SET_RECURSIVE ||
                  option->kind == OPTION_SET_SUPERBLOCK || option->kind == OPTION_READ_ONLY;
    switch (option->kind) {
    case OPTION_SET:
    case OPTION_CLEAR:
        change(&mount->attributes_set, &mount->attributes_cleared, option->value, is_set);
        break;
    case OPTION_SET_RECURSIVE:
    case OPTION_CLEAR_RECURSIVE:
        change(&mount->recursive_attributes_set, &mount->recursive_attributes_cleared,
               option->value, is_set);
        break;
    case OPTION_SET_SUPERBLOCK:
    case OPTION_CLEAR_SUPERBLOCK:
        change_superblock(mount, option->value, is_set);
        break;
    case OPTION_READ_ONLY:
    case OPTION_READ_WRITE:
        change(&mount->attributes_set, &mount->attributes_cleared, MOUNT_ATTR_RDONLY, is_set);
        change_superblock(mount, MS_RDONLY, is_set);
        break;
    case OPTION_PROPAGATION:
        mount->propagation = option->value;
        break;
    case OPTION_BIND:
    case OPTION_BIND_RECURSIVE:
        mount->is_bind = true;
        mount->is_recursive_bind |= option->kind == OPTION_BIND_RECURSIVE;
        break;
    case OPTION_IDMAP:
    case OPTION_IDMAP_RECURSIVE:
        mount->has_idmap = true;
        mount->is_recursive_idmap |= option->kind == OPTION_IDMAP_RECURSIVE;
        break;
    case OPTION_REMOUNT:
        mount->is_remount = true;
        break;
    case OPTION_COPY_UP:
        mount->copies_up = true;
        break;
    case OPTION_IGNORED:
        break;
    }
}

/* 'name' against 'option', as strcmp. */
static int compare(const char *option, size_t length, const char *name)
{
    int order = strncmp(option, name, length);
    return order != 0 ? order : name[length] == '\0' ? 0 : -1;
}

bool mount_option_apply(struct spec_mount *mount, const char *option, size_t length)
{
    size_t low = 0, high = ARRAY_COUNT(options);
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = compare(option, length, options[middle].name);
        if (order == 0) {
            apply(mount, &options[middle]);
            return true;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    /* Those of other programs: mount(8). */
    return length == 0 ||
           (length >= 2 && (option[0] == 'x' || option[0] == 'X') && option[1] == '-');
}
