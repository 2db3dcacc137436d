/* hull ct snapshot and clone. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/ct/ct.h"

static const struct option_spec snapshot_table[] = {
    OUTPUT_OPTION_JSON(ct_parse_json),
    OUTPUT_OPTION_FORMAT(ct_parse_output),
    CT_OPTION_STATE,
    {0},
};

static int show(const struct life *life, const char *name, const struct ct_options *options,
                struct error *err)
{
    static const struct output_column columns[] = {
        {"name", "NAME"}, {"created_at", "CREATED"}, {NULL, NULL}};
    json_t *rows;
    int rc = life_snapshot_list(life, name, &rows, err);
    if (rc == 0) {
        output_list(options->output, columns, rows, NULL);
        json_decref(rows);
    }
    return rc;
}

static int snapshot_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_snapshot_verb, 2, 3, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    const char *what = argv[0], *name = argv[1], *snapshot = argv[2];
    int rc = ct_open(&options, &life, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    if (count == 2 && strcmp(what, "list") == 0) {
        rc = show(&life, name, &options, &err);
    } else if (count == 3 && strcmp(what, "create") == 0) {
        rc = life_snapshot(&life, name, snapshot, &err);
    } else if (count == 3 && strcmp(what, "restore") == 0) {
        rc = life_snapshot_restore(&life, name, snapshot, &err);
    } else if (count == 3 && strcmp(what, "delete") == 0) {
        rc = life_snapshot_delete(&life, name, snapshot, &err);
    } else {
        rc = error_set(&err, EINVAL, "usage: hull ct snapshot %s", ct_snapshot_verb.arguments);
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_snapshot_verb = {
    .name = "ct snapshot",
    .arguments = "create|restore|delete NAME SNAPSHOT | list NAME",
    .summary = "Keep a container's files as they are, and go back to them",
    .description =
        "A snapshot has the container's own files and its configuration; those of the template are\n"
        "shared. It takes as long as copying what the container has changed, or no time where the file\n"
        "system shares blocks. A container that runs is frozen meanwhile. Restoring needs it stopped.\n",
    .examples = "  hull ct snapshot create web before\n  hull ct snapshot restore web before\n",
    .options = snapshot_table,
    .complete = "create|list|restore|delete",
    .run = snapshot_run,
};

static const struct option_spec clone_table[] = {
    CT_OPTION_STATE,
    {0},
};

static int clone_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_clone_verb, 2, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    char *slash = strchr(argv[0], '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc
                : life_clone(&life, argv[0], slash != NULL ? slash + 1 : NULL, argv[1],
                             (const char *const *)argv + 2, (size_t)count - 2, &err);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_clone_verb = {
    .name = "ct clone",
    .arguments = "NAME[/SNAPSHOT] NEW [KEY=VALUE]...",
    .summary = "Make a container like another one, or like it was at a snapshot",
    .description =
        "The new one has the same template and a copy of the other's own files, and ids, addresses and\n"
        "a host name of its own; KEY=VALUE changes more of its configuration (`hull ct set --help`).\n",
    .examples = "  hull ct clone web web2\n  hull ct clone web/before test memory=256M\n",
    .options = clone_table,
    .complete = "CONTAINER",
    .run = clone_run,
};
