/* Covers container/cgroup with the real control groups of this host, v1, hybrid or v2: as root, below a group of its own at the root
 * of each hierarchy, which is gone afterwards. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "container/cgroup/internal.h"
#include "container/cgroup/tree.h"

#define REMOVE_TIMEOUT_MS 20000

static char base[64]; /* "/hull-test-PID" */
static const struct spec_resources no_limits;

static struct cgroup *create(const char *name, const struct spec_resources *resources,
                             struct degrade *degrade)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", base, name);
    struct cgroup_request request = {
        .manager = CGROUP_MANAGER_FILES,
        .id = "test",
        .path = path,
        .resources = resources,
        .owner_uid = -1,
        .owner_gid = -1,
    };
    struct cgroup *cgroup = NULL;
    struct error err = {0};
    if (cgroup_create(&request, &cgroup, degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return cgroup;
}

static void destroy(struct cgroup *cgroup)
{
    struct error err = {0};
    if (cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err) < 0) {
        fail_msg("%s", err.text);
    }
    cgroup_free(cgroup);
}

/* In how many hierarchies a group is. */
static unsigned count_groups(const char *path)
{
    struct cgroup_layout layout;
    assert_int_equal(cgroup_layout_read(&layout, NULL), 0);
    unsigned count = 0;
    for (size_t i = 0; i < layout.count; i++) {
        int fd = cgroup_open_hierarchy(layout.hierarchy[i].folder, layout.hierarchy[i].is_unified);
        assert_true(fd >= 0);
        count += faccessat(fd, path + 1, F_OK, 0) == 0;
        close(fd);
    }
    cgroup_layout_fini(&layout);
    return count;
}

static pid_t start_process(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (;;) {
            pause();
        }
    }
    return pid;
}

static int wait_process(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void attach(struct cgroup *cgroup, pid_t pid)
{
    struct error err = {0};
    if (cgroup_attach(cgroup, pid, false, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

static int place_fd(const struct cgroup *cgroup, enum cgroup_controller controller)
{
    const struct cgroup_place *place = cgroup_find_v1(cgroup, controller);
    place = place != NULL ? place : cgroup_find_unified(cgroup);
    return place->fd;
}

/* What a file says, of v1 where the host has that controller there, else of v2. */
static void assert_file(const struct cgroup *cgroup, enum cgroup_controller controller,
                        const char *v1_file, const char *v1_text, const char *v2_file,
                        const char *v2_text)
{
    bool is_v1 = cgroup_find_v1(cgroup, controller) != NULL;
    const char *file = is_v1 ? v1_file : v2_file;
    char text[256];
    int rc = control_read(place_fd(cgroup, controller), file, text, sizeof(text));
    if (rc < 0) {
        fail_msg("%s: %s", file, strerror(-rc));
    }
    assert_string_equal(text, is_v1 ? v1_text : v2_text);
}

static bool is_told(const struct degrade *degrade, const char *field)
{
    char text[DEGRADE_MAX_BYTES + 1], wanted[128];
    memcpy(text, degrade->text, degrade->size);
    text[degrade->size] = '\0';
    (void)snprintf(wanted, sizeof(wanted), "%s\t", field);
    return strstr(text, wanted) != NULL;
}

static void test_life(void **state)
{
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("life/inner", &no_limits, &degrade);
    assert_int_equal(degrade.size, 0);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/life/inner", base);
    assert_int_equal(count_groups(path), cgroup->count);
    assert_false(cgroup_has_processes(cgroup));
    pid_t pid = start_process();
    attach(cgroup, pid);
    assert_true(cgroup_has_processes(cgroup));
    char file[64], *text;
    (void)snprintf(file, sizeof(file), "/proc/%d/cgroup", pid);
    text = control_read_all(AT_FDCWD, file);
    assert_non_null(text);
    size_t found = 0;
    for (const char *at = text; (at = strstr(at, path)) != NULL; at++) {
        found++;
    }
    assert_int_equal(found, cgroup->count);
    free(text);
    /* The saved state finds everything again. */
    json_t *saved = cgroup_save(cgroup);
    cgroup_free(cgroup);
    char *dump = json_dumps(saved, 0);
    json_decref(saved);
    saved = json_loads(dump, 0, NULL);
    free(dump);
    struct error err = {0};
    if (cgroup_load(saved, &cgroup, &err) < 0) {
        fail_msg("%s", err.text);
    }
    json_decref(saved);
    pid_t *pids = NULL;
    size_t count;
    assert_int_equal(cgroup_processes(cgroup, &pids, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(pids[0], pid);
    free(pids);
    /* It is not removed under a process. */
    assert_int_equal(cgroup_remove(cgroup, 10, &err), -EBUSY);
    assert_int_equal(count_groups(path), cgroup->count);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(wait_process(pid)), SIGKILL);
    assert_int_equal(cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err), 0);
    assert_int_equal(count_groups(path), 0);
    /* Of what is gone nothing is found. */
    assert_false(cgroup_has_processes(cgroup));
    assert_false(cgroup_is_frozen(cgroup));
    assert_int_equal(cgroup_kill(cgroup, SIGTERM, &err), 0);
    assert_int_equal(cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err), 0);
    cgroup_free(cgroup);
    /* What was made above it is gone too. */
    (void)snprintf(path, sizeof(path), "%s/life", base);
    assert_int_equal(count_groups(path), 0);
}

static void test_attach_itself(void **state)
{
    struct cgroup *cgroup = create("self", &no_limits, NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = {0};
        _exit(cgroup_attach(cgroup, 0, false, &err) == 0 ? 0 : 1);
    }
    assert_int_equal(wait_process(pid), 0);
    pid = fork();
    if (pid == 0) {
        bool is_in = cgroup_attach(cgroup, 0, false, NULL) == 0;
        pid_t *pids = NULL;
        size_t count = 0;
        is_in = is_in && cgroup_processes(cgroup, &pids, &count, NULL) == 0 && count == 1 &&
                pids[0] == getpid();
        free(pids);
        _exit(is_in ? 0 : 1);
    }
    assert_int_equal(wait_process(pid), 0);
    destroy(cgroup);
}

static void test_group_in_use(void **state)
{
    struct cgroup *cgroup = create("used", &no_limits, NULL);
    pid_t pid = start_process();
    attach(cgroup, pid);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/used", base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *other = NULL;
    struct error err = {0};
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.text, "not empty: 1 process(es)"));
    assert_null(other);
    assert_true(cgroup_has_processes(cgroup));
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    (void)wait_process(pid);
    assert_int_equal(cgroup_freeze(cgroup, true, &err), 0);
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.text, "frozen"));
    assert_int_equal(cgroup_freeze(cgroup, false, &err), 0);
    /* Empty it may be used again, but stays whose it was. */
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), 0);
    cgroup_free(other);
    destroy(cgroup);
}

