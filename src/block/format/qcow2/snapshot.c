/* Snapshots inside of the image: other L1 tables that share clusters with the active one.
 *
 * Each change goes through one moment, the write of a header that names a new snapshot table (or L1 table); what it names is
 * durable before. Counts and flags change in many steps: meanwhile the image is marked dirty, so that whoever opens it after a
 * power cut puts them right. Version 2 has no such mark; there a power cut leaves what a check repairs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/core/checked.h"
#include "block/format/qcow2/qcow2.h"

#define ENTRY_SIZE   40u
#define KNOWN_EXTRA  16u
#define MAX_EXTRA    1024u
#define MAX_L1_BYTES (256u << 20) /* of all snapshots together */

static void snapshot_fini(struct qcow2_snapshot *snapshot)
{
    free(snapshot->id);
    free(snapshot->name);
    free(snapshot->extra);
}

void qcow2_snapshots_fini(struct qcow2 *q)
{
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        snapshot_fini(&q->snapshot[i]);
    }
    free(q->snapshot);
}

static char *copy_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text != NULL) {
        memcpy(text, data, size);
        text[size] = '\0';
    }
    return text;
}

static int parse_variable(struct qcow2_snapshot *snapshot, const uint8_t *data, uint32_t extra_size,
                          uint32_t id_size, uint32_t name_size, uint64_t disk_size)
{
    snapshot->disk_size = disk_size;
    if (extra_size >= 8) {
        snapshot->vm_state_size = be64_get(data);
    }
    if (extra_size >= KNOWN_EXTRA) {
        snapshot->disk_size = be64_get(data + 8);
        snapshot->extra_size = extra_size - KNOWN_EXTRA;
    }
    if (snapshot->extra_size > 0) {
        snapshot->extra = (uint8_t *)copy_text(data + KNOWN_EXTRA, snapshot->extra_size);
    }
    snapshot->id = copy_text(data + extra_size, id_size);
    snapshot->name = copy_text(data + extra_size + id_size, name_size);
    return snapshot->id != NULL && snapshot->name != NULL &&
                   (snapshot->extra_size == 0 || snapshot->extra != NULL)
               ? 0
               : -ENOMEM;
}

/* One entry of the table at *at, which is moved behind it. */
static int load_one(struct qcow2 *q, uint64_t *at, struct qcow2_snapshot *snapshot,
                    struct error *err)
{
    uint8_t fixed[ENTRY_SIZE];
    int rc = block_read(q->file, *at, fixed, sizeof(fixed));
    if (rc < 0) {
        return error_set_errno(err, -rc, "reading the snapshot table");
    }
    uint32_t id_size = be16_get(fixed + 12), name_size = be16_get(fixed + 14);
    uint32_t extra_size = be32_get(fixed + 36);
    *snapshot = (struct qcow2_snapshot){
        .l1_table_offset = be64_get(fixed),
        .l1_size = be32_get(fixed + 8),
        .date_sec = be32_get(fixed + 16),
        .date_nsec = be32_get(fixed + 20),
        .vm_clock_nsec = be64_get(fixed + 24),
        .vm_state_size = be32_get(fixed + 32),
    };
    uint64_t l1_bytes = (uint64_t)snapshot->l1_size * 8;
    if (extra_size > MAX_EXTRA || l1_bytes > QCOW2_MAX_L1_BYTES ||
        (snapshot->l1_table_offset & (q->layout.cluster_size - 1)) != 0 ||
        !range_fits(snapshot->l1_table_offset, l1_bytes, QCOW2_MAX_OFFSET)) {
        return error_set(err, EINVAL, "a snapshot with an L1 table of %u entries at %llu",
                         snapshot->l1_size, (unsigned long long)snapshot->l1_table_offset);
    }
    size_t size = extra_size + id_size + name_size;
    uint8_t *data = malloc(size + 1);
    rc = data != NULL ? 0 : -ENOMEM;
    if (rc == 0 && size > 0) {
        rc = block_read(q->file, *at + ENTRY_SIZE, data, size);
    }
    if (rc == 0) {
        rc = parse_variable(snapshot, data, extra_size, id_size, name_size, q->header.size);
    }
    free(data);
    *at += align_up(ENTRY_SIZE + size, 8);
    return rc < 0 ? error_set_errno(err, -rc, "reading the snapshot table") : 0;
}

