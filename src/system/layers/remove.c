/* Trees that go. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"
#include "container/runtime/fault.h"
#include "system/layers/layers.h"
#include "system/layers/place.h"
#include "system/layers/remove.h"
#include "system/layers/walk.h"

#define NAME_TRIES 8

/* Flags against removal, of an open file or folder. */
static void clear_flags(int fd)
{
    int flags;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))) {
        flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
        (void)ioctl(fd, FS_IOC_SETFLAGS, &flags); /* what needed it says so again */
    }
}

/* Only files and folders are opened: a device could do something then. */
static void clear_flags_of(int folder_fd, const char *name)
{
    struct stat st;
    clear_flags(folder_fd);
    if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
        return;
    }
    AUTO_HANDLE int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        clear_flags(fd);
    }
}

static int unlink_entry(int folder_fd, const char *name, int flags)
{
    if (unlinkat(folder_fd, name, flags) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EPERM) {
        return -errno;
    }
    clear_flags_of(folder_fd, name);
    return unlinkat(folder_fd, name, flags) < 0 && errno != ENOENT ? -errno : 0;
}

/* Removes an entry, or goes into it where it is a folder. */
static int remove_entry(struct walk *walk, const struct dirent *entry)
{
    if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN) {
        int fd = walk_open_folder(walk_fd(walk), entry->d_name);
        if (fd >= 0) {
            return walk_enter(walk, fd, -1, entry->d_name);
        }
        if (fd == -ENOENT) {
            return 0; /* another removes what a killed one has left, too */
        }
        if (fd != -ENOTDIR && fd != -ELOOP) {
            return fd == -EXDEV ? -EBUSY : fd;
        }
    }
    return unlink_entry(walk_fd(walk), entry->d_name, 0);
}

int remove_tree(int folder_fd, const char *name, struct error *err)
{
    AUTO_WALK struct walk walk = {.removes = true};
    int fd = walk_open_folder(folder_fd, name);
    int rc = fd < 0 ? fd : walk_enter(&walk, fd, -1, name);
    char text[WALK_PATH_SIZE] = "";
    while (rc == 0 && walk.count > 0) {
        const struct dirent *entry;
        rc = walk_next(&walk, &entry);
        if (rc > 0) {
            rc = remove_entry(&walk, entry);
            if (rc < 0) {
                (void)walk_path(&walk, entry->d_name, text);
            }
        } else if (rc == 0) {
            char done[NAME_MAX + 1];
            (void)snprintf(done, sizeof(done), "%s", walk_name(&walk));
            rc = walk_leave(&walk);
            rc = rc < 0 ? rc
                        : unlink_entry(walk.count > 0 ? walk_fd(&walk) : folder_fd, done,
                                       AT_REMOVEDIR);
        }
    }
    if (rc == -EBUSY) {
        return error_set(err, EBUSY, "removing %s: something is mounted there", text);
    }
    return rc < 0 ? error_set_errno(err, -rc, "removing %s", text) : 0;
}

/* /proc/self/mountinfo writes blanks and the like as "\040". */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        bool is_escaped = from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
                          from[2] <= '7' && from[3] >= '0' && from[3] <= '7';
        *to = is_escaped ? (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'))
                         : *from;
        from += is_escaped ? 4 : 1;
    }
    *to = '\0';
}

/* Finds mounts before anything is gone. What it cannot know, removing finds where it gets there. */
static int check_mounts(const struct place *place, struct error *err)
{
    char link[64], tree[PATH_MAX + NAME_MAX + 2];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", place->folder);
    ssize_t length = readlink(link, tree, PATH_MAX - 1);
    FILE *list = length < 0 ? NULL : fopen("/proc/self/mountinfo", "re");
    if (list == NULL) {
        return 0;
    }
    length = length == 1 ? 0 : length; /* "/" */
    length += snprintf(tree + length, sizeof(tree) - (size_t)length, "/%s", place->name);
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    int rc = 0;
    while (rc == 0 && getline(&line, &size, list) > 0) {
        char *rest = line;
        for (int field = 0; field < 4 && rest != NULL; field++) {
            rest = strchr(rest, ' ');
            rest = rest == NULL ? NULL : rest + 1;
        }
        if (rest == NULL) {
            continue;
        }
        rest[strcspn(rest, " \n")] = '\0';
        unescape(rest);
        if (strncmp(rest, tree, (size_t)length) == 0 &&
            (rest[length] == '\0' || rest[length] == '/')) {
            rc = error_set(err, EBUSY, "removing %.100s: something is mounted at %.100s", tree,
                           rest);
        }
    }
    (void)fclose(list);
    return rc;
}

/* What is called so while it is removed, be it what somebody who was killed has left. Others may take a part in it. */
static int remove_renamed(const struct place *place, const char *name, const char *path,
                          struct error *err)
{
    struct stat st;
    if (fstatat(place->folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "removing %s", path);
    }
    int rc = remove_tree(place->folder, name, err);
    return rc < 0 && rc != -ENOENT ? error_prefix(err, rc, "%s", path) : 0;
}

static int rename_away(const struct place *place, const char *name, const char *path,
                       struct error *err)
{
    int rc = -EEXIST;
    for (unsigned i = 0; i < NAME_TRIES && (rc == -EEXIST || rc == -EPERM); i++) {
        int left = remove_renamed(place, name, path, err);
        if (left < 0) {
            return left;
        }
        rc = renameat2(place->folder, place->name, place->folder, name, RENAME_NOREPLACE) < 0
                 ? -errno
                 : 0;
        if (rc == -EPERM) {
            clear_flags_of(place->folder, place->name);
        }
    }
    return rc < 0 ? error_set_errno(err, -rc, "removing %s", path) : 0;
}

int layers_remove(const char *path, struct error *err)
{
    AUTO_PLACE struct place place = {.folder = -1};
    struct error reason = {0};
    int rc = layers_place_open(path, &place, &reason);
    if (rc == -ENOENT) {
        return 0;
    }
    if (rc < 0) {
        return error_set(err, -rc, "%s", reason.text);
    }
    char name[PLACE_NAME_SIZE];
    place_name_removed(&place, name);
    struct stat st;
    if (fstatat(place.folder, place.name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? remove_renamed(&place, name, path, err)
                               : error_set_errno(err, errno, "removing %s", path);
    }
    rc = check_mounts(&place, err);
    if (rc < 0) {
        return rc;
    }
    if (!S_ISDIR(st.st_mode)) {
        rc = unlink_entry(place.folder, place.name, 0);
        return rc < 0 ? error_set_errno(err, -rc, "removing %s", path) : 0;
    }
    rc = rename_away(&place, name, path, err);
    if (rc < 0) {
        return rc;
    }
    fault_step("renamed-away");
    rc = remove_renamed(&place, name, path, err);
    if (rc < 0) { /* what is left is found where it was, to try again */
        (void)renameat2(place.folder, name, place.folder, place.name, RENAME_NOREPLACE);
    }
    return rc;
}
