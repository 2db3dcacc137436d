/* create and run: the runtime's part. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/process/process.h"
#include "container/resctrl/resctrl.h"
#include "container/runtime/container.h"
#include "container/runtime/fault.h"
#include "container/runtime/files.h"
#include "container/runtime/hooks.h"
#include "container/runtime/net_devices.h"
#include "container/runtime/passwd.h"
#include "container/runtime/stage.h"
#include "container/runtime/terminal.h"

/* How long the end of processes that were killed is waited for. */
#define REMOVE_TIMEOUT_MS 10000
#define MAX_CONFIG_SIZE   (16u << 20)

#define PROCESS_NAME "the container's process"

static int read_config(struct container *c, char **out_text, size_t *out_size, struct error *err)
{
    char path[PATH_MAX + 16];
    const char *given = c->options->config;
    if (realpath(c->options->bundle, c->bundle) == NULL) {
        return error_set_errno(err, errno, "opening bundle %s", c->options->bundle);
    }
    (void)snprintf(path, sizeof(path), "%s/config.json", c->bundle);
    const char *config = given != NULL ? given : path;
    AUTO_CLOSE int fd = open(config, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", config);
    }
    void *text;
    int rc = file_read_whole(fd, MAX_CONFIG_SIZE, config, &text, out_size, err);
    *out_text = text;
    return rc;
}

static int check_config(struct container *c, struct error *err)
{
    const struct spec *spec = c->spec;
    if (spec->root_path == NULL) {
        return error_set(err, EINVAL, "root: missing: the configuration names no root file system");
    }
    char path[2 * PATH_MAX];
    bool is_absolute = spec->root_path[0] == '/';
    (void)snprintf(path, sizeof(path), "%s%s%s", is_absolute ? "" : c->bundle,
                   is_absolute ? "" : "/", spec->root_path);
    if (realpath(path, c->root) == NULL) {
        return error_set_errno(err, errno, "root.path: opening %s", path);
    }
    if (spec_find_namespace(spec, CLONE_NEWNS) == NULL) {
        return error_set(err, EINVAL, "linux.namespaces: a container needs one of type mount");
    }
    bool has_terminal = spec->has_process && spec->process.has_terminal;
    if (has_terminal && c->gate == GATE_SOCKET && c->options->console_socket == NULL) {
        return error_set(err, EINVAL,
                         "process.terminal: --console-socket is needed to hand the terminal over");
    }
    if (!has_terminal && c->options->console_socket != NULL) {
        return error_set(err, EINVAL,
                         "--console-socket: process.terminal is not true in the configuration");
    }
    return 0;
}

static void describe(struct container *c)
{
    json_t *data = c->state.data;
    struct timespec now;
    struct tm parts;
    const struct passwd *owner = passwd_find(getuid());
    char seconds[32], created[64];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &parts);
    (void)strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &parts);
    (void)snprintf(created, sizeof(created), "%s.%09ldZ", seconds, now.tv_nsec);
    json_object_set_new(data, "ociVersion", json_string(SPEC_VERSION));
    json_object_set_new(data, "bundle", json_string(c->bundle));
    json_object_set_new(data, "rootfs", json_string(c->root));
    json_object_set_new(data, "created", json_string(created));
    json_object_set_new(data, "owner", json_string(owner != NULL ? owner->pw_name : ""));
    json_t *annotations = json_object();
    for (size_t i = 0; i < c->spec->annotations.count; i++) {
        const struct spec_pair *pair = &c->spec->annotations.item[i];
        json_object_set_new(annotations, pair->name, json_string(pair->value));
    }
    json_object_set_new(data, "annotations", annotations);
    /* So that later calls need not read the configuration to find that there is nothing in it for them. */
    json_object_set_new(data, "hasPoststart", json_boolean(c->spec->hooks.poststart.count != 0));
    json_object_set_new(data, "hasPoststop", json_boolean(c->spec->hooks.poststop.count != 0));
    json_object_set_new(data, "hasPidNamespace",
                        json_boolean(spec_find_namespace(c->spec, CLONE_NEWPID) != NULL));
    json_object_set_new(data, "keepsKeyring", json_boolean(c->options->no_new_keyring));
}

