/* From guest clusters to host clusters: L1 in memory, L2 through the cache. */
#include <stdlib.h>

#include "base/core/checked.h"
#include "block/format/qcow2/qcow2.h"

bool qcow2_hits_metadata(const struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t first = offset >> q->layout.cluster_bits;
    uint64_t last = (offset + size - 1) >> q->layout.cluster_bits;
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        if (qcow2_set_has(&q->metadata, cluster)) {
            return true;
        }
    }
    return false;
}

int qcow2_metadata_add(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t end = (offset + size + q->layout.cluster_size - 1) >> q->layout.cluster_bits;
    for (uint64_t cluster = offset >> q->layout.cluster_bits; cluster < end; cluster++) {
        if (qcow2_set_has(&q->metadata, cluster)) {
            return -EEXIST;
        }
        int rc = qcow2_set_add(&q->metadata, cluster);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void qcow2_metadata_remove(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t end = (offset + size + q->layout.cluster_size - 1) >> q->layout.cluster_bits;
    for (uint64_t cluster = offset >> q->layout.cluster_bits; cluster < end; cluster++) {
        qcow2_set_remove(&q->metadata, cluster);
    }
}

/* The L2 table of an L1 entry; 0: none. */
static int table_of(struct qcow2 *q, uint64_t l1_index, uint64_t *out_offset)
{
    uint64_t entry = l1_index < q->l1.entry_count ? q->l1.entry[l1_index] : 0;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    *out_offset = 0;
    if ((entry & (BITS(62, 56) | BITS(8, 0))) != 0 ||
        (offset & (q->layout.cluster_size - 1)) != 0) {
        return qcow2_corrupt(q, "L1 entry that is not as specified", l1_index);
    }
    *out_offset = offset;
    return 0;
}

static uint64_t entry_position(const struct qcow2 *q, uint64_t table, uint64_t cluster)
{
    uint64_t index = cluster & (BIT(q->layout.l2_bits) - 1);
    return table + index * q->layout.entry_size;
}

static struct qcow2_entry read_entry(const struct qcow2 *q, const struct qcow2_slice *slice,
                                     uint64_t position)
{
    const uint8_t *data = slice->data + (position & (q->cache.slice_size - 1));
    struct qcow2_entry entry = {.descriptor = be64_get(data)};
    if (q->layout.is_extended) {
        entry.bitmap = be64_get(data + 8);
    }
    return entry;
}

static bool has_host(enum qcow2_kind kind)
{
    return kind == QCOW2_KIND_DATA || kind == QCOW2_KIND_ZERO_ALLOCATED ||
           kind == QCOW2_KIND_ABSENT_ALLOCATED;
}

/* The mapping from 'offset' on as far as it is of one kind and in a row; within one slice. */
static int map_in_slice(struct qcow2 *q, const struct qcow2_slice *slice, uint64_t position,
                        uint64_t offset, uint64_t size, struct qcow2_mapping *mapping)
{
    const struct qcow2_layout *layout = &q->layout;
    uint64_t unit = BIT(layout->subcluster_bits);
    uint64_t slice_end = slice->offset + q->cache.slice_size;
    uint64_t at = offset;
    uint64_t end = offset + size;
    bool is_l2_copied =
        (q->l1.entry[offset >> (layout->cluster_bits + layout->l2_bits)] & QCOW2_COPIED) != 0;
    while (at < end && position < slice_end) {
        struct qcow2_entry entry = read_entry(q, slice, position);
        uint64_t cluster = at >> layout->cluster_bits;
        const char *fault = qcow2_entry_fault(layout, entry, cluster);
        if (fault != NULL) {
            if (at > offset) {
                break; /* what comes before it can be used */
            }
            return qcow2_corrupt(q, fault, cluster);
        }
        uint64_t cluster_end = (cluster + 1) << layout->cluster_bits;
        uint64_t host = qcow2_entry_offset(entry) + (at & (layout->cluster_size - 1));
        bool is_copied = is_l2_copied && (entry.descriptor & QCOW2_COPIED) != 0;
        while (at < end && at < cluster_end) {
            uint32_t sub = (uint32_t)((at & (layout->cluster_size - 1)) >> layout->subcluster_bits);
            enum qcow2_kind kind = qcow2_entry_kind(layout, entry, sub);
            uint64_t step = unit - (at & (unit - 1));
            if (at == offset) {
                mapping->kind = kind;
                mapping->is_copied = is_copied;
                mapping->host_offset = has_host(kind) ? host : 0;
                mapping->entry = entry;
            } else if (kind != mapping->kind || kind == QCOW2_KIND_COMPRESSED ||
                       (has_host(kind) && (is_copied != mapping->is_copied ||
                                           host != mapping->host_offset + (at - offset)))) {
                mapping->size = at - offset;
                return 0;
            }
            at += kind == QCOW2_KIND_COMPRESSED ? cluster_end - at : step;
            host += step;
        }
        position += layout->entry_size;
    }
    mapping->size = MIN(at, end) - offset;
    return 0;
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, bool is_cached_only,
              struct qcow2_mapping *out_mapping)
{
    uint32_t table_bits = q->layout.cluster_bits + q->layout.l2_bits;
    uint64_t l1_index = offset >> table_bits;
    uint64_t table = 0;
    struct qcow2_slice *slice;
    *out_mapping = (struct qcow2_mapping){.kind = QCOW2_KIND_ABSENT};
    if (is_cached_only) {
        uint64_t entry = l1_index < q->l1.entry_count ? q->l1.entry[l1_index] : 0;
        table = entry & QCOW2_OFFSET_MASK;
    } else {
        int rc = table_of(q, l1_index, &table);
        if (rc < 0) {
            return rc;
        }
    }
    size = MIN(size, BIT(table_bits) - (offset & (BIT(table_bits) - 1)));
    if (table == 0) {
        out_mapping->size = size;
        return is_cached_only ? -EAGAIN : 0;
    }
    uint64_t position = entry_position(q, table, offset >> q->layout.cluster_bits);
    if (is_cached_only) {
        slice = qcow2_cache_find(q, position);
        if (slice == NULL || slice->is_loading || slice->kind != QCOW2_SLICE_L2) {
            return -EAGAIN;
        }
        struct qcow2_entry entry = read_entry(q, slice, position);
        if (qcow2_entry_fault(&q->layout, entry, offset >> q->layout.cluster_bits) != NULL) {
            return -EAGAIN; /* whoever may yield says it */
        }
        if (q->cache.newest != slice) {
            struct qcow2_slice *used;
            int rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &used); /* it is there */
            if (rc < 0) {
                return rc;
            }
        }
    } else {
        int rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &slice);
        if (rc < 0) {
            return rc;
        }
    }
    return map_in_slice(q, slice, position, offset, size, out_mapping);
}

