/* Copies one disk to another: holes are skipped, zeros are found, many requests are in flight. What conversion stands on. */
#ifndef BLOCK_COPY_H
#define BLOCK_COPY_H

#include "block/block.h"

#define BLOCK_COPY_MAX_PARALLEL 64

struct block_copy;

struct block_copy_options {
    unsigned parallel; /* pieces at a time: 1 to BLOCK_COPY_MAX_PARALLEL; 0: 16 */
    uint32_t
        zero_size; /* runs of at least that many zero bytes are not written as data; 0: as the source says */
    bool compress;         /* whole clusters of the target, compressed */
    bool is_zero;          /* the target reads as zeros where nothing is written */
    uint64_t start_offset; /* from where on; a multiple of the target's cluster */
};

struct block_copy_progress {
    uint64_t done_bytes; /* of the source, holes included */
    uint64_t total_bytes;
    uint64_t written_bytes; /* as data */
};

/* Starts to copy all of 'from' to 'to', which is at least as large. done(ctx, status) is called on the loop's thread, perhaps
 * before this returns; 0, -ECANCELED, or what failed first, with *err as it was then. The blocks stay the caller's and must not
 * be closed before. */
int must_check block_copy_start(struct block *from, struct block *to,
                                const struct block_copy_options *options,
                                void (*done)(void *ctx, int status), void *ctx,
                                struct block_copy **out_copy, struct error *err);
void block_copy_get_progress(const struct block_copy *copy,
                             struct block_copy_progress *out_progress);
/* Soon after that done() is called. */
void block_copy_cancel(struct block_copy *copy);
/* Why it failed, in words that need no more than the program's name before them. */
const char *block_copy_failure(const struct block_copy *copy);
/* After done(). NULL is fine. */
void block_copy_destroy(struct block_copy *copy);

/* Is it all zeros? Threads: any. */
bool block_is_zero(const void *data, size_t size);

#endif
