/* Reference counts of the file's clusters, and where new ones come from.
 *
 * A new refcount block lies at the start of the range of clusters that it counts and counts itself, so that it is sound as soon
 * as the refcount table names it. It is written before that. */
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "block/format/qcow2/qcow2.h"

static uint64_t slice_of_count(const struct qcow2 *q, uint64_t block_offset, uint64_t cluster)
{
    uint64_t index = cluster & (BIT(q->layout.refblock_bits) - 1);
    return block_offset + index * q->layout.refcount_bits / 8;
}

/* Index of the cluster's count within its slice, and how many counts the slice has. */
static uint64_t index_in_slice(const struct qcow2 *q, uint64_t cluster, uint64_t *out_count)
{
    *out_count = (uint64_t)q->cache.slice_size * 8 / q->layout.refcount_bits;
    return cluster & (*out_count - 1);
}

/* *out_slice is NULL where the range has no block. */
static int get_slice(struct qcow2 *q, uint64_t cluster, struct qcow2_slice **out_slice)
{
    uint64_t index = cluster >> q->layout.refblock_bits;
    *out_slice = NULL;
    if (index >= q->reftable.entry_count || q->reftable.entry[index] == 0) {
        return 0;
    }
    uint64_t offset = q->reftable.entry[index];
    if ((offset & (q->layout.cluster_size - 1)) != 0 || offset >= BLOCK_MAX_SIZE) {
        return qcow2_corrupt(q, "refcount table entry that is not aligned", index);
    }
    return qcow2_cache_get(q, slice_of_count(q, offset, cluster), QCOW2_SLICE_REFBLOCK, out_slice);
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *out_count)
{
    struct qcow2_slice *slice;
    int rc = get_slice(q, cluster, &slice);
    if (rc < 0) {
        return rc;
    }
    uint64_t count;
    uint64_t index = index_in_slice(q, cluster, &count);
    *out_count =
        slice != NULL ? qcow2_refblock_get(slice->data, q->layout.refcount_bits, index) : 0;
    return 0;
}

static void freed_cluster(struct qcow2 *q, uint64_t cluster)
{
    q->alloc_hint = MIN(q->alloc_hint, cluster);
    qcow2_cache_forget(q, cluster << q->layout.cluster_bits, q->layout.cluster_size);
    if (q->unpacked_entry != 0) {
        q->unpacked_entry = 0; /* it may have been in there */
    }
    if (q->compressed_end != 0 && (q->compressed_end - 1) >> q->layout.cluster_bits == cluster) {
        q->compressed_at = q->compressed_end = 0;
    }
}

int qcow2_refcount_add(struct qcow2 *q, uint64_t offset, uint64_t size, int change,
                       uint64_t *out_done)
{
    uint64_t first = offset >> q->layout.cluster_bits;
    uint64_t end = (offset + size + q->layout.cluster_size - 1) >> q->layout.cluster_bits;
    uint64_t max = qcow2_refcount_max(q->layout.refcount_bits);
    for (uint64_t cluster = first; cluster < end; cluster++) {
        struct qcow2_slice *slice;
        *out_done = cluster - first;
        int rc = get_slice(q, cluster, &slice);
        if (rc < 0) {
            return rc;
        }
        uint64_t per_slice;
        uint64_t index = index_in_slice(q, cluster, &per_slice);
        uint64_t count =
            slice != NULL ? qcow2_refblock_get(slice->data, q->layout.refcount_bits, index) : 0;
        /* Whatever is counted up is in use already: 0 there is a count that was lost. */
        if (slice == NULL || count == 0 || (change > 0 && count == max)) {
            return -ERANGE;
        }
        count += (uint64_t)(int64_t)change;
        qcow2_refblock_put(slice->data, q->layout.refcount_bits, index, count);
        qcow2_cache_dirty(q, slice);
        if (count == 0) {
            freed_cluster(q, cluster);
        }
    }
    *out_done = end - first;
    return 0;
}

static bool is_in_file(const struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t limit = q->file->info.is_growable ? QCOW2_MAX_OFFSET : q->file->info.size_bytes;
    return range_fits(first, count, limit >> q->layout.cluster_bits);
}

static void used_up_to(struct qcow2 *q, uint64_t end_cluster)
{
    if (q->fresh_from != UINT64_MAX) {
        q->fresh_from = MAX(q->fresh_from, end_cluster << q->layout.cluster_bits);
    }
}

/* Writes refcount blocks for new ground: 'block_count' of them at the start of range 'table_index', and counts of 1 for
 * themselves and the 'count' clusters behind them. */
