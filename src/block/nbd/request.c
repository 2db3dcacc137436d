/* Carries requests out. What goes to the disk as it is takes no coroutine. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/host/file.h"
#include "block/nbd/client.h"

#define MAX_BLOCK_SIZE 4096u /* logical block size of a disk */
#define MAX_CACHE_SIZE NBD_USUAL_MAX_PAYLOAD

static struct block *block_of(const struct nbd_request *request)
{
    return request->client->export->config.block;
}

static uint32_t block_size_of(const struct nbd_request *request)
{
    struct block_info info;
    block_get_info(block_of(request), &info);
    return info.logical_block_size;
}

static bool is_aligned(const struct nbd_request *request)
{
    return ((request->offset | request->size_bytes) & (block_size_of(request) - 1)) == 0;
}

/* --- Writes that may get in each other's way --- */

static bool conflicts(const struct nbd_request *request, bool is_exclusive)
{
    const struct nbd_shared_export *export = request->client->export;
    if (!is_exclusive && export->exclusive_count == 0) {
        return false;
    }
    for (const struct nbd_request *at = export->writing; at != NULL; at = at->next) {
        if ((is_exclusive || at->is_exclusive) && request->range_start < at->range_end &&
            at->range_start < request->range_end) {
            return true;
        }
    }
    return false;
}

static void set_range(struct nbd_request *request)
{
    uint32_t block_size = block_size_of(request);
    request->range_start = align_down(request->offset, block_size);
    request->range_end = align_up(request->offset + request->size_bytes, block_size);
}

/* 'is_exclusive': it writes back what lies around its own bytes, so nobody may change that in between. */
static void begin_write(struct nbd_request *request, bool is_exclusive)
{
    struct nbd_shared_export *export = request->client->export;
    request->is_writing = true;
    request->is_exclusive = is_exclusive;
    export->exclusive_count += is_exclusive;
    request->prev = NULL;
    request->next = export->writing;
    if (request->next != NULL) {
        request->next->prev = request;
    }
    export->writing = request;
}

static void end_write(struct nbd_request *request)
{
    struct nbd_shared_export *export = request->client->export;
    if (!request->is_writing) {
        return;
    }
    *(request->prev != NULL ? &request->prev->next : &export->writing) = request->next;
    if (request->next != NULL) {
        request->next->prev = request->prev;
    }
    request->is_writing = false;
    export->exclusive_count -= request->is_exclusive;
    coroutine_queue_wake_all(&export->range_waiting);
}

static void wait_to_write(struct nbd_request *request, bool is_exclusive)
{
    while (conflicts(request, is_exclusive)) {
        coroutine_queue_wait(&request->client->export->range_waiting);
    }
    begin_write(request, is_exclusive);
}

/* --- As they are --- */

static void finish(struct nbd_request *request, int status)
{
    end_write(request);
    nbd_request_finish(request, status);
}

static bool wants_durable(const struct nbd_request *request)
{
    return (request->flags & NBD_CMD_FLAG_FUA) != 0 &&
           (request->type == NBD_CMD_WRITE || request->type == NBD_CMD_TRIM ||
            request->type == NBD_CMD_WRITE_ZEROES);
}

static void plain_done(struct block_request *block, int status)
{
    struct nbd_request *request = container_of(block, struct nbd_request, block);
    if (status == 0 && wants_durable(request) && !request->is_flushing) {
        request->is_flushing = true;
        *block = (struct block_request){.op = BLOCK_FLUSH, .done = plain_done};
        block_submit(block_of(request), block);
        return;
    }
    finish(request, status);
}

static void start_plain(struct nbd_request *request, enum block_op op)
{
    request->block = (struct block_request){
        .op = op,
        .offset_bytes = request->offset,
        .size_bytes = request->size_bytes,
        .iov = &request->iov,
        .iov_count = 1,
        .done = plain_done,
    };
    block_submit(block_of(request), &request->block);
}

/* --- In coroutines --- */

static int transfer(struct nbd_request *request, enum block_op op, struct iovec *iov, int count)
{
    struct block_request block = {
        .op = op,
        .offset_bytes = request->range_start,
        .size_bytes = request->range_end - request->range_start,
        .iov = iov,
        .iov_count = count,
    };
    return block_perform(block_of(request), &block);
}

