/* Persistent bitmaps: reading them, and the mark of those that should follow every write. */
#include "block/format/qcow2/bitmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "block/bitmap.h"

int qcow2_bitmaps_in_use(struct qcow2 *q, bool are_all)
{
    size_t size = (size_t)q->header.bitmap_directory_size;
    uint64_t offset = q->header.bitmap_directory_offset;
    uint8_t *data = malloc(size);
    int rc = data != NULL ? block_read(q->file, offset, data, size) : -ENOMEM;
    bool has_changed = false;
    size_t at = 0;
    for (uint32_t i = 0; rc == 0 && i < q->header.bitmap_count; i++) {
        if (size - at < QCOW2_BITMAP_ENTRY_SIZE) {
            rc = -EINVAL;
            break;
        }
        uint8_t *entry = data + at;
        uint64_t flags = be32_get(entry + 12);
        uint64_t length = align_up(
            (uint64_t)QCOW2_BITMAP_ENTRY_SIZE + be16_get(entry + 18) + be32_get(entry + 20), 8);
        if (length > size - at) {
            rc = -EINVAL;
            break;
        }
        if ((are_all || (flags & QCOW2_BITMAP_AUTO) != 0) && (flags & QCOW2_BITMAP_IN_USE) == 0) {
            be32_put(entry + 12, (uint32_t)(flags | QCOW2_BITMAP_IN_USE));
            has_changed = true;
        }
        at += (size_t)length;
    }
    if (rc == -EINVAL) {
        /* Not a directory: the bit that says all is well goes. */
        q->header.autoclear_features &= ~QCOW2_AUTOCLEAR_BITMAPS;
        rc = qcow2_write_header(q);
    } else if (rc == 0 && has_changed) {
        rc = block_write(q->file, offset, data, size);
        if (rc == 0) {
            rc = block_flush(q->file);
        }
    }
    free(data);
    return rc;
}

/* False: not of a kind that is known here. */
static bool parse_entry(const struct qcow2 *q, const uint8_t *data, size_t size,
                        struct qcow2_bitmap *out_bitmap, size_t *out_length)
{
    if (size < QCOW2_BITMAP_ENTRY_SIZE) {
        return false;
    }
    uint32_t name_size = be16_get(data + 18), extra_size = be32_get(data + 20);
    *out_bitmap = (struct qcow2_bitmap){.table_offset = be64_get(data),
                                        .table_size = be32_get(data + 8),
                                        .flags = be32_get(data + 12),
                                        .granularity_bits = data[17]};
    uint64_t length = align_up((uint64_t)QCOW2_BITMAP_ENTRY_SIZE + name_size + extra_size, 8);
    uint64_t known_flags = QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO;
    if (length > size || extra_size != 0 || data[16] != QCOW2_BITMAP_TYPE ||
        (out_bitmap->flags & ~known_flags) != 0 || name_size == 0 ||
        name_size > QCOW2_MAX_BITMAP_NAME || out_bitmap->granularity_bits < 9 ||
        out_bitmap->granularity_bits > 30 ||
        (uint64_t)out_bitmap->table_size * 8 > QCOW2_MAX_BITMAP_BYTES ||
        (out_bitmap->table_offset & (q->layout.cluster_size - 1)) != 0 ||
        out_bitmap->table_offset == 0) {
        return false;
    }
    memcpy(out_bitmap->name, data + QCOW2_BITMAP_ENTRY_SIZE, name_size);
    *out_length = (size_t)length;
    return strlen(out_bitmap->name) == name_size;
}

int qcow2_bitmaps_read(struct qcow2 *q, struct qcow2_bitmap **out_list, uint32_t *out_count,
                       bool *out_is_known)
{
    *out_list = NULL;
    *out_count = 0;
    *out_is_known = true;
    if (!q->header.has_bitmaps) {
        return 0;
    }
    uint32_t count = q->header.bitmap_count;
    size_t size = (size_t)q->header.bitmap_directory_size, at = 0;
    if (count > BLOCK_MAX_BITMAPS) {
        *out_is_known = false;
        return 0;
    }
    uint8_t *data = malloc(size);
    struct qcow2_bitmap *list = calloc(count, sizeof(*list));
    int rc = data != NULL && list != NULL
                 ? block_read(q->file, q->header.bitmap_directory_offset, data, size)
                 : -ENOMEM;
    for (uint32_t i = 0; i < count && rc == 0 && *out_is_known; i++) {
        size_t length = 0;
        *out_is_known = parse_entry(q, data + at, size - at, &list[i], &length);
        at += length;
    }
    free(data);
    if (rc < 0 || !*out_is_known) {
        free(list);
        return rc;
    }
    *out_list = list;
    *out_count = count;
    return 0;
}

int qcow2_bitmap_read_table(struct qcow2 *q, const struct qcow2_bitmap *bitmap,
                            uint64_t **out_table)
{
    size_t size = (size_t)bitmap->table_size * 8;
    uint64_t *table = malloc(MAX(size, (size_t)8));
    int rc = table != NULL ? block_read(q->file, bitmap->table_offset, table, size) : -ENOMEM;
    for (uint32_t i = 0; i < bitmap->table_size && rc == 0; i++) {
        table[i] = be64_get((const uint8_t *)&table[i]);
    }
    if (rc < 0) {
        free(table);
        return rc;
    }
    *out_table = table;
    return 0;
}

