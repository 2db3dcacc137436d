/* A container's groups as the files of this folder see them. */
#ifndef CONTAINER_CGROUP_INTERNAL_H
#define CONTAINER_CGROUP_INTERNAL_H

#include "container/cgroup/cgroup.h"
#include "container/cgroup/layout.h"

/* The container's group in one hierarchy. */
struct cgroup_place {
    char folder[CGROUP_MAX_FOLDER]; /* of the hierarchy, as in struct cgroup_hierarchy */
    bool is_unified;
    uint32_t controllers; /* of v1; of v2 ask place_controllers */
    char *path;           /* below the hierarchy's root: "a/b" */
    unsigned made;        /* how many groups at the end of the path are ours to remove */
    int fd;               /* of the group; -1: not open yet */
};

#define CGROUP_MAX_UNIT 256 /* bytes of a unit's name, with the NUL */

struct cgroup {
    enum cgroup_manager manager;
    bool is_rootless;
    bool is_planned;            /* not all are made, and what is inside may be somebody else's */
    char unit[CGROUP_MAX_UNIT]; /* of systemd; "": none */
    bool is_users_unit;         /* of the user's systemd, not the host's */
    size_t count;
    struct cgroup_place place[CGROUP_MAX_HIERARCHIES];
};

/* A new descriptor of the group, or -errno; -ENOENT: it is gone. */
int place_open_group(const struct cgroup_place *place);
/* Of v1, or what the groups above have given to a group of v2. */
uint32_t place_controllers(const struct cgroup_place *place, int group_fd);

/* NULL: there is none. */
const struct cgroup_place *cgroup_find_unified(const struct cgroup *cgroup);
const struct cgroup_place *cgroup_find_v1(const struct cgroup *cgroup,
                                          enum cgroup_controller controller);
/* Where all processes of the container are found: v2 if possible. NULL: nowhere. */
const struct cgroup_place *cgroup_find_processes(const struct cgroup *cgroup);

/* Sets limits. 'is_new': no process is inside yet, and the device filter is always set; else only with rules. */
int must_check cgroup_set_limits(struct cgroup *cgroup, const struct spec_resources *resources,
                                 bool is_new, struct degrade *degrade, struct error *err);

#endif
