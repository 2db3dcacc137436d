#include "cli/disk/cache.h"

#include <errno.h>
#include <fcntl.h>

#include "block/remote.h"

int disk_cache_parse(const char *value, struct cache_mode *out_cache, struct error *err)
{
    const struct cache_mode *mode = cache_mode_find(value);
    if (mode == NULL) {
        return error_set(err, EINVAL, "'%s' is unknown: " CACHE_MODES, value);
    }
    *out_cache = *mode;
    return 0;
}

int disk_cache_flags(const struct cache_mode *cache)
{
    return cache->is_write_through ? O_DSYNC : 0; /* O_DIRECT is set where it is known to work */
}

int disk_cache_check(const struct cache_mode *cache, const char *path, struct error *err)
{
    bool is_default = !cache->is_direct && !cache->is_write_through && !cache->is_unsafe;
    return is_default || !block_is_uri(path)
               ? 0
               : error_set(err, EINVAL,
                           "disk %s: a remote disk's server decides what it caches: writeback is "
                           "accepted",
                           path);
}
