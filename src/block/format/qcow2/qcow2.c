/* qcow2: opening and closing. Where to look for the rest: header.c and entry.c what stands in the file, io.c the way of a request,
 * write.c allocation, refcount.c free clusters, commit.c when metadata is written, check.c what is wrong with an image. */
#include "block/format/qcow2/qcow2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "block/crypt.h"

static void destroy(struct qcow2 *q)
{
    qcow2_cache_fini(q);
    qcow2_table_fini(&q->l1);
    qcow2_table_fini(&q->reftable);
    qcow2_snapshots_fini(q);
    free(q->metadata.slot);
    free(q->frees.item);
    free(q->ready.item);
    work_pool_destroy(q->pool);
    free(q->unpacked);
    qcow2_io_fini(q);
    free(q);
}

int qcow2_settle(struct qcow2 *q)
{
    int rc = q->broken;
    /* What is freed changes counts, which takes another commit; it frees nothing more. */
    while (rc == 0 && (!qcow2_is_clean(q) || q->ready.count > 0)) {
        rc = qcow2_commit(q);
        if (rc == 0) {
            rc = qcow2_release(q);
        }
    }
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    return rc;
}

static int finish_in_coroutine(void *ctx)
{
    return qcow2_settle(ctx);
}

static int qcow2_finish(struct block *block, struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    if (!q->is_writable || q->is_for_repair) {
        return 0;
    }
    int rc = block_run(finish_in_coroutine, q);
    if (rc < 0) {
        return error_set(err, -rc, "disk %s: %s%s%s", block->name,
                         q->fault[0] != '\0' ? q->fault : "writing its metadata: ",
                         q->fault[0] != '\0' ? "" : strerror(-rc), "");
    }
    return 0;
}

static void qcow2_close(struct block *block)
{
    struct qcow2 *q = qcow2_from_block(block);
    block_fini(block);
    destroy(q);
}

static const struct block_image_ops image_ops = {
    .describe = qcow2_describe,
    .check = qcow2_check,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .set_backing_name = qcow2_set_backing_name,
    .make_empty = qcow2_make_empty,
    .bitmaps_load = qcow2_bitmaps_load,
    .bitmaps_store = qcow2_bitmaps_store,
};

static const struct block_ops qcow2_ops = {
    .name = "qcow2",
    .submit = qcow2_submit,
    .wait_own = qcow2_wait_own,
    .finish = qcow2_finish,
    .close = qcow2_close,
    .image = &image_ops,
};

struct qcow2 *qcow2_from_block(const struct block *block)
{
    return container_of(block, struct qcow2, block);
}

static int read_header(struct qcow2 *q, struct error *err)
{
    uint64_t file_size = q->file->info.size_bytes;
    uint32_t cluster_bits;
    uint32_t size = (uint32_t)MIN(file_size, (uint64_t)QCOW2_HEADER_BYTES);
    int rc = block_read(q->file, 0, q->header_bytes, size);
    if (rc < 0) {
        return error_set_errno(err, -rc, "reading the header");
    }
    rc = qcow2_header_peek(q->header_bytes, size, &cluster_bits, err);
    if (rc < 0) {
        return rc;
    }
    q->header_size = (uint32_t)MIN((uint64_t)size, BIT(cluster_bits));
    size_t whole = (size_t)MIN(file_size, MIN(BIT(cluster_bits), (uint64_t)QCOW2_MAX_EXTENSIONS));
    uint8_t *data = malloc(whole);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "reading the header");
    }
    rc = block_read(q->file, 0, data, whole);
    if (rc < 0) {
        (void)error_set_errno(err, -rc, "reading the header"); /* rc says it already */
    } else {
        rc = qcow2_header_parse(data, whole, &q->header, err);
    }
    free(data);
    return rc;
}

static int check_state(struct qcow2 *q, struct error *err)
{
    uint64_t features = q->header.incompatible_features;
    if (q->is_for_repair || !q->is_writable) {
        return 0;
    }
    if ((features & QCOW2_INCOMPATIBLE_CORRUPT) != 0) {
        return error_set(
            err, EUCLEAN,
            "is marked as corrupt: a read-only disk, or one that has been repaired, is accepted");
    }
    return 0;
}

