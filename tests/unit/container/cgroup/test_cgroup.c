/* Covers container/cgroup: groups of containers from their making to their end. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/cgroup/tree.h"
#include "tests/unit/container/cgroup/cgroup_bed.h"

static void test_life(void **state)
{
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("life/inner", &no_limits, &degrade);
    assert_int_equal(degrade.size, 0);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/life/inner", bed_base);
    assert_int_equal(bed_count_groups(path), cgroup->count);
    assert_false(cgroup_has_processes(cgroup));
    pid_t pid = bed_start_process();
    bed_attach(cgroup, pid);
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
    assert_int_equal(bed_count_groups(path), cgroup->count);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(bed_wait_process(pid)), SIGKILL);
    assert_int_equal(cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err), 0);
    assert_int_equal(bed_count_groups(path), 0);
    /* Of what is gone nothing is found. */
    assert_false(cgroup_has_processes(cgroup));
    assert_false(cgroup_is_frozen(cgroup));
    assert_int_equal(cgroup_kill(cgroup, SIGTERM, &err), 0);
    assert_int_equal(cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err), 0);
    cgroup_free(cgroup);
    /* What was made above it is gone too. */
    (void)snprintf(path, sizeof(path), "%s/life", bed_base);
    assert_int_equal(bed_count_groups(path), 0);
}

static void test_attach_itself(void **state)
{
    struct cgroup *cgroup = bed_create("self", &no_limits, NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = {0};
        _exit(cgroup_attach(cgroup, 0, false, &err) == 0 ? 0 : 1);
    }
    assert_int_equal(bed_wait_process(pid), 0);
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
    assert_int_equal(bed_wait_process(pid), 0);
    bed_destroy(cgroup);
}

static void test_group_in_use(void **state)
{
    struct cgroup *cgroup = bed_create("used", &no_limits, NULL);
    pid_t pid = bed_start_process();
    bed_attach(cgroup, pid);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/used", bed_base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *other = NULL;
    struct error err = {0};
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.text, "not empty: 1 process(es)"));
    assert_null(other);
    assert_true(cgroup_has_processes(cgroup));
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    (void)bed_wait_process(pid);
    assert_int_equal(cgroup_freeze(cgroup, true, &err), 0);
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), -EBUSY);
    assert_non_null(strstr(err.text, "frozen"));
    assert_int_equal(cgroup_freeze(cgroup, false, &err), 0);
    /* Empty it may be used again, but stays whose it was. */
    assert_int_equal(cgroup_create(&request, &other, NULL, &err), 0);
    cgroup_free(other);
    bed_destroy(cgroup);
}

/* A runtime that has died between the steps. */
static void test_plan(void **state)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/plan", bed_base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *plan = NULL, *cgroup = NULL;
    struct error err = {0};
    assert_int_equal(cgroup_plan(&request, &plan, &err), 0);
    assert_int_equal(bed_count_groups(path), 0);
    json_t *saved = cgroup_save(plan);
    cgroup_free(plan);
    assert_int_equal(cgroup_load(saved, &plan, &err), 0);
    json_decref(saved);
    /* What is inside is not the plan's. */
    cgroup = bed_create("plan", &no_limits, NULL);
    pid_t pid = bed_start_process();
    bed_attach(cgroup, pid);
    assert_false(cgroup_has_processes(plan));
    assert_int_equal(cgroup_open_unified(plan), -1);
    assert_int_equal(cgroup_attach(plan, pid, false, &err), -ENOENT);
    assert_int_equal(cgroup_attach_below(plan, "x", pid, &err), -ENOENT);
    assert_int_equal(cgroup_kill(plan, SIGKILL, &err), 0);
    assert_int_equal(cgroup_remove(plan, REMOVE_TIMEOUT_MS, &err), 0);
    assert_true(cgroup_has_processes(cgroup));
    assert_int_equal(bed_count_groups(path), cgroup->count);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(bed_wait_process(pid)), SIGKILL);
    /* Empty groups go, also if some are missing. */
    int fd = cgroup_open_hierarchy(cgroup->place[0].folder, cgroup->place[0].is_unified);
    assert_int_equal(unlinkat(fd, path + 1, AT_REMOVEDIR), 0);
    close(fd);
    assert_int_equal(cgroup_remove(plan, REMOVE_TIMEOUT_MS, &err), 0);
    assert_int_equal(bed_count_groups(path), 0);
    cgroup_free(plan);
    bed_destroy(cgroup); /* and what is above it */
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
    struct cgroup *parent = bed_create("threads", &no_limits, NULL);
    const struct cgroup_place *unified = cgroup_find_unified(parent);
    if (unified != NULL) {
        assert_int_equal(mkdirat(unified->fd, "threaded", 0755), 0);
        int dir = openat(unified->fd, "threaded", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(dir >= 0);
        assert_int_equal(control_write(dir, "cgroup.type", "threaded"), 0);
        close(dir);
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/threads/threaded/container", bed_base);
        struct cgroup_request request = {
            .id = "x", .path = path, .resources = &no_limits, .owner_uid = -1, .owner_gid = -1};
        struct cgroup *cgroup = NULL;
        struct error err = {0};
        assert_int_equal(cgroup_create(&request, &cgroup, NULL, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err.text, "threaded"));
        assert_int_equal(bed_count_groups(path), 0);
        assert_int_equal(unlinkat(unified->fd, "threaded", AT_REMOVEDIR), 0);
    }
    bed_destroy(parent);
}

