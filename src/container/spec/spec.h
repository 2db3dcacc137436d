/* A container's configuration as the OCI runtime specification 1.3 has it (config.md, config-linux.md), checked and typed.
 *
 * Ownership: a 'struct spec' and all that hangs from it lies in mappings of its own (no heap), given back by spec_destroy; strings
 * are UTF-8 without NUL bytes inside, lists are NULL and 0 where the document has none. Nothing is changed after loading, and
 * nothing is global, so threads and forked children may read it, and several may be made at once. An empty string is the same as none
 * (callers write ""), null is the same as a field that is not there. Names are those of the specification in snake_case. */
#ifndef CONTAINER_SPEC_SPEC_H
#define CONTAINER_SPEC_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/compiler.h"
#include "base/core/error.h"

#define SPEC_VERSION     "1.3.0" /* what is implemented */
#define SPEC_VERSION_MIN "1.0.0" /* the oldest document that is accepted */

/* Where a document says nothing, 'has' is false. */
struct spec_i64 {
    bool has;
    int64_t value;
};
struct spec_u64 {
    bool has;
    uint64_t value;
};
struct spec_bool {
    bool has, value;
};

struct spec_strings {
    const char **item; /* and a NULL behind the last one, also when there is none */
    size_t count;
};

struct spec_pair {
    const char *name, *value;
};
struct spec_pairs {
    const struct spec_pair *item;
    size_t count;
};

/* Numbers of capabilities (CAP_*) as bits. */
typedef uint64_t spec_capabilities_t;

struct spec_rlimit {
    int resource; /* RLIMIT_* */
    uint64_t soft, hard;
};

struct spec_scheduler {
    bool is_set;
    uint32_t policy; /* SCHED_* */
    int32_t nice;
    uint32_t priority;
    uint64_t flags; /* SCHED_FLAG_* */
    uint64_t runtime_ns, deadline_ns, period_ns;
};

struct spec_process {
    bool has_terminal;
    uint16_t console_rows, console_columns; /* 0: not given */
    uint32_t uid, gid;
    struct spec_u64 umask;
    const uint32_t *additional_gids;
    size_t additional_gid_count;
    struct spec_strings args, env;
    const char *cwd;
    bool has_capabilities; /* false: none is taken away or given */
    spec_capabilities_t bounding, effective, inheritable, permitted, ambient;
    /* Names of capabilities that this build does not know, to be told. */
    struct spec_strings unknown_capabilities;
    const struct spec_rlimit *rlimits;
    size_t rlimit_count;
    bool no_new_privileges;
    const char *apparmor_profile, *selinux_label; /* NULL: none */
    struct spec_i64 oom_score_adj;
    struct spec_scheduler scheduler;
    struct spec_i64 io_priority; /* as ioprio_set takes it: class << 13 | priority */
    const char *cpu_affinity_initial, *cpu_affinity_final; /* lists as in cpuset(7), NULL: none */
};

struct spec_id_mapping {
    uint32_t container_id, host_id, size;
};
struct spec_id_mappings {
    const struct spec_id_mapping *item;
    size_t count;
};

/* A mount with its options taken apart (config.md, Mounts). */
struct spec_mount {
    const char *destination; /* absolute */
    const char *type;        /* NULL: none given; "bind" where an option says so, or the type did */
    const char *source;      /* NULL: none given */
    const char *
        data; /* the options that are the file system's own, joined by commas; "" where there are none */
    bool is_bind, is_recursive_bind;
    /* MOUNT_ATTR_* of the mount, as mount_setattr(2) takes them: where access times are set, MOUNT_ATTR__ATIME is cleared. */
    uint64_t attributes_set, attributes_cleared;
    uint64_t recursive_attributes_set, recursive_attributes_cleared; /* those of rro, rnosuid ... */
    /* MS_SYNCHRONOUS, MS_DIRSYNC, MS_LAZYTIME, MS_SILENT, MS_MANDLOCK, MS_I_VERSION; with ro MS_RDONLY. */
    unsigned long superblock_flags, superblock_cleared;
    unsigned long propagation; /* MS_SHARED, MS_SLAVE ..., perhaps with MS_REC; 0: not given */
    bool copies_up;            /* tmpcopyup */
    bool is_remount;
    bool has_idmap,
        is_recursive_idmap; /* idmap, ridmap; without mappings of its own those of the user namespace */
    struct spec_id_mappings uid_mappings, gid_mappings;
};