static int load_tables(struct qcow2 *q, struct error *err)
{
    uint64_t entries = (uint64_t)q->header.refcount_table_clusters << (q->layout.cluster_bits - 3);
    uint64_t l1_bytes = (uint64_t)q->header.l1_size * 8;
    uint64_t file_size = q->file->info.size_bytes;
    if (!range_fits(q->header.refcount_table_offset, entries * 8,
                    align_up(file_size, q->layout.cluster_size)) ||
        !range_fits(q->header.l1_table_offset, l1_bytes,
                    align_up(file_size, q->layout.cluster_size))) {
        return error_set(err, EINVAL, "is cut off: its tables lie behind the end of the file");
    }
    int rc = qcow2_table_init(&q->l1, q->header.l1_table_offset, q->header.l1_size);
    if (rc == 0) {
        rc = qcow2_table_init(&q->reftable, q->header.refcount_table_offset, entries);
    }
    if (rc == 0) {
        rc = qcow2_table_load(q, &q->l1);
    }
    if (rc == 0) {
        rc = qcow2_table_load(q, &q->reftable);
    }
    return rc < 0 ? error_set_errno(err, -rc, "reading its tables") : 0;
}

/* Where tables are. One place for two of them is a fault that must not be written to. */
static int note_metadata(struct qcow2 *q, struct error *err)
{
    uint32_t cluster_size = q->layout.cluster_size;
    uint64_t mask = cluster_size - 1;
    int rc = qcow2_metadata_add(q, 0, cluster_size);
    if (rc == 0) {
        rc = qcow2_metadata_add(q, q->l1.offset, q->l1.entry_count * 8);
    }
    if (rc == 0) {
        rc = qcow2_metadata_add(q, q->reftable.offset, q->reftable.entry_count * 8);
    }
    if (rc == 0 && q->snapshot_count > 0) {
        rc = qcow2_metadata_add(q, q->header.snapshots_offset, q->snapshot_table_size);
    }
    for (uint32_t i = 0; i < q->snapshot_count && rc == 0; i++) {
        rc = qcow2_metadata_add(q, q->snapshot[i].l1_table_offset,
                                (uint64_t)q->snapshot[i].l1_size * 8);
    }
    if (rc == 0 && q->header.is_encrypted) {
        rc = qcow2_metadata_add(q, q->header.crypt_offset, q->header.crypt_size);
    }
    if (rc == 0 && q->header.has_bitmaps) {
        rc = qcow2_metadata_add(q, q->header.bitmap_directory_offset,
                                q->header.bitmap_directory_size);
    }
    for (uint64_t i = 0; i < q->l1.entry_count && rc == 0; i++) {
        uint64_t offset = q->l1.entry[i] & QCOW2_OFFSET_MASK;
        if (offset != 0 && (offset & mask) == 0) {
            rc = qcow2_metadata_add(q, offset, cluster_size);
        }
    }
    for (uint64_t i = 0; i < q->reftable.entry_count && rc == 0; i++) {
        uint64_t offset = q->reftable.entry[i];
        if (offset != 0 && (offset & mask) == 0 && offset < BLOCK_MAX_SIZE) {
            rc = qcow2_metadata_add(q, offset, cluster_size);
        }
    }
    if (rc == -EEXIST) {
        if (!q->is_writable || q->is_for_repair) {
            return 0;
        }
        return error_set(err, EUCLEAN, "has two tables at one place: it needs a repair");
    }
    return rc < 0 ? error_set_errno(err, -rc, "reading its tables") : 0;
}

/* Encrypted data goes through a block of its own, by its place in the file. */
static int open_data(struct qcow2 *q, const struct block_options *options, struct error *err)
{
    const struct block_crypt_header header = {q->file, q->header.crypt_offset,
                                              q->header.crypt_size};
    if (options->unlock == NULL) {
        return error_set(err, ENOKEY, "disk %s: is encrypted: a key is needed", q->file->name);
    }
    struct block_crypt *crypt = block_crypt_new();
    if (crypt == NULL) {
        return error_set_errno(err, ENOMEM, "disk %s: its key", q->file->name);
    }
    int rc = options->unlock(options->unlock_ctx, &header, crypt, err);
    if (rc == 0) {
        rc = block_crypt_open_inner(q->file, crypt, &q->block.data_file, err);
    }
    block_crypt_free(crypt);
    q->data = rc == 0 ? q->block.data_file : q->file;
    return rc;
}

static int open_references(struct qcow2 *q, struct block_options *options, struct error *err)
{
    int rc = 0;
    q->is_locked = q->header.is_encrypted && (options->is_alone || options->is_for_repair);
    if (q->header.is_encrypted && !q->is_locked) {
        rc = open_data(q, options, err);
    }
    if (rc == 0 && q->layout.has_data_file) {
        struct block_reference reference = {
            .kind = BLOCK_REFERENCE_DATA,
            .name = q->header.has_data_name ? q->header.data_name : "",
            .format = "raw",
            .is_readonly = !q->is_writable,
        };
        rc = block_resolve(q->file, options, &reference, &q->block.data_file, err);
        if (rc == 0 && q->block.data_file->info.is_readonly && q->is_writable) {
            rc = error_set(err, EINVAL, "disk %s: its data file is read-only", q->file->name);
        }
        q->data = q->block.data_file;
    }
    if (rc == 0 && q->header.has_backing) {
        struct block_reference reference = {
            .kind = BLOCK_REFERENCE_BACKING,
            .name = q->header.backing_name,
            .format = q->header.has_backing_format ? q->header.backing_format : NULL,
            .is_readonly = true,
        };
        rc = block_resolve(q->file, options, &reference, &q->block.backing, err);
        q->is_alone = rc == 0 && q->block.backing == NULL;
    }
    return rc;
}

