/* The metadata cache (slices of L2 tables and refcount blocks), the tables that are in memory as a whole, and the set of
 * clusters that hold metadata. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

int qcow2_cache_init(struct qcow2 *q)
{
    struct qcow2_cache *cache = &q->cache;
    cache->slice_size = MIN(q->layout.cluster_size, 4096u);
    cache->max_slices = QCOW2_CACHE_BYTES / cache->slice_size;
    cache->bucket_count = cache->max_slices; /* a power of two */
    cache->bucket = calloc(cache->bucket_count, sizeof(struct qcow2_slice *));
    return cache->bucket != NULL ? 0 : -ENOMEM;
}

static struct qcow2_slice **bucket_of(struct qcow2_cache *cache, uint64_t offset)
{
    uint64_t number = offset / cache->slice_size;
    return &cache->bucket[(number ^ number >> 13) & (cache->bucket_count - 1)];
}

struct qcow2_slice *qcow2_cache_find(struct qcow2 *q, uint64_t offset)
{
    struct qcow2_cache *cache = &q->cache;
    offset = align_down(offset, cache->slice_size);
    struct qcow2_slice *slice = *bucket_of(cache, offset);
    while (slice != NULL && slice->offset != offset) {
        slice = slice->hash_next;
    }
    return slice;
}

static void unlink_use(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
    *(slice->newer != NULL ? &slice->newer->older : &cache->newest) = slice->older;
    *(slice->older != NULL ? &slice->older->newer : &cache->oldest) = slice->newer;
}

static void link_newest(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
    slice->newer = NULL;
    slice->older = cache->newest;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = slice;
    cache->newest = slice;
}

static void touch(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
    if (cache->newest != slice) {
        unlink_use(cache, slice);
        link_newest(cache, slice);
    }
}

static void unlink_hash(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
    struct qcow2_slice **at = bucket_of(cache, slice->offset);
    while (*at != slice) {
        at = &(*at)->hash_next;
    }
    *at = slice->hash_next;
}

static void destroy_slice(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
    unlink_hash(cache, slice);
    unlink_use(cache, slice);
    cache->slice_count--;
    free(slice->data);
    free(slice);
}

void qcow2_cache_fini(struct qcow2 *q)
{
    while (q->cache.newest != NULL) {
        destroy_slice(&q->cache, q->cache.newest);
    }
    free(q->cache.bucket);
}

/* The slice that is used least and may go. */
static struct qcow2_slice *find_victim(struct qcow2_cache *cache)
{
    struct qcow2_slice *slice = cache->oldest;
    while (slice != NULL && (slice->is_dirty || slice->is_committing || slice->is_loading)) {
        slice = slice->newer;
    }
    return slice;
}

/* A slice for 'offset' in the state of loading. NULL: no memory, or all are in use. */
static struct qcow2_slice *new_slice(struct qcow2_cache *cache, uint64_t offset,
                                     enum qcow2_slice_kind kind)
{
    struct qcow2_slice *slice;
    if (cache->slice_count < cache->max_slices) {
        slice = calloc(1, sizeof(*slice));
        uint8_t *data = malloc(cache->slice_size);
        if (slice == NULL || data == NULL) {
            free(slice);
            free(data);
            return NULL;
        }
        slice->data = data;
        cache->slice_count++;
    } else {
        slice = find_victim(cache);
        if (slice == NULL) {
            return NULL;
        }
        unlink_hash(cache, slice);
        unlink_use(cache, slice);
    }
    slice->offset = offset;
    slice->kind = kind;
    slice->is_loading = true;
    struct qcow2_slice **bucket = bucket_of(cache, offset);
    slice->hash_next = *bucket;
    *bucket = slice;
    link_newest(cache, slice);
    return slice;
}

static int load(struct qcow2 *q, struct qcow2_slice *slice)
{
    int rc = block_read(q->file, slice->offset, slice->data, q->cache.slice_size);
    slice->is_loading = false;
    if (rc < 0) {
        destroy_slice(&q->cache, slice);
    }
    coroutine_queue_wake_all(&q->cache.loaded);
    return rc;
}

int qcow2_cache_get(struct qcow2 *q, uint64_t offset, enum qcow2_slice_kind kind,
                    struct qcow2_slice **out_slice)
{
    struct qcow2_cache *cache = &q->cache;
    offset = align_down(offset, cache->slice_size);
    for (;;) {
        struct qcow2_slice *slice = qcow2_cache_find(q, offset);
        int rc = 0;
        if (slice != NULL && slice->is_loading) {
            coroutine_queue_wait(&cache->loaded);
            continue;
        }
        if (slice != NULL && slice->kind != kind) {
            return qcow2_corrupt(q, "table that is both an L2 table and a refcount block", offset);
        }
        if (slice != NULL) {
            touch(cache, slice);
            *out_slice = slice;
            return 0;
        }
        slice = new_slice(cache, offset, kind);
        if (slice != NULL) {
            rc = load(q, slice);
            if (rc == 0) {
                *out_slice = slice;
                return 0;
            }
        } else if (cache->dirty_count > 0 || cache->committing_count > 0) {
            rc = qcow2_commit(q);
        } else if (cache->slice_count < cache->max_slices) {
            rc = -ENOMEM;
        } else {
            coroutine_queue_wait(&cache->loaded); /* all of them are being loaded */
        }
        if (rc < 0) {
            return rc;
        }
    }
}