int qcow2_snapshots_load(struct qcow2 *q, struct error *err)
{
    uint64_t start = q->header.snapshots_offset, at = start, l1_bytes = 0;
    if (q->header.nb_snapshots == 0) {
        return 0;
    }
    q->snapshot = calloc(q->header.nb_snapshots, sizeof(*q->snapshot));
    if (q->snapshot == NULL) {
        return error_set_errno(err, ENOMEM, "reading the snapshot table");
    }
    for (uint32_t i = 0; i < q->header.nb_snapshots; i++) {
        if (at - start > QCOW2_MAX_SNAPSHOT_BYTES || at >= q->file->info.size_bytes) {
            return error_set(err, EINVAL, "the snapshot table ends nowhere");
        }
        q->snapshot_count = i + 1; /* what is there of it is freed */
        int rc = load_one(q, &at, &q->snapshot[i], err);
        if (rc < 0) {
            return rc;
        }
        l1_bytes += (uint64_t)q->snapshot[i].l1_size * 8;
        if (l1_bytes > MAX_L1_BYTES) {
            return error_set(err, EFBIG, "the L1 tables of its snapshots take more than %u MiB",
                             MAX_L1_BYTES >> 20);
        }
    }
    q->snapshot_table_size = at - start;
    return 0;
}

static uint8_t *make_table(const struct qcow2_snapshot *snapshot, uint32_t count, size_t *out_size)
{
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++) {
        size += (size_t)align_up(ENTRY_SIZE + KNOWN_EXTRA + snapshot[i].extra_size +
                                     strlen(snapshot[i].id) + strlen(snapshot[i].name),
                                 8);
    }
    uint8_t *data = calloc(1, size + 1);
    uint8_t *at = data;
    for (uint32_t i = 0; data != NULL && i < count; i++) {
        const struct qcow2_snapshot *one = &snapshot[i];
        size_t id_size = strlen(one->id), name_size = strlen(one->name);
        be64_put(at, one->l1_table_offset);
        be32_put(at + 8, one->l1_size);
        be16_put(at + 12, (uint16_t)id_size);
        be16_put(at + 14, (uint16_t)name_size);
        be32_put(at + 16, one->date_sec);
        be32_put(at + 20, one->date_nsec);
        be64_put(at + 24, one->vm_clock_nsec);
        be32_put(at + 32, one->vm_state_size > UINT32_MAX ? 0 : (uint32_t)one->vm_state_size);
        be32_put(at + 36, KNOWN_EXTRA + one->extra_size);
        be64_put(at + 40, one->vm_state_size);
        be64_put(at + 48, one->disk_size);
        uint8_t *variable = at + ENTRY_SIZE + KNOWN_EXTRA;
        if (one->extra_size > 0) {
            memcpy(variable, one->extra, one->extra_size);
        }
        memcpy(variable + one->extra_size, one->id, id_size);
        memcpy(variable + one->extra_size + id_size, one->name, name_size);
        at += align_up(ENTRY_SIZE + KNOWN_EXTRA + one->extra_size + id_size + name_size, 8);
    }
    *out_size = size;
    return data;
}

