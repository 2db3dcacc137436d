/* Images of other products as blocks: read-only, over their file, further extents, and a parent. */
#include "block/format/foreign/block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "base/host/work_pool.h"
#include "block/provider.h"

#define MAX_FINDINGS 1000u  /* that are told in words */
#define MAX_ERRORS   10000u /* an image with more is not worth the time */
#define CHECK_UNIT   65536u /* what a check calls a cluster where the format has none */

struct foreign {
    struct block block;
    struct foreign_image *image;
    struct coroutine_mutex map_mutex; /* foreign_map gives way while it reads tables */
    struct work_pool *pool;           /* of a compressed image; else NULL */
    bool is_alone;
};

static const struct block_ops foreign_ops[];

static struct foreign *foreign_from_block(const struct block *block)
{
    return container_of(block, struct foreign, block);
}

static struct block *file_at(const struct foreign *foreign, uint32_t index)
{
    return index == 0 ? foreign->block.file : foreign->block.extent[index - 1];
}

static int read_part(struct block *from, const struct block_request *request, uint64_t skip,
                     uint64_t offset, uint64_t size)
{
    struct iovec *iov = malloc((size_t)request->iov_count * sizeof(*iov));
    if (iov == NULL) {
        return -ENOMEM;
    }
    struct block_request part = {.op = BLOCK_READ,
                                 .offset_bytes = offset,
                                 .size_bytes = size,
                                 .iov = iov,
                                 .iov_count =
                                     iov_cut(iov, request->iov, request->iov_count, skip, size)};
    int rc = block_perform(from, &part);
    free(iov);
    return rc;
}

/* What is not in the image. */
static int read_hole(struct foreign *foreign, const struct block_request *request, uint64_t skip,
                     uint64_t size)
{
    struct block *backing = foreign->block.backing;
    uint64_t offset = request->offset_bytes + skip;
    uint64_t there = 0;
    if (foreign->is_alone) {
        return -ENXIO;
    }
    if (backing != NULL && offset < backing->info.size_bytes) {
        there = MIN(size, backing->info.size_bytes - offset);
        int rc = read_part(backing, request, skip, offset, there);
        if (rc < 0) {
            return rc;
        }
    }
    iov_zero(request->iov, request->iov_count, skip + there, size - there);
    return 0;
}

static int read_encoded(struct foreign *foreign, const struct block_request *request, uint64_t skip,
                        const struct foreign_extent *extent)
{
    uint8_t *data = malloc((size_t)extent->size_bytes);
    if (data == NULL) {
        return -ENOMEM;
    }
    int rc = foreign_read_encoded(foreign->image, extent, data, NULL);
    if (rc == 0) {
        iov_put(request->iov, request->iov_count, skip, data, (size_t)extent->size_bytes);
    }
    free(data);
    return rc;
}

static int map(struct foreign *foreign, uint64_t offset, uint64_t size,
               struct foreign_extent *out_extent)
{
    coroutine_mutex_lock(&foreign->map_mutex);
    int rc = foreign_map(foreign->image, offset, size, out_extent, NULL);
    coroutine_mutex_unlock(&foreign->map_mutex);
    return rc == -EINVAL || rc == -EOPNOTSUPP ? -EIO : rc; /* the image is damaged */
}

static int do_read(struct foreign *foreign, const struct block_request *request)
{
    for (uint64_t skip = 0; skip < request->size_bytes;) {
        struct foreign_extent extent;
        int rc = map(foreign, request->offset_bytes + skip, request->size_bytes - skip, &extent);
        if (rc < 0) {
            return rc;
        }
        switch (extent.status) {
        case FOREIGN_DATA:
            rc = read_part(file_at(foreign, extent.file), request, skip, extent.file_offset,
                           extent.size_bytes);
            break;
        case FOREIGN_ZERO:
            iov_zero(request->iov, request->iov_count, skip, extent.size_bytes);
            break;
        case FOREIGN_HOLE:
            rc = read_hole(foreign, request, skip, extent.size_bytes);
            break;
        case FOREIGN_ENCODED:
            rc = read_encoded(foreign, request, skip, &extent);
            break;
        }
        if (rc < 0) {
            return rc == -EINVAL ? -EIO : rc;
        }
        skip += extent.size_bytes;
    }
    return 0;
}

