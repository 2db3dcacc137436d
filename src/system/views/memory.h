/* Memory and swap of a container: what its control group says, beside the host's /proc/meminfo. Pure functions. */
#ifndef SYSTEM_VIEWS_MEMORY_H
#define SYSTEM_VIEWS_MEMORY_H

#include <stdint.h>

#include "system/views/text.h"

#define MEMORY_NO_LIMIT UINT64_MAX

/* In bytes. What a host's kernel does not count is 0. */
struct group_memory {
    uint64_t limit, usage;           /* limit: MEMORY_NO_LIMIT */
    uint64_t swap_limit, swap_usage; /* of swap alone, also in v1 */
    uint64_t memory_and_swap_limit;  /* of v1 */
    uint64_t cached, swap_cached, anon, shmem, mapped, dirty, writeback;
    uint64_t active_anon, inactive_anon, active_file, inactive_file, unevictable;
    uint64_t slab_reclaimable, slab_unreclaimable, kernel_stack, page_tables, second_page_tables;
    uint64_t per_cpu, zswap, zswapped, anon_huge, shmem_huge, file_huge;
};

/* Of a container without a group: no limits. */
void group_memory_init(struct group_memory *out_memory);
/* 'stat' is the text of memory.stat. v1's limits are in it too, those of groups above included. */
void group_memory_parse_v1(struct group_memory *out_memory, uint64_t usage, const char *stat);
void group_memory_parse_v2(struct group_memory *out_memory, uint64_t limit, uint64_t usage,
                           uint64_t swap_limit, uint64_t swap_usage, const char *stat);

/* The numbers that sysinfo and swaps have too, in bytes. */
struct memory_totals {
    uint64_t total, free, available, shared, buffers, swap_total, swap_free;
};
void memory_totals(const struct group_memory *memory, const char *host_meminfo,
                   struct memory_totals *out_totals);

/* Each line of the host's is there; no limit: with the host's values. */
void render_meminfo(struct text *text, const struct group_memory *memory, const char *host_meminfo);
void render_swaps(struct text *text, const struct memory_totals *totals);

#endif