void qcow2_cache_dirty(struct qcow2 *q, struct qcow2_slice *slice)
{
    struct qcow2_cache *cache = &q->cache;
    if (slice->is_dirty) {
        return;
    }
    slice->is_dirty = true;
    slice->dirty_prev = NULL;
    slice->dirty_next = cache->dirty;
    if (cache->dirty != NULL) {
        cache->dirty->dirty_prev = slice;
    }
    cache->dirty = slice;
    if (++cache->dirty_count >= cache->max_slices / 4) {
        qcow2_commit_soon(q);
    }
}

void qcow2_cache_clean(struct qcow2 *q, struct qcow2_slice *slice)
{
    struct qcow2_cache *cache = &q->cache;
    if (!slice->is_dirty) {
        return;
    }
    slice->is_dirty = false;
    *(slice->dirty_prev != NULL ? &slice->dirty_prev->dirty_next : &cache->dirty) =
        slice->dirty_next;
    if (slice->dirty_next != NULL) {
        slice->dirty_next->dirty_prev = slice->dirty_prev;
    }
    cache->dirty_count--;
}

void qcow2_cache_forget(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    for (uint64_t at = offset; at < offset + size; at += q->cache.slice_size) {
        struct qcow2_slice *slice = qcow2_cache_find(q, at);
        if (slice != NULL && !slice->is_committing && !slice->is_loading) {
            qcow2_cache_clean(q, slice);
            destroy_slice(&q->cache, slice);
        }
    }
}

int qcow2_table_init(struct qcow2_table *table, uint64_t offset, uint64_t entry_count)
{
    *table = (struct qcow2_table){.entry_count = entry_count, .offset = offset};
    table->entry = calloc(MAX(entry_count, (uint64_t)1), sizeof(uint64_t));
    table->dirty = calloc((entry_count + 63) / 64 + 1, 1);
    if (table->entry == NULL || table->dirty == NULL) {
        qcow2_table_fini(table);
        return -ENOMEM;
    }
    return 0;
}

void qcow2_table_fini(struct qcow2_table *table)
{
    free(table->entry);
    free(table->dirty);
    *table = (struct qcow2_table){0};
}

int qcow2_table_load(struct qcow2 *q, struct qcow2_table *table)
{
    if (table->entry_count == 0) {
        return 0;
    }
    int rc = block_read(q->file, table->offset, table->entry,
                        (size_t)table->entry_count * sizeof(uint64_t));
    for (uint64_t i = 0; rc == 0 && i < table->entry_count; i++) {
        table->entry[i] = be64_get(&table->entry[i]);
    }
    return rc;
}

void qcow2_table_set(struct qcow2_table *table, uint64_t index, uint64_t value)
{
    table->entry[index] = value;
    table->dirty[index / 64] = 1;
    table->is_dirty = true;
}

static size_t slot_of(const struct qcow2_cluster_set *set, uint64_t cluster)
{
    return (size_t)(cluster * 0x9e3779b97f4a7c15u >> 20) & (set->slot_count - 1);
}

bool qcow2_set_has(const struct qcow2_cluster_set *set, uint64_t cluster)
{
    if (set->slot_count == 0) {
        return false;
    }
    size_t i = slot_of(set, cluster);
    while (set->slot[i] != 0 && set->slot[i] != cluster + 1) {
        i = (i + 1) & (set->slot_count - 1);
    }
    return set->slot[i] != 0;
}

static void insert(struct qcow2_cluster_set *set, uint64_t cluster)
{
    size_t i = slot_of(set, cluster);
    while (set->slot[i] != 0) {
        i = (i + 1) & (set->slot_count - 1);
    }
    set->slot[i] = cluster + 1;
}

int qcow2_set_add(struct qcow2_cluster_set *set, uint64_t cluster)
{
    if (qcow2_set_has(set, cluster)) {
        return 0;
    }
    if (set->used * 2 >= set->slot_count) {
        struct qcow2_cluster_set larger = {.slot_count = MAX(set->slot_count * 2, (size_t)64)};
        larger.slot = calloc(larger.slot_count, sizeof(uint64_t));
        if (larger.slot == NULL) {
            return -ENOMEM;
        }
        for (size_t i = 0; i < set->slot_count; i++) {
            if (set->slot[i] != 0) {
                insert(&larger, set->slot[i] - 1);
            }
        }
        larger.used = set->used;
        free(set->slot);
        *set = larger;
    }
    insert(set, cluster);
    set->used++;
    return 0;
}

void qcow2_set_remove(struct qcow2_cluster_set *set, uint64_t cluster)
{
    if (!qcow2_set_has(set, cluster)) {
        return;
    }
    size_t mask = set->slot_count - 1;
    size_t i = slot_of(set, cluster);
    while (set->slot[i] != cluster + 1) {
        i = (i + 1) & mask;
    }
    set->used--;
    set->slot[i] = 0;
    /* Those that follow in the row may stand there because of it. */
    for (size_t j = (i + 1) & mask; set->slot[j] != 0; j = (j + 1) & mask) {
        uint64_t moved = set->slot[j] - 1;
        set->slot[j] = 0;
        insert(set, moved);
    }
}