/* A new snapshot table in the file, and a header that names it. The old one is freed. */
static int switch_table(struct qcow2 *q, const struct qcow2_snapshot *snapshot, uint32_t count)
{
    size_t size;
    uint64_t offset = 0;
    uint8_t *data = make_table(snapshot, count, &size);
    int rc = data == NULL ? -ENOMEM : size > QCOW2_MAX_SNAPSHOT_BYTES ? -EFBIG : 0;
    if (rc == 0 && count > 0) {
        rc = qcow2_alloc_exact(q, size, &offset);
    }
    if (rc == 0 && count > 0) {
        rc = block_write(q->file, offset, data, size);
        if (rc == 0) {
            rc = qcow2_commit(q); /* its count, and what it names */
        }
        if (rc < 0) {
            qcow2_unalloc(q, offset, size);
        }
    }
    free(data);
    if (rc < 0) {
        return rc;
    }
    uint64_t old_offset = q->header.snapshots_offset, old_size = q->snapshot_table_size;
    q->header.snapshots_offset = offset;
    q->header.nb_snapshots = count;
    rc = qcow2_write_header(q);
    if (rc < 0) {
        q->broken = rc; /* it is not known which table the file has */
        return rc;
    }
    q->snapshot_table_size = size;
    if (old_size > 0) {
        qcow2_metadata_remove(q, old_offset, old_size);
        rc = qcow2_free_later(q, old_offset, old_size);
    }
    return rc == 0 && size > 0 ? qcow2_metadata_add(q, offset, size) : rc;
}

static struct qcow2_snapshot *find(struct qcow2 *q, const char *name)
{
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        if (strcmp(q->snapshot[i].name, name) == 0) {
            return &q->snapshot[i];
        }
    }
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        if (strcmp(q->snapshot[i].id, name) == 0) {
            return &q->snapshot[i];
        }
    }
    return NULL;
}

static int load_l1(struct qcow2 *q, const struct qcow2_snapshot *snapshot,
                   struct qcow2_table *out_table)
{
    int rc = qcow2_table_init(out_table, snapshot->l1_table_offset, snapshot->l1_size);
    if (rc == 0) {
        rc = qcow2_table_load(q, out_table);
        if (rc < 0) {
            qcow2_table_fini(out_table);
        }
    }
    return rc;
}

int qcow2_snapshot_show(struct qcow2 *q, const char *name, struct error *err)
{
    const struct qcow2_snapshot *snapshot = find(q, name);
    if (q->is_writable) {
        return error_set(err, EROFS, "a snapshot opens for reading only");
    }
    if (snapshot == NULL) {
        return error_set(err, ENOENT, "has no snapshot of that name");
    }
    uint64_t end = align_up(q->file->info.size_bytes, q->layout.cluster_size);
    if (snapshot->disk_size > BLOCK_MAX_SIZE ||
        snapshot->l1_size < qcow2_l1_entries_for(&q->layout, snapshot->disk_size) ||
        !range_fits(snapshot->l1_table_offset, (uint64_t)snapshot->l1_size * 8, end)) {
        return error_set(err, EINVAL, "the snapshot's size does not fit its table");
    }
    struct qcow2_table l1;
    int rc = load_l1(q, snapshot, &l1);
    if (rc < 0) {
        return error_set_errno(err, -rc, "reading the snapshot's table");
    }
    qcow2_table_fini(&q->l1);
    q->l1 = l1;
    q->header.size = snapshot->disk_size;
    return 0;
}

/* The copies of an L1 table have no "copied" flags: what they name has a count of two at least. */
static uint64_t *copy_entries(const struct qcow2_table *table, uint64_t count)
{
    uint64_t *entry = calloc((size_t)MAX(count, (uint64_t)1), sizeof(uint64_t));
    for (uint64_t i = 0; entry != NULL && i < MIN(count, table->entry_count); i++) {
        entry[i] = table->entry[i] & ~QCOW2_COPIED;
    }
    return entry;
}

static int fill_new(struct qcow2 *q, const char *name, struct qcow2_snapshot *snapshot)
{
    unsigned long highest = 0;
    char id[24];
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        highest = MAX(highest, strtoul(q->snapshot[i].id, NULL, 10));
    }
    (void)snprintf(id, sizeof(id), "%lu", highest + 1);
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now); /* a valid clock */
    *snapshot = (struct qcow2_snapshot){
        .l1_size = (uint32_t)q->l1.entry_count,
        .date_sec = (uint32_t)now.tv_sec,
        .date_nsec = (uint32_t)now.tv_nsec,
        .disk_size = q->header.size,
        .id = strdup(id),
        .name = strdup(name),
    };
    return snapshot->id != NULL && snapshot->name != NULL ? 0 : -ENOMEM;
}