/* A runtime that has died between the steps. */
static void test_plan(void **state)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/plan", base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *plan = NULL, *cgroup = NULL;
    struct error err = {0};
    assert_int_equal(cgroup_plan(&request, &plan, &err), 0);
    assert_int_equal(count_groups(path), 0);
    json_t *saved = cgroup_save(plan);
    cgroup_free(plan);
    assert_int_equal(cgroup_load(saved, &plan, &err), 0);
    json_decref(saved);
    /* What is inside is not the plan's. */
    cgroup = create("plan", &no_limits, NULL);
    pid_t pid = start_process();
    attach(cgroup, pid);
    assert_false(cgroup_has_processes(plan));
    assert_int_equal(cgroup_open_unified(plan), -1);
    assert_int_equal(cgroup_attach(plan, pid, false, &err), -ENOENT);
    assert_int_equal(cgroup_attach_below(plan, "x", pid, &err), -ENOENT);
    assert_int_equal(cgroup_kill(plan, SIGKILL, &err), 0);
    assert_int_equal(cgroup_remove(plan, REMOVE_TIMEOUT_MS, &err), 0);
    assert_true(cgroup_has_processes(cgroup));
    assert_int_equal(count_groups(path), cgroup->count);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(wait_process(pid)), SIGKILL);
    /* Empty groups go, also if some are missing. */
    int fd = cgroup_open_hierarchy(cgroup->place[0].folder, cgroup->place[0].is_unified);
    assert_int_equal(unlinkat(fd, path + 1, AT_REMOVEDIR), 0);
    close(fd);
    assert_int_equal(cgroup_remove(plan, REMOVE_TIMEOUT_MS, &err), 0);
    assert_int_equal(count_groups(path), 0);
    cgroup_free(plan);
    destroy(cgroup); /* and what is above it */
}

static void test_bad_paths(void **state)
{
    static const char *const paths[] = {"/..", "/a/../../b", "../x", "/", "//."};
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        struct cgroup_request request = {
            .id = "x", .path = paths[i], .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
        struct cgroup *cgroup = NULL;
        struct error err = {0};
        assert_int_equal(cgroup_create(&request, &cgroup, NULL, &err), -EINVAL);
        assert_non_null(strstr(err.text, "linux.cgroupsPath"));
        assert_null(cgroup);
    }
}

