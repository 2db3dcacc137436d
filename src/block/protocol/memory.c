/* Bytes in memory: pages of 64 KiB in a hash table, those that were never written are zeros. Every request ends at once. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/provider.h"

#define PAGE_BYTES   65536u
#define BUCKET_COUNT 4096u

struct page {
    uint64_t number;
    struct page *next;
    uint8_t data[PAGE_BYTES];
};

struct memory {
    struct block block;
    struct page *bucket[BUCKET_COUNT];
};

static struct memory *memory_from_block(const struct block *block)
{
    return container_of(block, struct memory, block);
}

static struct page **find(struct memory *memory, uint64_t number)
{
    struct page **at = &memory->bucket[number % BUCKET_COUNT];
    while (*at != NULL && (*at)->number != number) {
        at = &(*at)->next;
    }
    return at;
}

static int write_piece(struct memory *memory, uint64_t offset, const uint8_t *data, size_t size)
{
    struct page **at = find(memory, offset / PAGE_BYTES);
    if (*at == NULL) {
        struct page *page = calloc(1, sizeof(*page));
        if (page == NULL) {
            return -ENOMEM;
        }
        page->number = offset / PAGE_BYTES;
        *at = page;
    }
    memcpy((*at)->data + offset % PAGE_BYTES, data, size);
    return 0;
}

static void read_piece(struct memory *memory, uint64_t offset, uint8_t *data, size_t size)
{
    const struct page *page = *find(memory, offset / PAGE_BYTES);
    if (page != NULL) {
        memcpy(data, page->data + offset % PAGE_BYTES, size);
    } else {
        memset(data, 0, size);
    }
}

static int transfer(struct memory *memory, const struct block_request *request)
{
    uint64_t offset = request->offset_bytes;
    int rc = 0;
    for (int i = 0; i < request->iov_count && rc == 0; i++) {
        uint8_t *data = request->iov[i].iov_base;
        size_t left = request->iov[i].iov_len;
        while (left > 0 && rc == 0) {
            size_t size = MIN(left, PAGE_BYTES - (size_t)(offset % PAGE_BYTES));
            if (request->op == BLOCK_WRITE) {
                rc = write_piece(memory, offset, data, size);
            } else {
                read_piece(memory, offset, data, size);
            }
            offset += size;
            data += size;
            left -= size;
        }
    }
    return rc;
}

static void drop_page(struct page **at)
{
    struct page *page = *at;
    if (page != NULL) {
        *at = page->next;
        free(page);
    }
}

static void clear(struct memory *memory, uint64_t offset, uint64_t end)
{
    if (end - offset > (uint64_t)PAGE_BYTES * BUCKET_COUNT) {
        /* Fewer pages than the range has: those that exist are looked at. */
        for (size_t i = 0; i < BUCKET_COUNT; i++) {
            struct page **at = &memory->bucket[i];
            while (*at != NULL) {
                uint64_t start = (*at)->number * PAGE_BYTES;
                if (start >= offset && start + PAGE_BYTES <= end) {
                    drop_page(at);
                } else {
                    at = &(*at)->next;
                }
            }
        }
        uint64_t first_end = align_up(offset, PAGE_BYTES);
        uint64_t last = align_down(end, PAGE_BYTES);
        clear(memory, offset, first_end);
        clear(memory, last, end);
        return;
    }
    while (offset < end) {
        uint64_t size = MIN(end - offset, PAGE_BYTES - offset % PAGE_BYTES);
        struct page **at = find(memory, offset / PAGE_BYTES);
        if (size == PAGE_BYTES) {
            drop_page(at);
        } else if (*at != NULL) {
            memset((*at)->data + offset % PAGE_BYTES, 0, (size_t)size);
        }
        offset += size;
    }
}

static void map(struct memory *memory, const struct block_request *request)
{
    uint64_t offset = request->offset_bytes;
    uint64_t size = MIN(request->size_bytes, PAGE_BYTES - offset % PAGE_BYTES);
    bool is_there = *find(memory, offset / PAGE_BYTES) != NULL;
    *request->extent = (struct block_extent){
        .kind = is_there ? BLOCK_EXTENT_DATA : BLOCK_EXTENT_HOLE,
        .has_offset = true,
        .file_offset = offset,
        .size_bytes = size,
    };
}

static void memory_submit(struct block *block, struct block_request *request)
{
    struct memory *memory = memory_from_block(block);
    uint64_t end = request->offset_bytes + request->size_bytes;
    int status = 0;
    switch (request->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        status = transfer(memory, request);
        break;
    case BLOCK_FLUSH:
        end = 0;
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        clear(memory, request->offset_bytes, end);
        break;
    case BLOCK_MAP:
        map(memory, request);
        break;
    case BLOCK_RESIZE:
        if (request->size_bytes < block->info.size_bytes) {
            clear(memory, request->size_bytes, block->info.size_bytes);
        }
        block->info.size_bytes = request->size_bytes;
        break;
    }
    if ((request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES) &&
        end > block->info.size_bytes) {
        block->info.size_bytes = end;
    }
    block_complete(block, request, status);
}

static const char *memory_aio_name(const struct block *block)
{
    return "none";
}

static void memory_close(struct block *block)
{
    struct memory *memory = memory_from_block(block);
    for (size_t i = 0; i < BUCKET_COUNT; i++) {
        while (memory->bucket[i] != NULL) {
            drop_page(&memory->bucket[i]);
        }
    }
    block_fini(block);
    free(memory);
}

static const struct block_ops memory_ops = {
    .name = "memory",
    .submit = memory_submit,
    .aio_name = memory_aio_name,
    .close = memory_close,
};

int block_open_memory(uint64_t size_bytes, const char *name, struct event_loop *loop,
                      struct block **out_block, struct error *err)
{
    struct memory *memory = block_new(sizeof(*memory), &memory_ops, name, loop, err);
    if (memory == NULL) {
        return -ENOMEM;
    }
    memory->block.info = (struct block_info){
        .size_bytes = size_bytes,
        .logical_block_size = 1,
        .physical_block_size = 512,
        .is_growable = true,
        .can_discard = true,
        .can_write_zeroes = true,
        .can_resize = true,
    };
    *out_block = &memory->block;
    return 0;
}
