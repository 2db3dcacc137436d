/* Covers block/dirty.c: against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "block/dirty.h"

#define MAX_GRANULES 500u

static uint64_t state = 88172645463325252u;

static uint64_t pick(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % limit;
}

static void compare(const struct dirty_map *map, const uint8_t *is_set)
{
    uint64_t bytes = 0, count = 0;
    for (uint64_t i = 0; i < map->bit_count; i++) {
        uint64_t at = i * map->granularity;
        assert_int_equal(dirty_map_get(map, at), is_set[i]);
        count += is_set[i];
        bytes += is_set[i] ? MIN((uint64_t)map->granularity, map->size_bytes - at) : 0;
    }
    assert_int_equal(map->set_count, count);
    assert_int_equal(dirty_map_bytes(map), bytes);
}

/* The runs together are what is set, none longer than asked for, none touching the next one unless it was cut. */
static void compare_runs(const struct dirty_map *map, const uint8_t *is_set, uint64_t max)
{
    uint64_t at = 0, offset, size, seen = 0;
    while (at < map->size_bytes && dirty_map_next(map, at, max, &offset, &size)) {
        assert_true(offset >= at && offset % map->granularity == 0);
        assert_true(size > 0 && size <= MAX(max, (uint64_t)map->granularity));
        assert_true(offset + size <= map->size_bytes);
        for (uint64_t i = at / map->granularity; i < offset / map->granularity; i++) {
            assert_int_equal(is_set[i], 0);
        }
        seen += size;
        at = offset + size;
    }
    assert_int_equal(seen, dirty_map_bytes(map));
}

static void behaves_like_an_array(void **unused)
{
    for (unsigned round = 0; round < 300; round++) {
        struct dirty_map map, other;
        uint8_t is_set[MAX_GRANULES] = {0};
        uint32_t granularity = 512u << pick(8);
        uint64_t size = 1 + pick((uint64_t)MAX_GRANULES * granularity);
        assert_int_equal(dirty_map_init(&map, size, granularity), 0);
        for (unsigned step = 0; step < 20; step++) {
            uint64_t offset = pick(size + granularity), length = pick(size + 1);
            uint8_t value = pick(3) != 0;
            if (value) {
                dirty_map_set(&map, offset, length);
            } else {
                dirty_map_clear(&map, offset, length);
            }
            uint64_t end = MIN(offset + length, size);
            for (uint64_t at = offset; at < end; at = (at / granularity + 1) * granularity) {
                is_set[at / granularity] = value;
            }
        }
        compare(&map, is_set);
        compare_runs(&map, is_set, granularity * (1 + pick(80)));
        /* As bytes and back. */
        uint8_t bytes[MAX_GRANULES / 8 + 2];
        dirty_map_export(&map, 0, bytes, sizeof(bytes));
        assert_int_equal(dirty_map_init(&other, size, granularity), 0);
        dirty_map_import(&other, 0, bytes, sizeof(bytes));
        compare(&other, is_set);
        /* Smaller and larger again: what was cut off is clear. */
        uint64_t smaller = 1 + pick(size);
        assert_int_equal(dirty_map_resize(&other, smaller), 0);
        assert_int_equal(dirty_map_resize(&other, size), 0);
        for (uint64_t i = (smaller + granularity - 1) / granularity; i < map.bit_count; i++) {
            is_set[i] = 0;
        }
        compare(&other, is_set);
        dirty_map_fini(&map);
        dirty_map_fini(&other);
    }
}

static void merges_other_granules(void **unused)
{
    struct dirty_map fine, coarse;
    assert_int_equal(dirty_map_init(&fine, 1 << 20, 512), 0);
    assert_int_equal(dirty_map_init(&coarse, 1 << 20, 65536), 0);
    dirty_map_set(&fine, 65536 + 512, 1);
    dirty_map_set(&fine, (1 << 20) - 1, 1);
    dirty_map_merge(&coarse, &fine);
    assert_int_equal(dirty_map_bytes(&coarse), 2 * 65536);
    assert_true(dirty_map_get(&coarse, 65536) && dirty_map_get(&coarse, (1 << 20) - 1));
    dirty_map_merge(&fine, &coarse);
    assert_int_equal(dirty_map_bytes(&fine), 2 * 65536);
    dirty_map_fini(&fine);
    dirty_map_fini(&coarse);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaves_like_an_array),
        cmocka_unit_test(merges_other_granules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
