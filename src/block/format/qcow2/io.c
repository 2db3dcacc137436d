/* Requests. What is mapped to one place by cached tables goes straight on to the file below, without a coroutine; all else is
 * done by one, which starts what it can in parallel. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

struct part {
    struct block_request request;
    struct qcow2_join *join;
    struct iovec iov[];
};

struct qcow2_direct {
    struct block_request request; /* to the block below */
    struct block_request *parent;
    struct qcow2 *q;
    unsigned epoch;
    struct qcow2_direct *next;
};

struct task {
    struct qcow2 *q;
    struct block_request *request;
    unsigned epoch;
    int status;
};

static int cut_iov(struct iovec *out_iov, const struct iovec *iov, int iov_count, uint64_t skip,
                   uint64_t size)
{
    int parts = 0;
    for (int i = 0; i < iov_count && size > 0; i++) {
        size_t cut = (size_t)MIN(skip, (uint64_t)iov[i].iov_len);
        size_t length = (size_t)MIN(size, (uint64_t)(iov[i].iov_len - cut));
        skip -= cut;
        if (length > 0) {
            out_iov[parts++] = (struct iovec){(uint8_t *)iov[i].iov_base + cut, length};
            size -= length;
        }
    }
    return parts;
}

void qcow2_iov_fill(const struct iovec *iov, int iov_count, uint64_t skip, const uint8_t *data,
                    uint64_t size)
{
    for (int i = 0; i < iov_count && size > 0; i++) {
        size_t cut = (size_t)MIN(skip, (uint64_t)iov[i].iov_len);
        size_t length = (size_t)MIN(size, (uint64_t)(iov[i].iov_len - cut));
        uint8_t *to = (uint8_t *)iov[i].iov_base + cut;
        skip -= cut;
        size -= length;
        if (length > 0 && data != NULL) {
            memcpy(to, data, length);
            data += length;
        } else if (length > 0) {
            memset(to, 0, length);
        }
    }
}

void qcow2_iov_gather(const struct iovec *iov, int iov_count, uint64_t skip, uint8_t *out_data,
                      uint64_t size)
{
    for (int i = 0; i < iov_count && size > 0; i++) {
        size_t cut = (size_t)MIN(skip, (uint64_t)iov[i].iov_len);
        size_t length = (size_t)MIN(size, (uint64_t)(iov[i].iov_len - cut));
        skip -= cut;
        size -= length;
        if (length > 0) {
            memcpy(out_data, (const uint8_t *)iov[i].iov_base + cut, length);
            out_data += length;
        }
    }
}

static void part_ended(struct qcow2_join *join, int status)
{
    if (status < 0 && join->status == 0) {
        join->status = status;
    }
    if (--join->pending == 0 && join->waiter != NULL) {
        struct coroutine *waiter = join->waiter;
        join->waiter = NULL;
        coroutine_resume(waiter);
    }
}

static void part_done(struct block_request *request, int status)
{
    struct part *part = container_of(request, struct part, request);
    struct qcow2_join *join = part->join;
    free(part);
    part_ended(join, status);
}

void qcow2_join_submit(struct qcow2_join *join, struct block *to, enum block_op op, uint64_t offset,
                       uint64_t size, const struct iovec *iov, int iov_count, uint64_t skip)
{
    struct part *part = malloc(sizeof(*part) + sizeof(struct iovec) * (size_t)iov_count);
    join->pending++;
    if (part == NULL) {
        part_ended(join, -ENOMEM);
        return;
    }
    part->join = join;
    part->request = (struct block_request){.op = op,
                                           .may_unmap = true,
                                           .offset_bytes = offset,
                                           .size_bytes = size,
                                           .iov = part->iov,
                                           .done = part_done};
    part->request.iov_count = iov != NULL ? cut_iov(part->iov, iov, iov_count, skip, size) : 0;
    block_submit(to, &part->request);
}

int qcow2_join_wait(struct qcow2_join *join)
{
    if (join->pending > 0) {
        join->waiter = coroutine_self();
        coroutine_yield();
    }
    return join->status;
}

bool qcow2_has_backing_at(const struct qcow2 *q, uint64_t offset)
{
    return q->is_alone || (q->block.backing != NULL && offset < q->block.backing->info.size_bytes);
}

static int read_backing(struct qcow2 *q, struct qcow2_join *join, uint64_t offset, uint64_t size,
                        const struct iovec *iov, int iov_count, uint64_t skip)
{
    struct block *backing = q->block.backing;
    if (q->is_alone) {
        return -ENXIO;
    }
    uint64_t there =
        qcow2_has_backing_at(q, offset) ? MIN(size, backing->info.size_bytes - offset) : 0;
    if (there > 0) {
        qcow2_join_submit(join, backing, BLOCK_READ, offset, there, iov, iov_count, skip);
    }
    qcow2_iov_fill(iov, iov_count, skip + there, NULL, size - there);
    return 0;
}

