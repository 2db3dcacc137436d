/* Requests of any alignment over a remote disk whose server takes whole blocks alone (iSCSI): what a format needs. Parts of blocks
 * are read, changed and written back; nobody else writes to them meanwhile. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "block/filter/forward.h"
#include "block/protocol/remote/remote.h"

struct range {
    uint64_t start, end; /* whole blocks */
    struct range *next;
};

struct align {
    struct filter filter;
    uint32_t unit;
    struct range *writing;
    struct coroutine_queue waiting;
};

static struct align *align_from_block(struct block *block)
{
    return container_of(block, struct align, filter.block);
}

static void lock_range(struct align *align, struct range *range)
{
    const struct range *at = align->writing;
    while (at != NULL) {
        if (range->start < at->end && at->start < range->end) {
            coroutine_queue_wait(&align->waiting);
            at = align->writing;
        } else {
            at = at->next;
        }
    }
    range->next = align->writing;
    align->writing = range;
}

static void unlock_range(struct align *align, const struct range *range)
{
    struct range **at = &align->writing;
    while (*at != range) {
        at = &(*at)->next;
    }
    *at = range->next;
    coroutine_queue_wake_all(&align->waiting);
}

/* Reads the blocks of a range of which 'from' to 'to' will be new: the first and the last, where they are not new as a whole. */
static int read_edges(struct block *file, const struct range *range, uint64_t from, uint64_t to,
                      uint32_t unit, uint8_t *data)
{
    int rc = 0;
    if (from != range->start) {
        rc = block_read(file, range->start, data, unit);
    }
    if (rc == 0 && to != range->end && (range->end - range->start > unit || from == range->start)) {
        rc = block_read(file, range->end - unit, data + (range->end - unit - range->start), unit);
    }
    return rc;
}

static int write_part(struct align *align, const struct block_request *request,
                      const struct range *range)
{
    struct block *file = align->filter.block.file;
    uint64_t from = request->offset_bytes;
    uint64_t to = from + request->size_bytes;
    if (from == range->start && to == range->end) {
        struct block_request whole = {.op = BLOCK_WRITE,
                                      .offset_bytes = from,
                                      .size_bytes = request->size_bytes,
                                      .iov = request->iov,
                                      .iov_count = request->iov_count};
        return block_perform(file, &whole);
    }
    size_t size = (size_t)(range->end - range->start);
    uint8_t *data = malloc(size);
    int rc = data != NULL ? read_edges(file, range, from, to, align->unit, data) : -ENOMEM;
    if (rc == 0) {
        iov_get(request->iov, request->iov_count, 0, data + (from - range->start),
                (size_t)request->size_bytes);
        rc = block_write(file, range->start, data, size);
    }
    free(data);
    return rc;
}

/* Part of one block. */
static int clear_part(struct align *align, uint64_t from, uint64_t to)
{
    struct block *file = align->filter.block.file;
    uint8_t data[4096];
    uint64_t start = align_down(from, align->unit);
    int rc = block_read(file, start, data, align->unit);
    if (rc == 0) {
        memset(data + (from - start), 0, (size_t)(to - from));
        rc = block_write(file, start, data, align->unit);
    }
    return rc;
}

static int clear(struct align *align, const struct block_request *request)
{
    uint64_t from = request->offset_bytes;
    uint64_t to = from + request->size_bytes;
    uint64_t inner = align_up(from, align->unit);
    uint64_t inner_end = align_down(to, align->unit);
    if (inner > inner_end) {
        return clear_part(align, from, to);
    }
    int rc = from != inner ? clear_part(align, from, inner) : 0;
    if (rc == 0 && inner != inner_end) {
        rc = block_write_zeroes(align->filter.block.file, inner, inner_end - inner,
                                request->may_unmap);
    }
    return rc == 0 && to != inner_end ? clear_part(align, inner_end, to) : rc;
}

static int read_part(struct align *align, const struct block_request *request,
                     const struct range *range)
{
    size_t size = (size_t)(range->end - range->start);
    uint8_t *data = malloc(size);
    int rc =
        data != NULL ? block_read(align->filter.block.file, range->start, data, size) : -ENOMEM;
    if (rc == 0) {
        iov_put(request->iov, request->iov_count, 0, data + (request->offset_bytes - range->start),
                (size_t)request->size_bytes);
    }
    free(data);
    return rc;
}

/* Of the whole blocks, cut to what was asked for. */
static int map(struct align *align, const struct block_request *request, const struct range *range)
{
    struct block_extent extent;
    int rc = block_map(align->filter.block.file, range->start, range->end - range->start, &extent);
    if (rc == 0) {
        uint64_t skip = request->offset_bytes - range->start;
        extent.file_offset += skip;
        extent.size_bytes = MIN(extent.size_bytes - skip, request->size_bytes);
        *request->extent = extent;
    }
    return rc;
}

static int perform(struct block *block, struct block_request *request)
{
    struct align *align = align_from_block(block);
    struct range range = {.start = align_down(request->offset_bytes, align->unit),
                          .end =
                              align_up(request->offset_bytes + request->size_bytes, align->unit)};
    bool writes = request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES;
    if (writes) {
        lock_range(align, &range);
    }
    int rc = request->op == BLOCK_WRITE          ? write_part(align, request, &range)
             : request->op == BLOCK_WRITE_ZEROES ? clear(align, request)
             : request->op == BLOCK_READ         ? read_part(align, request, &range)
                                                 : map(align, request, &range);
    if (writes) {
        unlock_range(align, &range);
    }
    return rc;
}

static void align_submit(struct block *block, struct block_request *request)
{
    struct align *align = align_from_block(block);
    bool is_aligned = ((request->offset_bytes | request->size_bytes) & (align->unit - 1)) == 0;
    bool writes = request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES;
    if (request->op == BLOCK_DISCARD && !is_aligned) {
        block_complete(block, request, 0); /* a hint */
        return;
    }
    /* Writes of whole blocks wait for those that change a part of one, and the other way round. */
    if (request->op == BLOCK_FLUSH || (is_aligned && !writes)) {
        filter_forward(&align->filter, request);
        return;
    }
    block_serve(block, request, perform);
}

static void align_close(struct block *block)
{
    filter_fini(filter_from_block(block));
    free(align_from_block(block));
}

static const struct block_ops align_ops = {
    .name = "align",
    .submit = align_submit,
    .close = align_close,
};

int remote_align(struct block *below, struct block **out_block, struct error *err)
{
    struct align *align = filter_new(sizeof(*align), &align_ops, below, err);
    if (align == NULL) {
        return -ENOMEM;
    }
    align->unit = below->info.logical_block_size;
    align->filter.block.info.logical_block_size = 1;
    *out_block = &align->filter.block;
    return 0;
}
