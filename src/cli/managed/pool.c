/* hull pool and volume. */
#include <stdlib.h>
#include <string.h>

#include "cli/managed/objects.h"

static const struct output_column pool_columns[] = {
    {"name", "NAME"},      {"driver", "DRIVER"},           {"total_text", "SIZE"},
    {"free_text", "FREE"}, {"description", "DESCRIPTION"}, {NULL, NULL}};
static const struct object_kind pool_kind = {
    .noun = "pool",
    .collection = "/v1/pools",
    .columns = pool_columns,
    .type_key = "driver",
    .default_type = "dir",
};

OBJECT_RUN(pool, list)
OBJECT_RUN(pool, create)
OBJECT_RUN(pool, info)
OBJECT_RUN(pool, delete)

static const struct option_spec pool_table[] = {
    {"driver", 'd', "DRIVER", "how things lie in it (default: dir)", "dir|btrfs",
     object_parse_type},
    {"description", 0, "TEXT", "what it is for", NULL, object_parse_description},
    MANAGED_OPTION_QUIET,
    {0},
};

const struct verb pool_list_verb = {
    .name = "pool list",
    .arguments = "",
    .summary = "List storage pools",
    .examples = "  hull pool list\n",
    .options = object_show_table,
    .run = pool_list_run,
};

const struct verb pool_create_verb = {
    .name = "pool create",
    .arguments = "NAME [KEY=VALUE]...",
    .summary = "Make a storage pool",
    .examples = "  hull pool create fast path=/mnt/nvme/hull\n"
                "  hull pool create tree --driver btrfs path=/mnt/btrfs/hull\n",
    .options = pool_table,
    .run = pool_create_run,
};

const struct verb pool_info_verb = {
    .name = "pool info",
    .arguments = "NAME",
    .summary = "Show a storage pool and its space",
    .examples = "  hull pool info default\n",
    .options = object_show_table,
    .complete = "POOL",
    .run = pool_info_run,
};

const struct verb pool_delete_verb = {
    .name = "pool delete",
    .arguments = "NAME...",
    .summary = "Delete storage pools that are empty",
    .examples = "  hull pool delete fast\n",
    .options = object_quiet_table,
    .complete = "POOL",
    .run = pool_delete_run,
};

static const struct verb *const pool_verbs[] = {
    &pool_list_verb, &pool_create_verb, &pool_info_verb, &pool_delete_verb, NULL,
};

const struct verb pool_verb = {
    .name = "pool",
    .arguments = "VERB [NAME]",
    .summary = "Where disks and volumes lie",
    .examples = "  hull pool list\n  hull pool create fast path=/mnt/nvme/hull\n",
    .verbs = pool_verbs,
};

#define DEFAULT_POOL "default"

static const struct output_column volume_columns[] = {{"name", "NAME"},
                                                      {"type", "TYPE"},
                                                      {"size_text", "SIZE"},
                                                      {"used_text", "USED BY"},
                                                      {"created_text", "CREATED"},
                                                      {NULL, NULL}};
static const struct object_kind volume_kind = {
    .noun = "volume",
    .collection = "/v1/volumes",
    .folder = DEFAULT_POOL,
    .columns = volume_columns,
};

OBJECT_RUN(volume, list)
OBJECT_RUN(volume, info)
OBJECT_RUN(volume, delete)

static const struct option_spec volume_table[] = {
    {"size", 's', "SIZE", "how large it is; of a folder the quota", NULL, object_parse_size},
    {"type", 't', "TYPE", "a disk (block) or a folder (tree) (default: block)", "block|tree",
     object_parse_type},
    MANAGED_OPTION_QUIET,
    {0},
};

/* "POOL/NAME", or NAME of the pool "default". */
static const char *split(const char *word, char *out_pool, size_t size)
{
    const char *slash = strchr(word, '/');
    (void)snprintf(out_pool, size, "%.*s",
                   slash != NULL ? (int)(slash - word) : (int)strlen(DEFAULT_POOL),
                   slash != NULL ? word : DEFAULT_POOL);
    return slash != NULL ? slash + 1 : word;
}

