/* hull disk info: what an image is. */
#include <string.h>

#include "block/format/foreign/block.h"
#include "cli/disk/disk.h"

static const struct option_spec info_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE (default: found out)"),
    DISK_OPTION_ALLOW,
    DISK_OPTION_BACKING,
    DISK_OPTION_BACKING_FORMAT,
    OUTPUT_OPTION_JSON(disk_parse_json),
    OUTPUT_OPTION_FORMAT(disk_parse_output),
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
        json_t *value = json_string(text);
        json_object_set_new(object, key, value != NULL ? value : json_string("(not UTF-8)"));
    }
}

static void put_foreign(json_t *object, const struct foreign_info *info)
{
    put_text(object, "variant", info->variant);
    json_object_set_new(object, "compressed", json_boolean(info->is_compressed));
    json_object_set_new(object, "dirty", json_boolean(info->is_dirty));
    put_text(object, "id", info->id);
    put_text(object, "parent", info->parent_name);
    put_text(object, "parent_id", info->parent_id);
}

static json_t *describe(struct block *block, const char *path, enum output_format output)
{
    struct block_info info;
    block_get_info(block, &info);
    json_t *object = json_object();
    put_text(object, "file", path);
    bool is_raw = block_file(block) == NULL;
    put_text(object, "format", is_raw ? "raw" : block_format_name(block));
    put_size(object, output == OUTPUT_TABLE ? "size" : "size_bytes", info.size_bytes, output);
    put_size(object, output == OUTPUT_TABLE ? "on disk" : "allocated_bytes",
             disk_allocated_bytes(path), output);
    if (info.cluster_size != 0) {
        put_size(object, output == OUTPUT_TABLE ? "cluster" : "cluster_size_bytes",
                 info.cluster_size, output);
    }
    const struct foreign_info *foreign = foreign_block_info(block);
    if (foreign != NULL) {
        put_foreign(object, foreign);
    }
    if (block_backing(block) != NULL) {
        put_text(object, "backing", block_name(block_backing(block)));
    }
    return object;
}

static int info_run(int argc, char **argv)
{
    /* A backing file that is not allowed is left out: its name is shown. */
    struct disk_options options = {.image.is_alone = true};
    int count = 0;
    int status = cli_options(&disk_info_verb, false, argc, argv, &options, &count);
    if (status >= 0 || !disk_check_count(&disk_info_verb, count, 1, 1)) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    options.image.is_alone = options.image.backing == NULL && options.image.allowed_count == 0;
    struct error err;
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    status = CLI_FAILURE;
    if (event_loop_create(&loop, &err) < 0 ||
        disk_open(loop, argv[0], &options.image, DISK_READ, &block, &err) < 0) {
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
