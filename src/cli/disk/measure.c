/* hull disk measure: how many bytes a conversion would take. */
#include <string.h>

#include "base/core/size.h"
#include "block/format/foreign/write.h"
#include "cli/disk/disk.h"
#include "cli/disk/target.h"

#define QCOW2_CLUSTER 65536u

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
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
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
    *out_bytes = MIN(units * unit, (info.size_bytes + unit - 1) / unit * unit);
    return 0;
}

/* Tables of a qcow2 with clusters of 64 KiB and counts of 16 bits, when 'used' bytes of data may lie anywhere. */
static uint64_t qcow2_overhead(uint64_t size, uint64_t used)
{
    uint64_t clusters = (size + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER;
    uint64_t l2_tables = (clusters + QCOW2_CLUSTER / 8 - 1) / (QCOW2_CLUSTER / 8);
    uint64_t used_clusters = (used + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER;
    uint64_t l1_clusters = (l2_tables * 8 + QCOW2_CLUSTER - 1) / QCOW2_CLUSTER;
    uint64_t fixed = 2 + MAX(l1_clusters, 1) +
                     MIN(l2_tables, used_clusters); /* with header and refcount table */
    uint64_t total = used_clusters + fixed;
    uint64_t blocks = total / (QCOW2_CLUSTER / 2 - 1) + 1;
    return (fixed + blocks + 1) * QCOW2_CLUSTER;
}

static const struct {
    const char *format;
    uint64_t (*overhead)(uint64_t size, uint64_t used);
} overheads[] = {
    {"qcow2", qcow2_overhead}, {"vmdk", vmdk_write_overhead}, {"vhdx", vhdx_write_overhead}};

/* Bytes beside the data; a raw disk has none. */
static uint64_t overhead_of(const char *format, uint64_t size, uint64_t used)
{
    for (size_t i = 0; i < ARRAY_COUNT(overheads); i++) {
        if (strcmp(overheads[i].format, format) == 0) {
            return overheads[i].overhead(size, used);
        }
    }
    return 0;
}

static uint64_t unit_of(const char *format, uint64_t size)
{
    return strcmp(format, "vhdx") == 0    ? vhdx_write_block_size(size)
           : strcmp(format, "vmdk") == 0  ? vmdk_write_grain_size
           : strcmp(format, "qcow2") == 0 ? QCOW2_CLUSTER
                                          : 4096;
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
        rc = count_units(block, unit_of(format, size), &used, err);
    }
    if (rc == 0) {
        uint64_t required = used + overhead_of(format, size, used);
        uint64_t full = size + overhead_of(format, size, size);
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
