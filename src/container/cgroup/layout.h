/* Which control group hierarchies the host has, and where in them the caller is: by statfs of the folders in /sys/fs/cgroup and
 * by /proc/self/cgroup. */
#ifndef CONTAINER_CGROUP_LAYOUT_H
#define CONTAINER_CGROUP_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/compiler.h"
#include "base/core/error.h"

#define CGROUP_ROOT            "/sys/fs/cgroup"
#define CGROUP_MAX_HIERARCHIES 20
#define CGROUP_MAX_FOLDER      64

enum cgroup_controller {
    CGROUP_CPU,
    CGROUP_CPUACCT,
    CGROUP_CPUSET,
    CGROUP_MEMORY,
    CGROUP_PIDS,
    CGROUP_DEVICES,
    CGROUP_FREEZER,
    CGROUP_BLOCK_IO, /* "blkio" of v1, "io" of v2 */
    CGROUP_HUGETLB,
    CGROUP_NET_CLS,
    CGROUP_NET_PRIO,
    CGROUP_PERF_EVENT,
    CGROUP_RDMA,
    CGROUP_MISC,
    CGROUP_CONTROLLER_COUNT,
};

/* As v1 or v2 names it. */
const char *cgroup_controller_name(enum cgroup_controller controller, bool is_unified);
/* A list of names with any of "\n ," between them, as bits 1 << controller; unknown names are left out. */
uint32_t cgroup_controllers_parse(const char *names);

struct cgroup_hierarchy {
    char folder[CGROUP_MAX_FOLDER]; /* below CGROUP_ROOT; "": CGROUP_ROOT itself */
    bool is_unified;
    uint32_t controllers; /* of v1: 1 << CGROUP_*; 0 for named hierarchies */
    const char *names;    /* of v1, as in /proc/self/cgroup: "cpu,cpuacct", "name=systemd" */
    const char *own_path; /* of the caller's group, without the leading '/': "", "a/b" */
};

struct cgroup_layout {
    size_t count;
    struct cgroup_hierarchy hierarchy[CGROUP_MAX_HIERARCHIES];
    char *text; /* the strings above */
};

/* Takes apart what /proc/self/cgroup says ('text' is changed and kept by the caller); folders are still unknown. Paths out of the
 * caller's sight ("/../..") count as "". */
int must_check cgroup_layout_parse(char *text, struct cgroup_layout *out_layout, struct error *err);
/* The hierarchies that are mounted. None at all is no error. */
int must_check cgroup_layout_read(struct cgroup_layout *out_layout, struct error *err);
void cgroup_layout_fini(struct cgroup_layout *layout);

/* A new descriptor for the root of a mounted hierarchy, which is checked to be what it should be. -ENOENT where it is not. */
int cgroup_open_hierarchy(const char *folder, bool is_unified);

#endif
