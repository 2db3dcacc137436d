/* A file's requests through io_uring: many in flight, sent in batches. What the kernel carries out at once, as reads from the page
 * cache, ends before the request has been submitted; the loop watches the ring for all else. */
#include "block/protocol/aio.h"

#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/core/invariant.h"

#define RING_ENTRIES   128
#define REAPED_AT_ONCE 64 /* then others have their turn */
/* So much does not wait for more: whose requests they are goes on with the first while the kernel copies the next. */
#define BATCH_BYTES    (256u * 1024)
#define ZERO_IOV_COUNT 16 /* one write of zeros carries 16 * AIO_ZEROES_SIZE */

/* A request in the ring. */
struct operation {
    struct block_request *request;
    uint64_t done_bytes;
    int mode;               /* of fallocate, -1: zeros are written */
    struct iovec *rest;     /* what is left of a vector after a short transfer; heap */
    struct operation *next; /* in the list of free ones */
};

struct uring {
    struct aio aio;
    struct event_loop *loop;
    struct uring *next; /* of those in reserve */
    struct io_uring ring;
    bool has_ring;
    unsigned plug_depth; /* while it is not 0 little is sent */
    bool is_running;
    struct event_source *source;
    unsigned unsent; /* prepared, not yet given to the kernel */
    uint64_t unsent_bytes;
    struct operation operation[RING_ENTRIES];
    struct operation *free;
    /* Requests that wait for a free operation. */
    struct block_request *waiting;
    struct block_request **waiting_tail;
    struct iovec zero_iov[ZERO_IOV_COUNT];
};

/* Rings of this thread for files that come when none can be made any more; and whether that is so. */
static __thread struct uring *reserve;
static __thread bool has_reserve_only;

/* Gives what is prepared to the kernel. What it does not take now goes along with the next batch. */
static void send_prepared(struct uring *uring)
{
    while (uring->unsent > 0) {
        int n = io_uring_submit(&uring->ring);
        if (n < 0) {
            if (n == -EINTR) {
                continue;
            }
            break; /* -EAGAIN, -EBUSY: completions have to be reaped first */
        }
        uring->unsent -= MIN(uring->unsent, (unsigned)n);
    }
    uring->unsent_bytes = 0;
}

/* The part of the vector after 'done_bytes'; false: no memory. */
static bool make_rest(struct operation *op)
{
    const struct block_request *request = op->request;
    if (op->rest == NULL) {
        op->rest = malloc(sizeof(struct iovec) * (size_t)request->iov_count);
        if (op->rest == NULL) {
            return false;
        }
    }
    uint64_t skip = op->done_bytes;
    for (int i = 0; i < request->iov_count; i++) {
        size_t cut = (size_t)MIN(skip, request->iov[i].iov_len);
        op->rest[i] = (struct iovec){(uint8_t *)request->iov[i].iov_base + cut,
                                     request->iov[i].iov_len - cut};
        skip -= cut;
    }
    return true;
}

static void prepare_zeroes(struct uring *uring, struct operation *op, struct io_uring_sqe *sqe)
{
    const struct block_request *request = op->request;
    uint64_t left = request->size_bytes - op->done_bytes;
    uint64_t offset = request->offset_bytes + op->done_bytes;
    if (left < AIO_ZEROES_SIZE) {
        io_uring_prep_write(sqe, uring->aio.file->fd, aio_zeroes, (unsigned)left, offset);
    } else {
        unsigned count = (unsigned)MIN(left / AIO_ZEROES_SIZE, ZERO_IOV_COUNT);
        io_uring_prep_writev(sqe, uring->aio.file->fd, uring->zero_iov, count, offset);
    }
}

/* Puts the operation's next step into the ring. */
static void prepare(struct uring *uring, struct operation *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    invariant(sqe != NULL); /* the ring is as large as the number of operations */
    const struct block_request *request = op->request;
    int fd = uring->aio.file->fd;
    const struct iovec *iov = op->rest != NULL ? op->rest : request->iov;
    uint64_t offset = request->offset_bytes + op->done_bytes;
    switch (request->op) {
    case BLOCK_READ:
        io_uring_prep_readv(sqe, fd, iov, (unsigned)request->iov_count, offset);
        break;
    case BLOCK_WRITE:
        io_uring_prep_writev(sqe, fd, iov, (unsigned)request->iov_count, offset);
        break;
    case BLOCK_FLUSH:
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        if (op->mode >= 0) {
            io_uring_prep_fallocate(sqe, fd, op->mode, (off_t)request->offset_bytes,
                                    (off_t)request->size_bytes);
        } else {
            prepare_zeroes(uring, op, sqe);
        }
        break;
    case BLOCK_MAP: /* file.c does these at once */
    case BLOCK_RESIZE:
        invariant(false);
    }
    io_uring_sqe_set_data(sqe, op);
    uring->unsent++;
    uring->unsent_bytes += request->size_bytes;
}