static int do_map(struct foreign *foreign, const struct block_request *request)
{
    static const enum block_extent_kind kinds[] = {[FOREIGN_DATA] = BLOCK_EXTENT_DATA,
                                                   [FOREIGN_ZERO] = BLOCK_EXTENT_ZERO,
                                                   [FOREIGN_HOLE] = BLOCK_EXTENT_ABSENT,
                                                   [FOREIGN_ENCODED] = BLOCK_EXTENT_COMPRESSED};
    struct foreign_extent extent;
    int rc = map(foreign, request->offset_bytes, request->size_bytes, &extent);
    if (rc == 0) {
        *request->extent = (struct block_extent){
            .kind = kinds[extent.status],
            .has_offset = extent.status == FOREIGN_DATA && extent.file == 0,
            .file_offset = extent.file_offset,
            .size_bytes = extent.size_bytes,
        };
    }
    return rc;
}

static int perform(struct block *block, struct block_request *request)
{
    struct foreign *foreign = foreign_from_block(block);
    return request->op == BLOCK_MAP ? do_map(foreign, request) : do_read(foreign, request);
}

static void foreign_submit(struct block *block, struct block_request *request)
{
    if (request->op == BLOCK_FLUSH) {
        block_complete(block, request, 0);
        return;
    }
    block_serve(block, request, perform);
}

static void foreign_wait(struct block *block)
{
    struct foreign *foreign = foreign_from_block(block);
    if (work_pool_is_busy(foreign->pool)) {
        work_pool_wait(foreign->pool);
        return;
    }
    if (foreign->block.file->in_flight > 0) {
        block_wait(foreign->block.file);
        return;
    }
    for (unsigned i = 0; i < block->extent_count; i++) {
        if (block->extent[i]->in_flight > 0) {
            block_wait(block->extent[i]);
            return;
        }
    }
    invariant(block->backing != NULL && block->backing->in_flight > 0);
    block_wait(block->backing);
}

static void foreign_block_close(struct block *block)
{
    struct foreign *foreign = foreign_from_block(block);
    foreign_close(foreign->image);
    work_pool_destroy(foreign->pool);
    block_fini(block);
    free(foreign);
}

static void put_text(block_detail_fn fn, void *ctx, const char *key, const char *text)
{
    if (text[0] != '\0') {
        fn(ctx, &(struct block_detail){.key = key, .text = text});
    }
}

static void foreign_describe(const struct block *block, block_detail_fn fn, void *ctx)
{
    const struct foreign_info *info = foreign_get_info(foreign_from_block(block)->image);
    put_text(fn, ctx, "variant", info->variant);
    if (info->cluster_size_bytes != 0) {
        fn(ctx, &(struct block_detail){.key = "cluster-size", .number = info->cluster_size_bytes});
    }
    fn(ctx,
       &(struct block_detail){.key = "compressed", .number = info->is_compressed, .is_flag = true});
    fn(ctx, &(struct block_detail){.key = "dirty", .number = info->is_dirty, .is_flag = true});
    put_text(fn, ctx, "id", info->id);
    if (info->needs_parent) {
        put_text(fn, ctx, "backing-file", info->parent_name);
        put_text(fn, ctx, "backing-id", info->parent_id);
    }
}

/* A finding in words. */
static void report_at(uint64_t offset, const struct error *err,
                      void (*report)(void *ctx, const char *text), void *ctx)
{
    char text[ERROR_TEXT_SIZE + 40];
    (void)snprintf(text, sizeof(text), "offset %llu: %s", (unsigned long long)offset, err->text);
    if (report != NULL) {
        report(ctx, text);
    }
}

/* What is packed must unpack, to its end. */
static int check_encoded(struct foreign *foreign, const struct foreign_extent *extent,
                         struct error *err)
{
    uint8_t *data = malloc((size_t)extent->size_bytes);
    int rc = data != NULL ? foreign_read_encoded(foreign->image, extent, data, err)
                          : error_set_errno(err, ENOMEM, "unpacking");
    free(data);
    return rc;
}

static void run_work(void *ctx, void (*work)(void *arg), void *arg)
{
    work_pool_run(ctx, work, arg);
}

/* One range that the map gives; true: it goes on. */
static int check_range(struct foreign *foreign, uint64_t at, struct block_check_result *result,
                       uint64_t *out_size, struct error *finding)
{
    struct foreign_extent extent;
    coroutine_mutex_lock(&foreign->map_mutex);
    int rc = foreign_map(foreign->image, at, foreign->block.info.size_bytes - at, &extent, finding);
    coroutine_mutex_unlock(&foreign->map_mutex);
    if (rc < 0) {
        return rc;
    }
    *out_size = extent.size_bytes;
    if (extent.status == FOREIGN_ENCODED) {
        result->compressed_clusters += extent.size_bytes;
        return check_encoded(foreign, &extent, finding);
    }
    if (extent.status == FOREIGN_DATA) {
        result->allocated_clusters += extent.size_bytes;
        uint64_t end = extent.file == 0 ? extent.file_offset + extent.size_bytes : 0;
        result->end_offset = MAX(result->end_offset, end);
    }
    return 0;
}