static void test_threaded_groups(void **state)
{
    struct cgroup *parent = create("threads", &no_limits, NULL);
    const struct cgroup_place *unified = cgroup_find_unified(parent);
    if (unified != NULL) {
        assert_int_equal(mkdirat(unified->fd, "threaded", 0755), 0);
        int dir = openat(unified->fd, "threaded", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(dir >= 0);
        assert_int_equal(control_write(dir, "cgroup.type", "threaded"), 0);
        close(dir);
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/threads/threaded/container", base);
        struct cgroup_request request = {
            .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
        struct cgroup *cgroup = NULL;
        struct error err = {0};
        assert_int_equal(cgroup_create(&request, &cgroup, NULL, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err.text, "threaded"));
        assert_int_equal(count_groups(path), 0);
        assert_int_equal(unlinkat(unified->fd, "threaded", AT_REMOVEDIR), 0);
    }
    destroy(parent);
}

static void test_failure_leaves_nothing(void **state)
{
    struct spec_resources resources = {.cpu = {.cpus = "4000-4001"}};
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/fails/below", base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &resources, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *cgroup = NULL;
    struct degrade degrade = {0};
    struct error err = {0};
    int rc = cgroup_create(&request, &cgroup, &degrade, &err);
    if (rc == 0) { /* v2 keeps such a list for later */
        destroy(cgroup);
    } else {
        assert_non_null(strstr(err.text, "linux.resources.cpu.cpus"));
    }
    assert_int_equal(count_groups(path), 0);
    (void)snprintf(path, sizeof(path), "%s/fails", base);
    assert_int_equal(count_groups(path), 0);
}

static void test_damaged_states(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"manager\":\"x\",\"rootless\":false,\"planned\":false,\"groups\":[]}",
        "{\"manager\":\"cgroupfs\",\"rootless\":false,\"planned\":false,\"groups\":{}}",
        "{\"manager\":\"cgroupfs\",\"rootless\":false,\"planned\":false,\"groups\":[1]}",
        "{\"manager\":\"cgroupfs\",\"rootless\":false,\"planned\":false,\"groups\":[{\"folder\":\"../x\",\"unified\":true,"
        "\"controllers\":0,\"path\":\"a\",\"made\":0}]}",
        "{\"manager\":\"cgroupfs\",\"rootless\":false,\"planned\":false,\"groups\":[{\"folder\":\"cpu\",\"unified\":true,"
        "\"controllers\":0,\"path\":\"a/../..\",\"made\":0}]}",
        "{\"manager\":\"cgroupfs\",\"rootless\":false,\"planned\":false,\"groups\":[{\"folder\":\"cpu\",\"unified\":true,"
        "\"controllers\":0,\"path\":\"/\",\"made\":0}]}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        json_t *saved = json_loads(texts[i], 0, NULL);
        assert_non_null(saved);
        struct cgroup *cgroup = NULL;
        struct error err = {0};
        assert_int_equal(cgroup_load(saved, &cgroup, &err), -EINVAL);
        assert_non_null(strstr(err.text, "damaged"));
        assert_null(cgroup);
        json_decref(saved);
    }
}

/* Groups that the container has made itself. */
static void make_below(const struct cgroup *cgroup, const char *path)
{
    for (size_t i = 0; i < cgroup->count; i++) {
        assert_int_equal(mkdirat(cgroup->place[i].fd, path, 0755), 0);
    }
}

static void enter_below(const struct cgroup *cgroup, const char *path, pid_t pid)
{
    int dir = openat(cgroup_find_processes(cgroup)->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir >= 0);
    assert_int_equal(control_printf(dir, "cgroup.procs", "%d", pid), 0);
    close(dir);
}

static void test_groups_below(void **state)
{
    struct cgroup *cgroup = create("nested", &no_limits, NULL);
    make_below(cgroup, "a");
    make_below(cgroup, "a/b");
    make_below(cgroup, "c");
    pid_t top = start_process(), deep = start_process();
    attach(cgroup, top);
    attach(cgroup, deep);
    enter_below(cgroup, "a/b", deep);
    pid_t *pids = NULL;
    size_t count;
    struct error err = {0};
    assert_int_equal(cgroup_processes(cgroup, &pids, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(pids[0] + pids[1], top + deep);
    free(pids);
    assert_int_equal(cgroup_kill(cgroup, SIGTERM, &err), 0);
    assert_int_equal(WTERMSIG(wait_process(top)), SIGTERM);
    assert_int_equal(WTERMSIG(wait_process(deep)), SIGTERM);
    destroy(cgroup);
}

static void test_deep_nesting(void **state)
{
    struct cgroup *cgroup = create("deep", &no_limits, NULL);
    const struct cgroup_place *place = cgroup_find_processes(cgroup);
    int fd = dup(place->fd);
    unsigned depth = 0;
    while (depth < 600 && mkdirat(fd, "d", 0755) == 0) {
        int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(fd);
        fd = next;
        depth++;
    }
    close(fd);
    assert_true(depth > 100);
    assert_false(cgroup_has_processes(cgroup));
    destroy(cgroup);
}

static void end_by_signal(int signal)
{
    _exit(7);
}

/* A process whose handler is there. */
static pid_t start_handler(struct cgroup *cgroup)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGUSR1, end_by_signal);
        if (write(ready[1], "", 1) == 1) {
            for (;;) {
                pause();
            }
        }
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    attach(cgroup, pid);
    return pid;
}

static void test_freeze(void **state)
{
    struct cgroup *cgroup = create("freeze", &no_limits, NULL);
    pid_t pid = start_handler(cgroup);
    struct error err = {0};
    assert_false(cgroup_is_frozen(cgroup));
    if (cgroup_freeze(cgroup, true, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_true(cgroup_is_frozen(cgroup));
    /* A signal that is handled waits until it is thawed, and leaves the rest frozen. */
    assert_int_equal(cgroup_kill(cgroup, SIGUSR1, &err), 0);
    assert_true(cgroup_is_frozen(cgroup));
    int status;
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    assert_int_equal(cgroup_freeze(cgroup, false, &err), 0);
    assert_false(cgroup_is_frozen(cgroup));
    assert_int_equal(WEXITSTATUS(wait_process(pid)), 7);
    /* SIGKILL reaches the frozen. */
    pid = start_process();
    attach(cgroup, pid);
    assert_int_equal(cgroup_freeze(cgroup, true, &err), 0);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(wait_process(pid)), SIGKILL);
    destroy(cgroup);
}

/* A chain: each process forks the next one and ends. */
static void fork_for_ever(void)
{
    (void)signal(SIGTERM, SIG_IGN);
    for (;;) {
        if (fork() > 0) {
            _exit(0);
        }
    }
}

static void test_kill_forking(void **state)
{
    struct spec_resources resources = {.pids_limit = {true, 50}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("forking", &resources, &degrade);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (cgroup_attach(cgroup, 0, false, NULL) < 0) {
            _exit(1);
        }
        fork_for_ever();
    }
    assert_int_equal(wait_process(pid), 0);
    assert_true(cgroup_has_processes(cgroup));
    struct error err = {0};
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    destroy(cgroup);
}

static void test_attach_below(void **state)
{
    struct cgroup *cgroup = create("exec", &no_limits, NULL);
    make_below(cgroup, "sub");
    pid_t pid = start_process();
    struct error err = {0};
    assert_int_equal(cgroup_attach_below(cgroup, "../exec", pid, &err), -EINVAL);
    assert_int_equal(cgroup_attach_below(cgroup, "missing", pid, &err), -ENOENT);
    /* Groups that a container of v1 makes have no CPUs. */
    const struct cgroup_place *cpuset = cgroup_find_v1(cgroup, CGROUP_CPUSET);
    if (cpuset != NULL) {
        int dir = openat(cpuset->fd, "sub", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(control_write(dir, "cpuset.cpus", "0"), 0);
        assert_int_equal(control_write(dir, "cpuset.mems", "0"), 0);
        close(dir);
    }
    if (cgroup_attach_below(cgroup, "/sub", pid, &err) < 0) {
        fail_msg("%s", err.text);
    }
    char file[64], *text;
    (void)snprintf(file, sizeof(file), "/proc/%d/cgroup", pid);
    text = control_read_all(AT_FDCWD, file);
    assert_non_null(strstr(text, "/exec/sub\n"));
    free(text);
    /* Of some controllers alone. */
    if (cgroup_find_v1(cgroup, CGROUP_PIDS) != NULL) {
        assert_int_equal(cgroup_attach_below(cgroup, "pids:/sub", pid, &err), 0);
        text = control_read_all(AT_FDCWD, file);
        assert_non_null(strstr(text, "/exec/sub\n"));
        assert_non_null(strstr(text, "/exec\n"));
        free(text);
    }
    assert_int_equal(cgroup_attach_below(cgroup, "nothing:/sub", pid, &err), -EINVAL);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    (void)wait_process(pid);
    destroy(cgroup);
}

static void test_limits(void **state)
{
    struct spec_resources resources = {
        .memory = {.limit = {true, 64 << 20},
                   .reservation = {true, 32 << 20},
                   .swap = {true, 96 << 20},
                   .swappiness = {true, 7}},
        .cpu = {.shares = {true, 1024},
                .quota_us = {true, 50000},
                .period_us = {true, 200000},
                .burst_us = {true, 10000},
                .cpus = "0",
                .mems = "0"},
        .pids_limit = {true, 33},
    };
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("limits", &resources, &degrade);
    assert_file(cgroup, CGROUP_MEMORY, "memory.limit_in_bytes", "67108864", "memory.max",
                "67108864");
    assert_file(cgroup, CGROUP_MEMORY, "memory.soft_limit_in_bytes", "33554432", "memory.low",
                "33554432");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "100663296",
                "memory.swap.max", "33554432");
    if (cgroup_find_v1(cgroup, CGROUP_MEMORY) != NULL) {
        assert_file(cgroup, CGROUP_MEMORY, "memory.swappiness", "7", "", "");
        assert_false(is_told(&degrade, "linux.resources.memory.swappiness"));
    } else {
        assert_true(is_told(&degrade, "linux.resources.memory.swappiness"));
    }
    assert_file(cgroup, CGROUP_CPU, "cpu.shares", "1024", "cpu.weight", "100");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_period_us", "200000", "cpu.max", "50000 200000");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000");
    assert_file(cgroup, CGROUP_CPUSET, "cpuset.cpus", "0", "cpuset.cpus", "0");
    assert_file(cgroup, CGROUP_CPUSET, "cpuset.mems", "0", "cpuset.mems", "0");
    assert_file(cgroup, CGROUP_PIDS, "pids.max", "33", "pids.max", "33");

    /* Up: swap before memory, quota before burst. */
    struct spec_resources more = {
        .memory = {.limit = {true, 256 << 20}, .swap = {true, 300 << 20}},
        .cpu = {.shares = {true, 2}, .quota_us = {true, 400000}, .burst_us = {true, 300000}},
        .pids_limit = {true, -1},
    };
    struct error err = {0};
    if (cgroup_update(cgroup, &more, &degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_file(cgroup, CGROUP_MEMORY, "memory.limit_in_bytes", "268435456", "memory.max",
                "268435456");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "314572800",
                "memory.swap.max", "46137344");
    assert_file(cgroup, CGROUP_CPU, "cpu.shares", "2", "cpu.weight", "1");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_burst_us", "300000", "cpu.max.burst", "300000");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_period_us", "200000", "cpu.max", "400000 200000");
    assert_file(cgroup, CGROUP_PIDS, "pids.max", "max", "pids.max", "max");
    /* What is not given stays. */
    assert_file(cgroup, CGROUP_CPUSET, "cpuset.cpus", "0", "cpuset.cpus", "0");
    assert_file(cgroup, CGROUP_MEMORY, "memory.soft_limit_in_bytes", "33554432", "memory.low",
                "33554432");

    /* Down, and one value without the one it belongs to. */
    struct spec_resources less = {
        .memory = {.limit = {true, 16 << 20}, .swap = {true, 16 << 20}},
        .cpu = {.quota_us = {true, 100000}, .burst_us = {true, 50000}},
    };
    assert_int_equal(cgroup_update(cgroup, &less, &degrade, &err), 0);
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "16777216", "memory.swap.max",
                "0");
    struct spec_resources period = {.cpu = {.period_us = {true, 500000}},
                                    .memory = {.swap = {true, 17 << 20}}};
    assert_int_equal(cgroup_update(cgroup, &period, &degrade, &err), 0);
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_period_us", "500000", "cpu.max", "100000 500000");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "17825792", "memory.swap.max",
                "1048576");

    /* None at all. */
    struct spec_resources none = {
        .memory = {.limit = {true, -1}},
        .cpu = {.quota_us = {true, -1}, .burst_us = {true, 0}},
    };
    if (cgroup_update(cgroup, &none, &degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_file(cgroup, CGROUP_MEMORY, "memory.limit_in_bytes", "9223372036854771712", "memory.max",
                "max");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "9223372036854771712",
                "memory.swap.max", "max");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_quota_us", "-1", "cpu.max", "max 500000");
    destroy(cgroup);
}