static int read_compressed(struct qcow2 *q, struct qcow2_entry entry, uint64_t offset,
                           uint64_t size, const struct iovec *iov, int iov_count, uint64_t skip)
{
    const uint8_t *data;
    int rc = qcow2_unpack(q, entry, &data);
    if (rc == 0) {
        qcow2_iov_fill(iov, iov_count, skip, data + (offset & (q->layout.cluster_size - 1)), size);
    }
    return rc;
}

int qcow2_read(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
               int iov_count)
{
    struct qcow2_join join = {0};
    uint64_t done = 0;
    int rc = 0;
    while (done < size && rc == 0) {
        struct qcow2_mapping mapping;
        rc = qcow2_map(q, offset + done, size - done, false, &mapping);
        if (rc < 0) {
            break;
        }
        switch (mapping.kind) {
        case QCOW2_KIND_DATA:
            qcow2_join_submit(&join, q->data, BLOCK_READ, mapping.host_offset, mapping.size, iov,
                              iov_count, done);
            break;
        case QCOW2_KIND_ZERO:
        case QCOW2_KIND_ZERO_ALLOCATED:
            qcow2_iov_fill(iov, iov_count, done, NULL, mapping.size);
            break;
        case QCOW2_KIND_ABSENT:
        case QCOW2_KIND_ABSENT_ALLOCATED:
            rc = read_backing(q, &join, offset + done, mapping.size, iov, iov_count, done);
            break;
        case QCOW2_KIND_COMPRESSED:
            rc = read_compressed(q, mapping.entry, offset + done, mapping.size, iov, iov_count,
                                 done);
            break;
        case QCOW2_KIND_INVALID:
            rc = -EIO;
            break;
        }
        done += mapping.size;
    }
    int join_rc = qcow2_join_wait(&join);
    return rc < 0 ? rc : join_rc;
}

static int map_request(struct qcow2 *q, const struct block_request *request)
{
    struct qcow2_mapping mapping;
    int rc = qcow2_map(q, request->offset_bytes, request->size_bytes, false, &mapping);
    if (rc < 0) {
        return rc;
    }
    static const enum block_extent_kind kinds[] = {
        [QCOW2_KIND_ABSENT] = BLOCK_EXTENT_ABSENT,
        [QCOW2_KIND_ABSENT_ALLOCATED] = BLOCK_EXTENT_ABSENT,
        [QCOW2_KIND_ZERO] = BLOCK_EXTENT_ZERO,
        [QCOW2_KIND_ZERO_ALLOCATED] = BLOCK_EXTENT_ZERO,
        [QCOW2_KIND_DATA] = BLOCK_EXTENT_DATA,
        [QCOW2_KIND_COMPRESSED] = BLOCK_EXTENT_COMPRESSED,
    };
    *request->extent = (struct block_extent){
        .kind = kinds[mapping.kind],
        .has_offset = mapping.kind == QCOW2_KIND_DATA || mapping.kind == QCOW2_KIND_ZERO_ALLOCATED,
        .file_offset = mapping.host_offset,
        .size_bytes = mapping.size,
    };
    return 0;
}

static int flush(struct qcow2 *q)
{
    if (q->broken < 0 || !q->is_writable) {
        return q->broken;
    }
    return qcow2_commit(q);
}

static int perform(struct qcow2 *q, const struct block_request *request)
{
    uint64_t offset = request->offset_bytes;
    uint64_t size = request->size_bytes;
    switch (request->op) {
    case BLOCK_READ:
        return qcow2_read(q, offset, size, request->iov, request->iov_count);
    case BLOCK_WRITE:
        return request->compress
                   ? qcow2_write_compressed(q, offset, size, request->iov, request->iov_count)
                   : qcow2_write(q, offset, size, request->iov, request->iov_count);
    case BLOCK_FLUSH:
        return flush(q);
    case BLOCK_DISCARD:
        return qcow2_discard(q, offset, size);
    case BLOCK_WRITE_ZEROES:
        return qcow2_write_zeroes(q, offset, size, request->may_unmap);
    case BLOCK_MAP:
        return map_request(q, request);
    case BLOCK_RESIZE:
        return qcow2_resize(q, size);
    }
    return -EINVAL;
}

