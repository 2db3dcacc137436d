/* hull disk measure: how many bytes a conversion would take. */
#include <string.h>

#include "block/format/foreign/write.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"
#include "cli/size.h"

struct measure_options {
    struct disk_options disk;
    const char *target_format;
    uint64_t size_bytes; /* --size; 0: not given */
};

static int parse_target(void *into, const char *value, struct error *err)
{
    ((struct measure_options *)into)->target_format = value;
    return disk_check_creatable(value, err);
}

static int parse_size(void *into, const char *value, struct error *err)
{
    return size_parse(value, 1, &((struct measure_options *)into)->size_bytes, err);
}

static const struct option_spec measure_table[] = {
    {"target-format", 'O', "FORMAT", "format of the new image (default: raw)",
     disk_creatable_formats, parse_target},
    {"size", 0, "SIZE", "of a new, empty disk, in place of FILE", NULL, parse_size},
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: found out)"),
    DISK_OPTION_ALLOW,
    DISK_OPTION_BACKING,
    DISK_OPTION_BACKING_FORMAT,
    OUTPUT_OPTION_JSON(disk_parse_json),
    OUTPUT_OPTION_FORMAT(disk_parse_output),
    {0},
};

/* Bytes of the units of 'unit' bytes that hold data; zeros inside of data count. */
static int count_units(struct block *block, uint64_t unit, uint64_t *out_bytes, struct error *err)
{
    struct block_info info;
    block_get_info(block, &info);
    uint64_t units = 0;
    uint64_t next = 0; /* unit that is not counted yet */
    for (uint64_t at = 0; at < info.size_bytes;) {
        struct block_extent extent;
        unsigned depth;
        int rc = block_map_chain(block, at, info.size_bytes - at, &extent, &depth);
        if (rc < 0) {
            return error_set_errno(err, -rc, "map of %s at %llu", block_name(block),
                                   (unsigned long long)at);
        }
        if (extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED) {
            uint64_t first = MAX(at / unit, next);
            uint64_t end = (at + extent.size_bytes + unit - 1) / unit;
            units += end > first ? end - first : 0;
            next = MAX(next, end);
        }
        at += extent.size_bytes;
    }
    *out_bytes = units * unit;
    return 0;
}

static int measure(const char *path, const struct measure_options *options, json_t *object,
                   struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    const char *format = options->target_format;
    uint64_t size = options->size_bytes;
    uint64_t used = 0;
    int rc = event_loop_create(&loop, err);
    if (rc == 0 && path != NULL) {
        rc = disk_open(loop, path, &options->disk.image, DISK_READ, &block, err);
    }
    if (rc == 0 && block != NULL) {
        struct block_info info;
        block_get_info(block, &info);
        size = info.size_bytes;
        uint64_t unit = strcmp(format, "vhdx") == 0   ? vhdx_write_block_size(size)
                        : strcmp(format, "vmdk") == 0 ? vmdk_write_grain_size
                                                      : 4096;
        rc = count_units(block, unit, &used, err);
    }
    if (rc == 0) {
        bool is_raw = strcmp(format, "raw") == 0;
        uint64_t (*overhead)(uint64_t size, uint64_t used) =
            strcmp(format, "vhdx") == 0 ? vhdx_write_overhead : vmdk_write_overhead;
        uint64_t required = is_raw ? MIN(used, size) : used + overhead(size, used);
        uint64_t full = is_raw ? size : size + overhead(size, size);
        json_object_set_new(object, "required_bytes", json_integer((json_int_t)required));
        json_object_set_new(object, "fully_allocated_bytes", json_integer((json_int_t)full));
    }
    block_close(block);
    event_loop_destroy(loop);
    return rc;
}

static int measure_run(int argc, char **argv)
{
    struct measure_options options = {.target_format = "raw"};
    int count = 0;
    int status = cli_options(&disk_measure_verb, false, argc, argv, &options, &count);
    int words = options.size_bytes != 0 ? 0 : 1;
    if (status >= 0 || !disk_check_count(&disk_measure_verb, count, words, words)) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    struct error err = {0};
    json_t *object = json_object();
    int rc = measure(words == 1 ? argv[0] : NULL, &options, object, &err);
    if (rc == 0) {
        output_object(options.disk.output, object);
    }
    json_decref(object);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_measure_verb = {
    .name = "disk measure",
    .arguments = "FILE | --size SIZE",
    .summary = "Say how much space a converted image would take",
    .description =
        "REQUIRED is what the data of now takes at most, FULLY ALLOCATED what the disk takes once all of\n"
        "it was written. What is compressed takes less.\n",
    .examples = "  hull disk measure vm.vmdk --target-format raw\n"
                "  hull disk measure --size 20G --target-format vhdx\n",
    .options = measure_table,
    .complete = "FILE",
    .run = measure_run,
};
