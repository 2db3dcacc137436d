/* The jail of a VM's process: what a guest that takes it over could still reach.
 *
 * HULL_NO_JAIL=1 in the environment of `hull` turns it off, for debugging (CONTRIBUTING.md). */
#ifndef VMM_JAIL_H
#define VMM_JAIL_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/core/error.h"

struct jail_needs {
    /* Who root becomes: nobody, or with vsock the owner of its folder (who may make and meet sockets there). */
    uid_t uid;
    gid_t gid;
    bool has_own_mounts;   /* what jail_enter_early returned */
    bool has_kvm;          /* ioctls of KVM */
    bool has_unix_sockets; /* vsock: makes and accepts unix sockets in its folder */
};

#define JAIL_NOBODY 65534u

/* Before any thread: no new privileges, namespaces of its own, limits. What the host does not grant is logged. True if
 * the mount namespace is our own. 'stays_root': the user will not change, so the capabilities go now, from all threads
 * to come. */
bool jail_enter_early(bool stays_root);

/* When all is open and every thread runs: no root folder, no user, no capability, and the filter. */
int must_check jail_enter_late(const struct jail_needs *needs, struct error *err);

/* Only the filter, on all threads. */
int must_check jail_filter_install(const struct jail_needs *needs, struct error *err);

#endif
