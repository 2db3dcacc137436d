#include "block/copy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/coroutine.h"
#include "block/provider.h"

#define DEFAULT_PARALLEL 16
#define CHUNK_SIZE       (1u << 20) /* bytes that one piece reads and writes at a time */
#define MAP_SIZE         (1ull << 30)
#define PAGE_SIZE        4096u

struct worker {
    struct block_copy *copy;
    uint8_t *buffer;
};

struct block_copy {
    struct block *from, *to;
    struct block_copy_options options;
    void (*done)(void *ctx, int status);
    void *ctx;
    uint32_t granule;    /* bytes that are written or not as one: a cluster of the target */
    uint32_t chunk_size; /* a multiple of it */
    /* The source is mapped by one worker at a time, which takes its piece from there. */
    struct coroutine_mutex map_mutex;
    uint64_t at;                /* nothing is taken from here on */
    struct block_extent extent; /* what the source has at 'at', for size_bytes */
    uint64_t next_ticket, turn; /* the order of pieces */
    struct coroutine_queue turn_waiting;
    uint64_t done_bytes;
    uint64_t written_bytes;
    int status;
    char failure[ERROR_TEXT_SIZE];
    bool is_started;
    unsigned running;
    unsigned worker_count;
    struct worker worker[BLOCK_COPY_MAX_PARALLEL];
};

/* A range that one worker has to see to. */
struct piece {
    uint64_t offset;
    uint64_t size_bytes;
    enum block_extent_kind kind;
    uint64_t ticket;
};

bool block_is_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    /* Data differs from zero soon, most times. */
    size_t head = MIN(size, 16);
    for (size_t i = 0; i < head; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return size == head || memcmp(bytes, bytes + 16, size - 16) == 0;
}

static void fail(struct block_copy *copy, int status, const char *what, const struct block *block,
                 uint64_t offset)
{
    if (copy->status == 0) {
        copy->status = status;
        struct error err;
        (void)error_set_errno(&err, -status, "%s %s at %llu", what, block_name(block),
                              (unsigned long long)offset);
        (void)snprintf(copy->failure, sizeof(copy->failure), "%s", err.text);
    }
}

static int map_source(struct block_copy *copy, uint64_t size)
{
    unsigned depth;
    size = align_down(MIN(size, MAP_SIZE), copy->from->info.logical_block_size);
    return block_map_chain(copy->from, copy->at, size, &copy->extent, &depth);
}

static bool has_data(enum block_extent_kind kind)
{
    return kind == BLOCK_EXTENT_DATA || kind == BLOCK_EXTENT_COMPRESSED;
}

/* Takes the next piece; size 0: there is none. Pieces begin at multiples of the granule, so two workers never write to the same
 * one, and what is data in a part of one is data. */
static int take_piece(struct block_copy *copy, struct piece *out_piece)
{
    uint64_t total = copy->from->info.size_bytes;
    *out_piece = (struct piece){.offset = copy->at};
    if (copy->status < 0 || copy->at >= total) {
        return 0;
    }
    if (copy->extent.size_bytes == 0) {
        int rc = map_source(copy, total - copy->at);
        if (rc < 0) {
            fail(copy, rc, "asking for the map of", copy->from, copy->at);
            return rc;
        }
    }
    bool is_data = has_data(copy->extent.kind);
    uint64_t size = copy->extent.size_bytes;
    if (is_data) {
        size = MIN(size, copy->chunk_size);
        size = MIN(align_up(size, copy->granule), total - copy->at);
    } else if (size < total - copy->at) {
        size = align_down(size, copy->granule);
        if (size == 0) {
            is_data = true; /* it ends within a granule */
            size = MIN(copy->granule, total - copy->at);
        }
    }
    out_piece->ticket = copy->next_ticket++;
    out_piece->size_bytes = size;
    out_piece->kind = is_data ? BLOCK_EXTENT_DATA : copy->extent.kind;
    copy->at += size;
    copy->extent.size_bytes -= MIN(size, copy->extent.size_bytes);
    return 0;
}

