/* hull list and info. */
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

struct list_options {
    struct managed_options managed;
    const char *kind;
    bool only_running;
};

static int parse_vm(void *into, const char *value, struct error *err)
{
    ((struct list_options *)into)->kind = "vm";
    return 0;
}

static int parse_container(void *into, const char *value, struct error *err)
{
    ((struct list_options *)into)->kind = "container";
    return 0;
}

static int parse_running(void *into, const char *value, struct error *err)
{
    ((struct list_options *)into)->only_running = true;
    return 0;
}

static const struct option_spec list_table[] = {
    {"vm", 0, NULL, "only VMs", NULL, parse_vm},
    {"container", 0, NULL, "only containers", NULL, parse_container},
    {"running", 'r', NULL, "only those that run", NULL, parse_running},
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

static bool is_chosen(const json_t *row, const struct list_options *options)
{
    const char *kind = json_string_value(json_object_get(row, "kind"));
    const char *status = json_string_value(json_object_get(row, "status"));
    return (options->kind == NULL || (kind != NULL && strcmp(kind, options->kind) == 0)) &&
           (!options->only_running || (status != NULL && strcmp(status, "running") == 0));
}

static void add_texts(json_t *row)
{
    managed_add_first(row, "ipv4", "ipv4_text");
    managed_add_first(row, "cpus", "cpus_text");
    managed_add_size(row, "memory_bytes", "memory_text");
    managed_add_time(row, "created_at", "created_text");
    managed_add_first(row, "image", "image_text");
}

static int list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {
        {"name", "NAME"},
        {"kind", "KIND"},
        {"status", "STATUS"},
        {"image_text", "IMAGE"},
        {"ipv4_text", "IPV4"},
        {"cpus_text", "CPUS"},
        {"memory_text", "MEMORY"},
        {"created_text", "CREATED"},
        {NULL, NULL},
    };
    struct list_options options = {0};
    struct client client;
    struct error err = {0};
    json_t *list, *row;
    size_t i;
    int count;
    int status = cli_words(&list_verb, 0, 0, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = managed_open(&client, &err);
    rc = rc < 0 ? rc : client_call(&client, "GET", "/v1/instances", NULL, NULL, &list, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    enum output_format output = options.managed.output;
    json_t *rows = json_array();
    json_array_foreach(list, i, row)
    {
        if (is_chosen(row, &options)) {
            if (output == OUTPUT_TABLE || output == OUTPUT_CSV) {
                add_texts(row);
            }
            (void)json_array_append(rows, row);
        }
    }
    output_list(output, columns, rows, NULL);
    json_decref(rows);
    json_decref(list);
    return CLI_OK;
}

const struct verb list_verb = {
    .name = "list",
    .arguments = "",
    .summary = "List instances: VMs and containers",
    .examples = "  hull list\n  hull list --running --json\n",
    .options = list_table,
    .run = list_run,
};

static const struct option_spec info_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

static int info_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct error err = {0};
    json_t *info;
    int count;
    int status = cli_words(&info_verb, 1, 1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = managed_open(&client, &err);
    if (rc == 0) {
        char *path = client_path("/v1/instances", argv[0], NULL);
        rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
        free(path);
    }
    if (rc < 0) {
        return cli_fail(&err);
    }
    output_object(options.output, info);
    json_decref(info);
    return CLI_OK;
}

const struct verb info_verb = {
    .name = "info",
    .arguments = "NAME",
    .summary = "Show an instance: what it is, and what it uses now",
    .examples = "  hull info web1\n  hull info web1 --json\n",
    .options = info_table,
    .complete = "INSTANCE",
    .run = info_run,
};
