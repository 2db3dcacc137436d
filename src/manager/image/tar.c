#include "manager/image/tar.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/tar_reader.h"

#define MAX_DEPTH     400
#define PIECE         (256u << 10)
#define WHITEOUT      ".wh."
#define WHITEOUT_AUFS ".wh..wh."
#define OPAQUE        ".wh..wh..opq"

/* Of what is a descriptor, or -errno. */
static inline void close_found(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}
#define AUTO_FOUND __attribute__((cleanup(close_found)))

struct tar_times {
    struct folder_time {
        char *path;
        struct timespec mtime;
    } * folders;
    size_t count, room;
};

struct tar_times *tar_times_new(void)
{
    return calloc(1, sizeof(struct tar_times));
}

void tar_times_free(struct tar_times *times)
{
    for (size_t i = 0; times != NULL && i < times->count; i++) {
        free(times->folders[i].path);
    }
    free(times != NULL ? times->folders : NULL);
    free(times);
}

static int add_time(struct tar_times *times, const char *path, const struct timespec *mtime)
{
    if (times->count == times->room) {
        size_t room = times->room == 0 ? 256 : times->room * 2;
        struct folder_time *more = reallocarray(times->folders, room, sizeof(*more));
        if (more == NULL) {
            return -ENOMEM;
        }
        times->folders = more;
        times->room = room;
    }
    char *own = strdup(path);
    if (own == NULL) {
        return -ENOMEM;
    }
    times->folders[times->count++] = (struct folder_time){own, *mtime};
    return 0;
}

/* Links on the way lead to where they would lead if the root were the root of all. -errno. */
static int open_below(int root_fd, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC),
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, root_fd, path[0] != '\0' ? path : ".", &how, sizeof(how));
    return fd < 0 ? -errno : fd;
}

/* The folder of an entry; those that no archive has named are made. -errno. */
static int open_parent(int root_fd, const char *path, bool is_made, const char **out_name)
{
    char folder[PATH_MAX] = "";
    const char *slash = strrchr(path, '/');
    *out_name = slash != NULL ? slash + 1 : path;
    if (slash != NULL) {
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
    }
    int fd = open_below(root_fd, folder, O_PATH | O_DIRECTORY);
    for (size_t i = 1; fd == -ENOENT && is_made && i <= strlen(folder); i++) {
        if (folder[i] != '/' && folder[i] != '\0') {
            continue;
        }
        char part[PATH_MAX];
        const char *name;
        (void)snprintf(part, sizeof(part), "%.*s", (int)i, folder);
        AUTO_FOUND int above = open_parent(root_fd, part, false, &name);
        if (above < 0) {
            return above;
        }
        if (mkdirat(above, name, 0755) < 0 && errno != EEXIST) {
            return -errno;
        }
        fd = folder[i] == '\0' ? open_below(root_fd, folder, O_PATH | O_DIRECTORY) : fd;
    }
    return fd;
}

/* Whatever it is, with all that is in it. -errno. */
static int remove_at(int folder_fd, const char *name, unsigned depth)
{
    if (unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR && errno != EPERM) {
        return -errno;
    }
    int fd = depth == MAX_DEPTH
                 ? -1
                 : openat(folder_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        int code = depth == MAX_DEPTH ? ELOOP : errno;
        if (fd >= 0) {
            close(fd);
        }
        return -code;
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = remove_at(dirfd(dir), entry->d_name, depth + 1);
        }
    }
    (void)closedir(dir); /* nothing was written by it */
    return rc == 0 && unlinkat(folder_fd, name, AT_REMOVEDIR) < 0 ? -errno : rc;
}

/* All that is in a folder. */
static int make_opaque(int root_fd, const char *path)
{
    char folder[PATH_MAX] = "";
    const char *slash = strrchr(path, '/');
    if (slash != NULL) {
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
    }
    int fd = open_below(root_fd, folder, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return fd == -ENOENT || fd == -ENOTDIR ? 0 : fd < 0 ? fd : -ENOMEM;
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = remove_at(dirfd(dir), entry->d_name, 0);
        }
    }
    (void)closedir(dir); /* nothing was written by it */
    return rc;
}