static void test_update_that_fails(void **state)
{
    struct spec_resources resources = {.memory = {.limit = {true, 64 << 20}},
                                       .cpu = {.shares = {true, 1024}},
                                       .hugepages =
                                           (const struct spec_hugepage_limit[]){{"2MB", 4 << 20}},
                                       .hugepage_count = 1,
                                       .pids_limit = {true, 7}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("undone", &resources, &degrade);
    struct spec_resources wrong = {.memory = {.limit = {true, 32 << 20}, .swap = {true, 40 << 20}},
                                   .cpu = {.shares = {true, 2}, .quota_us = {true, 20000}},
                                   .pids_limit = {true, 8},
                                   .hugepages =
                                       (const struct spec_hugepage_limit[]){{"2MB", 8 << 20}},
                                   .hugepage_count = 1,
                                   .unified = {(const struct spec_pair[]){{"none.max", "1"}}, 1}};
    struct error err = {0};
    assert_true(cgroup_update(cgroup, &wrong, &degrade, &err) < 0);
    assert_non_null(strstr(err.text, "linux.resources.unified"));
    assert_file(cgroup, CGROUP_MEMORY, "memory.limit_in_bytes", "67108864", "memory.max",
                "67108864");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "9223372036854771712",
                "memory.swap.max", "max");
    assert_file(cgroup, CGROUP_CPU, "cpu.shares", "1024", "cpu.weight", "100");
    assert_file(cgroup, CGROUP_CPU, "cpu.cfs_quota_us", "-1", "cpu.max", "max 100000");
    assert_file(cgroup, CGROUP_PIDS, "pids.max", "7", "pids.max", "7");
    if (!is_told(&degrade, "linux.resources.hugepageLimits.2MB")) {
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.limit_in_bytes", "4194304",
                    "hugetlb.2MB.max", "4194304");
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.rsvd.limit_in_bytes", "4194304",
                    "hugetlb.2MB.rsvd.max", "4194304");
    }
    destroy(cgroup);
}

