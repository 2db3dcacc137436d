#include "block/filter/forward.h"

#include <stdlib.h>

void *filter_new(size_t size, const struct block_ops *ops, struct block *below, struct error *err)
{
    struct filter *filter = block_new(size, ops, block_name(below), below->loop, err);
    if (filter == NULL) {
        block_close(below);
        return NULL;
    }
    filter->block.file = below;
    filter->block.info = below->info;
    return filter;
}

void filter_fini(struct filter *filter)
{
    while (filter->free != NULL) {
        struct filter_request *request = filter->free;
        filter->free = request->next;
        free(request);
    }
    block_fini(&filter->block);
}

static void forward_done(struct block_request *done, int status)
{
    struct filter_request *request = container_of(done, struct filter_request, request);
    struct filter *filter = request->filter;
    struct block_request *parent = request->parent;
    request->next = filter->free;
    filter->free = request;
    /* It may have grown, or have been resized. */
    if (!filter->has_own_size) {
        filter->block.info.size_bytes = filter->block.file->info.size_bytes;
    }
    block_complete(&filter->block, parent, status);
}

void filter_forward_as(struct filter *filter, struct block_request *parent, enum block_op op,
                       bool may_unmap)
{
    struct filter_request *request = filter->free;
    if (request != NULL) {
        filter->free = request->next;
    } else {
        request = malloc(sizeof(*request));
        if (request == NULL) {
            block_complete(&filter->block, parent, -ENOMEM);
            return;
        }
    }
    request->filter = filter;
    request->parent = parent;
    request->request = (struct block_request){
        .op = op,
        .may_unmap = may_unmap,
        .compress = parent->compress,
        .offset_bytes = parent->offset_bytes,
        .size_bytes = parent->size_bytes,
        .iov = parent->iov,
        .iov_count = parent->iov_count,
        .extent = parent->extent,
        .done = forward_done,
    };
    block_submit(filter->block.file, &request->request);
}

void filter_forward(struct filter *filter, struct block_request *parent)
{
    filter_forward_as(filter, parent, parent->op, parent->may_unmap);
}
