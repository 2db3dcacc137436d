/* Check: what all tables of the image name is counted in memory, then compared with the counts in the file. */
#include "block/format/qcow2/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"

#define MAX_REPORTS 1000u

void qcow2_checker_say(struct qcow2_checker *c, const char *format, ...)
{
    if (c->report == NULL || c->reported >= MAX_REPORTS) {
        return;
    }
    char text[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args); /* a cut text is still a text */
    va_end(args);
    c->reported++;
    c->report(c->report_ctx, text);
}

static void error_found(struct qcow2_checker *c)
{
    c->result->errors++;
}

/* Counts a use of the bytes [offset, offset + size). False: they are not in the file. */
static bool use(struct qcow2_checker *c, uint64_t offset, uint64_t size, const char *what)
{
    uint32_t bits = c->q->layout.cluster_bits;
    if (size == 0) {
        return true;
    }
    uint64_t last;
    if (!checked_add(offset, size - 1, &last) || last >> bits >= c->cluster_count) {
        qcow2_checker_say(c, "error: %s at offset %llu lies behind the end of the file", what,
                          (unsigned long long)offset);
        error_found(c);
        return false;
    }
    for (uint64_t i = offset >> bits; i <= last >> bits; i++) {
        c->refs[i] = (uint16_t)(c->refs[i] + (c->refs[i] < UINT16_MAX));
    }
    return true;
}

static bool visit(struct qcow2_checker *c, uint64_t cluster)
{
    uint8_t bit = (uint8_t)(1u << (cluster % 8));
    bool is_first = (c->visited[cluster / 8] & bit) == 0;
    c->visited[cluster / 8] |= bit;
    return is_first;
}

static int clear_entry(struct qcow2_checker *c, uint64_t position)
{
    static const uint8_t nothing[16];
    int rc = block_write(c->q->file, position, nothing, c->q->layout.entry_size);
    c->result->errors_fixed += rc == 0;
    return rc;
}

static void count_statistics(struct qcow2_checker *c, struct qcow2_entry entry)
{
    struct block_check_result *result = c->result;
    uint64_t host = qcow2_entry_offset(entry);
    result->allocated_clusters++;
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        result->compressed_clusters++;
        result->fragmented_clusters++; /* they are, by their nature */
        return;
    }
    if (c->last_host != 0 && host != c->last_host + c->q->layout.cluster_size) {
        result->fragmented_clusters++;
    }
    c->last_host = host;
}

/* An entry of an L2 table; *out_is_bad: it cannot stay. */
static int check_entry(struct qcow2_checker *c, struct qcow2_entry entry, uint64_t guest_cluster,
                       bool is_active, bool *out_is_bad)
{
    struct qcow2 *q = c->q;
    const struct qcow2_layout *layout = &q->layout;
    const char *fault = qcow2_entry_fault(layout, entry, guest_cluster);
    *out_is_bad = fault != NULL;
    if (fault != NULL) {
        qcow2_checker_say(c, "error: guest cluster %llu: %s (%#llx)",
                          (unsigned long long)guest_cluster, fault,
                          (unsigned long long)entry.descriptor);
        error_found(c);
        return 0;
    }
    uint64_t offset = qcow2_entry_offset(entry);
    uint32_t size = layout->cluster_size;
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        qcow2_entry_compressed(layout, entry, &offset, &size);
        uint64_t end = c->cluster_count << layout->cluster_bits;
        if (offset < end && offset + size > end) {
            size =
                (uint32_t)(end - offset); /* the last sector need not be in the file as a whole */
        }
    } else if (!qcow2_entry_has_cluster(layout, entry)) {
        return 0;
    }
    if (is_active) {
        count_statistics(c, entry);
    }
    if (layout->has_data_file) {
        return 0;
    }
    if (!use(c, offset, size, "a guest cluster")) {
        *out_is_bad = true;
        return 0;
    }
    uint64_t count;
    if (!is_active || (entry.descriptor & QCOW2_COMPRESSED) != 0 || c->skips_counts) {
        return 0;
    }
    int rc = qcow2_refcount_get(q, offset >> layout->cluster_bits, &count);
    if (rc == 0 && (count == 1) != ((entry.descriptor & QCOW2_COPIED) != 0)) {
        qcow2_checker_say(c, "error: guest cluster %llu: \"copied\" flag is %d, its count %llu",
                          (unsigned long long)guest_cluster, (entry.descriptor & QCOW2_COPIED) != 0,
                          (unsigned long long)count);
        error_found(c);
    }
    return rc == -EIO ? 0 : rc; /* a bad refcount table is reported where it is walked */
}