static void test_paths_below_the_own_group(void **state)
{
    char id[64], below[80];
    (void)snprintf(id, sizeof(id), "hull-test-%d-id", getpid());
    (void)snprintf(below, sizeof(below), "%s/below", id);
    struct cgroup_layout layout;
    assert_int_equal(cgroup_layout_read(&layout, NULL), 0);
    for (int is_relative = 0; is_relative <= 1; is_relative++) {
        struct cgroup_request request = {.id = id,
                                         .path = is_relative ? below : NULL,
                                         .resources = &no_limits,
                                         .owner_uid = -1,
                                         .owner_gid = -1};
        struct cgroup *cgroup = NULL;
        struct degrade degrade = {0};
        struct error err = {0};
        if (cgroup_create(&request, &cgroup, &degrade, &err) < 0) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(cgroup->count, layout.count);
        for (size_t i = 0; i < layout.count; i++) {
            char expected[4200];
            const char *own = layout.hierarchy[i].own_path, *last = strrchr(own, '/');
            size_t size = !layout.hierarchy[i].is_unified ? strlen(own)
                          : last == NULL                  ? 0
                                                          : (size_t)(last - own);
            (void)snprintf(expected, sizeof(expected), "%.*s/%s", (int)size, own,
                           is_relative ? below : id);
            assert_string_equal(cgroup->place[i].path, expected + (*expected == '/'));
            assert_int_equal(cgroup->place[i].made, 1 + is_relative);
        }
        destroy(cgroup);
    }
    cgroup_layout_fini(&layout);
}

static void test_network(void **state)
{
    struct spec_resources resources = {
        .network = {.class_id = {true, 1048577},
                    .priorities = (const struct spec_network_priority[]){{"lo", 5}},
                    .priority_count = 1}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("network", &resources, &degrade);
    if (cgroup_find_v1(cgroup, CGROUP_NET_CLS) != NULL) {
        assert_file(cgroup, CGROUP_NET_CLS, "net_cls.classid", "1048577", "", "");
    } else {
        assert_true(is_told(&degrade, "linux.resources.network.classID"));
    }
    uint64_t priority;
    if (cgroup_find_v1(cgroup, CGROUP_NET_PRIO) != NULL) {
        assert_int_equal(control_read_key(place_fd(cgroup, CGROUP_NET_PRIO), "net_prio.ifpriomap",
                                          "lo", &priority),
                         0);
        assert_int_equal(priority, 5);
    } else {
        assert_true(is_told(&degrade, "linux.resources.network.priorities"));
    }
    destroy(cgroup);
}

/* As a user who may make groups nowhere, or only below "given" of v2. */
static int live_without_root(const char *path, bool has_delegation)
{
    const struct spec_device_rule rule = {true, 'c', 1, 11, true, true, true};
    struct spec_resources resources = {
        .pids_limit = {true, 9}, .devices = &rule, .device_count = 1};
    struct cgroup_request request = {.id = "x",
                                     .path = path,
                                     .resources = &resources,
                                     .is_rootless = true,
                                     .owner_uid = -1,
                                     .owner_gid = -1};
    struct cgroup *cgroup = NULL;
    struct degrade degrade = {0};
    struct error err = {0};
    if (cgroup_create(&request, &cgroup, &degrade, &err) < 0) {
        print_error("%s\n", err.text);
        return 2;
    }
    if (!is_told(&degrade, "linux.resources.devices")) {
        return 3;
    }
    if (cgroup->count != (has_delegation ? 1 : 0)) {
        return 4;
    }
    if (!has_delegation && !is_told(&degrade, "linux.resources.pids.limit")) {
        return 5;
    }
    pid_t pid = fork();
    if (pid == 0) {
        if (cgroup_attach(cgroup, 0, false, &err) < 0 ||
            cgroup_has_processes(cgroup) != has_delegation) {
            print_error("%s\n", err.text);
            _exit(1);
        }
        pause();
        _exit(1);
    }
    /* With a group it is killed by it, as soon as it is inside. */
    while (has_delegation && !cgroup_has_processes(cgroup)) {
        if (waitpid(pid, NULL, WNOHANG) != 0) {
            return 6;
        }
    }
    if (cgroup_kill(cgroup, SIGKILL, &err) < 0) {
        return 7;
    }
    if (!has_delegation) {
        (void)kill(pid, SIGKILL);
    }
    (void)waitpid(pid, NULL, 0);
    int rc = cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err);
    cgroup_free(cgroup);
    return rc < 0 ? 8 : 0;
}