static int write_data(struct block_copy *copy, const uint8_t *data, uint64_t offset, size_t size)
{
    struct iovec iov = {(void *)data, size};
    struct block_request request = {.op = BLOCK_WRITE,
                                    .compress = copy->options.compress,
                                    .offset_bytes = offset,
                                    .size_bytes = size,
                                    .iov = &iov,
                                    .iov_count = 1};
    int rc = block_perform(copy->to, &request);
    if (rc < 0) {
        fail(copy, rc, "writing to", copy->to, offset);
    }
    copy->written_bytes += size;
    return rc;
}

/* A write that is waited for after the next piece had its turn. */
struct ordered_write {
    struct block_request request;
    struct coroutine *waiter;
    bool is_done;
    int status;
};

static void ordered_done(struct block_request *request, int status)
{
    struct ordered_write *write = container_of(request, struct ordered_write, request);
    write->is_done = true;
    write->status = status;
    if (write->waiter != NULL) {
        coroutine_resume(write->waiter);
    }
}

/* Waits for the piece's turn, begins to write 'data' (NULL: nothing), and lets the next one have its turn. */
static int take_turn(struct block_copy *copy, const struct piece *piece, const uint8_t *data)
{
    struct iovec iov = {(void *)data, (size_t)piece->size_bytes};
    struct ordered_write write = {.request = {.op = BLOCK_WRITE,
                                              .compress = copy->options.compress,
                                              .offset_bytes = piece->offset,
                                              .size_bytes = piece->size_bytes,
                                              .iov = &iov,
                                              .iov_count = 1,
                                              .done = ordered_done},
                                  .is_done = data == NULL};
    while (copy->turn != piece->ticket) {
        coroutine_queue_wait(&copy->turn_waiting);
    }
    if (data != NULL && copy->status == 0) {
        block_submit(copy->to, &write.request);
    } else {
        write.is_done = true;
    }
    copy->turn++;
    coroutine_queue_wake_all(&copy->turn_waiting);
    if (!write.is_done) {
        write.waiter = coroutine_self();
        coroutine_yield();
    }
    if (write.status < 0) {
        fail(copy, write.status, "writing to", copy->to, piece->offset);
    }
    copy->written_bytes += data != NULL ? piece->size_bytes : 0;
    return write.status;
}

static int write_zeroes(struct block_copy *copy, uint64_t offset, uint64_t size)
{
    if (copy->options.is_zero) {
        return 0;
    }
    int rc = block_write_zeroes(copy->to, offset, size, true);
    if (rc < 0) {
        fail(copy, rc, "writing zeros to", copy->to, offset);
    }
    return rc;
}

/* Writes runs of data, and not those of zeros. */
static int write_runs(struct block_copy *copy, const uint8_t *data, uint64_t offset, size_t size)
{
    uint32_t step = copy->granule;
    size_t at = 0;
    while (at < size) {
        size_t end = at;
        bool is_zero = block_is_zero(data + at, MIN(step, size - at));
        do {
            end += MIN(step, size - end);
        } while (end < size && block_is_zero(data + end, MIN(step, size - end)) == is_zero);
        int rc = is_zero ? write_zeroes(copy, offset + at, end - at)
                         : write_data(copy, data + at, offset + at, end - at);
        if (rc < 0) {
            return rc;
        }
        at = end;
    }
    return 0;
}

static int copy_piece(struct worker *worker, const struct piece *piece)
{
    struct block_copy *copy = worker->copy;
    bool in_order = copy->options.in_order;
    if (!has_data(piece->kind)) {
        return in_order ? take_turn(copy, piece, NULL)
                        : write_zeroes(copy, piece->offset, piece->size_bytes);
    }
    size_t size = (size_t)piece->size_bytes;
    int rc = block_read(copy->from, piece->offset, worker->buffer, size);
    if (rc < 0) {
        fail(copy, rc, "reading", copy->from, piece->offset);
    }
    if (in_order) {
        int turn_rc = take_turn(copy, piece, rc < 0 ? NULL : worker->buffer);
        return rc < 0 ? rc : turn_rc;
    }
    if (rc < 0) {
        return rc;
    }
    if (copy->options.zero_size == 0 && !copy->options.compress) {
        return write_data(copy, worker->buffer, piece->offset, size);
    }
    return write_runs(copy, worker->buffer, piece->offset, size);
}