static int volume_create_run(int argc, char **argv)
{
    struct object_options options = {.type = "block"};
    struct client client;
    char pool[128];
    int count;
    int status = object_begin(&volume_create_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    const char *name = split(argv[0], pool, sizeof(pool));
    json_t *body = json_pack("{s:s, s:s, s:s}", "pool", pool, "name", name, "type", options.type);
    if (options.size != NULL) {
        (void)json_object_set_new(body, "size_bytes", json_integer((json_int_t)options.size_bytes));
    }
    status = managed_do(&client, "POST", "/v1/volumes", body, options.managed.is_quiet, NULL);
    json_decref(body);
    return status;
}

/* PATCH of a volume with one member, which is taken over. */
static int change(struct client *client, const char *name, const char *key, json_t *value,
                  bool is_quiet)
{
    char *path = object_path(&volume_kind, name);
    json_t *body = json_pack("{s:o}", key, value);
    int status = managed_do(client, "PATCH", path, body, is_quiet, NULL);
    json_decref(body);
    free(path);
    return status;
}

static int volume_resize_run(int argc, char **argv)
{
    struct object_options options = {0};
    struct client client;
    struct error err;
    int count;
    int status = object_begin(&volume_resize_verb, 2, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    if (object_parse_size(&options, argv[1], &err) < 0) {
        return cli_fail(&err);
    }
    return change(&client, argv[0], "size_bytes", json_integer((json_int_t)options.size_bytes),
                  options.managed.is_quiet);
}

static int volume_move_run(int argc, char **argv)
{
    struct object_options options = {0};
    struct client client;
    int count;
    int status = object_begin(&volume_move_verb, 2, 2, argc, argv, &options, &count, &client);
    return status >= 0
               ? status
               : change(&client, argv[0], "pool", json_string(argv[1]), options.managed.is_quiet);
}

const struct verb volume_list_verb = {
    .name = "volume list",
    .arguments = "",
    .summary = "List volumes",
    .examples = "  hull volume list\n",
    .options = object_show_table,
    .run = volume_list_run,
};

const struct verb volume_create_verb = {
    .name = "volume create",
    .arguments = "[POOL/]NAME",
    .summary = "Make a volume",
    .examples = "  hull volume create data --size 20G\n"
                "  hull volume create fast/shared --type tree\n",
    .options = volume_table,
    .run = volume_create_run,
};

const struct verb volume_info_verb = {
    .name = "volume info",
    .arguments = "[POOL/]NAME",
    .summary = "Show a volume",
    .examples = "  hull volume info data\n",
    .options = object_show_table,
    .complete = "VOLUME",
    .run = volume_info_run,
};

const struct verb volume_resize_verb = {
    .name = "volume resize",
    .arguments = "[POOL/]NAME SIZE",
    .summary = "Make a volume larger",
    .examples = "  hull volume resize data 40G\n",
    .options = object_quiet_table,
    .complete = "VOLUME",
    .run = volume_resize_run,
};

const struct verb volume_move_verb = {
    .name = "volume move",
    .arguments = "[POOL/]NAME POOL",
    .summary = "Move a volume to another pool",
    .examples = "  hull volume move data fast\n",
    .options = object_quiet_table,
    .complete = "VOLUME",
    .run = volume_move_run,
};

const struct verb volume_delete_verb = {
    .name = "volume delete",
    .arguments = "[POOL/]NAME...",
    .summary = "Delete volumes that no instance uses",
    .examples = "  hull volume delete data fast/shared\n",
    .options = object_quiet_table,
    .complete = "VOLUME",
    .run = volume_delete_run,
};

static const struct verb *const volume_verbs[] = {
    &volume_list_verb,
    &volume_create_verb,
    &volume_info_verb,
    &volume_resize_verb,
    &volume_move_verb,
    &volume_delete_verb,
    NULL,
};

const struct verb volume_verb = {
    .name = "volume",
    .arguments = "VERB [[POOL/]NAME]",
    .summary = "Disks and folders that instances share or outlive",
    .examples = "  hull volume create data --size 20G\n"
                "  hull config web1 set data.type=disk data.source=data\n",
    .verbs = volume_verbs,
};
