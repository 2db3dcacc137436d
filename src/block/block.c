/* What all blocks share: checks of each request, the way through a graph, draining, closing. */
#include "block/block.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/invariant.h"
#include "base/host/coroutine.h"
#include "block/provider.h"

void *block_new(size_t size, const struct block_ops *ops, const char *name, struct event_loop *loop,
                struct error *err)
{
    struct block *block = calloc(1, size);
    char *copy = strdup(name);
    if (block == NULL || copy == NULL) {
        free(block);
        free(copy);
        (void)error_set_errno(err, ENOMEM, "opening disk %s", name);
        return NULL;
    }
    block->ops = ops;
    block->loop = loop;
    block->name = copy;
    return block;
}

void block_fini(struct block *block)
{
    free(block->name);
    free(block->extent);
}

static void close_others(struct block *block)
{
    block_close(block->backing);
    block_close(block->data_file);
    for (unsigned i = 0; i < block->extent_count; i++) {
        block_close(block->extent[i]);
    }
}

void block_abandon(struct block *block)
{
    close_others(block);
    block_fini(block);
}

int block_finish(struct block *block, struct error *err)
{
    if (block == NULL) {
        return 0;
    }
    block_drain(block);
    int rc = block->ops->finish != NULL ? block->ops->finish(block, err) : 0;
    block_drain(block);
    struct block below = *block;
    block->extent = NULL;
    block->ops->close(block);
    int file_rc = block_finish(below.file, rc == 0 ? err : NULL);
    close_others(&below);
    free(below.extent);
    return rc < 0 ? rc : file_rc;
}

void block_close(struct block *block)
{
    (void)block_finish(block, NULL); /* who wants to know asks with block_finish or a flush */
}

void block_get_info(const struct block *block, struct block_info *out_info)
{
    *out_info = block->info;
}

const char *block_name(const struct block *block)
{
    return block->name;
}

const char *block_format_name(const struct block *block)
{
    return block->ops->name;
}

struct block *block_backing(const struct block *block)
{
    while (block->ops->is_front) {
        block = block->file;
    }
    return block->backing;
}

struct block *block_file(const struct block *block)
{
    return block->file;
}

int block_descriptor(const struct block *block)
{
    while (block != NULL && block->ops->descriptor == NULL) {
        block = block->file;
    }
    return block != NULL ? block->ops->descriptor(block) : -1;
}

int block_set_lock(struct block *block, enum block_lock lock, struct error *err)
{
    while (block != NULL && block->ops->lock == NULL) {
        block = block->file;
    }
    return block != NULL ? block->ops->lock(block, lock, err) : 0;
}

struct block *block_replace_backing(struct block *block, struct block *backing)
{
    struct block *old = block->backing;
    block->backing = backing;
    return old;
}

struct block *block_cut_chain(struct block *first, struct block *end)
{
    struct block *at = first;
    while (at != NULL && at->backing != end) {
        at = at->backing;
    }
    if (at != NULL) {
        at->backing = NULL;
    }
    return first;
}

static int check_vector(const struct block_request *request)
{
    if (request->iov_count < 0 || request->iov_count > BLOCK_MAX_IOV) {
        return -EINVAL;
    }
    uint64_t sum = 0;
    for (int i = 0; i < request->iov_count; i++) {
        sum += request->iov[i].iov_len;
    }
    return sum == request->size_bytes ? 0 : -EINVAL;
}

/* 0, or why the request cannot be. */
static int check(const struct block_info *info, const struct block_request *request)
{
    if (request->op == BLOCK_FLUSH) {
        return 0;
    }
    if (request->op != BLOCK_READ && request->op != BLOCK_MAP && info->is_readonly) {
        return -EROFS;
    }
    uint32_t mask = info->logical_block_size - 1;
    if (request->op == BLOCK_RESIZE) {
        return !info->can_resize                      ? -EOPNOTSUPP
               : (request->size_bytes & mask) != 0    ? -EINVAL
               : request->size_bytes > BLOCK_MAX_SIZE ? -EFBIG
                                                      : 0;
    }
    uint64_t limit = info->is_growable ? BLOCK_MAX_SIZE : info->size_bytes;
    if (((request->offset_bytes | request->size_bytes) & mask) != 0 ||
        !range_fits(request->offset_bytes, request->size_bytes, limit)) {
        return -EINVAL;
    }
    return request->op == BLOCK_READ || request->op == BLOCK_WRITE ? check_vector(request) : 0;
}