static int check_l2(struct qcow2_checker *c, uint64_t table, uint64_t first_cluster, bool is_active,
                    uint8_t *data)
{
    struct qcow2 *q = c->q;
    int rc = block_read(q->file, table, data, q->layout.cluster_size);
    uint32_t entry_size = q->layout.entry_size;
    for (uint32_t at = 0; rc == 0 && at < q->layout.cluster_size; at += entry_size) {
        struct qcow2_entry entry = {.descriptor = be64_get(data + at)};
        bool is_bad;
        if (q->layout.is_extended) {
            entry.bitmap = be64_get(data + at + 8);
        }
        if (entry.descriptor == 0 && entry.bitmap == 0) {
            continue;
        }
        rc = check_entry(c, entry, first_cluster + at / entry_size, is_active, &is_bad);
        if (rc == 0 && is_bad && is_active && c->fixes_entries) {
            rc = clear_entry(c, table + at);
        }
    }
    return rc;
}

static int check_l1_entry(struct qcow2_checker *c, uint64_t entry, uint64_t index, bool is_active,
                          uint8_t *data, bool *out_is_bad)
{
    struct qcow2 *q = c->q;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    *out_is_bad = false;
    if (entry == 0) {
        return 0;
    }
    uint64_t cluster = offset >> q->layout.cluster_bits;
    if ((entry & (BITS(62, 56) | BITS(8, 0))) != 0 || offset == 0 ||
        (offset & (q->layout.cluster_size - 1)) != 0) {
        qcow2_checker_say(c, "error: L1 entry %llu is not as specified (%#llx)",
                          (unsigned long long)index, (unsigned long long)entry);
        error_found(c);
        *out_is_bad = true;
        return 0;
    }
    if (!use(c, offset, q->layout.cluster_size, "an L2 table")) {
        *out_is_bad = true;
        return 0;
    }
    if (!visit(c, cluster)) {
        qcow2_checker_say(c, "error: L1 entry %llu names a table that another one has",
                          (unsigned long long)index);
        error_found(c);
        *out_is_bad = true;
        c->refs[cluster]--;
        return 0;
    }
    uint64_t count;
    if (is_active && !c->skips_counts) {
        int rc = qcow2_refcount_get(q, cluster, &count);
        if (rc == 0 && (count == 1) != ((entry & QCOW2_COPIED) != 0)) {
            qcow2_checker_say(c, "error: L1 entry %llu: \"copied\" flag is %d, its count %llu",
                              (unsigned long long)index, (entry & QCOW2_COPIED) != 0,
                              (unsigned long long)count);
            error_found(c);
        }
        if (rc < 0 && rc != -EIO) {
            return rc;
        }
    }
    return check_l2(c, offset, index << q->layout.l2_bits, is_active, data);
}

