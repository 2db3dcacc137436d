/* For those who implement disk formats: what a struct block is made of, and the table of formats.
 *
 * Threads: all on the loop's thread. */
#ifndef BLOCK_PROVIDER_H
#define BLOCK_PROVIDER_H

#include "block/block.h"
#include "block/protocol/file.h"

#define BLOCK_MAX_IOV 1024 /* iovecs of one request: the kernel's own limit */

struct block_ops {
    /* Starts a request that block.c has checked against block->info. Calls block_complete in the end. Mandatory. */
    void (*submit)(struct block *block, struct block_request *request);
    /* Requests between plug (true) and unplug (false) may be held back and sent together. Mandatory. */
    void (*plug)(struct block *block, bool is_plugged);
    /* Waits until at least one request in flight has completed. Mandatory. */
    void (*wait)(struct block *block);
    const char *(*aio_name)(const struct block *block);
    /* Nothing is in flight. Frees the block. */
    void (*close)(struct block *block);
};

/* The first member of every format's own struct. */
struct block {
    const struct block_ops *ops;
    struct block_info info;
    uint32_t in_flight; /* counted by block.c */
};

struct block_format {
    const char *name; /* as written in a VM's configuration */
    /* Makes a disk of 'file', which it owns from then on, also on failure. */
    int (*open)(struct block_file *file, const struct block_options *options,
                struct block **out_block, struct error *err);
};

extern const struct block_format block_format_raw;

/* Ends a request that was passed to ops->submit. */
void block_complete(struct block *block, struct block_request *request, int status);

#endif
