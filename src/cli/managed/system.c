/* hull system. */
#include <stdlib.h>
#include <string.h>

#include "cli/managed/objects.h"

static int show(const struct verb *verb, const char *path, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct error err;
    json_t *answer;
    int count;
    int status = object_begin(verb, 0, 0, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    if (client_call(&client, "GET", path, NULL, NULL, &answer, &err) < 0) {
        return cli_fail(&err);
    }
    output_object(options.output, answer);
    json_decref(answer);
    return CLI_OK;
}

static int info_run(int argc, char **argv)
{
    return show(&system_info_verb, "/v1/system", argc, argv);
}

const struct verb system_info_verb = {
    .name = "system info",
    .arguments = "",
    .summary = "Show what hulld is and what it can do here",
    .examples = "  hull system info\n",
    .options = object_show_table,
    .run = info_run,
};

/* What hulld counted, and the totals, for people. */
static void print_space(const json_t *space)
{
    static const struct output_column columns[] = {
        {"what", "WHAT"}, {"size_text", "SIZE"}, {NULL, NULL}};
    static const char *const totals[][2] = {
        {"total_bytes", "all of it"}, {"free_bytes", "free"}, {"disk_bytes", "the disk"}};
    json_t *rows = json_array(), *bytes;
    const char *area;
    json_object_foreach(json_object_get(space, "bytes"), area, bytes)
    {
        (void)json_array_append_new(rows, json_pack("{s:s, s:O}", "what", area, "size", bytes));
    }
    for (size_t i = 0; i < ARRAY_COUNT(totals); i++) {
        (void)json_array_append_new(rows, json_pack("{s:s, s:O*}", "what", totals[i][1], "size",
                                                    json_object_get(space, totals[i][0])));
    }
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        managed_add_size(row, "size", "size_text");
    }
    output_list(OUTPUT_TABLE, columns, rows, NULL);
    json_decref(rows);
}

static int df_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    json_t *result = NULL;
    int count;
    int status = object_begin(&system_df_verb, 0, 0, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    status = managed_do(&client, "POST", "/v1/system/df", NULL, options.is_quiet, &result);
    if (status == CLI_OK && options.output == OUTPUT_TABLE) {
        print_space(result);
    } else if (status == CLI_OK) {
        output_object(options.output, result);
    }
    json_decref(result);
    return status;
}

const struct verb system_df_verb = {
    .name = "system df",
    .arguments = "",
    .summary = "Show what takes how much space",
    .examples = "  hull system df\n",
    .options = object_show_table,
    .run = df_run,
};

static int prune_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = object_begin(&system_prune_verb, 0, 0, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    return managed_prune(&client, options.is_quiet);
}

const struct verb system_prune_verb = {
    .name = "system prune",
    .arguments = "",
    .summary = "Remove images that have no alias and that no instance was made from",
    .examples = "  hull system prune\n",
    .options = object_quiet_table,
    .run = prune_run,
};

struct check_options {
    struct managed_options managed;
    bool repairs;
};

static int parse_repair(void *into, const char *value, struct error *err)
{
    ((struct check_options *)into)->repairs = true;
    return 0;
}

static const struct option_spec check_table[] = {
    {"repair", 0, NULL, "mend what can be mended", NULL, parse_repair},
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

/* A problem is an object with what it is about, what is wrong, and whether it was repaired. */
static int check_run(int argc, char **argv)
{
    static const struct output_column columns[] = {
        {"about", "ABOUT"}, {"what", "PROBLEM"}, {"repaired", "REPAIRED"}, {NULL, NULL}};
    struct check_options options = {0};
    struct client client;
    json_t *result = NULL;
    int count;
    int status = object_begin(&system_check_verb, 0, 0, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:b}", "repair", (int)options.repairs);
    status = managed_do(&client, "POST", "/v1/system/check", body, true, &result);
    json_decref(body);
    if (status == CLI_OK) {
        size_t i;
        json_t *problem;
        json_array_foreach(json_object_get(result, "problems"), i, problem)
        {
            status = json_is_true(json_object_get(problem, "repaired")) ? status : CLI_FAILURE;
        }
        if (i > 0 || options.managed.output != OUTPUT_TABLE) {
            output_list(options.managed.output, columns, json_object_get(result, "problems"),
                        result);
        }
    }
    json_decref(result);
    return status;
}

const struct verb system_check_verb = {
    .name = "system check",
    .arguments = "",
    .summary = "Compare what hulld knows with what there is",
    .examples = "  hull system check\n  hull system check --repair\n",
    .exit_status = "  1 if something is wrong, which is printed, and was not mended.\n",
    .options = check_table,
    .run = check_run,
};

static const struct verb *const system_verbs[] = {
    &system_info_verb, &system_df_verb, &system_prune_verb, &system_check_verb, NULL,
};

const struct verb system_verb = {
    .name = "system",
    .arguments = "VERB",
    .summary = "The manager itself: space, checks, cleaning up",
    .examples = "  hull system info\n  hull system df\n",
    .verbs = system_verbs,
};
