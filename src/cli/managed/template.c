/* hull template: golden images of instances. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

struct template_options {
    struct managed_options managed;
    const char *description;
    bool is_live;
};

static int parse_description(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->description = value;
    return 0;
}

static int parse_live(void *into, const char *value, struct error *err)
{
    ((struct template_options *)into)->is_live = true;
    return 0;
}

static const struct option_spec show_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

/* Options, words, and the manager. As cli_words. */
static int begin(const struct verb *verb, int min, int max, int argc, char **argv, void *into,
                 int *out_count, struct client *client)
{
    struct error err;
    int status = cli_words(verb, min, max, argc, argv, into, out_count);
    return status >= 0 ? status : managed_open(client, &err) < 0 ? cli_fail(&err) : -1;
}

static void add_texts(json_t *row)
{
    managed_add_size(row, "size_bytes", "size_text");
    managed_add_time(row, "created_at", "created_text");
}

static int list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {{"name", "TEMPLATE"},
                                                   {"kind", "KIND"},
                                                   {"from", "FROM"},
                                                   {"size_text", "SIZE"},
                                                   {"created_text", "CREATED"},
                                                   {"description", "DESCRIPTION"},
                                                   {NULL, NULL}};
    struct template_options options = {0};
    struct client client;
    int count;
    int status = begin(&template_list_verb, 0, 0, argc, argv, &options, &count, &client);
    return status >= 0
               ? status
               : managed_list(&client, "/v1/templates", options.managed.output, columns, add_texts);
}

const struct verb template_list_verb = {
    .name = "template list",
    .arguments = "",
    .summary = "List the templates that there are",
    .examples = "  hull template list\n  hull template list --json\n",
    .options = show_table,
    .run = list_run,
};

static int info_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct client client;
    struct error err;
    json_t *info;
    int count;
    int status = begin(&template_info_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = client_path("/v1/templates", argv[0], NULL);
    int rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
    free(path);
    if (rc < 0) {
        return cli_fail(&err);
    }
    output_object(options.managed.output, info);
    json_decref(info);
    return CLI_OK;
}

const struct verb template_info_verb = {
    .name = "template info",
    .arguments = "TEMPLATE",
    .summary = "Show what a template is, and what is launched with it",
    .examples = "  hull template info golden\n",
    .options = show_table,
    .complete = "TEMPLATE",
    .run = info_run,
};

static const struct option_spec create_table[] = {
    {"live", 'l', NULL, "of one that runs, as a snapshot of it would be", NULL, parse_live},
    {"description", 'd', "TEXT", "what it is for", NULL, parse_description},
    MANAGED_OPTION_FORCE("replace a template of that name"),
    MANAGED_OPTION_QUIET,
    {0},
};

static int create_run(int argc, char **argv)
{
    struct template_options options = {0};
    struct client client;
    int count;
    int status = begin(&template_create_verb, 1, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:s, s:s*, s:s*, s:b, s:b}", "instance", argv[0], "name",
                             count == 2 ? argv[1] : NULL, "description", options.description,
                             "live", options.is_live, "replace", options.managed.is_forced);
    status = managed_do(&client, "POST", "/v1/templates", body, options.managed.is_quiet, NULL);
    json_decref(body);
    return status;
}

const struct verb template_create_verb = {
    .name = "template create",
    .arguments = "NAME [TEMPLATE]",
    .summary = "Make a template of an instance",
    .description =
        "Its files become an image, without machine-id, host keys and the like, which each instance that is launched from it\n"
        "gets for itself; its limits, devices and profiles are those that they are launched with. Without TEMPLATE it is\n"
        "called like the instance, which stays as it is.\n",
    .examples = "  hull template create web1 golden\n  hull launch golden web2\n"
                "  hull template create vm1 --live --description 'database'\n",
    .options = create_table,
    .complete = "INSTANCE",
    .run = create_run,
};

static const struct option_spec quiet_table[] = {
    MANAGED_OPTION_QUIET,
    {0},
};

static int delete_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct batch batch;
    int count;
    int status = begin(&template_delete_verb, 1, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    batch_begin(&batch, &client, "deleting templates", options.is_quiet);
    for (int i = 0; i < count; i++) {
        char *path = client_path("/v1/templates", argv[i], NULL);
        batch_try(&batch, "DELETE", path, NULL);
        free(path);
    }
    return batch_end(&batch, NULL);
}

const struct verb template_delete_verb = {
    .name = "template delete",
    .arguments = "TEMPLATE...",
    .summary = "Delete templates",
    .description = "Instances that were launched from them keep what they need.\n",
    .examples = "  hull template delete golden\n",
    .options = quiet_table,
    .complete = "TEMPLATE",
    .run = delete_run,
};

static const struct verb *const template_verbs[] = {
    &template_list_verb, &template_create_verb, &template_info_verb, &template_delete_verb, NULL,
};

const struct verb template_verb = {
    .name = "template",
    .arguments = "VERB [TEMPLATE]",
    .summary = "Make and use golden images of instances",
    .description =
        "A template is an image that was made of an instance, with the configuration that others are launched with:\n"
        "`hull launch TEMPLATE NAME`. What launch is told explicitly wins.\n",
    .examples = "  hull template create web1 golden\n  hull launch golden web2\n",
    .verbs = template_verbs,
};
