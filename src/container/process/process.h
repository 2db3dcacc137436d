/* What a container's process becomes before it executes the user's program: identity, capabilities, limits, priorities, labels. */
#ifndef CONTAINER_PROCESS_PROCESS_H
#define CONTAINER_PROCESS_PROCESS_H

#include "container/degrade.h"
#include "container/spec/spec.h"

/* In the runtime, for the new process 'pid': /proc/PID/uid_map, gid_map and setgroups; by newuidmap and newgidmap where the caller may
 * not write them himself. */
int must_check process_map_ids(pid_t pid, const struct spec_linux *linux_, bool is_rootless,
                               struct error *err);

/* In the runtime, for the new process 'pid' (what needs the host's rights): oom_score_adj, rlimits above the hard one. */
int must_check process_prepare(pid_t pid, const struct spec_process *process,
                               struct degrade *degrade, struct error *err);

/* In the process itself, as root of its namespaces and in its root: session keyring unless 'no_new_keyring', personality, memory policy,
 * rlimits, scheduler, I/O priority, affinity (the final one), cwd (made where it is missing if 'makes_cwd'), umask. */
int must_check process_set_environment(const struct spec *spec, bool no_new_keyring, bool makes_cwd,
                                       struct degrade *degrade, struct error *err);

/* CPUs as in cpuset(7), for the calling process. process.execCPUAffinity.initial is set by this before it joins its control groups. */
int must_check process_set_affinity(const char *cpus, struct error *err);

/* The last step before seccomp and exec: labels of the next exec, groups, ids, capabilities, no_new_privs. Which capabilities are left
 * until then is the caller's matter: all. 'keeps_seccomp_right': CAP_SYS_ADMIN stays effective until process_drop_rest, since a filter
 * without no_new_privs needs it. */
int must_check process_set_identity(const struct spec_process *process, bool keeps_seccomp_right,
                                    struct degrade *degrade, struct error *err);
int must_check process_drop_rest(const struct spec_process *process, struct error *err);

/* The program's path as execvp would find it by the configuration's PATH, in new memory; the caller has entered the root.
 * Errors: -ENOENT "executable file not found in $PATH", -EACCES "permission denied": words that podman looks for. */
int must_check process_find_program(const struct spec_process *process, char **out_path,
                                    struct error *err);

#endif
