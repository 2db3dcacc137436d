/* Requests to a file without the host's page cache (O_DIRECT) whose offsets or memory are not aligned as that needs: they go
 * through a buffer that is, and blocks that a write changes in part are read before. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "block/protocol/aio.h"

struct file_range {
    uint64_t start, end;
    struct file_range *next;
};

struct task {
    struct file_block *file;
    struct block_request *request;
    int status;
};

struct step {
    struct block_request request;
    struct coroutine *coroutine;
    int status;
    bool is_done;
};

static void step_done(struct block_request *request, int status)
{
    struct step *step = container_of(request, struct step, request);
    step->status = status;
    step->is_done = true;
    if (step->coroutine != NULL) {
        coroutine_resume(step->coroutine);
    }
}

/* One aligned transfer, past the checks that the whole request has been through. */
static int transfer(struct file_block *file, enum block_op op, uint64_t offset, void *data,
                    uint64_t size)
{
    struct iovec iov = {data, (size_t)size};
    struct step step = {.request = {.op = op,
                                    .offset_bytes = offset,
                                    .size_bytes = size,
                                    .iov = &iov,
                                    .iov_count = 1,
                                    .done = step_done}};
    file->block.in_flight++; /* as block_submit does */
    file->aio->ops->submit(file->aio, &step.request);
    if (!step.is_done) {
        step.coroutine = coroutine_self();
        coroutine_yield();
    }
    return step.status;
}

static bool is_free(const struct file_block *file, const struct file_range *range)
{
    for (const struct file_range *at = file->ranges; at != NULL; at = at->next) {
        if (range->start < at->end && at->start < range->end) {
            return false;
        }
    }
    return true;
}

/* Two writes that change different parts of a block must not both have read the old one. */
static void lock_range(struct file_block *file, struct file_range *range)
{
    while (!is_free(file, range)) {
        coroutine_queue_wait(&file->ranges_waiting);
    }
    range->next = file->ranges;
    file->ranges = range;
}

static void unlock_range(struct file_block *file, struct file_range *range)
{
    struct file_range **at = &file->ranges;
    while (*at != range) {
        at = &(*at)->next;
    }
    *at = range->next;
    coroutine_queue_wake_all(&file->ranges_waiting);
}

static int write_through(struct file_block *file, const struct block_request *request,
                         const struct file_range *range, uint8_t *data)
{
    uint64_t align = file->align;
    uint64_t from = request->offset_bytes, to = from + request->size_bytes;
    int rc = 0;
    if (from != range->start) {
        rc = transfer(file, BLOCK_READ, range->start, data, align);
    }
    if (rc == 0 && to != range->end &&
        (range->end - range->start > align || from == range->start)) {
        rc = transfer(file, BLOCK_READ, range->end - align,
                      data + (range->end - align - range->start), align);
    }
    if (rc < 0) {
        return rc;
    }
    iov_get(request->iov, request->iov_count, 0, data + (from - range->start),
            (size_t)request->size_bytes);
    return transfer(file, BLOCK_WRITE, range->start, data, range->end - range->start);
}

static void run(void *ctx)
{
    struct task *task = ctx;
    struct file_block *file = task->file;
    const struct block_request *request = task->request;
    struct file_range range = {
        .start = align_down(request->offset_bytes, file->align),
        .end = align_up(request->offset_bytes + request->size_bytes, file->align)};
    void *data;
    if (posix_memalign(&data, MAX(file->align, 4096u), (size_t)(range.end - range.start)) != 0) {
        task->status = -ENOMEM;
        return;
    }
    if (request->op == BLOCK_WRITE) {
        lock_range(file, &range);
        task->status = write_through(file, request, &range, data);
        unlock_range(file, &range);
    } else {
        task->status = transfer(file, BLOCK_READ, range.start, data, range.end - range.start);
        if (task->status == 0) {
            iov_put(request->iov, request->iov_count, 0,
                    (uint8_t *)data + (request->offset_bytes - range.start),
                    (size_t)request->size_bytes);
        }
    }
    free(data);
}

static void ended(void *ctx)
{
    struct task *task = ctx;
    struct file_block *file = task->file;
    struct block_request *request = task->request;
    int status = task->status;
    free(task);
    block_complete(&file->block, request, status);
}

bool file_block_is_aligned(const struct file_block *file, const struct block_request *request)
{
    uint64_t mask = (uint64_t)file->align - 1;
    uint64_t all = request->offset_bytes | request->size_bytes;
    for (int i = 0; i < request->iov_count; i++) {
        all |= (uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len;
    }
    return (all & mask) == 0;
}

void file_block_submit_unaligned(struct file_block *file, struct block_request *request)
{
    struct task *task = malloc(sizeof(*task));
    if (task == NULL) {
        block_complete(&file->block, request, -ENOMEM);
        return;
    }
    *task = (struct task){.file = file, .request = request};
    if (coroutine_start(run, ended, task) < 0) {
        task->status = -ENOMEM;
        ended(task);
    }
}
