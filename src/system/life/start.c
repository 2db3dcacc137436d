/* Starting and stopping. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "container/runtime/fault.h"
#include "container/runtime/loaded.h"
#include "system/life/files.h"
#include "system/life/internal.h"
#include "system/life/keeper.h"

#define MAX_REPORT     1024
#define CANCEL_POLL_MS 200
/* How long a keeper may take whose container was killed: the runtime waits 10 s for the first process and as long for the groups. */
#define KILL_TIMEOUT_MS 30000

static int write_document(const struct life *life, const char *name, const char *file,
                          const json_t *document, struct error *err)
{
    char path[PATH_MAX];
    store_keeper_path(&life->store, name, file, path);
    AUTO_FREE char *text = json_dumps(document, JSON_COMPACT);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || text == NULL) {
        return error_set_errno(err, fd < 0 ? errno : ENOMEM, "writing %s", path);
    }
    return file_write_all(fd, text, strlen(text), path, err);
}

/* What a keeper that was killed has left of this container. */
static int remove_leftovers(const struct life *life, const char *name, struct error *err)
{
    if (life_status(life, name) != LIFE_LOST) {
        return 0;
    }
    struct loaded loaded;
    struct error gone;
    if (loaded_open(&life->runtime, name, false, &loaded, &gone) == 0) {
        bool is_running = loaded.status == CONTAINER_RUNNING || loaded.status == CONTAINER_PAUSED;
        loaded_close(&loaded);
        if (is_running) {
            return error_set(err, EBUSY,
                             "container %s runs without its keeper: `hull ct stop --force %s` ends "
                             "it",
                             name, name);
        }
    }
    return runtime_delete(&life->runtime, name, true, err);
}

