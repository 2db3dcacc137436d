/* exec: another process in a container that runs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/rootfs.h"
#include "container/process/process.h"
#include "container/resctrl/resctrl.h"
#include "container/runtime/channel.h"
#include "container/runtime/exec_spec.h"
#include "container/runtime/files.h"
#include "container/runtime/launch.h"
#include "container/runtime/loaded.h"
#include "container/runtime/namespaces.h"
#include "container/runtime/runtime.h"
#include "container/runtime/stage.h"
#include "container/runtime/terminal.h"

#define STATUS_FAILED 255
#define PROCESS_NAME  "the process in the container"

struct execution {
    const struct exec_options *options;
    struct loaded loaded;
    struct spec *config; /* of the container */
    struct exec_spec spec;
    struct seccomp_program *program;
    struct degrade degrade;
    struct channel_message message;
    int channel[2];
    int console_socket, terminal;
    int agent;     /* of seccomp, connected; -1: none */
    int container; /* pidfd of its first process */
    int pidfd;
    pid_t pid;
    uint64_t joined;    /* CLONE_NEW* */
    bool is_in_unified; /* the process is born in the group of v2 */
    bool keeps_keyring; /* as the container does */
};

/* Which namespaces are the container's: those that it has asked for, but for a user namespace that is the caller's own. */
static uint64_t namespaces_of(const struct execution *e)
{
    uint64_t flags = 0;
    for (size_t i = 0; i < e->config->linux_.namespace_count; i++) {
        flags |= e->config->linux_.namespaces[i].clone_flag;
    }
    struct stat own, other;
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)e->loaded.state.pid);
    if (stat("/proc/self/ns/user", &own) == 0 && stat(path, &other) == 0 &&
        own.st_ino == other.st_ino) {
        flags &= ~(uint64_t)CLONE_NEWUSER;
    }
    return flags;
}

noreturn_fn static void exec_process(struct execution *e)
{
    struct error err = {0};
    int channel = e->channel[1];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    launch_reset_signals();
    struct launch launch = {.spec = &e->spec.value,
                            .program = e->program,
                            .state = &e->loaded.state,
                            .status = e->loaded.status,
                            .preserve_fds = e->options->preserve_fds,
                            .no_new_keyring = e->keeps_keyring,
                            .agent = e->agent};
    int rc = channel_expect(channel, CHANNEL_GO, &e->message, "the runtime",
                            &err); /* the stage's message comes first */
    rc = rc < 0 ? rc : launch_become_root(e->config, &err);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of ids has cleared it */
    (void)setsid();
    int master = -1;
    rc = rc < 0
             ? rc
             : launch_open_terminal(&e->spec.value.process, NULL, e->console_socket, &master, &err);
    if (rc == 0) {
        const int kept[] = {channel, master, e->agent};
        launch_close_descriptors(e->options->preserve_fds, kept, ARRAY_COUNT(kept));
    }
    rc = rc < 0 ? rc : launch_prepare(&launch, &e->degrade, &err);
    (void)prctl(PR_SET_PDEATHSIG, 0);
    rc = rc < 0 ? rc
                : channel_send(channel, CHANNEL_READY, &e->degrade, sizeof(e->degrade), &master,
                               master >= 0, &err);
    rc = rc < 0 ? rc : channel_expect(channel, CHANNEL_START, &e->message, "the runtime", &err);
    if (rc == 0) {
        error_ignore(launch_execute(&launch, &e->degrade, &err));
    }
    channel_send_error(channel, &err);
    _exit(STATUS_FAILED);
}

/* The caller: moving others costs more, see cgroup_attach. */
static int attach(struct execution *e, struct error *err)
{
    if (e->loaded.cgroup == NULL) {
        return 0;
    }
    return e->options->cgroup != NULL
               ? cgroup_attach_below(e->loaded.cgroup, e->options->cgroup, 0, err)
               : cgroup_attach(e->loaded.cgroup, 0, e->is_in_unified, err);
}

/* Joins the container and makes the process as its own sibling. Nobody in there may look into it meanwhile: it has the host's
 * descriptors. */
noreturn_fn static void stage_process(struct execution *e)
{
    struct error err = {0};
    int channel = e->channel[1];
    close(e->channel[0]);
    (void)prctl(PR_SET_DUMPABLE, 0);
    const char *cpus = e->spec.value.process.cpu_affinity_initial;
    int rc = cpus != NULL ? process_set_affinity(cpus, &err) : 0;
    rc = rc < 0 ? rc : attach(e, &err);
    if (rc == 0 && setns(e->container, (int)e->joined) < 0) {
        rc = error_set_errno(&err, errno, "joining the namespaces of container %s",
                             e->loaded.state.id);
    }
    pid_t pid = rc == 0 ? namespaces_clone(0, -1, true, NULL) : -1;
    if (pid == 0) {
        exec_process(e);
    }
    stage_end(pid, rc, channel, &err);
}

static int make_process(struct execution *e, struct error *err)
{
    const struct cgroup *born_in = e->options->cgroup == NULL ? e->loaded.cgroup : NULL;
    pid_t stage = stage_clone(0, born_in, &e->is_in_unified, NULL);
    if (stage == 0) {
        stage_process(e);
    }
    if (stage < 0) {
        return error_set_errno(err, errno, "making a process");
    }
    close(e->channel[1]);
    e->channel[1] = -1;
    return stage_wait(stage, e->channel[0], "the process that joins the container", &e->message,
                      &e->pid, &e->pidfd, err);
}