static void test_without_root(void **state)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/given/below", base);
    for (int has_delegation = 0; has_delegation <= 1; has_delegation++) {
        char given[128], own[160];
        (void)snprintf(given, sizeof(given), "%s/given", base);
        struct cgroup_request request = {.id = "x",
                                         .path = given,
                                         .resources = &no_limits,
                                         .owner_uid = 12345,
                                         .owner_gid = 12345};
        struct cgroup *cgroup = NULL;
        assert_int_equal(cgroup_create(&request, &cgroup, NULL, NULL), 0);
        bool is_possible = has_delegation == 0 || cgroup_find_unified(cgroup) != NULL;
        (void)snprintf(own, sizeof(own), "%s/given%s", base, has_delegation ? "/own" : "");
        struct cgroup *inside = NULL;
        if (has_delegation && is_possible) {
            request.path = own;
            assert_int_equal(cgroup_create(&request, &inside, NULL, NULL), 0);
        }
        pid_t pid = fork();
        if (pid == 0) {
            if (!is_possible) {
                _exit(0);
            }
            if (inside != NULL && cgroup_attach(inside, 0, false, NULL) < 0) {
                _exit(1);
            }
            if (setgid(12345) < 0 || setuid(has_delegation ? 12345 : 54321) < 0) {
                _exit(1);
            }
            _exit(live_without_root(path, has_delegation));
        }
        assert_int_equal(wait_process(pid), 0);
        if (inside != NULL) {
            destroy(inside);
        }
        destroy(cgroup);
    }
}

static void test_idle(void **state)
{
    struct spec_resources resources = {.cpu = {.shares = {true, 512}, .idle = {true, 1}}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("idle", &resources, &degrade);
    assert_file(cgroup, CGROUP_CPU, "cpu.idle", "1", "cpu.idle", "1");
    assert_true(is_told(&degrade, "linux.resources.cpu.shares"));
    struct spec_resources busy = {.cpu = {.shares = {true, 1024}, .idle = {true, 0}}};
    struct error err = {0};
    if (cgroup_update(cgroup, &busy, &degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_file(cgroup, CGROUP_CPU, "cpu.shares", "1024", "cpu.weight", "100");
    destroy(cgroup);
}

static void test_limits_that_are_wrong(void **state)
{
    const struct {
        struct spec_resources resources;
        const char *field;
    } cases[] = {
        {{.memory = {.limit = {true, 32 << 20}, .swap = {true, 16 << 20}}},
         "linux.resources.memory.swap"},
        {{.cpu = {.quota_us = {true, 10000}, .burst_us = {true, 20000}}},
         "linux.resources.cpu.burst"},
        {{.cpu = {.period_us = {true, 1}}}, "linux.resources.cpu.period"},
        {{.cpu = {.idle = {true, 2}}}, "linux.resources.cpu.idle"},
        {{.cpu = {.mems = "x"}}, "linux.resources.cpu.mems"},
        {{.hugepages = (const struct spec_hugepage_limit[]){{"../x", 0}}, .hugepage_count = 1},
         "linux.resources.hugepageLimits"},
        {{.unified = {(const struct spec_pair[]){{"../cpu.max", "1"}}, 1}},
         "linux.resources.unified"},
        {{.unified = {(const struct spec_pair[]){{"nothing.max", "1"}}, 1}},
         "linux.resources.unified.nothing.max"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/wrong", base);
        struct cgroup_request request = {.id = "x",
                                         .path = path,
                                         .resources = &cases[i].resources,
                                         .owner_uid = -1,
                                         .owner_gid = -1};
        struct cgroup *cgroup = NULL;
        struct degrade degrade = {0};
        struct error err = {0};
        int rc = cgroup_create(&request, &cgroup, &degrade, &err);
        if (rc >= 0) {
            fail_msg("case %zu is accepted", i);
        }
        if (strstr(err.text, cases[i].field) == NULL) {
            fail_msg("case %zu: %s", i, err.text);
        }
        assert_int_equal(count_groups(path), 0);
    }
}

static void test_what_the_host_has_not(void **state)
{
    struct spec_resources resources = {
        .hugepages = (const struct spec_hugepage_limit[]){{"3MB", 1}},
        .hugepage_count = 1,
    };
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("missing", &resources, &degrade);
    assert_true(is_told(&degrade, "linux.resources.hugepageLimits.3MB"));
    destroy(cgroup);
}

static void test_rdma(void **state)
{
    struct spec_resources resources = {
        .rdma = (const struct spec_rdma_limit[]){{"mlx5_1", {true, 1}, {true, 2}}},
        .rdma_count = 1,
    };
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/rdma", base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &resources, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *cgroup = NULL;
    struct degrade degrade = {0};
    struct error err = {0};
    if (cgroup_create(&request, &cgroup, &degrade, &err) < 0) {
        /* There is a controller, but no such device. */
        assert_non_null(
            strstr(err.text, "linux.resources.rdma: writing \"mlx5_1 hca_handle=1 hca_object=2\""));
        return;
    }
    assert_true(is_told(&degrade, "linux.resources.rdma"));
    destroy(cgroup);
}

static void test_huge_pages(void **state)
{
    struct spec_resources resources = {
        .hugepages = (const struct spec_hugepage_limit[]){{"2MB", 8 << 20}},
        .hugepage_count = 1,
    };
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("huge", &resources, &degrade);
    if (is_told(&degrade, "linux.resources.hugepageLimits.2MB")) {
        print_message("this host has no hugetlb controller\n");
    } else {
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.limit_in_bytes", "8388608",
                    "hugetlb.2MB.max", "8388608");
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.rsvd.limit_in_bytes", "8388608",
                    "hugetlb.2MB.rsvd.max", "8388608");
    }
    destroy(cgroup);
}

static char device_path[128]; /* a node of 1:11 (/dev/kmsg), which no default allows */

static void open_device(void)
{
    int fd = open(device_path, O_WRONLY | O_CLOEXEC);
    _exit(fd >= 0 ? 0 : errno);
}

static int open_inside(struct cgroup *cgroup)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (cgroup_attach(cgroup, 0, false, NULL) < 0) {
            _exit(255);
        }
        open_device();
    }
    return WEXITSTATUS(wait_process(pid));
}

