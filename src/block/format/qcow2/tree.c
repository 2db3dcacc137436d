/* Work on whole trees of tables: counting what an L1 table names, and the "copied" flags that follow from the counts. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

#define MAX_FREES 65536u

int qcow2_set_dirty(struct qcow2 *q, bool is_dirty)
{
    uint64_t features = q->header.incompatible_features;
    uint64_t wanted =
        is_dirty ? features | QCOW2_INCOMPATIBLE_DIRTY : features & ~QCOW2_INCOMPATIBLE_DIRTY;
    if (q->header.version < 3 || wanted == features) {
        return 0;
    }
    q->header.incompatible_features = wanted;
    return qcow2_write_header(q);
}

int qcow2_write_new_table(struct qcow2 *q, const uint64_t *entry, uint64_t entry_count,
                          uint64_t *out_offset)
{
    size_t size = (size_t)align_up(MAX(entry_count, (uint64_t)1) * 8, q->layout.cluster_size);
    uint8_t *data = calloc(1, size);
    int rc = data != NULL ? qcow2_alloc_exact(q, size, out_offset) : -ENOMEM;
    if (rc == 0) {
        for (uint64_t i = 0; i < entry_count; i++) {
            be64_put(data + i * 8, entry[i]);
        }
        rc = block_write(q->file, *out_offset, data, size);
        if (rc == 0) {
            rc = block_flush(q->file);
        }
        if (rc < 0) {
            qcow2_unalloc(q, *out_offset, size);
        }
    }
    free(data);
    return rc;
}

static bool is_table(const struct qcow2 *q, uint64_t l1_entry)
{
    uint64_t offset = l1_entry & QCOW2_OFFSET_MASK;
    return offset != 0 && (offset & (q->layout.cluster_size - 1)) == 0;
}

static void entry_clusters(const struct qcow2 *q, struct qcow2_entry entry, uint64_t *out_offset,
                           uint64_t *out_size)
{
    uint64_t mask = q->layout.cluster_size - 1;
    uint32_t size = q->layout.cluster_size;
    *out_offset = qcow2_entry_offset(entry);
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        qcow2_entry_compressed(&q->layout, entry, out_offset, &size);
    }
    uint64_t end = *out_offset + size;
    *out_offset &= ~mask;
    *out_size = align_up(end, q->layout.cluster_size) - *out_offset;
}

struct walk {
    struct qcow2 *q;
    int change;
    uint64_t steps; /* done so far */
    uint64_t limit; /* stop after so many */
};

static int free_now_and_then(struct qcow2 *q)
{
    if (q->frees.count < MAX_FREES) {
        return 0;
    }
    int rc = qcow2_commit(q);
    return rc < 0 ? rc : qcow2_release(q);
}

/* One reference more or less to the clusters of [offset, offset + size). */
static int count_step(struct walk *walk, uint64_t offset, uint64_t size, bool is_l2)
{
    struct qcow2 *q = walk->q;
    uint64_t done;
    if (walk->steps == walk->limit) {
        return 1; /* as far as wanted */
    }
    int rc;
    if (walk->change > 0) {
        rc = qcow2_refcount_add(q, offset, size, 1, &done);
        if (rc < 0 && done > 0) {
            qcow2_unalloc(q, offset, done << q->layout.cluster_bits);
        }
    } else if (is_l2) {
        uint64_t count;
        rc = qcow2_refcount_get(q, offset >> q->layout.cluster_bits, &count);
        if (rc == 0 && count == 1) {
            qcow2_metadata_remove(q, offset, size);
            rc = qcow2_free_later(q, offset, size);
        } else if (rc == 0) {
            rc = qcow2_refcount_add(q, offset, size, -1, &done);
        }
    } else {
        rc = qcow2_free_later(q, offset, size);
        if (rc == 0) {
            rc = free_now_and_then(q);
        }
    }
    walk->steps += rc == 0;
    return rc;
}

