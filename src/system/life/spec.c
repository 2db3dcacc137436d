/* A system container as a configuration of the OCI runtime. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/layout.h"
#include "container/seccomp/profile.h"
#include "container/spec/names.h"
#include "system/life/document.h"
#include "system/rootless/rootless.h"
#include "system/views/views.h"

#define CPU_PERIOD_US    100000
#define DEFAULT_SHARES   1024
#define DEFAULT_WEIGHT   100
#define MAX_WEIGHT       10000u
#define MAX_PROFILE_SIZE (1u << 20)
#define INIT_PATH        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct plain_mount {
    const char *destination, *type, *source;
    const char *options[8];
};

static const struct plain_mount plain_mounts[] = {
    {"/proc", "proc", "proc", {"nosuid", "nodev", "noexec"}},
    {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=512k"}},
    {"/dev/pts",
     "devpts",
     "devpts",
     {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
    {"/dev/shm", "tmpfs", "shm", {"nosuid", "nodev", "mode=1777"}},
    {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
    {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
    {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime"}},
};

/* What no container may have even in its own user namespace, or has no use for there. */
static const uint8_t dropped_capabilities[] = {
    CAP_SYS_MODULE,    CAP_SYS_RAWIO,     CAP_SYS_TIME,   CAP_MAC_OVERRIDE, CAP_MAC_ADMIN,
    CAP_SYSLOG,        CAP_WAKE_ALARM,    CAP_BPF,        CAP_PERFMON,      CAP_CHECKPOINT_RESTORE,
    CAP_AUDIT_CONTROL, CAP_BLOCK_SUSPEND, CAP_AUDIT_READ,
};

/* The host's hardware and logs: paths whose content is of no use to a container. */
static const char *const masked_paths[] = {
    "/proc/acpi",    "/proc/asound",     "/proc/interrupts",    "/proc/kcore",
    "/proc/keys",    "/proc/kmsg",       "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi",    "/proc/timer_list", "/proc/timer_stats",   "/sys/devices/virtual/powercap",
    "/sys/firmware",
};
static const char *const readonly_paths[] = {"/proc/bus", "/proc/fs", "/proc/irq",
                                             "/proc/sysrq-trigger"};

static json_t *strings(const char *const *items, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count && items[i] != NULL; i++) {
        (void)json_array_append_new(list, json_string(items[i]));
    }
    return list;
}

static bool is_dropped(uint64_t capability)
{
    for (size_t i = 0; i < ARRAY_COUNT(dropped_capabilities); i++) {
        if (dropped_capabilities[i] == capability) {
            return true;
        }
    }
    return false;
}

static json_t *capabilities(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < spec_capability_names.count; i++) {
        if (!is_dropped(spec_capability_names.item[i].value)) {
            (void)json_array_append_new(list, json_string(spec_capability_names.item[i].name));
        }
    }
    return json_pack("{s:O, s:O, s:o}", "bounding", list, "permitted", list, "effective", list);
}

static json_t *process(const struct config *config)
{
    json_t *env =
        json_pack("[s, s, s, s]", "PATH=" INIT_PATH, "TERM=linux", "container=hull", "HOME=/root");
    for (size_t i = 0; i < config->environment_count; i++) {
        (void)json_array_append_new(env, json_string(config->environment[i]));
    }
    json_t *args = config->init[0] != NULL ? strings(config->init, config->init_count)
                                           : json_pack("[s]", "/sbin/init");
    return json_pack("{s:b, s:{s:i, s:i}, s:o, s:o, s:s, s:o, s:b}", "terminal", 1, "user", "uid",
                     0, "gid", 0, "args", args, "env", env, "cwd", "/", "capabilities",
                     capabilities(), "noNewPrivileges", 0);
}

static json_t *mount_item(const char *destination, const char *type, const char *source,
                          json_t *options)
{
    return json_pack("{s:s, s:s, s:s, s:o}", "destination", destination, "type", type, "source",
                     source, "options", options);
}

static void add_views(const struct store *store, const struct config *config, json_t *list)
{
    char folder[PATH_MAX], source[PATH_MAX + 64];
    store_keeper_path(store, config->name, KEEPER_VIEWS, folder);
    for (const struct views_file *file = views_files; file->name != NULL; file++) {
        if (!views_is_available(file)) {
            continue;
        }
        (void)snprintf(source, sizeof(source), "%s/%s", folder, file->name);
        (void)json_array_append_new(
            list, mount_item(file->covers, "bind", source,
                             json_pack("[s, s, s, s]", "bind", "nosuid", "nodev", "noexec")));
    }
}

