/* Which namespaces a container gets, and how its process comes to be in them. */
#ifndef CONTAINER_RUNTIME_NAMESPACES_H
#define CONTAINER_RUNTIME_NAMESPACES_H

#include <stdbool.h>
#include <stdint.h>

#include "container/spec/spec.h"

#define NAMESPACE_KINDS 8

struct namespaces {
    uint64_t created; /* CLONE_NEW* for clone3 */
    /* For unshare, once the process is the root of its user namespace: what is made then belongs to that root. */
    uint64_t unshared;
    bool creates_cgroup, creates_time;
    /* The process makes it as the root of its user namespace, to which it then belongs: namespaces_make_time. Else the one in
     * between makes it. */
    bool makes_time_inside;
    struct {
        uint64_t flag;
        int fd;
    } joined[NAMESPACE_KINDS];
    size_t joined_count;
    /* A process in between has to join before the container's process begins: ids and time are inherited by children only, and
     * who is in a user namespace of his own may no longer join others. */
    bool needs_stage;
};

/* Opens the paths and checks what they are. Errors: -EINVAL "linux.namespaces..." */
int must_check namespaces_open(const struct spec *spec, struct namespaces *out_namespaces,
                               struct error *err);
void namespaces_close(struct namespaces *namespaces);

/* For the calling process: joins; writes time offsets; what is created for children only. */
int must_check namespaces_join(const struct namespaces *namespaces, const struct spec_linux *linux_,
                               struct error *err);

/* The container's process makes it, the runtime ('pid' is that process) writes its offsets, then the process goes there. */
int must_check namespaces_make_time(struct error *err);
int must_check namespaces_set_time(pid_t pid, const struct spec_linux *linux_, struct error *err);
int must_check namespaces_enter_time(struct error *err);

/* Between the two, a user namespace that is cloned is owned by 'uid', the host's id of the container's root (-1: by the
 * caller), and what the kernel counts for each user, as inotify's instances, is counted for it: else all containers of the host
 * would share root's limits (user_namespaces(7), ucounts). The caller is root and keeps its capabilities. */
void namespaces_take_owner(int64_t uid);
void namespaces_give_owner_back(int64_t uid);

/* fork into new namespaces. Returns as fork; 'cgroup' is a v2 group's descriptor or -1; with 'is_sibling' the child is the
 * caller's parent's. 'out_pidfd' NULL: none. errno is set on failure. */
pid_t namespaces_clone(uint64_t flags, int cgroup, bool is_sibling, int *out_pidfd);

#endif