/* The end of every change: what was freed is free, flags are right, and all that is durable. */
static int settle(struct qcow2 *q)
{
    int rc = qcow2_commit(q);
    if (rc == 0) {
        rc = qcow2_release(q);
    }
    if (rc == 0) {
        rc = qcow2_tree_fix_copied(q);
    }
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    return rc == 0 ? qcow2_set_dirty(q, false) : rc;
}

static int create(struct qcow2 *q, struct qcow2_snapshot *list, struct qcow2_snapshot *new)
{
    uint64_t l1_bytes = align_up(MAX(q->l1.entry_count, (uint64_t)1) * 8, q->layout.cluster_size);
    uint64_t *entry = copy_entries(&q->l1, q->l1.entry_count);
    int rc = entry != NULL ? qcow2_set_dirty(q, true) : -ENOMEM;
    if (rc == 0) {
        rc = qcow2_write_new_table(q, entry, q->l1.entry_count, &new->l1_table_offset);
    }
    free(entry);
    if (rc < 0) {
        return rc;
    }
    rc = qcow2_tree_add(q, q->l1.entry, q->l1.entry_count, 1);
    if (rc < 0) {
        qcow2_unalloc(q, new->l1_table_offset, l1_bytes);
        return rc;
    }
    /* The flags go before anything may be written in place again. */
    rc = qcow2_tree_fix_copied(q);
    if (rc == 0) {
        list[q->snapshot_count] = *new;
        rc = switch_table(q, list, q->snapshot_count + 1);
    }
    if (rc < 0) {
        (void)!qcow2_tree_add(q, q->l1.entry, q->l1.entry_count, -1); /* at worst it leaks */
        qcow2_unalloc(q, new->l1_table_offset, l1_bytes);
        return rc;
    }
    q->snapshot = list;
    q->snapshot_count++;
    return qcow2_metadata_add(q, new->l1_table_offset, l1_bytes);
}

static int begin_change(struct qcow2 *q)
{
    qcow2_exclusive_begin(q);
    int rc = qcow2_prepare_write(q);
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc == 0) {
        rc = qcow2_release(q);
    }
    return rc == 0 ? qcow2_commit(q) : rc;
}

static int say(const struct qcow2 *q, int rc, struct error *err)
{
    if (rc == 0) {
        return 0;
    }
    return q->fault[0] != '\0' ? error_set(err, -rc, "%s", q->fault)
           : rc == -ERANGE
               ? error_set(err, ERANGE, "counts of %u bits are too small for another snapshot",
                           q->layout.refcount_bits)
               : error_set_errno(err, -rc, "changing the image");
}

int qcow2_snapshot_create(struct block *block, const char *name, struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    size_t length = strlen(name);
    if (length == 0 || length > 255) {
        return error_set(err, EINVAL, "a name of 1 to 255 bytes is accepted");
    }
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        if (strcmp(q->snapshot[i].name, name) == 0) {
            return error_set(err, EEXIST, "there is one of that name");
        }
    }
    if (q->layout.has_data_file) {
        return error_set(err, EOPNOTSUPP, "an image with a data file has none");
    }
    if (q->snapshot_count >= QCOW2_MAX_SNAPSHOTS) {
        return error_set(err, EFBIG, "more than %u", QCOW2_MAX_SNAPSHOTS);
    }
    int rc = begin_change(q);
    struct qcow2_snapshot new = {0};
    struct qcow2_snapshot *list = calloc(q->snapshot_count + 1, sizeof(*list));
    struct qcow2_snapshot *old = q->snapshot;
    if (rc == 0) {
        rc = list != NULL ? fill_new(q, name, &new) : -ENOMEM;
    }
    if (rc == 0) {
        if (q->snapshot_count > 0) {
            memcpy(list, q->snapshot, q->snapshot_count * sizeof(*list));
        }
        rc = create(q, list, &new);
    }
    if (q->snapshot == old) {
        free(list);
        snapshot_fini(&new);
    } else {
        free(old);
    }
    if (q->broken == 0) {
        int settle_rc = settle(q);
        rc = rc < 0 ? rc : settle_rc;
    }
    qcow2_exclusive_end(q);
    return say(q, rc, err);
}

