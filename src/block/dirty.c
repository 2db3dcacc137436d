#include "block/dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/compiler.h"

static uint64_t count_for(uint64_t size_bytes, uint32_t granularity)
{
    return size_bytes / granularity + (size_bytes % granularity != 0);
}

int dirty_map_init(struct dirty_map *map, uint64_t size_bytes, uint32_t granularity)
{
    uint64_t count = count_for(size_bytes, granularity);
    uint64_t *word = calloc(count / 64 + 1, sizeof(*word));
    if (word == NULL) {
        return -ENOMEM;
    }
    *map = (struct dirty_map){
        .size_bytes = size_bytes, .granularity = granularity, .bit_count = count, .word = word};
    return 0;
}

void dirty_map_fini(struct dirty_map *map)
{
    free(map->word);
    *map = (struct dirty_map){0};
}

int dirty_map_resize(struct dirty_map *map, uint64_t size_bytes)
{
    struct dirty_map other;
    int rc = dirty_map_init(&other, size_bytes, map->granularity);
    if (rc == 0) {
        dirty_map_merge(&other, map);
        dirty_map_fini(map);
        *map = other;
    }
    return rc;
}

/* Bits [first, end), a word at a time. */
static void change(struct dirty_map *map, uint64_t first, uint64_t end, bool value)
{
    while (first < end) {
        uint64_t *word = &map->word[first / 64];
        unsigned low = (unsigned)(first % 64);
        uint64_t count = MIN(64 - low, end - first);
        uint64_t mask = (count == 64 ? ~0ull : BIT(count) - 1) << low;
        uint64_t changed = (value ? ~*word : *word) & mask;
        uint64_t bits = (uint64_t)__builtin_popcountll(changed);
        *word ^= changed;
        map->set_count += value ? bits : -bits;
        first += count;
    }
}

static void change_range(struct dirty_map *map, uint64_t offset, uint64_t size, bool value)
{
    if (size == 0 || offset >= map->size_bytes) {
        return;
    }
    size = MIN(size, map->size_bytes - offset);
    change(map, offset / map->granularity, (offset + size - 1) / map->granularity + 1, value);
}

void dirty_map_set(struct dirty_map *map, uint64_t offset, uint64_t size)
{
    change_range(map, offset, size, true);
}

void dirty_map_clear(struct dirty_map *map, uint64_t offset, uint64_t size)
{
    change_range(map, offset, size, false);
}

bool dirty_map_get(const struct dirty_map *map, uint64_t offset)
{
    uint64_t bit = offset / map->granularity;
    return (map->word[bit / 64] >> (bit % 64) & 1) != 0;
}

/* The first bit at or behind 'from' that is 'value'; bit_count: none. */
static uint64_t find(const struct dirty_map *map, uint64_t from, bool value)
{
    while (from < map->bit_count) {
        uint64_t word = map->word[from / 64];
        uint64_t rest = (value ? word : ~word) >> (from % 64);
        if (rest != 0) {
            return MIN(from + (unsigned)__builtin_ctzll(rest), map->bit_count);
        }
        from = (from / 64 + 1) * 64;
    }
    return map->bit_count;
}

bool dirty_map_next(const struct dirty_map *map, uint64_t from, uint64_t max_size,
                    uint64_t *out_offset, uint64_t *out_size)
{
    uint64_t first = find(map, from / map->granularity, true);
    if (first == map->bit_count) {
        return false;
    }
    uint64_t limit = first + MAX(max_size / map->granularity, 1u);
    uint64_t end = first + 1;
    while (end < MIN(limit, map->bit_count) && (map->word[end / 64] >> (end % 64) & 1) != 0) {
        end++;
    }
    *out_offset = first * map->granularity;
    *out_size = MIN(end * map->granularity, map->size_bytes) - *out_offset;
    return true;
}

void dirty_map_merge(struct dirty_map *to, const struct dirty_map *from)
{
    uint64_t at = 0, offset, size;
    while (at < from->size_bytes &&
           dirty_map_next(from, at, (uint64_t)from->granularity << 20, &offset, &size)) {
        dirty_map_set(to, offset, size);
        at = offset + size;
    }
}

void dirty_map_export(const struct dirty_map *map, uint64_t at, uint8_t *out_bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint64_t bit = (at + i) * 8;
        out_bytes[i] = bit < map->bit_count ? (uint8_t)(map->word[bit / 64] >> (bit % 64)) : 0;
    }
}

void dirty_map_import(struct dirty_map *map, uint64_t at, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        for (unsigned j = 0; bytes[i] != 0 && j < 8; j++) {
            uint64_t bit = (at + i) * 8 + j;
            if ((bytes[i] >> j & 1) != 0 && bit < map->bit_count) {
                change(map, bit, bit + 1, true);
            }
        }
    }
}

uint64_t dirty_map_bytes(const struct dirty_map *map)
{
    uint64_t bytes = map->set_count * map->granularity;
    uint64_t over = map->bit_count * map->granularity - map->size_bytes;
    bool has_last = map->bit_count > 0 && dirty_map_get(map, map->size_bytes - 1);
    return has_last ? bytes - over : bytes;
}