/* All that the tables say must lie within the files. */
static int foreign_check(struct block *block, unsigned repair,
                         void (*report)(void *ctx, const char *text), void *ctx,
                         struct block_check_result *out_result, struct error *err)
{
    struct foreign *foreign = foreign_from_block(block);
    uint64_t unit = MAX(block->info.cluster_size, CHECK_UNIT);
    uint64_t total = block->info.size_bytes;
    int rc = 0;
    if (repair != 0) {
        return error_set(err, EOPNOTSUPP, "%s images are not repaired: convert it",
                         block->ops->name);
    }
    /* Here, and not by the pool: whoever waits for a check looks for requests in flight alone. */
    foreign_set_runner(foreign->image, run_work, NULL);
    for (uint64_t at = 0; at < total && rc != -ENOMEM && out_result->errors < MAX_ERRORS;) {
        struct error finding;
        uint64_t size = MIN(unit - at % unit, total - at);
        rc = check_range(foreign, at, out_result, &size, &finding);
        if (rc < 0) {
            out_result->errors++;
            report_at(at, &finding, out_result->errors <= MAX_FINDINGS ? report : NULL, ctx);
        }
        at += size;
    }
    foreign_set_runner(foreign->image, run_work, foreign->pool);
    out_result->compressed_clusters /= unit;
    out_result->allocated_clusters =
        out_result->allocated_clusters / unit + out_result->compressed_clusters;
    out_result->total_clusters = (total + unit - 1) / unit;
    return rc == -ENOMEM ? error_set_errno(err, ENOMEM, "checking") : 0;
}

static const struct block_image_ops foreign_image_ops = {
    .describe = foreign_describe,
    .check = foreign_check,
};

#define FOREIGN_OPS(format)                                                                        \
    {                                                                                              \
        .name = (format), .submit = foreign_submit, .wait = foreign_wait,                          \
        .close = foreign_block_close, .image = &foreign_image_ops                                  \
    }

/* In the order of the formats below. */
static const struct block_ops foreign_ops[] = {
    FOREIGN_OPS("vmdk"),
    FOREIGN_OPS("vhdx"),
    FOREIGN_OPS("vhd"),
    FOREIGN_OPS("vdi"),
};

static bool is_foreign(const struct block *block)
{
    return block->ops >= foreign_ops && block->ops < foreign_ops + ARRAY_COUNT(foreign_ops);
}

const struct foreign_info *foreign_block_info(const struct block *block)
{
    return is_foreign(block) ? foreign_get_info(foreign_from_block(block)->image) : NULL;
}

/* What lies around the range, where the block takes whole sectors only. */
static int read_aligned(struct block *block, uint64_t offset, void *out_data, size_t size)
{
    uint32_t unit = block->info.logical_block_size;
    uint64_t start = align_down(offset, unit);
    size_t whole = (size_t)(align_up(offset + size, unit) - start);
    uint8_t *data = malloc(whole);
    int rc = data != NULL ? block_read(block, start, data, whole) : -ENOMEM;
    if (rc == 0) {
        memcpy(out_data, data + (offset - start), size);
    }
    free(data);
    return rc;
}

static int read_bytes(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err)
{
    struct block *block = ctx;
    bool is_aligned = ((offset | size) & (block->info.logical_block_size - 1)) == 0;
    int rc = is_aligned ? block_read(block, offset, out_data, size)
                        : read_aligned(block, offset, out_data, size);
    return rc < 0 ? error_set_errno(err, -rc, "%s", block_name(block)) : 0;
}

/* While an image is opened: who opens its names. */
struct opening {
    struct foreign *foreign;
    struct block *file;
    struct block_options *options;
    bool is_refused; /* a name was, with a message that needs nothing around it */
};

static int open_name(void *ctx, const char *name, struct foreign_file *out_file, struct error *err)
{
    struct opening *opening = ctx;
    struct block *block = &opening->foreign->block;
    struct block **extents =
        realloc(block->extent, (block->extent_count + 1) * sizeof(*block->extent));
    if (extents == NULL) {
        return error_set_errno(err, ENOMEM, "opening \"%s\"", name);
    }
    block->extent = extents;
    struct block_reference reference = {
        .kind = BLOCK_REFERENCE_DATA, .name = name, .is_readonly = true};
    struct block *extent;
    int rc = block_resolve(opening->file, opening->options, &reference, &extent, err);
    if (rc == 0) {
        extents[block->extent_count++] = extent;
        *out_file = (struct foreign_file){read_bytes, extent, extent->info.size_bytes};
    }
    opening->is_refused = rc < 0;
    return rc;
}

