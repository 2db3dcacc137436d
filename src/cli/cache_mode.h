/* Cache modes of disks, in the words of QEMU: the same for `hull boot` and `hull disk`. */
#ifndef CLI_CACHE_MODE_H
#define CLI_CACHE_MODE_H

#include <stdbool.h>

/* All false: "writeback". */
struct cache_mode {
    bool is_direct;        /* past the host's page cache: "none", "directsync" */
    bool is_write_through; /* every write is durable when it ends: "writethrough", "directsync" */
    bool is_unsafe;        /* nothing is made durable: "unsafe" */
};

#define CACHE_MODES "writeback|none|writethrough|directsync|unsafe"

/* NULL: there is none of that name. */
const struct cache_mode *cache_mode_find(const char *name);

#endif
