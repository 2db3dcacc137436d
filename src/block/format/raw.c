/* The raw format: the disk is the file, so there is nothing between them. */
#include "block/provider.h"

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
    *out_block = file;
    return 0;
}

const struct block_format block_format_raw = {.name = "raw", .open = raw_open};
