/* Where jobs copy to. */
#include <string.h>

#include "block/image.h"
#include "block/job.h"
#include "block/provider.h"
#include "block/veil.h"

#define HEAD_SIZE 65536u /* may have anything: it is always copied */

static int look_for_data(struct block *target, bool *out_is_empty, struct error *err)
{
    *out_is_empty = true;
    for (uint64_t at = HEAD_SIZE; at < target->info.size_bytes && *out_is_empty;) {
        struct block_extent extent;
        int rc = block_map(target, at, target->info.size_bytes - at, &extent);
        if (rc < 0) {
            return error_set_errno(err, -rc, "reading %s", block_name(target));
        }
        *out_is_empty = extent.kind != BLOCK_EXTENT_DATA && extent.kind != BLOCK_EXTENT_COMPRESSED;
        at += extent.size_bytes;
    }
    return 0;
}

int block_job_open_target(struct block *file, const struct block_job_target_options *options,
                          struct block_job_target *out_target, struct error *err)
{
    const struct block_options format = {.format = options->format};
    if (strcmp(options->format, "raw") == 0 && file->info.size_bytes > options->size_bytes) {
        file->info.size_bytes = options->size_bytes;
    }
    struct block *veil;
    int rc = block_veil_create(file, &veil, err);
    if (rc < 0) {
        return rc;
    }
    if (options->create != NULL) {
        rc = block_create(veil, options->create, err);
        if (rc < 0) {
            block_close(veil);
            return rc;
        }
    }
    struct block *block;
    rc = block_open_format(veil, &format, &block, err);
    if (rc < 0) {
        return rc;
    }
    *out_target = (struct block_job_target){.block = block, .veil = veil};
    rc = look_for_data(block, &out_target->is_empty, err);
    if (rc < 0) {
        block_close(block);
    }
    return rc;
}
