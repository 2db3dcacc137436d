/* The container's process, from its birth to the user's program. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/container.h"
#include "container/runtime/fault.h"
#include "container/runtime/hooks.h"
#include "container/runtime/shrink.h"
#include "container/runtime/terminal.h"

/* How it ends if it fails: `run` in the foreground has told the reason. */
#define STATUS_FAILED 1

/* Here the process has the number that the container's processes know. */
static struct state inner_state(const struct container *c)
{
    struct state state = c->state;
    state.pid = getpid();
    return state;
}

static int run_hooks(const struct container *c, const struct spec_hooks_at *hooks,
                     const char *field, enum container_status status, struct error *err)
{
    struct state state = inner_state(c);
    return hooks_run(hooks, field, &state, status, err);
}

/* A new network namespace has lo, which is down. */
static int raise_loopback(struct error *err)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0) {
        return error_set_errno(err, errno, "raising the network's lo");
    }
    return 0;
}

/* Its time namespace. The runtime writes the offsets: what is this process' in /proc belongs to the host's root. */
static int settle_time(struct container *c, struct error *err)
{
    int rc = namespaces_make_time(err);
    rc = rc < 0 ? rc : channel_send(c->channel[1], CHANNEL_TIME, NULL, 0, NULL, 0, err);
    rc =
        rc < 0 ? rc : channel_expect(c->channel[1], CHANNEL_TIMED, &c->message, "the runtime", err);
    return rc < 0 ? rc : namespaces_enter_time(err);
}