static json_t *mounts(const struct store *store, const struct config *config)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_COUNT(plain_mounts); i++) {
        const struct plain_mount *mount = &plain_mounts[i];
        (void)json_array_append_new(
            list, mount_item(mount->destination, mount->type, mount->source,
                             strings(mount->options, ARRAY_COUNT(mount->options))));
    }
    add_views(store, config, list);
    if (config->may_nest) {
        /* The kernel lets namespaces inside mount their own only where one is seen whole. */
        (void)json_array_append_new(
            list, mount_item("/dev/.hull/proc", "proc", "proc",
                             json_pack("[s, s, s]", "nosuid", "nodev", "noexec")));
        (void)json_array_append_new(
            list, mount_item("/dev/.hull/sys", "sysfs", "sysfs",
                             json_pack("[s, s, s]", "nosuid", "nodev", "noexec")));
    }
    for (size_t i = 0; i < config->mount_count; i++) {
        const struct config_mount *mount = &config->mounts[i];
        json_t *options = json_pack("[s, s]", "rbind", mount->is_read_only ? "rro" : "rw");
        if (!config->is_privileged && config->first_id != 0) {
            (void)json_array_append_new(options, json_string("idmap"));
        }
        (void)json_array_append_new(list,
                                    mount_item(mount->target, "bind", mount->source, options));
    }
    return list;
}

/* Its clocks begin at 0, so that its uptime is its own. */
static json_t *time_offsets(void)
{
    struct timespec boot, monotonic;
    (void)clock_gettime(CLOCK_BOOTTIME, &boot);
    (void)clock_gettime(CLOCK_MONOTONIC, &monotonic);
    return json_pack("{s:{s:I, s:i}, s:{s:I, s:i}}", "boottime", "secs", -(json_int_t)boot.tv_sec,
                     "nanosecs", 0, "monotonic", "secs", -(json_int_t)monotonic.tv_sec, "nanosecs",
                     0);
}

static int read_profile(const char *path, json_t **out, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "seccomp: opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_PROFILE_SIZE, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t bad;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &bad);
    return *out != NULL
               ? 0
               : error_set(err, EINVAL, "seccomp: %s, line %d: %s", path, bad.line, bad.text);
}

/* Its making asks libseccomp for each call's number, so many containers are given one; but for the listener's path. */
static json_t *default_profile(bool may_nest)
{
    static json_t *made[2];
    if (made[may_nest] == NULL) {
        const struct seccomp_profile_options options = {.may_nest = may_nest,
                                                        .sysinfo_listener = "/"};
        made[may_nest] = seccomp_default_profile(&options);
    }
    return json_copy(made[may_nest]);
}

static int add_seccomp(const struct store *store, const struct config *config, json_t *linux_,
                       struct error *err)
{
    json_t *profile = NULL;
    const char *wanted = config->seccomp != NULL ? config->seccomp : "default";
    int rc = 0;
    if (strcmp(wanted, "default") == 0) {
        char listener[PATH_MAX];
        store_keeper_path(store, config->name, KEEPER_LISTENER, listener);
        profile = default_profile(config->may_nest);
        (void)json_object_set_new(profile, "listenerPath", json_string(listener));
        rc = profile == NULL ? error_set(err, ENOMEM, "no memory for a seccomp profile") : 0;
    } else if (strcmp(wanted, "none") != 0) {
        rc = read_profile(wanted, &profile, err);
    }
    if (rc == 0 && profile != NULL) {
        (void)json_object_set_new(linux_, "seccomp", profile);
    }
    return rc;
}

static json_t *namespaces(const struct config *config)
{
    static const char *const types[] = {"pid",   "network", "ipc",  "uts",
                                        "mount", "cgroup",  "time", "user"};
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_COUNT(types) - config->is_privileged; i++) {
        (void)json_array_append_new(list, json_pack("{s:s}", "type", types[i]));
    }
    return list;
}

/* An ordinary user's begin with himself: the kernel wants each to lie in one range of the namespace around it. */
static json_t *mappings(const struct config *config)
{
    if (config->first_id == 0) {
        return json_pack("[{s:i, s:i, s:i}, {s:i, s:i, s:I}]", "containerID", 0, "hostID", 0,
                         "size", 1, "containerID", 1, "hostID", 1, "size",
                         (json_int_t)config->id_count - 1);
    }
    return json_pack("[{s:i, s:I, s:I}]", "containerID", 0, "hostID", (json_int_t)config->first_id,
                     "size", (json_int_t)config->id_count);
}

