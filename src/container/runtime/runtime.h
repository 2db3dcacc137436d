/* The OCI runtime's operations on containers (runtime.md), and those of runc's command line beyond it.
 *
 * Threads: none; the caller has one. Errors are texts for the caller of the command; what fails leaves nothing behind. */
#ifndef CONTAINER_RUNTIME_RUNTIME_H
#define CONTAINER_RUNTIME_RUNTIME_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/core/error.h"
#include "container/cgroup/cgroup.h"

struct runtime {
    const char *root; /* where the containers' states are */
    enum cgroup_manager manager;
    bool is_rootless; /* the caller is not the host's root */
    bool is_strict;   /* what the host cannot give is an error */
    bool may_halt;    /* without a group that can be frozen, pausing stops each process (halt.h) */
};

struct create_options {
    const char *bundle;         /* folder */
    const char *config;         /* NULL: config.json of the bundle */
    const char *console_socket; /* NULL: none */
    const char *pid_file, *pidfd_socket;
    bool no_pivot, no_new_keyring;
    unsigned preserve_fds; /* descriptors from 3 on that the program gets */
};

struct exec_options {
    const char *
        process; /* file with a process object, or NULL: that of the container with these changes: */
    const char *const *args; /* NULL at the end */
    const char *cwd, *user;  /* user: UID[:GID]; NULL: as the container's */
    const char *const *env;  /* NAME=VALUE, added; NULL at the end */
    const char *const *caps; /* added; NULL at the end */
    const char *const *gids; /* added; NULL at the end */
    const char *apparmor, *process_label, *cgroup;
    const char *console_socket, *pid_file, *pidfd_socket;
    bool has_terminal, no_new_privileges, is_detached, ignores_paused;
    uint16_t rows, columns; /* of the terminal; 0: whoever has it will say */
    unsigned preserve_fds;
};

enum checkpoint_cgroups {
    CHECKPOINT_SOFT,
    CHECKPOINT_FULL,
    CHECKPOINT_STRICT,
    CHECKPOINT_IGNORE
};

struct checkpoint_options {
    const char *image_path,
        *work_path;          /* folders, made where they are missing; work_path NULL: the image's */
    const char *parent_path; /* of an earlier one, from the image's folder; NULL: none */
    const char *lsm_profile, *lsm_mount_context;
    const char *page_server_address; /* NULL: memory goes to the image */
    unsigned page_server_port;
    int status_fd; /* gets a byte when lazy pages may be asked for; -1: none */
    enum checkpoint_cgroups cgroups;
    bool leaves_running, is_pre_dump, is_lazy, is_shell_job, dedups;
    bool allows_tcp, allows_unix, allows_locks;
    bool empty_network;  /* devices and addresses are the caller's matter */
    bool leaves_stopped; /* processes stand still behind a checkpoint, as by SIGSTOP */
    /* A system container's: its console is a terminal whose other end the caller has, its control groups are mounted from the
     * host, its files and sockets are nobody else's. */
    bool is_system;
    int terminal; /* of restore with is_system: becomes the console */
};

int must_check runtime_create(const struct runtime *runtime, const char *id,
                              const struct create_options *options, struct error *err);
int must_check runtime_start(const struct runtime *runtime, const char *id, struct error *err);
/* create and start; unless detached the wait for its end too, and delete if not kept. 'out_status': the program's. */
int must_check runtime_run(const struct runtime *runtime, const char *id,
                           const struct create_options *options, bool is_detached, bool is_kept,
                           int *out_status, struct error *err);
int must_check runtime_exec(const struct runtime *runtime, const char *id,
                            const struct exec_options *options, int *out_status, struct error *err);
/* 'to_all': each process of it. */
int must_check runtime_kill(const struct runtime *runtime, const char *id, int signal, bool to_all,
                            struct error *err);
/* With 'is_forced' also one that runs, and one that is not there is no error. */
int must_check runtime_delete(const struct runtime *runtime, const char *id, bool is_forced,
                              struct error *err);
int must_check runtime_pause(const struct runtime *runtime, const char *id, bool is_paused,
                             struct error *err);
/* 'resources': a JSON object as linux.resources. */
int must_check runtime_update(const struct runtime *runtime, const char *id, const char *resources,
                              size_t size, struct error *err);

/* By the program criu. What cannot be written is told before anything is touched; a container that is not left running is
 * deleted. */
int must_check runtime_checkpoint(const struct runtime *runtime, const char *id,
                                  const struct checkpoint_options *options, struct error *err);
/* Unless detached the wait for its end too, and delete. 'out_status': the program's. */
int must_check runtime_restore(const struct runtime *runtime, const char *id,
                               const struct create_options *create,
                               const struct checkpoint_options *options, bool is_detached,
                               int *out_status, struct error *err);

/* New references. */
int must_check runtime_state(const struct runtime *runtime, const char *id, json_t **out_state,
                             struct error *err);
int must_check runtime_list(const struct runtime *runtime, json_t **out_list, struct error *err);
int must_check runtime_stats(const struct runtime *runtime, const char *id, json_t **out_stats,
                             struct error *err);
/* The process ids, as the caller sees them; new memory. */
int must_check runtime_processes(const struct runtime *runtime, const char *id, pid_t **out_pids,
                                 size_t *out_count, struct error *err);
/* Waits for the OOM killer: 1, or for the container's end: 0. */
int must_check runtime_wait_oom(const struct runtime *runtime, const char *id, struct error *err);

#endif