/* Bytes that do not begin and end with the disk's blocks: 'head' and 'tail' get what lies around them. */
struct edges {
    uint8_t *memory;
    struct iovec iov[3];
    size_t head_size, tail_size;
};

static int edges_init(struct edges *edges, const struct nbd_request *request)
{
    edges->head_size = (size_t)(request->offset - request->range_start);
    edges->tail_size = (size_t)(request->range_end - request->offset - request->size_bytes);
    edges->memory = malloc(2 * MAX_BLOCK_SIZE);
    edges->iov[0] = (struct iovec){edges->memory, edges->head_size};
    edges->iov[1] = request->iov;
    edges->iov[2] = (struct iovec){edges->memory + MAX_BLOCK_SIZE, edges->tail_size};
    return edges->memory != NULL ? 0 : -ENOMEM;
}

static int read_unaligned(struct nbd_request *request)
{
    struct edges edges;
    int rc = edges_init(&edges, request);
    rc = rc == 0 ? transfer(request, BLOCK_READ, edges.iov, 3) : rc;
    free(edges.memory);
    return rc;
}

/* Writes 'size' bytes within one block, or less than that at either end of many: 'request' has the range to itself. */
static int write_unaligned(struct nbd_request *request)
{
    struct edges edges;
    int rc = edges_init(&edges, request);
    uint8_t *old = rc == 0 ? malloc(MAX_BLOCK_SIZE) : NULL;
    if (old == NULL) {
        free(edges.memory);
        return -ENOMEM;
    }
    uint32_t block_size = block_size_of(request);
    if (edges.head_size > 0) {
        rc = block_read(block_of(request), request->range_start, old, block_size);
        memcpy(edges.iov[0].iov_base, old, edges.head_size);
    }
    if (rc == 0 && edges.tail_size > 0) {
        rc = block_read(block_of(request), request->range_end - block_size, old, block_size);
        memcpy(edges.iov[2].iov_base, old + block_size - edges.tail_size, edges.tail_size);
    }
    rc = rc == 0 ? transfer(request, BLOCK_WRITE, edges.iov, 3) : rc;
    free(old);
    free(edges.memory);
    return rc;
}

/* Zeros as data, where the disk knows no better way. */
static int write_zero_data(struct block *block, uint64_t offset, uint64_t size)
{
    size_t piece = (size_t)MIN(size, NBD_PIECE_SIZE);
    AUTO_FREE uint8_t *zeroes = calloc(1, MAX(piece, 1));
    int rc = zeroes == NULL ? -ENOMEM : 0;
    while (size > 0 && rc == 0) {
        piece = (size_t)MIN(size, piece);
        rc = block_write(block, offset, zeroes, piece);
        offset += piece;
        size -= piece;
    }
    return rc;
}

static int zero_blocks(struct nbd_request *request, uint64_t offset, uint64_t size)
{
    struct block *block = block_of(request);
    struct block_info info;
    block_get_info(block, &info);
    bool may_unmap = (request->flags & NBD_CMD_FLAG_NO_HOLE) == 0;
    int rc =
        info.can_write_zeroes ? block_write_zeroes(block, offset, size, may_unmap) : -EOPNOTSUPP;
    bool is_slow_fine = (request->flags & NBD_CMD_FLAG_FAST_ZERO) == 0;
    return rc == -EOPNOTSUPP && is_slow_fine ? write_zero_data(block, offset, size) : rc;
}

/* Part of a block. */
static int zero_part(struct nbd_request *request, uint64_t offset, size_t size)
{
    uint32_t block_size = block_size_of(request);
    uint64_t start = align_down(offset, block_size);
    AUTO_FREE uint8_t *data = malloc(block_size);
    int rc = data == NULL ? -ENOMEM : block_read(block_of(request), start, data, block_size);
    if (rc == 0) {
        memset(data + (offset - start), 0, size);
        rc = block_write(block_of(request), start, data, block_size);
    }
    return rc;
}

