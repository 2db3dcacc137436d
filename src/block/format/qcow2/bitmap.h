/* Inside of qcow2: persistent bitmaps as they stand in the file. */
#ifndef BLOCK_FORMAT_QCOW2_BITMAP_H
#define BLOCK_FORMAT_QCOW2_BITMAP_H

#include "block/dirty.h"
#include "block/format/qcow2/qcow2.h"

#define QCOW2_BITMAP_ENTRY_SIZE 24u
#define QCOW2_BITMAP_IN_USE     BIT(0) /* it lacks changes */
#define QCOW2_BITMAP_AUTO       BIT(1) /* it follows every write */
#define QCOW2_BITMAP_TYPE       1      /* of dirty tracking: there is no other */
#define QCOW2_BITMAP_ALL_ONES   BIT(0) /* of a table's entry without a cluster */
#define QCOW2_MAX_BITMAP_NAME   1023

/* An entry of the bitmap directory. */
struct qcow2_bitmap {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags;
    uint8_t granularity_bits;
    char name[QCOW2_MAX_BITMAP_NAME + 1];
};

/* The directory. 0 with *out_is_known false: it holds something that is not known here, or too much, and stays as it is. May yield.
 * The caller frees. */
int must_check qcow2_bitmaps_read(struct qcow2 *q, struct qcow2_bitmap **out_list,
                                  uint32_t *out_count, bool *out_is_known);
/* Its table, in the host's byte order; the caller frees. May yield. */
int must_check qcow2_bitmap_read_table(struct qcow2 *q, const struct qcow2_bitmap *bitmap,
                                       uint64_t **out_table);

struct qcow2_loaded_bitmaps {
    struct qcow2_bitmap *list;
    struct dirty_map *map; /* of each; without words: it lacks changes */
    uint32_t count;
};

/* All of them. -EOPNOTSUPP: there is something that is not known. May yield. */
int must_check qcow2_bitmaps_get(struct qcow2 *q, struct qcow2_loaded_bitmaps *out_loaded);
void qcow2_bitmaps_free(struct qcow2_loaded_bitmaps *loaded);
/* Points into 'loaded'. */
struct block_stored_bitmap qcow2_bitmap_stored(const struct qcow2_loaded_bitmaps *loaded,
                                               uint32_t index);
/* As bitmaps_store of block_image_ops. Nobody else is at the image, which is prepared for writing. May yield. */
int must_check qcow2_bitmaps_put(struct qcow2 *q, const struct block_stored_bitmap *bitmap,
                                 unsigned count);

#endif
