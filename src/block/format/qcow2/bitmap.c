/* Persistent bitmaps: they stay as they are. Those that should follow every write are marked, as nothing here writes them. */
#include <stdlib.h>

#include "base/core/checked.h"
#include "block/format/qcow2/qcow2.h"

#define ENTRY_SIZE  24u
#define FLAG_IN_USE BIT(0)
#define FLAG_AUTO   BIT(1)

int qcow2_bitmaps_in_use(struct qcow2 *q)
{
    size_t size = (size_t)q->header.bitmap_directory_size;
    uint64_t offset = q->header.bitmap_directory_offset;
    uint8_t *data = malloc(size);
    int rc = data != NULL ? block_read(q->file, offset, data, size) : -ENOMEM;
    bool has_changed = false;
    size_t at = 0;
    for (uint32_t i = 0; rc == 0 && i < q->header.bitmap_count; i++) {
        if (size - at < ENTRY_SIZE) {
            rc = -EINVAL;
            break;
        }
        uint8_t *entry = data + at;
        uint32_t flags = be32_get(entry + 12);
        uint64_t length =
            align_up((uint64_t)ENTRY_SIZE + be16_get(entry + 18) + be32_get(entry + 20), 8);
        if (length > size - at) {
            rc = -EINVAL;
            break;
        }
        if ((flags & FLAG_AUTO) != 0 && (flags & FLAG_IN_USE) == 0) {
            be32_put(entry + 12, flags | FLAG_IN_USE);
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
