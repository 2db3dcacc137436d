/* Repair: entries that cannot be are cleared, counts are set to what was found, the flags that follow from them are put right. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/check.h"

static void checker_fini(struct qcow2_checker *c)
{
    free(c->refs);
    free(c->visited);
}

static void start_result(struct qcow2_checker *c)
{
    struct block_check_result *result = c->result;
    *result = (struct block_check_result){
        .errors_fixed = result->errors_fixed,
        .leaks_fixed = result->leaks_fixed,
        .total_clusters =
            (c->q->header.size + c->q->layout.cluster_size - 1) >> c->q->layout.cluster_bits,
    };
}

static int check_only(struct qcow2_checker *c)
{
    start_result(c);
    c->fixes_entries = false;
    c->skips_counts = false;
    int rc = qcow2_checker_walk(c);
    return rc == 0 ? qcow2_checker_compare(c, 0) : rc;
}

/* The highest count must fit. */
static bool counts_fit(const struct qcow2_checker *c)
{
    uint64_t max = qcow2_refcount_max(c->q->layout.refcount_bits);
    for (uint64_t i = 0; i < c->cluster_count; i++) {
        if (c->refs[i] > max) {
            return false;
        }
    }
    return true;
}

int qcow2_rebuild_counts(struct qcow2_checker *c)
{
    struct qcow2 *q = c->q;
    uint32_t bits = q->layout.cluster_bits;
    uint64_t per_block = BIT(q->layout.refblock_bits);
    uint64_t base = c->cluster_count, blocks = 1, table_clusters = 1, end;
    if (!q->file->info.is_growable || !counts_fit(c)) {
        return -EOPNOTSUPP;
    }
    for (;;) {
        end = base + blocks + table_clusters;
        uint64_t need = (end + per_block - 1) >> q->layout.refblock_bits;
        uint64_t need_table = (need * 8 + q->layout.cluster_size - 1) >> bits;
        if (need <= blocks && need_table <= table_clusters) {
            break;
        }
        blocks = MAX(blocks, need);
        table_clusters = MAX(table_clusters, need_table);
    }
    if (table_clusters << bits > QCOW2_MAX_REFTABLE_BYTES) {
        return -EFBIG;
    }
    uint64_t table_offset = (base + blocks) << bits;
    struct qcow2_table table;
    int rc = qcow2_table_init(&table, table_offset, table_clusters << (bits - 3));
    uint8_t *data = rc == 0 ? malloc(q->layout.cluster_size) : NULL;
    uint8_t *bytes = rc == 0 ? calloc((size_t)table_clusters, q->layout.cluster_size) : NULL;
    if (data == NULL || bytes == NULL) {
        rc = -ENOMEM;
    }
    for (uint64_t i = 0; rc == 0 && i < blocks; i++) {
        memset(data, 0, q->layout.cluster_size);
        for (uint64_t j = 0; j < per_block && (i << q->layout.refblock_bits) + j < end; j++) {
            uint64_t cluster = (i << q->layout.refblock_bits) + j;
            qcow2_refblock_put(data, q->layout.refcount_bits, j,
                               cluster < base ? c->refs[cluster] : 1);
        }
        uint64_t offset = (base + i) << bits;
        table.entry[i] = offset;
        be64_put(bytes + i * 8, offset);
        qcow2_cache_forget(q, offset, q->layout.cluster_size);
        rc = block_write(q->file, offset, data, q->layout.cluster_size);
    }
    if (rc == 0) {
        rc = block_write(q->file, table_offset, bytes, (size_t)(table_clusters << bits));
    }
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    free(data);
    free(bytes);
    if (rc == 0) {
        q->header.refcount_table_offset = table_offset;
        q->header.refcount_table_clusters = (uint32_t)table_clusters;
        rc = qcow2_write_header(q);
    }
    if (rc < 0) {
        qcow2_table_fini(&table);
        return rc;
    }
    for (uint64_t i = 0; i < q->reftable.entry_count; i++) {
        uint64_t offset = q->reftable.entry[i];
        if (offset != 0 && offset < BLOCK_MAX_SIZE) {
            qcow2_cache_forget(q, offset, q->layout.cluster_size);
        }
    }
    qcow2_table_fini(&q->reftable);
    q->reftable = table;
    return 0;
}

static int fix_counts(struct qcow2_checker *c, unsigned repair)
{
    struct qcow2 *q = c->q;
    bool has_errors = c->result->errors > 0;
    if (has_errors && (repair & BLOCK_REPAIR_ERRORS) != 0) {
        /* A table that cannot be used, or clusters in use that have no block: everything anew. */
        bool needs_new = c->has_bad_blocks;
        for (uint64_t i = 0; i < c->cluster_count && !needs_new; i++) {
            uint64_t index = i >> q->layout.refblock_bits;
            needs_new = c->refs[i] > 0 &&
                        (index >= q->reftable.entry_count || q->reftable.entry[index] == 0);
        }
        if (needs_new) {
            c->skips_counts = true;
            int rc = qcow2_checker_walk(c);
            uint64_t fixed = c->result->errors;
            if (rc == 0) {
                rc = qcow2_rebuild_counts(c);
            }
            c->result->errors_fixed += rc == 0 ? MAX(fixed, (uint64_t)1) : 0;
            return rc;
        }
    }
    return qcow2_checker_compare(c, repair);
}

