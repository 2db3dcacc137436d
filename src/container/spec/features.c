/* Made of the tables that the reader uses, so that both know the same. */
#include "container/spec/features.h"

#include <seccomp.h>
#include <stdio.h>

#include "container/spec/hooks.h"
#include "container/spec/mount_options.h"
#include "container/spec/names.h"

static json_t *list_of(const struct names *names)
{
    json_t *list = json_array();
    for (size_t i = 0; i < names->count; i++) {
        (void)json_array_append_new(list, json_string(names->item[i].name));
    }
    return list;
}

static json_t *hooks(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < SPEC_HOOK_FIELDS; i++) {
        (void)json_array_append_new(list, json_string(spec_hook_fields[i].name));
    }
    return list;
}

static json_t *mount_options(void)
{
    json_t *list = json_array();
    for (size_t i = 0; mount_option_name(i) != NULL; i++) {
        (void)json_array_append_new(list, json_string(mount_option_name(i)));
    }
    return list;
}

static json_t *seccomp(void)
{
    return json_pack(
        "{s:b, s:o, s:o, s:o, s:o, s:o}", "enabled", 1, "actions",
        list_of(&spec_seccomp_action_names), "operators", list_of(&spec_seccomp_operator_names),
        "archs", list_of(&spec_seccomp_arch_names), "knownFlags", list_of(&spec_seccomp_flag_names),
        "supportedFlags", list_of(&spec_seccomp_flag_names));
}

static json_t *linux_features(void)
{
    return json_pack(
        "{s:o, s:o, s:{s:b, s:b, s:b, s:b, s:b}, s:o, s:{s:b}, s:{s:b}, s:{s:b, s:b, s:b}, "
        "s:{s:o, s:o}, s:{s:{s:b}}, s:{s:b}}",
        "namespaces", list_of(&spec_namespace_names), "capabilities",
        list_of(&spec_capability_names), "cgroup", "v1", 1, "v2", 1, "systemd", HULL_HAS_SYSTEMD,
        "systemdUser", HULL_HAS_SYSTEMD, "rdma", 1, "seccomp", seccomp(), "apparmor", "enabled", 1,
        "selinux", "enabled", 1, "intelRdt", "enabled", 1, "schemata", 1, "monitoring", 1,
        "memoryPolicy", "modes", list_of(&spec_memory_mode_names), "flags",
        list_of(&spec_memory_flag_names), "mountExtensions", "idmap", "enabled", 1, "netDevices",
        "enabled", 1);
}

/* The names that callers of runc look for stand beside Hull's own. */
static json_t *annotations(void)
{
    char library[32];
    const struct scmp_version *version = seccomp_version();
    (void)snprintf(library, sizeof(library), "%u.%u.%u", version->major, version->minor,
                   version->micro);
    return json_pack("{s:s, s:s, s:s}", "io.github.seccomp.libseccomp.version", library,
                     "org.opencontainers.runc.checkpoint.enabled", "true", "io.hull.version",
                     HULL_VERSION);
}

json_t *features_json(void)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "ociVersionMin", SPEC_VERSION_MIN,
                     "ociVersionMax", SPEC_VERSION, "hooks", hooks(), "mountOptions",
                     mount_options(), "linux", linux_features(), "annotations", annotations());
}
