/* hull disk check: is an image sound? */
#include <string.h>

#include "block/format/foreign/block.h"
#include "cli/disk/disk.h"
#include "cli/progress.h"

#define STATUS_CORRUPT     2
#define STATUS_UNSUPPORTED 63
#define STEP               (1ull << 20) /* where the map fails, that much is skipped */

static const struct option_spec check_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: found out)"),
    DISK_OPTION_ALLOW,
    DISK_OPTION_BACKING,
    DISK_OPTION_BACKING_FORMAT,
    OUTPUT_OPTION_JSON(disk_parse_json),
    OUTPUT_OPTION_FORMAT(disk_parse_output),
    DISK_OPTION_QUIET,
    {0},
};

struct findings {
    uint64_t errors;
    uint64_t data_bytes;
    uint64_t total_bytes;
    uint64_t first_error; /* offset in the disk */
};

/* Everything that the tables say must lie within the files, and what is packed must unpack. */
static int check_all(struct block *block, struct progress *progress, struct findings *f)
{
    uint8_t sector[4096];
    struct block_info info;
    block_get_info(block, &info);
    f->total_bytes = info.size_bytes;
    for (uint64_t at = 0; at < info.size_bytes;) {
        struct block_extent extent;
        int rc = block_map(block, at, info.size_bytes - at, &extent);
        if (rc == -ENOMEM) {
            return rc;
        }
        if (rc == 0 && extent.kind == BLOCK_EXTENT_COMPRESSED) {
            /* Its last bytes are there only if all of it is. */
            rc = block_read(block, at + extent.size_bytes - info.logical_block_size, sector,
                            info.logical_block_size);
        }
        if (rc < 0) {
            f->first_error = f->errors == 0 ? at : f->first_error;
            f->errors++;
            at += MIN(STEP - at % STEP, info.size_bytes - at);
            continue;
        }
        f->data_bytes += extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED
                             ? extent.size_bytes
                             : 0;
        at += extent.size_bytes;
        progress_update(progress, at, info.size_bytes);
    }
    return 0;
}

static int report(const struct disk_options *options, const char *path, struct block *block,
                  const struct findings *f)
{
    if (options->is_quiet) {
        return f->errors == 0 ? CLI_OK : STATUS_CORRUPT;
    }
    json_t *object = json_object();
    const struct foreign_info *info = foreign_block_info(block);
    json_object_set_new(object, "file", json_string(path));
    json_object_set_new(object, "format", json_string(block_format_name(block)));
    json_object_set_new(object, "errors", json_integer((json_int_t)f->errors));
    if (f->errors != 0) {
        json_object_set_new(object, "first_error_offset", json_integer((json_int_t)f->first_error));
    }
    json_object_set_new(object, "data_bytes", json_integer((json_int_t)f->data_bytes));
    json_object_set_new(object, "total_bytes", json_integer((json_int_t)f->total_bytes));
    if (info != NULL && info->is_dirty) {
        json_object_set_new(object, "dirty", json_true());
    }
    output_object(options->output, object);
    json_decref(object);
    return f->errors == 0 ? CLI_OK : STATUS_CORRUPT;
}

static int check_run(int argc, char **argv)
{
    struct disk_options options = {.image.is_alone = true};
    int count = 0;
    int status = cli_options(&disk_check_verb, false, argc, argv, &options, &count);
    if (status >= 0 || !disk_check_count(&disk_check_verb, count, 1, 1)) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    options.image.is_alone = options.image.backing == NULL;
    struct error err = {0};
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    struct findings findings = {0};
    struct progress progress;
    progress_begin(&progress, "checking", options.is_quiet);
    int rc = event_loop_create(&loop, &err);
    if (rc == 0) {
        rc = disk_open(loop, argv[0], &options.image, DISK_READ, &block, &err);
    }
    status = CLI_FAILURE;
    if (rc == 0 && foreign_block_info(block) == NULL) {
        (void)error_set(&err, EOPNOTSUPP, "checking %s: raw images have nothing to check", argv[0]);
        rc = -EOPNOTSUPP;
        status = STATUS_UNSUPPORTED;
    }
    if (rc == 0 && (rc = check_all(block, &progress, &findings)) < 0) {
        (void)error_set_errno(&err, -rc, "checking %s", argv[0]);
    }
    progress_end(&progress);
    if (rc < 0) {
        (void)cli_fail(&err);
    } else {
        status = report(&options, argv[0], block, &findings);
    }
    block_close(block);
    event_loop_destroy(loop);
    return status;
}

const struct verb disk_check_verb = {
    .name = "disk check",
    .arguments = "FILE",
    .summary = "Check whether an image is sound",
    .description =
        "VMDK, VHDX, VHD and VDI: all tables are read, what they name must lie in its file, and what is\n"
        "compressed must unpack.\n",
    .exit_status = "  0    sound\n  1    it could not be checked\n  2    corrupt\n"
                   "  63   its format has nothing to check\n",
    .examples = "  hull disk check vm.vhdx\n  hull disk check --json vm.vmdk\n",
    .options = check_table,
    .complete = "FILE",
    .run = check_run,
};