static int write_zeroes(struct nbd_request *request)
{
    uint32_t block_size = block_size_of(request);
    uint64_t start = request->offset, end = request->offset + request->size_bytes;
    uint64_t inner = align_up(start, block_size), inner_end = align_down(end, block_size);
    if (inner > inner_end) {
        return zero_part(request, start, request->size_bytes); /* within one block */
    }
    /* The whole blocks first: it is them that may be refused, and then nothing has changed. */
    int rc = inner < inner_end ? zero_blocks(request, inner, inner_end - inner) : 0;
    if (rc == 0 && start < inner) {
        rc = zero_part(request, start, (size_t)(inner - start));
    }
    if (rc == 0 && inner_end < end) {
        rc = zero_part(request, inner_end, (size_t)(end - inner_end));
    }
    return rc;
}

static int trim(struct nbd_request *request)
{
    uint32_t block_size = block_size_of(request);
    struct block_info info;
    block_get_info(block_of(request), &info);
    uint64_t start = align_up(request->offset, block_size);
    uint64_t end = align_down(request->offset + request->size_bytes, block_size);
    return info.can_discard && start < end ? block_discard(block_of(request), start, end - start)
                                           : 0;
}

/* Reads it, so that whatever lies below has it at hand. */
static int cache(struct nbd_request *request)
{
    AUTO_FREE uint8_t *data = malloc(NBD_PIECE_SIZE);
    uint64_t at = request->range_start;
    uint64_t end = MIN(request->range_end, request->range_start + MAX_CACHE_SIZE);
    int rc = data == NULL ? -ENOMEM : 0;
    while (at < end && rc == 0 && !request->client->stream.is_dead) {
        size_t size = (size_t)MIN(end - at, NBD_PIECE_SIZE);
        rc = block_read(block_of(request), at, data, size);
        at += size;
    }
    return rc;
}

static int perform(struct nbd_request *request)
{
    switch (request->type) {
    case NBD_CMD_READ:
        return read_unaligned(request);
    case NBD_CMD_WRITE:
        wait_to_write(request, !is_aligned(request));
        return is_aligned(request) ? transfer(request, BLOCK_WRITE, &request->iov, 1)
                                   : write_unaligned(request);
    case NBD_CMD_TRIM:
        wait_to_write(request, false);
        return trim(request);
    case NBD_CMD_WRITE_ZEROES:
        wait_to_write(request, !is_aligned(request));
        return write_zeroes(request);
    case NBD_CMD_CACHE:
        return cache(request);
    default:
        return -EINVAL;
    }
}

static void perform_in_coroutine(void *ctx)
{
    struct nbd_request *request = ctx;
    int rc;
    if (request->type == NBD_CMD_BLOCK_STATUS) {
        rc = nbd_block_status(request);
    } else if (request->type == NBD_CMD_READ && is_aligned(request)) {
        rc = nbd_read_sparse(request);
        rc = rc == -EAGAIN ? transfer(request, BLOCK_READ, &request->iov, 1) : rc;
    } else {
        rc = perform(request);
    }
    if (rc == 0 && wants_durable(request)) {
        rc = block_flush(block_of(request));
    }
    if (rc == 0 && request->message.iov != NULL) {
        nbd_request_answer(request); /* it is complete */
    } else {
        finish(request, rc);
    }
}

/* A long read may find holes, which need not be sent. */
static bool may_be_sparse(const struct nbd_request *request)
{
    return request->client->has_structured && (request->flags & NBD_CMD_FLAG_DF) == 0 &&
           request->size_bytes >= NBD_SPARSE_SIZE;
}

void nbd_request_start(struct nbd_request *request)
{
    set_range(request);
    if (request->type == NBD_CMD_FLUSH) {
        start_plain(request, BLOCK_FLUSH);
    } else if (request->type == NBD_CMD_READ && is_aligned(request) && !may_be_sparse(request)) {
        start_plain(request, BLOCK_READ);
    } else if (request->type == NBD_CMD_WRITE && is_aligned(request) &&
               !conflicts(request, false)) {
        begin_write(request, false);
        start_plain(request, BLOCK_WRITE);
    } else {
        int rc = coroutine_start(perform_in_coroutine, NULL, request);
        if (rc < 0) {
            nbd_request_finish(request, rc);
        }
    }
}
