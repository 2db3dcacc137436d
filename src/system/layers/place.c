/* Where a tree lies. */
#include "system/layers/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/core/hash.h"

void place_fini(struct place *place)
{
    if (place->folder >= 0) {
        close(place->folder);
        place->folder = -1;
    }
}

int layers_place_open(const char *path, struct place *out, struct error *err)
{
    char folder[PATH_MAX];
    size_t length = strlen(path);
    if (path[0] != '/' || length >= sizeof(folder)) {
        return error_set(err, EINVAL, "%.100s: not an absolute path of at most %d bytes", path,
                         PATH_MAX - 1);
    }
    memcpy(folder, path, length + 1);
    while (length > 1 && folder[length - 1] == '/') {
        folder[--length] = '\0';
    }
    char *slash = strrchr(folder, '/');
    const char *name = slash + 1;
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        strlen(name) > NAME_MAX) {
        return error_set(err, EINVAL, "%.100s: does not end with a name", path);
    }
    (void)snprintf(out->name, sizeof(out->name), "%s", name);
    slash[slash == folder ? 1 : 0] = '\0';
    out->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return out->folder < 0 ? error_set_errno(err, errno, "opening %s", folder) : 0;
}

void place_make_name(const char *kind, char out_name[PLACE_NAME_SIZE])
{
    uint64_t number;
    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        number = (uint64_t)now.tv_nsec << 32 | (uint32_t)getpid();
    }
    (void)snprintf(out_name, PLACE_NAME_SIZE, ".hull-%.8s-%016llx", kind,
                   (unsigned long long)number);
}

void place_name_removed(const struct place *place, char out_name[PLACE_NAME_SIZE])
{
    (void)snprintf(out_name, PLACE_NAME_SIZE, ".hull-removed-%016llx",
                   (unsigned long long)hash_text(place->name));
}
