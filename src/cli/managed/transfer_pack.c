/* A file or folder of this host becomes a tar stream. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/transfer_stream.h"

#define CHUNK     65536
#define MAX_DEPTH 128
#define MAX_OPEN  16

struct pack {
    struct transfer_stream *stream;
    unsigned left_out;
    char path[PATH_MAX]; /* in the stream */
};

static int pack_one(struct pack *pack, int folder, const char *name, int depth, struct error *err);

static int write_head(struct pack *pack, enum tar_type type, const struct stat *info, uint64_t size,
                      char *target, struct error *err)
{
    const struct tar_entry entry = {
        .type = type,
        .path = pack->path,
        .target = target,
        .mode = info->st_mode & 07777,
        .size = size,
        .time = info->st_mtim,
    };
    return tar_write_head(transfer_give, pack->stream, &entry, err);
}

/* As long as its head says, whatever becomes of it meanwhile. */
static int pack_file(struct pack *pack, int folder, const char *name, struct error *err)
{
    struct stat info;
    AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    AUTO_FREE uint8_t *data = malloc(CHUNK);
    if (fd < 0 || fstat(fd, &info) < 0 || data == NULL) {
        return error_set_errno(err, data == NULL ? ENOMEM : errno, "%.160s", pack->path);
    }
    if (!S_ISREG(info.st_mode)) {
        return error_set(err, EBUSY, "%.160s: was replaced meanwhile", pack->path);
    }
    uint64_t left = (uint64_t)info.st_size;
    int rc = write_head(pack, TAR_FILE, &info, left, (char[]){""}, err);
    while (rc == 0 && left > 0) {
        ssize_t got = read(fd, data, MIN(left, (uint64_t)CHUNK));
        if (got < 0 && errno != EINTR) {
            rc = error_set_errno(err, errno, "%.160s", pack->path);
        } else if (got == 0) {
            rc = error_set(err, EIO, "%.160s: has become shorter meanwhile", pack->path);
        } else if (got > 0) {
            rc = transfer_give(pack->stream, data, (size_t)got, err);
            left -= (uint64_t)got;
        }
    }
    return rc < 0 ? rc
                  : tar_write_padding(transfer_give, pack->stream, (uint64_t)info.st_size, err);
}

static int pack_folder(struct pack *pack, int folder, const char *name, const struct stat *info,
                       int depth, struct error *err)
{
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (listing == NULL) {
        int code = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return error_set_errno(err, code, "%.160s", pack->path);
    }
    int rc = write_head(pack, TAR_FOLDER, info, 0, (char[]){""}, err);
    size_t length = strlen(pack->path);
    while (rc == 0) {
        errno = 0;
        const struct dirent *entry = readdir(listing);
        if (entry == NULL) {
            rc = errno == 0 ? 0 : error_set_errno(err, errno, "%.160s", pack->path);
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (length + strlen(entry->d_name) + 2 > sizeof(pack->path)) {
            rc = error_set(err, ENAMETOOLONG, "%.160s: a path below it is too long", pack->path);
            break;
        }
        (void)snprintf(pack->path + length, sizeof(pack->path) - length, "/%s", entry->d_name);
        rc = pack_one(pack, fd, entry->d_name, depth + 1, err);
        pack->path[length] = '\0';
    }
    (void)closedir(listing);
    return rc;
}

static int pack_one(struct pack *pack, int folder, const char *name, int depth, struct error *err)
{
    struct stat info;
    char target[PATH_MAX];
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) < 0) {
        return error_set_errno(err, errno, "%.160s", pack->path);
    }
    if (S_ISREG(info.st_mode)) {
        return pack_file(pack, folder, name, err);
    }
    if (S_ISDIR(info.st_mode)) {
        return depth < MAX_DEPTH ? pack_folder(pack, folder, name, &info, depth, err)
                                 : error_set(err, ELOOP, "%.160s: folders in folders, more than %d",
                                             pack->path, MAX_DEPTH);
    }
    if (S_ISLNK(info.st_mode)) {
        ssize_t size = readlinkat(folder, name, target, sizeof(target) - 1);
        if (size < 0) {
            return error_set_errno(err, errno, "%.160s", pack->path);
        }
        target[size] = '\0';
        return write_head(pack, TAR_LINK, &info, 0, target, err);
    }
    (void)fprintf(stderr, "hull: %s: a device, pipe or socket: left out\n", pack->path);
    pack->left_out++;
    return 0;
}

int transfer_pack(const char *path, const char *name, struct transfer_stream *stream,
                  unsigned *out_left_out, struct error *err)
{
    struct pack pack = {.stream = stream};
    struct stat info;
    char real[PATH_MAX];
    if (stat(path, &info) < 0 || realpath(path, real) == NULL) { /* of a link what it means */
        return error_set_errno(err, errno, "%.160s", path);
    }
    (void)snprintf(pack.path, sizeof(pack.path), "%s", name);
    int rc = pack_one(&pack, AT_FDCWD, real, 0, err);
    rc = rc < 0 ? rc : tar_write_end(transfer_give, stream, err);
    *out_left_out = pack.left_out;
    return rc;
}

/* nftw() has no context. */
static uint64_t measured;

static int add(const char *path, const struct stat *info, int type, struct FTW *where)
{
    measured += TAR_BLOCK;
    if (type == FTW_F && S_ISREG(info->st_mode)) {
        measured += ((uint64_t)info->st_size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    }
    return 0;
}

uint64_t transfer_measure(const char *path)
{
    char real[PATH_MAX];
    measured = 0;
    if (realpath(path, real) != NULL) {
        (void)nftw(real, add, MAX_OPEN, FTW_PHYS);
    }
    return measured;
}
