/* hull ct set, upgrade and pool. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/ct/ct.h"
#include "system/pool.h"

static const struct option_spec set_table[] = {
    CT_OPTION_QUIET,
    CT_OPTION_STATE,
    {0},
};

static int set_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    bool waits = false;
    int count;
    int status = cli_words(&ct_set_verb, 2, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc
                : life_set(&life, argv[0], (const char *const *)argv + 1, (size_t)count - 1, &waits,
                           &err);
    if (rc == 0 && waits && !options.is_quiet) {
        (void)fprintf(stderr, "hull: some of it takes effect when %s starts the next time\n",
                      argv[0]);
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_set_verb = {
    .name = "ct set",
    .arguments = "NAME KEY=VALUE...",
    .summary = "Change a container's configuration, live where that is possible",
    .description =
        "KEY= takes a key away. Of keys that are lists, KEY+=ITEM and KEY-=ITEM add and remove.\n"
        "\n"
        "At once, also of a running container:\n"
        "  cpus, cpu_shares, cpu_set, pool, memory, swap, processes, io_weight (10 to 1000),\n"
        "  io_read, io_write (bytes a second), io_read_iops, io_write_iops, autostart, order,\n"
        "  stop_timeout (seconds), stop_signal\n"
        "At the next start:\n"
        "  hostname, dns (list), search, network (list of cards), mount (list of SOURCE:TARGET[:ro]),\n"
        "  environment (list of NAME=VALUE), init (list of words), nesting, seccomp (default, none or\n"
        "  a file), disk (only larger, of a stopped container)\n",
    .examples = "  hull ct set web memory=1G cpus=0.5 cpu_shares=512\n"
                "  hull ct set web mount+=/srv/www:/var/www:ro\n",
    .options = set_table,
    .complete = "CONTAINER",
    .run = set_run,
};

static int upgrade_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_upgrade_verb, 1, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    for (int i = 0; rc == 0 && i < count; i++) {
        bool is_new = false;
        rc = life_upgrade(&life, argv[i], &is_new, &err);
        if (rc == 0 && !options.is_quiet) {
            (void)printf("%s: %s\n", argv[i],
                         !is_new ? "is up to date"
                         : life_status(&life, argv[i]) == LIFE_STOPPED
                             ? "stands on the newest build of its template now"
                             : "will stand on the newest build of its template at its next start");
        }
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_upgrade_verb = {
    .name = "ct upgrade",
    .arguments = "NAME...",
    .summary = "Have containers follow their template to its newest build",
    .description =
        "A container stays on the build that it was made of until this is asked for. Files that it has\n"
        "changed itself stay as they are; what its own package manager has upgraded does, too.\n",
    .examples = "  hull ct upgrade web\n",
    .options = set_table,
    .complete = "CONTAINER",
    .run = upgrade_run,
};

static const struct option_spec pool_table[] = {
    OUTPUT_OPTION_JSON(ct_parse_json),
    OUTPUT_OPTION_FORMAT(ct_parse_output),
    CT_OPTION_STATE,
    {0},
};

static int pool_show(const struct life *life, const struct ct_options *options, struct error *err)
{
    static const struct output_column columns[] = {
        {"name", "NAME"}, {"cpus", "CPUS"}, {NULL, NULL}};
    json_t *pools, *rows = json_array();
    const char *name;
    json_t *cpus;
    int rc = pool_list(&life->store, &pools, err);
    if (rc == 0) {
        json_object_foreach(pools, name, cpus)
        {
            (void)json_array_append_new(rows, json_pack("{s:s, s:O}", "name", name, "cpus", cpus));
        }
        output_list(options->output, columns, rows, NULL);
        json_decref(pools);
    }
    json_decref(rows);
    return rc;
}

/* One that is in use cannot go: its containers would have no CPUs at their next start. */
static int check_unused(const struct life *life, const char *pool, struct error *err)
{
    char **names;
    size_t count;
    int rc = config_list(&life->store, &names, &count, err);
    for (size_t i = 0; rc >= 0 && i < count; i++) {
        struct config *config;
        struct error damaged;
        if (config_load(&life->store, names[i], &config, &damaged) == 0) {
            if (config->limits.pool != NULL && strcmp(config->limits.pool, pool) == 0) {
                rc = error_set(err, EBUSY, "pool %s: container %s is in it", pool, names[i]);
            }
            config_destroy(config);
        }
    }
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
    return rc;
}

static int pool_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_pool_verb, 0, 3, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    if (count == 0 || (count == 1 && strcmp(argv[0], "list") == 0)) {
        rc = pool_show(&life, &options, &err);
    } else if (count == 3 && strcmp(argv[0], "set") == 0) {
        rc = pool_set(&life.store, argv[1], argv[2], &err);
        rc = rc < 0 ? rc : life_apply_pool(&life, argv[1], &err);
    } else if (count == 2 && strcmp(argv[0], "delete") == 0) {
        rc = check_unused(&life, argv[1], &err);
        rc = rc < 0 ? rc : pool_set(&life.store, argv[1], NULL, &err);
    } else {
        rc = error_set(&err, EINVAL, "usage: hull ct pool %s", ct_pool_verb.arguments);
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_pool_verb = {
    .name = "ct pool",
    .arguments = "[list | set POOL CPUS | delete POOL]",
    .summary = "Pools of CPUs that containers share by their shares",
    .description =
        "Containers with pool=POOL run on the pool's CPUs only, and share them in proportion to their\n"
        "cpu_shares. `set` makes a pool or changes it, for containers that run at once.\n",
    .examples = "  hull ct pool set batch 1\n  hull ct set job pool=batch cpu_shares=256\n",
    .options = pool_table,
    .complete = "list|set|delete",
    .run = pool_run,
};