static int write_new_blocks(struct qcow2 *q, uint64_t table_index, uint64_t block_count,
                            uint64_t count)
{
    uint64_t per_block = BIT(q->layout.refblock_bits);
    uint64_t base = table_index << q->layout.refblock_bits;
    uint64_t used = block_count + count;
    if (!is_in_file(q, base, used)) {
        return q->file->info.is_growable ? -EFBIG : -ENOSPC;
    }
    uint8_t *data = malloc(q->layout.cluster_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    for (uint64_t i = 0; rc == 0 && i < block_count; i++) {
        memset(data, 0, q->layout.cluster_size);
        for (uint64_t j = 0; j < per_block && i * per_block + j < used; j++) {
            qcow2_refblock_put(data, q->layout.refcount_bits, j, 1);
        }
        uint64_t offset = (base + i) << q->layout.cluster_bits;
        if (qcow2_hits_metadata(q, offset, q->layout.cluster_size)) {
            rc = qcow2_corrupt(q, "refcount block's place in use by metadata", offset);
            break;
        }
        qcow2_cache_forget(q, offset, q->layout.cluster_size);
        rc = block_write(q->file, offset, data, q->layout.cluster_size);
        if (rc == 0) {
            rc = qcow2_metadata_add(q, offset, q->layout.cluster_size);
        }
    }
    free(data);
    if (rc == 0) {
        used_up_to(q, base + used);
    }
    return rc;
}

/* How many blocks it takes to count themselves and 'count' clusters. */
static uint64_t blocks_for(const struct qcow2 *q, uint64_t count)
{
    uint64_t per_block = BIT(q->layout.refblock_bits);
    uint64_t blocks = 1;
    while (blocks * per_block < blocks + count) {
        blocks = (blocks + count + per_block - 1) / per_block;
    }
    return blocks;
}

/* The first range behind all that have a block. */
static uint64_t end_of_blocks(const struct qcow2 *q)
{
    uint64_t index = q->reftable.entry_count;
    while (index > 0 && q->reftable.entry[index - 1] == 0) {
        index--;
    }
    return index;
}

/* A larger refcount table, on new ground behind everything, so that 'needed' ranges fit. */
static int grow_reftable(struct qcow2 *q, uint64_t needed)
{
    struct qcow2_table old = q->reftable;
    uint64_t per_cluster = q->layout.cluster_size / 8;
    uint64_t base = end_of_blocks(q);
    uint64_t entries, clusters, blocks = 1;
    do {
        entries = MAX(MAX(old.entry_count + old.entry_count / 2, needed), base + blocks);
        clusters = (entries + per_cluster - 1) / per_cluster;
        entries = clusters * per_cluster;
        blocks = blocks_for(q, clusters);
    } while (base + blocks > entries);
    if (entries * 8 > QCOW2_MAX_REFTABLE_BYTES) {
        return -EFBIG;
    }
    uint64_t first = base << q->layout.refblock_bits;
    uint64_t offset = (first + blocks) << q->layout.cluster_bits;
    struct qcow2_table table;
    int rc = write_new_blocks(q, base, blocks, clusters);
    if (rc < 0) {
        return rc;
    }
    rc = qcow2_table_init(&table, offset, entries);
    if (rc < 0) {
        return rc;
    }
    memcpy(table.entry, old.entry, (size_t)old.entry_count * sizeof(uint64_t));
    for (uint64_t i = 0; i < blocks; i++) {
        table.entry[base + i] = (first + i) << q->layout.cluster_bits;
    }
    uint64_t *data = malloc((size_t)entries * sizeof(uint64_t));
    rc = data != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        for (uint64_t i = 0; i < entries; i++) {
            be64_put(&data[i], table.entry[i]);
        }
        rc = block_write(q->file, offset, data, (size_t)entries * sizeof(uint64_t));
    }
    free(data);
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    if (rc < 0) {
        qcow2_table_fini(&table);
        return rc;
    }
    struct qcow2_header before = q->header;
    q->header.refcount_table_offset = offset;
    q->header.refcount_table_clusters = (uint32_t)clusters;
    rc = qcow2_write_header(q);
    if (rc < 0) {
        q->header = before;
        q->broken = rc; /* it is not known which table the file has */
        qcow2_table_fini(&table);
        return rc;
    }
    /* A commit that is under way still writes to the old table, which stays as it is until the one after it. */
    q->reftable = table;
    rc = qcow2_metadata_add(q, offset, entries * 8);
    uint64_t old_offset = old.offset;
    uint64_t old_size = align_up(old.entry_count * 8, q->layout.cluster_size);
    qcow2_table_fini(&old);
    qcow2_metadata_remove(q, old_offset, old_size);
    return rc < 0 ? rc : qcow2_free_later(q, old_offset, old_size);
}