/* The container's class of resctrl. */
static int join_class(struct execution *e, struct error *err)
{
    const json_t *saved = json_object_get(e->loaded.state.data, "resctrl");
    struct resctrl plan;
    int opened = saved != NULL && resctrl_load(saved, &plan) == 0 ? resctrl_open(RESCTRL_ROOT) : -1;
    if (opened < 0) {
        return 0;
    }
    AUTO_CLOSE int root = opened;
    return resctrl_add(root, e->loaded.state.id, &plan, e->pid, err);
}

static int guide(struct execution *e, struct error *err)
{
    int rc = join_class(e, err);
    rc = rc < 0 ? rc : process_prepare(e->pid, &e->spec.value.process, &e->degrade, err);
    rc = rc < 0 ? rc : channel_send(e->channel[0], CHANNEL_GO, NULL, 0, NULL, 0, err);
    rc = rc < 0 ? rc : channel_expect(e->channel[0], CHANNEL_READY, &e->message, PROCESS_NAME, err);
    if (rc == 0 && e->message.fd_count != 0) {
        e->terminal = e->message.fds[0];
        terminal_copy_size(e->terminal); /* before the program can ask for it */
    }
    if (rc == 0 && e->options->pidfd_socket != NULL) {
        rc = terminal_send_pidfd(e->options->pidfd_socket, e->pidfd, e->loaded.state.id, err);
    }
    rc = rc < 0 ? rc : channel_send(e->channel[0], CHANNEL_START, NULL, 0, NULL, 0, err);
    rc = rc < 0 ? rc : channel_expect_end(e->channel[0], err);
    if (rc == 0 && e->options->pid_file != NULL) {
        rc = files_write_pid(e->options->pid_file, e->pid, err);
    }
    return rc;
}

static int prepare(struct execution *e, const struct runtime *runtime, const char *id,
                   struct error *err)
{
    int rc = loaded_open(runtime, id, false, &e->loaded, err);
    if (rc < 0) {
        return rc;
    }
    enum container_status status = e->loaded.status;
    bool may = status == CONTAINER_RUNNING || status == CONTAINER_CREATED ||
               (status == CONTAINER_PAUSED && e->options->ignores_paused);
    if (!may) {
        return status == CONTAINER_PAUSED
                   ? error_set(err, EBUSY,
                               "cannot exec in a paused container: %s (--ignore-paused waits)", id)
                   : error_set(err, ESRCH,
                               "cannot exec in a container that is not running: %s is %s", id,
                               container_status_name(status));
    }
    e->keeps_keyring = json_is_true(json_object_get(e->loaded.state.data, "keepsKeyring"));
    e->container = state_open_process(&e->loaded.state);
    if (e->container < 0) {
        return error_set_errno(err, errno, "container %s", id);
    }
    rc = loaded_spec(&e->loaded, &e->config, err);
    rc = rc < 0 ? rc : exec_spec_make(e->config, e->options, &e->spec, err);
    rc = rc < 0 ? rc
                : launch_make_filter(runtime->root, &e->config->linux_.seccomp, &e->program,
                                     &e->agent, &e->degrade, err);
    if (rc == 0 && e->options->console_socket != NULL) {
        rc = e->spec.value.process.has_terminal
                 ? terminal_connect(e->options->console_socket, "--console-socket",
                                    &e->console_socket, err)
                 : error_set(err, EINVAL, "--console-socket: the process has no terminal");
    } else if (rc == 0 && e->spec.value.process.has_terminal && e->options->is_detached) {
        rc = error_set(err, EINVAL,
                       "--detach with a terminal: --console-socket is needed to hand it over");
    }
    if (rc == 0) {
        e->joined = namespaces_of(e);
        rc = channel_create(e->channel, err);
    }
    return rc;
}

static void release(struct execution *e)
{
    int *fds[] = {&e->channel[0], &e->channel[1], &e->console_socket, &e->agent,
                  &e->terminal,   &e->container,  &e->pidfd};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
        }
    }
    seccomp_program_free(e->program);
    exec_spec_fini(&e->spec);
    spec_destroy(e->config);
    if (e->loaded.state.data != NULL) {
        loaded_close(&e->loaded);
    }
    free(e);
}

int runtime_exec(const struct runtime *runtime, const char *id, const struct exec_options *options,
                 int *out_status, struct error *err)
{
    struct execution *e = calloc(1, sizeof(*e));
    if (e == NULL) {
        return error_set_errno(err, ENOMEM, "executing in container %s", id);
    }
    e->options = options;
    e->channel[0] = e->channel[1] = e->console_socket = e->agent = e->terminal = e->container =
        e->pidfd = -1;
    sigset_t signals, before;
    sigfillset(&signals);
    if (!options->is_detached) {
        (void)sigprocmask(SIG_BLOCK, &signals, &before);
    }
    int rc = prepare(e, runtime, id, err);
    rc = rc < 0 ? rc : make_process(e, err);
    if (rc == 0 && (rc = guide(e, err)) < 0) {
        (void)syscall(SYS_pidfd_send_signal, e->pidfd, SIGKILL, NULL, 0);
        (void)waitpid(e->pid, NULL, 0);
    }
    *out_status = 0;
    if (rc == 0 && !options->is_detached) {
        rc = terminal_wait(e->pid, e->pidfd, e->terminal, &signals, out_status, err);
    }
    release(e);
    if (!options->is_detached) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
    }
    return rc;
}
