/* Waiting for the OOM killer. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/internal.h"
#include "container/cgroup/tree.h"

/* The eventfd of v1 tells, also when the group is removed. */
static int register_v1(int group_fd)
{
    AUTO_CLOSE int control_fd = openat(group_fd, "memory.oom_control", O_RDONLY | O_CLOEXEC);
    if (control_fd < 0) {
        return -errno;
    }
    AUTO_CLOSE int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd < 0) {
        return -errno;
    }
    int rc = control_printf(group_fd, "cgroup.event_control", "%d %d", event_fd, control_fd);
    return rc < 0 ? rc : TAKE_FD(event_fd);
}

static bool is_there(int group_fd)
{
    return faccessat(group_fd, "cgroup.procs", F_OK, 0) == 0;
}

/* Tells of groups that are removed beside this one, and of this one: the kernel tells of a change in cgroup.events only 10 ms after
 * the last one, and not at all if the group is gone by then. -1: without. */
static int watch_removal(int group_fd)
{
    AUTO_HANDLE int parent_fd = openat(group_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_HANDLE int watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", parent_fd);
    if (parent_fd < 0 || watch_fd < 0 || inotify_add_watch(watch_fd, path, IN_DELETE) < 0) {
        return -1;
    }
    return TAKE_FD(watch_fd);
}

static void drain(int watch_fd)
{
    char events[4096];
    while (watch_fd >= 0 && read(watch_fd, events, sizeof(events)) > 0) {
    }
}

/* Ends by the first of: an OOM kill (1), no process any more (0). 'memory_fd': of the group with the memory controller.
 * 'events_fd': cgroup.events, -1: there is no v2. 'tells_fd': an eventfd of v1, or memory.events of v2. */
static int wait_for_either(int memory_fd, int group_fd, int tells_fd, bool is_v1, int events_fd)
{
    uint64_t before = 0, count;
    if (!is_v1) {
        int rc = control_read_key(memory_fd, "memory.events", "oom_kill", &before);
        if (rc < 0) {
            return rc;
        }
    }
    AUTO_HANDLE int watch_fd = watch_removal(memory_fd);
    for (;;) {
        char text[512];
        drain(watch_fd);
        uint64_t is_populated;
        /* Reading arms the next event, so what has come is looked at after it. */
        if (!is_v1 && pread(tells_fd, text, sizeof(text), 0) >= 0 &&
            control_read_key(memory_fd, "memory.events", "oom_kill", &count) == 0 &&
            count > before) {
            return 1;
        }
        if (is_v1 && read(tells_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
            return is_there(memory_fd);
        }
        if (events_fd >= 0 &&
            (pread(events_fd, text, sizeof(text), 0) < 0 ||
             control_read_key(group_fd, "cgroup.events", "populated", &is_populated) < 0 ||
             is_populated == 0)) {
            return 0;
        }
        if (!is_there(memory_fd)) {
            return 0;
        }
        struct pollfd waiting[] = {
            {.fd = tells_fd, .events = is_v1 ? POLLIN : POLLPRI},
            {.fd = events_fd, .events = POLLPRI},
            {.fd = watch_fd, .events = POLLIN},
        };
        if (poll(waiting, ARRAY_COUNT(waiting), -1) < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

int cgroup_wait_oom(struct cgroup *cgroup, struct error *err)
{
    const struct cgroup_place *unified = cgroup_find_unified(cgroup);
    const struct cgroup_place *v1 = cgroup_find_v1(cgroup, CGROUP_MEMORY);
    const struct cgroup_place *memory = v1 != NULL ? v1 : unified;
    if (memory == NULL) {
        return error_set(err, EOPNOTSUPP, "the container has no group that counts memory");
    }
    AUTO_HANDLE int memory_fd = place_open_group(memory);
    AUTO_HANDLE int group_fd = unified == NULL ? -1 : place_open_group(unified);
    if (memory_fd < 0) {
        return memory_fd == -ENOENT
                   ? 0
                   : error_set_errno(err, -memory_fd, "opening group /%s", memory->path);
    }
    AUTO_HANDLE int tells_fd = v1 != NULL
                                   ? register_v1(memory_fd)
                                   : openat(memory_fd, "memory.events", O_RDONLY | O_CLOEXEC);
    AUTO_HANDLE int events_fd =
        group_fd < 0 ? -1 : openat(group_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
    int rc = tells_fd >= 0 ? wait_for_either(memory_fd, group_fd, tells_fd, v1 != NULL, events_fd)
             : v1 != NULL  ? tells_fd
                           : -errno;
    if ((rc == -ENOENT || rc == -ENODEV) && !is_there(memory_fd)) {
        return 0; /* it has gone meanwhile */
    }
    return rc < 0
               ? error_set_errno(err, -rc, "waiting for the OOM killer in group /%s", memory->path)
               : rc;
}