static int delete (struct qcow2 *q, struct qcow2_snapshot *snapshot)
{
    struct qcow2_table l1;
    size_t index = (size_t)(snapshot - q->snapshot);
    int rc = load_l1(q, snapshot, &l1);
    if (rc < 0) {
        return rc;
    }
    struct qcow2_snapshot gone = *snapshot;
    struct qcow2_snapshot *list = calloc(q->snapshot_count, sizeof(*list));
    rc = list != NULL ? qcow2_set_dirty(q, true) : -ENOMEM;
    if (rc == 0) {
        memcpy(list, q->snapshot, index * sizeof(*list));
        memcpy(list + index, q->snapshot + index + 1,
               (q->snapshot_count - index - 1) * sizeof(*list));
        rc = switch_table(q, list, q->snapshot_count - 1);
    }
    if (rc < 0) {
        free(list);
        qcow2_table_fini(&l1);
        return rc;
    }
    free(q->snapshot);
    q->snapshot = list;
    q->snapshot_count--;
    uint64_t l1_bytes = (uint64_t)gone.l1_size * 8;
    rc = qcow2_tree_add(q, l1.entry, l1.entry_count, -1);
    if (rc == 0 && l1_bytes > 0) {
        qcow2_metadata_remove(q, gone.l1_table_offset, l1_bytes);
        rc = qcow2_free_later(q, gone.l1_table_offset, l1_bytes);
    }
    qcow2_table_fini(&l1);
    snapshot_fini(&gone);
    return rc;
}

static int change_one(struct block *block, const char *name,
                      int (*fn)(struct qcow2 *q, struct qcow2_snapshot *snapshot),
                      struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    if (find(q, name) == NULL) {
        return error_set(err, ENOENT, "there is none of that name or id");
    }
    int rc = begin_change(q);
    struct qcow2_snapshot *snapshot = find(q, name);
    if (rc == 0) {
        rc = snapshot != NULL ? fn(q, snapshot) : -ENOENT;
    }
    if (q->broken == 0) {
        int settle_rc = settle(q);
        rc = rc < 0 ? rc : settle_rc;
    }
    qcow2_exclusive_end(q);
    return say(q, rc, err);
}

int qcow2_snapshot_delete(struct block *block, const char *name, struct error *err)
{
    return change_one(block, name, delete, err);
}

static void note_tables(struct qcow2 *q, const struct qcow2_table *l1, bool is_there)
{
    for (uint64_t i = 0; i < l1->entry_count; i++) {
        uint64_t offset = l1->entry[i] & QCOW2_OFFSET_MASK;
        if (offset != 0 && (offset & (q->layout.cluster_size - 1)) == 0) {
            if (is_there) {
                (void)!qcow2_metadata_add(q, offset, q->layout.cluster_size); /* only a guard */
            } else {
                qcow2_metadata_remove(q, offset, q->layout.cluster_size);
            }
        }
    }
}

/* The header with the new L1 table, durable, and the tables in memory after it. */
static int switch_l1(struct qcow2 *q, struct qcow2_table *new, uint64_t disk_size)
{
    struct qcow2_header before = q->header;
    q->header.l1_table_offset = new->offset;
    q->header.l1_size = (uint32_t) new->entry_count;
    q->header.size = disk_size;
    int rc = qcow2_write_header(q);
    if (rc < 0) {
        q->header = before;
        q->broken = rc; /* it is not known which table the file has */
        return rc;
    }
    struct qcow2_table old = q->l1;
    q->l1 = *new;
    *new = old;
    q->block.info.size_bytes = align_up(disk_size, q->block.info.logical_block_size);
    return 0;
}