struct spec_hook {
    const char *path;
    struct spec_strings args; /* args[0] included; empty: the path alone */
    struct spec_strings env;  /* all of it: nothing is inherited */
    struct spec_i64 timeout;  /* s */
};
struct spec_hooks_at {
    const struct spec_hook *item;
    size_t count;
};
struct spec_hooks {
    struct spec_hooks_at prestart, create_runtime, create_container, start_container, poststart,
        poststop;
};

struct spec_namespace {
    uint64_t clone_flag; /* CLONE_NEW* */
    const char *path;    /* to join; NULL: a new one */
};

struct spec_device {
    const char *path;
    char type; /* 'c', 'b', 'p'; 'u' is 'c' */
    uint32_t major, minor;
    struct spec_u64 file_mode, uid, gid;
};

/* A rule of the device controller. -1: any. Without an access in the document nothing is allowed, or all is denied. */
struct spec_device_rule {
    bool is_allowed;
    char type; /* 'a', 'b', 'c' */
    int64_t major, minor;
    bool can_read, can_write, can_mknod;
};

struct spec_block_limit {
    uint32_t major, minor;
    uint64_t value;       /* bytes or operations a second; weight */
    uint64_t leaf_weight; /* of weights only, 0: none; a weight of 0: none */
};
struct spec_block_limits {
    const struct spec_block_limit *item;
    size_t count;
};

struct spec_hugepage_limit {
    const char *page_size; /* as the kernel names it: 2MB, 1GB */
    uint64_t limit_bytes;
};

struct spec_rdma_limit {
    const char *device;
    struct spec_u64 handles, objects;
};

struct spec_network_priority {
    const char *name;
    uint32_t priority;
};

/* Limits of bytes: -1 is none. */
struct spec_resources {
    const struct spec_device_rule *devices;
    size_t device_count;
    struct {
        struct spec_i64 limit, reservation, swap, kernel,
            kernel_tcp; /* bytes; swap is memory and swap together */
        struct spec_u64 swappiness;
        struct spec_bool disables_oom_killer, uses_hierarchy, checks_before_update;
    } memory;
    struct {
        struct spec_u64 shares, burst_us, period_us, realtime_period_us;
        struct spec_i64 quota_us, realtime_runtime_us, idle;
        const char *cpus, *mems; /* NULL: not given */
    } cpu;
    struct spec_i64 pids_limit; /* 0 is one: nothing but the first process; negative: none */
    struct {
        struct spec_u64 weight, leaf_weight;
        struct spec_block_limits weights, read_bps, write_bps, read_iops, write_iops;
    } block_io;
    const struct spec_hugepage_limit *hugepages;
    size_t hugepage_count;
    struct {
        struct spec_u64 class_id;
        const struct spec_network_priority *priorities;
        size_t priority_count;
    } network;
    const struct spec_rdma_limit *rdma;
    size_t rdma_count;
    struct spec_pairs unified; /* files of cgroup v2 */
};

struct spec_net_device {
    const char *name;     /* on the host */
    const char *new_name; /* in the container; NULL: the same */
};

