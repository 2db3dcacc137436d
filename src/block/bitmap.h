/* Bitmaps of what the guest has changed since some moment, for incremental backups. They belong to a disk's front, are loaded from
 * its root if that is an image that holds some, and stored there in the end: an image that was not closed has none that are
 * believed.
 *
 * Threads: the loop's; not in a coroutine, unless a function says so. */
#ifndef BLOCK_BITMAP_H
#define BLOCK_BITMAP_H

#include "block/dirty.h"
#include "block/front.h"

#define BLOCK_MAX_BITMAP_NAME        1023
#define BLOCK_MAX_BITMAPS            256
#define BLOCK_BITMAP_GRANULARITY     65536u
#define BLOCK_MIN_BITMAP_GRANULARITY 512u
#define BLOCK_MAX_BITMAP_GRANULARITY (1u << 30)
#define BLOCK_MAX_BITMAP_BITS        (1ull << 29) /* 64 MiB of memory */

struct block_bitmap {
    struct block_watch watch;
    char name[BLOCK_MAX_BITMAP_NAME + 1];
    struct dirty_map map;
    bool is_persistent;
    bool is_enabled;        /* follows the guest */
    bool is_inconsistent;   /* as loaded: changes are missing. It can only be removed */
    struct block_job *user; /* it is in use by that job; NULL: by none */
    struct block_bitmap *next;
};

/* Of the front's list, in the order in which they were made. NULL: none. */
struct block_bitmap *block_bitmap_first(const struct block_front *front);
struct block_bitmap *block_bitmap_find(const struct block_front *front, const char *name);
/* All clear. Granularity 0: the default; else a power of two. -EEXIST, -EINVAL, -E2BIG. */
int must_check block_bitmap_add(struct block_front *front, const char *name, uint32_t granularity,
                                bool is_persistent, bool is_enabled,
                                struct block_bitmap **out_bitmap, struct error *err);
void block_bitmap_remove(struct block_front *front, struct block_bitmap *bitmap);
/* What 'from' has set, 'to' has too. */
void block_bitmap_merge(struct block_bitmap *to, const struct block_bitmap *from);
/* -EBUSY: a job uses it; -EINVAL: it is inconsistent. */
int must_check block_bitmap_check(const struct block_bitmap *bitmap, struct error *err);

/* For the front: those that the root holds; where they are stored before it is closed, or is the root no more. */
int must_check block_bitmaps_load(struct block_front *front, struct error *err);
int must_check block_bitmaps_store(struct block_front *front, struct error *err);
/* The root holds none any more. */
int must_check block_bitmaps_forget(struct block_front *front, struct error *err);
void block_bitmaps_close(struct block_front *front);

#endif
