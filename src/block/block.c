/* What all formats share: the table of formats, checks of each request, draining. */
#include "block/block.h"

#include <string.h>
#include <unistd.h>

#include "base/core/checked.h"
#include "base/core/invariant.h"
#include "block/provider.h"

static const struct block_format *const formats[] = {
    &block_format_raw,
};

static const struct block_format *find_format(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return NULL;
}

int block_open(int fd, const char *name, const struct block_options *options,
               struct event_loop *loop, struct block **out_block, struct error *err)
{
    const struct block_format *format =
        find_format(options->format != NULL ? options->format : "raw");
    if (format == NULL) {
        close(fd);
        return error_set(err, EINVAL, "disk %s: unknown format \"%s\": raw is accepted", name,
                         options->format);
    }
    struct block_file *file;
    int rc = block_file_open(fd, name, options->is_readonly, options->aio, loop, &file, err);
    if (rc < 0) {
        return rc;
    }
    return format->open(file, options, out_block, err);
}

void block_close(struct block *block)
{
    if (block != NULL) {
        block_drain(block);
        block->ops->close(block);
    }
}

void block_get_info(const struct block *block, struct block_info *out_info)
{
    *out_info = block->info;
}

/* 0, or why the request cannot be. */
static int check(const struct block_info *info, const struct block_request *request)
{
    if (request->op == BLOCK_FLUSH) {
        return 0;
    }
    if (request->op != BLOCK_READ && info->is_readonly) {
        return -EROFS;
    }
    uint32_t mask = info->logical_block_size - 1;
    if (((request->offset_bytes | request->size_bytes) & mask) != 0 ||
        !range_fits(request->offset_bytes, request->size_bytes, info->size_bytes)) {
        return -EINVAL;
    }
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        if (request->iov_count < 0 || request->iov_count > BLOCK_MAX_IOV) {
            return -EINVAL;
        }
        uint64_t sum = 0;
        for (int i = 0; i < request->iov_count; i++) {
            sum += request->iov[i].iov_len;
        }
        if (sum != request->size_bytes) {
            return -EINVAL;
        }
    }
    return 0;
}

void block_submit(struct block *block, struct block_request *request)
{
    int rc = check(&block->info, request);
    if (rc < 0 || (request->size_bytes == 0 && request->op != BLOCK_FLUSH)) {
        request->done(request, rc);
        return;
    }
    block->in_flight++;
    block->ops->submit(block, request);
}

void block_complete(struct block *block, struct block_request *request, int status)
{
    invariant(block->in_flight > 0);
    block->in_flight--;
    request->done(request, status);
}

void block_plug(struct block *block)
{
    block->ops->plug(block, true);
}

void block_unplug(struct block *block)
{
    block->ops->plug(block, false);
}

void block_drain(struct block *block)
{
    while (block->in_flight > 0) {
        block->ops->wait(block);
    }
}

const char *block_aio_name(const struct block *block)
{
    return block->ops->aio_name(block);
}