static void test_devices(void **state)
{
    (void)snprintf(device_path, sizeof(device_path), "/dev/hull-test-%d", getpid());
    if (mknod(device_path, S_IFCHR | 0600, makedev(1, 11)) < 0) {
        print_message("no device can be made here: %s\n", strerror(errno));
        skip();
    }
    const struct spec_device_rule rules[] = {
        {false, 'a', -1, -1, true, true, true},
        {true, 'c', 1, 11, false, true, false},
    };
    struct spec_resources denied = {.devices = rules, .device_count = 1};
    struct spec_resources allowed = {.devices = rules, .device_count = 2};
    struct degrade degrade = {0};
    struct error err = {0};
    struct cgroup *cgroup = create("devices", &no_limits, &degrade);
    assert_int_equal(open_inside(cgroup), EPERM);
    for (int i = 0; i < 100; i++) { /* replaced, not added: a group has room for 64 filters */
        assert_int_equal(cgroup_update(cgroup, &allowed, &degrade, &err), 0);
        assert_int_equal(cgroup_update(cgroup, &denied, &degrade, &err), 0);
    }
    assert_int_equal(open_inside(cgroup), EPERM);
    assert_int_equal(cgroup_update(cgroup, &allowed, &degrade, &err), 0);
    assert_int_equal(open_inside(cgroup), 0);
    unlink(device_path);
    strcpy(device_path, "/dev/null");
    assert_int_equal(cgroup_update(cgroup, &denied, &degrade, &err), 0);
    assert_int_equal(open_inside(cgroup), 0);
    destroy(cgroup);
}

static uint64_t member(const json_t *object, const char *first, const char *second,
                       const char *third)
{
    const json_t *value = json_object_get(json_object_get(object, first), second);
    value = third == NULL ? value : json_object_get(value, third);
    if (!json_is_integer(value)) {
        fail_msg("no number %s.%s.%s", first, second, third == NULL ? "" : third);
    }
    return (uint64_t)json_integer_value(value);
}

static void use_things(void)
{
    static volatile char memory[4 << 20];
    for (size_t i = 0; i < sizeof(memory); i += 4096) {
        memory[i] = 1;
    }
    for (volatile unsigned i = 0; i < 20000000; i++) {
    }
}

static void test_stats(void **state)
{
    struct spec_resources resources = {.memory = {.limit = {true, 64 << 20}},
                                       .pids_limit = {true, 10}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("stats", &resources, &degrade);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (cgroup_attach(cgroup, 0, false, NULL) < 0) {
            _exit(1);
        }
        use_things();
        if (write(ready[1], "", 1) == 1) {
            for (;;) {
                pause();
            }
        }
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    json_t *data = cgroup_stats(cgroup);
    assert_true(member(data, "cpu", "usage", "total") > 1000000);
    assert_true(member(data, "cpu", "usage", "user") + member(data, "cpu", "usage", "kernel") > 0);
    assert_int_equal(member(data, "memory", "usage", "limit"), 64 << 20);
    assert_in_range(member(data, "memory", "usage", "usage"), 4 << 20, 64 << 20);
    assert_int_equal(member(data, "memory", "usage", "failcnt"), 0);
    assert_true(member(data, "memory", "raw", "pgfault") > 1000);
    assert_true(json_is_integer(
        json_object_get(json_object_get(json_object_get(data, "memory"), "swap"), "limit")));
    assert_int_equal(member(data, "pids", "current", NULL), 1);
    assert_int_equal(member(data, "pids", "limit", NULL), 10);
    const json_t *cpus = json_object_get(json_object_get(data, "cpuset"), "cpus");
    assert_int_equal(json_integer_value(json_array_get(cpus, 0)), 0);
    assert_true(json_is_object(json_object_get(data, "blkio")));
    assert_true(json_is_object(json_object_get(data, "hugetlb")));
    json_decref(data);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, NULL), 0);
    (void)wait_process(pid);
    destroy(cgroup);
}