/* A block for a range that has none. */
static int make_block(struct qcow2 *q, uint64_t index)
{
    int rc = 0;
    if (index >= q->reftable.entry_count) {
        rc = grow_reftable(q, index + 1);
        if (rc < 0 || q->reftable.entry[index] != 0) {
            return rc;
        }
    }
    rc = write_new_blocks(q, index, 1, 0);
    if (rc == 0) {
        qcow2_table_set(&q->reftable, index,
                        index << (q->layout.refblock_bits + q->layout.cluster_bits));
    }
    return rc;
}

/* Free clusters in a row within one slice, from 'start' on; *out_count 0: none there. *out_next: where to go on. */
static int scan_slice(struct qcow2 *q, uint64_t start, uint64_t want, uint64_t *out_first,
                      uint64_t *out_count, uint64_t *out_next)
{
    struct qcow2_slice *slice;
    int rc = get_slice(q, start, &slice);
    while (rc == 0 && slice == NULL) {
        rc = make_block(q, start >> q->layout.refblock_bits);
        if (rc == 0) {
            rc = get_slice(q, start, &slice);
        }
    }
    if (rc < 0) {
        return rc;
    }
    uint64_t per_slice;
    uint64_t index = index_in_slice(q, start, &per_slice);
    uint64_t base = start - index;
    while (index < per_slice &&
           qcow2_refblock_get(slice->data, q->layout.refcount_bits, index) != 0) {
        index++;
    }
    uint64_t first = index;
    while (index < per_slice && index - first < want &&
           qcow2_refblock_get(slice->data, q->layout.refcount_bits, index) == 0) {
        index++;
    }
    *out_first = base + first;
    *out_count = index - first;
    *out_next = base + index;
    return 0;
}

/* Counts [first, first + count) as used once; they are free and have blocks. */
static int take(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t offset = first << q->layout.cluster_bits;
    if (!is_in_file(q, first, count)) {
        return q->file->info.is_growable ? -EFBIG : -ENOSPC;
    }
    if (qcow2_hits_metadata(q, offset, count << q->layout.cluster_bits)) {
        return qcow2_corrupt(q, "metadata in clusters that count as free", offset);
    }
    for (uint64_t i = 0; i < count; i++) {
        struct qcow2_slice *slice = NULL;
        int rc = get_slice(q, first + i, &slice);
        if (rc == 0 && slice == NULL) {
            rc = -EIO;
        }
        if (rc < 0) {
            qcow2_unalloc(q, offset, i << q->layout.cluster_bits);
            return rc;
        }
        uint64_t per_slice;
        uint64_t index = index_in_slice(q, first + i, &per_slice);
        qcow2_refblock_put(slice->data, q->layout.refcount_bits, index, 1);
        qcow2_cache_dirty(q, slice);
    }
    return 0;
}

static int check_writable(const struct qcow2 *q)
{
    return q->broken < 0 ? q->broken : !q->is_writable ? -EROFS : 0;
}

int qcow2_alloc(struct qcow2 *q, uint64_t count, uint64_t *out_offset, uint64_t *out_count)
{
    int rc = check_writable(q);
    if (rc < 0) {
        return rc;
    }
    coroutine_mutex_lock(&q->alloc_mutex);
    uint64_t first = 0, got = 0;
    while (rc == 0 && got == 0) {
        uint64_t start = q->alloc_hint, next;
        rc = scan_slice(q, start, count, &first, &got, &next);
        /* A lower hint means that something was freed meanwhile. */
        if (rc == 0 && q->alloc_hint == start) {
            q->alloc_hint = got > 0 ? first : next;
        }
    }
    if (rc == 0) {
        rc = take(q, first, got);
    }
    if (rc == 0) {
        if (q->alloc_hint == first) {
            q->alloc_hint = first + got;
        }
        *out_offset = first << q->layout.cluster_bits;
        *out_count = got;
        q->is_last_fresh = *out_offset >= q->fresh_from;
        used_up_to(q, first + got);
    }
    coroutine_mutex_unlock(&q->alloc_mutex);
    return rc;
}

/* More clusters in a row than a range has left when its block is in it: on new ground, with the blocks in front. */
static int alloc_large(struct qcow2 *q, uint64_t count, uint64_t *out_first)
{
    uint64_t blocks = blocks_for(q, count);
    uint64_t base = end_of_blocks(q);
    int rc = 0;
    if (base + blocks > q->reftable.entry_count) {
        rc = grow_reftable(q, base + blocks + 2);
        base = end_of_blocks(q);
    }
    if (rc == 0 && base + blocks > q->reftable.entry_count) {
        rc = -EFBIG;
    }
    if (rc == 0) {
        rc = write_new_blocks(q, base, blocks, count);
    }
    for (uint64_t i = 0; rc == 0 && i < blocks; i++) {
        uint64_t first = base << q->layout.refblock_bits;
        qcow2_table_set(&q->reftable, base + i, (first + i) << q->layout.cluster_bits);
        if (i == 0 && blocks > 1) {
            rc = qcow2_commit(q); /* it counts the others */
        }
    }
    *out_first = (base << q->layout.refblock_bits) + blocks;
    return rc;
}

