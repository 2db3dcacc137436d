/* What an image says that it stands on. */
#ifndef CLI_DISK_BACKING_H
#define CLI_DISK_BACKING_H

#include "block/block.h"

struct disk_backing {
    char name[1024]; /* as it stands in the image: untrusted; empty: nothing */
    char format[64]; /* likewise; empty: not said */
};

void disk_backing_get(const struct block *block, struct disk_backing *out_backing);

#endif
