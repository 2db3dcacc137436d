/* Memory and swap of a container. */
#include "system/views/memory.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* v1 says "none" by the largest number of pages. */
#define V1_NO_LIMIT ((uint64_t)INT64_MAX >> 1)

#define FIELD_OF(member) offsetof(struct group_memory, member)

/* Lines of memory.stat; those of v1 that count groups below. NULL: that version has none. */
static const struct {
    const char *v1, *v2;
    size_t offset;
} stat_lines[] = {
    {"hierarchical_memory_limit", NULL, FIELD_OF(limit)},
    {"hierarchical_memsw_limit", NULL, FIELD_OF(memory_and_swap_limit)},
    {"total_swap", NULL, FIELD_OF(swap_usage)},
    {"total_cache", "file", FIELD_OF(cached)},
    {"total_swapcached", "swapcached", FIELD_OF(swap_cached)},
    {"total_rss", "anon", FIELD_OF(anon)},
    {"total_shmem", "shmem", FIELD_OF(shmem)},
    {"total_mapped_file", "file_mapped", FIELD_OF(mapped)},
    {"total_dirty", "file_dirty", FIELD_OF(dirty)},
    {"total_writeback", "file_writeback", FIELD_OF(writeback)},
    {"total_active_anon", "active_anon", FIELD_OF(active_anon)},
    {"total_inactive_anon", "inactive_anon", FIELD_OF(inactive_anon)},
    {"total_active_file", "active_file", FIELD_OF(active_file)},
    {"total_inactive_file", "inactive_file", FIELD_OF(inactive_file)},
    {"total_unevictable", "unevictable", FIELD_OF(unevictable)},
    {"total_rss_huge", "anon_thp", FIELD_OF(anon_huge)},
    {NULL, "shmem_thp", FIELD_OF(shmem_huge)},
    {NULL, "file_thp", FIELD_OF(file_huge)},
    {NULL, "slab_reclaimable", FIELD_OF(slab_reclaimable)},
    {NULL, "slab_unreclaimable", FIELD_OF(slab_unreclaimable)},
    {NULL, "kernel_stack", FIELD_OF(kernel_stack)},
    {NULL, "pagetables", FIELD_OF(page_tables)},
    {NULL, "sec_pagetables", FIELD_OF(second_page_tables)},
    {NULL, "percpu", FIELD_OF(per_cpu)},
    {NULL, "zswap", FIELD_OF(zswap)},
    {NULL, "zswapped", FIELD_OF(zswapped)},
};

static bool is_name(const char *name, const char *line, size_t length)
{
    return name != NULL && strlen(name) == length && memcmp(name, line, length) == 0;
}

static void parse_stat(struct group_memory *memory, const char *stat, bool is_v1)
{
    for (const char *line = stat; *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        size_t length = strcspn(line, " \n");
        for (size_t i = 0; i < ARRAY_COUNT(stat_lines) && line[length] == ' '; i++) {
            if (is_name(is_v1 ? stat_lines[i].v1 : stat_lines[i].v2, line, length)) {
                uint64_t value = strtoull(line + length + 1, NULL, 10);
                memcpy((char *)memory + stat_lines[i].offset, &value, sizeof(value));
                break;
            }
        }
        line = *end == '\0' ? end : end + 1;
    }
}

void group_memory_init(struct group_memory *out_memory)
{
    *out_memory = (struct group_memory){
        .limit = MEMORY_NO_LIMIT,
        .swap_limit = MEMORY_NO_LIMIT,
        .memory_and_swap_limit = MEMORY_NO_LIMIT,
    };
}

void group_memory_parse_v1(struct group_memory *out_memory, uint64_t usage, const char *stat)
{
    group_memory_init(out_memory);
    out_memory->usage = usage;
    parse_stat(out_memory, stat, true);
    if (out_memory->limit >= V1_NO_LIMIT) {
        out_memory->limit = MEMORY_NO_LIMIT;
    }
    uint64_t both = out_memory->memory_and_swap_limit;
    if (both < V1_NO_LIMIT) {
        out_memory->swap_limit = both > out_memory->limit ? both - out_memory->limit : 0;
    }
}

void group_memory_parse_v2(struct group_memory *out_memory, uint64_t limit, uint64_t usage,
                           uint64_t swap_limit, uint64_t swap_usage, const char *stat)
{
    group_memory_init(out_memory);
    parse_stat(out_memory, stat, false);
    out_memory->limit = limit;
    out_memory->usage = usage;
    out_memory->swap_limit = swap_limit;
    out_memory->swap_usage = swap_usage;
}

/* In bytes; 0: the host has no such line. */
static uint64_t host_value(const char *meminfo, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = meminfo; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            return strtoull(line + length + 1, NULL, 10) << 10;
        }
    }
    return 0;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static bool is_limited(const struct group_memory *memory, const char *host_meminfo)
{
    return memory->limit < host_value(host_meminfo, "MemTotal");
}

