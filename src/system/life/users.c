/* What an ordinary user's container cannot have. */
#include <errno.h>
#include <string.h>

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

bool users_may_skip_limits(const struct config *before, const struct config *after)
{
    return !has_limits(&before->limits) && !has_limits(&after->limits);
}