/* A resize has the image for itself, so it does not count among the requests in progress. */
static bool is_counted(const struct block_request *request)
{
    return request->op != BLOCK_RESIZE;
}

static void task_run(void *ctx)
{
    struct task *task = ctx;
    task->status = perform(task->q, task->request);
}

static void task_ended(void *ctx)
{
    struct task *task = ctx;
    struct qcow2 *q = task->q;
    struct block_request *request = task->request;
    int status = task->status;
    if (is_counted(request)) {
        qcow2_end(q, task->epoch);
    }
    free(task);
    block_complete(&q->block, request, status);
}

static void start_task(struct qcow2 *q, struct block_request *request)
{
    struct task *task = malloc(sizeof(*task));
    if (task == NULL) {
        block_complete(&q->block, request, -ENOMEM);
        return;
    }
    *task = (struct task){.q = q, .request = request};
    if (is_counted(request)) {
        task->epoch = qcow2_begin(q);
    }
    if (coroutine_start(task_run, task_ended, task) < 0) {
        task->status = -ENOMEM;
        task_ended(task);
    }
}

static void direct_done(struct block_request *request, int status)
{
    struct qcow2_direct *direct = container_of(request, struct qcow2_direct, request);
    struct qcow2 *q = direct->q;
    struct block_request *parent = direct->parent;
    direct->next = q->free_directs;
    q->free_directs = direct;
    qcow2_end(q, direct->epoch);
    block_complete(&q->block, parent, status);
}

static bool go_direct(struct qcow2 *q, struct block_request *request, struct block *to,
                      uint64_t offset)
{
    struct qcow2_direct *direct = q->free_directs;
    if (direct != NULL) {
        q->free_directs = direct->next;
    } else {
        direct = malloc(sizeof(*direct));
        if (direct == NULL) {
            return false;
        }
    }
    direct->request = *request;
    direct->request.offset_bytes = offset;
    direct->request.done = direct_done;
    direct->parent = request;
    direct->q = q;
    direct->epoch = qcow2_begin(q);
    block_submit(to, &direct->request);
    return true;
}

static bool try_direct(struct qcow2 *q, struct block_request *request)
{
    bool is_write = request->op == BLOCK_WRITE;
    uint64_t size = request->size_bytes;
    struct qcow2_mapping mapping;
    if (is_write && (!q->is_prepared || q->broken < 0 || request->compress)) {
        return false;
    }
    if (qcow2_map(q, request->offset_bytes, size, true, &mapping) < 0 || mapping.size < size) {
        return false;
    }
    if (mapping.kind == QCOW2_KIND_DATA) {
        if (is_write &&
            (!mapping.is_copied ||
             (!q->layout.has_data_file && qcow2_hits_metadata(q, mapping.host_offset, size)))) {
            return false;
        }
        return go_direct(q, request, q->data, mapping.host_offset);
    }
    if (is_write) {
        return false;
    }
    if (mapping.kind == QCOW2_KIND_ZERO || mapping.kind == QCOW2_KIND_ZERO_ALLOCATED ||
        (mapping.kind == QCOW2_KIND_ABSENT && !qcow2_has_backing_at(q, request->offset_bytes))) {
        qcow2_iov_fill(request->iov, request->iov_count, 0, NULL, size);
        block_complete(&q->block, request, 0);
        return true;
    }
    if (mapping.kind == QCOW2_KIND_ABSENT && q->block.backing != NULL &&
        qcow2_has_backing_at(q, request->offset_bytes + size - 1)) {
        return go_direct(q, request, q->block.backing, request->offset_bytes);
    }
    return false;
}

void qcow2_io_fini(struct qcow2 *q)
{
    while (q->free_directs != NULL) {
        struct qcow2_direct *direct = q->free_directs;
        q->free_directs = direct->next;
        free(direct);
    }
}

void qcow2_submit(struct block *block, struct block_request *request)
{
    struct qcow2 *q = qcow2_from_block(block);
    if (q->is_locked && request->op != BLOCK_FLUSH && request->op != BLOCK_MAP) {
        block_complete(block, request, -ENOKEY);
        return;
    }
    if (q->is_exclusive && is_counted(request)) {
        request->next = NULL;
        *q->held_tail = request;
        q->held_tail = &request->next;
        return;
    }
    bool is_done = false;
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        is_done = try_direct(q, request);
    } else if (request->op == BLOCK_FLUSH && q->is_writable && q->broken == 0 &&
               !q->layout.has_data_file && qcow2_is_clean(q)) {
        is_done = go_direct(q, request, q->file, 0);
    }
    if (!is_done) {
        start_task(q, request);
    }
}
