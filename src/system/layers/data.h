/* The data of files, with their holes. */
#ifndef SYSTEM_LAYERS_DATA_H
#define SYSTEM_LAYERS_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/compiler.h"

struct data_copy {
    bool cannot_share; /* found out: FICLONE is not worth a try */
    /* Called with the bytes that were done since the last time; not 0 ends the copy. May be NULL. */
    int (*progress)(void *ctx, uint64_t bytes);
    void *ctx;
};

/* The first 'size' bytes into an empty file, fewer where 'from' became shorter: the rest is a hole. 0, -errno, or what
 * 'progress' said. */
int must_check data_copy(struct data_copy *copy, int from, int to, uint64_t size);

#endif