/* Takes more memory than it may have, once it is told to, or ends. */
static pid_t start_eater(struct cgroup *cgroup, int *out_tell)
{
    int tell[2], ready[2];
    assert_int_equal(pipe(tell), 0);
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    char byte;
    if (pid == 0) {
        close(tell[1]);
        if (cgroup_attach(cgroup, 0, false, NULL) < 0 || write(ready[1], "", 1) != 1 ||
            read(tell[0], &byte, 1) != 1) {
            _exit(0);
        }
        for (;;) {
            memset(malloc(1 << 20), 1, 1 << 20);
        }
    }
    close(tell[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    *out_tell = tell[1];
    return pid;
}

static void test_oom(void **state)
{
    struct spec_resources resources = {
        .memory = {.limit = {true, 16 << 20}, .swap = {true, 16 << 20}}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = create("oom", &resources, &degrade);
    int tell;
    pid_t pid = start_eater(cgroup, &tell);
    pid_t waiter = fork();
    assert_true(waiter >= 0);
    if (waiter == 0) {
        close(tell);
        _exit(10 + cgroup_wait_oom(cgroup, NULL));
    }
    char file[64], wait_channel[64] = "";
    (void)snprintf(file, sizeof(file), "/proc/%d/wchan", waiter);
    /* It counts from when it began: until it sleeps in poll. */
    while (strstr(wait_channel, "poll") == NULL) {
        assert_true(control_read(AT_FDCWD, file, wait_channel, sizeof(wait_channel)) >= 0);
        sched_yield();
    }
    assert_int_equal(write(tell, "", 1), 1);
    close(tell);
    assert_int_equal(WTERMSIG(wait_process(pid)), SIGKILL);
    assert_int_equal(WEXITSTATUS(wait_process(waiter)), 11);
    destroy(cgroup);
}

static void test_end_without_oom(void **state)
{
    struct cgroup *cgroup = create("no-oom", &no_limits, NULL);
    int tell;
    pid_t pid = start_eater(cgroup, &tell);
    pid_t waiter = fork();
    assert_true(waiter >= 0);
    if (waiter == 0) {
        close(tell);
        _exit(10 + cgroup_wait_oom(cgroup, NULL));
    }
    close(tell);
    assert_int_equal(wait_process(pid), 0);
    destroy(cgroup); /* where v2 does not tell that the last process has gone, v1 tells of this */
    assert_int_equal(WEXITSTATUS(wait_process(waiter)), 10);
}

static void test_delegation(void **state)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/given", base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &no_limits, .owner_uid = 12345, .owner_gid = 54321};
    struct cgroup *cgroup = NULL;
    struct error err = {0};
    assert_int_equal(cgroup_create(&request, &cgroup, NULL, &err), 0);
    for (size_t i = 0; i < cgroup->count; i++) {
        struct stat dir, procs, limit;
        assert_int_equal(fstat(cgroup->place[i].fd, &dir), 0);
        assert_int_equal(fstatat(cgroup->place[i].fd, "cgroup.procs", &procs, 0), 0);
        bool is_unified = cgroup->place[i].is_unified;
        assert_int_equal(dir.st_uid, is_unified ? 12345 : 0);
        assert_int_equal(dir.st_gid, is_unified ? 54321 : 0);
        assert_int_equal(procs.st_uid, is_unified ? 12345 : 0);
        if (is_unified) {
            assert_int_equal(fstatat(cgroup->place[i].fd, "cgroup.max.depth", &limit, 0), 0);
            assert_int_equal(limit.st_uid, 0);
        }
    }
    destroy(cgroup);
}

static int check_nothing_left(void **state)
{
    unsigned left = count_groups(base);
    if (left > 0) {
        print_error("%u groups %s are left\n", left, base);
    }
    return left > 0 ? -1 : 0;
}

int main(void)
{
    struct cgroup_layout layout;
    struct error err = {0};
    if (cgroup_layout_read(&layout, &err) < 0 || layout.count == 0) {
        print_message("no control groups on this host: %s\n", err.text);
        return 77;
    }
    int fd = cgroup_open_hierarchy(layout.hierarchy[0].folder, layout.hierarchy[0].is_unified);
    cgroup_layout_fini(&layout);
    if (fd < 0 || geteuid() != 0 || faccessat(fd, ".", W_OK, AT_EACCESS) < 0) {
        print_message("groups at the root of the hierarchies need root\n");
        return 77;
    }
    close(fd);
    (void)snprintf(base, sizeof(base), "/hull-test-%d", getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_life, check_nothing_left),
        cmocka_unit_test_teardown(test_attach_itself, check_nothing_left),
        cmocka_unit_test_teardown(test_group_in_use, check_nothing_left),
        cmocka_unit_test_teardown(test_paths_below_the_own_group, check_nothing_left),
        cmocka_unit_test_teardown(test_plan, check_nothing_left),
        cmocka_unit_test_teardown(test_bad_paths, check_nothing_left),
        cmocka_unit_test_teardown(test_threaded_groups, check_nothing_left),
        cmocka_unit_test_teardown(test_failure_leaves_nothing, check_nothing_left),
        cmocka_unit_test_teardown(test_damaged_states, check_nothing_left),
        cmocka_unit_test_teardown(test_groups_below, check_nothing_left),
        cmocka_unit_test_teardown(test_deep_nesting, check_nothing_left),
        cmocka_unit_test_teardown(test_freeze, check_nothing_left),
        cmocka_unit_test_teardown(test_kill_forking, check_nothing_left),
        cmocka_unit_test_teardown(test_attach_below, check_nothing_left),
        cmocka_unit_test_teardown(test_limits, check_nothing_left),
        cmocka_unit_test_teardown(test_update_that_fails, check_nothing_left),
        cmocka_unit_test_teardown(test_network, check_nothing_left),
        cmocka_unit_test_teardown(test_without_root, check_nothing_left),
        cmocka_unit_test_teardown(test_idle, check_nothing_left),
        cmocka_unit_test_teardown(test_limits_that_are_wrong, check_nothing_left),
        cmocka_unit_test_teardown(test_what_the_host_has_not, check_nothing_left),
        cmocka_unit_test_teardown(test_rdma, check_nothing_left),
        cmocka_unit_test_teardown(test_huge_pages, check_nothing_left),
        cmocka_unit_test_teardown(test_devices, check_nothing_left),
        cmocka_unit_test_teardown(test_stats, check_nothing_left),
        cmocka_unit_test_teardown(test_oom, check_nothing_left),
        cmocka_unit_test_teardown(test_end_without_oom, check_nothing_left),
        cmocka_unit_test_teardown(test_delegation, check_nothing_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
