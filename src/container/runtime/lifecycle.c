/* What happens to a container once it is there: start, kill, pause, update, delete; and what can be known of it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/channel.h"
#include "container/runtime/halt.h"
#include "container/runtime/hooks.h"
#include "container/runtime/loaded.h"
#include "container/runtime/runtime.h"

#define REMOVE_TIMEOUT_MS 10000
#define MAX_CONFIG_SIZE   (16u << 20)

int loaded_open(const struct runtime *runtime, const char *id, bool is_locked, struct loaded *out,
                struct error *err)
{
    struct loaded loaded = {0};
    int rc = state_load(runtime->root, id, is_locked, &loaded.state, err);
    if (rc < 0) {
        return rc;
    }
    const json_t *groups = json_object_get(loaded.state.data, "cgroup");
    if (groups != NULL) {
        rc = cgroup_load(groups, &loaded.cgroup, err);
    }
    if (rc < 0) {
        state_close(&loaded.state);
        return rc;
    }
    loaded.status = state_status(&loaded.state);
    bool is_frozen = loaded.cgroup != NULL && cgroup_is_frozen(loaded.cgroup);
    if (loaded.status == CONTAINER_RUNNING &&
        (is_frozen || (runtime->may_halt && halt_is_halted(loaded.state.pid)))) {
        loaded.status = CONTAINER_PAUSED;
    }
    *out = loaded;
    return 0;
}

void loaded_close(struct loaded *loaded)
{
    cgroup_free(loaded->cgroup);
    state_close(&loaded->state);
}

int loaded_spec(const struct loaded *loaded, struct spec **out_spec, struct error *err)
{
    AUTO_CLOSE int fd =
        openat(loaded->state.folder, STATE_CONFIG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening the configuration of container %s",
                               loaded->state.id);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc =
        file_read_whole(fd, MAX_CONFIG_SIZE, "the container's configuration", &text, &size, err);
    return rc < 0 ? rc : spec_parse(text, size, out_spec, err);
}

static bool has(const struct loaded *loaded, const char *what)
{
    return json_is_true(json_object_get(loaded->state.data, what));
}

/* Lets the container's process go on, and waits until it has executed the program. */
static int open_gate(const struct loaded *loaded, struct error *err)
{
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
                   loaded->state.folder, STATE_GATE);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_errno(err, errno, "reaching the process of container %s",
                               loaded->state.id);
    }
    int rc = channel_expect_end(fd, err);
    (void)unlinkat(loaded->state.folder, STATE_GATE, 0);
    return rc;
}

/* One that fails stops the container (runtime.md, Lifecycle). */
static int run_poststart(const struct loaded *loaded, struct error *err)
{
    struct spec *spec;
    if (!has(loaded, "hasPoststart")) {
        return 0;
    }
    int rc = loaded_spec(loaded, &spec, err);
    if (rc < 0) {
        return rc;
    }
    rc = hooks_run(&spec->hooks.poststart, "hooks.poststart", &loaded->state, CONTAINER_RUNNING,
                   err);
    spec_destroy(spec);
    if (rc < 0 && loaded->cgroup != NULL) {
        struct error ignored;
        error_ignore(cgroup_kill(loaded->cgroup, SIGKILL, &ignored));
    }
    return rc;
}

int runtime_start(const struct runtime *runtime, const char *id, struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, true, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    if (loaded.status != CONTAINER_CREATED) {
        rc = error_set(err, EINVAL, "cannot start a container in the %s state: %s",
                       container_status_name(loaded.status), id);
    }
    rc = rc < 0 ? rc : open_gate(&loaded, err);
    rc = rc < 0 ? rc : run_poststart(&loaded, err);
    loaded_close(&loaded);
    return rc;
}

static int signal_first(const struct loaded *loaded, int signal, struct error *err)
{
    AUTO_CLOSE int pidfd = state_open_process(&loaded->state);
    if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0) {
        return error_set_errno(err, errno, "sending signal %d to container %s", signal,
                               loaded->state.id);
    }
    return 0;
}

