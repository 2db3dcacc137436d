/* Finds writes of zeros, and keeps discards from the block below. */
#include <stdlib.h>

#include "block/copy.h"
#include "block/filter.h"
#include "block/filter/forward.h"

struct zeroes {
    struct filter filter;
    enum block_detect_zeroes detect;
    bool ignore_discard;
};

static struct zeroes *zeroes_from_block(struct block *block)
{
    return container_of(filter_from_block(block), struct zeroes, filter);
}

static bool is_all_zero(const struct block_request *request)
{
    for (int i = 0; i < request->iov_count; i++) {
        if (!block_is_zero(request->iov[i].iov_base, request->iov[i].iov_len)) {
            return false;
        }
    }
    return true;
}

static void zeroes_submit(struct block *block, struct block_request *request)
{
    struct zeroes *zeroes = zeroes_from_block(block);
    struct filter *filter = &zeroes->filter;
    if (request->op == BLOCK_DISCARD && zeroes->ignore_discard) {
        block_complete(block, request, 0);
    } else if (request->op == BLOCK_WRITE_ZEROES && zeroes->ignore_discard) {
        filter_forward_as(filter, request, BLOCK_WRITE_ZEROES, false);
    } else if (request->op == BLOCK_WRITE && zeroes->detect != BLOCK_DETECT_ZEROES_OFF &&
               block->info.can_write_zeroes && is_all_zero(request)) {
        filter_forward_as(filter, request, BLOCK_WRITE_ZEROES,
                          zeroes->detect == BLOCK_DETECT_ZEROES_UNMAP);
    } else {
        filter_forward(filter, request);
    }
}

static void zeroes_close(struct block *block)
{
    struct zeroes *zeroes = zeroes_from_block(block);
    filter_fini(&zeroes->filter);
    free(zeroes);
}

static const struct block_ops zeroes_ops = {
    .name = "zeroes",
    .submit = zeroes_submit,
    .close = zeroes_close,
};

int block_filter_zeroes(struct block *below, enum block_detect_zeroes detect, bool ignore_discard,
                        struct block **out_block, struct error *err)
{
    if (detect == BLOCK_DETECT_ZEROES_UNMAP && ignore_discard) {
        int rc = error_set(err, EINVAL, "disk %s: detect-zeroes=unmap needs discard=unmap",
                           block_name(below));
        block_close(below);
        return rc;
    }
    struct zeroes *zeroes = filter_new(sizeof(*zeroes), &zeroes_ops, below, err);
    if (zeroes == NULL) {
        return -ENOMEM;
    }
    zeroes->detect = detect;
    zeroes->ignore_discard = ignore_discard;
    *out_block = &zeroes->filter.block;
    return 0;
}
