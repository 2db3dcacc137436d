/* The processes of a container: listed, frozen, killed, and waited for when the groups are removed. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/host/file.h"
#include "container/cgroup/internal.h"
#include "container/cgroup/tree.h"
#include "container/cgroup/unit.h"

#define FREEZE_TIMEOUT_MS 10000 /* a process in an uninterruptible wait may never freeze */
#define V1_STEP_MS        1     /* v1 has no event for "frozen" */
#define KILL_MAX_ROUNDS   1000
#define KILL_ROUND_MS     10
#define WAIT_AT_ONCE      64 /* processes that are waited for together */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct pid_list {
    pid_t *pid;
    size_t count, capacity;
};

static int add_pids(int group_fd, void *ctx)
{
    struct pid_list *list = ctx;
    AUTO_FREE char *text = control_read_all(group_fd, "cgroup.procs");
    if (text == NULL) {
        /* Gone, or threaded: its processes are listed in the domain above. */
        return errno == ENOENT || errno == ENODEV || errno == EOPNOTSUPP ? 0 : -errno;
    }
    for (char *line = text, *end; *line != '\0'; line = end + (*end == '\n')) {
        long pid = strtol(line, &end, 10);
        if (end == line) {
            break;
        }
        if (pid <= 0) {
            continue; /* of another pid namespace */
        }
        if (list->count == list->capacity) {
            size_t capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
            pid_t *grown = reallocarray(list->pid, capacity, sizeof(*grown));
            if (grown == NULL) {
                return -ENOMEM;
            }
            list->pid = grown;
            list->capacity = capacity;
        }
        list->pid[list->count++] = (pid_t)pid;
    }
    return 0;
}

static int list_place(const struct cgroup_place *place, struct pid_list *out_list)
{
    *out_list = (struct pid_list){0};
    AUTO_HANDLE int group_fd = place_open_group(place);
    if (group_fd < 0) {
        return group_fd == -ENOENT ? 0 : group_fd;
    }
    int rc = group_walk(group_fd, add_pids, out_list);
    if (rc < 0) {
        free(TAKE_PTR(out_list->pid));
    }
    return rc;
}

int cgroup_processes(const struct cgroup *cgroup, pid_t **out_pids, size_t *out_count,
                     struct error *err)
{
    const struct cgroup_place *place = cgroup_find_processes(cgroup);
    struct pid_list list = {0};
    if (place != NULL) {
        int rc = list_place(place, &list);
        if (rc < 0) {
            return error_set_errno(err, -rc, "reading the processes of group /%s", place->path);
        }
    }
    *out_pids = list.pid;
    *out_count = list.count;
    return 0;
}

static int has_pids(int group_fd, void *ctx)
{
    char text[32];
    return control_read(group_fd, "cgroup.procs", text, sizeof(text)) > 0;
}

bool cgroup_has_processes(const struct cgroup *cgroup)
{
    const struct cgroup_place *place = cgroup_find_processes(cgroup);
    AUTO_HANDLE int group_fd = place == NULL ? -1 : place_open_group(place);
    uint64_t is_populated;
    if (group_fd < 0) {
        return false;
    }
    if (place->is_unified &&
        control_read_key(group_fd, "cgroup.events", "populated", &is_populated) == 0) {
        return is_populated != 0;
    }
    return group_walk(group_fd, has_pids, NULL) > 0;
}