/* 'l1' was cleared of what cannot be: the file gets it before the counts. */
static int write_l1(struct qcow2 *q)
{
    int rc = qcow2_commit(q);
    return rc == 0 ? block_flush(q->file) : rc;
}

static void note_metadata_again(struct qcow2 *q)
{
    /* Where tables are may have changed; what guards against writing there starts anew. Failures weaken a guard only. */
    free(q->metadata.slot);
    q->metadata = (struct qcow2_cluster_set){0};
    (void)!qcow2_metadata_add(q, 0, q->layout.cluster_size);
    (void)!qcow2_metadata_add(q, q->l1.offset, q->l1.entry_count * 8);
    (void)!qcow2_metadata_add(q, q->reftable.offset, q->reftable.entry_count * 8);
    if (q->snapshot_count > 0) {
        (void)!qcow2_metadata_add(q, q->header.snapshots_offset, q->snapshot_table_size);
    }
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        (void)!qcow2_metadata_add(q, q->snapshot[i].l1_table_offset,
                                  (uint64_t)q->snapshot[i].l1_size * 8);
    }
    if (q->header.has_bitmaps) {
        (void)!qcow2_metadata_add(q, q->header.bitmap_directory_offset,
                                  q->header.bitmap_directory_size);
    }
    for (uint64_t i = 0; i < q->l1.entry_count; i++) {
        uint64_t offset = q->l1.entry[i] & QCOW2_OFFSET_MASK;
        if (offset != 0) {
            (void)!qcow2_metadata_add(q, offset, q->layout.cluster_size);
        }
    }
    for (uint64_t i = 0; i < q->reftable.entry_count; i++) {
        if (q->reftable.entry[i] != 0) {
            (void)!qcow2_metadata_add(q, q->reftable.entry[i], q->layout.cluster_size);
        }
    }
}

static int repair_image(struct qcow2_checker *c, unsigned repair)
{
    struct qcow2 *q = c->q;
    c->fixes_entries = (repair & BLOCK_REPAIR_ERRORS) != 0;
    start_result(c);
    int rc = qcow2_checker_walk(c);
    if (rc == 0 && c->result->errors_fixed > 0) {
        rc = write_l1(q);
        if (rc == 0) {
            c->fixes_entries = false;
            start_result(c);
            rc = qcow2_checker_walk(c); /* without what was cleared */
        }
    }
    if (rc == 0) {
        uint64_t errors = c->result->errors;
        rc = qcow2_checker_compare(c, 0); /* is there anything wrong with the counts? */
        struct block_check_result found = *c->result;
        if (rc == 0 && (found.errors > 0 || found.leaks > 0)) {
            c->result->leaks = 0;
            c->result->errors = errors;
            c->reported = UINT32_MAX; /* said already */
            if (found.errors > errors) {
                c->result->errors = found.errors;
            }
            rc = fix_counts(c, repair);
        }
    }
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    if (rc == 0 && (repair & BLOCK_REPAIR_ERRORS) != 0) {
        note_metadata_again(q);
        q->alloc_hint = 0;
        rc = qcow2_tree_fix_copied(q);
        if (rc == 0) {
            rc = qcow2_commit(q);
        }
    }
    return rc;
}

static int clear_marks(struct qcow2 *q)
{
    uint64_t marks = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;
    if ((q->header.incompatible_features & marks) == 0) {
        return 0;
    }
    q->header.incompatible_features &= ~marks;
    return qcow2_write_header(q);
}

static int repair_and_check(struct qcow2_checker *c, unsigned repair)
{
    int rc = repair_image(c, repair);
    if (rc == 0) {
        c->reported = UINT32_MAX;
        rc = check_only(c);
    }
    if (rc == 0 && c->result->errors == 0 && (repair & BLOCK_REPAIR_ERRORS) != 0) {
        rc = clear_marks(c->q);
    }
    return rc;
}

int qcow2_check(struct block *block, unsigned repair, void (*report)(void *ctx, const char *text),
                void *ctx, struct block_check_result *out_result, struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    struct qcow2_checker c = {.q = q, .report = report, .report_ctx = ctx, .result = out_result};
    if (repair != 0 && (!q->is_writable || !q->is_for_repair)) {
        return error_set(err, EROFS, "is not open for repair");
    }
    qcow2_exclusive_begin(q);
    int rc = q->is_writable && q->broken == 0 ? qcow2_commit(q) : 0;
    if (rc == 0) {
        rc = repair != 0 ? repair_and_check(&c, repair) : check_only(&c);
    }
    qcow2_exclusive_end(q);
    checker_fini(&c);
    return rc == -EFBIG
               ? error_set(err, EFBIG, "too many clusters: up to %u can be checked in memory",
                           QCOW2_MAX_CHECK_CLUSTERS)
           : rc < 0 ? error_set_errno(err, -rc, "checking the image")
                    : 0;
}

int qcow2_repair_dirty(struct qcow2 *q, struct error *err)
{
    struct block_check_result result = {0};
    struct qcow2_checker c = {.q = q, .result = &result};
    q->is_for_repair = true;
    int rc = repair_and_check(&c, BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS);
    q->is_for_repair = false;
    checker_fini(&c);
    if (rc < 0) {
        return error_set_errno(err, -rc, "was not closed, and cannot be repaired");
    }
    if (result.errors > 0) {
        return error_set(err, EUCLEAN, "was not closed, and %llu errors are left after a repair",
                         (unsigned long long)result.errors);
    }
    q->fault[0] = '\0';
    return 0;
}