/* What requests to this disk have to be multiples of: the largest of what lies below. */
static int fill_info(struct qcow2 *q, struct error *err)
{
    uint32_t logical = 512;
    const struct block *const below[] = {q->block.backing, q->block.data_file};
    for (size_t i = 0; i < ARRAY_COUNT(below); i++) {
        if (below[i] != NULL) {
            logical = MAX(logical, below[i]->info.logical_block_size);
        }
    }
    if (logical > BIT(q->layout.subcluster_bits) || logical > 4096) {
        return error_set(err, EINVAL,
                         "stands on a device with sectors of %u bytes, its clusters are smaller",
                         logical);
    }
    q->block.info = (struct block_info){
        .size_bytes = align_up(q->header.size, logical),
        .logical_block_size = logical,
        .physical_block_size = MAX(logical, q->data->info.physical_block_size),
        .cluster_size = q->layout.cluster_size,
        .is_readonly = !q->is_writable,
        .can_discard = q->is_writable,
        .can_write_zeroes = q->is_writable,
        .can_resize = q->is_writable,
        .can_compress = q->is_writable && !q->layout.has_data_file && !q->header.is_encrypted,
    };
    return 0;
}

static int open_tables(struct qcow2 *q, struct block_options *options, struct error *err)
{
    int rc = read_header(q, err);
    if (rc < 0) {
        return rc;
    }
    qcow2_layout_init(&q->layout, &q->header);
    q->is_raw_external = (q->header.autoclear_features & QCOW2_AUTOCLEAR_RAW_EXTERNAL) != 0;
    q->fresh_from = q->file->info.is_growable && !q->header.is_encrypted
                        ? align_up(q->file->info.size_bytes, q->layout.cluster_size)
                        : UINT64_MAX;
    rc = check_state(q, err);
    if (rc == 0 && qcow2_cache_init(q) < 0) {
        rc = error_set_errno(err, ENOMEM, "making its cache");
    }
    if (rc == 0) {
        rc = load_tables(q, err);
    }
    if (rc == 0) {
        rc = qcow2_snapshots_load(q, err);
    }
    if (rc == 0) {
        rc = note_metadata(q, err);
    }
    if (rc == 0 && options->snapshot != NULL) {
        rc = qcow2_snapshot_show(q, options->snapshot, err);
        options->snapshot = NULL;
    }
    return rc;
}

static int make_ready(struct qcow2 *q, struct error *err)
{
    int rc = fill_info(q, err);
    /* A dirty image may have counts that are too low: they are put right before anything is allocated. */
    if (rc == 0 && (q->header.incompatible_features & QCOW2_INCOMPATIBLE_DIRTY) != 0 &&
        q->is_writable && !q->is_for_repair) {
        rc = qcow2_repair_dirty(q, err);
    }
    return rc;
}

static int qcow2_open(struct block *file, struct block_options *options, struct block **out_block,
                      struct error *err)
{
    struct qcow2 *q = block_new(sizeof(*q), &qcow2_ops, file->name, file->loop, err);
    if (q == NULL) {
        return -ENOMEM;
    }
    q->file = file;
    q->data = file;
    q->block.file = file;
    q->is_for_repair = options->is_for_repair;
    q->is_writable = !options->is_readonly && (!options->is_alone || options->is_for_repair);
    q->held_tail = &q->held;
    int rc = 0;
    if (q->is_writable && file->info.is_readonly) {
        rc = error_set(err, EROFS, "its file is read-only");
    }
    if (rc == 0) {
        rc = open_tables(q, options, err);
    }
    bool has_context = rc == 0;
    if (rc == 0) {
        rc = open_references(q, options, err);
    }
    if (rc == 0) {
        rc = make_ready(q, err);
        has_context = false;
    }
    if (rc < 0) {
        if (!has_context) {
            rc = error_prefix(err, rc, "disk %s: qcow2", file->name);
        }
        block_abandon(&q->block);
        destroy(q);
        return rc;
    }
    *out_block = &q->block;
    return 0;
}

const struct block_format block_format_qcow2 = {
    .name = "qcow2", .open = qcow2_open, .create = qcow2_create};
