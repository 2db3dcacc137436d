/* hull disk map: where an image has data, zeros and nothing. */
#include <string.h>

#include "cli/disk/disk.h"

static const struct option_spec map_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: found out)"),
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    {0},
};

/* A run of the disk; neighbours of the same kind are one. */
struct run {
    uint64_t start;
    struct block_extent extent;
    unsigned depth;
};

static bool goes_on(const struct run *run, const struct run *next)
{
    return run->extent.kind == next->extent.kind && run->depth == next->depth &&
           run->extent.has_offset == next->extent.has_offset &&
           (!run->extent.has_offset ||
            run->extent.file_offset + run->extent.size_bytes == next->extent.file_offset);
}

static void add_row(json_t *rows, const struct run *run)
{
    static const char *const kinds[] = {
        [BLOCK_EXTENT_DATA] = "data",   [BLOCK_EXTENT_COMPRESSED] = "compressed",
        [BLOCK_EXTENT_ZERO] = "zero",   [BLOCK_EXTENT_HOLE] = "hole",
        [BLOCK_EXTENT_ABSENT] = "hole",
    };
    enum block_extent_kind kind = run->extent.kind;
    bool is_data = kind == BLOCK_EXTENT_DATA || kind == BLOCK_EXTENT_COMPRESSED;
    json_t *row = json_object();
    json_object_set_new(row, "start", json_integer((json_int_t)run->start));
    json_object_set_new(row, "length", json_integer((json_int_t)run->extent.size_bytes));
    json_object_set_new(row, "kind", json_string(kinds[kind]));
    json_object_set_new(row, "depth", json_integer(run->depth));
    json_object_set_new(row, "data", json_boolean(is_data));
    json_object_set_new(row, "zero", json_boolean(!is_data));
    json_object_set_new(row, "present",
                        json_boolean(kind != BLOCK_EXTENT_HOLE && kind != BLOCK_EXTENT_ABSENT));
    json_object_set_new(row, "offset",
                        run->extent.has_offset && is_data
                            ? json_integer((json_int_t)run->extent.file_offset)
                            : json_null());
    json_array_append_new(rows, row);
}

static int make_rows(struct block *block, json_t *rows, struct error *err)
{
    struct block_info info;
    block_get_info(block, &info);
    struct run run = {0};
    for (uint64_t at = 0; at < info.size_bytes;) {
        struct run next = {.start = at};
        int rc = block_map_chain(block, at, info.size_bytes - at, &next.extent, &next.depth);
        if (rc < 0) {
            return error_set_errno(err, -rc, "map of %s at %llu", block_name(block),
                                   (unsigned long long)at);
        }
        at += next.extent.size_bytes;
        if (run.extent.size_bytes != 0 && goes_on(&run, &next)) {
            run.extent.size_bytes += next.extent.size_bytes;
            continue;
        }
        if (run.extent.size_bytes != 0) {
            add_row(rows, &run);
        }
        run = next;
    }
    add_row(rows, &run);
    return 0;
}

static int map_run(int argc, char **argv)
{
    static const struct output_column columns[] = {{"start", "START"},   {"length", "LENGTH"},
                                                   {"kind", "KIND"},     {"depth", "DEPTH"},
                                                   {"offset", "OFFSET"}, {0}};
    struct disk_options options = {0};
    int status = disk_words(&disk_map_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    struct error err;
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    json_t *rows = json_array();
    status = CLI_FAILURE;
    if (disk_begin(argv[0], &options.image, DISK_READ, &loop, &block, &err) < 0 ||
        make_rows(block, rows, &err) < 0) {
        (void)cli_fail(&err);
    } else {
        output_list(options.output, columns, rows, NULL);
        status = CLI_OK;
    }
    json_decref(rows);
    block_close(block);
    event_loop_destroy(loop);
    return status;
}

const struct verb disk_map_verb = {
    .name = "disk map",
    .arguments = "FILE",
    .summary = "Show where an image has data, zeros and holes",
    .description =
        "DEPTH counts the backing files from FILE (0) down; OFFSET is the place in the file\n"
        "that holds the data, if it lies there as it is.\n",
    .examples = "  hull disk map vm.raw\n"
                "  hull disk map overlay.qcow2 --allow base.qcow2 --json\n",
    .options = map_table,
    .complete = "FILE",
    .run = map_run,
};