static void test_failure_leaves_nothing(void **state)
{
    struct spec_resources resources = {.cpu = {.cpus = "4000-4001"}};
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/fails/below", bed_base);
    struct cgroup_request request = {
        .id = "x", .path = path, .resources = &resources, .owner_uid = -1, .owner_gid = -1};
    struct cgroup *cgroup = NULL;
    struct degrade degrade = {0};
    struct error err = {0};
    int rc = cgroup_create(&request, &cgroup, &degrade, &err);
    if (rc == 0) { /* v2 keeps such a list for later */
        bed_destroy(cgroup);
    } else {
        assert_non_null(strstr(err.text, "linux.resources.cpu.cpus"));
    }
    assert_int_equal(bed_count_groups(path), 0);
    (void)snprintf(path, sizeof(path), "%s/fails", bed_base);
    assert_int_equal(bed_count_groups(path), 0);
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
    struct cgroup *cgroup = bed_create("nested", &no_limits, NULL);
    make_below(cgroup, "a");
    make_below(cgroup, "a/b");
    make_below(cgroup, "c");
    pid_t top = bed_start_process(), deep = bed_start_process();
    bed_attach(cgroup, top);
    bed_attach(cgroup, deep);
    enter_below(cgroup, "a/b", deep);
    pid_t *pids = NULL;
    size_t count;
    struct error err = {0};
    assert_int_equal(cgroup_processes(cgroup, &pids, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(pids[0] + pids[1], top + deep);
    free(pids);
    assert_int_equal(cgroup_kill(cgroup, SIGTERM, &err), 0);
    assert_int_equal(WTERMSIG(bed_wait_process(top)), SIGTERM);
    assert_int_equal(WTERMSIG(bed_wait_process(deep)), SIGTERM);
    bed_destroy(cgroup);
}

static void test_deep_nesting(void **state)
{
    struct cgroup *cgroup = bed_create("deep", &no_limits, NULL);
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
    bed_destroy(cgroup);
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
    bed_attach(cgroup, pid);
    return pid;
}

static void test_freeze(void **state)
{
    struct cgroup *cgroup = bed_create("freeze", &no_limits, NULL);
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
    assert_int_equal(WEXITSTATUS(bed_wait_process(pid)), 7);
    /* SIGKILL reaches the frozen. */
    pid = bed_start_process();
    bed_attach(cgroup, pid);
    assert_int_equal(cgroup_freeze(cgroup, true, &err), 0);
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    assert_int_equal(WTERMSIG(bed_wait_process(pid)), SIGKILL);
    bed_destroy(cgroup);
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
    struct cgroup *cgroup = bed_create("forking", &resources, &degrade);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (cgroup_attach(cgroup, 0, false, NULL) < 0) {
            _exit(1);
        }
        fork_for_ever();
    }
    assert_int_equal(bed_wait_process(pid), 0);
    assert_true(cgroup_has_processes(cgroup));
    struct error err = {0};
    assert_int_equal(cgroup_kill(cgroup, SIGKILL, &err), 0);
    bed_destroy(cgroup);
}

static void test_attach_below(void **state)
{
    struct cgroup *cgroup = bed_create("exec", &no_limits, NULL);
    make_below(cgroup, "sub");
    pid_t pid = bed_start_process();
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
    (void)bed_wait_process(pid);
    bed_destroy(cgroup);
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
        bed_destroy(cgroup);
    }
    cgroup_layout_fini(&layout);
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
    if (!bed_is_told(&degrade, "linux.resources.devices")) {
        return 3;
    }
    if (cgroup->count != (has_delegation ? 1 : 0)) {
        return 4;
    }
    if (!has_delegation && !bed_is_told(&degrade, "linux.resources.pids.limit")) {
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
    (void)snprintf(path, sizeof(path), "%s/given/below", bed_base);
    for (int has_delegation = 0; has_delegation <= 1; has_delegation++) {
        char given[128], own[160];
        (void)snprintf(given, sizeof(given), "%s/given", bed_base);
        struct cgroup_request request = {.id = "x",
                                         .path = given,
                                         .resources = &no_limits,
                                         .owner_uid = 12345,
                                         .owner_gid = 12345};
        struct cgroup *cgroup = NULL;
        assert_int_equal(cgroup_create(&request, &cgroup, NULL, NULL), 0);
        bool is_possible = has_delegation == 0 || cgroup_find_unified(cgroup) != NULL;
        (void)snprintf(own, sizeof(own), "%s/given%s", bed_base, has_delegation ? "/own" : "");
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
        assert_int_equal(bed_wait_process(pid), 0);
        if (inside != NULL) {
            bed_destroy(inside);
        }
        bed_destroy(cgroup);
    }
}

static void test_delegation(void **state)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/given", bed_base);
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
    bed_destroy(cgroup);
}

int main(void)
{
    int status = bed_begin();
    if (status != 0) {
        return status;
    }
    const struct CMUnitTest tests[] = {
        TEST(test_life),
        TEST(test_attach_itself),
        TEST(test_group_in_use),
        TEST(test_paths_below_the_own_group),
        TEST(test_plan),
        TEST(test_bad_paths),
        TEST(test_threaded_groups),
        TEST(test_failure_leaves_nothing),
        TEST(test_damaged_states),
        TEST(test_groups_below),
        TEST(test_deep_nesting),
        TEST(test_freeze),
        TEST(test_kill_forking),
        TEST(test_attach_below),
        TEST(test_without_root),
        TEST(test_delegation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
