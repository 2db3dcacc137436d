#include "manager/operation/reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

bool reserve_serves(const char *kind, const json_t *request)
{
    static const char *const kinds[] = {"instance-delete", "image-delete", "image-prune",
                                        "volume-delete",   "pool-delete",  "network-delete",
                                        "template-delete"};
    const char *what = json_string_value(json_object_get(request, "do"));
    for (size_t i = 0; kind != NULL && i < ARRAY_COUNT(kinds); i++) {
        if (strcmp(kind, kinds[i]) == 0) {
            return true;
        }
    }
    return kind != NULL && strcmp(kind, "instance-snapshot") == 0 && what != NULL &&
           strcmp(what, "delete") == 0;
}

static int open_reserve(const struct place *place, int flags, off_t *out_size)
{
    char path[PATH_MAX];
    struct stat info;
    place_state_path(place, RESERVE_FILE, NULL, NULL, path);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd < 0 || fstat(fd, &info) < 0 || !S_ISREG(info.st_mode)) {
        return -1;
    }
    *out_size = info.st_size;
    return TAKE_FD(fd);
}

bool reserve_give(const struct place *place, int code)
{
    off_t size;
    if (code != -ENOSPC && code != -EDQUOT) {
        return false;
    }
    AUTO_CLOSE int fd = open_reserve(place, 0, &size);
    return fd >= 0 && size > 0 && ftruncate(fd, size - MIN(size, (off_t)RESERVE_PIECE)) == 0;
}

bool reserve_take(const struct place *place)
{
    struct statvfs disk;
    off_t size = 0;
    AUTO_CLOSE int fd = open_reserve(place, O_CREAT, &size);
    if (fd < 0 || size >= (off_t)RESERVE_SIZE) {
        return fd >= 0;
    }
    if (fstatvfs(fd, &disk) < 0 ||
        (uint64_t)disk.f_bavail * disk.f_frsize < 2 * ((uint64_t)RESERVE_SIZE - (uint64_t)size)) {
        return false;
    }
    if (fallocate(fd, 0, size, (off_t)RESERVE_SIZE - size) == 0) {
        return true;
    }
    bool is_possible = errno != EOPNOTSUPP;
    (void)ftruncate(fd, size); /* what of it was allocated */
    return !is_possible;
}
