/* Requests to a file without the host's page cache (O_DIRECT).
 *
 * Reads whose offsets or memory are not aligned as that needs go through a buffer that is. Changes are made by whole blocks of
 * the file system: where a part of a block is to change, the block is read, changed and written. O_DIRECT itself would take
 * smaller pieces, but file systems do not bear them well: to clear a part of a block they use the page cache, two writes to one
 * block that has no space yet disturb each other, and a page that is still to be written when a direct write of its neighbour ends
 * makes the next fsync(2) fail. Ranges that are being changed are kept in a list: a change in part waits for all others
 * that overlap it, and they for it. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "block/protocol/aio.h"

struct file_range {
    uint64_t start, end;
    bool is_partial; /* blocks are read and written again */
    struct file_range *next, **link;
};

/* A change of whole blocks, in flight. */
struct direct_change {
    struct block_request request;
    struct block_request *parent;
    struct file_block *file;
    struct file_range range;
    struct direct_change *next; /* of those that are free */
};

struct step {
    struct block_request request;
    struct coroutine *coroutine;
    int status;
    bool is_done;
};

static bool is_free(const struct file_block *file, const struct file_range *range)
{
    for (const struct file_range *at = file->ranges; at != NULL; at = at->next) {
        if (range->start < at->end && at->start < range->end &&
            (range->is_partial || at->is_partial)) {
            return false;
        }
    }
    return true;
}

static void add_range(struct file_block *file, struct file_range *range)
{
    range->next = file->ranges;
    range->link = &file->ranges;
    if (range->next != NULL) {
        range->next->link = &range->next;
    }
    file->ranges = range;
}

static void remove_range(struct file_block *file, struct file_range *range)
{
    *range->link = range->next;
    if (range->next != NULL) {
        range->next->link = range->link;
    }
    coroutine_queue_wake_all(&file->ranges_waiting);
}

static void lock_range(struct file_block *file, struct file_range *range)
{
    while (!is_free(file, range)) {
        coroutine_queue_wait(&file->ranges_waiting);
    }
    add_range(file, range);
}

static void step_done(struct block_request *request, int status)
{
    struct step *step = container_of(request, struct step, request);
    step->status = status;
    step->is_done = true;
    if (step->coroutine != NULL) {
        coroutine_resume(step->coroutine);
    }
}

/* One aligned request, past the checks that the whole one has been through. */
static int perform(struct file_block *file, const struct block_request *request)
{
    struct step step = {.request = *request};
    step.request.done = step_done;
    file->block.in_flight++; /* as block_submit does */
    file->aio->ops->submit(file->aio, &step.request);
    if (!step.is_done) {
        step.coroutine = coroutine_self();
        coroutine_yield();
    }
    return step.status;
}

static int transfer(struct file_block *file, enum block_op op, uint64_t offset, void *data,
                    uint64_t size)
{
    struct iovec iov = {data, (size_t)size};
    return perform(
        file,
        &(struct block_request){
            .op = op, .offset_bytes = offset, .size_bytes = size, .iov = &iov, .iov_count = 1});
}

/* The bytes that must be written for a change of [from, to). A file that does not grow may end within a block. */
static struct file_range blocks_around(const struct file_block *file, uint64_t from, uint64_t to)
{
    uint64_t end = align_up(to, file->change_align);
    if (!file->block.info.is_growable) {
        end = MIN(end, align_up(file->block.info.size_bytes, file->align));
    }
    return (struct file_range){.start = align_down(from, file->change_align), .end = MAX(end, to)};
}

/* Reads the blocks of 'range' that [from, to) does not cover as a whole into 'data', the range's buffer. */
static int read_edges(struct file_block *file, const struct file_range *range, uint64_t from,
                      uint64_t to, uint8_t *data)
{
    uint64_t block = file->change_align;
    uint64_t last = align_down(range->end - 1, block);
    int rc = 0;
    if (from != range->start) {
        rc = transfer(file, BLOCK_READ, range->start, data, MIN(block, range->end - range->start));
    }
    if (rc == 0 && to != range->end && (last != range->start || from == range->start)) {
        rc = transfer(file, BLOCK_READ, last, data + (last - range->start), range->end - last);
    }
    return rc;
}

/* Makes [from, to) what the vector says (NULL: zeros); 'data' has room for the blocks around it, which are locked. */
static int change(struct file_block *file, uint64_t from, uint64_t to,
                  const struct block_request *request, uint8_t *data)
{
    struct file_range range = blocks_around(file, from, to);
    int rc = read_edges(file, &range, from, to, data);
    if (rc < 0) {
        return rc;
    }
    if (request != NULL) {
        iov_get(request->iov, request->iov_count, 0, data + (from - range.start),
                (size_t)(to - from));
    } else {
        memset(data + (from - range.start), 0, (size_t)(to - from));
    }
    return transfer(file, BLOCK_WRITE, range.start, data, range.end - range.start);
}

