/* Pools of CPUs. */
#include "system/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "system/config/yaml.h"

#define MAX_SIZE (1u << 20)
#define MAX_CPU  8192

static void file_path(const struct store *store, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/pools.yaml", store->state);
}

int pool_list(const struct store *store, json_t **out_pools, struct error *err)
{
    char path[PATH_MAX];
    file_path(store, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        *out_pools = json_object();
        return 0;
    }
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_SIZE, path, &text, &size, err);
    json_t *pools = NULL;
    rc = rc < 0 ? rc : yaml_parse(text, size, path, &pools, err);
    const char *name;
    json_t *cpus;
    json_object_foreach(pools, name, cpus)
    {
        rc = rc == 0 && !json_is_string(cpus)
                 ? error_set(err, EINVAL, "%s: pool %s: a list of CPUs", path, name)
                 : rc;
    }
    if (rc == 0 && !json_is_object(pools)) {
        rc = error_set(err, EINVAL, "%s: no mapping of names to lists of CPUs", path);
    }
    if (rc < 0) {
        json_decref(pools);
        return rc;
    }
    *out_pools = pools;
    return 0;
}

int pool_find(const struct store *store, const char *name, char **out_cpus, struct error *err)
{
    json_t *pools;
    int rc = pool_list(store, &pools, err);
    if (rc < 0) {
        return rc;
    }
    const char *cpus = json_string_value(json_object_get(pools, name));
    if (cpus == NULL) {
        char names[128] = "";
        const char *other;
        json_t *value;
        json_object_foreach(pools, other, value)
        {
            size_t used = strlen(names);
            (void)snprintf(names + used, sizeof(names) - used, "%s%s", used != 0 ? ", " : "",
                           other);
        }
        rc = error_set(err, ENOENT, "pool %s does not exist (%s): `hull ct pool set %s CPUS`", name,
                       names[0] != '\0' ? names : "there is none", name);
    } else {
        *out_cpus = strdup(cpus);
        rc = *out_cpus == NULL ? error_set(err, ENOMEM, "no memory for a pool") : 0;
    }
    json_decref(pools);
    return rc;
}

/* "0-1,3": each one that the host has. */
static int check_cpus(const char *cpus, struct error *err)
{
    long online = sysconf(_SC_NPROCESSORS_CONF);
    const char *at = cpus;
    for (;;) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (*at < '0' || *at > '9') { /* strtol(3) takes signs and blanks */
            break;
        }
        if (*end == '-') {
            at = end + 1;
            last = strtol(at, &end, 10);
            if (*at < '0' || *at > '9') {
                break;
            }
        }
        if (last < first || last >= online || last >= MAX_CPU) {
            return error_set(err, EINVAL, "CPUs '%.60s': the host has 0 to %ld", cpus, online - 1);
        }
        if (*end == '\0') {
            return 0;
        }
        if (*end != ',') {
            break;
        }
        at = end + 1;
    }
    return error_set(err, EINVAL, "CPUs '%.60s': numbers and ranges, as 0-1,3", cpus);
}

int pool_set(const struct store *store, const char *name, const char *cpus, struct error *err)
{
    json_t *pools;
    int rc = store_check_name("pool", name, err);
    rc = rc < 0 || cpus == NULL ? rc : check_cpus(cpus, err);
    rc = rc < 0 ? rc : pool_list(store, &pools, err);
    if (rc < 0) {
        return rc;
    }
    if (cpus != NULL) {
        (void)json_object_set_new(pools, name, json_string(cpus));
    } else if (json_object_del(pools, name) < 0) {
        rc = error_set(err, ENOENT, "pool %s does not exist", name);
    }
    AUTO_FREE char *text = NULL;
    rc = rc < 0 ? rc : yaml_write(pools, &text, err);
    json_decref(pools);
    char path[PATH_MAX];
    file_path(store, path);
    return rc < 0 ? rc : file_replace(path, text, 0600, false, err);
}
