/* hull disk info: what an image is. */
#include <string.h>

#include "block/image.h"
#include "cli/disk/disk.h"

static const struct option_spec info_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: found out)"),
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    {0},
};

static void put_size(json_t *object, const char *key, uint64_t bytes, enum output_format output)
{
    char text[64];
    if (output == OUTPUT_TABLE) {
        json_object_set_new(object, key, json_string(disk_size_text(bytes, text, sizeof(text))));
    } else {
        json_object_set_new(object, key, json_integer((json_int_t)bytes));
    }
}

static void put_text(json_t *object, const char *key, const char *text)
{
    if (text[0] != '\0') {
        json_object_set_new(object, key, disk_text(text));
    }
}

/* "refcount-bits" is "refcount_bits" here, as all keys are. */
static void put_detail(void *ctx, const struct block_detail *detail)
{
    json_t *object = ctx;
    char key[64];
    (void)snprintf(key, sizeof(key), "%s", detail->key);
    for (char *c = key; *c != '\0'; c++) {
        if (*c == '-') {
            *c = '_';
        }
    }
    if (strcmp(key, "cluster_size") == 0 || strcmp(key, "snapshots") == 0) {
        return; /* told in another form */
    }
    if (detail->text != NULL) {
        put_text(object, key, detail->text);
    } else {
        json_object_set_new(object, key,
                            detail->is_flag ? json_boolean(detail->number != 0)
                                            : json_integer((json_int_t)detail->number));
    }
}

static json_t *describe(struct block *block, const char *path, enum output_format output)
{
    bool is_table = output == OUTPUT_TABLE;
    struct block_info info;
    block_get_info(block, &info);
    json_t *object = json_object();
    put_text(object, "file", path);
    bool is_raw = block_file(block) == NULL;
    put_text(object, "format", is_raw ? "raw" : block_format_name(block));
    put_size(object, is_table ? "size" : "size_bytes", info.size_bytes, output);
    if (!block_is_uri(path)) {
        put_size(object, is_table ? "on_disk" : "allocated_bytes", disk_allocated_bytes(path),
                 output);
    }
    if (info.cluster_size != 0) {
        put_size(object, is_table ? "cluster" : "cluster_size_bytes", info.cluster_size, output);
    }
    block_describe(block, put_detail, object);
    json_t *rows = json_array();
    if (block_snapshot_list(block, disk_snapshot_row, rows, NULL) == 0 &&
        json_array_size(rows) != 0) {
        json_object_set(object, "snapshots", rows);
    }
    json_decref(rows);
    return object;
}

static int info_run(int argc, char **argv)
{
    /* A backing file that is not allowed is left out: its name is shown. */
    struct disk_options options = {.image.is_alone = true};
    int status = disk_words(&disk_info_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    options.image.is_alone = options.image.backing == NULL && options.image.allowed_count == 0;
    struct error err;
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    status = CLI_FAILURE;
    if (disk_begin(argv[0], &options.image, DISK_READ, &loop, &block, &err) < 0) {
        (void)cli_fail(&err);
    } else {
        json_t *object = describe(block, argv[0], options.output);
        output_object(options.output, object);
        json_decref(object);
        status = CLI_OK;
    }
    block_close(block);
    event_loop_destroy(loop);
    return status;
}

const struct verb disk_info_verb = {
    .name = "disk info",
    .arguments = "FILE",
    .summary = "Show what an image is: format, sizes, what it stands on",
    .examples = "  hull disk info vm.qcow2\n"
                "  hull disk info --json vm.vhdx\n"
                "  hull disk info split.vmdk --allow 'split-s*.vmdk'\n",
    .options = info_table,
    .complete = "FILE",
    .run = info_run,
};
