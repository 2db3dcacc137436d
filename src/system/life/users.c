/* What an ordinary user's container cannot have. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "system/life/internal.h"

static bool has_limits(const struct config_limits *limits)
{
    return limits->cpus_milli != 0 || limits->cpu_shares != 0 || limits->cpu_set != NULL ||
           limits->pool != NULL || limits->memory_bytes != 0 || limits->has_swap ||
           limits->processes != 0 || limits->io_weight != 0 || limits->io_read_bps != 0 ||
           limits->io_write_bps != 0 || limits->io_read_iops != 0 || limits->io_write_iops != 0;
}

int users_check(const struct config *config, struct error *err)
{
    if (config->is_privileged) {
        return error_set(err, EPERM,
                         "privileged: needs root: an ordinary user has no ids of the host");
    }
    if (config->limits.disk_bytes != 0) {
        return error_set(
            err, EPERM,
            "a root disk of limited size needs root, as loop devices do: leave its size away");
    }
    for (size_t i = 0; i < config->card_count; i++) {
        if (config->cards[i].bridge != NULL) {
            return error_set(err, EPERM, "network card %s: bridge %s: needs root",
                             config->cards[i].name, config->cards[i].bridge);
        }
    }
    return 0;
}

int users_check_limits(const struct config *config, const json_t *degraded, struct error *err)
{
    const json_t *item;
    size_t i;
    if (!has_limits(&config->limits)) {
        return 0;
    }
    json_array_foreach((json_t *)degraded, i, item)
    {
        const char *field = json_string_value(json_object_get(item, "field"));
        if (field == NULL || strncmp(field, "linux.resources.", 16) != 0 ||
            strcmp(field, "linux.resources.devices") == 0 ||
            (strcmp(field, "linux.resources.cpu.shares") == 0 && config->limits.cpu_shares == 0)) {
            continue;
        }
        return error_set(
            err, EOPNOTSUPP,
            "%s: %s: limits of an ordinary user's container need a control group of v2 that "
            "is his, as systemd gives with Delegate=yes",
            field, json_string_value(json_object_get(item, "reason")));
    }
    return 0;
}

/* It takes up orphans, ends with the signals that inits are told to end by, and ends the others before. */
static const char plain_init[] =
    "trap 'trap \"\" 15 30 37; kill -15 -1; n=0\n"
    "while [ $n -lt 100 ] && kill -0 -1 2>/dev/null; do sleep 0.05; n=$((n+1)); done\n"
    "exit 0' 15 30 37\n"
    "while :; do\n"
    "    sleep 86400 &\n"
    "    wait $!\n"
    "    [ $? -ne 127 ] || exit 127\n"
    "done\n";

int users_take_plain_init(const char *bundle, struct error *err)
{
    char path[PATH_MAX];
    json_error_t bad;
    (void)snprintf(path, sizeof(path), "%.4000s/" KEEPER_CONFIG, bundle);
    json_t *spec = json_load_file(path, JSON_REJECT_DUPLICATES, &bad);
    if (spec == NULL) {
        return error_set(err, EIO, "%s: %s", path, bad.text);
    }
    (void)json_object_set_new(json_object_get(spec, "process"), "args",
                              json_pack("[s, s, s]", "/bin/sh", "-c", plain_init));
    char *text = json_dumps(spec, JSON_COMPACT);
    json_decref(spec);
    int rc = text == NULL ? error_set_errno(err, ENOMEM, "%s", path)
                          : file_replace(path, text, 0600, false, err);
    free(text);
    return rc;
}

void users_tell_lack(json_t *state, bool has_plain_init)
{
    json_t *list = json_object_get(state, "degraded");
    if (list == NULL) {
        list = json_array();
        (void)json_object_set_new(state, "degraded", list);
    }
    (void)json_array_append_new(
        list,
        json_pack("{s:s, s:s}", "field", "system.control_group", "reason",
                  "it runs without limits, as no control group of v2 is this user's: let hulld "
                  "run in one: systemd-run --user --scope -p Delegate=yes hulld"));
    if (has_plain_init) {
        (void)json_array_append_new(
            list, json_pack("{s:s, s:s}", "field", "system.init", "reason",
                            "its init is systemd, which needs a control group: a plain one runs in "
                            "its place, which starts no services"));
    }
}

bool users_may_skip_limits(const struct config *before, const struct config *after)
{
    return !has_limits(&before->limits) && !has_limits(&after->limits);
}
