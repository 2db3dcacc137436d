/* A container's place in the host's control groups: v1, v2 and hybrid hosts, by the file system itself or by systemd.
 *
 * On a hybrid host the limits are v1's, and kill, freeze, events, PSI, placement at clone3 and the device filter v2's.
 * What the host has not is told in 'degrade' and left away. Nothing here waits for a time or reads mountinfo. */
#ifndef CONTAINER_CGROUP_CGROUP_H
#define CONTAINER_CGROUP_CGROUP_H

#include <jansson.h>

#include "container/cgroup/layout.h"
#include "container/degrade.h"
#include "container/spec/spec.h"

enum cgroup_manager {
    CGROUP_MANAGER_FILES,
    CGROUP_MANAGER_SYSTEMD,
    CGROUP_MANAGER_DISABLED,
};

struct cgroup;

struct cgroup_request {
    enum cgroup_manager manager;
    const char *id;   /* of the container */
    const char *path; /* linux.cgroupsPath, NULL: the default */
    const struct spec_resources *resources;
    bool is_rootless; /* what is not allowed is told in 'degrade' and left away */
    /* Who owns what the specification (config-linux.md, Cgroup ownership) gives the container; -1: nobody. */
    int64_t owner_uid, owner_gid;
    /* For systemd's scope, which begins with a process: cgroup_make needs it. */
    pid_t pid;
    const struct spec_pairs *annotations; /* org.systemd.property.*; NULL: none */
};

/* Makes the groups and sets their limits. A failure leaves none behind that was not there before.
 * Errors: -EBUSY for a group that has processes or is frozen; -EINVAL for ".." in the path; the field's path where a limit is refused. */
int must_check cgroup_create(const struct cgroup_request *request, struct cgroup **out_cgroup,
                             struct degrade *degrade, struct error *err);

/* The same in two steps: where the groups will be, to be saved before they are made, so that nothing is lost of a runtime that dies in
 * between. Of a plan (also a loaded one) cgroup_remove removes what has been made and is empty; everything else finds nothing.
 * A making that fails leaves no groups, and an empty plan. */
int must_check cgroup_plan(const struct cgroup_request *request, struct cgroup **out_cgroup,
                           struct error *err);
int must_check cgroup_make(struct cgroup *cgroup, const struct cgroup_request *request,
                           struct degrade *degrade, struct error *err);

/* What cgroup_load needs, as a new reference: part of the container's saved state. */
json_t *cgroup_save(const struct cgroup *cgroup);
/* Finds the groups of a saved state again. They may have gone since: then what follows finds nothing. */
int must_check cgroup_load(const json_t *saved, struct cgroup **out_cgroup, struct error *err);
void cgroup_free(struct cgroup *cgroup); /* of memory only; NULL is fine */

/* The v2 group for CLONE_INTO_CGROUP: the caller's own descriptor; -1 where there is none. */
int cgroup_open_unified(const struct cgroup *cgroup);
/* The group in which a controller counts what the container uses, of v1 or v2: the caller's own descriptor, for control_read of
 * tree.h. -ENOENT: there is none. */
int cgroup_open_controller(const struct cgroup *cgroup, enum cgroup_controller controller,
                           bool *out_is_unified);
/* Puts a process into all groups (with 'is_in_unified' into those of v1 only).
 * 'pid' 0: the caller, which has one thread. Do that: moving others, and moving anybody in v2, takes a lock of the whole kernel, which
 * waits for a grace period (14 ms); a child that is cloned into the group of v2 and enters those of v1 by itself needs none.
 * It also works behind a change of the root, and before a cgroup namespace is unshared, which has to come after it. */
int must_check cgroup_attach(struct cgroup *cgroup, pid_t pid, bool is_in_unified,
                             struct error *err);
/* Into a group below, as exec --cgroup names it: "PATH", or "CONTROLLERS:PATH" for those of v1 and the container's own group elsewhere. */
int must_check cgroup_attach_below(struct cgroup *cgroup, const char *below, pid_t pid,
                                   struct error *err);

/* Changes limits while the container runs; what is not given stays. A failure leaves single values as they were (lines about devices that
 * were written before it stay). */
int must_check cgroup_update(struct cgroup *cgroup, const struct spec_resources *resources,
                             struct degrade *degrade, struct error *err);
int must_check cgroup_freeze(struct cgroup *cgroup, bool is_frozen, struct error *err);
bool cgroup_is_frozen(const struct cgroup *cgroup);
/* A signal for each process, also of groups below; SIGKILL reaches those that fork meanwhile and frozen ones. */
int must_check cgroup_kill(struct cgroup *cgroup, int signal, struct error *err);
/* New memory with all process ids, also of groups below, as the caller's pid namespace sees them. */
int must_check cgroup_processes(const struct cgroup *cgroup, pid_t **out_pids, size_t *out_count,
                                struct error *err);
bool cgroup_has_processes(const struct cgroup *cgroup);
/* Removes the groups and those below, once their processes (killed before) are gone: it waits for cgroup.events, at most
 * 'timeout_ms'. */
int must_check cgroup_remove(struct cgroup *cgroup, unsigned timeout_ms, struct error *err);

/* Usage as runc's "events --stats" has it in "data": cpu, memory, pids, blkio, hugetlb. A new reference. */
json_t *cgroup_stats(const struct cgroup *cgroup);
/* Waits until the OOM killer has come (1), or the container has ended (0). */
int must_check cgroup_wait_oom(struct cgroup *cgroup, struct error *err);

#endif
