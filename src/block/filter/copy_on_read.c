/* Copies what is read from backing blocks into the block above them. */
#include <stdlib.h>

#include "base/core/bits.h"
#include "base/host/coroutine.h"
#include "block/copy.h"
#include "block/filter.h"
#include "block/filter/forward.h"

#define MAX_COPY (1u << 20) /* bytes at a time */

/* A range in use: by a copy, alone; or by a write from above, beside other writes. */
struct busy_range {
    uint64_t start, end;
    bool is_copy;
    struct busy_range *next, **link;
};

struct copy_on_read {
    struct filter filter;
    struct busy_range *ranges;
    struct coroutine_queue waiting;
};

static struct copy_on_read *cor_from_block(struct block *block)
{
    return container_of(filter_from_block(block), struct copy_on_read, filter);
}

/* A copy writes what the backing blocks have: a write from above at the same time would be lost. */
static void take_range(struct copy_on_read *cor, struct busy_range *range)
{
    for (const struct busy_range *at = cor->ranges; at != NULL;) {
        if (range->start < at->end && at->start < range->end && (range->is_copy || at->is_copy)) {
            coroutine_queue_wait(&cor->waiting);
            at = cor->ranges; /* another list by now */
        } else {
            at = at->next;
        }
    }
    range->next = cor->ranges;
    range->link = &cor->ranges;
    if (range->next != NULL) {
        range->next->link = &range->next;
    }
    cor->ranges = range;
}

static void give_range(struct copy_on_read *cor, struct busy_range *range)
{
    *range->link = range->next;
    if (range->next != NULL) {
        range->next->link = range->link;
    }
    coroutine_queue_wake_all(&cor->waiting);
}

/* [offset, offset + size), which the block below does not have itself, becomes its own. */
static int copy(struct block *below, uint64_t offset, uint64_t size)
{
    void *data;
    uint64_t piece = MIN(size, MAX_COPY);
    if (posix_memalign(&data, 4096, (size_t)piece) != 0) {
        return -ENOMEM;
    }
    int rc = 0;
    for (uint64_t done = 0; done < size && rc == 0; done += piece) {
        piece = MIN(size - done, MAX_COPY);
        rc = block_read(below, offset + done, data, (size_t)piece);
        if (rc == 0) {
            rc = below->info.can_write_zeroes && block_is_zero(data, (size_t)piece)
                     ? block_write_zeroes(below, offset + done, piece, true)
                     : block_write(below, offset + done, data, (size_t)piece);
        }
    }
    free(data);
    return rc;
}

/* True if there is something in the range that a copy would bring, with where it is. */
static bool find_absent(struct block *below, uint64_t offset, uint64_t end, uint64_t *out_offset,
                        uint64_t *out_size)
{
    while (offset < end) {
        struct block_extent extent;
        if (block_map(below, offset, end - offset, &extent) < 0) {
            return false; /* the read itself says what is wrong */
        }
        if (extent.kind == BLOCK_EXTENT_ABSENT) {
            *out_offset = offset;
            *out_size = extent.size_bytes;
            return true;
        }
        offset += extent.size_bytes;
    }
    return false;
}

/* What holds the data that is not here: there may be other filters in between. NULL: nothing does. */
static struct block *backing_of(struct block *block)
{
    while (block->backing == NULL && block->file != NULL) {
        block = block->file;
    }
    return block->backing;
}

/* Whole clusters around the request. Behind the end of the backing block there is nothing worth a copy. */
static void bring(struct copy_on_read *cor, const struct block *backing,
                  const struct block_request *request)
{
    struct block *below = cor->filter.block.file;
    uint64_t cluster = MAX(below->info.cluster_size, 512u);
    uint64_t at = align_down(request->offset_bytes, cluster);
    uint64_t end = MIN(align_up(request->offset_bytes + request->size_bytes, cluster),
                       MIN(below->info.size_bytes, backing->info.size_bytes));
    uint64_t size;
    while (find_absent(below, at, end, &at, &size)) {
        struct busy_range range = {.start = at, .end = at + size, .is_copy = true};
        take_range(cor, &range);
        /* It may have come by a write, or another read's copy, while this one waited. */
        uint64_t now_at, now_size;
        int rc = 0;
        if (find_absent(below, at, at + size, &now_at, &now_size)) {
            rc = copy(below, now_at, now_size);
        }
        give_range(cor, &range);
        if (rc < 0) {
            return;
        }
    }
}

static int pass_on(struct block *below, const struct block_request *request)
{
    struct block_request same = *request;
    return block_perform(below, &same);
}

static int perform(struct block *block, struct block_request *request)
{
    struct copy_on_read *cor = cor_from_block(block);
    if (request->op == BLOCK_READ) {
        const struct block *backing = backing_of(block->file);
        if (backing != NULL) {
            bring(cor, backing, request);
        }
        return pass_on(block->file, request);
    }
    struct busy_range range = {.start = request->offset_bytes,
                               .end = request->offset_bytes + request->size_bytes};
    take_range(cor, &range);
    int rc = pass_on(block->file, request);
    give_range(cor, &range);
    return rc;
}

static void cor_submit(struct block *block, struct block_request *request)
{
    struct copy_on_read *cor = cor_from_block(block);
    bool is_plain = request->op == BLOCK_FLUSH || request->op == BLOCK_MAP ||
                    request->op == BLOCK_RESIZE || backing_of(block->file) == NULL;
    if (is_plain) {
        filter_forward(&cor->filter, request);
        return;
    }
    block_serve(block, request, perform);
}

static void cor_close(struct block *block)
{
    struct copy_on_read *cor = cor_from_block(block);
    filter_fini(&cor->filter);
    free(cor);
}

static const struct block_ops cor_ops = {
    .name = "copy-on-read",
    .submit = cor_submit,
    .close = cor_close,
};

int block_filter_copy_on_read(struct block *below, struct block **out_block, struct error *err)
{
    if (below->info.is_readonly) {
        int rc = error_set(err, EINVAL, "disk %s: copy-on-read needs a disk that can be written",
                           block_name(below));
        block_close(below);
        return rc;
    }
    struct copy_on_read *cor = filter_new(sizeof(*cor), &cor_ops, below, err);
    if (cor == NULL) {
        return -ENOMEM;
    }
    *out_block = &cor->filter.block;
    return 0;
}