static bool is_whiteout(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strncmp(slash != NULL ? slash + 1 : path, WHITEOUT, strlen(WHITEOUT)) == 0;
}

static int apply_whiteout(int root_fd, const char *path)
{
    const char *name;
    AUTO_FOUND int parent = open_parent(root_fd, path, false, &name);
    if (parent == -ENOENT || parent == -ENOTDIR) {
        return 0;
    }
    if (parent < 0) {
        return parent;
    }
    if (strcmp(name, OPAQUE) == 0) {
        return make_opaque(root_fd, path);
    }
    const char *hidden = name + strlen(WHITEOUT);
    if (strncmp(name, WHITEOUT_AUFS, strlen(WHITEOUT_AUFS)) == 0) {
        return 0; /* aufs' own */
    }
    return hidden[0] == '\0' || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0
               ? -EBADMSG
               : remove_at(parent, hidden, 0);
}

static int copy_content(const struct tar_layer *layer, struct tar_reader *reader, int fd,
                        uint64_t size, struct error *err)
{
    AUTO_FREE uint8_t *piece = malloc(PIECE);
    if (piece == NULL) {
        return error_set_errno(err, ENOMEM, "unpacking the layer");
    }
    while (size > 0) {
        size_t part = (size_t)MIN(size, PIECE);
        int rc = tar_reader_content(reader, piece, part, err);
        rc = rc < 0 ? rc : file_write_all(fd, piece, part, "a file of the layer", err);
        if (rc < 0) {
            return rc;
        }
        if (layer->poll != NULL && layer->poll(layer->ctx) != 0) {
            return error_set(err, ECANCELED, "unpacking the layer: cancelled");
        }
        size -= part;
    }
    return 0;
}

static int set_attributes(int fd, const struct tar_entry *entry)
{
    for (size_t i = 0; i < entry->attribute_count; i++) {
        const struct tar_attribute *a = &entry->attributes[i];
        /* What a file system does not have is no loss that anybody can help. */
        if (fsetxattr(fd, a->name, a->value, a->size, 0) < 0 && errno != EOPNOTSUPP) {
            return -errno;
        }
    }
    return 0;
}

static int put_file(const struct tar_layer *layer, struct tar_reader *reader,
                    const struct tar_entry *entry, int parent, const char *name, struct error *err)
{
    const struct timespec times[2] = {entry->mtime, entry->mtime};
    AUTO_CLOSE int fd =
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "unpacking %.150s", entry->path);
    }
    int rc = copy_content(layer, reader, fd, entry->size, err);
    if (rc < 0) {
        return rc;
    }
    rc = fchown(fd, entry->uid, entry->gid) < 0 || fchmod(fd, entry->mode) < 0
             ? -errno
             : set_attributes(fd, entry);
    rc = rc == 0 && futimens(fd, times) < 0 ? -errno : rc;
    return rc < 0 ? error_set_errno(err, -rc, "unpacking %.150s", entry->path) : 0;
}

/* -errno. */
static int put_folder(const struct tar_layer *layer, const struct tar_entry *entry, int parent,
                      const char *name)
{
    struct stat st;
    if (name[0] != '\0' && mkdirat(parent, name, 0700) < 0) {
        if (errno != EEXIST || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            return -errno;
        }
        int rc = S_ISDIR(st.st_mode) ? 0 : remove_at(parent, name, 0);
        if (rc < 0 || (!S_ISDIR(st.st_mode) && mkdirat(parent, name, 0700) < 0)) {
            return rc < 0 ? rc : -errno;
        }
    }
    AUTO_CLOSE int fd = openat(parent, name[0] != '\0' ? name : ".",
                               O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fchown(fd, entry->uid, entry->gid) < 0 || fchmod(fd, entry->mode) < 0) {
        return -errno;
    }
    int rc = set_attributes(fd, entry);
    return rc < 0 ? rc : add_time(layer->times, entry->path, &entry->mtime);
}

