/* The raw format: the disk is the file, so there is nothing between them. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/provider.h"

static int read_head(struct block *file, char *out_head, size_t head_size, uint64_t size)
{
    void *sectors = malloc((size_t)size);
    int rc = sectors != NULL ? block_read(file, 0, sectors, (size_t)size) : -ENOMEM;
    if (rc == 0) {
        memcpy(out_head, sectors, head_size);
    }
    free(sectors);
    return rc;
}

static int raw_open(struct block *file, struct block_options *options, struct block **out_block,
                    struct error *err)
{
    if (file->info.size_bytes == 0) {
        return error_set(err, EINVAL, "disk %s: is empty: at least one sector is needed",
                         file->name);
    }
    if (file->info.is_growable) {
        return error_set(err, EINVAL, "disk %s: opened to grow, which a raw disk does not",
                         file->name);
    }
    char head[sizeof(BLOCK_VEIL_MARK) - 1];
    uint64_t size = align_up(sizeof(head), file->info.logical_block_size);
    if (file->info.size_bytes >= size) {
        int rc = read_head(file, head, sizeof(head), size);
        if (rc < 0) {
            return error_set_errno(err, -rc, "disk %s: reading its beginning", file->name);
        }
        if (memcmp(head, BLOCK_VEIL_MARK, sizeof(head)) == 0) {
            return error_set(err, EINVAL,
                             "disk %s: is what a disk job has left unfinished, and no disk",
                             file->name);
        }
    }
    *out_block = file;
    return 0;
}

const struct block_format block_format_raw = {.name = "raw", .open = raw_open};