/* Blocks in the middle by fallocate(2), which must not make the file longer, the rest by writing. */
static int write_zeroes(struct file_block *file, const struct block_request *request, uint8_t *data)
{
    uint64_t block = file->change_align;
    uint64_t from = request->offset_bytes, to = from + request->size_bytes;
    uint64_t first = align_up(from, block), last = align_down(to, block);
    if (last > first && last == to && to > atomic_load(&file->backed_bytes)) {
        last -= block; /* the block at the new end of the file is written */
    }
    if (first >= last) {
        return change(file, from, to, NULL, data);
    }
    int rc = from < first ? change(file, from, first, NULL, data) : 0;
    if (rc == 0) {
        struct block_request middle = {.op = BLOCK_WRITE_ZEROES,
                                       .may_unmap = request->may_unmap,
                                       .offset_bytes = first,
                                       .size_bytes = last - first};
        rc = perform(file, &middle);
    }
    return rc == 0 && last < to ? change(file, last, to, NULL, data) : rc;
}

static int discard(struct file_block *file, const struct block_request *request)
{
    uint64_t first = align_up(request->offset_bytes, file->change_align);
    uint64_t last = align_down(request->offset_bytes + request->size_bytes, file->change_align);
    struct block_request whole = {
        .op = BLOCK_DISCARD, .offset_bytes = first, .size_bytes = last - first};
    return first < last ? perform(file, &whole) : 0; /* parts of blocks give nothing back */
}

static int read_through(struct file_block *file, const struct block_request *request, uint8_t *data,
                        uint64_t start, uint64_t end)
{
    int rc = transfer(file, BLOCK_READ, start, data, end - start);
    if (rc == 0) {
        iov_put(request->iov, request->iov_count, 0, data + (request->offset_bytes - start),
                (size_t)request->size_bytes);
    }
    return rc;
}

static int carry_out(struct block *block, struct block_request *request)
{
    struct file_block *file = container_of(block, struct file_block, block);
    uint64_t from = request->offset_bytes, to = from + request->size_bytes;
    struct file_range range = blocks_around(file, from, to);
    if (request->op == BLOCK_READ) {
        range.start = align_down(from, file->align);
        range.end = align_up(to, file->align);
    }
    /* Zeros need no more than one or two blocks. */
    uint64_t size = request->op == BLOCK_DISCARD ? 0
                    : request->op == BLOCK_WRITE_ZEROES
                        ? MIN(2ull * file->change_align, range.end - range.start)
                        : range.end - range.start;
    void *data = NULL;
    int rc;
    if (size > 0 && posix_memalign(&data, MAX(file->align, 4096u), (size_t)size) != 0) {
        return -ENOMEM;
    }
    if (request->op == BLOCK_READ) {
        rc = read_through(file, request, data, range.start, range.end);
    } else {
        range.is_partial = range.start != from || range.end != to || request->op != BLOCK_WRITE;
        lock_range(file, &range);
        rc = request->op == BLOCK_WRITE          ? change(file, from, to, request, data)
             : request->op == BLOCK_WRITE_ZEROES ? write_zeroes(file, request, data)
                                                 : discard(file, request);
        remove_range(file, &range);
    }
    free(data);
    bool has_grown = rc == 0 && request->op == BLOCK_WRITE_ZEROES && block->info.is_growable;
    if (has_grown && to > atomic_load(&file->backed_bytes)) {
        atomic_store(&file->backed_bytes, to);
    }
    return rc;
}

static bool is_aligned(const struct file_block *file, const struct block_request *request)
{
    uint64_t all = 0;
    for (int i = 0; i < request->iov_count; i++) {
        all |= (uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len;
    }
    return (all & (file->align - 1)) == 0;
}

static void change_done(struct block_request *done, int status)
{
    struct direct_change *change = container_of(done, struct direct_change, request);
    struct file_block *file = change->file;
    struct block_request *parent = change->parent;
    remove_range(file, &change->range);
    change->next = file->free_changes;
    file->free_changes = change;
    block_complete(&file->block, parent, status);
}

/* Whole blocks that nobody else changes in part: needs no coroutine. False: no memory. */
static bool submit_change(struct file_block *file, struct block_request *request,
                          const struct file_range *range)
{
    struct direct_change *change = file->free_changes;
    if (change != NULL) {
        file->free_changes = change->next;
    } else {
        change = malloc(sizeof(*change));
        if (change == NULL) {
            return false;
        }
    }
    *change = (struct direct_change){
        .request = *request, .parent = request, .file = file, .range = *range};
    change->request.done = change_done;
    add_range(file, &change->range);
    file->block.in_flight++; /* as block_submit does */
    file->aio->ops->submit(file->aio, &change->request);
    return true;
}

void file_block_submit_direct(struct file_block *file, struct block_request *request)
{
    uint64_t from = request->offset_bytes, to = from + request->size_bytes;
    uint64_t edges = from | to;
    if (request->op == BLOCK_READ) {
        if ((edges & (file->align - 1)) == 0 && is_aligned(file, request)) {
            file->aio->ops->submit(file->aio, request);
        } else {
            block_serve(&file->block, request, carry_out);
        }
        return;
    }
    struct file_range range = {.start = from, .end = to};
    bool is_whole = (edges & (file->change_align - 1)) == 0 && is_aligned(file, request) &&
                    (request->op != BLOCK_WRITE_ZEROES || !file->block.info.is_growable ||
                     to <= atomic_load(&file->backed_bytes));
    if (!is_whole || !is_free(file, &range) || !submit_change(file, request, &range)) {
        block_serve(&file->block, request, carry_out);
    }
}

void file_block_end_direct(struct file_block *file)
{
    while (file->free_changes != NULL) {
        struct direct_change *change = file->free_changes;
        file->free_changes = change->next;
        free(change);
    }
}