int runtime_kill(const struct runtime *runtime, const char *id, int signal, bool to_all,
                 struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, false, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    bool is_alive = loaded.status != CONTAINER_STOPPED && loaded.status != CONTAINER_CREATING;
    if (to_all && loaded.cgroup != NULL) {
        rc = cgroup_kill(loaded.cgroup, signal, err);
    } else if (!is_alive) {
        rc = error_set(err, ESRCH, "container not running: %s", id);
    } else {
        rc = signal_first(&loaded, signal, err);
        /* Without a pid namespace of its own its other processes do not end with the first. */
        if (rc == 0 && signal == SIGKILL && loaded.cgroup != NULL &&
            !has(&loaded, "hasPidNamespace")) {
            rc = cgroup_kill(loaded.cgroup, SIGKILL, err);
        }
    }
    loaded_close(&loaded);
    return rc;
}

/* Until the container's first process has ended. */
static void wait_for_end(const struct loaded *loaded)
{
    AUTO_CLOSE int pidfd = state_open_process(&loaded->state);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    while (pidfd >= 0 && poll(&ended, 1, REMOVE_TIMEOUT_MS) < 0 && errno == EINTR) {
    }
}

static int end_processes(const struct loaded *loaded, struct error *err)
{
    AUTO_CLOSE int pidfd = state_open_process(&loaded->state);
    if (pidfd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    }
    int rc = loaded->cgroup != NULL ? cgroup_kill(loaded->cgroup, SIGKILL, err) : 0;
    wait_for_end(loaded);
    return rc;
}

static int delete_loaded(const struct runtime *runtime, struct loaded *loaded, struct error *err)
{
    int rc = end_processes(loaded, err);
    if (rc == 0 && loaded->cgroup != NULL) {
        rc = cgroup_remove(loaded->cgroup, REMOVE_TIMEOUT_MS, err);
    }
    rc = rc < 0 ? rc : state_remove_class(&loaded->state, err);
    struct spec *spec = NULL;
    struct error late = {0};
    if (has(loaded, "hasPoststop") && loaded_spec(loaded, &spec, &late) == 0) {
        /* A hook that fails is told, and the container goes all the same (runtime.md, Lifecycle). */
        if (hooks_run(&spec->hooks.poststop, "hooks.poststop", &loaded->state, CONTAINER_STOPPED,
                      &late) < 0) {
            (void)fprintf(stderr, "hull-oci: warning: %s\n", late.text);
        }
        spec_destroy(spec);
    }
    return rc < 0 ? rc : state_remove(runtime->root, &loaded->state, err);
}

int runtime_delete(const struct runtime *runtime, const char *id, bool is_forced, struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, true, &loaded, err);
    if (rc == -ENOENT && is_forced) {
        return 0;
    }
    if (rc == -EINVAL && is_forced && state_check_id(id, err) == 0) {
        return state_remove_damaged(runtime->root, id, err);
    }
    if (rc < 0) {
        return rc;
    }
    bool may_go =
        is_forced || loaded.status == CONTAINER_STOPPED || loaded.status == CONTAINER_CREATED;
    rc = may_go ? delete_loaded(runtime, &loaded, err)
                : error_set(err, EBUSY,
                            "cannot delete container %s that is not stopped: %s (--force ends it)",
                            id, container_status_name(loaded.status));
    loaded_close(&loaded);
    return rc;
}

int runtime_pause(const struct runtime *runtime, const char *id, bool is_paused, struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, true, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    bool may = is_paused ? loaded.status == CONTAINER_RUNNING || loaded.status == CONTAINER_CREATED
                         : loaded.status == CONTAINER_PAUSED;
    if (!may) {
        rc = error_set(err, EINVAL, "cannot %s container %s: it is %s",
                       is_paused ? "pause" : "resume", id, container_status_name(loaded.status));
    } else if (loaded.cgroup == NULL) {
        rc = error_set(err, EOPNOTSUPP, "cannot pause container %s: it has no cgroup", id);
    } else {
        rc = cgroup_freeze(loaded.cgroup, is_paused, err);
        if (rc == -EOPNOTSUPP && runtime->may_halt) {
            rc = halt_processes(loaded.state.pid, is_paused, err);
        }
    }
    loaded_close(&loaded);
    return rc;
}

