/* The option --cache of `hull disk`: how files are written and read, in the words of QEMU. */
#ifndef CLI_DISK_CACHE_H
#define CLI_DISK_CACHE_H

#include <stdbool.h>

#include "base/core/error.h"

/* All false: "writeback". */
struct disk_cache {
    bool is_direct;    /* past the host's page cache: "none", "directsync" */
    bool is_each_sure; /* every write is durable when it ends: "writethrough", "directsync" */
    bool is_unsafe;    /* nothing is made durable: "unsafe" */
};

#define DISK_CACHE_MODES "writeback|none|writethrough|directsync|unsafe"

int disk_cache_parse(const char *value, struct disk_cache *out_cache, struct error *err);
/* For open(2). */
int disk_cache_flags(const struct disk_cache *cache);
/* Remote disks have what their server has: anything but "writeback" is refused. */
int must_check disk_cache_check(const struct disk_cache *cache, const char *path,
                                struct error *err);

#endif
