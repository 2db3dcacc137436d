#include "agent/unpack.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/host/file.h"

#define TRIES_MAX   256 /* of a lookup that races with a rename */
#define CHUNK       65536
#define FOLDER_OPEN (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

/* Descriptors here are -errno where there is none. */
static void close_fd(const int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
}
#define AUTO_CLOSE_FD __attribute__((cleanup(close_fd)))

/* A folder whose mode and time are set at the end, as files are still made in it. */
struct folder {
    struct folder *next;
    mode_t mode;
    struct timespec time;
    char path[];
};

struct unpack {
    int root;
    uint64_t resolve;
    struct folder *folders; /* the last one first */
};

/* Kernels before 5.6 have no openat2: one part after the other, and no links. */
static int open_slowly(int root, const char *path)
{
    char parts[PATH_MAX];
    (void)strncpy(parts, path, sizeof(parts) - 1);
    parts[sizeof(parts) - 1] = '\0';
    AUTO_CLOSE_FD int at = openat(root, ".", FOLDER_OPEN);
    for (char *rest = parts, *part; at >= 0 && (part = strsep(&rest, "/")) != NULL;) {
        if (part[0] != '\0') {
            int next = openat(at, part, FOLDER_OPEN | O_NOFOLLOW);
            close(at);
            at = next;
        }
    }
    return at < 0 ? -errno : TAKE_FD(at);
}

/* A folder below the root. 'path' has no "..". */
static int open_folder(const struct unpack *u, const char *path)
{
    struct open_how how = {.flags = FOLDER_OPEN, .resolve = u->resolve};
    for (int i = 0; i < TRIES_MAX; i++) {
        long fd = syscall(SYS_openat2, u->root, *path != '\0' ? path : ".", &how, sizeof(how));
        if (fd >= 0) {
            return (int)fd;
        }
        if (errno == ENOSYS) {
            return open_slowly(u->root, path);
        }
        if (errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
    }
    return -EAGAIN;
}

/* The path without "/" at its ends, "." and double "/". False: it has "..", or nothing is left of it. */
static bool clean_path(const char *path, char out[static PATH_MAX])
{
    size_t size = 0;
    while (*path != '\0') {
        size_t part = strcspn(path, "/");
        if (part == 2 && path[0] == '.' && path[1] == '.') {
            return false;
        }
        if (part > 0 && !(part == 1 && path[0] == '.')) {
            if (size > 0) {
                out[size++] = '/';
            }
            memcpy(out + size, path, part); /* never more than there was */
            size += part;
        }
        path += part + (path[part] == '/');
    }
    out[size] = '\0';
    return true;
}

/* The folder 'path', which is made where it is missing, as those above it are. */
static int make_folders(const struct unpack *u, char *path)
{
    int fd = open_folder(u, path);
    if (fd != -ENOENT || *path == '\0') {
        return fd;
    }
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    AUTO_CLOSE_FD int above = slash != NULL ? make_folders(u, path) : open_folder(u, "");
    if (slash != NULL) {
        *slash = '/';
    }
    if (above < 0) {
        return above;
    }
    if (mkdirat(above, slash != NULL ? slash + 1 : path, 0755) < 0) {
        return errno == EEXIST ? -ELOOP : -errno; /* a link that leads to nothing */
    }
    return open_folder(u, path);
}

/* The folder in which the entry lies; 'out_name' points into 'path', which is changed. */
static int open_parent(const struct unpack *u, char *path, char **out_name)
{
    char *slash = strrchr(path, '/');
    *out_name = slash != NULL ? slash + 1 : path;
    if (slash == NULL) {
        return open_folder(u, "");
    }
    *slash = '\0';
    int fd = make_folders(u, path);
    *slash = '/'; /* 'out_name' stays what it is */
    return fd;
}

static int fail(struct error *err, const struct tar_entry *e, int code)
{
    return code == EXDEV
               ? error_set(err, EXDEV, "%.160s: a link on the way leads out of the folder", e->path)
               : error_set_errno(err, code, "unpacking %.160s", e->path);
}

static int remember_folder(struct unpack *u, const char *path, const struct tar_entry *e)
{
    struct folder *folder = malloc(sizeof(*folder) + strlen(path) + 1);
    if (folder == NULL) {
        return -ENOMEM;
    }
    *folder = (struct folder){.next = u->folders, .mode = e->mode, .time = e->time};
    memcpy(folder->path, path, strlen(path) + 1);
    u->folders = folder;
    return 0;
}

/* A file that has the folder's name gives way. A link does not, even one that leads nowhere: the guest needs it. */
static int replace_file(const struct unpack *u, char *path, int code)
{
    char *name;
    struct stat status;
    AUTO_CLOSE_FD int parent = open_parent(u, path, &name);
    if (parent < 0 || fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
        S_ISLNK(status.st_mode)) {
        return code;
    }
    if (unlinkat(parent, name, 0) < 0 || mkdirat(parent, name, 0755) < 0) {
        return -errno;
    }
    int fd = openat(parent, name, FOLDER_OPEN | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int make_folder(struct unpack *u, char *path, const struct tar_entry *e)
{
    AUTO_CLOSE_FD int fd = make_folders(u, path);
    if (fd == -ENOTDIR) {
        fd = replace_file(u, path, fd);
    }
    if (fd < 0) {
        return fd;
    }
    return fchown(fd, e->uid, e->gid) < 0 ? -errno : remember_folder(u, path, e);
}

/* Where it is no folder, which takes -r to lose. */
static int clear_name(int parent, const char *name)
{
    return unlinkat(parent, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int write_file(int fd, struct tar_reader *reader, struct error *err)
{
    AUTO_FREE uint8_t *data = malloc(CHUNK);
    size_t size = data == NULL ? 0 : 1;
    int rc = data == NULL ? error_set_errno(err, ENOMEM, "unpacking") : 0;
    while (rc == 0 && size > 0) {
        rc = tar_read(reader, data, CHUNK, &size, err);
        rc = rc < 0 ? rc : file_write_all(fd, data, size, reader->entry.path, err);
    }
    return rc;
}

static int finish_file(int fd, const struct tar_entry *e)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, e->time};
    /* The owner first: a change of owners takes set-user-ID away. */
    return fchown(fd, e->uid, e->gid) < 0 || fchmod(fd, e->mode) < 0 || futimens(fd, times) < 0
               ? -errno
               : 0;
}

static int make_file(int parent, const char *name, struct tar_reader *reader, struct error *err)
{
    const struct tar_entry *e = &reader->entry;
    AUTO_CLOSE_FD int fd =
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail(err, e, errno);
    }
    int rc = write_file(fd, reader, err);
    if (rc == 0) {
        int code = -finish_file(fd, e);
        rc = code == 0 ? 0 : fail(err, e, code);
    }
    return rc;
}

static int make_hard_link(const struct unpack *u, int parent, const char *name, const char *target)
{
    char path[PATH_MAX], *old_name;
    if (!clean_path(target, path) || path[0] == '\0') {
        return -EXDEV;
    }
    AUTO_CLOSE_FD int from = open_parent(u, path, &old_name);
    if (from < 0) {
        return from;
    }
    return linkat(from, old_name, parent, name, 0) < 0 ? -errno : 0;
}

static int make_special(int parent, const char *name, const struct tar_entry *e)
{
    static const mode_t kind[] = {
        [TAR_CHARACTER] = S_IFCHR, [TAR_BLOCK_DEVICE] = S_IFBLK, [TAR_FIFO] = S_IFIFO};
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, e->time};
    bool is_link = e->type == TAR_LINK;
    int rc = is_link ? symlinkat(e->target, parent, name)
                     : mknodat(parent, name, kind[e->type] | 0600, makedev(e->major, e->minor));
    rc = rc < 0 ? rc : fchownat(parent, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW);
    rc = rc < 0 || is_link ? rc : fchmodat(parent, name, e->mode, 0);
    rc = rc < 0 ? rc : utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW);
    return rc < 0 ? -errno : 0;
}

