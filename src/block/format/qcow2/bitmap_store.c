/* Persistent bitmaps: writing them. All that is new goes to new clusters, is counted and durable, and then one header names it: until
 * that moment the image has the old ones. */
#include <stdlib.h>
#include <string.h>

#include "block/bitmap.h"
#include "block/format/qcow2/bitmap.h"

struct store {
    struct qcow2 *q;
    const struct block_stored_bitmap *bitmap;
    unsigned count;
    struct qcow2_bitmap *old;
    uint32_t old_count;
    struct qcow2_frees taken; /* what was allocated, for the case that it fails */
    uint8_t *directory;
    size_t directory_size;
    struct error *err;
};

/* Clusters for 'size' bytes, with the data in them. */
static int put(struct store *store, const uint8_t *data, size_t size, uint64_t *out_offset)
{
    struct qcow2 *q = store->q;
    struct qcow2_frees *taken = &store->taken;
    if (taken->count == taken->capacity) {
        size_t capacity = taken->capacity * 2 + 16;
        void *item = realloc(taken->item, capacity * sizeof(struct qcow2_free));
        if (item == NULL) {
            return -ENOMEM;
        }
        taken->item = item;
        taken->capacity = capacity;
    }
    int rc = qcow2_alloc_exact(q, size, out_offset);
    if (rc == 0) {
        taken->item[taken->count++] =
            (struct qcow2_free){*out_offset, align_up(size, q->layout.cluster_size)};
        rc = block_write(q->file, *out_offset, data, size);
    }
    return rc;
}

static bool is_filled(const uint8_t *data, size_t size, uint8_t value)
{
    return data[0] == value && memcmp(data, data + 1, size - 1) == 0;
}

/* The bits of a bitmap and their table. */
static int put_bits(struct store *store, const struct dirty_map *map, struct qcow2_bitmap *entry)
{
    uint32_t cluster = store->q->layout.cluster_size;
    uint64_t needed = ((map->bit_count + 7) / 8 + cluster - 1) / cluster;
    if (needed * 8 > QCOW2_MAX_BITMAP_BYTES) {
        return -EFBIG;
    }
    size_t table_bytes = (size_t)align_up(MAX(needed, 1u) * 8, cluster);
    uint8_t *table = calloc(1, table_bytes);
    uint8_t *data = malloc(cluster);
    int rc = table != NULL && data != NULL ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < needed && rc == 0; i++) {
        uint64_t value = 0;
        dirty_map_export(map, i * cluster, data, cluster);
        if (is_filled(data, cluster, 0xff)) {
            value = QCOW2_BITMAP_ALL_ONES;
        } else if (!is_filled(data, cluster, 0)) {
            rc = put(store, data, cluster, &value);
        }
        be64_put(table + i * 8, value);
    }
    if (rc == 0) {
        rc = put(store, table, table_bytes, &entry->table_offset);
    }
    entry->table_size = (uint32_t)needed;
    free(table);
    free(data);
    return rc;
}

static struct qcow2_bitmap *find_old(const struct store *store, const char *name)
{
    for (uint32_t i = 0; i < store->old_count; i++) {
        if (strcmp(store->old[i].name, name) == 0) {
            return &store->old[i];
        }
    }
    return NULL;
}

static void add_entry(struct store *store, const struct qcow2_bitmap *entry)
{
    size_t name_size = strlen(entry->name);
    uint8_t *at = store->directory + store->directory_size;
    be64_put(at, entry->table_offset);
    be32_put(at + 8, entry->table_size);
    be32_put(at + 12, entry->flags);
    at[16] = QCOW2_BITMAP_TYPE;
    at[17] = entry->granularity_bits;
    be16_put(at + 18, (uint16_t)name_size);
    memcpy(at + QCOW2_BITMAP_ENTRY_SIZE, entry->name, name_size);
    store->directory_size += (size_t)align_up(QCOW2_BITMAP_ENTRY_SIZE + name_size, 8);
}

static int put_one(struct store *store, const struct block_stored_bitmap *bitmap)
{
    struct qcow2_bitmap entry = {.granularity_bits = (uint8_t)__builtin_ctz(bitmap->granularity)};
    memcpy(entry.name, bitmap->name, strlen(bitmap->name) + 1);
    entry.flags = bitmap->is_enabled ? (uint32_t)QCOW2_BITMAP_AUTO : 0;
    if (bitmap->map != NULL) {
        int rc = put_bits(store, bitmap->map, &entry);
        if (rc < 0) {
            return rc;
        }
    } else {
        struct qcow2_bitmap *old = find_old(store, bitmap->name);
        if (old == NULL) {
            return 0; /* there is nothing to be kept */
        }
        entry = *old;
        entry.flags |= QCOW2_BITMAP_IN_USE;
        old->table_offset = 0; /* it stays in use */
    }
    add_entry(store, &entry);
    return 0;
}

