/* Copies one disk to another: holes are skipped, zeros are found, many requests are in flight. What conversion stands on. */
#ifndef BLOCK_COPY_H
#define BLOCK_COPY_H

#include "block/block.h"

#define BLOCK_COPY_MAX_PARALLEL 64

struct block_copy;

struct block_copy_options {
    /* Pieces at a time: 1 to BLOCK_COPY_MAX_PARALLEL; 0: 16. */
    unsigned parallel;
    /* Runs of at least that many zero bytes are not written as data; 0: as the source says. */
    uint32_t zero_size;
    /* Whole clusters of the target, compressed. */
    bool compress;
    /* Pieces are written in the order of the disk, zeros as data: the target leaves those out itself. */
    bool in_order;
    /* The target reads as zeros where nothing is written. */
    bool is_zero;
    /* From where on; a multiple of the target's cluster. */
    uint64_t start_offset;
};

struct block_copy_progress {
    uint64_t done_bytes; /* of the source, holes included */
    uint64_t total_bytes;
    uint64_t written_bytes; /* as data */
};

/* Starts to copy all of 'from' to 'to', which is at least as large. done(ctx, status) is called on the loop's thread, perhaps
 * before this returns; 0, -ECANCELED, or what failed first. The blocks stay the caller's and must not
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