static int put_link(int root_fd, const struct tar_entry *entry, int parent, const char *name)
{
    const char *target;
    AUTO_FOUND int from = open_parent(root_fd, entry->link, false, &target);
    return from < 0 ? from : linkat(from, target, parent, name, 0) < 0 ? -errno : 0;
}

/* Links, devices, pipes. */
static int put_node(int root_fd, const struct tar_entry *entry, int parent, const char *name)
{
    const struct timespec times[2] = {entry->mtime, entry->mtime};
    mode_t kind = entry->type == TAR_CHARACTER ? S_IFCHR
                  : entry->type == TAR_BLOCK   ? S_IFBLK
                                               : S_IFIFO;
    if (entry->type == TAR_HARD_LINK) {
        return put_link(root_fd, entry, parent, name);
    }
    if (entry->type == TAR_CHARACTER && entry->major == 0 && entry->minor == 0) {
        return 0; /* overlayfs would take it for a whiteout */
    }
    bool is_made = entry->type == TAR_SYMLINK ? symlinkat(entry->link, parent, name) == 0
                                              : mknodat(parent, name, kind | 0600,
                                                        makedev(entry->major, entry->minor)) == 0;
    if (!is_made || fchownat(parent, name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        (entry->type != TAR_SYMLINK && fchmodat(parent, name, entry->mode, 0) < 0) ||
        utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0) {
        return -errno;
    }
    return 0;
}

static int put_entry(const struct tar_layer *layer, struct tar_reader *reader,
                     const struct tar_entry *entry, struct error *err)
{
    const char *name;
    if (entry->path[0] == '\0' && entry->type != TAR_FOLDER) {
        return error_set(err, EBADMSG, "unpacking the layer: a file without a name");
    }
    AUTO_FOUND int parent = open_parent(layer->root_fd, entry->path, true, &name);
    int rc = parent < 0 ? parent : 0;
    if (rc == 0 && entry->type == TAR_FOLDER) {
        rc = put_folder(layer, entry, parent, name);
    } else if (rc == 0) {
        rc = remove_at(parent, name, 0);
        if (rc == 0 && entry->type == TAR_FILE) {
            return put_file(layer, reader, entry, parent, name, err);
        }
        rc = rc < 0 ? rc : put_node(layer->root_fd, entry, parent, name);
    }
    return rc < 0 ? error_set_errno(err, -rc, "unpacking %.150s", entry->path) : 0;
}

static int pass(const struct tar_layer *layer, bool is_for_whiteouts, struct error *err)
{
    struct tar_entry entry;
    struct tar_reader *reader;
    int rc = tar_reader_open(layer->fd, &reader, err);
    if (rc < 0) {
        return rc;
    }
    for (;;) {
        rc = tar_reader_next(reader, &entry, err);
        if (rc <= 0) {
            break;
        }
        if (layer->poll != NULL && layer->poll(layer->ctx) != 0) {
            rc = error_set(err, ECANCELED, "unpacking the layer: cancelled");
            break;
        }
        rc = 0;
        if (is_for_whiteouts && is_whiteout(entry.path)) {
            rc = apply_whiteout(layer->root_fd, entry.path);
            rc = rc < 0 ? error_set_errno(err, -rc, "unpacking %.150s", entry.path) : 0;
        } else if (!is_for_whiteouts && !is_whiteout(entry.path)) {
            rc = put_entry(layer, reader, &entry, err);
        }
        if (rc < 0) {
            break;
        }
    }
    tar_reader_close(reader);
    return rc;
}

int tar_unpack(const struct tar_layer *layer, struct error *err)
{
    int rc = pass(layer, true, err);
    return rc < 0 ? rc : pass(layer, false, err);
}

int tar_set_times(const struct tar_times *times, int root_fd, struct error *err)
{
    for (size_t i = 0; i < times->count; i++) {
        const struct folder_time *folder = &times->folders[i];
        const struct timespec both[2] = {folder->mtime, folder->mtime};
        AUTO_FOUND int fd = open_below(root_fd, folder->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (fd >= 0 && futimens(fd, both) < 0) { /* a later layer may have taken it away */
            return error_set_errno(err, errno, "unpacking %.150s", folder->path);
        }
    }
    return 0;
}