static int walk_table(struct walk *walk, uint64_t table, uint8_t *data)
{
    struct qcow2 *q = walk->q;
    int rc = block_read(q->file, table, data, q->layout.cluster_size);
    for (uint32_t at = 0; rc == 0 && at < q->layout.cluster_size; at += q->layout.entry_size) {
        struct qcow2_entry entry = {.descriptor = be64_get(data + at)};
        uint64_t offset, size;
        if (q->layout.is_extended) {
            entry.bitmap = be64_get(data + at + 8);
        }
        const char *fault = qcow2_entry_fault(&q->layout, entry, 0);
        if (fault != NULL) {
            return qcow2_corrupt(q, fault, table + at);
        }
        if (qcow2_entry_offset(entry) == 0 && (entry.descriptor & QCOW2_COMPRESSED) == 0) {
            continue;
        }
        entry_clusters(q, entry, &offset, &size);
        rc = count_step(walk, offset, size, false);
    }
    return rc == 0 ? count_step(walk, table, q->layout.cluster_size, true) : rc;
}

static int walk_l1(struct walk *walk, const uint64_t *l1, uint64_t l1_size)
{
    uint8_t *data = malloc(walk->q->layout.cluster_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    for (uint64_t i = 0; rc == 0 && i < l1_size; i++) {
        if (is_table(walk->q, l1[i])) {
            rc = walk_table(walk, l1[i] & QCOW2_OFFSET_MASK, data);
        }
    }
    free(data);
    return rc;
}

int qcow2_tree_add(struct qcow2 *q, const uint64_t *l1, uint64_t l1_size, int change)
{
    struct walk walk = {.q = q, .change = change, .limit = UINT64_MAX};
    int rc = walk_l1(&walk, l1, l1_size);
    if (rc < 0 && change > 0 && q->broken == 0) {
        struct walk undo = {.q = q, .change = -1, .limit = walk.steps};
        (void)!walk_l1(&undo, l1, l1_size); /* at worst counts stay too high: leaks */
    }
    return rc < 0 ? rc : 0;
}

static int fix_entry(struct qcow2 *q, uint64_t position)
{
    struct qcow2_slice *slice;
    uint32_t mask = q->cache.slice_size - 1;
    int rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &slice);
    if (rc < 0) {
        return rc;
    }
    uint64_t descriptor = be64_get(slice->data + (position & mask));
    uint64_t offset = descriptor & QCOW2_OFFSET_MASK, count;
    if (offset == 0 || (descriptor & QCOW2_COMPRESSED) != 0 ||
        (offset & (q->layout.cluster_size - 1)) != 0) {
        return 0;
    }
    rc = qcow2_refcount_get(q, offset >> q->layout.cluster_bits, &count);
    if (rc < 0 || (count == 1) == ((descriptor & QCOW2_COPIED) != 0)) {
        return rc;
    }
    rc = qcow2_cache_get(q, position, QCOW2_SLICE_L2, &slice); /* it may have gone meanwhile */
    if (rc == 0) {
        be64_put(slice->data + (position & mask), descriptor ^ QCOW2_COPIED);
        qcow2_cache_dirty(q, slice);
    }
    return rc;
}

int qcow2_tree_fix_copied(struct qcow2 *q)
{
    for (uint64_t i = 0; i < q->l1.entry_count; i++) {
        uint64_t entry = q->l1.entry[i], count;
        if (!is_table(q, entry)) {
            continue;
        }
        uint64_t table = entry & QCOW2_OFFSET_MASK;
        int rc = qcow2_refcount_get(q, table >> q->layout.cluster_bits, &count);
        if (rc == 0 && (count == 1) != ((entry & QCOW2_COPIED) != 0)) {
            qcow2_table_set(&q->l1, i, entry ^ QCOW2_COPIED);
        }
        for (uint32_t at = 0; rc == 0 && !q->layout.has_data_file && at < q->layout.cluster_size;
             at += q->layout.entry_size) {
            rc = fix_entry(q, table + at);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