/* Decides what to do with a step's result: true when the operation is over, with *out_status. */
static bool step_done(struct uring *uring, struct operation *op, int result, int *out_status)
{
    struct file_block *file = uring->aio.file;
    const struct block_request *request = op->request;
    *out_status = result < 0 ? result : 0;
    if (result == -EINTR || result == -EAGAIN) {
        return false;
    }
    if (op->mode >= 0) {
        if (result != -EOPNOTSUPP) {
            return true;
        }
        *out_status = 0;
        if (!file_block_fallocate_refused(file, request, op->mode)) {
            return true;
        }
        op->mode = file_block_fallocate_mode(file, request);
        return false;
    }
    if (result < 0 || request->op == BLOCK_FLUSH) {
        return true;
    }
    op->done_bytes += (uint64_t)result;
    if (op->done_bytes >= request->size_bytes) {
        return true;
    }
    /* Without the page cache a transfer that stops within a block has met the end of the file. */
    bool is_at_end = file->align != 0 && (op->done_bytes & (file->align - 1)) != 0;
    if (result == 0 || (is_at_end && request->op == BLOCK_READ)) {
        *out_status =
            request->op == BLOCK_READ ? file_block_read_end(file, request, op->done_bytes) : -EIO;
        return true;
    }
    if (request->op != BLOCK_WRITE_ZEROES && !make_rest(op)) {
        *out_status = -ENOMEM;
        return true;
    }
    return false;
}

/* Needs a free operation. */
static void start(struct uring *uring, struct block_request *request)
{
    struct file_block *file = uring->aio.file;
    int mode = -1;
    if (request->op == BLOCK_DISCARD || request->op == BLOCK_WRITE_ZEROES) {
        mode = file_block_fallocate_mode(file, request);
        if (mode < 0 && request->op == BLOCK_DISCARD) {
            file_block_complete(file, request, 0); /* only a hint, and the host cannot take it */
            return;
        }
    }
    struct operation *op = uring->free;
    uring->free = op->next;
    *op = (struct operation){.request = request, .mode = mode};
    prepare(uring, op);
}

static void start_waiting(struct uring *uring)
{
    while (uring->waiting != NULL && uring->free != NULL) {
        struct block_request *request = uring->waiting;
        uring->waiting = request->next;
        if (uring->waiting == NULL) {
            uring->waiting_tail = &uring->waiting;
        }
        start(uring, request);
    }
}

/* Ends what is over, at most 'limit' operations. Returns how many those were. */
static unsigned reap(struct uring *uring, unsigned limit)
{
    struct file_block *file = uring->aio.file;
    struct io_uring_cqe *cqe;
    unsigned count = 0;
    while (count < limit && io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        struct operation *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&uring->ring, cqe);
        count++;
        int status;
        if (!step_done(uring, op, result, &status)) {
            prepare(uring, op);
            continue;
        }
        struct block_request *request = op->request;
        free(op->rest);
        op->rest = NULL;
        op->next = uring->free;
        uring->free = op;
        file_block_complete(file, request, status);
    }
    return count;
}

/* Sends what is prepared and ends what is over. What completions submit goes along in the next batch, and ends here too, so that
 * the stack does not grow. */
static void run(struct uring *uring)
{
    if (uring->is_running || (uring->plug_depth > 0 && uring->unsent_bytes < BATCH_BYTES)) {
        return; /* somebody does it later */
    }
    uring->is_running = true;
    unsigned left = REAPED_AT_ONCE, count;
    do {
        send_prepared(uring);
        count = reap(uring, left);
        left -= count;
        start_waiting(uring);
    } while (count > 0 && left > 0 && uring->unsent > 0);
    send_prepared(uring);
    uring->is_running = false;
}

/* The ring has completions; it stays ready as long as it has. */
static void ring_ready(void *ctx, int fd, uint32_t events)
{
    struct uring *uring = ctx;
    bool is_nested = uring->is_running; /* a completion waits for another request */
    uring->is_running = true;
    (void)reap(uring, REAPED_AT_ONCE);
    start_waiting(uring);
    uring->is_running = is_nested;
    run(uring);
}