static int check_l1(struct qcow2_checker *c, struct qcow2_table *l1, bool is_active)
{
    struct qcow2 *q = c->q;
    uint8_t *data = malloc(q->layout.cluster_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    memset(c->visited, 0, (size_t)(c->cluster_count / 8 + 1));
    (void)use(c, l1->offset, l1->entry_count * 8, "an L1 table");
    for (uint64_t i = 0; rc == 0 && i < l1->entry_count; i++) {
        bool is_bad;
        rc = check_l1_entry(c, l1->entry[i], i, is_active, data, &is_bad);
        if (is_active && c->result->progress != NULL) {
            c->result->progress(c->result->progress_ctx, i + 1, l1->entry_count);
        }
        if (rc == 0 && is_bad && is_active && c->fixes_entries) {
            qcow2_table_set(l1, i, 0);
            c->result->errors_fixed++;
        }
    }
    free(data);
    return rc;
}

static int check_snapshots(struct qcow2_checker *c)
{
    struct qcow2 *q = c->q;
    if (q->snapshot_count > 0) {
        (void)use(c, q->header.snapshots_offset, q->snapshot_table_size, "the snapshot table");
    }
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        struct qcow2_table l1;
        uint64_t offset = q->snapshot[i].l1_table_offset;
        int rc = qcow2_table_init(&l1, offset, q->snapshot[i].l1_size);
        if (rc == 0 &&
            !range_fits(offset, l1.entry_count * 8, c->cluster_count << q->layout.cluster_bits)) {
            qcow2_checker_say(c,
                              "error: the L1 table of a snapshot lies behind the end of the file");
            error_found(c);
            qcow2_table_fini(&l1);
            continue;
        }
        if (rc == 0) {
            rc = qcow2_table_load(q, &l1);
            if (rc == 0) {
                rc = check_l1(c, &l1, false);
            }
            qcow2_table_fini(&l1);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int check_bitmap(struct qcow2_checker *c, uint64_t table_offset, uint32_t count)
{
    struct qcow2_table table;
    uint64_t size = (uint64_t)count * 8;
    if ((table_offset & (c->q->layout.cluster_size - 1)) != 0 || size > QCOW2_MAX_BITMAP_BYTES ||
        !use(c, table_offset, size, "a bitmap table")) {
        return 0;
    }
    int rc = qcow2_table_init(&table, table_offset, count);
    if (rc == 0) {
        rc = qcow2_table_load(c->q, &table);
    }
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        uint64_t offset = table.entry[i] & QCOW2_OFFSET_MASK;
        if (offset != 0) {
            (void)use(c, offset, c->q->layout.cluster_size, "a bitmap's cluster");
        }
    }
    qcow2_table_fini(&table);
    return rc;
}

static int check_bitmaps(struct qcow2_checker *c)
{
    struct qcow2 *q = c->q;
    size_t size = (size_t)q->header.bitmap_directory_size, at = 0;
    uint64_t offset = q->header.bitmap_directory_offset;
    if (!q->header.has_bitmaps || !use(c, offset, size, "the bitmap directory")) {
        return 0;
    }
    uint8_t *data = malloc(size);
    int rc = data != NULL ? block_read(q->file, offset, data, size) : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < q->header.bitmap_count; i++) {
        uint64_t length =
            size - at >= 24
                ? align_up((uint64_t)24 + be16_get(data + at + 18) + be32_get(data + at + 20), 8)
                : UINT64_MAX;
        if (length > size - at) {
            qcow2_checker_say(c, "error: the bitmap directory is cut off");
            error_found(c);
            break;
        }
        rc = check_bitmap(c, be64_get(data + at), be32_get(data + at + 8));
        at += (size_t)length;
    }
    free(data);
    return rc;
}

static void check_blocks(struct qcow2_checker *c)
{
    struct qcow2 *q = c->q;
    if (q->header.is_encrypted) {
        (void)use(c, q->header.crypt_offset, q->header.crypt_size, "the LUKS header");
    }
    c->has_bad_blocks =
        !use(c, q->reftable.offset, q->reftable.entry_count * 8, "the refcount table");
    memset(c->visited, 0, (size_t)(c->cluster_count / 8 + 1));
    for (uint64_t i = 0; i < q->reftable.entry_count; i++) {
        uint64_t offset = q->reftable.entry[i];
        if (offset == 0) {
            continue;
        }
        if ((offset & (q->layout.cluster_size - 1)) != 0) {
            qcow2_checker_say(c, "error: refcount table entry %llu is not aligned (%#llx)",
                              (unsigned long long)i, (unsigned long long)offset);
            error_found(c);
            c->has_bad_blocks = true;
        } else if (!use(c, offset, q->layout.cluster_size, "a refcount block")) {
            c->has_bad_blocks = true;
        } else if (!visit(c, offset >> q->layout.cluster_bits) ||
                   c->refs[offset >> q->layout.cluster_bits] != 1) {
            qcow2_checker_say(c, "error: refcount block %llu lies where something else is",
                              (unsigned long long)i);
            error_found(c);
            c->has_bad_blocks = true;
        }
    }
}

int qcow2_checker_walk(struct qcow2_checker *c)
{
    struct qcow2 *q = c->q;
    c->cluster_count =
        (q->file->info.size_bytes + q->layout.cluster_size - 1) >> q->layout.cluster_bits;
    if (c->cluster_count > QCOW2_MAX_CHECK_CLUSTERS) {
        return -EFBIG;
    }
    free(c->refs);
    free(c->visited);
    c->refs = calloc((size_t)c->cluster_count + 1, sizeof(uint16_t));
    c->visited = calloc((size_t)c->cluster_count / 8 + 1, 1);
    if (c->refs == NULL || c->visited == NULL) {
        return -ENOMEM;
    }
    c->last_host = 0;
    (void)use(c, 0, q->layout.cluster_size, "the header");
    int rc = check_l1(c, &q->l1, true);
    if (rc == 0) {
        rc = check_snapshots(c);
    }
    if (rc == 0) {
        rc = check_bitmaps(c);
    }
    if (rc == 0 && !c->skips_counts) {
        check_blocks(c);
    }
    return rc;
}

/* One count in the file against what was found. */
static int compare_one(struct qcow2_checker *c, uint64_t cluster, uint64_t count, bool has_block,
                       unsigned fix)
{
    uint64_t refs = cluster < c->cluster_count ? c->refs[cluster] : 0;
    if (count == refs || (refs == UINT16_MAX && count > refs)) {
        return 0;
    }
    bool is_leak = count > refs;
    bool is_fixed = has_block && (fix & (is_leak ? BLOCK_REPAIR_LEAKS : BLOCK_REPAIR_ERRORS)) != 0;
    qcow2_checker_say(c, "%s: cluster %llu: counted %llu times, used %llu times%s",
                      is_leak ? "leak" : "error", (unsigned long long)cluster,
                      (unsigned long long)count, (unsigned long long)refs,
                      is_fixed ? ": fixed" : "");
    if (!is_fixed) {
        *(is_leak ? &c->result->leaks : &c->result->errors) += 1;
        return 0;
    }
    *(is_leak ? &c->result->leaks_fixed : &c->result->errors_fixed) += 1;
    return 1;
}

static int compare_block(struct qcow2_checker *c, uint64_t index, uint8_t *data, unsigned fix)
{
    struct qcow2 *q = c->q;
    uint64_t offset = q->reftable.entry[index];
    uint32_t bits = q->layout.refcount_bits;
    uint64_t max = qcow2_refcount_max(bits);
    int rc = block_read(q->file, offset, data, q->layout.cluster_size);
    bool has_changed = false;
    for (uint64_t i = 0; rc == 0 && i < BIT(q->layout.refblock_bits); i++) {
        uint64_t cluster = (index << q->layout.refblock_bits) + i;
        if (compare_one(c, cluster, qcow2_refblock_get(data, bits, i), true, fix) > 0) {
            uint64_t refs = cluster < c->cluster_count ? c->refs[cluster] : 0;
            qcow2_refblock_put(data, bits, i, MIN(refs, max));
            has_changed = true;
        }
    }
    if (rc == 0 && has_changed) {
        rc = block_write(q->file, offset, data, q->layout.cluster_size);
        qcow2_cache_forget(q, offset, q->layout.cluster_size);
    }
    return rc;
}

int qcow2_checker_compare(struct qcow2_checker *c, unsigned fix)
{
    struct qcow2 *q = c->q;
    uint8_t *data = malloc(q->layout.cluster_size);
    int rc = data != NULL ? 0 : -ENOMEM;
    uint64_t per_block = BIT(q->layout.refblock_bits);
    uint64_t limit = (c->cluster_count + per_block - 1) >> q->layout.refblock_bits;
    limit = MAX(limit, q->reftable.entry_count);
    for (uint64_t i = 0; rc == 0 && i < limit; i++) {
        uint64_t offset = i < q->reftable.entry_count ? q->reftable.entry[i] : 0;
        bool is_sound = offset != 0 && (offset & (q->layout.cluster_size - 1)) == 0 &&
                        offset >> q->layout.cluster_bits < c->cluster_count;
        if (is_sound) {
            rc = compare_block(c, i, data, fix);
            continue;
        }
        for (uint64_t j = 0; j < per_block; j++) {
            uint64_t cluster = (i << q->layout.refblock_bits) + j;
            if (cluster >= c->cluster_count) {
                break;
            }
            (void)compare_one(c, cluster, 0, false, 0); /* nothing to fix without a block */
        }
    }
    free(data);
    for (uint64_t i = c->cluster_count; i > 0 && c->result->end_offset == 0; i--) {
        if (c->refs[i - 1] > 0) {
            c->result->end_offset = i << q->layout.cluster_bits;
        }
    }
    return rc;
}