void memory_totals(const struct group_memory *memory, const char *host_meminfo,
                   struct memory_totals *out_totals)
{
    struct memory_totals totals = {
        .total = host_value(host_meminfo, "MemTotal"),
        .free = host_value(host_meminfo, "MemFree"),
        .available = host_value(host_meminfo, "MemAvailable"),
        .shared = host_value(host_meminfo, "Shmem"),
        .buffers = host_value(host_meminfo, "Buffers"),
        .swap_total = host_value(host_meminfo, "SwapTotal"),
        .swap_free = host_value(host_meminfo, "SwapFree"),
    };
    if (is_limited(memory, host_meminfo)) {
        totals.total = memory->limit;
        totals.free = less(memory->limit, memory->usage);
        totals.available = MIN(totals.total, totals.free + memory->active_file +
                                                 memory->inactive_file + memory->slab_reclaimable);
        totals.shared = memory->shmem;
        totals.buffers = 0;
    }
    if (memory->swap_limit != MEMORY_NO_LIMIT) {
        totals.swap_total = MIN(totals.swap_total, memory->swap_limit);
        totals.swap_free = less(totals.swap_total, memory->swap_usage);
    }
    *out_totals = totals;
}

struct meminfo_line {
    const char *name;
    uint64_t bytes;
};

/* Returns whether the line is one of these, and writes it then. */
static bool render_line(struct text *text, const struct meminfo_line *lines, size_t count,
                        const char *host_line)
{
    size_t length = strcspn(host_line, ":\n");
    for (size_t i = 0; i < count; i++) {
        if (is_name(lines[i].name, host_line, length)) {
            char name[32];
            (void)snprintf(name, sizeof(name), "%s:", lines[i].name);
            text_printf(text, "%-15s %8" PRIu64 " kB\n", name, lines[i].bytes >> 10);
            return true;
        }
    }
    return false;
}

void render_meminfo(struct text *text, const struct group_memory *memory, const char *host_meminfo)
{
    const struct group_memory *m = memory;
    struct memory_totals totals;
    memory_totals(memory, host_meminfo, &totals);
    const struct meminfo_line swap_lines[] = {
        {"SwapTotal", totals.swap_total},
        {"SwapFree", totals.swap_free},
    };
    const struct meminfo_line lines[] = {
        {"MemTotal", totals.total},
        {"MemFree", totals.free},
        {"MemAvailable", totals.available},
        {"Buffers", totals.buffers},
        {"Cached", less(m->cached, m->swap_cached)},
        {"SwapCached", m->swap_cached},
        {"Active", m->active_anon + m->active_file},
        {"Inactive", m->inactive_anon + m->inactive_file},
        {"Active(anon)", m->active_anon},
        {"Inactive(anon)", m->inactive_anon},
        {"Active(file)", m->active_file},
        {"Inactive(file)", m->inactive_file},
        {"Unevictable", m->unevictable},
        {"Mlocked", 0}, /* is in Unevictable; no group counts it apart */
        {"Zswap", m->zswap},
        {"Zswapped", m->zswapped},
        {"Dirty", m->dirty},
        {"Writeback", m->writeback},
        {"AnonPages", m->anon},
        {"Mapped", m->mapped},
        {"Shmem", m->shmem},
        {"KReclaimable", m->slab_reclaimable},
        {"Slab", m->slab_reclaimable + m->slab_unreclaimable},
        {"SReclaimable", m->slab_reclaimable},
        {"SUnreclaim", m->slab_unreclaimable},
        {"KernelStack", m->kernel_stack},
        {"PageTables", m->page_tables},
        {"SecPageTables", m->second_page_tables},
        {"CommitLimit", totals.total + totals.swap_total},
        {"Committed_AS", m->anon + m->shmem},
        {"Percpu", m->per_cpu},
        {"AnonHugePages", m->anon_huge},
        {"ShmemHugePages", m->shmem_huge},
        {"ShmemPmdMapped", 0},
        {"FileHugePages", m->file_huge},
        {"FilePmdMapped", 0},
    };
    bool is_own = is_limited(memory, host_meminfo);
    for (const char *line = host_meminfo; *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        end += *end == '\n';
        if (!render_line(text, swap_lines, ARRAY_COUNT(swap_lines), line) &&
            !(is_own && render_line(text, lines, ARRAY_COUNT(lines), line))) {
            text_append(text, line, (size_t)(end - line));
        }
        line = end;
    }
}

void render_swaps(struct text *text, const struct memory_totals *totals)
{
    text_printf(text, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    uint64_t total = totals->swap_total >> 10;
    uint64_t used = less(totals->swap_total, totals->swap_free) >> 10;
    if (total > 0) { /* as the kernel pads them */
        text_printf(text, "%-40svirtual\t\t%" PRIu64 "\t%s%" PRIu64 "\t%s%d\n", "none", total,
                    total < 10000000 ? "\t" : "", used, used < 10000000 ? "\t" : "", 0);
    }
}
