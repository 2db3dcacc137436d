/* The keys of a configuration: what each takes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "container/spec/spec.h"
#include "system/config/config.h"
#include "system/rootless/rootless.h"

#define MAX_BYTES (UINT64_C(1) << 60)

static int parse_bool(const char *value, bool *out, struct error *err)
{
    bool is_true = strcmp(value, "true") == 0 || strcmp(value, "yes") == 0;
    if (!is_true && strcmp(value, "false") != 0 && strcmp(value, "no") != 0) {
        return error_set(err, EINVAL, "'%.40s': true or false", value);
    }
    *out = is_true;
    return 0;
}

static int parse_template(struct config *config, const char *value, struct error *err)
{
    if (strncmp(value, "sha256-", 7) != 0) {
        return error_set(err, EINVAL, "'%.40s' is no digest (sha256-...)", value);
    }
    config->template_digest = value;
    return 0;
}

static int parse_template_name(struct config *config, const char *value, struct error *err)
{
    config->template_name = value;
    return store_check_name("template", value, err);
}

static int parse_root(struct config *config, const char *value, struct error *err)
{
    config->root = value;
    return value[0] == '/' ? 0 : error_set(err, EINVAL, "'%.100s' is no absolute path", value);
}

static int parse_hostname(struct config *config, const char *value, struct error *err)
{
    size_t length = strlen(value);
    config->hostname = value;
    bool is_good = length > 0 && length <= 64 && value[0] != '-' &&
                   strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."
                                 "_") == length;
    return is_good
               ? 0
               : error_set(err, EINVAL,
                           "'%.80s': 1 to 64 letters, digits, '-' and '.', not first a '-'", value);
}

static int parse_init(struct config *config, const char *value, struct error *err)
{
    if (config->init_count == CONFIG_MAX_INIT - 1) {
        return error_set(err, E2BIG, "more than %d words", CONFIG_MAX_INIT - 1);
    }
    if (config->init_count == 0 && value[0] != '/') {
        return error_set(err, EINVAL, "'%.100s' is no absolute path", value);
    }
    config->init[config->init_count++] = value;
    return 0;
}

static int parse_privileged(struct config *config, const char *value, struct error *err)
{
    return parse_bool(value, &config->is_privileged, err);
}

static int parse_nesting(struct config *config, const char *value, struct error *err)
{
    return parse_bool(value, &config->may_nest, err);
}

static int parse_ids(struct config *config, const char *value, struct error *err)
{
    unsigned long long first, count;
    char more;
    if (sscanf(value, "%llu:%llu%c", &first, &count, &more) != 2 || count < 1000 ||
        (rootless_is_host_root() ? first < 65536 : first != 0) || first > UINT32_MAX ||
        count > UINT32_MAX - first) {
        return error_set(
            err, EINVAL,
            "'%.60s': FIRST:COUNT, from 65536 on (0 for ordinary users) and at least 1000", value);
    }
    config->first_id = (uint32_t)first;
    config->id_count = (uint32_t)count;
    return 0;
}

static int parse_seccomp(struct config *config, const char *value, struct error *err)
{
    config->seccomp = value;
    bool is_good = strcmp(value, "default") == 0 || strcmp(value, "none") == 0 || value[0] == '/';
    return is_good ? 0
                   : error_set(err, EINVAL,
                               "'%.60s': default, none, or the absolute path of a profile", value);
}

/* "2", "0.5", "1.25". */
static int parse_cpus(struct config *config, const char *value, struct error *err)
{
    char *end;
    double cpus = strtod(value, &end);
    if (end == value || *end != '\0' || !(cpus >= 0.01 && cpus <= 8192)) {
        return error_set(err, EINVAL, "'%.40s': a number of CPUs from 0.01 on, as 2 or 0.5", value);
    }
    config->limits.cpus_milli = (uint64_t)(cpus * 1000 + 0.5);
    return 0;
}

static int parse_cpu_shares(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 2, 262144, &config->limits.cpu_shares, err);
}

static int parse_cpu_set(struct config *config, const char *value, struct error *err)
{
    config->limits.cpu_set = value;
    return *value != '\0' && strspn(value, "0123456789,-") == strlen(value)
               ? 0
               : error_set(err, EINVAL, "'%.60s': numbers and ranges of CPUs, as 0-1,3", value);
}

static int parse_pool(struct config *config, const char *value, struct error *err)
{
    config->limits.pool = value;
    return store_check_name("pool", value, err);
}