/* Whom the specification has the container's group given to: the root of its user namespace, if it is mounted for it to write. */
static int64_t mapped_id(const struct spec_id_mappings *mappings)
{
    for (size_t i = 0; i < mappings->count; i++) {
        if (mappings->item[i].container_id == 0) {
            return mappings->item[i].host_id;
        }
    }
    return -1;
}

static bool has_writable_cgroups(const struct spec *spec)
{
    for (size_t i = 0; i < spec->mount_count; i++) {
        const struct spec_mount *mount = &spec->mounts[i];
        if (mount->type != NULL && strncmp(mount->type, "cgroup", 6) == 0) {
            return (mount->attributes_set & MOUNT_ATTR_RDONLY) == 0;
        }
    }
    return false;
}

static struct cgroup_request groups_request(const struct container *c)
{
    const struct spec_linux *linux_ = &c->spec->linux_;
    bool is_given = c->namespaces.creates_cgroup && has_writable_cgroups(c->spec);
    return (struct cgroup_request){
        .manager = c->runtime->manager,
        .id = c->state.id,
        .path = linux_->cgroups_path,
        .resources = &linux_->resources,
        .is_rootless = c->runtime->is_rootless,
        .owner_uid = is_given ? mapped_id(&linux_->uid_mappings) : -1,
        .owner_gid = is_given ? mapped_id(&linux_->gid_mappings) : -1,
        .pid = c->state.pid,
        .annotations = &c->spec->annotations,
    };
}

static int plan_groups(struct container *c, struct error *err)
{
    struct cgroup_request request = groups_request(c);
    int rc = cgroup_plan(&request, &c->cgroup, err);
    if (rc == 0) {
        /* Saved first, so that `delete --force` finds them whatever happens from here on. */
        json_object_set_new(c->state.data, "cgroup", cgroup_save(c->cgroup));
        rc = state_save(&c->state, err);
    }
    fault_step("planned");
    return rc;
}

static int make_groups(struct container *c, struct error *err)
{
    struct cgroup_request request = groups_request(c);
    int rc = cgroup_make(c->cgroup, &request, &c->degrade, err);
    if (rc == 0) {
        fault_step("made");
        json_object_set_new(c->state.data, "cgroup", cgroup_save(c->cgroup));
        rc = state_save(&c->state, err); /* processes are looked for in groups that are made */
    }
    return rc;
}

int container_make_groups(struct container *c, struct error *err)
{
    if (c->runtime->manager == CGROUP_MANAGER_SYSTEMD) {
        return error_set(err, EOPNOTSUPP,
                         "restoring into a scope of systemd's is not possible: --cgroup-manager "
                         "cgroupfs");
    }
    int rc = plan_groups(c, err);
    return rc < 0 ? rc : make_groups(c, err);
}

/* Its cache and bandwidth class: saved before it is made, as its groups are. */
static int join_class(struct container *c, struct error *err)
{
    const struct spec_intel_rdt *rdt = &c->spec->linux_.intel_rdt;
    if (!rdt->is_set) {
        return 0;
    }
    int opened = resctrl_open(RESCTRL_ROOT);
    if (opened < 0) {
        degrade_add(&c->degrade, "linux.intelRdt", "resctrl is not mounted on this host");
        return 0;
    }
    AUTO_CLOSE int root = opened;
    struct resctrl plan;
    int rc = resctrl_plan(root, c->state.id, rdt, &plan, err);
    if (rc == 0) {
        json_object_set_new(c->state.data, "resctrl", resctrl_save(&plan));
        rc = state_save(&c->state, err);
    }
    rc = rc < 0 ? rc : resctrl_make(root, c->state.id, rdt, &plan, err);
    return rc < 0 ? rc : resctrl_add(root, c->state.id, &plan, c->state.pid, err);
}

/* The socket that `start` comes to. */
static int open_gate(struct container *c, struct error *err)
{
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
                   c->state.folder, STATE_GATE);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0) {
        return error_set_errno(err, errno, "making the socket for start");
    }
    c->gate_socket = TAKE_FD(fd);
    return 0;
}