static int put_all(struct store *store, struct qcow2_header *header)
{
    struct qcow2 *q = store->q;
    size_t room = 0;
    for (unsigned i = 0; i < store->count; i++) {
        room += (size_t)align_up(QCOW2_BITMAP_ENTRY_SIZE + strlen(store->bitmap[i].name), 8);
    }
    store->directory = calloc(1, align_up(MAX(room, (size_t)1), q->layout.cluster_size));
    if (store->directory == NULL) {
        return -ENOMEM;
    }
    int rc = 0;
    uint32_t count = 0;
    for (unsigned i = 0; i < store->count && rc == 0; i++) {
        size_t before = store->directory_size;
        rc = put_one(store, &store->bitmap[i]);
        count += store->directory_size > before;
    }
    header->has_bitmaps = count > 0;
    header->bitmap_count = count;
    header->bitmap_directory_size = store->directory_size;
    header->bitmap_directory_offset = 0;
    header->autoclear_features &= ~QCOW2_AUTOCLEAR_BITMAPS;
    if (rc == 0 && count > 0) {
        header->autoclear_features |= QCOW2_AUTOCLEAR_BITMAPS;
        rc = put(store, store->directory,
                 (size_t)align_up(store->directory_size, q->layout.cluster_size),
                 &header->bitmap_directory_offset);
    }
    return rc;
}

static int free_old(struct store *store, const struct qcow2_header *old)
{
    struct qcow2 *q = store->q;
    int rc = 0;
    if (!old->has_bitmaps) {
        return 0;
    }
    for (uint32_t i = 0; i < store->old_count && rc == 0; i++) {
        const struct qcow2_bitmap *bitmap = &store->old[i];
        uint64_t *table;
        if (bitmap->table_offset == 0) {
            continue;
        }
        rc = qcow2_bitmap_read_table(q, bitmap, &table);
        if (rc < 0) {
            break;
        }
        for (uint32_t j = 0; rc == 0 && j < bitmap->table_size; j++) {
            uint64_t offset = table[j] & QCOW2_OFFSET_MASK;
            if (offset != 0 && (offset & (q->layout.cluster_size - 1)) == 0) {
                rc = qcow2_free_later(q, offset, q->layout.cluster_size);
            }
        }
        free(table);
        if (rc == 0) {
            rc = qcow2_free_later(
                q, bitmap->table_offset,
                align_up(MAX((uint64_t)bitmap->table_size * 8, 1u), q->layout.cluster_size));
        }
    }
    if (rc == 0) {
        uint64_t size = align_up(old->bitmap_directory_size, q->layout.cluster_size);
        qcow2_metadata_remove(q, old->bitmap_directory_offset, size);
        rc = qcow2_free_later(q, old->bitmap_directory_offset, size);
    }
    return rc;
}

static int exchange(struct store *store)
{
    struct qcow2 *q = store->q;
    struct qcow2_header *header = malloc(sizeof(*header));
    struct qcow2_header *old = malloc(sizeof(*old));
    int rc = header != NULL && old != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        *header = *old = q->header;
        header->header_length = QCOW2_FULL_LENGTH;
        rc = header->has_more_unknown ? -EOPNOTSUPP : put_all(store, header);
    }
    if (rc == 0) {
        rc = qcow2_commit(q);
    }
    if (rc == 0) {
        rc = block_flush(q->file);
    }
    if (rc == 0) {
        rc = qcow2_write_new_header(q, header, store->err);
    }
    if (rc < 0) {
        for (size_t i = 0; i < store->taken.count && q->broken == 0; i++) {
            qcow2_unalloc(q, store->taken.item[i].offset, store->taken.item[i].size);
        }
    } else {
        q->is_prepared = false; /* before the next write they are marked as in use */
        rc = free_old(store, old);
        if (rc == 0 && header->has_bitmaps) {
            rc = qcow2_metadata_add(q, header->bitmap_directory_offset,
                                    header->bitmap_directory_size);
        }
        if (rc == 0) {
            rc = qcow2_commit(q);
        }
        if (rc == 0) {
            rc = qcow2_release(q);
        }
    }
    free(header);
    free(old);
    return rc;
}

int qcow2_bitmaps_put(struct qcow2 *q, const struct block_stored_bitmap *bitmap, unsigned count)
{
    struct error err = {0}; /* what it says is in the status as well */
    struct store store = {.q = q, .bitmap = bitmap, .count = count, .err = &err};
    bool is_known;
    int rc = qcow2_bitmaps_read(q, &store.old, &store.old_count, &is_known);
    if (rc == 0) {
        rc = is_known ? exchange(&store) : -EOPNOTSUPP;
    }
    free(store.old);
    free(store.taken.item);
    free(store.directory);
    return rc;
}

struct request {
    struct qcow2 *q;
    const struct block_stored_bitmap *bitmap;
    unsigned count;
};

static int store_in_coroutine(void *ctx)
{
    const struct request *request = ctx;
    struct qcow2 *q = request->q;
    qcow2_exclusive_begin(q);
    int rc = qcow2_prepare_write(q);
    if (rc == 0) {
        rc = qcow2_bitmaps_put(q, request->bitmap, request->count);
    }
    qcow2_exclusive_end(q);
    return rc;
}

int qcow2_bitmaps_store(struct block *block, const struct block_stored_bitmap *bitmap,
                        unsigned count, struct error *err)
{
    struct qcow2 *q = qcow2_from_block(block);
    struct request request = {q, bitmap, count};
    if (count == 0 && !q->header.has_bitmaps) {
        return 0;
    }
    if (q->header.version < 3) {
        return error_set(err, EOPNOTSUPP, "disk %s: images of version 2 keep no bitmaps",
                         block->name);
    }
    int rc = block_run(store_in_coroutine, &request);
    return rc < 0 ? error_set_errno(err, -rc, "disk %s: storing its bitmaps", block->name) : 0;
}
