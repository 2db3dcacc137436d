/* Inside of filter: requests to the block below on behalf of one from above. */
#ifndef BLOCK_FILTER_FORWARD_H
#define BLOCK_FILTER_FORWARD_H

#include "block/provider.h"

/* The first member of every filter's struct. */
struct filter {
    struct block block; /* block.file: the block below */
    bool has_own_size;  /* the size is not that of the block below */
    struct filter_request *free;
};

struct filter_request {
    struct block_request request; /* to the block below */
    struct block_request *parent;
    struct filter *filter;
    struct filter_request *next; /* of those that are free */
};

/* A filter's struct over 'below', with its info. NULL: no memory, 'err' is set and 'below' closed. */
void *filter_new(size_t size, const struct block_ops *ops, struct block *below, struct error *err);
/* Part of ops->close. */
void filter_fini(struct filter *filter);
/* Passes 'parent' on as it is; it ends with the status from below. */
void filter_forward(struct filter *filter, struct block_request *parent);
/* The same as a WRITE_ZEROES or a discard of its range. */
void filter_forward_as(struct filter *filter, struct block_request *parent, enum block_op op,
                       bool may_unmap);

static inline struct filter *filter_from_block(struct block *block)
{
    return container_of(block, struct filter, block);
}

#endif
