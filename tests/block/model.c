#include "tests/block/model.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARALLEL 16

struct job {
    struct block_request request;
    struct iovec iov[3];
    struct model *model;
    uint8_t *data;
    int status;
};

uint64_t model_random(struct model *model, uint64_t limit)
{
    model->state ^= model->state << 13;
    model->state ^= model->state >> 7;
    model->state ^= model->state << 17;
    return limit == 0 ? 0 : model->state % limit;
}

static void fail(struct model *model, const char *what, uint64_t at)
{
    if (model->failure == NULL) {
        model->failure = what;
        model->failed_at = at;
    }
}

static void done(struct block_request *request, int status)
{
    struct job *job = (struct job *)request; /* its first member */
    job->status = status;
}

static void pick_data(struct model *model, uint8_t *data, uint64_t size)
{
    unsigned kind = (unsigned)model_random(model, 4);
    uint8_t seed = (uint8_t)model_random(model, 256);
    for (uint64_t i = 0; i < size; i++) {
        data[i] = kind == 0   ? seed
                  : kind == 1 ? (uint8_t)(seed + (i >> 9))
                              : (uint8_t)model_random(model, 256);
        if (kind == 3) {
            data[i] = (uint8_t)(i % 61 + seed);
        }
    }
}

static void pick_range(struct model *model, struct job *job)
{
    struct block_info info;
    block_get_info(model->block, &info);
    uint64_t unit = info.logical_block_size;
    if (model_random(model, 3) == 0) {
        unit = MAX(unit, info.cluster_size);
    }
    uint64_t size = (1 + model_random(model, MAX(model->max_request / unit, 1u))) * unit;
    if (model_random(model, 4) != 0) {
        size = MAX(unit, size / 8 / unit * unit);
    }
    uint64_t offset = model_random(model, model->size / unit + 1) * unit;
    job->request.offset_bytes = MIN(offset, model->size);
    job->request.size_bytes = MIN(size, model->size - job->request.offset_bytes);
}

static void pick_op(struct model *model, struct job *job)
{
    struct block_info info;
    block_get_info(model->block, &info);
    struct block_request *request = &job->request;
    uint64_t which = model_random(model, 16);
    request->op = which < 7    ? BLOCK_WRITE
                  : which < 11 ? BLOCK_READ
                  : which < 13 ? BLOCK_WRITE_ZEROES
                  : which < 15 ? BLOCK_DISCARD
                               : BLOCK_FLUSH;
    request->may_unmap = model_random(model, 2) == 0;
    if (request->op == BLOCK_WRITE && model->has_compression && info.can_compress &&
        model_random(model, 3) == 0) {
        uint64_t mask = info.cluster_size - 1;
        uint64_t end = request->offset_bytes + request->size_bytes;
        request->offset_bytes &= ~mask;
        request->size_bytes = MIN((end + mask) & ~mask, model->size) - request->offset_bytes;
        request->compress = true;
    }
}

static bool overlaps(const struct job *jobs, unsigned count, const struct job *job, uint64_t unit)
{
    uint64_t start = job->request.offset_bytes / unit * unit;
    uint64_t end = job->request.offset_bytes + job->request.size_bytes;
    for (unsigned i = 0; i < count; i++) {
        uint64_t other = jobs[i].request.offset_bytes / unit * unit;
        if (start < jobs[i].request.offset_bytes + jobs[i].request.size_bytes && other < end) {
            return true;
        }
    }
    return false;
}

static bool submit(struct model *model, struct job *job)
{
    struct block_request *request = &job->request;
    uint64_t size = request->size_bytes;
    job->model = model;
    job->status = 1;
    request->done = done;
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        job->data = malloc(size + 1);
        if (request->op == BLOCK_WRITE) {
            pick_data(model, job->data, size);
        }
        uint64_t cut = size > 1 ? model_random(model, size) : 0;
        job->iov[0] = (struct iovec){job->data, cut};
        job->iov[1] = (struct iovec){job->data + cut, size - cut};
        request->iov = job->iov;
        request->iov_count = 2;
    }
    block_submit(model->block, request);
    return true;
}

static void settle(struct model *model, struct job *job)
{
    struct block_request *request = &job->request;
    uint64_t offset = request->offset_bytes, size = request->size_bytes;
    uint8_t *bytes = model->bytes + offset;
    if (job->status != 0) {
        fail(model, job->status > 0 ? "request did not end" : "request failed", offset);
    } else if (request->op == BLOCK_READ && memcmp(job->data, bytes, size) != 0) {
        fail(model, "read something else", offset);
    } else if (request->op == BLOCK_WRITE) {
        memcpy(bytes, job->data, size);
    } else if (request->op == BLOCK_WRITE_ZEROES) {
        memset(bytes, 0, size);
    } else if (request->op == BLOCK_DISCARD && size > 0) {
        /* Each sector is as it was, or zeros. */
        static const uint8_t zeroes[512];
        uint8_t *now = malloc(size);
        if (block_read(model->block, offset, now, size) != 0) {
            fail(model, "read after a discard failed", offset);
        }
        for (uint64_t i = 0; i < size; i += 512) {
            if (memcmp(now + i, bytes + i, 512) != 0 && memcmp(now + i, zeroes, 512) != 0) {
                fail(model, "a discard left something else", offset + i);
            }
        }
        memcpy(bytes, now, size);
        free(now);
    }
    free(job->data);
}

bool model_step(struct model *model)
{
    struct job jobs[MAX_PARALLEL] = {0};
    unsigned count = 0;
    unsigned wanted = 1 + (unsigned)model_random(model, model->parallel);
    block_plug(model->block);
    while (count < wanted) {
        struct job *job = &jobs[count];
        *job = (struct job){0};
        pick_range(model, job);
        pick_op(model, job);
        /* Requests at a time have places of their own, but share clusters now and then. */
        if (overlaps(jobs, count, job, 512)) {
            wanted--;
            continue;
        }
        (void)submit(model, job);
        count++;
    }
    block_unplug(model->block);
    if (model->meanwhile != NULL) {
        model->meanwhile(model->ctx);
    }
    block_drain(model->block);
    for (unsigned i = 0; i < count; i++) {
        settle(model, &jobs[i]);
    }
    return model->failure == NULL;
}

bool model_verify(struct model *model)
{
    uint64_t step = 1 << 20;
    uint8_t *data = malloc(step);
    for (uint64_t at = 0; at < model->size && model->failure == NULL; at += step) {
        uint64_t size = MIN(step, model->size - at);
        if (block_read(model->block, at, data, size) != 0) {
            fail(model, "verifying read failed", at);
        } else if (memcmp(data, model->bytes + at, size) != 0) {
            uint64_t i = 0;
            while (data[i] == model->bytes[at + i]) {
                i++;
            }
            fail(model, "the disk has something else", at + i);
        }
    }
    free(data);
    return model->failure == NULL;
}
