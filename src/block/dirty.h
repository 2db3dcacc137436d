/* Which parts of a disk have something to be done about them: a bit for each granule.
 *
 * Threads: as the caller likes, one at a time. */
#ifndef BLOCK_DIRTY_H
#define BLOCK_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/compiler.h"

struct dirty_map {
    uint64_t size_bytes;
    uint32_t granularity; /* bytes; a power of two */
    uint64_t bit_count;
    uint64_t set_count;
    uint64_t *word;
};

/* All clear. -ENOMEM. */
int must_check dirty_map_init(struct dirty_map *map, uint64_t size_bytes, uint32_t granularity);
/* All zeros is fine. */
void dirty_map_fini(struct dirty_map *map);
/* Another size: what is new is clear. -ENOMEM, and nothing has changed. */
int must_check dirty_map_resize(struct dirty_map *map, uint64_t size_bytes);
/* All granules that the range touches; what lies behind the end is left out. */
void dirty_map_set(struct dirty_map *map, uint64_t offset, uint64_t size);
void dirty_map_clear(struct dirty_map *map, uint64_t offset, uint64_t size);
/* The granule of that byte, which lies within the disk. */
bool dirty_map_get(const struct dirty_map *map, uint64_t offset);
/* The first run of set granules at or behind the granule of 'from', at most 'max_size' bytes of it; cut off at the disk's end.
 * False: there is none. */
bool dirty_map_next(const struct dirty_map *map, uint64_t from, uint64_t max_size,
                    uint64_t *out_offset, uint64_t *out_size);
/* Sets in 'to' what is set in 'from'; sizes and granules may differ. */
void dirty_map_merge(struct dirty_map *to, const struct dirty_map *from);
/* The bits as bytes, the first one in the lowest bit: 'size' of them from byte 'at' on; zeros behind the end. */
void dirty_map_export(const struct dirty_map *map, uint64_t at, uint8_t *out_bytes, size_t size);
/* Sets what is set there. */
void dirty_map_import(struct dirty_map *map, uint64_t at, const uint8_t *bytes, size_t size);
/* Bytes of set granules. */
uint64_t dirty_map_bytes(const struct dirty_map *map);

#endif