/* Joins and makes what the clone has not, takes names. */
static int settle(struct container *c, struct error *err)
{
    const struct spec *spec = c->spec;
    int rc = 0;
    if (!c->namespaces.needs_stage) { /* which has done both for its children */
        rc = c->is_put_in_groups ? 0 : cgroup_attach(c->cgroup, 0, c->is_in_unified, err);
        rc = rc < 0 ? rc : namespaces_join(&c->namespaces, &spec->linux_, err);
    }
    rc = rc < 0 ? rc : launch_become_root(spec, err);
    if (rc == 0 && c->namespaces.unshared != 0 && unshare((int)c->namespaces.unshared) < 0) {
        rc = error_set_errno(err, errno, "making namespaces");
    }
    rc = rc == 0 && c->namespaces.makes_time_inside ? settle_time(c, err) : rc;
    const struct spec_namespace *network = spec_find_namespace(spec, CLONE_NEWNET);
    if (rc == 0 && network != NULL && network->path == NULL) {
        rc = raise_loopback(err);
    }
    if (rc == 0 && c->namespaces.creates_cgroup && unshare(CLONE_NEWCGROUP) < 0) {
        rc = error_set_errno(err, errno, "making a cgroup namespace");
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of ids has cleared it */
    (void)setsid();                         /* fails where it has a session of its own */
    if (rc == 0 && spec->hostname != NULL &&
        sethostname(spec->hostname, strlen(spec->hostname)) < 0) {
        rc = error_set_errno(err, errno, "hostname");
    }
    if (rc == 0 && spec->domainname != NULL &&
        setdomainname(spec->domainname, strlen(spec->domainname)) < 0) {
        rc = error_set_errno(err, errno, "domainname");
    }
    return rc;
}

static int mount_all(struct container *c, struct error *err)
{
    int channel = c->channel[1];
    int rc = rootfs_mount(c->rootfs, &c->degrade, err);
    if (rc == 0 && c->waits_for_hooks) {
        rc = channel_send(channel, CHANNEL_MOUNTED, NULL, 0, NULL, 0, err);
        rc = rc < 0 ? rc : channel_expect(channel, CHANNEL_HOOKED, &c->message, "the runtime", err);
    }
    rc = rc < 0 ? rc
                : run_hooks(c, &c->spec->hooks.create_container, "hooks.createContainer",
                            CONTAINER_CREATING, err);
    return rc;
}

static int enter(struct container *c, struct error *err)
{
    int rc = rootfs_enter(c->rootfs, err);
    if (rc == 0 && c->is_locked) {
        rc = channel_send(c->channel[1], CHANNEL_ENTERED, NULL, 0, NULL, 0, err);
        rc = rc < 0
                 ? rc
                 : channel_expect(c->channel[1], CHANNEL_LOCKED, &c->message, "the runtime", err);
        rc = rc < 0 ? rc
                    : rootfs_enter_locked(c->rootfs,
                                          c->message.fd_count != 0 ? c->message.fds[0] : -1, err);
    }
    return rc;
}

static int become_ready(struct container *c, struct launch *launch, struct error *err)
{
    int rc = 0;
    if (c->waits_for_ids) {
        rc = channel_expect(c->channel[1], CHANNEL_GO, &c->message, "the runtime", err);
    }
    fault_step("process:born");
    rc = rc < 0 ? rc : settle(c, err);
    fault_step("process:settled");
    rc = rc < 0 ? rc : mount_all(c, err);
    fault_step("process:mounted");
    int master = -1;
    rc = rc < 0
             ? rc
             : launch_open_terminal(&c->spec->process, c->rootfs, c->console_socket, &master, err);
    rc = rc < 0 ? rc : enter(c, err);
    fault_step("process:entered");
    if (rc == 0) {
        const int kept[] = {c->channel[1], c->gate_socket, master, c->agent};
        launch_close_descriptors(c->options->preserve_fds, kept, ARRAY_COUNT(kept));
    }
    if (rc == 0 && c->spec->has_process) {
        rc = launch_prepare(launch, &c->degrade, err);
    }
    (void)prctl(PR_SET_PDEATHSIG, 0); /* from now on the runtime may go */
    rc = rc < 0 ? rc
                : channel_send(c->channel[1], CHANNEL_READY, &c->degrade, sizeof(c->degrade),
                               &master, master >= 0, err);
    if (master >= 0) {
        close(master);
    }
    return rc;
}

/* Waits for `start`; 'out_socket' is where it hears of errors, and closes at the exec. */
static int wait_at_gate(struct container *c, int *out_socket, struct error *err)
{
    if (c->gate == GATE_CHANNEL) {
        *out_socket = c->channel[1];
        return channel_expect(c->channel[1], CHANNEL_START, &c->message, "the runtime", err);
    }
    close(c->channel[1]);
    c->channel[1] = -1;
    *out_socket = shrink_and_accept(c->gate_socket);
    return *out_socket < 0 ? error_set_errno(err, -*out_socket, "waiting for the start") : 0;
}

void container_process(struct container *c)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_NAME, "hull-oci:init");
    close(c->channel[0]);
    close(c->state.folder); /* its lock is the runtime's */
    char nothing;
    if (recv(c->channel[1], &nothing, sizeof(nothing), MSG_PEEK | MSG_DONTWAIT) == 0) {
        _exit(STATUS_FAILED); /* the runtime was gone before its death could be a signal */
    }
    launch_reset_signals();
    struct error err = {0};
    struct launch launch = {.spec = c->spec,
                            .program = c->program,
                            .preserve_fds = c->options->preserve_fds,
                            .makes_cwd = true,
                            .no_new_keyring = c->options->no_new_keyring,
                            .agent = c->agent};
    if (become_ready(c, &launch, &err) < 0) {
        channel_send_error(c->channel[1], &err);
        _exit(STATUS_FAILED);
    }
    int starter = -1;
    int rc = wait_at_gate(c, &starter, &err);
    rc = rc < 0 ? rc
                : run_hooks(c, &c->spec->hooks.start_container, "hooks.startContainer",
                            CONTAINER_CREATED, &err);
    if (rc == 0 && !c->spec->has_process) {
        rc = error_set(&err, EINVAL,
                       "process: missing: a container without a program cannot be started");
    }
    struct state state = inner_state(c);
    launch.state = &state;
    launch.status = CONTAINER_CREATED;
    if (rc == 0 && launch_execute(&launch, &c->degrade, &err) < 0 && starter >= 0) {
        channel_send_error(starter, &err);
    } else if (rc < 0 && starter >= 0) {
        channel_send_error(starter, &err);
    }
    _exit(STATUS_FAILED);
}