/* The first row of 'count' free clusters, not more than fit beside a block. */
static int alloc_row(struct qcow2 *q, uint64_t count, uint64_t *out_first)
{
    uint64_t run_first = 0, run = 0, at = q->alloc_hint;
    while (run < count) {
        uint64_t first, got, next;
        int rc = scan_slice(q, at, count - run, &first, &got, &next);
        if (rc < 0) {
            return rc;
        }
        if (got > 0 && run > 0 && first == run_first + run) {
            run += got;
        } else {
            run_first = first;
            run = got;
        }
        at = next;
    }
    int rc = take(q, run_first, count);
    *out_first = run_first;
    return rc;
}

int qcow2_alloc_exact(struct qcow2 *q, uint64_t bytes, uint64_t *out_offset)
{
    uint64_t count = MAX((bytes + q->layout.cluster_size - 1) >> q->layout.cluster_bits, 1u);
    int rc = check_writable(q);
    if (rc < 0) {
        return rc;
    }
    uint64_t first = 0;
    coroutine_mutex_lock(&q->alloc_mutex);
    rc = count < BIT(q->layout.refblock_bits) ? alloc_row(q, count, &first)
                                              : alloc_large(q, count, &first);
    if (rc == 0) {
        *out_offset = first << q->layout.cluster_bits;
        used_up_to(q, first + count);
    }
    coroutine_mutex_unlock(&q->alloc_mutex);
    return rc;
}

void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t done;
    (void)!qcow2_refcount_add(q, offset, size, -1, &done); /* at worst they leak */
}

static int alloc_compressed(struct qcow2 *q, uint32_t size, uint64_t *out_offset)
{
    size = (uint32_t)align_up(size, QCOW2_SECTOR);
    uint64_t left = q->compressed_end - q->compressed_at;
    uint64_t done, offset = 0, count;
    if (left >= size) {
        uint64_t at = q->compressed_at;
        q->compressed_at += size;
        int rc = qcow2_refcount_add(q, at, 1, 1, &done);
        if (rc != -ERANGE) {
            *out_offset = at;
            return rc;
        }
        left = 0; /* its count is at the limit */
    }
    int rc = qcow2_alloc(q, 1, &offset, &count);
    if (rc < 0) {
        return rc;
    }
    uint64_t at = offset;
    if (left > 0 && offset == q->compressed_end && q->compressed_at < offset) {
        if (qcow2_refcount_add(q, q->compressed_at, 1, 1, &done) == 0) {
            at = q->compressed_at; /* begins in the last cluster, ends in the new one */
        }
    }
    q->compressed_at = at + size;
    q->compressed_end = offset + q->layout.cluster_size;
    *out_offset = at;
    return 0;
}

int qcow2_alloc_compressed(struct qcow2 *q, uint32_t size, uint64_t *out_offset)
{
    coroutine_mutex_lock(&q->compressed_mutex);
    int rc = alloc_compressed(q, size, out_offset);
    coroutine_mutex_unlock(&q->compressed_mutex);
    return rc;
}

int qcow2_free_later(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    struct qcow2_frees *frees = &q->frees;
    size = align_up(size, q->layout.cluster_size);
    if (qcow2_hits_metadata(q, offset, size)) {
        return qcow2_corrupt(q, "metadata about to be freed as something else", offset);
    }
    struct qcow2_free *last = frees->count > 0 ? &frees->item[frees->count - 1] : NULL;
    if (last != NULL && last->offset + last->size == offset) {
        last->size += size;
    } else {
        if (frees->count == frees->capacity) {
            size_t capacity = MAX(frees->capacity * 2, (size_t)64);
            void *item = realloc(frees->item, capacity * sizeof(struct qcow2_free));
            if (item == NULL) {
                return 0; /* the clusters leak: nothing that a check cannot repair */
            }
            frees->item = item;
            frees->capacity = capacity;
        }
        frees->item[frees->count++] = (struct qcow2_free){offset, size};
    }
    frees->bytes += size;
    if (frees->count >= 4096 || frees->bytes >= 64u << 20) {
        qcow2_commit_soon(q);
    }
    return 0;
}

int qcow2_free_entry_later(struct qcow2 *q, struct qcow2_entry entry)
{
    if (q->layout.has_data_file) {
        return 0;
    }
    uint64_t offset = qcow2_entry_offset(entry);
    uint32_t size = q->layout.cluster_size;
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        qcow2_entry_compressed(&q->layout, entry, &offset, &size);
        uint64_t first = align_down(offset, q->layout.cluster_size);
        size = (uint32_t)(align_up(offset + size, q->layout.cluster_size) - first);
        offset = first;
    }
    return offset != 0 ? qcow2_free_later(q, offset, size) : 0;
}