/* The new L1 table, which is in the file, in place of the one in use, whose tree is given back. Takes over 'new'. */
static int replace_l1(struct qcow2 *q, struct qcow2_table *new, uint64_t disk_size)
{
    int rc = switch_l1(q, new, disk_size);
    if (rc < 0) {
        if (q->broken == 0) {
            (void)!qcow2_tree_add(q, new->entry, new->entry_count, -1); /* at worst it leaks */
        }
        qcow2_table_fini(new);
        return rc;
    }
    /* 'new' is the old one now. */
    uint64_t old_bytes = new->entry_count * 8;
    note_tables(q, new, false);
    note_tables(q, &q->l1, true);
    rc = qcow2_metadata_add(q, q->l1.offset, q->l1.entry_count * 8);
    if (rc == 0) {
        rc = qcow2_tree_add(q, new->entry, new->entry_count, -1);
    }
    if (rc == 0 && old_bytes > 0) {
        qcow2_metadata_remove(q, new->offset, old_bytes);
        rc = qcow2_free_later(q, new->offset, old_bytes);
    }
    qcow2_table_fini(new);
    return rc;
}

static int apply(struct qcow2 *q, struct qcow2_snapshot *snapshot)
{
    struct qcow2_table from, new = {0};
    if (q->header.has_bitmaps && snapshot->disk_size != q->header.size) {
        return -EOPNOTSUPP;
    }
    uint64_t needed = qcow2_l1_entries_for(&q->layout, snapshot->disk_size);
    uint64_t count = MAX(needed, (uint64_t)snapshot->l1_size);
    if (count * 8 > QCOW2_MAX_L1_BYTES) {
        return -EFBIG;
    }
    int rc = load_l1(q, snapshot, &from);
    if (rc < 0) {
        return rc;
    }
    rc = qcow2_table_init(&new, 0, count);
    if (rc == 0) {
        for (uint64_t i = 0; i < from.entry_count; i++) {
            new.entry[i] = from.entry[i] & ~QCOW2_COPIED;
        }
        rc = qcow2_set_dirty(q, true);
    }
    if (rc == 0) {
        rc = qcow2_tree_add(q, from.entry, from.entry_count, 1);
    }
    qcow2_table_fini(&from);
    if (rc < 0) {
        qcow2_table_fini(&new);
        return rc;
    }
    rc = qcow2_write_new_table(q, new.entry, new.entry_count, &new.offset);
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc < 0) {
        (void)!qcow2_tree_add(q, new.entry, new.entry_count, -1); /* at worst it leaks */
        qcow2_table_fini(&new);
        return rc;
    }
    return replace_l1(q, &new, snapshot->disk_size);
}

int qcow2_snapshot_apply(struct block *block, const char *name, struct error *err)
{
    return change_one(block, name, apply, err);
}

int qcow2_snapshot_list(struct block *block, block_snapshot_fn fn, void *ctx, struct error *err)
{
    const struct qcow2 *q = qcow2_from_block(block);
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        const struct qcow2_snapshot *one = &q->snapshot[i];
        fn(ctx, &(struct block_snapshot){.id = one->id,
                                         .name = one->name,
                                         .size_bytes = one->disk_size,
                                         .vm_state_bytes = one->vm_state_size,
                                         .vm_clock_ns = one->vm_clock_nsec,
                                         .date_s = one->date_sec,
                                         .date_ns = one->date_nsec});
    }
    return 0;
}

/* The tables of a disk without anything: only the header's sector says which ones hold, so it is all or nothing. */
static int make_empty(struct qcow2 *q)
{
    struct qcow2_table new = {0};
    int rc = qcow2_table_init(&new, 0, q->l1.entry_count);
    if (rc == 0) {
        rc = qcow2_set_dirty(q, true);
    }
    if (rc == 0) {
        rc = qcow2_write_new_table(q, new.entry, new.entry_count, &new.offset);
    }
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc < 0) {
        qcow2_table_fini(&new);
        return rc;
    }
    return replace_l1(q, &new, q->header.size);
}

int qcow2_make_empty(struct block *block, struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    if (q->layout.has_data_file) {
        return error_set(err, EOPNOTSUPP, "an image with a data file cannot be made empty");
    }
    int rc = begin_change(q);
    if (rc == 0) {
        rc = make_empty(q);
    }
    if (q->broken == 0) {
        int settle_rc = settle(q);
        rc = rc < 0 ? rc : settle_rc;
    }
    qcow2_exclusive_end(q);
    return say(q, rc, err);
}
