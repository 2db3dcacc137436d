#include "tests/block/recorder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

uint64_t recorder_random(uint64_t *state, uint64_t limit)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return limit == 0 ? 0 : *state % limit;
}

static struct recorder *from_block(const struct block *block)
{
    return container_of(block, struct recorder, block);
}

static void make_room(uint8_t *bytes, uint64_t capacity, uint64_t end)
{
    (void)bytes;
    if (end > capacity) {
        printf("the image grew beyond %llu bytes\n", (unsigned long long)capacity);
        exit(1);
    }
}

void recorder_apply(const struct recorder_entry *entry, uint8_t *bytes, uint64_t capacity,
                    uint64_t *size, bool is_torn, uint64_t *random)
{
    uint64_t end = entry->offset + entry->size;
    switch (entry->op) {
    case BLOCK_WRITE:
    case BLOCK_WRITE_ZEROES:
    case BLOCK_DISCARD:
        if (entry->op == BLOCK_DISCARD) {
            end = MIN(end, *size);
        }
        make_room(bytes, capacity, end);
        for (uint64_t at = entry->offset; at < end;) {
            uint64_t part = MIN(end, (at / 512 + 1) * 512) - at;
            if (!is_torn || recorder_random(random, 2) == 0) {
                if (entry->op == BLOCK_WRITE) {
                    memcpy(bytes + at, entry->data + (at - entry->offset), part);
                } else {
                    memset(bytes + at, 0, part);
                }
                if (entry->op != BLOCK_DISCARD) {
                    *size = MAX(*size, at + part);
                }
            }
            at += part;
        }
        break;
    case BLOCK_RESIZE:
        make_room(bytes, capacity, entry->size);
        if (entry->size < *size) {
            memset(bytes + entry->size, 0, *size - entry->size);
        }
        *size = entry->size;
        break;
    case BLOCK_READ:
    case BLOCK_FLUSH:
    case BLOCK_MAP:
        break;
    }
}

static void note(struct recorder *r, const struct block_request *request, uint64_t covers)
{
    if (r->log_count == r->log_capacity) {
        r->log_capacity = r->log_capacity * 2 + 256;
        r->log = realloc(r->log, r->log_capacity * sizeof(*r->log));
    }
    struct recorder_entry *entry = &r->log[r->log_count++];
    *entry = (struct recorder_entry){.op = request->op,
                                     .offset = request->offset_bytes,
                                     .size = request->size_bytes,
                                     .covers = covers};
    if (request->op == BLOCK_WRITE) {
        entry->data = malloc(request->size_bytes);
        uint64_t at = 0;
        for (int i = 0; i < request->iov_count; i++) {
            memcpy(entry->data + at, request->iov[i].iov_base, request->iov[i].iov_len);
            at += request->iov[i].iov_len;
        }
    }
}

static void read_now(const struct recorder *r, const struct block_request *request)
{
    uint64_t at = request->offset_bytes;
    for (int i = 0; i < request->iov_count; i++) {
        uint8_t *to = request->iov[i].iov_base;
        size_t size = request->iov[i].iov_len;
        uint64_t there =
            at < r->block.info.size_bytes ? MIN(size, r->block.info.size_bytes - at) : 0;
        memcpy(to, r->bytes + (there > 0 ? at : 0), there);
        memset(to + there, 0, size - there);
        at += size;
    }
}

/* One of the pending requests, whichever. A flush makes durable what had ended when it was submitted: its 'status' field keeps
 * that number until then. */
static void end_one(struct block *block)
{
    struct recorder *r = from_block(block);
    uint64_t which = recorder_random(&r->random, r->pending_count);
    struct block_request **at = &r->pending;
    while (which-- > 0) {
        at = &(*at)->next;
    }
    struct block_request *request = *at;
    *at = request->next;
    r->pending_count--;
    int status = 0;
    if (r->fail_one_in > 0 && request->op != BLOCK_READ &&
        recorder_random(&r->random, r->fail_one_in) == 0) {
        status = -ENOSPC;
        if (request->op == BLOCK_FLUSH) {
            status = -EIO;
        } else if (recorder_random(&r->random, 2) == 0) {
            /* It was done all the same, perhaps in part. */
            note(r, request, 0);
            recorder_apply(&r->log[r->log_count - 1], r->bytes, r->capacity,
                           &block->info.size_bytes, true, &r->random);
            r->log[r->log_count - 1].op = BLOCK_READ; /* what exactly, is not in the log */
        }
    } else if (request->op == BLOCK_READ) {
        read_now(r, request);
    } else {
        note(r, request, (uint64_t)request->status);
        recorder_apply(&r->log[r->log_count - 1], r->bytes, r->capacity, &block->info.size_bytes,
                       false, NULL);
    }
    block_complete(block, request, status);
}

static void recorder_submit(struct block *block, struct block_request *request)
{
    struct recorder *r = from_block(block);
    request->status = (int)r->log_count;
    request->next = r->pending;
    r->pending = request;
    r->pending_count++;
    if (request->op == BLOCK_MAP) {
        *request->extent =
            (struct block_extent){.kind = BLOCK_EXTENT_DATA, .size_bytes = request->size_bytes};
    }
}

static void recorder_close(struct block *block)
{
    from_block(block)->is_closed = true;
}

static const struct block_ops recorder_ops = {
    .name = "recorder",
    .submit = recorder_submit,
    .wait = end_one,
    .close = recorder_close,
};

struct recorder *recorder_create(const uint8_t *initial, uint64_t size, struct event_loop *loop,
                                 uint64_t seed)
{
    struct recorder *r = block_new(sizeof(*r), &recorder_ops, "recorder", loop, NULL);
    if (r == NULL) {
        exit(1);
    }
    r->capacity = 64u << 20;
    /* Not from malloc, which may fill what is freed: most of it is never touched. */
    r->bytes = mmap(NULL, r->capacity, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->bytes == MAP_FAILED) {
        exit(1);
    }
    if (initial != NULL) {
        memcpy(r->bytes, initial, size);
    }
    r->random = seed * 2862933555777941757u + 3037000493u;
    r->block.info = (struct block_info){
        .size_bytes = initial != NULL ? size : 0,
        .logical_block_size = 1,
        .physical_block_size = 512,
        .is_growable = true,
        .can_discard = true,
        .can_write_zeroes = true,
        .can_resize = true,
    };
    return r;
}

void recorder_destroy(struct recorder *r)
{
    for (uint64_t i = 0; i < r->log_count; i++) {
        free(r->log[i].data);
    }
    free(r->log);
    (void)munmap(r->bytes, r->capacity); /* our own mapping */
    block_fini(&r->block);
    free(r);
}