static int make_linux(const struct store *store, const struct config *config, json_t **out,
                      struct error *err)
{
    char groups[160], files[PATH_MAX], device[32];
    AUTO_FREE char *pool = NULL;
    int rc = config->limits.pool != NULL ? pool_find(store, config->limits.pool, &pool, err) : 0;
    if (rc < 0) {
        return rc;
    }
    store_container_path(store, config->name, NULL, files);
    document_disk_of(files, device);
    char card[IFNAMSIZ]; /* of one place, so that two stores do not share groups */
    document_host_name(store, config->name, 0, card);
    /* A user's are beside the group that the keeper is in, where that was given to him. */
    (void)snprintf(groups, sizeof(groups), "%shull/%.80s-%s", rootless_is_host_root() ? "/" : "",
                   config->name, card);
    json_t *linux_ = json_pack(
        "{s:o, s:s, s:o, s:o}", "namespaces", namespaces(config), "cgroupsPath", groups,
        "timeOffsets", time_offsets(), "resources",
        document_resources(config, pool != NULL ? pool : config->limits.cpu_set, device, false));
    if (!config->is_privileged) {
        (void)json_object_set_new(linux_, "uidMappings", mappings(config));
        (void)json_object_set_new(linux_, "gidMappings", mappings(config));
    }
    if (!config->may_nest) {
        (void)json_object_set_new(linux_, "maskedPaths",
                                  strings(masked_paths, ARRAY_COUNT(masked_paths)));
        (void)json_object_set_new(linux_, "readonlyPaths",
                                  strings(readonly_paths, ARRAY_COUNT(readonly_paths)));
    }
    rc = add_seccomp(store, config, linux_, err);
    if (rc < 0) {
        json_decref(linux_);
        return rc;
    }
    *out = linux_;
    return 0;
}

int document_spec(const struct store *store, const struct config *config, json_t **out_spec,
                  struct error *err)
{
    json_t *linux_ = NULL;
    int rc = make_linux(store, config, &linux_, err);
    if (rc < 0) {
        return rc;
    }
    char root[PATH_MAX];
    (void)snprintf(root, sizeof(root), "%s/root/%s", store->run, config->name);
    json_t *spec = json_pack("{s:s, s:o, s:{s:s}, s:s, s:o, s:o}", "ociVersion", SPEC_VERSION,
                             "process", process(config), "root", "path", root, "hostname",
                             config->hostname, "mounts", mounts(store, config), "linux", linux_);
    *out_spec = spec;
    return spec != NULL ? 0 : error_set(err, ENOMEM, "no memory for the container's configuration");
}

/* A partition's limits are those of its disk. */
void document_disk_of(const char *path, char out_device[32])
{
    struct stat st;
    out_device[0] = '\0';
    if (stat(path, &st) < 0 || major(st.st_dev) == 0) {
        return;
    }
    (void)snprintf(out_device, 32, "%u:%u", major(st.st_dev), minor(st.st_dev));
    char file[96], text[32];
    (void)snprintf(file, sizeof(file), "/sys/dev/block/%s/partition", out_device);
    if (access(file, F_OK) < 0) {
        return;
    }
    (void)snprintf(file, sizeof(file), "/sys/dev/block/%s/../dev", out_device);
    AUTO_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (n > 0) {
        text[n] = '\0';
        text[strcspn(text, "\n")] = '\0';
        (void)snprintf(out_device, 32, "%s", text);
    }
}

