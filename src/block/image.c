/* The calls of image.h on whatever format a block has. */
#include "block/image.h"

#include <string.h>

#include "block/provider.h"

struct call {
    struct block *block;
    const struct block_format *format;
    const struct block_create_options *create;
    unsigned repair;
    void (*report)(void *ctx, const char *text);
    void *ctx;
    struct block_check_result *result;
    const char *name, *text;
    block_snapshot_fn snapshot_fn;
    struct error *err;
};

static int lacks(const struct block *block, const char *what, struct error *err)
{
    return error_set(err, EOPNOTSUPP, "disk %s: format %s has no %s", block->name, block->ops->name,
                     what);
}

static int run_create(void *ctx)
{
    struct call *call = ctx;
    return call->format->create(call->block, call->create, call->err);
}

int block_create(struct block *file, const struct block_create_options *options, struct error *err)
{
    const struct block_format *format = block_find_format(options->format);
    if (format == NULL || format->create == NULL) {
        return error_set(err, EOPNOTSUPP, "disk %s: format %s cannot be created", file->name,
                         options->format);
    }
    struct call call = {.block = file, .format = format, .create = options, .err = err};
    int rc = block_run(run_create, &call);
    return rc < 0 ? error_prefix(err, rc, "disk %s", file->name) : 0;
}

void block_describe(const struct block *block, block_detail_fn fn, void *ctx)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops != NULL && ops->describe != NULL) {
        ops->describe(block, fn, ctx);
    }
}

static int run_check(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->check(call->block, call->repair, call->report, call->ctx,
                                          call->result, call->err);
}

int block_check(struct block *block, unsigned repair, void (*report)(void *ctx, const char *text),
                void *ctx, struct block_check_result *out_result, struct error *err)
{
    return block_check_with_progress(block, repair, report, ctx, NULL, NULL, out_result, err);
}

int block_check_with_progress(struct block *block, unsigned repair,
                              void (*report)(void *ctx, const char *text), void *ctx,
                              void (*progress)(void *ctx, uint64_t done, uint64_t total),
                              void *progress_ctx, struct block_check_result *out_result,
                              struct error *err)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops == NULL || ops->check == NULL) {
        return lacks(block, "check", err);
    }
    struct call call = {.block = block,
                        .repair = repair,
                        .report = report,
                        .ctx = ctx,
                        .result = out_result,
                        .err = err};
    *out_result = (struct block_check_result){.progress = progress, .progress_ctx = progress_ctx};
    int rc = block_run(run_check, &call);
    return rc < 0 ? error_prefix(err, rc, "disk %s", block->name) : 0;
}

static int run_list(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->snapshot_list(call->block, call->snapshot_fn, call->ctx,
                                                  call->err);
}

int block_snapshot_list(struct block *block, block_snapshot_fn fn, void *ctx, struct error *err)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops == NULL || ops->snapshot_list == NULL) {
        return lacks(block, "snapshots", err);
    }
    struct call call = {.block = block, .snapshot_fn = fn, .ctx = ctx, .err = err};
    return block_run(run_list, &call);
}

static int run_snapshot_create(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->snapshot_create(call->block, call->name, call->err);
}

static int run_snapshot_apply(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->snapshot_apply(call->block, call->name, call->err);
}

static int run_snapshot_delete(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->snapshot_delete(call->block, call->name, call->err);
}

static int change_snapshots(struct block *block, const char *name, int (*fn)(void *ctx),
                            struct error *err)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops == NULL || ops->snapshot_create == NULL) {
        return lacks(block, "snapshots", err);
    }
    if (block->info.is_readonly) {
        return error_set(err, EROFS, "disk %s: is read-only", block->name);
    }
    struct call call = {.block = block, .name = name, .err = err};
    int rc = block_run(fn, &call);
    return rc < 0 ? error_prefix(err, rc, "disk %s: snapshot %s", block->name, name) : 0;
}

int block_snapshot_create(struct block *block, const char *name, struct error *err)
{
    return change_snapshots(block, name, run_snapshot_create, err);
}

int block_snapshot_apply(struct block *block, const char *name, struct error *err)
{
    return change_snapshots(block, name, run_snapshot_apply, err);
}

int block_snapshot_delete(struct block *block, const char *name, struct error *err)
{
    return change_snapshots(block, name, run_snapshot_delete, err);
}

static int run_set_backing(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->set_backing_name(call->block, call->name, call->text,
                                                     call->err);
}

int block_set_backing_name(struct block *block, const char *name, const char *format,
                           struct error *err)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops == NULL || ops->set_backing_name == NULL) {
        return lacks(block, "backing files", err);
    }
    struct call call = {.block = block, .name = name, .text = format, .err = err};
    int rc = block_run(run_set_backing, &call);
    return rc < 0 ? error_prefix(err, rc, "disk %s", block->name) : 0;
}

static int run_make_empty(void *ctx)
{
    struct call *call = ctx;
    return call->block->ops->image->make_empty(call->block, call->err);
}

int block_make_empty(struct block *block, struct error *err)
{
    const struct block_image_ops *ops = block->ops->image;
    if (ops == NULL || ops->make_empty == NULL) {
        return lacks(block, "backing files", err);
    }
    struct call call = {.block = block, .err = err};
    int rc = block_run(run_make_empty, &call);
    return rc < 0 ? error_prefix(err, rc, "disk %s", block->name) : 0;
}
