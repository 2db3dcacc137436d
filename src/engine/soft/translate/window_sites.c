/* Where translated code may fault on the host, in the order of the code cache; see block_table.h. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/core/bits.h"
#include "base/core/error.h"
#include "base/core/invariant.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/translate/native_string.h"

/* An access takes more code than this: its address, the window, the access. */
#define CODE_PER_SITE 8u

struct native_window_sites {
    uint32_t count[NATIVE_REGIONS];
    uint32_t per_region;
    struct native_window_site *site;
};

static size_t sites_size(const struct native_window_sites *sites)
{
    return (size_t)NATIVE_REGIONS * sites->per_region * sizeof(*sites->site);
}

int native_window_sites_init(struct soft_native *n, struct error *err)
{
    struct native_window_sites *sites = calloc(1, sizeof(*sites));
    n->window_sites = sites;
    if (!sites) {
        return error_set(err, ENOMEM, "reserving memory for translated code");
    }
    sites->per_region = (uint32_t)(n->size / NATIVE_REGIONS / CODE_PER_SITE);
    void *memory = mmap(NULL, sites_size(sites), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    sites->site = memory == MAP_FAILED ? NULL : memory;
    return sites->site ? 0 : error_set(err, ENOMEM, "reserving memory for translated code");
}

void native_window_sites_fini(struct soft_native *n)
{
    struct native_window_sites *sites = n->window_sites;
    if (sites && sites->site) {
        munmap(sites->site, sites_size(sites));
    }
    free(sites);
    n->window_sites = NULL;
}

void native_window_sites_empty(struct soft_native *n)
{
    if (n->window_sites) {
        n->window_sites->count[n->region] = 0;
    }
}

void native_add_window_site(struct soft_native *n, const struct native_window_site *site)
{
    struct native_window_sites *sites = n->window_sites;
    uint32_t *count = &sites->count[n->region];
    struct native_window_site *region = &sites->site[(size_t)n->region * sites->per_region];
    invariant(*count < sites->per_region && (!*count || region[*count - 1].code <= site->code));
    region[(*count)++] = *site;
}

/* Of the region of 'place': how many sites are at it or before it. */
static size_t count_until(const struct soft_native *n, uint32_t place,
                          const struct native_window_site **out_region, size_t *out_count)
{
    const struct native_window_sites *sites = n->window_sites;
    size_t number = place < n->fixed ? NATIVE_REGIONS : (place - n->fixed) / n->region_size;
    *out_count = 0;
    if (!sites || number >= NATIVE_REGIONS) {
        return 0;
    }
    const struct native_window_site *region = &sites->site[number * sites->per_region];
    *out_region = region;
    *out_count = sites->count[number];
    size_t low = 0, high = *out_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (region[middle].code <= place) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct native_window_site *native_find_window_site(const struct soft_native *n,
                                                         uint32_t place)
{
    if (place < n->fixed) {
        return native_find_window_string(n, place);
    }
    const struct native_window_site *region;
    size_t count, until = count_until(n, place, &region, &count);
    return until ? &region[until - 1] : NULL;
}

const struct native_window_site *native_window_sites_of(const struct soft_native *n,
                                                        const struct native_block *block,
                                                        size_t *out_count)
{
    const struct native_window_site *region = NULL;
    size_t count, first = count_until(n, block->code, &region, &count);
    while (first && region[first - 1].code == block->code) {
        first--;
    }
    size_t end = first;
    while (end < count && region[end].code < block->code + block->code_size) {
        end++;
    }
    *out_count = end - first;
    return region ? &region[first] : NULL;
}
