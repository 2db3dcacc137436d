/* Requests from start to end: for formats, whose code runs in coroutines, and for tools, which have nothing else to do. */
#include <stdlib.h>

#include "base/core/invariant.h"
#include "base/host/coroutine.h"
#include "block/provider.h"

struct waiter {
    struct block_request request;
    struct coroutine *coroutine; /* that has yielded */
    bool is_done;
    int status;
};

static void waiter_done(struct block_request *request, int status)
{
    struct waiter *waiter = container_of(request, struct waiter, request);
    waiter->is_done = true;
    waiter->status = status;
    if (waiter->coroutine != NULL) {
        coroutine_resume(waiter->coroutine);
    }
}

int block_perform(struct block *block, struct block_request *request)
{
    struct waiter waiter = {.request = *request};
    waiter.request.done = waiter_done;
    block_submit(block, &waiter.request);
    while (!waiter.is_done) {
        if (coroutine_self() != NULL) {
            waiter.coroutine = coroutine_self();
            coroutine_yield();
        } else if (!coroutine_run_ready()) {
            block_wait(block);
        }
    }
    return waiter.status;
}

static int transfer(struct block *block, enum block_op op, uint64_t offset, void *data, size_t size)
{
    struct iovec iov = {data, size};
    struct block_request request = {
        .op = op, .offset_bytes = offset, .size_bytes = size, .iov = &iov, .iov_count = 1};
    return block_perform(block, &request);
}

int block_read(struct block *block, uint64_t offset, void *out_data, size_t size)
{
    return transfer(block, BLOCK_READ, offset, out_data, size);
}

int block_write(struct block *block, uint64_t offset, const void *data, size_t size)
{
    return transfer(block, BLOCK_WRITE, offset, (void *)data, size); /* a write only reads it */
}

int block_write_zeroes(struct block *block, uint64_t offset, uint64_t size, bool may_unmap)
{
    struct block_request request = {.op = BLOCK_WRITE_ZEROES,
                                    .may_unmap = may_unmap,
                                    .offset_bytes = offset,
                                    .size_bytes = size};
    return block_perform(block, &request);
}

int block_discard(struct block *block, uint64_t offset, uint64_t size)
{
    struct block_request request = {
        .op = BLOCK_DISCARD, .offset_bytes = offset, .size_bytes = size};
    return block_perform(block, &request);
}

int block_flush(struct block *block)
{
    struct block_request request = {.op = BLOCK_FLUSH};
    return block_perform(block, &request);
}

int block_resize(struct block *block, uint64_t size_bytes)
{
    struct block_request request = {.op = BLOCK_RESIZE, .size_bytes = size_bytes};
    return block_perform(block, &request);
}

int block_map(struct block *block, uint64_t offset, uint64_t size, struct block_extent *out_extent)
{
    struct block_request request = {
        .op = BLOCK_MAP, .offset_bytes = offset, .size_bytes = size, .extent = out_extent};
    return size > 0 ? block_perform(block, &request) : -EINVAL;
}

int block_map_chain(struct block *block, uint64_t offset, uint64_t size,
                    struct block_extent *out_extent, unsigned *out_depth)
{
    struct block_extent extent = {0};
    *out_depth = 0;
    for (;;) {
        int rc = block_map(block, offset, size, &extent);
        if (rc < 0) {
            return rc;
        }
        size = extent.size_bytes;
        struct block *backing = block_backing(block);
        if (extent.kind != BLOCK_EXTENT_ABSENT) {
            break;
        }
        if (backing == NULL || offset >= backing->info.size_bytes) {
            extent.kind = BLOCK_EXTENT_HOLE;
            break;
        }
        size = MIN(size, backing->info.size_bytes - offset);
        block = backing;
        ++*out_depth;
    }
    *out_extent = extent;
    return 0;
}

struct run {
    int (*fn)(void *ctx);
    void *ctx;
    int rc;
    bool is_done;
};

static void run_fn(void *ctx)
{
    struct run *run = ctx;
    run->rc = run->fn(run->ctx);
    run->is_done = true;
}

int block_run(int (*fn)(void *ctx), void *ctx)
{
    if (coroutine_self() != NULL) {
        return fn(ctx);
    }
    struct run run = {.fn = fn, .ctx = ctx};
    int rc = coroutine_start(run_fn, NULL, &run);
    while (rc == 0 && !run.is_done) {
        if (!coroutine_run_ready()) {
            block_wait_any();
        }
    }
    return rc < 0 ? rc : run.rc;
}

struct serving {
    struct block *block;
    struct block_request *request;
    int (*fn)(struct block *block, struct block_request *request);
    int status;
};

static void serve(void *ctx)
{
    struct serving *serving = ctx;
    serving->status = serving->fn(serving->block, serving->request);
}

static void served(void *ctx)
{
    struct serving *serving = ctx;
    struct serving copy = *serving;
    free(serving);
    block_complete(copy.block, copy.request, copy.status);
}

void block_serve(struct block *block, struct block_request *request,
                 int (*fn)(struct block *block, struct block_request *request))
{
    struct serving *serving = malloc(sizeof(*serving));
    if (serving != NULL) {
        *serving = (struct serving){.block = block, .request = request, .fn = fn};
        if (coroutine_start(serve, served, serving) == 0) {
            return;
        }
        free(serving);
    }
    block_complete(block, request, -ENOMEM);
}
