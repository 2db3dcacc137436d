/* Inside of the runtime: a container that is being made. Runtime and container's process both have it, as one is the other's
 * fork. */
#ifndef CONTAINER_RUNTIME_CONTAINER_H
#define CONTAINER_RUNTIME_CONTAINER_H

#include <limits.h>

#include "container/mount/rootfs.h"
#include "container/runtime/channel.h"
#include "container/runtime/launch.h"
#include "container/runtime/namespaces.h"
#include "container/runtime/runtime.h"
#include "container/runtime/state.h"

/* How the container's process waits before it executes the program. */
enum container_gate {
    GATE_SOCKET,  /* for `start`, at start.sock */
    GATE_CHANNEL, /* for `run`, which says so itself */
};

struct container {
    const struct runtime *runtime;
    const struct create_options *options;
    enum container_gate gate;
    char bundle[PATH_MAX], root[PATH_MAX]; /* absolute */
    struct spec *spec;
    struct state state;
    struct cgroup *cgroup;
    struct rootfs *rootfs;
    struct namespaces namespaces;
    struct seccomp_program *program;
    struct degrade degrade;
    struct channel_message message;
    int channel[2];     /* the runtime's end, the process' end */
    int gate_socket;    /* listens; -1: none */
    int console_socket; /* connected; -1: none */
    int agent;          /* of seccomp, connected; -1: none */
    int terminal;       /* the master, of `run` in the foreground; -1: none */
    int pidfd;
    bool has_hooks_run;    /* hooks may have run: poststop is due */
    bool is_in_unified;    /* the process is born in the group of v2 */
    bool waits_for_ids;    /* the process does, for CHANNEL_GO */
    bool is_put_in_groups; /* by the runtime, before CHANNEL_GO: else it enters them by itself */
    bool waits_for_hooks; /* for those of the runtime and for network devices, at CHANNEL_MOUNTED */
    bool is_locked;       /* its mount namespace is to be: at CHANNEL_ENTERED */
};

/* The steps that `create` and `restore` share. Of what fails behind container_configure container_undo removes all that there
 * is. */
struct container *container_new(const struct runtime *runtime, const struct create_options *options,
                                enum container_gate gate);
/* Reads and checks the configuration, makes the container's folder. A failure leaves none. */
int must_check container_configure(struct container *c, const char *id, struct error *err);
int must_check container_make_groups(struct container *c, struct error *err);
/* As `state` lists it, each line once: a new reference. */
json_t *container_report(const struct degrade *told, const struct degrade *own);
/* The process is there: 'report' is what the host could not give (taken), the state is saved and told to who has asked for
 * it. */
int must_check container_finish(struct container *c, json_t *report, struct error *err);
/* Whatever there is of it goes. 'err' is kept; where groups cannot be removed it also tells that, and the state stays for `delete`. */
void container_undo(struct container *c, struct error *err);
void container_release(struct container *c);

/* The process' part: never returns. */
noreturn_fn void container_process(struct container *c);

#endif