static int prepare(struct container *c, struct error *err)
{
    const struct rootfs_request rootfs = {
        .spec = c->spec,
        .root = c->root,
        .no_pivot = c->options->no_pivot,
        .has_own_user_namespace = spec_find_namespace(c->spec, CLONE_NEWUSER) != NULL,
        .is_rootless = c->runtime->is_rootless,
    };
    int rc = namespaces_open(c->spec, &c->namespaces, err);
    /* A user may not write below /proc for a process that has other ids than his. */
    c->namespaces.makes_time_inside = c->namespaces.creates_time && !c->runtime->is_rootless &&
                                      (c->namespaces.created & CLONE_NEWUSER) != 0;
    /* That of a stage also for the stage's message of its birth, which is the first one. */
    c->is_put_in_groups = c->runtime->manager == CGROUP_MANAGER_SYSTEMD;
    c->waits_for_ids = (c->namespaces.created & CLONE_NEWUSER) != 0 || c->namespaces.needs_stage ||
                       c->is_put_in_groups;
    c->waits_for_hooks = c->spec->hooks.prestart.count + c->spec->hooks.create_runtime.count +
                             c->spec->linux_.net_device_count !=
                         0;
    c->is_locked = !c->runtime->is_rootless && rootfs_needs_lock(&rootfs);
    rc = rc < 0 ? rc : rootfs_create(&rootfs, &c->rootfs, err);
    rc = rc < 0 ? rc
                : launch_make_filter(c->runtime->root, &c->spec->linux_.seccomp, &c->program,
                                     &c->agent, &c->degrade, err);
    if (rc == 0 && c->options->console_socket != NULL) {
        rc = terminal_connect(c->options->console_socket, "--console-socket", &c->console_socket,
                              err);
    }
    if (rc == 0 && c->gate == GATE_SOCKET) {
        rc = open_gate(c, err);
    }
    return rc < 0 ? rc : channel_create(c->channel, err);
}

/* Who owns a new user namespace; -1: the runtime. Its groups have to be that one's too, which it enters by itself. */
static int64_t owner_of(const struct container *c)
{
    bool is_new = (c->namespaces.created & CLONE_NEWUSER) != 0 && geteuid() == 0;
    bool has_groups = c->namespaces.creates_cgroup && has_writable_cgroups(c->spec);
    return is_new && has_groups && !c->runtime->is_rootless
               ? mapped_id(&c->spec->linux_.uid_mappings)
               : -1;
}

/* The process in between: joins, then makes the container's process as its own sibling. */
noreturn_fn static void stage_process(struct container *c)
{
    struct error err = {0};
    int channel = c->channel[1];
    /* Whoever is root where it joins may not look into it, nor into what it makes, before the program is executed: they have the
     * host's root and descriptors (CVE-2016-9962). A caller who is not root himself could not reach their files in /proc either. */
    if (!c->runtime->is_rootless) {
        (void)prctl(PR_SET_DUMPABLE, 0);
    }
    int rc = c->is_put_in_groups ? 0
                                 : cgroup_attach(c->cgroup, 0, c->is_in_unified,
                                                 &err); /* its groups are those of its children */
    rc = rc < 0 ? rc : namespaces_join(&c->namespaces, &c->spec->linux_, &err);
    namespaces_take_owner(owner_of(c));
    pid_t pid = rc == 0 ? namespaces_clone(c->namespaces.created, -1, true, NULL) : -1;
    if (pid == 0) {
        container_process(c);
    }
    stage_end(pid, rc, channel, &err);
}

static int make_process(struct container *c, struct error *err)
{
    bool has_stage = c->namespaces.needs_stage;
    int64_t owner = has_stage ? -1 : owner_of(c);
    namespaces_take_owner(owner);
    pid_t pid = stage_clone(has_stage ? 0 : c->namespaces.created, c->cgroup, &c->is_in_unified,
                            has_stage ? NULL : &c->pidfd);
    if (pid != 0) {
        namespaces_give_owner_back(owner);
    }
    if (pid == 0 && has_stage) {
        stage_process(c);
    }
    if (pid == 0) {
        container_process(c);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "making %s", PROCESS_NAME);
    }
    close(c->channel[1]); /* so that its end is seen */
    c->channel[1] = -1;
    if (has_stage) {
        return stage_wait(pid, c->channel[0], "the process that joins namespaces", &c->message,
                          &c->state.pid, &c->pidfd, err);
    }
    c->state.pid = pid;
    return 0;
}

