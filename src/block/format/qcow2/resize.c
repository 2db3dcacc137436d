/* Resizing the disk. What a disk gains reads as zeros, whatever stood there before. */
#include <stdlib.h>

#include "block/format/qcow2/bitmap.h"

uint64_t qcow2_l1_entries_for(const struct qcow2_layout *layout, uint64_t size)
{
    uint64_t per_table = BIT(layout->cluster_bits + layout->l2_bits);
    return (size + per_table - 1) / per_table;
}

int qcow2_grow_l1(struct qcow2 *q, uint64_t entry_count)
{
    struct qcow2_table new;
    if (entry_count <= q->l1.entry_count) {
        return 0;
    }
    if (entry_count * 8 > QCOW2_MAX_L1_BYTES) {
        return -EFBIG;
    }
    int rc = qcow2_commit(q); /* the old one has nothing that the new one lacks */
    if (rc == 0) {
        rc = qcow2_table_init(&new, 0, entry_count);
    }
    if (rc < 0) {
        return rc;
    }
    for (uint64_t i = 0; i < q->l1.entry_count; i++) {
        new.entry[i] = q->l1.entry[i];
    }
    rc = qcow2_write_new_table(q, new.entry, entry_count, &new.offset);
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc < 0) {
        qcow2_table_fini(&new);
        return rc;
    }
    q->header.l1_table_offset = new.offset;
    q->header.l1_size = (uint32_t)entry_count;
    rc = qcow2_write_header(q);
    if (rc < 0) {
        q->broken = rc; /* it is not known which table the file has */
        qcow2_table_fini(&new);
        return rc;
    }
    struct qcow2_table old = q->l1;
    q->l1 = new;
    uint64_t old_bytes = old.entry_count * 8, old_offset = old.offset;
    qcow2_table_fini(&old);
    if (old_bytes > 0) {
        qcow2_metadata_remove(q, old_offset, old_bytes);
        rc = qcow2_free_later(q, old_offset, old_bytes);
    }
    return rc == 0 ? qcow2_metadata_add(q, new.offset, entry_count * 8) : rc;
}

static int resize_raw_data(struct qcow2 *q, uint64_t size)
{
    return q->is_raw_external && q->data->info.can_resize && q->data->info.size_bytes < size
               ? block_resize(q->data, size)
               : 0;
}

static int grow(struct qcow2 *q, uint64_t size)
{
    uint64_t old = q->header.size;
    const struct block *backing = q->block.backing;
    int rc = qcow2_grow_l1(q, qcow2_l1_entries_for(&q->layout, size));
    /* The rest of the last cluster may hold what a longer disk had there; a longer backing block would show through. */
    uint64_t to = MIN(size, align_up(old, q->layout.cluster_size));
    if (backing != NULL && backing->info.size_bytes > old) {
        to = MAX(to, MIN(size, backing->info.size_bytes));
    }
    if (rc == 0) {
        rc = resize_raw_data(q, size);
    }
    if (rc == 0 && to > old) {
        rc = qcow2_write_zeroes(q, old, align_up(to, 512) - old, true);
    }
    return rc;
}

static int shrink(struct qcow2 *q, uint64_t size)
{
    uint64_t from = align_up(size, q->layout.cluster_size);
    uint64_t old = align_up(q->header.size, q->layout.cluster_size);
    return from < old ? qcow2_discard(q, from, old - from) : 0;
}

static int resize(struct qcow2 *q, uint64_t size)
{
    int rc = qcow2_prepare_write(q);
    if (rc == 0) {
        rc = size > q->header.size ? grow(q, size) : shrink(q, size);
    }
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc < 0) {
        return rc;
    }
    uint64_t old = q->header.size;
    q->header.size = size;
    rc = qcow2_write_header(q);
    if (rc < 0) {
        q->header.size = old;
        q->broken = rc; /* it is not known which size the file has */
        return rc;
    }
    q->block.info.size_bytes = size;
    return 0;
}

/* Bitmaps have the disk's size. While they have not, nobody believes them. */
static int resize_with_bitmaps(struct qcow2 *q, uint64_t size)
{
    struct qcow2_loaded_bitmaps loaded;
    struct block_stored_bitmap *stored = NULL;
    int rc = qcow2_bitmaps_get(q, &loaded);
    if (rc < 0) {
        return rc;
    }
    stored = calloc(loaded.count, sizeof(*stored));
    rc = stored != NULL ? qcow2_prepare_write(q) : -ENOMEM;
    if (rc == 0) {
        rc = qcow2_bitmaps_in_use(q, true);
    }
    if (rc == 0) {
        rc = resize(q, size);
    }
    for (uint32_t i = 0; i < loaded.count && rc == 0; i++) {
        if (loaded.map[i].word != NULL) {
            rc = dirty_map_resize(&loaded.map[i], q->block.info.size_bytes);
        }
        stored[i] = qcow2_bitmap_stored(&loaded, i);
    }
    if (rc == 0) {
        rc = qcow2_bitmaps_put(q, stored, loaded.count);
    }
    free(stored);
    qcow2_bitmaps_free(&loaded);
    return rc;
}

int qcow2_resize(struct qcow2 *q, uint64_t size)
{
    if ((q->layout.version < 3 && q->snapshot_count > 0) || q->is_alone) {
        return -EOPNOTSUPP; /* version 2 does not know the size of snapshots */
    }
    uint64_t limit = QCOW2_MAX_L1_BYTES / 8 * BIT(q->layout.cluster_bits + q->layout.l2_bits);
    if (size > MIN(limit, BLOCK_MAX_SIZE)) {
        return -EFBIG;
    }
    qcow2_exclusive_begin(q);
    int rc = q->broken < 0            ? q->broken
             : size == q->header.size ? 0
             : q->header.has_bitmaps  ? resize_with_bitmaps(q, size)
                                      : resize(q, size);
    qcow2_exclusive_end(q);
    return rc;
}
