/* hull start, stop, restart, pause, resume and delete. */
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

struct action {
    const struct verb *verb;
    const char *name;     /* in requests; NULL: delete */
    const char *label;    /* "starting" */
    const char *statuses; /* with --all: of those whose status is in it */
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static bool has_status(const char *statuses, const char *status)
{
    size_t length = strlen(status);
    for (const char *word = statuses; *word != '\0';) {
        size_t size = strcspn(word, "|");
        if (size == length && memcmp(word, status, size) == 0) {
            return true;
        }
        word += size + (word[size] == '|');
    }
    return false;
}

static void add_one(struct batch *batch, const struct action *action, const char *name,
                    const struct managed_options *options)
{
    if (action->name == NULL) {
        char *path = client_path("/v1/instances", name, NULL);
        path = options->is_forced ? client_add_query(path, "force", "true") : path;
        batch_try(batch, "DELETE", path, NULL);
        free(path);
        return;
    }
    json_t *body = json_pack("{s:s}", "action", action->name);
    if (options->is_forced) {
        (void)json_object_set_new(body, "force", json_true());
    }
    if (options->timeout_s > 0) {
        (void)json_object_set_new(body, "timeout_s", json_integer(options->timeout_s));
    }
    char *path = client_path("/v1/instances", name, "actions", NULL);
    batch_try(batch, "POST", path, body);
    free(path);
    json_decref(body);
}

static int add_all(struct batch *batch, const struct action *action,
                   const struct managed_options *options, struct error *err)
{
    json_t *list, *instance;
    size_t i;
    int rc = client_call(batch->client, "GET", "/v1/instances", NULL, NULL, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(list, i, instance)
    {
        if (action->statuses == NULL || has_status(action->statuses, text_of(instance, "status"))) {
            add_one(batch, action, text_of(instance, "name"), options);
        }
    }
    json_decref(list);
    return 0;
}

static int action_run(const struct action *action, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct batch batch;
    struct error err = {0};
    int count;
    int status = cli_words(action->verb, 0, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    if (options.is_all ? count > 0 : count == 0) {
        error_set(&err, EINVAL, "%s: NAMES or --all, one of both", action->verb->name);
        return cli_fail(&err);
    }
    if (options.is_all && action->name == NULL && !options.is_forced) {
        error_set(&err, EINVAL, "delete --all: would delete every instance: with --force");
        return cli_fail(&err);
    }
    int rc = managed_open(&client, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    batch_begin(&batch, &client, action->label, options.is_quiet);
    if (options.is_all) {
        rc = add_all(&batch, action, &options, &err);
    }
    for (int i = 0; i < count; i++) {
        add_one(&batch, action, argv[i], &options);
    }
    status = batch_end(&batch, NULL);
    return rc < 0 ? cli_fail(&err) : status;
}

#define OPTION_TIMEOUT                                                                             \
    {                                                                                              \
        "timeout", 0, "SECONDS", "how long it may take to shut down before it is stopped at once", \
            NULL, managed_parse_timeout                                                            \
    }

static const struct option_spec start_table[] = {
    MANAGED_OPTION_ALL("all that are stopped"),
    MANAGED_OPTION_QUIET,
    {0},
};
static const struct option_spec stop_table[] = {
    MANAGED_OPTION_ALL("all that run"),
    MANAGED_OPTION_FORCE("at once, like pulling the plug"),
    OPTION_TIMEOUT,
    MANAGED_OPTION_QUIET,
    {0},
};
static const struct option_spec pause_table[] = {
    MANAGED_OPTION_ALL("all that run"),
    MANAGED_OPTION_QUIET,
    {0},
};
static const struct option_spec resume_table[] = {
    MANAGED_OPTION_ALL("all that are paused"),
    MANAGED_OPTION_QUIET,
    {0},
};
static const struct option_spec delete_table[] = {
    MANAGED_OPTION_ALL("every instance; needs --force"),
    MANAGED_OPTION_FORCE("also those that run"),
    MANAGED_OPTION_QUIET,
    {0},
};

static int start_run(int argc, char **argv)
{
    static const struct action action = {&start_verb, "start", "starting", "stopped|error"};
    return action_run(&action, argc, argv);
}

const struct verb start_verb = {
    .name = "start",
    .arguments = "NAME...",
    .summary = "Start instances",
    .examples = "  hull start web1 web2\n  hull start --all\n",
    .options = start_table,
    .complete = "INSTANCE",
    .run = start_run,
};

static int stop_run(int argc, char **argv)
{
    static const struct action action = {&stop_verb, "stop", "stopping", "running|paused"};
    return action_run(&action, argc, argv);
}

const struct verb stop_verb = {
    .name = "stop",
    .arguments = "NAME...",
    .summary = "Shut instances down",
    .description =
        "Asks the instance's init, or presses the power button. One that has not ended after the timeout is\n"
        "stopped at once.\n",
    .examples = "  hull stop web1\n  hull stop --all --timeout 30\n  hull stop web1 --force\n",
    .options = stop_table,
    .complete = "INSTANCE",
    .run = stop_run,
};

static int restart_run(int argc, char **argv)
{
    static const struct action action = {&restart_verb, "restart", "restarting", "running"};
    return action_run(&action, argc, argv);
}

const struct verb restart_verb = {
    .name = "restart",
    .arguments = "NAME...",
    .summary = "Shut instances down and start them again",
    .examples = "  hull restart web1\n",
    .options = stop_table,
    .complete = "INSTANCE",
    .run = restart_run,
};

static int pause_run(int argc, char **argv)
{
    static const struct action action = {&pause_verb, "pause", "pausing", "running"};
    return action_run(&action, argc, argv);
}

const struct verb pause_verb = {
    .name = "pause",
    .arguments = "NAME...",
    .summary = "Have instances stand still, in memory",
    .examples = "  hull pause web1\n",
    .options = pause_table,
    .complete = "INSTANCE",
    .run = pause_run,
};

static int resume_run(int argc, char **argv)
{
    static const struct action action = {&resume_verb, "resume", "resuming", "paused"};
    return action_run(&action, argc, argv);
}

const struct verb resume_verb = {
    .name = "resume",
    .arguments = "NAME...",
    .summary = "Have paused instances go on",
    .examples = "  hull resume web1\n",
    .options = resume_table,
    .complete = "INSTANCE",
    .run = resume_run,
};

static int delete_run(int argc, char **argv)
{
    static const struct action action = {&delete_verb, NULL, "deleting", NULL};
    return action_run(&action, argc, argv);
}

const struct verb delete_verb = {
    .name = "delete",
    .arguments = "NAME...",
    .summary = "Delete instances, with their disks and snapshots",
    .examples = "  hull delete web1\n  hull delete web1 --force\n",
    .options = delete_table,
    .complete = "INSTANCE",
    .run = delete_run,
};
