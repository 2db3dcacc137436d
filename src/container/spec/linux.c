/* The 'linux' section: namespaces, and what only has a sense within them. */
#include <sched.h>
#include <string.h>

#include "container/spec/read.h"

#define AT(member) offsetof(struct spec_linux, member)

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static int read_clone_flag(struct reader *reader, const struct node *node,
                           const struct field *field, void *out)
{
    return read_value(reader, node, &spec_namespace_names, out);
}

static int read_namespace(struct reader *reader, const struct node *node,
                          const struct field *unused, void *out)
{
    static const struct field fields[] = {
        {"type", read_clone_flag, offsetof(struct spec_namespace, clone_flag), true},
        {"path", read_absolute_path, offsetof(struct spec_namespace, path)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_namespaces(struct reader *reader, const struct node *node,
                           const struct field *field, void *out)
{
    struct spec_linux *linux_ = (struct spec_linux *)((char *)out - field->offset);
    int rc = read_elements(reader, node, NODE_LIST, sizeof(struct spec_namespace), read_namespace,
                           (const void **)&linux_->namespaces, &linux_->namespace_count);
    uint64_t seen = 0;
    const struct node *n = node->first;
    for (size_t i = 0; rc == 0 && i < linux_->namespace_count; i++) {
        uint64_t flag = linux_->namespaces[i].clone_flag;
        if ((seen & flag) != 0) {
            rc = reader_fail(reader, n, "type", "stands twice in the list");
        }
        seen |= flag;
        n = n->next;
    }
    return rc;
}

static int read_propagation(struct reader *reader, const struct node *node,
                            const struct field *field, void *out)
{
    uint64_t value = 0;
    if (node->type == NODE_STRING && node->length == 0) {
        return 0;
    }
    int rc = read_value(reader, node, &spec_propagation_names, &value);
    *(unsigned long *)out = (unsigned long)value;
    return rc;
}

/* A path of control groups must not lead out of them. */
static int read_cgroups_path(struct reader *reader, const struct node *node,
                             const struct field *field, void *out)
{
    int rc = read_text(reader, node, field, out);
    const char *path = rc == 0 ? *(const char **)out : NULL;
    for (const char *at = path; at != NULL && (at = strstr(at, "..")) != NULL; at++) {
        bool is_part = (at == path || at[-1] == '/') && (at[2] == '/' || at[2] == '\0');
        if (is_part) {
            return reader_fail(reader, node, NULL, "'%.100s' must not have .. in it", path);
        }
    }
    return rc;
}

static int read_personality(struct reader *reader, const struct node *node,
                            const struct field *field, void *out)
{
    struct spec_linux *linux_ = (struct spec_linux *)((char *)out - field->offset);
    static const struct names no_flags = {NULL, 0};
    struct {
        uint32_t domain;
        uint64_t flags;
    } personality = {0};
    const struct field fields[] = {
        {"domain", read_name, (size_t)((char *)&personality.domain - (char *)&personality), true,
         .names = &spec_personality_names},
        {"flags", read_flags, (size_t)((char *)&personality.flags - (char *)&personality),
         .names = &no_flags},
    };
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &personality);
    linux_->has_personality = true;
    linux_->personality = personality.domain;
    return rc;
}

static int read_offset(struct reader *reader, const struct node *node, const struct field *field,
                       void *out)
{
    static const struct field fields[] = {
        {"secs", read_i64, offsetof(struct spec_time_offset, seconds)},
        {"nanosecs", read_u32, offsetof(struct spec_time_offset, nanoseconds), false, 0, 999999999},
    };
    ((struct spec_time_offset *)out)->is_set = true;
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_offsets(struct reader *reader, const struct node *node, const struct field *unused,
                        void *out)
{
    static const struct field fields[] = {
        {"monotonic", read_offset, AT(monotonic)},
        {"boottime", read_offset, AT(boottime)},
    };
    int rc = read_expect(reader, node, NODE_OBJECT);
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        if (!node_has_key(n, "monotonic") && !node_has_key(n, "boottime")) {
            rc = reader_fail(reader, n, NULL, "is no clock; monotonic and boottime are");
        }
    }
    return rc < 0 ? rc : read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static const struct spec_namespace *find_namespace(const struct spec_linux *linux_,
                                                   uint64_t clone_flag)
{
    for (size_t i = 0; i < linux_->namespace_count; i++) {
        if (linux_->namespaces[i].clone_flag == clone_flag) {
            return &linux_->namespaces[i];
        }
    }
    return NULL;
}

struct sysctl_kind {
    const char *name; /* ending in '.': all that begin so */
    uint64_t clone_flag;
    const char *namespace_name;
};

static const struct sysctl_kind *find_sysctl(const char *name)
{
    static const struct sysctl_kind kinds[] = {
        {"net.", CLONE_NEWNET, "network"},
        {"fs.mqueue.", CLONE_NEWIPC, "ipc"},
        {"kernel.msgmax", CLONE_NEWIPC, "ipc"},
        {"kernel.msgmnb", CLONE_NEWIPC, "ipc"},
        {"kernel.msgmni", CLONE_NEWIPC, "ipc"},
        {"kernel.msg_next_id", CLONE_NEWIPC, "ipc"},
        {"kernel.auto_msgmni", CLONE_NEWIPC, "ipc"},
        {"kernel.sem", CLONE_NEWIPC, "ipc"},
        {"kernel.sem_next_id", CLONE_NEWIPC, "ipc"},
        {"kernel.shmall", CLONE_NEWIPC, "ipc"},
        {"kernel.shmmax", CLONE_NEWIPC, "ipc"},
        {"kernel.shmmni", CLONE_NEWIPC, "ipc"},
        {"kernel.shm_next_id", CLONE_NEWIPC, "ipc"},
        {"kernel.shm_rmid_forced", CLONE_NEWIPC, "ipc"},
        {"kernel.domainname", CLONE_NEWUTS, "uts"},
        {"kernel.hostname", CLONE_NEWUTS, "uts"},
        {"user.", CLONE_NEWUSER, "user"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        const char *c = name, *known = kinds[i].name;
        while (*known != '\0' && (*c == *known || (*known == '.' && *c == '/'))) {
            c++;
            known++;
        }
        if (*known == '\0' && (known[-1] == '.' || *c == '\0')) {
            return &kinds[i];
        }
    }
    return NULL;
}

/* Others would be the host's. */
static int check_sysctl(struct reader *reader, const struct node *linux_node,
                        const struct spec_linux *linux_)
{
    const struct node *section = node_find(linux_node, "sysctl");
    const struct node *n = section != NULL ? section->first : NULL;
    for (size_t i = 0; i < linux_->sysctl.count; i++) {
        const char *name = linux_->sysctl.item[i].name;
        const struct sysctl_kind *kind = find_sysctl(name);
        if (strstr(name, "..") != NULL || strstr(name, "//") != NULL) {
            return reader_fail(reader, n, NULL, "is no name of a sysctl");
        }
        if (kind == NULL) {
            return reader_fail(reader, n, NULL, "belongs to no namespace, so it is the host's");
        }
        if (find_namespace(linux_, kind->clone_flag) == NULL) {
            return reader_fail(reader, n, NULL, "needs a namespace of type %s in linux.namespaces",
                               kind->namespace_name);
        }
        n = n->next;
    }
    return 0;
}

static int check_namespaces(struct reader *reader, const struct node *node,
                            const struct spec_linux *linux_)
{
    const struct {
        bool is_used;
        uint64_t clone_flag;
        const char *field, *type;
    } needs[] = {
        {linux_->uid_mappings.count > 0, CLONE_NEWUSER, "uidMappings", "user"},
        {linux_->gid_mappings.count > 0, CLONE_NEWUSER, "gidMappings", "user"},
        {linux_->monotonic.is_set || linux_->boottime.is_set, CLONE_NEWTIME, "timeOffsets", "time"},
        {linux_->net_device_count > 0, CLONE_NEWNET, "netDevices", "network"},
        {linux_->masked_paths.count > 0, CLONE_NEWNS, "maskedPaths", "mount"},
        {linux_->readonly_paths.count > 0, CLONE_NEWNS, "readonlyPaths", "mount"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(needs); i++) {
        if (needs[i].is_used && find_namespace(linux_, needs[i].clone_flag) == NULL) {
            return reader_fail(reader, node, needs[i].field,
                               "needs a namespace of type %s in linux.namespaces", needs[i].type);
        }
    }
    const struct spec_namespace *time_namespace = find_namespace(linux_, CLONE_NEWTIME);
    if ((linux_->monotonic.is_set || linux_->boottime.is_set) && time_namespace->path != NULL) {
        return reader_fail(reader, node, "timeOffsets",
                           "must not be given with a time namespace that is joined by its path");
    }
    return check_sysctl(reader, node, linux_);
}

int read_linux(struct reader *reader, const struct node *node, const struct field *unused,
               void *out)
{
    static const struct field fields[] = {
        {"namespaces", read_namespaces, AT(namespaces)},
        {"uidMappings", read_id_mappings, AT(uid_mappings)},
        {"gidMappings", read_id_mappings, AT(gid_mappings)},
        {"sysctl", read_pairs, AT(sysctl)},
        {"resources", read_resources, AT(resources)},
        {"cgroupsPath", read_cgroups_path, AT(cgroups_path)},
        {"devices", read_devices, AT(devices)},
        {"netDevices", read_net_devices, AT(net_devices)},
        {"seccomp", read_seccomp, AT(seccomp)},
        {"rootfsPropagation", read_propagation, AT(rootfs_propagation)},
        {"maskedPaths", read_absolute_paths, AT(masked_paths)},
        {"readonlyPaths", read_absolute_paths, AT(readonly_paths)},
        {"mountLabel", read_text, AT(mount_label)},
        {"intelRdt", read_intel_rdt, AT(intel_rdt)},
        {"memoryPolicy", read_memory_policy, AT(memory_policy)},
        {"personality", read_personality, AT(personality)},
        {"timeOffsets", read_offsets, 0},
    };
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), out);
    return rc < 0 ? rc : check_namespaces(reader, node, out);
}

const struct spec_namespace *spec_find_namespace(const struct spec *spec, uint64_t clone_flag)
{
    return find_namespace(&spec->linux_, clone_flag);
}