static int parse_bytes(const char *value, uint64_t min, uint64_t *out, struct error *err)
{
    uint64_t bytes;
    int rc = size_parse(value, 1, &bytes, err);
    if (rc == 0 && (bytes < min || bytes > MAX_BYTES)) {
        char text[24];
        rc = error_set(err, EINVAL, "'%.40s' is less than %s or far too much", value,
                       size_format(min, text, sizeof(text)));
    }
    if (rc == 0) {
        *out = bytes;
    }
    return rc;
}

static int parse_memory(struct config *config, const char *value, struct error *err)
{
    return parse_bytes(value, 1 << 20, &config->limits.memory_bytes, err);
}

static int parse_swap(struct config *config, const char *value, struct error *err)
{
    config->limits.has_swap = true;
    return parse_bytes(value, 0, &config->limits.swap_bytes, err);
}

static int parse_processes(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 1, 4194304, &config->limits.processes, err);
}

static int parse_io_weight(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 10, 1000, &config->limits.io_weight, err);
}

static int parse_io_read(struct config *config, const char *value, struct error *err)
{
    return parse_bytes(value, 4096, &config->limits.io_read_bps, err);
}

static int parse_io_write(struct config *config, const char *value, struct error *err)
{
    return parse_bytes(value, 4096, &config->limits.io_write_bps, err);
}

static int parse_io_read_iops(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 1, UINT32_MAX, &config->limits.io_read_iops, err);
}

static int parse_io_write_iops(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 1, UINT32_MAX, &config->limits.io_write_iops, err);
}

static int parse_disk(struct config *config, const char *value, struct error *err)
{
    return parse_bytes(value, 16 << 20, &config->limits.disk_bytes, err);
}

static int parse_dns(struct config *config, const char *value, struct error *err)
{
    struct network_address address;
    if (config->dns_count == CONFIG_MAX_DNS) {
        return error_set(err, E2BIG, "more than %d servers", CONFIG_MAX_DNS);
    }
    config->dns[config->dns_count++] = value;
    return network_parse(value, 0, true, &address, err);
}

static int parse_search(struct config *config, const char *value, struct error *err)
{
    config->search = value;
    return strcspn(value, " \t\n#;") == strlen(value)
               ? 0
               : error_set(err, EINVAL, "'%.60s' is no domain", value);
}

static int parse_mount(struct config *config, const char *value, struct error *err)
{
    char source[PATH_MAX], target[PATH_MAX], more[16] = "";
    int count = sscanf(value, "%4095[^:]:%4095[^:]:%15[^\n]", source, target, more);
    if (count < 2 || source[0] != '/' || target[0] != '/' ||
        (count == 3 && strcmp(more, "ro") != 0)) {
        return error_set(err, EINVAL, "'%.100s': /SOURCE:/TARGET or /SOURCE:/TARGET:ro", value);
    }
    if (config->mount_count == CONFIG_MAX_MOUNTS) {
        return error_set(err, E2BIG, "more than %d", CONFIG_MAX_MOUNTS);
    }
    struct config_mount *mount = &config->mounts[config->mount_count];
    mount->source = strdup(source);
    mount->target = strdup(target);
    if (mount->source == NULL || mount->target == NULL) {
        free((void *)mount->source);
        free((void *)mount->target);
        return error_set(err, ENOMEM, "no memory");
    }
    mount->is_read_only = count == 3;
    config->mount_count++;
    return 0;
}

static int parse_environment(struct config *config, const char *value, struct error *err)
{
    size_t name = strcspn(value, "=");
    if (name == 0 || value[name] == '\0') {
        return error_set(err, EINVAL, "'%.60s': NAME=VALUE", value);
    }
    if (config->environment_count == CONFIG_MAX_ENVIRONMENT) {
        return error_set(err, E2BIG, "more than %d", CONFIG_MAX_ENVIRONMENT);
    }
    config->environment[config->environment_count++] = value;
    return 0;
}

static int parse_autostart(struct config *config, const char *value, struct error *err)
{
    return parse_bool(value, &config->starts_with_host, err);
}

static int parse_order(struct config *config, const char *value, struct error *err)
{
    uint64_t order;
    int rc = number_parse(value, 0, 1000000, &order, err);
    config->start_order = rc == 0 ? (int64_t)order : 0;
    return rc;
}

static int parse_stop_timeout(struct config *config, const char *value, struct error *err)
{
    return number_parse(value, 0, 86400, &config->stop_timeout_s, err);
}

static int parse_stop_signal(struct config *config, const char *value, struct error *err)
{
    int rc = spec_parse_signal(value, &config->stop_signal, err);
    return rc == 0 && config->stop_signal <= 0
               ? error_set(err, EINVAL, "'%.40s' is no signal", value)
               : rc;
}

