/* The last part of the way to the user's program, which `create` and `exec` share: in the process that becomes it. */
#ifndef CONTAINER_RUNTIME_LAUNCH_H
#define CONTAINER_RUNTIME_LAUNCH_H

#include "container/degrade.h"
#include "container/mount/rootfs.h"
#include "container/runtime/state.h"
#include "container/seccomp/seccomp.h"
#include "container/spec/spec.h"

struct launch {
    const struct spec *spec;               /* whose process it is */
    const struct seccomp_program *program; /* NULL: none */
    const struct state *state;             /* the container's, for a seccomp agent */
    enum container_status status;
    unsigned preserve_fds; /* from 3 on */
    bool makes_cwd;        /* where there is no such folder */
    bool no_new_keyring;
    int agent;  /* of seccomp, connected; -1: none */
    char *path; /* launch_prepare: the program */
};

/* In the runtime: the filter, if one is wanted (NULL: none), by the cache below the runtime's folder 'root'; and the connection
 * to its agent where it notifies (else -1). Both are the caller's, also on failure. */
int must_check launch_make_filter(const char *root, const struct spec_seccomp *seccomp,
                                  struct seccomp_program **out_program, int *out_agent,
                                  struct degrade *degrade, struct error *err);

/* Where the process has a terminal: opens it in 'rootfs' (with /dev/console; NULL: in the caller's root), takes it as the
 * caller's own and sends its master to 'console_socket'; if that is -1, the master is the caller's in 'out_master', else -1. */
int must_check launch_open_terminal(const struct spec_process *process, struct rootfs *rootfs,
                                    int console_socket, int *out_master, struct error *err);

/* Once the process is in its root: closes all that was opened outside but what is preserved and the sockets 'kept' (-1: none).
 * By a directory of the host's among it /proc/self/fd would lead there, as cwd or program (CVE-2024-21626), until the exec. */
void launch_close_descriptors(unsigned preserve_fds, const int *kept, size_t count);

/* What `hull-oci create` does in advance: working directory, limits, and whether there is such a program. */
int must_check launch_prepare(struct launch *launch, struct degrade *degrade, struct error *err);
/* Identity, seccomp, exec. Returns on failure only. Descriptors behind those that are preserved close at the exec. */
int must_check launch_execute(struct launch *launch, struct degrade *degrade, struct error *err);

/* Signals as a new program expects them: none blocked, none ignored. */
void launch_reset_signals(void);

/* root of the namespace, where the configuration has a user namespace. */
int must_check launch_become_root(const struct spec *spec, struct error *err);

#endif
