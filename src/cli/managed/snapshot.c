/* hull snapshot and clone. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/managed/managed.h"

struct snapshot_options {
    struct managed_options managed;
    bool has_memory, is_live;
};

static int parse_memory(void *into, const char *value, struct error *err)
{
    ((struct snapshot_options *)into)->has_memory = true;
    return 0;
}

static int parse_live(void *into, const char *value, struct error *err)
{
    ((struct snapshot_options *)into)->is_live = true;
    return 0;
}

static const struct option_spec create_table[] = {
    {"memory", 'm', NULL, "of a VM that runs also its memory: it goes on from there", NULL,
     parse_memory},
    MANAGED_OPTION_QUIET,
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

static int create_run(int argc, char **argv)
{
    struct snapshot_options options = {0};
    struct client client;
    char made_up[32];
    int count;
    int status = begin(&snapshot_create_verb, 1, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    const char *name = count == 2 ? argv[1] : made_up;
    time_t now = time(NULL);
    struct tm utc;
    (void)strftime(made_up, sizeof(made_up), "%Y%m%d-%H%M%S", gmtime_r(&now, &utc));
    char *path = client_path("/v1/instances", argv[0], "snapshots", NULL);
    json_t *body = json_pack("{s:s, s:b}", "name", name, "memory", options.has_memory);
    status = managed_do(&client, "POST", path, body, options.managed.is_quiet, NULL);
    if (status == CLI_OK && count == 1) {
        (void)puts(name);
    }
    json_decref(body);
    free(path);
    return status;
}

const struct verb snapshot_create_verb = {
    .name = "snapshot create",
    .arguments = "NAME [SNAPSHOT]",
    .summary = "Keep an instance as it is now",
    .description =
        "Without SNAPSHOT it is called like the time, which is printed. One that runs stands still meanwhile.\n",
    .examples = "  hull snapshot create web1 before\n  hull snapshot create vm1 running --memory\n",
    .options = create_table,
    .complete = "INSTANCE",
    .run = create_run,
};

static const struct option_spec list_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

static void add_texts(json_t *row)
{
    bool has_memory = json_is_true(json_object_get(row, "memory"));
    managed_add_time(row, "created_at", "created_text");
    managed_add_first(row, "parent", "parent_text");
    (void)json_object_set_new(row, "memory_text", json_string(has_memory ? "yes" : "-"));
}

static int list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {{"name", "NAME"},
                                                   {"created_text", "CREATED"},
                                                   {"memory_text", "MEMORY"},
                                                   {"parent_text", "PARENT"},
                                                   {NULL, NULL}};
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&snapshot_list_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = client_path("/v1/instances", argv[0], "snapshots", NULL);
    status = managed_list(&client, path, options.output, columns, add_texts);
    free(path);
    return status;
}

const struct verb snapshot_list_verb = {
    .name = "snapshot list",
    .arguments = "NAME",
    .summary = "List an instance's snapshots",
    .examples = "  hull snapshot list web1\n",
    .options = list_table,
    .complete = "INSTANCE",
    .run = list_run,
};

static const struct option_spec plain_table[] = {
    MANAGED_OPTION_QUIET,
    {0},
};

static int restore_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&snapshot_restore_verb, 2, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = client_path("/v1/instances", argv[0], "snapshots", argv[1], "restore", NULL);
    status = managed_do(&client, "POST", path, NULL, options.is_quiet, NULL);
    free(path);
    return status;
}

const struct verb snapshot_restore_verb = {
    .name = "snapshot restore",
    .arguments = "NAME SNAPSHOT",
    .summary = "Make an instance what it was at a snapshot",
    .description = "What it is now is lost, unless a snapshot has it.\n",
    .examples = "  hull snapshot restore web1 before\n",
    .options = plain_table,
    .complete = "SNAPSHOT",
    .run = restore_run,
};

static int delete_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct batch batch;
    int count;
    int status = begin(&snapshot_delete_verb, 2, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    batch_begin(&batch, &client, "deleting snapshots", options.is_quiet);
    for (int i = 1; i < count; i++) {
        char *path = client_path("/v1/instances", argv[0], "snapshots", argv[i], NULL);
        batch_try(&batch, "DELETE", path, NULL);
        free(path);
    }
    return batch_end(&batch, NULL);
}

const struct verb snapshot_delete_verb = {
    .name = "snapshot delete",
    .arguments = "NAME SNAPSHOT...",
    .summary = "Delete snapshots",
    .examples = "  hull snapshot delete web1 before\n",
    .options = plain_table,
    .complete = "SNAPSHOT",
    .run = delete_run,
};

static const struct verb *const snapshot_verbs[] = {
    &snapshot_create_verb, &snapshot_list_verb, &snapshot_restore_verb, &snapshot_delete_verb, NULL,
};

const struct verb snapshot_verb = {
    .name = "snapshot",
    .arguments = "VERB NAME [SNAPSHOT]",
    .summary = "Keep instances as they are, and go back to that",
    .examples = "  hull snapshot create web1 before\n  hull snapshot restore web1 before\n",
    .verbs = snapshot_verbs,
};

static const struct option_spec clone_table[] = {
    {"live", 0, NULL, "of a VM that runs, with its memory: the new one goes on from there", NULL,
     parse_live},
    MANAGED_OPTION_QUIET,
    {0},
};

static int clone_run(int argc, char **argv)
{
    struct snapshot_options options = {0};
    struct client client;
    int count;
    int status = begin(&clone_verb, 2, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:s, s:b}", "name", argv[1], "live", options.is_live);
    char *slash = strchr(argv[0], '/');
    if (slash != NULL) {
        *slash = '\0';
        (void)json_object_set_new(body, "snapshot", json_string(slash + 1));
    }
    char *path = client_path("/v1/instances", argv[0], "clone", NULL);
    status = managed_do(&client, "POST", path, body, options.managed.is_quiet, NULL);
    free(path);
    json_decref(body);
    return status;
}

const struct verb clone_verb = {
    .name = "clone",
    .arguments = "NAME[/SNAPSHOT] NEW",
    .summary = "Make an instance like another one, or like it was at a snapshot",
    .description =
        "The new one shares what neither changes, and has a name, addresses and ids of its own.\n",
    .examples =
        "  hull clone web1 web2\n  hull clone web1/before test\n  hull clone vm1 vm2 --live\n",
    .options = clone_table,
    .complete = "INSTANCE",
    .run = clone_run,
};