static void add_rate(json_t *io, const char *name, uint64_t rate, const char *device,
                     bool is_update)
{
    unsigned device_major, device_minor;
    if ((rate == 0 && !is_update) || sscanf(device, "%u:%u", &device_major, &device_minor) != 2) {
        return;
    }
    (void)json_object_set_new(io, name,
                              json_pack("[{s:I, s:I, s:I}]", "major", (json_int_t)device_major,
                                        "minor", (json_int_t)device_minor, "rate",
                                        (json_int_t)rate));
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

unsigned document_cpu_weight(uint64_t shares)
{
    uint64_t weight = (shares * DEFAULT_WEIGHT + DEFAULT_SHARES / 2) / DEFAULT_SHARES;
    return (unsigned)(weight < 1 ? 1 : MIN(weight, MAX_WEIGHT));
}

/* Whether the host divides by weights of v2 what the controller is for. A user's group has them only where they were given to him. */
static bool has_weights(enum cgroup_controller controller)
{
    struct cgroup_layout layout;
    struct error ignored;
    bool has_v1 = false, has_v2 = false;
    if (!rootless_is_host_root() || cgroup_layout_read(&layout, &ignored) < 0) {
        return false;
    }
    for (size_t i = 0; i < layout.count; i++) {
        has_v2 |= layout.hierarchy[i].is_unified;
        has_v1 |= (layout.hierarchy[i].controllers & 1u << controller) != 0;
    }
    cgroup_layout_fini(&layout);
    return has_v2 && !has_v1;
}

/* Does the kernel have io.weight? The root has no weight itself, but what its model of costs is set up by. */
static bool has_io_weights(void)
{
    return has_weights(CGROUP_BLOCK_IO) && access(CGROUP_ROOT "/io.cost.qos", F_OK) == 0;
}

json_t *document_resources(const struct config *config, const char *cpu_set, const char *device,
                           bool is_update)
{
    const struct config_limits *limits = &config->limits;
    json_t *cpu = json_object(), *memory = json_object(), *io = json_object();
    uint64_t shares = limits->cpu_shares != 0 ? limits->cpu_shares : DEFAULT_SHARES;
    (void)json_object_set_new(cpu, "shares", number(shares));
    if (limits->cpus_milli != 0 || is_update) {
        json_int_t quota = (json_int_t)(limits->cpus_milli * (CPU_PERIOD_US / 1000));
        (void)json_object_set_new(cpu, "period", number(CPU_PERIOD_US));
        (void)json_object_set_new(cpu, "quota", json_integer(quota != 0 ? quota : -1));
    }
    if (cpu_set != NULL) {
        (void)json_object_set_new(cpu, "cpus", json_string(cpu_set));
    }
    if (limits->memory_bytes != 0 || is_update) {
        json_int_t bytes = limits->memory_bytes != 0 ? (json_int_t)limits->memory_bytes : -1;
        (void)json_object_set_new(memory, "limit", json_integer(bytes));
        if (limits->has_swap || is_update) {
            json_int_t swap =
                limits->has_swap && bytes > 0 ? bytes + (json_int_t)limits->swap_bytes : -1;
            (void)json_object_set_new(memory, "swap", json_integer(swap));
        }
    }
    /* bfq has the number as it is. io.weight has it by its name in v2, below: runtimes take other steps there, by which the default
     * would be another one than what a group has that is given none. */
    bool has_io = has_io_weights();
    uint64_t weight = limits->io_weight != 0 ? limits->io_weight : DEFAULT_WEIGHT;
    if (limits->io_weight != 0 || (has_io && is_update)) {
        (void)json_object_set_new(io, "weight", number(weight));
    }
    add_rate(io, "throttleReadBpsDevice", limits->io_read_bps, device, is_update);
    add_rate(io, "throttleWriteBpsDevice", limits->io_write_bps, device, is_update);
    add_rate(io, "throttleReadIOPSDevice", limits->io_read_iops, device, is_update);
    add_rate(io, "throttleWriteIOPSDevice", limits->io_write_iops, device, is_update);
    json_t *resources = json_pack("{s:o, s:o, s:o}", "cpu", cpu, "memory", memory, "blockIO", io);
    json_t *unified = json_object();
    if (has_weights(CGROUP_CPU)) {
        (void)json_object_set_new(unified, "cpu.weight",
                                  json_sprintf("%u", document_cpu_weight(shares)));
    }
    if (has_io && json_object_get(io, "weight") != NULL) {
        (void)json_object_set_new(unified, "io.weight",
                                  json_sprintf("default %u", (unsigned)weight));
    }
    if (json_object_size(unified) != 0) {
        (void)json_object_set(resources, "unified", unified);
    }
    json_decref(unified);
    if (limits->processes != 0 || is_update) {
        json_int_t count = limits->processes != 0 ? (json_int_t)limits->processes : -1;
        (void)json_object_set_new(resources, "pids", json_pack("{s:I}", "limit", count));
    }
    if (!is_update) {
        (void)json_object_set_new(resources, "devices",
                                  json_pack("[{s:b, s:s}]", "allow", 0, "access", "rwm"));
    }
    return resources;
}
