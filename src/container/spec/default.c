/* The document that "hull-oci spec" writes, equal in substance to that of "runc spec". */
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "container/spec/spec.h"

struct default_mount {
    const char *destination, *type, *source;
    const char *options[8];
};

static const struct default_mount default_mounts[] = {
    {"/proc", "proc", "proc", {NULL}},
    {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
    {"/dev/pts",
     "devpts",
     "devpts",
     {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
    {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
    {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
    {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
    {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}},
};

/* Without a group 5, and without the right to mount sysfs for a network that is the host's. */
static const struct default_mount rootless_mounts[] = {
    {"/dev/pts",
     "devpts",
     "devpts",
     {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
    {"/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}},
};

static const char *const masked_paths[] = {
    "/proc/acpi",        "/proc/asound",        "/proc/kcore",      "/proc/keys",
    "/proc/interrupts",  "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
    "/proc/sched_debug", "/sys/firmware",       "/proc/scsi",       "/sys/devices/virtual/powercap",
};

static const char *const readonly_paths[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

static json_t *strings(const char *const *items, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count && items[i] != NULL; i++) {
        (void)json_array_append_new(list, json_string(items[i]));
    }
    return list;
}

static json_t *mounts(bool is_rootless)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_COUNT(default_mounts); i++) {
        const struct default_mount *mount = &default_mounts[i];
        for (size_t j = 0; is_rootless && j < ARRAY_COUNT(rootless_mounts); j++) {
            if (strcmp(rootless_mounts[j].destination, default_mounts[i].destination) == 0) {
                mount = &rootless_mounts[j];
            }
        }
        json_t *item = json_pack("{s:s, s:s, s:s}", "destination", mount->destination, "type",
                                 mount->type, "source", mount->source);
        if (mount->options[0] != NULL) {
            (void)json_object_set_new(item, "options",
                                      strings(mount->options, ARRAY_COUNT(mount->options)));
        }
        (void)json_array_append_new(list, item);
    }
    return list;
}

static json_t *process(void)
{
    static const char *const names[] = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
    static const char *const sets[] = {"bounding", "effective", "permitted"};
    json_t *capabilities = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(sets); i++) {
        (void)json_object_set_new(capabilities, sets[i], strings(names, ARRAY_COUNT(names)));
    }
    return json_pack("{s:b, s:{s:i, s:i}, s:[s], s:[s, s], s:s, s:o, s:[{s:s, s:i, s:i}], s:b}",
                     "terminal", 1, "user", "uid", 0, "gid", 0, "args", "sh", "env",
                     "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                     "TERM=xterm", "cwd", "/", "capabilities", capabilities, "rlimits", "type",
                     "RLIMIT_NOFILE", "hard", 1024, "soft", 1024, "noNewPrivileges", 1);
}

static json_t *namespaces(bool is_rootless)
{
    static const char *const of_root[] = {"pid", "network", "ipc", "uts", "mount", "cgroup"};
    static const char *const of_users[] = {"pid", "ipc", "uts", "mount", "cgroup", "user"};
    const char *const *types = is_rootless ? of_users : of_root;
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_COUNT(of_root); i++) {
        (void)json_array_append_new(list, json_pack("{s:s}", "type", types[i]));
    }
    return list;
}

/* The caller becomes root of the container. */
static json_t *own_mapping(unsigned id)
{
    return json_pack("[{s:i, s:I, s:i}]", "containerID", 0, "hostID", (json_int_t)id, "size", 1);
}

json_t *spec_default_json(bool is_rootless)
{
    json_t *linux_ =
        json_pack("{s:o, s:o, s:o}", "namespaces", namespaces(is_rootless), "maskedPaths",
                  strings(masked_paths, ARRAY_COUNT(masked_paths)), "readonlyPaths",
                  strings(readonly_paths, ARRAY_COUNT(readonly_paths)));
    if (is_rootless) {
        (void)json_object_set_new(linux_, "uidMappings", own_mapping(geteuid()));
        (void)json_object_set_new(linux_, "gidMappings", own_mapping(getegid()));
    } else {
        (void)json_object_set_new(
            linux_, "resources",
            json_pack("{s:[{s:b, s:s}]}", "devices", "allow", 0, "access", "rwm"));
    }
    return json_pack("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", SPEC_VERSION,
                     "process", process(), "root", "path", "rootfs", "readonly", 1, "hostname",
                     "hull", "mounts", mounts(is_rootless), "linux", linux_);
}