static int prepare_bridges(const struct config *config, struct error *err)
{
    for (size_t i = 0; i < config->card_count; i++) {
        const char *bridge = config->cards[i].bridge;
        if (bridge == NULL || strcmp(bridge, NETWORK_DEFAULT_BRIDGE) != 0) {
            continue;
        }
        struct network_address address;
        int rc = network_parse(NETWORK_DEFAULT_ADDRESS, 0, true, &address, err);
        rc = rc < 0 ? rc : network_bridge_make(NETWORK_DEFAULT_BRIDGE, &address, NULL, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int prepare(const struct life *life, const char *name, const char *images, struct error *err)
{
    struct config *config;
    struct template_layers layers = {0};
    json_t *spec = NULL, *start = NULL;
    char folder[PATH_MAX];
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    rc = remove_leftovers(life, name, err);
    rc = rc < 0 ? rc : life_layers(life, config, &layers, err);
    rc = rc < 0 ? rc : prepare_bridges(config, err);
    rc = rc < 0 ? rc : document_spec(&life->store, config, &spec, err);
    rc = rc < 0 ? rc
                : document_start(&life->store, config, (const char *const *)layers.path,
                                 layers.count, &start, err);
    if (images != NULL && rc == 0) {
        (void)json_object_set_new(start, KEEPER_IMAGES, json_string(images));
    }
    store_keeper_path(&life->store, name, NULL, folder);
    /* Twice: a keeper that is ending may take the folder away in between, as the last thing it does. */
    bool is_prepared = rc == 0;
    for (unsigned i = 0; is_prepared && i < 2 && (i == 0 || rc == -ENOENT); i++) {
        rc = mkdir(folder, 0700) < 0 && errno != EEXIST
                 ? error_set_errno(err, errno, "making %s", folder)
                 : 0;
        fault_step("start-folder");
        rc = rc < 0 ? rc : write_document(life, name, KEEPER_CONFIG, spec, err);
    }
    rc = rc < 0 ? rc : write_document(life, name, KEEPER_START, start, err);
    json_decref(spec);
    json_decref(start);
    template_close(&layers);
    config_destroy(config);
    return rc;
}

/* The lock that the keeper holds; it is handed over with the open file. */
static int lock_for_keeper(const struct life *life, const char *name, struct error *err)
{
    char path[PATH_MAX];
    store_keeper_path(&life->store, name, KEEPER_LOCK, path);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    /* Of a number that the keeper's other descriptors do not take. */
    int lock = fd < 0 || fcntl(fd, F_OFD_SETLK, &whole) < 0
                   ? -1
                   : fcntl(fd, F_DUPFD_CLOEXEC, KEEPER_LOCK_FD + 1);
    return lock < 0 ? error_set_errno(err, errno, "locking %s", path) : lock;
}

/* In the child of a vfork: only system calls. */
static int spawn(const struct life *life, const char *name, bool restores, int report, int lock,
                 pid_t *out_pid, struct error *err)
{
    char log[PATH_MAX], path[PATH_MAX] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    const char *own_path = getenv("PATH");
    if (restores && own_path != NULL) { /* which has led to the criu that was checked */
        (void)snprintf(path, sizeof(path), "PATH=%s", own_path);
    }
    store_keeper_path(&life->store, name, KEEPER_LOG, log);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t held, all;
    sigfillset(&all);
    /* Ctrl-C is for the one who starts it, also before the child has a session of its own. The keeper ignores these before it
     * lets them in. */
    const int terminal[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    sigemptyset(&held);
    for (size_t i = 0; i < ARRAY_COUNT(terminal); i++) {
        sigaddset(&held, terminal[i]);
    }
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_RDWR, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)posix_spawn_file_actions_adddup2(&actions, report, KEEPER_REPORT_FD);
    (void)posix_spawn_file_actions_adddup2(&actions, lock, KEEPER_LOCK_FD);
    (void)posix_spawn_file_actions_addclosefrom_np(&actions, KEEPER_LOCK_FD + 1);
    (void)posix_spawn_file_actions_addchdir_np(&actions, "/");
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                    POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawnattr_setsigmask(&attributes, &held);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    char *argv[] = {"hull-ct-keeper", (char *)life->store.run, (char *)name, NULL};
    char fault[96];
    char *environment[] = {path, fault_variable(fault, sizeof(fault)), NULL};
    int code = posix_spawn(out_pid, life->keeper, &actions, &attributes, argv, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    return code != 0 ? error_set_errno(err, code, "starting %s", life->keeper) : 0;
}

static int launch(const struct life *life, const char *name, const char *images,
                  struct life_start *out, struct error *err)
{
    int rc = prepare(life, name, images, err);
    if (rc < 0) {
        return rc;
    }
    char ended[PATH_MAX];
    store_ended_path(&life->store, name, ended);
    (void)unlink(ended); /* of the life before */
    if (images == NULL) {
        life_forget_checkpoint(life, name);
    }
    AUTO_CLOSE int keeper_lock = lock_for_keeper(life, name, err);
    if (keeper_lock < 0) {
        return keeper_lock;
    }
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "starting container %s", name);
    }
    struct life_start start = {.name = name, .report = pipe_fds[0]};
    rc = spawn(life, name, images != NULL, pipe_fds[1], keeper_lock, &start.keeper, err);
    close(pipe_fds[1]);
    if (rc < 0) {
        close(pipe_fds[0]);
        return rc;
    }
    *out = start;
    return 0;
}

int life_start_begin(const struct life *life, const char *name, struct life_start *out,
                     struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    return lock < 0 ? lock : life_start_locked(life, name, NULL, out, err);
}

int life_start_locked(const struct life *life, const char *name, const char *images,
                      struct life_start *out, struct error *err)
{
    int rc = store_check_name("container", name, err);
    if (rc < 0) { /* what is below removes folders */
        return rc;
    }
    if (life->keeper == NULL) {
        return error_set(err, ENOENT, "the program hull-ct-keeper is missing");
    }
    enum life_status status = life_status(life, name);
    if (status != LIFE_STOPPED && status != LIFE_LOST) {
        return error_set(err, EALREADY, "container %s is %s", name, life_status_name(status));
    }
    rc = launch(life, name, images, out, err);
    if (rc < 0 && life_status(life, name) == LIFE_STOPPED) { /* no keeper removes it */
        char folder[PATH_MAX];
        struct error ignored;
        store_keeper_path(&life->store, name, NULL, folder);
        error_ignore(layers_remove(folder, &ignored));
    }
    return rc;
}

int life_start_end(struct life_start *start, struct error *err)
{
    char text[MAX_REPORT];
    size_t size = 0;
    while (size < sizeof(text) - 1) {
        ssize_t n = read(start->report, text + size, sizeof(text) - 1 - size);
        if (n > 0) {
            size += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            break;
        }
    }
    close(start->report);
    start->report = -1;
    json_t *report = json_loadb(text, size, 0, NULL);
    const char *reason = json_string_value(json_object_get(report, "error"));
    int rc = 0;
    if (report == NULL) {
        rc = error_set(err, EPIPE, "starting container %s: its keeper has ended", start->name);
    } else if (reason != NULL) {
        json_int_t code = json_integer_value(json_object_get(report, "code"));
        rc = error_set(err, code > 0 && code < 4096 ? (int)code : EIO, "starting container %s: %s",
                       start->name, reason);
    }
    if (rc < 0) {
        while (waitpid(start->keeper, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    json_decref(report);
    return rc;
}

struct starting {
    struct life_start start;
    bool is_used;
};

unsigned life_start_all(const struct life *life, const char *const *names, size_t count,
                        unsigned width,
                        int (*done)(void *ctx, const char *name, const struct error *err),
                        void *ctx)
{
    struct starting slot[64] = {0};
    size_t next = 0, running = 0;
    unsigned failed = 0;
    width = width < ARRAY_COUNT(slot) ? width : ARRAY_COUNT(slot);
    for (bool goes_on = true; running != 0 || (goes_on && next < count);) {
        struct error err;
        for (size_t i = 0; i < width && goes_on && next < count; i++) {
            if (slot[i].is_used) {
                continue;
            }
            const char *name = names[next++];
            if (life_start_begin(life, name, &slot[i].start, &err) == 0) {
                slot[i].is_used = true;
                running++;
            } else {
                failed++;
                goes_on = done(ctx, name, &err) == 0;
            }
        }
        struct pollfd polled[ARRAY_COUNT(slot)];
        for (size_t i = 0; i < width; i++) {
            polled[i] = (struct pollfd){.fd = slot[i].is_used ? slot[i].start.report : -1,
                                        .events = POLLIN};
        }
        if (running == 0 || poll(polled, width, -1) < 0) {
            continue;
        }
        for (size_t i = 0; i < width; i++) {
            if (!slot[i].is_used || polled[i].revents == 0) {
                continue;
            }
            int rc = life_start_end(&slot[i].start, &err);
            slot[i].is_used = false;
            running--;
            failed += rc < 0;
            goes_on = done(ctx, slot[i].start.name, rc < 0 ? &err : NULL) == 0 && goes_on;
        }
    }
    return failed;
}

/* Until the keeper has closed the connection: 0, -ETIME or -ECANCELED. */
static int wait_for_end(const struct life *life, int connection, int64_t timeout_ms)
{
    int64_t end = clock_monotonic_ms() + timeout_ms;
    for (;;) {
        int64_t left = end - clock_monotonic_ms();
        struct pollfd ended = {.fd = connection, .events = POLLIN};
        int n = poll(&ended, 1, (int)MAX(MIN(left, CANCEL_POLL_MS), 0));
        char byte;
        if (n > 0 && recv(connection, &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN) {
            return 0;
        }
        if (left <= 0) {
            return -ETIME;
        }
        if (life != NULL && life->is_cancelled != NULL && life->is_cancelled(life->cancel_ctx)) {
            return -ECANCELED;
        }
    }
}

/* Through the process' own root: what /sbin/init is there. */
static int stop_signal(const struct life *life, const struct config *config)
{
    struct loaded loaded;
    struct error ignored;
    char root[64] = "/nonexistent";
    if (config->stop_signal != 0) {
        return config->stop_signal;
    }
    if (config->init[0] != NULL) {
        return SIGTERM;
    }
    if (loaded_open(&life->runtime, config->name, false, &loaded, &ignored) == 0) {
        (void)snprintf(root, sizeof(root), "/proc/%d/root", loaded.state.pid);
        loaded_close(&loaded);
    }
    return files_stop_signal(root);
}

static int end_lost(const struct life *life, const struct config *config, struct error *err)
{
    int rc = runtime_delete(&life->runtime, config->name, true, err);
    for (size_t i = 0; rc == 0 && !life->is_users && i < config->card_count; i++) {
        char host_name[IFNAMSIZ];
        document_host_name(&life->store, config->name, i, host_name);
        rc = network_detach_card(host_name, err);
    }
    return rc;
}

static int stop_kept(const struct life *life, const struct config *config, bool is_forced,
                     int64_t timeout_ms, struct error *err)
{
    const char *name = config->name;
    AUTO_CLOSE int connection = life_connect(life, name, KEEPER_WATCH, err);
    if (connection < 0) {
        return connection;
    }
    struct error ignored;
    int lock = life_try_lock(life, name, &ignored); /* it may have been left standing still */
    if (lock >= 0) {
        close(lock);
    }
    if (life_status(life, name) == LIFE_PAUSED) {
        error_ignore(runtime_pause(&life->runtime, name, false, &ignored));
    }
    char asked[PATH_MAX];
    store_keeper_path(&life->store, name, KEEPER_STOPPING, asked);
    AUTO_CLOSE int mark = open(asked, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (mark < 0 && errno != ENOENT) { /* or it has ended at this moment */
        return error_set_errno(err, errno, "writing %s", asked);
    }
    bool is_clean = false;
    if (!is_forced) {
        int rc = runtime_kill(&life->runtime, name, stop_signal(life, config), false, &ignored);
        rc = rc == 0 ? wait_for_end(life, connection, timeout_ms) : rc;
        if (rc == -ECANCELED) {
            return error_set(err, ECANCELED,
                             "container %s: its stopping was cancelled: it may still end", name);
        }
        is_clean = rc == -ESRCH || rc == 0;
    }
    if (is_clean) {
        return 0;
    }
    error_ignore(runtime_kill(&life->runtime, name, SIGKILL, false, &ignored));
    if (wait_for_end(NULL, connection, KILL_TIMEOUT_MS) < 0) {
        (void)unlink(asked);
        return error_set(err, ETIMEDOUT, "container %s does not end, not even by SIGKILL", name);
    }
    return is_forced
               ? 0
               : error_set(err, ETIME, "container %s did not stop within %llu s and was killed",
                           name, (unsigned long long)timeout_ms / 1000);
}

/* A keeper that could not remove everything has nobody to tell: what it has left is removed here, or named. 'rc': of the stopping.
 * Under the lock nobody starts it anew meanwhile; a checkpoint, which has the lock itself, is told only. */
static int finish_removal(const struct life *life, const struct config *config, int rc,
                          struct error *err)
{
    struct error late;
    bool has_ended = rc == 0 || rc == -ETIME;
    if (!has_ended || life_status(life, config->name) != LIFE_LOST) {
        return rc;
    }
    AUTO_CLOSE int lock = life_try_lock(life, config->name, &late);
    if (life_status(life, config->name) != LIFE_LOST) {
        return rc;
    }
    int removed = lock < 0 ? lock : end_lost(life, config, &late);
    return removed < 0 ? error_set(err, late.code, "container %s has ended, but is not removed: %s",
                                   config->name, late.text)
                       : rc;
}

int life_stop(const struct life *life, const char *name, bool is_forced, int timeout_s,
              struct error *err)
{
    struct config *config;
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    enum life_status status = life_status(life, name);
    int64_t timeout_ms = 1000 * (timeout_s >= 0 ? timeout_s : (int64_t)config->stop_timeout_s);
    if (status == LIFE_STOPPED) {
        rc = error_set(err, ESRCH, "container %s is not running", name);
    } else if (status == LIFE_LOST) {
        rc = end_lost(life, config, err);
    } else {
        rc = stop_kept(life, config, is_forced, timeout_ms, err);
        rc = finish_removal(life, config, rc, err);
    }
    config_destroy(config);
    return rc;
}