static int parse_created(struct config *config, const char *value, struct error *err)
{
    config->created = value;
    return strlen(value) < 64 ? 0 : error_set(err, EINVAL, "no time");
}

const struct config_key config_keys[] = {
    {"template", "DIGEST", "what it stands on, as a digest", NULL, false, false, true,
     parse_template},
    {"template_name", "NAME", "the name that was given for it, which an upgrade follows", NULL,
     false, false, true, parse_template_name},
    {"root", "DIR", "a folder with the root file system, in place of a template", "DIR", false,
     false, true, parse_root},
    {"created", "TIME", "when it was made", NULL, false, false, true, parse_created},
    {"ids", "FIRST:COUNT", "its range of user and group ids on the host", NULL, false, false, true,
     parse_ids},
    {"privileged", "BOOL", "run with the host's ids; its root is the host's then", "true|false",
     false, false, true, parse_privileged},
    {"disk", "SIZE", "most that its private files may occupy", NULL, true, false, false,
     parse_disk},
    {"hostname", "NAME", "its name for itself (default: the container's)", NULL, false, false,
     false, parse_hostname},
    {"init", "WORD", "its first program and, repeated, that one's arguments (default: /sbin/init)",
     NULL, false, true, false, parse_init},
    {"cpus", "N", "CPUs that it may use at once, also parts: 0.5", NULL, true, false, false,
     parse_cpus},
    {"cpu_shares", "N", "its weight when CPUs are short (default: 1024)", NULL, true, false, false,
     parse_cpu_shares},
    {"cpu_set", "LIST", "the CPUs that it may use: 0-1,3", NULL, true, false, false, parse_cpu_set},
    {"pool", "POOL", "the pool of CPUs that it is in, see `hull ct pool`", NULL, true, false, false,
     parse_pool},
    {"memory", "SIZE", "most memory, caches included", NULL, true, false, false, parse_memory},
    {"swap", "SIZE", "most swap, beside the memory; 0: none", NULL, true, false, false, parse_swap},
    {"processes", "N", "most processes and threads", NULL, true, false, false, parse_processes},
    {"io_weight", "N", "its weight when disks are busy, 10 to 1000", NULL, true, false, false,
     parse_io_weight},
    {"io_read", "SIZE", "most bytes a second read from the disk of its files", NULL, true, false,
     false, parse_io_read},
    {"io_write", "SIZE", "most bytes a second written", NULL, true, false, false, parse_io_write},
    {"io_read_iops", "N", "most reads a second", NULL, true, false, false, parse_io_read_iops},
    {"io_write_iops", "N", "most writes a second", NULL, true, false, false, parse_io_write_iops},
    {"network", "CARD",
     "a network card: bridge=NAME,name=eth0,ip=A/N,gateway=A,mac=M,mtu=N; bridge=none for none; parent=IF in place of bridge: macvlan",
     NULL, false, true, false, config_parse_card},
    {"dns", "ADDRESS", "a name server", NULL, false, true, false, parse_dns},
    {"search", "DOMAIN", "domain of names without one", NULL, false, false, false, parse_search},
    {"mount", "SOURCE:TARGET[:ro]", "a folder or file of the host, shown in the container", NULL,
     false, true, false, parse_mount},
    {"environment", "NAME=VALUE", "a variable for its init", NULL, false, true, false,
     parse_environment},
    {"nesting", "BOOL", "allow containers inside", "true|false", false, false, false,
     parse_nesting},
    {"seccomp", "PROFILE", "default, none, or a file with a profile", "default|none", false, false,
     false, parse_seccomp},
    {"autostart", "BOOL", "start it with the host, see `hull ct start --autostart`", "true|false",
     true, false, false, parse_autostart},
    {"order", "N", "its place among those that start with the host; smaller is sooner", NULL, true,
     false, false, parse_order},
    {"stop_timeout", "SECONDS", "how long a clean stop may take (default: 30)", NULL, true, false,
     false, parse_stop_timeout},
    {"stop_signal", "SIGNAL", "what has its init stop (default: what that init wants)", NULL, true,
     false, false, parse_stop_signal},
    {0},
};

const struct config_key *config_find_key(const char *name, size_t length)
{
    for (const struct config_key *key = config_keys; key->name != NULL; key++) {
        if (strncmp(key->name, name, length) == 0 && key->name[length] == '\0') {
            return key;
        }
    }
    return NULL;
}