int qcow2_entry_get(struct qcow2 *q, uint64_t cluster, struct qcow2_entry *out_entry)
{
    uint64_t table;
    int rc = table_of(q, cluster >> q->layout.l2_bits, &table);
    *out_entry = (struct qcow2_entry){0};
    if (rc < 0 || table == 0) {
        return rc;
    }
    uint64_t position = entry_position(q, table, cluster);
    struct qcow2_slice *slice;
    rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &slice);
    if (rc < 0) {
        return rc;
    }
    struct qcow2_entry entry = read_entry(q, slice, position);
    const char *fault = qcow2_entry_fault(&q->layout, entry, cluster);
    if (fault != NULL) {
        return qcow2_corrupt(q, fault, cluster);
    }
    *out_entry = entry;
    return 0;
}

/* Fills a new L2 table with the old one's entries, or with zeros. An old one is shared, and so as its file has it. */
static int fill_table(struct qcow2 *q, uint64_t from, uint64_t to)
{
    if (from == 0) {
        return block_write_zeroes(q->file, to, q->layout.cluster_size, false);
    }
    uint8_t *data = malloc(q->layout.cluster_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        rc = block_read(q->file, from, data, q->layout.cluster_size);
    }
    if (rc == 0) {
        rc = block_write(q->file, to, data, q->layout.cluster_size);
    }
    free(data);
    return rc;
}

/* A table of one's own for the L1 entry. */
static int make_table(struct qcow2 *q, uint64_t l1_index)
{
    uint64_t old, offset, count;
    int rc = table_of(q, l1_index, &old);
    if (rc < 0 || (old != 0 && (q->l1.entry[l1_index] & QCOW2_COPIED) != 0)) {
        return rc;
    }
    if (l1_index >= q->l1.entry_count) {
        return -EFBIG;
    }
    rc = qcow2_alloc(q, 1, &offset, &count);
    if (rc < 0) {
        return rc;
    }
    rc = fill_table(q, old, offset);
    if (rc == 0) {
        rc = qcow2_metadata_add(q, offset, q->layout.cluster_size);
    }
    if (rc < 0) {
        qcow2_unalloc(q, offset, q->layout.cluster_size);
        return rc;
    }
    qcow2_table_set(&q->l1, l1_index, offset | QCOW2_COPIED);
    if (old == 0) {
        return 0;
    }
    qcow2_metadata_remove(q, old, q->layout.cluster_size);
    return qcow2_free_later(q, old, q->layout.cluster_size);
}

int qcow2_entry_set(struct qcow2 *q, uint64_t cluster, struct qcow2_entry entry)
{
    uint64_t l1_index = cluster >> q->layout.l2_bits;
    uint64_t table = 0;
    coroutine_mutex_lock(&q->l2_mutex);
    int rc = make_table(q, l1_index);
    coroutine_mutex_unlock(&q->l2_mutex);
    if (rc == 0) {
        rc = table_of(q, l1_index, &table);
    }
    if (rc < 0) {
        return rc;
    }
    struct qcow2_slice *slice;
    uint64_t position = entry_position(q, table, cluster);
    rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &slice);
    if (rc == 0 && q->broken < 0) {
        rc = q->broken;
    }
    if (rc < 0) {
        return rc;
    }
    uint8_t *data = slice->data + (position & (q->cache.slice_size - 1));
    be64_put(data, entry.descriptor);
    if (q->layout.is_extended) {
        be64_put(data + 8, entry.bitmap);
    }
    qcow2_cache_dirty(q, slice);
    return 0;
}

static struct qcow2_range *find_overlap(const struct qcow2 *q, const struct qcow2_range *range)
{
    struct qcow2_range *other = q->ranges;
    while (other != NULL && (other->last < range->first || other->first > range->last)) {
        other = other->next;
    }
    return other;
}

void qcow2_lock_range(struct qcow2 *q, struct qcow2_range *range, uint64_t offset, uint64_t size)
{
    range->first = offset >> q->layout.cluster_bits;
    range->last = (offset + size - 1) >> q->layout.cluster_bits;
    while (find_overlap(q, range) != NULL) {
        coroutine_queue_wait(&q->ranges_waiting);
    }
    range->next = q->ranges;
    q->ranges = range;
}

void qcow2_unlock_range(struct qcow2 *q, struct qcow2_range *range)
{
    struct qcow2_range **at = &q->ranges;
    while (*at != range) {
        at = &(*at)->next;
    }
    *at = range->next;
    coroutine_queue_wake_all(&q->ranges_waiting);
}
