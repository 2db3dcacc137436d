/* The option --cache of `hull disk`: how files are written and read, in the words of QEMU. */
#ifndef CLI_DISK_CACHE_H
#define CLI_DISK_CACHE_H

#include "base/core/error.h"
#include "cli/cache_mode.h"

int disk_cache_parse(const char *value, struct cache_mode *out_cache, struct error *err);
/* For open(2). */
int disk_cache_flags(const struct cache_mode *cache);
/* Remote disks have what their server has: anything but "writeback" is refused. */
int must_check disk_cache_check(const struct cache_mode *cache, const char *path,
                                struct error *err);

#endif