static int map_ids(struct container *c, struct error *err)
{
    int rc = 0;
    if ((c->namespaces.created & CLONE_NEWUSER) != 0) {
        rc = process_map_ids(c->state.pid, &c->spec->linux_, c->runtime->is_rootless, err);
    }
    rc = rc < 0 ? rc : rootfs_map(c->rootfs, c->state.pid, err);
    return rc < 0 ? rc : channel_send(c->channel[0], CHANNEL_GO, NULL, 0, NULL, 0, err);
}

/* While nobody is in it yet. */
static int set_time(struct container *c, struct error *err)
{
    int rc = channel_expect(c->channel[0], CHANNEL_TIME, &c->message, PROCESS_NAME, err);
    rc = rc < 0 ? rc : namespaces_set_time(c->state.pid, &c->spec->linux_, err);
    return rc < 0 ? rc : channel_send(c->channel[0], CHANNEL_TIMED, NULL, 0, NULL, 0, err);
}

static int run_create_hooks(struct container *c, struct error *err)
{
    int rc = channel_expect(c->channel[0], CHANNEL_MOUNTED, &c->message, PROCESS_NAME, err);
    if (rc == 0 && c->spec->linux_.net_device_count != 0) {
        rc = net_devices_move(&c->spec->linux_, c->state.pid, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = hooks_run(&c->spec->hooks.prestart, "hooks.prestart", &c->state, CONTAINER_CREATING, err);
    rc = rc < 0 ? rc
                : hooks_run(&c->spec->hooks.create_runtime, "hooks.createRuntime", &c->state,
                            CONTAINER_CREATING, err);
    return rc < 0 ? rc : channel_send(c->channel[0], CHANNEL_HOOKED, NULL, 0, NULL, 0, err);
}

static int lock_mounts(struct container *c, struct error *err)
{
    int rc = channel_expect(c->channel[0], CHANNEL_ENTERED, &c->message, PROCESS_NAME, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = rootfs_lock(c->state.pid, err);
    return fd < 0 ? fd : channel_send(c->channel[0], CHANNEL_LOCKED, NULL, 0, &fd, 1, err);
}

/* From the process' birth to where it waits for the start. */
static int guide(struct container *c, struct error *err)
{
    int rc = c->is_put_in_groups ? make_groups(c, err) : 0;
    rc = rc < 0 ? rc : join_class(c, err);
    rc = rc == 0 && c->waits_for_ids ? map_ids(c, err) : rc;
    rc = rc == 0 && c->namespaces.makes_time_inside ? set_time(c, err) : rc;
    if (rc == 0 && c->spec->has_process) {
        rc = process_prepare(c->state.pid, &c->spec->process, &c->degrade, err);
    }
    if (rc == 0 && c->waits_for_hooks) {
        rc = run_create_hooks(c, err);
    }
    if (rc == 0 && c->is_locked) {
        rc = lock_mounts(c, err);
    }
    rc = rc < 0 ? rc : channel_expect(c->channel[0], CHANNEL_READY, &c->message, PROCESS_NAME, err);
    return rc;
}

/* Each line once. */
static void add_lines(json_t *report, const struct degrade *degrade)
{
    char *lines = strndup(degrade->text, MIN(degrade->size, sizeof(degrade->text)));
    char *rest = lines;
    for (char *line; lines != NULL && (line = strsep(&rest, "\n")) != NULL && *line != '\0';) {
        char *reason = line;
        const char *field = strsep(&reason, "\t");
        json_t *row =
            json_pack("{s:s, s:s}", "field", field, "reason", reason != NULL ? reason : "");
        size_t i;
        json_t *other;
        bool is_new = row != NULL;
        json_array_foreach(report, i, other)
        {
            is_new = is_new && !json_equal(row, other);
        }
        if (is_new) {
            json_array_append(report, row);
        }
        json_decref(row);
    }
    free(lines);
}

json_t *container_report(const struct degrade *told, const struct degrade *own)
{
    json_t *report = json_array();
    add_lines(report, told); /* the process began with a copy of what the runtime had by then */
    add_lines(report, own);
    return report;
}

/* What the process could not have comes back with what the runtime could not give. */
static int take_degrade(struct container *c, json_t **out_report, struct error *err)
{
    struct degrade told;
    if (c->message.size != sizeof(told)) {
        return error_set(err, EPROTO, "%s sent a broken report", PROCESS_NAME);
    }
    memcpy(&told, c->message.data, sizeof(told));
    c->terminal = c->message.fd_count != 0 ? c->message.fds[0] : -1;
    *out_report = container_report(&told, &c->degrade);
    return 0;
}

static int check_report(const struct container *c, const json_t *report, struct error *err)
{
    if (!c->runtime->is_strict || json_array_size(report) == 0) {
        return 0;
    }
    const json_t *first = json_array_get(report, 0);
    return error_set(err, EOPNOTSUPP, "%s: %s (--strict)",
                     json_string_value(json_object_get(first, "field")),
                     json_string_value(json_object_get(first, "reason")));
}

int container_finish(struct container *c, json_t *report, struct error *err)
{
    int rc = check_report(c, report, err);
    json_object_set_new(c->state.data, "degraded", report);
    c->state.start_ticks = process_start_ticks(c->state.pid);
    if (rc == 0 && c->state.start_ticks == 0) {
        rc = error_set(err, EPIPE, "%s ended before it was done", PROCESS_NAME);
    }
    json_object_set_new(c->state.data, "pid", json_integer(c->state.pid));
    json_object_set_new(c->state.data, "startTicks",
                        json_integer((json_int_t)c->state.start_ticks));
    rc = rc < 0 ? rc : state_save(&c->state, err);
    if (rc == 0 && c->options->pidfd_socket != NULL) {
        rc = terminal_send_pidfd(c->options->pidfd_socket, c->pidfd, c->state.id, err);
    }
    if (rc == 0 && c->options->pid_file != NULL) {
        rc = files_write_pid(c->options->pid_file, c->state.pid,
                             err); /* last: who sees it may go on */
    }
    return rc;
}

void container_undo(struct container *c, struct error *err)
{
    struct error ignored = {0}, late;
    int removed = 0;
    if (c->pidfd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
    }
    if (c->cgroup != NULL) {
        error_ignore(cgroup_kill(c->cgroup, SIGKILL, &ignored));
    }
    if (c->state.pid > 0) {
        (void)waitpid(c->state.pid, NULL, 0);
    }
    if (c->cgroup != NULL) {
        removed = cgroup_remove(c->cgroup, REMOVE_TIMEOUT_MS, &late);
    }
    error_ignore(state_remove_class(&c->state, &ignored));
    if (c->has_hooks_run) {
        error_ignore(hooks_run(&c->spec->hooks.poststop, "hooks.poststop", &c->state,
                               CONTAINER_STOPPED, &ignored));
    }
    if (removed < 0) {
        /* Without the state nobody would find the groups again. */
        struct error first = err != NULL ? *err : (struct error){0};
        error_ignore(error_set(err, first.code, "%.100s; `delete --force` is needed: %.110s",
                               first.text, late.text));
    } else if (c->state.folder >= 0) {
        error_ignore(state_remove(c->runtime->root, &c->state, &ignored));
    }
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void container_release(struct container *c)
{
    close_fd(&c->channel[0]);
    close_fd(&c->channel[1]);
    close_fd(&c->gate_socket);
    close_fd(&c->console_socket);
    close_fd(&c->agent);
    close_fd(&c->terminal);
    close_fd(&c->pidfd);
    namespaces_close(&c->namespaces);
    rootfs_destroy(c->rootfs);
    seccomp_program_free(c->program);
    cgroup_free(c->cgroup);
    if (c->state.folder >= 0) {
        state_close(&c->state);
    }
    spec_destroy(c->spec);
    free(c);
}

struct container *container_new(const struct runtime *runtime, const struct create_options *options,
                                enum container_gate gate)
{
    struct container *c = calloc(1, sizeof(*c));
    if (c != NULL) {
        c->runtime = runtime;
        c->options = options;
        c->gate = gate;
        c->state.folder = -1;
        c->channel[0] = c->channel[1] = c->gate_socket = c->console_socket = c->agent =
            c->terminal = c->pidfd = -1;
    }
    return c;
}

int container_configure(struct container *c, const char *id, struct error *err)
{
    AUTO_FREE char *text = NULL;
    size_t size;
    int rc = read_config(c, &text, &size, err);
    rc = rc < 0 ? rc : spec_parse(text, size, &c->spec, err);
    rc = rc < 0 ? rc : check_config(c, err);
    rc = rc < 0 ? rc : state_create(c->runtime->root, id, &c->state, err);
    if (rc < 0) {
        return rc;
    }
    fault_step("folder");
    describe(c);
    rc = files_write_at(c->state.folder, STATE_CONFIG, text, size, err);
    if (rc < 0) {
        container_undo(c, err);
    }
    return rc;
}

static int make(struct container *c, const char *id, struct error *err)
{
    int rc = container_configure(c, id, err);
    if (rc < 0) {
        return rc;
    }
    rc = prepare(c, err);
    fault_step("prepared");
    rc = rc < 0 ? rc : plan_groups(c, err);
    rc = rc < 0 || c->is_put_in_groups ? rc : make_groups(c, err);
    fault_step("groups");
    rc = rc < 0 ? rc : make_process(c, err);
    fault_step("process");
    c->has_hooks_run = rc == 0;
    rc = rc < 0 ? rc : guide(c, err);
    fault_step("guided");
    json_t *report = NULL;
    rc = rc < 0 ? rc : take_degrade(c, &report, err);
    rc = rc < 0 ? rc : container_finish(c, report, err);
    fault_step("finished");
    if (rc < 0) {
        container_undo(c, err);
    }
    return rc;
}

int runtime_create(const struct runtime *runtime, const char *id,
                   const struct create_options *options, struct error *err)
{
    struct container *c = container_new(runtime, options, GATE_SOCKET);
    if (c == NULL) {
        return error_set_errno(err, ENOMEM, "creating container %s", id);
    }
    int rc = make(c, id, err);
    container_release(c);
    return rc;
}

/* From the gate to the program, and what comes behind it. */
static int let_go(struct container *c, struct error *err)
{
    int rc = channel_send(c->channel[0], CHANNEL_START, NULL, 0, NULL, 0, err);
    rc = rc < 0 ? rc : channel_expect_end(c->channel[0], err);
    return rc < 0 ? rc
                  : hooks_run(&c->spec->hooks.poststart, "hooks.poststart", &c->state,
                              CONTAINER_RUNNING, err);
}

int runtime_run(const struct runtime *runtime, const char *id, const struct create_options *options,
                bool is_detached, bool is_kept, int *out_status, struct error *err)
{
    struct container *c = container_new(runtime, options, GATE_CHANNEL);
    if (c == NULL) {
        return error_set_errno(err, ENOMEM, "running container %s", id);
    }
    sigset_t signals, before;
    sigfillset(&signals);
    if (!is_detached) {
        (void)sigprocmask(SIG_BLOCK, &signals, &before);
    }
    int rc = make(c, id, err);
    if (rc == 0 && (rc = let_go(c, err)) < 0) {
        container_undo(c, err);
    }
    bool is_running = rc == 0;
    if (is_running && !is_detached) {
        (void)flock(c->state.folder, LOCK_UN); /* others may look at it, and delete it */
        rc = terminal_wait(c->state.pid, c->pidfd, c->terminal, &signals, out_status, err);
    }
    container_release(c);
    if (!is_detached) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
    }
    if (is_running && !is_detached && !is_kept) {
        struct error late;
        int removed = runtime_delete(runtime, id, true, rc < 0 ? &late : err);
        rc = rc < 0 ? rc : removed;
    }
    return rc;
}
