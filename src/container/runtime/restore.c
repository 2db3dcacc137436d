/* restore: a container whose processes come out of files. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/checkpoint.h"
#include "container/runtime/container.h"
#include "container/runtime/hooks.h"
#include "container/runtime/terminal.h"

#define RESTORE_LOG   "restore.log"
#define FIRST_STREAM  20 /* where criu finds what it hands over: beyond what it opens itself */
#define NETWORK_FD    (FIRST_STREAM + CHECKPOINT_STREAMS)
#define TERMINAL_FD   (NETWORK_FD + 1)
#define MAX_FILE_SIZE (4u << 20)

struct restoration {
    struct container *container;
    const struct checkpoint_options *options;
    json_t *outside; /* CHECKPOINT_FILE */
    int network;     /* -1: none */
};

static int read_outside(struct restoration *r, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/" CHECKPOINT_FILE, r->options->image_path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "--image-path: opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_FILE_SIZE, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t bad;
    r->outside = json_loadb(text, size, JSON_REJECT_DUPLICATES, &bad);
    return json_is_object(r->outside)
               ? 0
               : error_set(err, EINVAL, "--image-path: %s is damaged: %s", path, bad.text);
}

/* The namespace of the configuration is where the container was in one of others'. */
static int open_network(struct restoration *r, struct error *err)
{
    if (!json_is_true(json_object_get(r->outside, "network"))) {
        return 0;
    }
    const struct spec_namespace *network = spec_find_namespace(r->container->spec, CLONE_NEWNET);
    if (network == NULL || network->path == NULL) {
        return error_set(err, EINVAL,
                         "linux.namespaces: the checkpoint is of a container with a network "
                         "namespace by path: one is needed");
    }
    r->network = open(network->path, O_RDONLY | O_CLOEXEC);
    return r->network < 0 ? error_set_errno(err, errno, "opening %s", network->path) : 0;
}

/* In criu's process, which is born in the container's place: its groups are those of what it makes. Its root has to be a mount;
 * that is one of a mount namespace that ends with it. */
static int prepare_process(void *argument, struct error *err)
{
    const struct restoration *r = argument;
    const struct container *c = r->container;
    int rc = cgroup_attach(c->cgroup, 0, false, err);
    if (rc < 0) {
        return rc;
    }
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount(c->root, c->root, NULL, MS_BIND | MS_REC, NULL) < 0) {
        return error_set_errno(err, errno, "making a mount of %s", c->root);
    }
    for (int fd = 0; fd < CHECKPOINT_STREAMS; fd++) {
        if (dup2(fd, FIRST_STREAM + fd) < 0) {
            return error_set_errno(err, errno, "handing over descriptor %d", fd);
        }
    }
    if (r->network >= 0 && dup2(r->network, NETWORK_FD) < 0) {
        return error_set_errno(err, errno, "handing over the network namespace");
    }
    if (r->options->is_system && dup2(r->options->terminal, TERMINAL_FD) < 0) {
        return error_set_errno(err, errno, "handing over the terminal");
    }
    return 0;
}

/* The configuration's source, which may be another one than at the checkpoint; else that of then. */
static const char *source_of(const struct spec *spec, const char *point, const char *before)
{
    for (size_t i = spec->mount_count; i-- > 0;) {
        const struct spec_mount *mount = &spec->mounts[i];
        if (mount->is_bind && mount->source != NULL && strcmp(mount->destination, point) == 0) {
            return mount->source;
        }
    }
    return before;
}

static void add_outside(const struct restoration *r, struct criu_words *words)
{
    const struct checkpoint_options *options = r->options;
    const char *terminal = json_string_value(json_object_get(r->outside, CHECKPOINT_TERMINAL));
    char name[64] = "";
    if (options->is_system && terminal != NULL) {
        criu_add(words, "--inherit-fd");
        criu_add(words, "fd[%d]:%s", TERMINAL_FD, terminal);
        if (ttyname_r(options->terminal, name, sizeof(name)) != 0) {
            name[0] = '\0';
        }
    }
    const char *point;
    json_t *source, *stream;
    size_t i;
    json_object_foreach(json_object_get(r->outside, "mounts"), point, source)
    {
        const char *before = json_string_value(source);
        criu_add(words, "--external");
        bool is_console = name[0] != '\0' && strcmp(point, CHECKPOINT_CONSOLE) == 0;
        criu_add(words, "mnt[%s]:%s", point,
                 is_console ? name
                            : source_of(r->container->spec, point, before != NULL ? before : ""));
    }
    json_array_foreach(json_object_get(r->outside, "streams"), i, stream)
    {
        if (json_is_string(stream) && i < CHECKPOINT_STREAMS) {
            criu_add(words, "--inherit-fd");
            criu_add(words, "fd[%d]:%s", FIRST_STREAM + (int)i, json_string_value(stream));
        }
    }
    if (r->network >= 0) {
        criu_add(words, "--inherit-fd");
        criu_add(words, "fd[%d]:" CHECKPOINT_NETWORK, NETWORK_FD);
    }
}

