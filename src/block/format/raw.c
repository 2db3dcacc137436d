/* The raw format: the disk is the file. */
#include <stdlib.h>

#include "block/provider.h"

struct raw {
    struct block block;
    struct block_file *file;
};

static struct raw *raw_from_block(const struct block *block)
{
    return container_of(block, struct raw, block);
}

static void raw_done(void *ctx, struct block_request *request, int status)
{
    block_complete(ctx, request, status);
}

static void raw_submit(struct block *block, struct block_request *request)
{
    block_file_submit(raw_from_block(block)->file, request);
}

static void raw_plug(struct block *block, bool is_plugged)
{
    block_file_plug(raw_from_block(block)->file, is_plugged);
}

static void raw_wait(struct block *block)
{
    block_file_wait(raw_from_block(block)->file);
}

static const char *raw_aio_name(const struct block *block)
{
    return block_file_aio_name(raw_from_block(block)->file);
}

static void raw_close(struct block *block)
{
    struct raw *raw = raw_from_block(block);
    block_file_close(raw->file);
    free(raw);
}

static const struct block_ops raw_ops = {
    .submit = raw_submit,
    .plug = raw_plug,
    .wait = raw_wait,
    .aio_name = raw_aio_name,
    .close = raw_close,
};

static int raw_open(struct block_file *file, const struct block_options *options,
                    struct block **out_block, struct error *err)
{
    struct raw *raw = calloc(1, sizeof(*raw));
    if (raw == NULL) {
        block_file_close(file);
        return error_set_errno(err, ENOMEM, "opening a raw disk");
    }
    raw->block.ops = &raw_ops;
    raw->file = file;
    block_file_get_info(file, &raw->block.info);
    block_file_set_done(file, raw_done, &raw->block);
    *out_block = &raw->block;
    return 0;
}

const struct block_format block_format_raw = {.name = "raw", .open = raw_open};