static void uring_submit(struct aio *aio, struct block_request *request)
{
    struct uring *uring = container_of(aio, struct uring, aio);
    if (uring->free == NULL || uring->waiting != NULL) {
        request->next = NULL;
        *uring->waiting_tail = request;
        uring->waiting_tail = &request->next;
    } else {
        start(uring, request);
    }
    run(uring);
}

static void uring_plug(struct aio *aio, bool is_plugged)
{
    struct uring *uring = container_of(aio, struct uring, aio);
    if (is_plugged) {
        uring->plug_depth++;
    } else {
        uring->plug_depth--;
        run(uring);
    }
}

static void uring_wait(struct aio *aio)
{
    struct uring *uring = container_of(aio, struct uring, aio);
    struct io_uring_cqe *cqe;
    send_prepared(uring);
    (void)io_uring_wait_cqe(&uring->ring, &cqe); /* on EINTR the caller asks again */
    ring_ready(uring, uring->ring.ring_fd, EPOLLIN);
}

static void free_uring(struct uring *uring)
{
    event_source_remove(uring->source);
    if (uring->has_ring) {
        io_uring_queue_exit(&uring->ring);
    }
    free(uring);
}

static void uring_destroy(struct aio *aio)
{
    struct uring *uring = container_of(aio, struct uring, aio);
    if (has_reserve_only && uring->has_ring) {
        uring->next = reserve;
        reserve = uring;
    } else {
        free_uring(uring);
    }
}

static const struct aio_ops uring_ops = {
    .name = "io_uring",
    .submit = uring_submit,
    .plug = uring_plug,
    .wait = uring_wait,
    .destroy = uring_destroy,
};

static int check_operations(struct uring *uring)
{
    static const int needed[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_WRITE,
                                 IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring_probe *probe = io_uring_get_probe_ring(&uring->ring);
    if (probe == NULL) {
        return -ENOSYS;
    }
    int rc = 0;
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++) {
        rc = io_uring_opcode_supported(probe, needed[i]) ? rc : -ENOSYS;
    }
    io_uring_free_probe(probe);
    return rc;
}

static int start_ring(struct uring *uring, struct event_loop *loop, struct error *err)
{
    int rc = io_uring_queue_init(RING_ENTRIES, &uring->ring, 0);
    if (rc < 0) {
        return error_set_errno(err, -rc, "making an io_uring");
    }
    uring->has_ring = true;
    rc = check_operations(uring);
    if (rc < 0) {
        return error_set_errno(err, -rc, "making an io_uring with the operations for disks");
    }
    /* No io_uring_register_ring_fd: taking the ring down again would need io_uring_register(2), which a jail forbids. */
    return event_loop_add_fd(loop, uring->ring.ring_fd, EPOLLIN, ring_ready, uring, &uring->source,
                             err);
}

static int make_uring(struct event_loop *loop, struct uring **out_uring, struct error *err)
{
    struct uring *uring = calloc(1, sizeof(*uring));
    if (uring == NULL) {
        return error_set_errno(err, ENOMEM, "making an io_uring");
    }
    uring->aio.ops = &uring_ops;
    uring->loop = loop;
    uring->waiting_tail = &uring->waiting;
    for (size_t i = 0; i < RING_ENTRIES; i++) {
        uring->operation[i].next = uring->free;
        uring->free = &uring->operation[i];
    }
    for (size_t i = 0; i < ZERO_IOV_COUNT; i++) {
        uring->zero_iov[i] = (struct iovec){(void *)aio_zeroes, AIO_ZEROES_SIZE};
    }
    int rc = start_ring(uring, loop, err);
    if (rc < 0) {
        free_uring(uring);
        return rc;
    }
    *out_uring = uring;
    return 0;
}

int aio_uring_create(struct file_block *file, struct event_loop *loop, struct aio **out_aio,
                     struct error *err)
{
    struct uring *uring = reserve;
    if (uring != NULL && uring->loop == loop) {
        reserve = uring->next;
    } else if (has_reserve_only) {
        return error_set(err, ENOSYS, "making an io_uring: there are no more in reserve");
    } else {
        int rc = make_uring(loop, &uring, err);
        if (rc < 0) {
            return rc;
        }
    }
    uring->aio.file = file;
    *out_aio = &uring->aio;
    return 0;
}

void block_reserve_rings(struct event_loop *loop, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct uring *uring = NULL;
        if (make_uring(loop, &uring, NULL) < 0 || uring == NULL) {
            break; /* threads will do */
        }
        uring->next = reserve;
        reserve = uring;
    }
    has_reserve_only = true;
}

void block_release_rings(void)
{
    while (reserve != NULL) {
        struct uring *uring = reserve;
        reserve = uring->next;
        free_uring(uring);
    }
    has_reserve_only = false;
}
