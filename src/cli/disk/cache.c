#include "cli/disk/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/remote.h"

static const struct {
    const char *name;
    struct disk_cache cache;
} modes[] = {
    {"writeback", {0}},
    {"none", {.is_direct = true}},
    {"writethrough", {.is_each_sure = true}},
    {"directsync", {.is_direct = true, .is_each_sure = true}},
    {"unsafe", {.is_unsafe = true}},
};

int disk_cache_parse(const char *value, struct disk_cache *out_cache, struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        if (strcmp(value, modes[i].name) == 0) {
            *out_cache = modes[i].cache;
            return 0;
        }
    }
    return error_set(err, EINVAL,
                     "'%s' is unknown: writeback, none, writethrough, directsync or unsafe", value);
}

int disk_cache_flags(const struct disk_cache *cache)
{
    return cache->is_each_sure ? O_DSYNC : 0; /* O_DIRECT is set where it is known to work */
}

int disk_cache_check(const struct disk_cache *cache, const char *path, struct error *err)
{
    bool is_default = !cache->is_direct && !cache->is_each_sure && !cache->is_unsafe;
    return is_default || !block_is_uri(path)
               ? 0
               : error_set(err, EINVAL,
                           "disk %s: a remote disk's server decides what it caches: writeback is "
                           "accepted",
                           path);
}