struct spec_seccomp_arg {
    uint32_t index;
    uint32_t op; /* enum scmp_compare of libseccomp */
    uint64_t value, value_two;
};
struct spec_seccomp_rule {
    struct spec_strings names;
    uint32_t action; /* SCMP_ACT_*, with the errno where one belongs to it */
    const struct spec_seccomp_arg *args;
    size_t arg_count;
};
struct spec_seccomp {
    bool is_set;
    uint32_t default_action;       /* SCMP_ACT_* */
    const uint32_t *architectures; /* SCMP_ARCH_* */
    size_t architecture_count;
    uint32_t flags; /* SECCOMP_FILTER_FLAG_LOG, _SPEC_ALLOW, _WAIT_KILLABLE_RECV, _TSYNC */
    const char *listener_path, *listener_metadata; /* NULL: none */
    const struct spec_seccomp_rule *rules;
    size_t rule_count;
    /* The section as compact JSON without whom it notifies: the same text is the same filter. */
    const char *source;
};

struct spec_intel_rdt {
    bool is_set;
    const char *clos_id, *l3_cache_schema, *memory_bandwidth_schema; /* NULL: not given */
    struct spec_strings schemata;
    bool monitors;
};

struct spec_memory_policy {
    bool is_set;
    int mode;          /* MPOL_* with MPOL_F_* as set_mempolicy takes them */
    const char *nodes; /* as in cpuset(7); NULL: none */
};

struct spec_time_offset {
    bool is_set;
    int64_t seconds;
    uint32_t nanoseconds;
};

struct spec_linux {
    struct spec_id_mappings uid_mappings, gid_mappings;
    struct spec_pairs sysctl;
    struct spec_resources resources;
    const char *cgroups_path;                /* NULL: the runtime's choice */
    const struct spec_namespace *namespaces; /* one of each kind at most */
    size_t namespace_count;
    const struct spec_device *devices;
    size_t device_count;
    const struct spec_net_device *net_devices;
    size_t net_device_count;
    struct spec_seccomp seccomp;
    unsigned long rootfs_propagation; /* MS_*, perhaps with MS_REC; 0: not given */
    struct spec_strings masked_paths, readonly_paths;
    const char *mount_label; /* NULL: none */
    struct spec_intel_rdt intel_rdt;
    struct spec_memory_policy memory_policy;
    bool has_personality;
    unsigned long personality; /* PER_* */
    struct spec_time_offset monotonic, boottime;
};

struct spec {
    const char *version;
    bool has_process;
    struct spec_process process;
    const char *root_path; /* perhaps relative to the bundle */
    bool is_root_readonly;
    const char *hostname, *domainname; /* NULL: not given */
    const struct spec_mount *mounts;
    size_t mount_count;
    struct spec_hooks hooks;
    struct spec_pairs annotations;
    struct spec_linux linux_;
};

/* Reads and checks a configuration.
 * Errors: -EINVAL with the field's path ("linux.resources.cpu.quota: ...") for what the specification forbids, -E2BIG beyond
 * 16 MiB or 64 levels, or what reading the file says. Fields that the specification does not know are ignored, as it asks for. */
int must_check spec_load(const char *path, struct spec **out_spec, struct error *err);
int must_check spec_parse(const char *text, size_t size, struct spec **out_spec, struct error *err);

/* A process object alone (exec --process), and a resources object alone (update --resources). They come as the 'process' and the
 * 'linux_.resources' of a spec without all else. */
int must_check spec_parse_process(const char *text, size_t size, struct spec **out_spec,
                                  struct error *err);
int must_check spec_parse_resources(const char *text, size_t size, struct spec **out_spec,
                                    struct error *err);

/* NULL is fine. */
void spec_destroy(struct spec *spec);

/* A document to begin with, as "hull-oci spec" writes it: a new reference, NULL when memory is out. 'is_rootless': with a user
 * namespace in which the caller is root. */
json_t *spec_default_json(bool is_rootless);

/* The namespace of that kind (CLONE_NEW*), or NULL: the runtime's own is used. */
const struct spec_namespace *spec_find_namespace(const struct spec *spec, uint64_t clone_flag);

/* Values by name, for options of the command line. Errors: -EINVAL with the names that would do. */
int must_check spec_parse_capability(const char *name, uint8_t *out_number, struct error *err);
/* "TERM", "SIGTERM", "15", "RTMIN+3". */
int must_check spec_parse_signal(const char *name, int *out_signal, struct error *err);

#endif