/* Waits until 'key' of cgroup.events is 'value'. -ETIMEDOUT; -ENODEV, -ENOENT: the group is gone. */
static int wait_event(int group_fd, const char *key, bool value, int64_t deadline_ms)
{
    AUTO_CLOSE int fd = openat(group_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    size_t key_size = strlen(key);
    for (;;) {
        char text[256];
        ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
        if (got < 0) {
            return -errno;
        }
        text[got] = '\0';
        const char *found = strstr(text, key);
        if (found == NULL || found[key_size] != ' ') {
            return -EINVAL;
        }
        if ((found[key_size + 1] == '1') == value) {
            return 0;
        }
        int64_t left_ms = deadline_ms - now_ms();
        if (left_ms <= 0) {
            return -ETIMEDOUT;
        }
        struct pollfd waiting = {.fd = fd, .events = POLLPRI};
        if (poll(&waiting, 1, (int)left_ms) < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

static int freeze_unified(int group_fd, bool is_frozen)
{
    int rc = control_write(group_fd, "cgroup.freeze", is_frozen ? "1" : "0");
    return rc < 0 ? rc : wait_event(group_fd, "frozen", is_frozen, now_ms() + FREEZE_TIMEOUT_MS);
}

static int freeze_v1(int group_fd, bool is_frozen)
{
    const char *wanted = is_frozen ? "FROZEN" : "THAWED";
    int64_t deadline_ms = now_ms() + FREEZE_TIMEOUT_MS;
    for (;;) {
        /* Writing it again reaches what was forked meanwhile. */
        char state[16];
        int rc = control_write(group_fd, "freezer.state", wanted);
        if (rc == 0) {
            rc = control_read(group_fd, "freezer.state", state, sizeof(state));
        }
        if (rc < 0) {
            return rc;
        }
        if (strcmp(state, wanted) == 0) {
            return 0;
        }
        if (now_ms() >= deadline_ms) {
            return -ETIMEDOUT;
        }
        (void)poll(NULL, 0, V1_STEP_MS);
    }
}

/* v2 where it can (since Linux 5.2), else the freezer of v1. NULL: there is neither. */
static const struct cgroup_place *find_freezer(const struct cgroup *cgroup)
{
    const struct cgroup_place *place = cgroup_find_unified(cgroup);
    if (place != NULL) {
        AUTO_HANDLE int group_fd = place_open_group(place);
        if (group_fd < 0 || faccessat(group_fd, "cgroup.freeze", F_OK, 0) == 0) {
            return place;
        }
    }
    return cgroup_find_v1(cgroup, CGROUP_FREEZER);
}

static int freeze_quietly(const struct cgroup *cgroup, bool is_frozen)
{
    const struct cgroup_place *place = find_freezer(cgroup);
    if (place == NULL) {
        return -EOPNOTSUPP;
    }
    AUTO_HANDLE int group_fd = place_open_group(place);
    if (group_fd < 0) {
        return group_fd;
    }
    int rc =
        place->is_unified ? freeze_unified(group_fd, is_frozen) : freeze_v1(group_fd, is_frozen);
    if (rc < 0 && is_frozen) {
        /* All or none. */
        (void)(place->is_unified ? control_write(group_fd, "cgroup.freeze", "0")
                                 : control_write(group_fd, "freezer.state", "THAWED"));
    }
    return rc;
}

int cgroup_freeze(struct cgroup *cgroup, bool is_frozen, struct error *err)
{
    int rc = freeze_quietly(cgroup, is_frozen);
    if (rc == -EOPNOTSUPP) {
        return error_set(err, EOPNOTSUPP, "the container has no group that can be frozen");
    }
    return rc < 0 ? error_set_errno(err, -rc, "%s the container's processes",
                                    is_frozen ? "freezing" : "thawing")
                  : 0;
}

bool cgroup_is_frozen(const struct cgroup *cgroup)
{
    const struct cgroup_place *place = find_freezer(cgroup);
    AUTO_HANDLE int group_fd = place == NULL ? -1 : place_open_group(place);
    char state[16];
    if (group_fd < 0) {
        return false;
    }
    if (place->is_unified) {
        return control_read(group_fd, "cgroup.freeze", state, sizeof(state)) > 0 && *state == '1';
    }
    return control_read(group_fd, "freezer.state", state, sizeof(state)) > 0 &&
           strcmp(state, "THAWED") != 0;
}

/* One signal for each process that is there now. 'out_count': how many there were. */
static int signal_all(const struct cgroup *cgroup, int number, size_t *out_count, struct error *err)
{
    pid_t *pids = NULL;
    int rc = cgroup_processes(cgroup, &pids, out_count, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < *out_count; i++) {
        if (kill(pids[i], number) < 0 && errno != ESRCH) {
            rc = error_set_errno(err, errno, "sending signal %d to process %d", number, pids[i]);
        }
    }
    free(pids);
    return rc;
}

/* Where there is no cgroup.events: by the processes themselves. 1: some have gone, 0: there was none. */
static int wait_processes(const struct cgroup_place *place, int64_t deadline_ms)
{
    struct pid_list list;
    int rc = list_place(place, &list);
    if (rc < 0) {
        return rc;
    }
    struct pollfd waiting[WAIT_AT_ONCE];
    size_t count = 0;
    for (size_t i = 0; i < list.count && count < WAIT_AT_ONCE; i++) {
        int fd = (int)syscall(SYS_pidfd_open, list.pid[i], 0);
        if (fd >= 0) {
            waiting[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
    free(list.pid);
    for (size_t i = 0; i < count; i++) {
        int64_t left_ms = deadline_ms - now_ms();
        if (poll(&waiting[i], 1, left_ms < 0 ? 0 : (int)left_ms) == 0) {
            rc = -ETIMEDOUT;
        }
        close(waiting[i].fd);
    }
    return rc < 0 ? rc : list.count > 0;
}

/* SIGKILL without cgroup.kill: new processes may come as long as there is one left that is not frozen. */
static int kill_in_rounds(const struct cgroup *cgroup, struct error *err)
{
    for (unsigned round = 0; round < KILL_MAX_ROUNDS; round++) {
        int frozen = freeze_quietly(cgroup, true);
        size_t count = 0;
        int rc = signal_all(cgroup, SIGKILL, &count, err);
        (void)freeze_quietly(cgroup, false); /* those that were frozen before have to die as well */
        if (rc < 0 || count == 0 || frozen == 0) {
            return rc;
        }
        /* Not frozen: next come those that these have forked. */
        (void)wait_processes(cgroup_find_processes(cgroup), now_ms() + KILL_ROUND_MS);
    }
    return error_set(err, EAGAIN, "the container forks faster than it can be killed");
}

int cgroup_kill(struct cgroup *cgroup, int signal, struct error *err)
{
    if (signal == SIGKILL) {
        const struct cgroup_place *place = cgroup_find_unified(cgroup);
        AUTO_HANDLE int group_fd = place == NULL ? -1 : place_open_group(place);
        if (group_fd >= 0 && control_write(group_fd, "cgroup.kill", "1") == 0) {
            return 0;
        }
        return kill_in_rounds(cgroup, err);
    }
    /* Frozen, none of them forks or ends while the list is read. */
    bool was_frozen = cgroup_is_frozen(cgroup);
    bool is_frozen = !was_frozen && freeze_quietly(cgroup, true) == 0;
    size_t count;
    int rc = signal_all(cgroup, signal, &count, err);
    if (is_frozen) {
        int thawed = freeze_quietly(cgroup, false);
        if (thawed < 0 && rc == 0) {
            rc = error_set_errno(err, -thawed, "thawing the container's processes");
        }
    }
    return rc;
}

static int remove_place(const struct cgroup_place *place, int64_t deadline_ms)
{
    AUTO_HANDLE int hierarchy_fd = cgroup_open_hierarchy(place->folder, place->is_unified);
    if (hierarchy_fd < 0) {
        return hierarchy_fd == -ENOENT ? 0 : hierarchy_fd;
    }
    for (;;) {
        if (unlinkat(hierarchy_fd, place->path, AT_REMOVEDIR) == 0 || errno == ENOENT) {
            break;
        }
        if (errno != EBUSY) {
            return -errno;
        }
        AUTO_HANDLE int group_fd = group_open(hierarchy_fd, place->path);
        int rc = group_fd < 0 ? group_fd : group_remove_below(group_fd);
        if (rc == 0 && unlinkat(hierarchy_fd, place->path, AT_REMOVEDIR) == 0) {
            break;
        }
        if (rc < 0 && rc != -EBUSY && rc != -ENOENT) {
            return rc;
        }
        /* Somebody is inside: in v1 also one that has left the group of v2. */
        rc = wait_processes(place, deadline_ms);
        if (now_ms() >= deadline_ms) {
            return -EBUSY;
        }
        if (rc == 0) {
            /* v1 does not list those that are about to end, and has no event for their end. */
            (void)poll(NULL, 0, V1_STEP_MS);
        } else if (rc < 0 && rc != -ETIMEDOUT) {
            return rc;
        }
    }
    if (place->made > 1) {
        char *end = strrchr(place->path, '/');
        if (end != NULL) {
            *end = '\0';
            group_unmake(hierarchy_fd, place->path, place->made - 1);
            *end = '/';
        }
    }
    return 0;
}

/* A group that perhaps was there before, with others inside: only if it is empty. */
static int remove_planned(const struct cgroup_place *place)
{
    AUTO_HANDLE int hierarchy_fd = cgroup_open_hierarchy(place->folder, place->is_unified);
    return hierarchy_fd < 0 || unlinkat(hierarchy_fd, place->path, AT_REMOVEDIR) == 0 ||
                   errno == ENOENT || errno == EBUSY
               ? 0
               : -errno;
}

int cgroup_remove(struct cgroup *cgroup, unsigned timeout_ms, struct error *err)
{
    int64_t deadline_ms = now_ms() + timeout_ms;
    const struct cgroup_place *unified = cgroup_find_unified(cgroup);
    if (unified != NULL) {
        AUTO_HANDLE int group_fd = place_open_group(unified);
        int rc = group_fd < 0 ? 0 : wait_event(group_fd, "populated", false, deadline_ms);
        if (rc == -ETIMEDOUT) {
            return error_set(err, EBUSY, "removing group /%s: its processes do not end",
                             unified->path);
        }
    }
    int result = 0;
    for (size_t i = 0; i < cgroup->count; i++) {
        struct cgroup_place *place = &cgroup->place[i];
        int rc = cgroup->is_planned ? remove_planned(place) : remove_place(place, deadline_ms);
        if (rc < 0) {
            rc = error_set_errno(result == 0 ? err : NULL, -rc, "removing group %s/%s/%s",
                                 CGROUP_ROOT, place->folder, place->path);
            result = result == 0 ? rc : result;
        }
    }
    /* A scope that is only planned has ended with its first process, or is somebody else's. */
    if (result == 0 && cgroup->manager == CGROUP_MANAGER_SYSTEMD && !cgroup->is_planned) {
        result = unit_stop(cgroup, err);
    }
    return result;
}
