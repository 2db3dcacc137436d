/* Covers container/cgroup: limits, devices, figures, and running out of memory. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "container/cgroup/tree.h"
#include "tests/unit/container/cgroup/cgroup_bed.h"

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
    struct cgroup *cgroup = bed_create("limits", &resources, &degrade);
    assert_file(cgroup, CGROUP_MEMORY, "memory.limit_in_bytes", "67108864", "memory.max",
                "67108864");
    assert_file(cgroup, CGROUP_MEMORY, "memory.soft_limit_in_bytes", "33554432", "memory.low",
                "33554432");
    assert_file(cgroup, CGROUP_MEMORY, "memory.memsw.limit_in_bytes", "100663296",
                "memory.swap.max", "33554432");
    if (cgroup_find_v1(cgroup, CGROUP_MEMORY) != NULL) {
        assert_file(cgroup, CGROUP_MEMORY, "memory.swappiness", "7", "", "");
        assert_false(bed_is_told(&degrade, "linux.resources.memory.swappiness"));
    } else {
        assert_true(bed_is_told(&degrade, "linux.resources.memory.swappiness"));
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
    bed_destroy(cgroup);
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
    struct cgroup *cgroup = bed_create("undone", &resources, &degrade);
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
    if (!bed_is_told(&degrade, "linux.resources.hugepageLimits.2MB")) {
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.limit_in_bytes", "4194304",
                    "hugetlb.2MB.max", "4194304");
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.rsvd.limit_in_bytes", "4194304",
                    "hugetlb.2MB.rsvd.max", "4194304");
    }
    bed_destroy(cgroup);
}

static void test_network(void **state)
{
    struct spec_resources resources = {
        .network = {.class_id = {true, 1048577},
                    .priorities = (const struct spec_network_priority[]){{"lo", 5}},
                    .priority_count = 1}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("network", &resources, &degrade);
    if (cgroup_find_v1(cgroup, CGROUP_NET_CLS) != NULL) {
        assert_file(cgroup, CGROUP_NET_CLS, "net_cls.classid", "1048577", "", "");
    } else {
        assert_true(bed_is_told(&degrade, "linux.resources.network.classID"));
    }
    uint64_t priority;
    if (cgroup_find_v1(cgroup, CGROUP_NET_PRIO) != NULL) {
        assert_int_equal(control_read_key(bed_place_fd(cgroup, CGROUP_NET_PRIO),
                                          "net_prio.ifpriomap", "lo", &priority),
                         0);
        assert_int_equal(priority, 5);
    } else {
        assert_true(bed_is_told(&degrade, "linux.resources.network.priorities"));
    }
    bed_destroy(cgroup);
}

static void test_idle(void **state)
{
    struct spec_resources resources = {.cpu = {.shares = {true, 512}, .idle = {true, 1}}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("idle", &resources, &degrade);
    assert_file(cgroup, CGROUP_CPU, "cpu.idle", "1", "cpu.idle", "1");
    assert_true(bed_is_told(&degrade, "linux.resources.cpu.shares"));
    struct spec_resources busy = {.cpu = {.shares = {true, 1024}, .idle = {true, 0}}};
    struct error err = {0};
    if (cgroup_update(cgroup, &busy, &degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_file(cgroup, CGROUP_CPU, "cpu.shares", "1024", "cpu.weight", "100");
    bed_destroy(cgroup);
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
        (void)snprintf(path, sizeof(path), "%s/wrong", bed_base);
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
        assert_int_equal(bed_count_groups(path), 0);
    }
}

static void test_what_the_host_has_not(void **state)
{
    struct spec_resources resources = {
        .hugepages = (const struct spec_hugepage_limit[]){{"3MB", 1}},
        .hugepage_count = 1,
    };
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("missing", &resources, &degrade);
    assert_true(bed_is_told(&degrade, "linux.resources.hugepageLimits.3MB"));
    bed_destroy(cgroup);
}

static void test_rdma(void **state)
{
    struct spec_resources resources = {
        .rdma = (const struct spec_rdma_limit[]){{"mlx5_1", {true, 1}, {true, 2}}},
        .rdma_count = 1,
    };
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/rdma", bed_base);
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
    assert_true(bed_is_told(&degrade, "linux.resources.rdma"));
    bed_destroy(cgroup);
}

static void test_huge_pages(void **state)
{
    struct spec_resources resources = {
        .hugepages = (const struct spec_hugepage_limit[]){{"2MB", 8 << 20}},
        .hugepage_count = 1,
    };
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("huge", &resources, &degrade);
    if (bed_is_told(&degrade, "linux.resources.hugepageLimits.2MB")) {
        print_message("this host has no hugetlb controller\n");
    } else {
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.limit_in_bytes", "8388608",
                    "hugetlb.2MB.max", "8388608");
        assert_file(cgroup, CGROUP_HUGETLB, "hugetlb.2MB.rsvd.limit_in_bytes", "8388608",
                    "hugetlb.2MB.rsvd.max", "8388608");
    }
    bed_destroy(cgroup);
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
    return WEXITSTATUS(bed_wait_process(pid));
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
    struct cgroup *cgroup = bed_create("devices", &no_limits, &degrade);
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
    bed_destroy(cgroup);
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

#define USED_MS 200

static void use_things(void)
{
    static volatile char memory[4 << 20];
    for (size_t i = 0; i < sizeof(memory); i += 4096) {
        memory[i] = 1;
    }
    /* Time in user mode and in the kernel is counted in clock ticks, by who runs then. */
    struct timespec used;
    do {
        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used), 0);
    } while (used.tv_sec == 0 && used.tv_nsec < USED_MS * 1000000);
}

static void test_stats(void **state)
{
    struct spec_resources resources = {.memory = {.limit = {true, 64 << 20}},
                                       .pids_limit = {true, 10}};
    struct degrade degrade = {0};
    struct cgroup *cgroup = bed_create("stats", &resources, &degrade);
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
    (void)bed_wait_process(pid);
    bed_destroy(cgroup);
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
    struct cgroup *cgroup = bed_create("oom", &resources, &degrade);
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
    assert_int_equal(WTERMSIG(bed_wait_process(pid)), SIGKILL);
    assert_int_equal(WEXITSTATUS(bed_wait_process(waiter)), 11);
    bed_destroy(cgroup);
}

static void test_end_without_oom(void **state)
{
    struct cgroup *cgroup = bed_create("no-oom", &no_limits, NULL);
    int tell;
    pid_t pid = start_eater(cgroup, &tell);
    pid_t waiter = fork();
    assert_true(waiter >= 0);
    if (waiter == 0) {
        close(tell);
        _exit(10 + cgroup_wait_oom(cgroup, NULL));
    }
    close(tell);
    assert_int_equal(bed_wait_process(pid), 0);
    bed_destroy(
        cgroup); /* where v2 does not tell that the last process has gone, v1 tells of this */
    assert_int_equal(WEXITSTATUS(bed_wait_process(waiter)), 10);
}

int main(void)
{
    int status = bed_begin();
    if (status != 0) {
        return status;
    }
    const struct CMUnitTest tests[] = {
        TEST(test_limits),
        TEST(test_update_that_fails),
        TEST(test_network),
        TEST(test_idle),
        TEST(test_limits_that_are_wrong),
        TEST(test_what_the_host_has_not),
        TEST(test_rdma),
        TEST(test_huge_pages),
        TEST(test_devices),
        TEST(test_stats),
        TEST(test_oom),
        TEST(test_end_without_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
