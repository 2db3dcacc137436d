/* hull disk snapshot: snapshots inside of an image. */
#include <string.h>
#include <time.h>

#include "block/image.h"
#include "cli/disk/disk.h"

enum snapshot_action {
    SNAPSHOT_LIST,
    SNAPSHOT_CREATE,
    SNAPSHOT_APPLY,
    SNAPSHOT_DELETE
};

struct snapshot_options {
    struct disk_options disk;
    enum snapshot_action action;
    const char *name;
};

static int set_action(void *into, enum snapshot_action action, const char *name, struct error *err)
{
    struct snapshot_options *options = into;
    if (options->action != SNAPSHOT_LIST) {
        return error_set(err, EINVAL, "one of --create, --apply and --delete at a time");
    }
    if (name != NULL && name[0] == '\0') {
        return error_set(err, EINVAL, "the name is empty: at least one character");
    }
    options->action = action;
    options->name = name;
    return 0;
}

static int parse_list(void *into, const char *value, struct error *err)
{
    return set_action(into, SNAPSHOT_LIST, NULL, err);
}

static int parse_create(void *into, const char *value, struct error *err)
{
    return set_action(into, SNAPSHOT_CREATE, value, err);
}

static int parse_apply(void *into, const char *value, struct error *err)
{
    return set_action(into, SNAPSHOT_APPLY, value, err);
}

static int parse_delete(void *into, const char *value, struct error *err)
{
    return set_action(into, SNAPSHOT_DELETE, value, err);
}

static const struct option_spec snapshot_table[] = {
    {"list", 'l', NULL, "list the snapshots (the default)", NULL, parse_list},
    {"create", 'c', "NAME", "keep what the disk holds as a snapshot", NULL, parse_create},
    {"apply", 'a', "NAME", "let the disk hold what the snapshot does", NULL, parse_apply},
    {"delete", 'd', "NAME", "forget a snapshot", NULL, parse_delete},
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    DISK_OPTION_QUIET,
    {0},
};

void disk_snapshot_row(void *rows, const struct block_snapshot *snapshot)
{
    char date[40] = "";
    time_t seconds = (time_t)snapshot->date_s;
    struct tm parts;
    if (gmtime_r(&seconds, &parts) != NULL) {
        (void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    json_t *row = json_object();
    json_object_set_new(row, "id", disk_text(snapshot->id));
    json_object_set_new(row, "name", disk_text(snapshot->name));
    json_object_set_new(row, "created_at", json_string(date));
    json_object_set_new(row, "size_bytes", json_integer((json_int_t)snapshot->size_bytes));
    json_object_set_new(row, "vm_state_bytes", json_integer((json_int_t)snapshot->vm_state_bytes));
    json_object_set_new(row, "vm_clock_ns", json_integer((json_int_t)snapshot->vm_clock_ns));
    json_array_append_new(rows, row);
}

static int act(struct block *block, const struct snapshot_options *options, struct error *err)
{
    static const struct output_column columns[] = {{"id", "ID"},
                                                   {"name", "NAME"},
                                                   {"created_at", "CREATED"},
                                                   {"size_bytes", "DISK SIZE"},
                                                   {"vm_state_bytes", "VM STATE"},
                                                   {0}};
    switch (options->action) {
    case SNAPSHOT_CREATE:
        return block_snapshot_create(block, options->name, err);
    case SNAPSHOT_APPLY:
        return block_snapshot_apply(block, options->name, err);
    case SNAPSHOT_DELETE:
        return block_snapshot_delete(block, options->name, err);
    case SNAPSHOT_LIST:
        break;
    }
    json_t *rows = json_array();
    int rc = block_snapshot_list(block, disk_snapshot_row, rows, err);
    if (rc == 0) {
        output_list(options->disk.output, columns, rows, NULL);
    }
    json_decref(rows);
    return rc;
}

static int snapshot_run(int argc, char **argv)
{
    struct snapshot_options options = {0};
    int status = disk_words(&disk_snapshot_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    bool is_list = options.action == SNAPSHOT_LIST;
    /* What the image stands on is not needed: snapshots are about its own tables. */
    options.disk.image.is_alone = options.disk.image.backing == NULL && is_list;
    int rc = disk_begin(argv[0], &options.disk.image, is_list ? DISK_READ : DISK_WRITE, &loop,
                        &block, &err);
    if (rc == 0) {
        rc = act(block, &options, &err);
    }
    int finish_rc = block_finish(block, rc == 0 ? &err : NULL);
    event_loop_destroy(loop);
    return rc < 0 || finish_rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_snapshot_verb = {
    .name = "disk snapshot",
    .arguments = "FILE",
    .summary = "List, create, apply and delete snapshots inside of a qcow2 image",
    .examples = "  hull disk snapshot vm.qcow2\n"
                "  hull disk snapshot vm.qcow2 --create before-upgrade\n"
                "  hull disk snapshot vm.qcow2 --apply before-upgrade\n",
    .options = snapshot_table,
    .complete = "FILE",
    .run = snapshot_run,
};