/* The bits of one bitmap; -EINVAL: it is not as it should be. */
static int read_bits(struct qcow2 *q, const struct qcow2_bitmap *bitmap, struct dirty_map *map)
{
    uint32_t cluster = q->layout.cluster_size;
    uint64_t *table;
    uint64_t bits = (q->block.info.size_bytes >> bitmap->granularity_bits) + 1;
    if (bits > BLOCK_MAX_BITMAP_BITS ||
        dirty_map_init(map, q->block.info.size_bytes, 1u << bitmap->granularity_bits) < 0) {
        return -EINVAL; /* nobody has a use for it */
    }
    uint64_t needed = ((map->bit_count + 7) / 8 + cluster - 1) / cluster;
    if (bitmap->table_size != needed) {
        return -EINVAL;
    }
    uint8_t *data = malloc(cluster);
    int rc = data != NULL ? qcow2_bitmap_read_table(q, bitmap, &table) : -ENOMEM;
    if (rc < 0) {
        free(data);
        return rc;
    }
    for (uint64_t i = 0; i < needed && rc == 0; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        if ((table[i] & ~(QCOW2_OFFSET_MASK | QCOW2_BITMAP_ALL_ONES)) != 0 ||
            (offset & (cluster - 1)) != 0 || (offset != 0 && offset != table[i])) {
            rc = -EINVAL;
        } else if (offset != 0) {
            rc = block_read(q->file, offset, data, cluster);
        } else if (table[i] != 0) {
            memset(data, 0xff, cluster);
        }
        if (rc == 0 && table[i] != 0) {
            dirty_map_import(map, i * cluster, data, cluster);
        }
    }
    free(table);
    free(data);
    return rc;
}

int qcow2_bitmaps_get(struct qcow2 *q, struct qcow2_loaded_bitmaps *out_loaded)
{
    bool is_known;
    *out_loaded = (struct qcow2_loaded_bitmaps){0};
    int rc = qcow2_bitmaps_read(q, &out_loaded->list, &out_loaded->count, &is_known);
    if (rc < 0 || out_loaded->count == 0) {
        return rc == 0 && !is_known ? -EOPNOTSUPP : rc;
    }
    out_loaded->map = calloc(out_loaded->count, sizeof(*out_loaded->map));
    if (out_loaded->map == NULL) {
        qcow2_bitmaps_free(out_loaded);
        return -ENOMEM;
    }
    bool are_believed = (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0;
    for (uint32_t i = 0; i < out_loaded->count && rc == 0; i++) {
        const struct qcow2_bitmap *bitmap = &out_loaded->list[i];
        struct dirty_map *map = &out_loaded->map[i];
        if (!are_believed || (bitmap->flags & QCOW2_BITMAP_IN_USE) != 0) {
            continue;
        }
        rc = read_bits(q, bitmap, map);
        if (rc == -EINVAL) {
            dirty_map_fini(map);
            rc = 0;
        }
    }
    if (rc < 0) {
        qcow2_bitmaps_free(out_loaded);
    }
    return rc;
}

void qcow2_bitmaps_free(struct qcow2_loaded_bitmaps *loaded)
{
    for (uint32_t i = 0; i < loaded->count && loaded->map != NULL; i++) {
        dirty_map_fini(&loaded->map[i]);
    }
    free(loaded->map);
    free(loaded->list);
    *loaded = (struct qcow2_loaded_bitmaps){0};
}

struct block_stored_bitmap qcow2_bitmap_stored(const struct qcow2_loaded_bitmaps *loaded,
                                               uint32_t index)
{
    const struct qcow2_bitmap *bitmap = &loaded->list[index];
    return (struct block_stored_bitmap){
        .name = bitmap->name,
        .granularity = 1u << bitmap->granularity_bits,
        .is_enabled = (bitmap->flags & QCOW2_BITMAP_AUTO) != 0,
        .map = loaded->map[index].word != NULL ? &loaded->map[index] : NULL,
    };
}

struct loading {
    struct qcow2 *q;
    struct qcow2_loaded_bitmaps bitmaps;
};

static int load(void *ctx)
{
    struct loading *loading = ctx;
    return qcow2_bitmaps_get(loading->q, &loading->bitmaps);
}

int qcow2_bitmaps_load(struct block *block,
                       int (*fn)(void *ctx, const struct block_stored_bitmap *bitmap), void *ctx,
                       struct error *err)
{
    struct loading loading = {.q = qcow2_from_block(block)};
    int rc = block_run(load, &loading);
    if (rc == -EOPNOTSUPP) {
        return 0; /* what is not known stays as it is */
    }
    if (rc < 0) {
        (void)error_set_errno(err, -rc, "disk %s: reading its bitmaps", block->name);
    }
    for (uint32_t i = 0; i < loading.bitmaps.count && rc == 0; i++) {
        const struct block_stored_bitmap stored = qcow2_bitmap_stored(&loading.bitmaps, i);
        rc = fn(ctx, &stored);
    }
    qcow2_bitmaps_free(&loading.bitmaps);
    return rc;
}