static int read_pid(struct restoration *r, struct error *err)
{
    struct container *c = r->container;
    char text[16] = "";
    AUTO_CLOSE int fd = openat(c->state.folder, STATE_RESTORED, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    (void)unlinkat(c->state.folder, STATE_RESTORED, 0);
    long pid = size > 0 ? strtol(text, NULL, 10) : 0;
    if (pid <= 0 || pid > INT_MAX) {
        return error_set(err, EPROTO, "criu has not told which process it has restored");
    }
    c->state.pid = (pid_t)pid;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->state.pid, 0);
    return c->pidfd < 0 ? error_set_errno(err, errno, "opening the restored process %ld", pid) : 0;
}

static int run_restore(struct restoration *r, struct error *err)
{
    static const char *const modes[] = {"ignore", "full", "strict", "ignore"};
    struct container *c = r->container;
    const char *work = checkpoint_work_path(r->options);
    char log[PATH_MAX];
    (void)snprintf(log, sizeof(log), "%s/" RESTORE_LOG, work);
    struct criu_words words = {0};
    criu_add(&words, "criu");
    criu_add(&words, "restore");
    checkpoint_add_common(&words, r->options, c->root, RESTORE_LOG);
    /* The groups are made here, with the configuration's limits, and criu is in them. */
    criu_add(&words, "--manage-cgroups=%s",
             r->options->is_system ? "soft" : modes[r->options->cgroups]);
    criu_add(&words, "--restore-detached");
    criu_add(&words, "--restore-sibling");
    criu_add(&words, "--pidfile");
    criu_add(&words, "%s/%s/" STATE_RESTORED, c->runtime->root, c->state.id);
    if (r->options->is_lazy) {
        criu_add(&words, "--lazy-pages");
    }
    add_outside(r, &words);
    const struct criu_run run = {
        .words = &words, .prepare = prepare_process, .argument = r, .log = log};
    int rc = criu_run(&run, err);
    criu_words_free(&words);
    return rc < 0 ? error_prefix(err, rc, "cannot restore container %s", c->state.id)
                  : read_pid(r, err);
}

static int check(const struct restoration *r, struct error *err)
{
    const struct spec *spec = r->container->spec;
    if (spec->has_process && spec->process.has_terminal && !r->options->is_system) {
        return error_set(err, EOPNOTSUPP,
                         "process.terminal: a container with a terminal cannot be restored");
    }
    return 0;
}

static int restore(struct restoration *r, const char *id, struct error *err)
{
    struct container *c = r->container;
    int rc = read_outside(r, err);
    rc = rc < 0 ? rc : criu_check(err);
    rc = rc < 0 ? rc : checkpoint_make_folder(checkpoint_work_path(r->options), "--work-path", err);
    rc = rc < 0 ? rc : container_configure(c, id, err);
    if (rc < 0) {
        return rc;
    }
    rc = check(r, err);
    rc = rc < 0 ? rc : namespaces_open(c->spec, &c->namespaces, err);
    rc = rc < 0 ? rc : open_network(r, err);
    rc = rc < 0 ? rc : container_make_groups(c, err);
    rc = rc < 0 ? rc : run_restore(r, err);
    c->has_hooks_run = rc == 0; /* at the container's beginning */
    if (rc == 0) {
        if (c->spec->hooks.prestart.count + c->spec->hooks.create_runtime.count +
                c->spec->hooks.create_container.count + c->spec->hooks.start_container.count !=
            0) {
            degrade_add(&c->degrade, "hooks", "those before the program's start are not run again");
        }
        if (r->options->is_system && c->spec->linux_.seccomp.listener_path != NULL) {
            degrade_add(&c->degrade, "linux.seccomp",
                        "restored filters notify nobody: sysinfo(2) shows the host");
        }
        const struct degrade none = {0};
        rc = container_finish(c, container_report(&none, &c->degrade), err);
    }
    rc = rc < 0 ? rc
                : hooks_run(&c->spec->hooks.poststart, "hooks.poststart", &c->state,
                            CONTAINER_RUNNING, err);
    if (rc < 0) {
        container_undo(c, err);
    }
    return rc;
}

int runtime_restore(const struct runtime *runtime, const char *id,
                    const struct create_options *create, const struct checkpoint_options *options,
                    bool is_detached, int *out_status, struct error *err)
{
    struct restoration r = {.options = options, .network = -1};
    r.container = container_new(runtime, create, GATE_CHANNEL);
    if (r.container == NULL) {
        return error_set_errno(err, ENOMEM, "restoring container %s", id);
    }
    sigset_t signals, before;
    sigfillset(&signals);
    if (!is_detached) {
        (void)sigprocmask(SIG_BLOCK, &signals, &before);
    }
    int rc = restore(&r, id, err);
    bool is_running = rc == 0;
    *out_status = 0;
    if (is_running && !is_detached) {
        (void)flock(r.container->state.folder, LOCK_UN);
        rc = terminal_wait(r.container->state.pid, r.container->pidfd, -1, &signals, out_status,
                           err);
    }
    container_release(r.container);
    json_decref(r.outside);
    if (r.network >= 0) {
        close(r.network);
    }
    if (!is_detached) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
    }
    if (is_running && !is_detached) {
        struct error late;
        int removed = runtime_delete(runtime, id, true, rc < 0 ? &late : err);
        rc = rc < 0 ? rc : removed;
    }
    return rc;
}