static int open_parent(struct opening *opening, const struct foreign_info *info, struct error *err)
{
    struct foreign *foreign = opening->foreign;
    struct block_reference reference = {.kind = BLOCK_REFERENCE_BACKING,
                                        .name = info->parent_name,
                                        .format = info->format,
                                        .is_readonly = true};
    int rc =
        block_resolve(opening->file, opening->options, &reference, &foreign->block.backing, err);
    if (rc < 0) {
        return rc;
    }
    foreign->is_alone = foreign->block.backing == NULL;
    const struct foreign_info *parent =
        foreign->is_alone ? NULL : foreign_block_info(foreign->block.backing);
    if (parent != NULL && parent->format == info->format && info->parent_id[0] != '\0' &&
        strcmp(parent->id, info->parent_id) != 0) {
        return error_set(
            err, EINVAL,
            "disk %s: %s is not its parent, or was changed: the parent's id is %s, not %s",
            block_name(opening->file), block_name(foreign->block.backing), info->parent_id,
            parent->id);
    }
    return 0;
}

static int open_image(struct opening *opening, const struct foreign_format *format,
                      struct error *err)
{
    struct foreign *foreign = opening->foreign;
    struct block *block = &foreign->block;
    struct foreign_file file = {read_bytes, opening->file, opening->file->info.size_bytes};
    struct foreign_names names = {open_name, opening};
    int rc = foreign_open(format, &file, &names, &foreign->image, err);
    if (rc < 0) {
        return opening->is_refused ? rc
                                   : error_prefix(err, rc, "disk %s", block_name(opening->file));
    }
    const struct foreign_info *info = foreign_get_info(foreign->image);
    if (info->needs_parent && (rc = open_parent(opening, info, err)) < 0) {
        return rc;
    }
    if (info->is_compressed) {
        rc = work_pool_create(0, block->loop, &foreign->pool, err);
        if (rc < 0) {
            return rc;
        }
        foreign_set_runner(foreign->image, run_work, foreign->pool);
    }
    block->info = (struct block_info){
        .size_bytes = info->size_bytes,
        .logical_block_size = info->logical_block_size,
        .physical_block_size = MAX(4096, info->logical_block_size),
        .cluster_size = (uint32_t)info->cluster_size_bytes,
        .is_readonly = true,
    };
    return 0;
}

static int open_format(size_t index, struct block *file, struct block_options *options,
                       struct block **out_block, struct error *err)
{
    if (!options->is_readonly) {
        return error_set(err, EROFS, "disk %s: %s images are read-only: convert it to qcow2 or raw",
                         file->name, foreign_ops[index].name);
    }
    struct foreign *foreign =
        block_new(sizeof(*foreign), &foreign_ops[index], file->name, file->loop, err);
    if (foreign == NULL) {
        return -ENOMEM;
    }
    struct opening opening = {foreign, file, options};
    int rc = open_image(&opening, foreign_find(foreign_ops[index].name), err);
    if (rc < 0) {
        /* We may have been called by the extent that read the last bytes: none may be closed before that is over. */
        uint8_t byte;
        (void)!read_bytes(file, 0, &byte, 1, NULL);
        foreign_close(foreign->image);
        work_pool_destroy(foreign->pool);
        block_abandon(&foreign->block);
        free(foreign);
        return rc;
    }
    foreign->block.file = file;
    *out_block = &foreign->block;
    return 0;
}

static int open_vmdk(struct block *file, struct block_options *options, struct block **out_block,
                     struct error *err)
{
    return open_format(0, file, options, out_block, err);
}

static int open_vhdx(struct block *file, struct block_options *options, struct block **out_block,
                     struct error *err)
{
    return open_format(1, file, options, out_block, err);
}

static int open_vhd(struct block *file, struct block_options *options, struct block **out_block,
                    struct error *err)
{
    return open_format(2, file, options, out_block, err);
}

static int open_vdi(struct block *file, struct block_options *options, struct block **out_block,
                    struct error *err)
{
    return open_format(3, file, options, out_block, err);
}

const struct block_format block_format_vmdk = {.name = "vmdk", .open = open_vmdk};
const struct block_format block_format_vhdx = {.name = "vhdx", .open = open_vhdx};
const struct block_format block_format_vhd = {.name = "vhd", .open = open_vhd};
const struct block_format block_format_vpc = {.name = "vpc", .open = open_vhd};
const struct block_format block_format_vdi = {.name = "vdi", .open = open_vdi};