static int make_entry(struct unpack *u, struct tar_reader *reader, struct error *err)
{
    const struct tar_entry *e = &reader->entry;
    char path[PATH_MAX], *name;
    if (!clean_path(e->path, path)) {
        return error_set(err, EXDEV, "%.160s: a name with \"..\" leads out of the folder", e->path);
    }
    int rc = 0;
    if (path[0] == '\0') { /* "./", the folder itself: it stays as it is */
        return 0;
    }
    if (e->type == TAR_FOLDER) {
        rc = make_folder(u, path, e);
        return rc < 0 ? fail(err, e, -rc) : 0;
    }
    AUTO_CLOSE_FD int parent = open_parent(u, path, &name);
    rc = parent < 0 ? parent : clear_name(parent, name);
    if (rc < 0) {
        return fail(err, e, -rc);
    }
    if (e->type == TAR_FILE) {
        return make_file(parent, name, reader, err);
    }
    rc = e->type == TAR_HARD_LINK ? make_hard_link(u, parent, name, e->target)
                                  : make_special(parent, name, e);
    return rc < 0 ? fail(err, e, -rc) : 0;
}

/* The deepest were remembered last. One that is gone meanwhile, or a link, is no matter. */
static void finish_folders(struct unpack *u)
{
    while (u->folders != NULL) {
        struct folder *folder = u->folders;
        const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, folder->time};
        AUTO_CLOSE_FD int fd = open_folder(u, folder->path);
        if (fd >= 0) {
            (void)fchmod(fd, folder->mode);
            (void)futimens(fd, times);
        }
        u->folders = folder->next;
        free(folder);
    }
}

/* Is it "/"? There absolute links lead to where they say. */
static bool is_whole_system(int root)
{
    struct stat ours, whole;
    return fstat(root, &ours) == 0 && stat("/", &whole) == 0 && ours.st_dev == whole.st_dev &&
           ours.st_ino == whole.st_ino;
}

int unpack(int root, struct tar_reader *reader, struct error *err)
{
    struct unpack u = {.root = root, .resolve = RESOLVE_NO_MAGICLINKS};
    u.resolve |= is_whole_system(root) ? RESOLVE_IN_ROOT : RESOLVE_BENEATH;
    int rc;
    while ((rc = tar_next(reader, err)) > 0) {
        rc = make_entry(&u, reader, err);
        if (rc < 0) {
            break;
        }
    }
    finish_folders(&u);
    return rc;
}
