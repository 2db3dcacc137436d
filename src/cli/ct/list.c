/* hull ct list and info. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "cli/ct/ct.h"

static const struct option_spec list_table[] = {
    OUTPUT_OPTION_JSON(ct_parse_json),
    OUTPUT_OPTION_FORMAT(ct_parse_output),
    CT_OPTION_STATE,
    {0},
};

static const struct output_column columns[] = {
    {"name", "NAME"},   {"status", "STATUS"},   {"ipv4_text", "IPV4"},
    {"image", "IMAGE"}, {"cpus_text", "CPUS"},  {"memory_text", "MEMORY"},
    {"pid", "PID"},     {"processes", "TASKS"}, {NULL, NULL},
};

/* What a table shows in place of lists and bytes. */
static void add_texts(json_t *info)
{
    char used[24] = "-", limit[24] = "-", text[64];
    const json_t *memory = json_object_get(info, "memory_used_bytes");
    const json_t *most = json_object_get(info, "memory_bytes");
    if (json_is_integer(memory)) {
        (void)size_format((uint64_t)json_integer_value(memory), used, sizeof(used));
    }
    if (json_is_integer(most)) {
        (void)size_format((uint64_t)json_integer_value(most), limit, sizeof(limit));
    }
    (void)snprintf(text, sizeof(text), "%s/%s", used, limit);
    (void)json_object_set_new(info, "memory_text", json_string(text));
    const json_t *cpus = json_object_get(info, "cpus");
    (void)snprintf(text, sizeof(text), "%g", json_number_value(cpus));
    (void)json_object_set_new(info, "cpus_text", json_string(json_is_number(cpus) ? text : "-"));
    const json_t *addresses = json_object_get(info, "ipv4");
    const char *first = json_string_value(json_array_get(addresses, 0));
    (void)json_object_set_new(info, "ipv4_text", json_string(first != NULL ? first : "-"));
}

static int list_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    char **names = NULL;
    size_t count = 0;
    int words;
    int status = cli_words(&ct_list_verb, 0, 0, argc, argv, &options, &words);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : config_list(&life.store, &names, &count, &err);
    json_t *rows = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *info;
        struct error damaged;
        if (life_info(&life, names[i], &info, &damaged) < 0) {
            info = json_pack("{s:s, s:s, s:s, s:s}", "name", names[i], "kind", "container",
                             "status", "error", "error", damaged.text);
        }
        if (options.output == OUTPUT_TABLE || options.output == OUTPUT_CSV) {
            add_texts(info);
        }
        (void)json_array_append_new(rows, info);
        free(names[i]);
    }
    free(names);
    if (rc == 0) {
        output_list(options.output, columns, rows, NULL);
    }
    json_decref(rows);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_list_verb = {
    .name = "ct list",
    .arguments = "",
    .summary = "List containers",
    .examples = "  hull ct list\n  hull ct list --json\n",
    .options = list_table,
    .run = list_run,
};

static int info_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    json_t *info;
    int words;
    int status = cli_words(&ct_info_verb, 1, 1, argc, argv, &options, &words);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : life_info(&life, argv[0], &info, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    output_object(options.output, info);
    json_decref(info);
    return CLI_OK;
}

const struct verb ct_info_verb = {
    .name = "ct info",
    .arguments = "NAME",
    .summary = "Show a container: configuration, usage, which limits were hit",
    .examples = "  hull ct info web\n  hull ct info web --json\n",
    .options = list_table,
    .complete = "CONTAINER",
    .run = info_run,
};