static void work(void *ctx)
{
    struct worker *worker = ctx;
    struct block_copy *copy = worker->copy;
    for (;;) {
        struct piece piece;
        coroutine_mutex_lock(&copy->map_mutex);
        int rc = take_piece(copy, &piece);
        coroutine_mutex_unlock(&copy->map_mutex);
        if (rc < 0 || piece.size_bytes == 0) {
            break;
        }
        if (copy_piece(worker, &piece) < 0) {
            break;
        }
        copy->done_bytes += piece.size_bytes;
    }
}

static void end_if_idle(struct block_copy *copy)
{
    if (copy->running == 0 && copy->is_started) {
        copy->done(copy->ctx, copy->status);
    }
}

static void work_end(void *ctx)
{
    struct worker *worker = ctx;
    free(worker->buffer);
    worker->buffer = NULL;
    worker->copy->running--;
    end_if_idle(worker->copy);
}

static int check(const struct block *from, const struct block *to,
                 const struct block_copy_options *options, struct error *err)
{
    if (from->info.size_bytes > to->info.size_bytes && !to->info.is_growable) {
        return error_set(err, ENOSPC, "copying %s: it has %llu bytes, %s has %llu",
                         block_name(from), (unsigned long long)from->info.size_bytes,
                         block_name(to), (unsigned long long)to->info.size_bytes);
    }
    if (options->compress && !to->info.can_compress) {
        return error_set(err, EOPNOTSUPP, "copying %s: %s cannot be compressed", block_name(from),
                         block_name(to));
    }
    return 0;
}

int block_copy_start(struct block *from, struct block *to, const struct block_copy_options *options,
                     void (*done)(void *ctx, int status), void *ctx, struct block_copy **out_copy,
                     struct error *err)
{
    int rc = check(from, to, options, err);
    if (rc < 0) {
        return rc;
    }
    struct block_copy *copy = calloc(1, sizeof(*copy));
    if (copy == NULL) {
        return error_set_errno(err, ENOMEM, "copying %s", block_name(from));
    }
    *copy = (struct block_copy){.from = from,
                                .to = to,
                                .options = *options,
                                .done = done,
                                .ctx = ctx,
                                .at = options->start_offset,
                                .done_bytes = options->start_offset};
    uint32_t least = MAX(from->info.logical_block_size, to->info.logical_block_size);
    copy->granule = MAX(MAX(options->zero_size, to->info.cluster_size), MAX(least, PAGE_SIZE));
    copy->granule = (uint32_t)MIN(align_up(copy->granule, least), CHUNK_SIZE * 2ull);
    copy->chunk_size = MAX(CHUNK_SIZE, copy->granule);
    *out_copy = copy;
    unsigned count = options->parallel == 0 ? DEFAULT_PARALLEL : options->parallel;
    for (unsigned i = 0; i < MIN(count, BLOCK_COPY_MAX_PARALLEL); i++) {
        struct worker *worker = &copy->worker[i];
        worker->copy = copy;
        worker->buffer = aligned_alloc(PAGE_SIZE, align_up(copy->chunk_size, PAGE_SIZE));
        copy->running++;
        if (worker->buffer == NULL || coroutine_start(work, work_end, worker) < 0) {
            free(worker->buffer);
            copy->running--;
            if (i == 0) {
                copy->status = -ENOMEM;
            }
            break; /* fewer will do */
        }
    }
    copy->is_started = true;
    end_if_idle(copy);
    return 0;
}

void block_copy_get_progress(const struct block_copy *copy,
                             struct block_copy_progress *out_progress)
{
    *out_progress = (struct block_copy_progress){.done_bytes = copy->done_bytes,
                                                 .total_bytes = copy->from->info.size_bytes,
                                                 .written_bytes = copy->written_bytes};
}

void block_copy_cancel(struct block_copy *copy)
{
    if (copy->status == 0) {
        copy->status = -ECANCELED;
    }
}

const char *block_copy_failure(const struct block_copy *copy)
{
    return copy->failure;
}

void block_copy_destroy(struct block_copy *copy)
{
    if (copy != NULL) {
        invariant(copy->running == 0);
        free(copy);
    }
}