/* The blocks at the bottom that have something in flight: each of them ends it by itself. */
static __thread struct block *busy;

static void link_busy(struct block *block)
{
    block->busy_prev = NULL;
    block->busy_next = busy;
    if (busy != NULL) {
        busy->busy_prev = block;
    }
    busy = block;
}

static void unlink_busy(struct block *block)
{
    *(block->busy_prev != NULL ? &block->busy_prev->busy_next : &busy) = block->busy_next;
    if (block->busy_next != NULL) {
        block->busy_next->busy_prev = block->busy_prev;
    }
}

void block_submit(struct block *block, struct block_request *request)
{
    int rc = check(&block->info, request);
    if (rc < 0 ||
        (request->size_bytes == 0 && request->op != BLOCK_FLUSH && request->op != BLOCK_RESIZE)) {
        request->done(request, rc);
        return;
    }
    if (block->in_flight++ == 0 && block->ops->wait != NULL) {
        link_busy(block);
    }
    block->ops->submit(block, request);
}

void block_complete(struct block *block, struct block_request *request, int status)
{
    invariant(block->in_flight > 0);
    if (--block->in_flight == 0 && block->ops->wait != NULL) {
        unlink_busy(block);
    }
    request->done(request, status);
}

void block_begin_own(struct block *block)
{
    if (block->own_in_progress++ == 0) {
        link_busy(block);
    }
}

void block_end_own(struct block *block)
{
    invariant(block->own_in_progress > 0);
    if (--block->own_in_progress == 0) {
        unlink_busy(block);
    }
}

static void plug(struct block *block, bool is_plugged)
{
    if (block == NULL) {
        return;
    }
    if (block->ops->plug != NULL) {
        block->ops->plug(block, is_plugged);
        return;
    }
    plug(block->file, is_plugged);
    plug(block->data_file, is_plugged);
    plug(block->backing, is_plugged);
    for (unsigned i = 0; i < block->extent_count; i++) {
        plug(block->extent[i], is_plugged);
    }
}

void block_plug(struct block *block)
{
    plug(block, true);
}

void block_unplug(struct block *block)
{
    plug(block, false);
}

static bool is_busy(const struct block *block)
{
    return block != NULL && block->in_flight > 0;
}

/* Each block in flight at the bottom ends by itself: it does not matter which one is waited for. */
static void wait_for_progress(struct block *block)
{
    if (block->own_in_progress > 0) {
        block->ops->wait_own(block);
        return;
    }
    if (block->ops->let_go != NULL && block->ops->let_go(block)) {
        return;
    }
    if (block->ops->is_front) {
        block_wait_any();
        return;
    }
    if (block->ops->wait != NULL) {
        block->ops->wait(block);
        return;
    }
    struct block *const below[] = {block->file, block->data_file, block->backing};
    for (size_t i = 0; i < ARRAY_COUNT(below); i++) {
        if (is_busy(below[i])) {
            wait_for_progress(below[i]);
            return;
        }
    }
    for (unsigned i = 0; i < block->extent_count; i++) {
        if (is_busy(block->extent[i])) {
            wait_for_progress(block->extent[i]);
            return;
        }
    }
    invariant(!"a request waits for nothing");
}

void block_drain(struct block *block)
{
    while (block->in_flight > 0) {
        if (!coroutine_run_ready()) {
            wait_for_progress(block);
        }
    }
}

void block_wait(struct block *block)
{
    wait_for_progress(block);
}

bool block_is_any_busy(void)
{
    return busy != NULL;
}

void block_wait_any(void)
{
    invariant(busy != NULL); /* else a coroutine waits for nothing */
    (busy->own_in_progress > 0 ? busy->ops->wait_own : busy->ops->wait)(busy);
}

const char *block_aio_name(const struct block *block)
{
    while (block->ops->aio_name == NULL) {
        block = block->file;
    }
    return block->ops->aio_name(block);
}
