/* Containers of ordinary users: one user namespace for each user, in which the rest of `system` works as its root.
 *
 * Its root is the user, and ids from 1 on are those that /etc/subuid and /etc/subgid give him, by newuidmap(1) and newgidmap(1). What
 * a container's root owns is therefore the user's on the host, and what its other users own belongs to ids that nobody else has.
 *
 * A namespace lives as long as a process is in it or somebody has it open. So there is a holder (hull-ct-keeper --hold), a process
 * beside the manager, which is started on first need, hands the namespace to those who connect to RUN/space.sock, and ends some
 * seconds after the last of them has closed his connection: workers, and the keepers of running containers. Should it be killed,
 * the next one takes up the namespace again in which those keepers still are.
 *
 * Threads: none; the caller has one. */
#ifndef SYSTEM_ROOTLESS_ROOTLESS_H
#define SYSTEM_ROOTLESS_ROOTLESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"

/* The effective user is root, and not that of a user namespace. */
bool rootless_is_host_root(void);

/* A line of /etc/subuid or /etc/subgid. */
struct rootless_range {
    uint32_t first, count;
};
/* The first range of a user, by name or number, that has 'least' ids. 'text' is the file's. -ENOENT without a text: there is none. */
int must_check rootless_find_range(const char *text, const char *user, uid_t uid, uint32_t least,
                                   struct rootless_range *out_range);

/* Puts the calling process into the user's namespace, with mounts of its own, for good. 'run' is the folder RUN of system/store.h,
 * the user's own; 'keeper' the path of hull-ct-keeper. Errors: -ENOENT saying what to install or to call where the user has no ids
 * or newuidmap is missing. */
int must_check rootless_enter(const char *run, const char *keeper, struct error *err);

/* For a process inside: the namespace is needed until the descriptor is closed. -1: nobody holds it, or it is the host's. */
int rootless_need(const char *run);

/* main() of hull-ct-keeper --hold: a socket to listen at as descriptor 3, the namespace as 4, a lock file as 5. */
int rootless_hold_main(void);

#endif
