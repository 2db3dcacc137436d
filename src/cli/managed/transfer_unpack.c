/* A tar stream of an instance becomes files here: nothing in it is trusted. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/transfer_stream.h"

#define CHUNK 65536

struct target {
    int folder;
    const char *name;    /* what the first part of all names becomes */
    char root[NAME_MAX]; /* that part; "": it is not known yet */
    unsigned left_out;
};

static int refuse(struct error *err, const char *path, const char *why)
{
    struct error clean;
    (void)client_error(&clean, EPROTO, path);
    return error_set(err, EPROTO, "%.120s: %s", clean.text, why);
}

static int fail(struct error *err, const char *path, int code)
{
    struct error clean;
    (void)client_error(&clean, EPROTO, path);
    return error_set_errno(err, code, "%.160s", clean.text);
}

/* The name in the stream as it is below our folder: without "." and empty parts, with our name in the place of its first. */
static int local_path(struct target *target, const char *path, char out[PATH_MAX],
                      struct error *err)
{
    size_t used = 0, parts = 0;
    while (*path != '\0') {
        size_t size = strcspn(path, "/");
        const char *part = path;
        path += size + (path[size] == '/');
        if (size == 0 || (size == 1 && part[0] == '.')) {
            continue;
        }
        if (size == 2 && part[0] == '.' && part[1] == '.') {
            return refuse(err, part, "a name with \"..\" leads out of the folder");
        }
        if (size >= NAME_MAX) {
            return refuse(err, part, "a name that is too long");
        }
        if (parts++ == 0) {
            if (target->root[0] == '\0') {
                memcpy(target->root, part, size);
                target->root[size] = '\0';
            }
            if (strncmp(target->root, part, size) != 0 || target->root[size] != '\0') {
                return refuse(err, part, "is not part of what was asked for");
            }
            part = target->name;
            size = strlen(part);
        }
        if (used + size + 2 > PATH_MAX) {
            return refuse(err, part, "a path that is too long");
        }
        if (used > 0) {
            out[used++] = '/';
        }
        memcpy(out + used, part, size);
        used += size;
    }
    out[used] = '\0';
    return 0;
}

/* Below the folder, without any link on the way. */
static int open_folder(int folder, const char *path)
{
    const struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                                 .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    long fd = syscall(SYS_openat2, folder, path[0] != '\0' ? path : ".", &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

/* The folder of that path, which is made where it is missing. Shortens 'path' meanwhile. */
static int make_folders(int folder, char *path, mode_t mode)
{
    int fd = open_folder(folder, path);
    if (fd != -ENOENT) {
        return fd;
    }
    char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    if (slash != NULL) {
        *slash = '\0';
    }
    AUTO_CLOSE int above = make_folders(folder, slash != NULL ? path : (char[]){""}, 0755);
    if (slash != NULL) {
        *slash = '/';
    }
    if (above < 0) {
        return above;
    }
    if (mkdirat(above, name, mode) < 0 && errno != EEXIST) {
        return -errno;
    }
    return open_folder(folder, path);
}

/* The folder in which it lies, and what it is called there; whatever has that name now, but a folder, is gone. */
static int make_room(int folder, char *path, const char **out_name)
{
    char *slash = strrchr(path, '/');
    *out_name = slash != NULL ? slash + 1 : path;
    if (slash != NULL) {
        *slash = '\0';
    }
    int fd = make_folders(folder, slash != NULL ? path : (char[]){""}, 0755);
    if (slash != NULL) {
        *slash = '/';
    }
    if (fd >= 0 && unlinkat(fd, *out_name, 0) < 0 && errno != ENOENT) {
        int code = errno;
        (void)close(fd);
        return -code;
    }
    return fd;
}

static int make_file(int parent, const char *name, struct tar_reader *reader, struct error *err)
{
    AUTO_CLOSE int fd =
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    AUTO_FREE uint8_t *data = malloc(CHUNK);
    if (fd < 0 || data == NULL) {
        return fail(err, reader->entry.path, fd < 0 ? errno : ENOMEM);
    }
    size_t size = 1;
    int rc = 0;
    while (rc == 0 && size > 0) {
        rc = tar_read(reader, data, CHUNK, &size, err);
        rc = rc < 0 ? rc : file_write_all(fd, data, size, name, err);
    }
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, reader->entry.time};
    if (rc == 0 && (fchmod(fd, reader->entry.mode & 0777) < 0 || futimens(fd, times) < 0)) {
        rc = fail(err, reader->entry.path, errno);
    }
    return rc;
}

static int make_link(struct target *target, int parent, const char *name,
                     const struct tar_entry *entry, struct error *err)
{
    if (entry->type == TAR_LINK) {
        return symlinkat(entry->target, parent, name) < 0 ? fail(err, entry->path, errno) : 0;
    }
    char path[PATH_MAX];
    int rc = local_path(target, entry->target, path, err);
    if (rc < 0) {
        return rc;
    }
    char *slash = strrchr(path, '/');
    const char *old_name = slash != NULL ? slash + 1 : path;
    if (slash != NULL) {
        *slash = '\0';
    }
    AUTO_CLOSE int from = open_folder(target->folder, slash != NULL ? path : "");
    if (from < 0) {
        return fail(err, entry->path, -from);
    }
    return linkat(from, old_name, parent, name, 0) < 0 ? fail(err, entry->path, errno) : 0;
}

static int make_entry(struct target *target, struct tar_reader *reader, struct error *err)
{
    const struct tar_entry *entry = &reader->entry;
    const char *name;
    char path[PATH_MAX];
    int rc = local_path(target, entry->path, path, err);
    if (rc < 0 || path[0] == '\0') {
        return rc;
    }
    if (entry->type == TAR_FOLDER) {
        AUTO_CLOSE int fd = make_folders(target->folder, path, 0755);
        if (fd < 0) {
            return fail(err, entry->path, -fd);
        }
        /* Ours to fill, whatever it may be there. */
        return fchmod(fd, (entry->mode & 0777) | 0700) < 0 ? fail(err, entry->path, errno) : 0;
    }
    if (entry->type != TAR_FILE && entry->type != TAR_LINK && entry->type != TAR_HARD_LINK) {
        struct error clean;
        (void)client_error(&clean, EPROTO, entry->path);
        (void)fprintf(stderr, "hull: %s: a device or pipe: left out\n", clean.text);
        target->left_out++;
        return 0;
    }
    AUTO_CLOSE int parent = make_room(target->folder, path, &name);
    if (parent < 0) {
        return fail(err, entry->path, -parent);
    }
    return entry->type == TAR_FILE ? make_file(parent, name, reader, err)
                                   : make_link(target, parent, name, entry, err);
}

int transfer_unpack(int folder, const char *name, struct tar_reader *reader, unsigned *out_left_out,
                    struct error *err)
{
    struct target target = {.folder = folder, .name = name};
    int rc;
    while ((rc = tar_next(reader, err)) > 0) {
        rc = make_entry(&target, reader, err);
        if (rc < 0) {
            return rc;
        }
    }
    *out_left_out = target.left_out;
    return rc == 0 && target.root[0] == '\0' ? error_set(err, ENODATA, "nothing came") : rc;
}
