/* hull disk bitmap: bitmaps of changes inside of an image. */
#include <string.h>

#include "base/core/size.h"
#include "block/bitmap.h"
#include "cli/disk/disk.h"

enum bitmap_action {
    BITMAP_LIST,
    BITMAP_ADD,
    BITMAP_REMOVE,
    BITMAP_CLEAR,
    BITMAP_ENABLE,
    BITMAP_DISABLE,
    BITMAP_MERGE,
};

struct bitmap_options {
    struct disk_options disk;
    enum bitmap_action action;
    const char *source;
    uint64_t granularity;
};

static int set_action(void *into, enum bitmap_action action, struct error *err)
{
    struct bitmap_options *options = into;
    if (options->action != BITMAP_LIST) {
        return error_set(
            err, EINVAL,
            "one of --add, --remove, --clear, --enable, --disable and --merge at a time");
    }
    options->action = action;
    return 0;
}

static int parse_add(void *into, const char *value, struct error *err)
{
    return set_action(into, BITMAP_ADD, err);
}

static int parse_remove(void *into, const char *value, struct error *err)
{
    return set_action(into, BITMAP_REMOVE, err);
}

static int parse_clear(void *into, const char *value, struct error *err)
{
    return set_action(into, BITMAP_CLEAR, err);
}

static int parse_enable(void *into, const char *value, struct error *err)
{
    return set_action(into, BITMAP_ENABLE, err);
}

static int parse_disable(void *into, const char *value, struct error *err)
{
    return set_action(into, BITMAP_DISABLE, err);
}

static int parse_merge(void *into, const char *value, struct error *err)
{
    ((struct bitmap_options *)into)->source = value;
    return set_action(into, BITMAP_MERGE, err);
}

static int parse_granularity(void *into, const char *value, struct error *err)
{
    return size_parse(value, 1, &((struct bitmap_options *)into)->granularity, err);
}

static const struct option_spec bitmap_table[] = {
    {"add", 0, NULL, "make a bitmap that follows changes from now on", NULL, parse_add},
    {"granularity", 'g', "SIZE", "of a new one: bytes for each bit (default: 64K)", NULL,
     parse_granularity},
    {"remove", 0, NULL, "forget it", NULL, parse_remove},
    {"clear", 0, NULL, "let it begin anew", NULL, parse_clear},
    {"enable", 0, NULL, "let it follow changes", NULL, parse_enable},
    {"disable", 0, NULL, "let it stay as it is", NULL, parse_disable},
    {"merge", 0, "SOURCE", "let it have what the bitmap SOURCE has, too", NULL, parse_merge},
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    {0},
};

static void list(const struct block_front *front, const struct bitmap_options *options)
{
    static const struct output_column columns[] = {
        {"name", "NAME"},       {"granularity", "GRANULARITY"},   {"dirty_bytes", "DIRTY"},
        {"enabled", "ENABLED"}, {"inconsistent", "INCONSISTENT"}, {0}};
    json_t *rows = json_array();
    for (const struct block_bitmap *at = block_bitmap_first(front); at != NULL; at = at->next) {
        json_array_append_new(
            rows, json_pack("{s:o, s:I, s:I, s:b, s:b}", "name", disk_text(at->name), "granularity",
                            (json_int_t)at->map.granularity, "dirty_bytes",
                            (json_int_t)dirty_map_bytes(&at->map), "enabled", (int)at->is_enabled,
                            "inconsistent", (int)at->is_inconsistent));
    }
    output_list(options->disk.output, columns, rows, NULL);
    json_decref(rows);
}

static int find(const struct block_front *front, const char *name, struct block_bitmap **out_bitmap,
                struct error *err)
{
    *out_bitmap = block_bitmap_find(front, name);
    return *out_bitmap != NULL
               ? 0
               : error_set(err, ENOENT, "there is no bitmap %.40s in the image", name);
}

static int change(struct block_front *front, const struct bitmap_options *options, const char *name,
                  struct error *err)
{
    struct block_bitmap *bitmap, *source = NULL;
    int rc;
    if (options->action == BITMAP_ADD) {
        if (options->granularity > BLOCK_MAX_BITMAP_GRANULARITY) {
            return error_set(err, EINVAL, "a granularity is at most %u bytes",
                             BLOCK_MAX_BITMAP_GRANULARITY);
        }
        return block_bitmap_add(front, name, (uint32_t)options->granularity, true, true, &bitmap,
                                err);
    }
    rc = find(front, name, &bitmap, err);
    if (rc == 0 && options->action == BITMAP_REMOVE) {
        block_bitmap_remove(front, bitmap);
        return 0;
    }
    if (rc == 0 && options->action == BITMAP_MERGE) {
        rc = find(front, options->source, &source, err);
    }
    if (rc == 0) {
        rc = block_bitmap_check(bitmap, err);
    }
    if (rc == 0 && source != NULL) {
        rc = block_bitmap_check(source, err);
    }
    if (rc < 0) {
        return rc;
    }
    if (source != NULL) {
        block_bitmap_merge(bitmap, source);
    } else if (options->action == BITMAP_CLEAR) {
        dirty_map_clear(&bitmap->map, 0, bitmap->map.size_bytes);
    } else {
        bitmap->is_enabled = options->action == BITMAP_ENABLE;
    }
    return 0;
}

static int act(const char *path, const struct bitmap_options *options, const char *name,
               struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    struct block_front *front = NULL;
    struct disk_image image = options->disk.image;
    bool is_list = options->action == BITMAP_LIST;
    image.is_alone = image.backing == NULL && is_list; /* what it stands on is not needed */
    int rc = disk_begin(path, &image, is_list ? DISK_READ : DISK_WRITE, &loop, &block, err);
    if (rc == 0) {
        rc = block_front_create(block, &front, err);
        block = front != NULL ? block_front_block(front) : NULL;
    }
    if (rc == 0 && is_list) {
        list(front, options);
    } else if (rc == 0) {
        rc = change(front, options, name, err);
        if (rc < 0) {
            (void)error_prefix(err, rc, "disk %s", path);
        }
    }
    int finish_rc = block_finish(block, rc == 0 ? err : NULL); /* stores them */
    event_loop_destroy(loop);
    return rc < 0 ? rc : finish_rc;
}

static int bitmap_run(int argc, char **argv)
{
    struct bitmap_options options = {0};
    int count = 0;
    int status = cli_options(&disk_bitmap_verb, false, argc, argv, &options, &count);
    bool is_list = options.action == BITMAP_LIST;
    if (status >= 0 ||
        !disk_check_count(&disk_bitmap_verb, count, is_list ? 1 : 2, is_list ? 1 : 2)) {
        return status >= 0 ? status : CLI_FAILURE;
    }
    struct error err = {0};
    return act(argv[0], &options, is_list ? NULL : argv[1], &err) < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_bitmap_verb = {
    .name = "disk bitmap",
    .arguments = "FILE [NAME]",
    .summary = "List and change bitmaps of changes inside of a qcow2 image",
    .description =
        "Bitmaps say what has changed since some moment, for incremental backups of running VMs\n"
        "(`hull ctl PATH disk-backup`). One that is inconsistent lacks changes and can only be removed.\n",
    .examples = "  hull disk bitmap vm.qcow2\n"
                "  hull disk bitmap vm.qcow2 daily --add --granularity 64K\n"
                "  hull disk bitmap vm.qcow2 weekly --merge daily\n",
    .options = bitmap_table,
    .complete = "FILE",
    .run = bitmap_run,
};