int runtime_update(const struct runtime *runtime, const char *id, const char *resources,
                   size_t size, struct error *err)
{
    struct spec *wanted;
    int rc = spec_parse_resources(resources, size, &wanted, err);
    if (rc < 0) {
        return rc;
    }
    struct loaded loaded;
    rc = loaded_open(runtime, id, true, &loaded, err);
    if (rc == 0) {
        struct degrade degrade = {0};
        if (loaded.status == CONTAINER_STOPPED || loaded.status == CONTAINER_CREATING ||
            loaded.cgroup == NULL) {
            rc = error_set(err, EINVAL, "cannot update container %s: it is %s", id,
                           container_status_name(loaded.status));
        } else {
            rc = cgroup_update(loaded.cgroup, &wanted->linux_.resources, &degrade, err);
        }
        if (rc == 0 && degrade.size != 0) {
            degrade.text[strcspn(degrade.text, "\n")] = '\0';
            char *tab = strchr(degrade.text, '\t');
            rc = error_set(err, EOPNOTSUPP, "%.*s: %s", tab != NULL ? (int)(tab - degrade.text) : 0,
                           degrade.text, tab != NULL ? tab + 1 : degrade.text);
        }
        loaded_close(&loaded);
    }
    spec_destroy(wanted);
    return rc;
}

int runtime_state(const struct runtime *runtime, const char *id, json_t **out_state,
                  struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, false, &loaded, err);
    if (rc == 0) {
        *out_state = state_document(&loaded.state, loaded.status);
        loaded_close(&loaded);
    }
    return rc;
}

int runtime_list(const struct runtime *runtime, json_t **out_list, struct error *err)
{
    char **ids;
    size_t count;
    int rc = state_list(runtime->root, &ids, &count, err);
    if (rc < 0) {
        return rc;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *document;
        struct error gone; /* since the folder was read */
        if (runtime_state(runtime, ids[i], &document, &gone) == 0) {
            json_array_append_new(list, document);
        }
        free(ids[i]);
    }
    free(ids);
    *out_list = list;
    return 0;
}

static int open_running(const struct runtime *runtime, const char *id, struct loaded *out,
                        struct error *err)
{
    int rc = loaded_open(runtime, id, false, out, err);
    if (rc == 0 && (out->status == CONTAINER_STOPPED || out->status == CONTAINER_CREATING ||
                    out->cgroup == NULL)) {
        rc = error_set(err, ESRCH, "container not running: %s", id);
        loaded_close(out);
    }
    return rc;
}

int runtime_stats(const struct runtime *runtime, const char *id, json_t **out_stats,
                  struct error *err)
{
    struct loaded loaded;
    int rc = open_running(runtime, id, &loaded, err);
    if (rc == 0) {
        *out_stats = cgroup_stats(loaded.cgroup);
        loaded_close(&loaded);
    }
    return rc;
}

int runtime_processes(const struct runtime *runtime, const char *id, pid_t **out_pids,
                      size_t *out_count, struct error *err)
{
    struct loaded loaded;
    int rc = open_running(runtime, id, &loaded, err);
    if (rc == 0) {
        rc = cgroup_processes(loaded.cgroup, out_pids, out_count, err);
        loaded_close(&loaded);
    }
    return rc;
}

int runtime_wait_oom(const struct runtime *runtime, const char *id, struct error *err)
{
    struct loaded loaded;
    int rc = open_running(runtime, id, &loaded, err);
    if (rc == 0) {
        rc = cgroup_wait_oom(loaded.cgroup, err);
        loaded_close(&loaded);
    }
    return rc;
}
