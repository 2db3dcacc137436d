/* Statistics of v1. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/stats.h"
#include "container/cgroup/tree.h"

static void add_throttling(json_t *data, int group_fd)
{
    json_t *stat = stats_key_values(group_fd, "cpu.stat");
    json_t *throttling = json_object_get(json_object_get(data, "cpu"), "throttling");
    stats_add_some(throttling, "periods", stats_value(stat, "nr_periods"));
    stats_add_some(throttling, "throttledPeriods", stats_value(stat, "nr_throttled"));
    stats_add_some(throttling, "throttledTime", stats_value(stat, "throttled_time"));
    json_decref(stat);
}

struct per_cpu {
    json_t *user, *kernel;
};

/* "cpu user system" with a line for each CPU, in nanoseconds. */
static void add_cpu(const char *line, void *ctx)
{
    struct per_cpu *cpus = ctx;
    uint64_t user, system;
    if (sscanf(line, "%*u %" SCNu64 " %" SCNu64, &user, &system) == 2) {
        (void)json_array_append_new(cpus->user, stats_number(user));
        (void)json_array_append_new(cpus->kernel, stats_number(system));
    }
}

static void add_cpu_usage(json_t *data, int group_fd)
{
    json_t *usage = json_object_get(json_object_get(data, "cpu"), "usage");
    stats_add_some(usage, "total", stats_read(group_fd, "cpuacct.usage"));
    json_t *per_cpu = json_array();
    AUTO_FREE char *text = control_read_all(group_fd, "cpuacct.usage_percpu");
    char *rest = NULL;
    for (char *word = text == NULL ? NULL : strtok_r(text, " \n", &rest); word != NULL;
         word = strtok_r(NULL, " \n", &rest)) {
        (void)json_array_append_new(per_cpu, stats_number(strtoull(word, NULL, 10)));
    }
    (void)json_object_set_new(usage, "percpu", per_cpu);
    struct per_cpu cpus = {json_array(), json_array()};
    stats_each_line(group_fd, "cpuacct.usage_all", add_cpu, &cpus);
    (void)json_object_set_new(usage, "percpu_kernel", cpus.kernel);
    (void)json_object_set_new(usage, "percpu_user", cpus.user);
    json_t *stat = stats_key_values(group_fd, "cpuacct.stat");
    uint64_t tick_ns = 1000000000U / (uint64_t)sysconf(_SC_CLK_TCK);
    stats_add(usage, "kernel", stats_value(stat, "system") * tick_ns);
    stats_add(usage, "user", stats_value(stat, "user") * tick_ns);
    json_decref(stat);
}

static void add_cpuset(json_t *data, int group_fd)
{
    static const char *const names[] = {
        "cpu_exclusive",      "mem_hardwall",       "mem_exclusive",   "memory_migrate",
        "memory_spread_page", "memory_spread_slab", "memory_pressure", "sched_load_balance",
    };
    json_t *cpuset = json_object_get(data, "cpuset");
    stats_add_list(cpuset, "cpus", group_fd, "cpuset.cpus");
    stats_add_list(cpuset, "mems", group_fd, "cpuset.mems");
    char file[64], level[32];
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        (void)snprintf(file, sizeof(file), "cpuset.%s", names[i]);
        stats_add(cpuset, names[i], stats_read(group_fd, file));
    }
    if (control_read(group_fd, "cpuset.sched_relax_domain_level", level, sizeof(level)) > 0) {
        (void)json_object_set_new(cpuset, "sched_relax_domain_level",
                                  json_integer(strtoll(level, NULL, 10)));
    }
}

static void add_memory(json_t *data, int group_fd)
{
    static const char *const kinds[][2] = {
        {"usage", "memory"},
        {"swap", "memory.memsw"},
        {"kernel", "memory.kmem"},
        {"kernelTCP", "memory.kmem.tcp"},
    };
    json_t *memory = json_object_get(data, "memory");
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        json_t *entry = json_object_get(memory, kinds[i][0]);
        char file[64];
        (void)snprintf(file, sizeof(file), "%s.limit_in_bytes", kinds[i][1]);
        stats_add(entry, "limit", stats_read(group_fd, file));
        (void)snprintf(file, sizeof(file), "%s.usage_in_bytes", kinds[i][1]);
        stats_add_some(entry, "usage", stats_read(group_fd, file));
        (void)snprintf(file, sizeof(file), "%s.max_usage_in_bytes", kinds[i][1]);
        stats_add_some(entry, "max", stats_read(group_fd, file));
        (void)snprintf(file, sizeof(file), "%s.failcnt", kinds[i][1]);
        stats_add(entry, "failcnt", stats_read(group_fd, file));
    }
    json_t *raw = stats_key_values(group_fd, "memory.stat");
    stats_add_some(memory, "cache", stats_value(raw, "cache"));
    (void)json_object_set_new(memory, "raw", raw);
}

/* "8:0 Read 4096", or "8:0 4096"; the line of the total has no device. */
static void add_block_line(const char *line, void *ctx)
{
    uint64_t major, minor, value;
    char op[32] = "";
    if (sscanf(line, "%" SCNu64 ":%" SCNu64 " %" SCNu64, &major, &minor, &value) != 3 &&
        sscanf(line, "%" SCNu64 ":%" SCNu64 " %31s %" SCNu64, &major, &minor, op, &value) != 4) {
        return;
    }
    json_t *entry = json_object();
    stats_add_some(entry, "major", major);
    stats_add_some(entry, "minor", minor);
    if (*op != '\0') {
        (void)json_object_set_new(entry, "op", json_string(op));
    }
    stats_add_some(entry, "value", value);
    (void)json_array_append_new(ctx, entry);
}

/* The first of the files that has lines: the counters of a scheduler, else those of the throttle. */
static void add_block_list(json_t *block, const char *name, int group_fd, const char *const *files)
{
    json_t *list = json_array();
    for (; *files != NULL && json_array_size(list) == 0; files++) {
        stats_each_line(group_fd, *files, add_block_line, list);
    }
    if (json_array_size(list) > 0) {
        (void)json_object_set_new(block, name, list);
    } else {
        json_decref(list);
    }
}

static void add_block_io(json_t *data, int group_fd)
{
    static const struct {
        const char *name, *files[5];
    } lists[] = {
        {"ioServiceBytesRecursive",
         {"blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive",
          "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"}},
        {"ioServicedRecursive",
         {"blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive",
          "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"}},
        {"ioQueueRecursive", {"blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"}},
        {"ioServiceTimeRecursive",
         {"blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"}},
        {"ioWaitTimeRecursive",
         {"blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"}},
        {"ioMergedRecursive", {"blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"}},
        {"ioTimeRecursive", {"blkio.bfq.time_recursive", "blkio.time_recursive"}},
        {"sectorsRecursive", {"blkio.bfq.sectors_recursive", "blkio.sectors_recursive"}},
    };
    json_t *block = json_object_get(data, "blkio");
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        add_block_list(block, lists[i].name, group_fd, lists[i].files);
    }
}

void stats_add_v1(json_t *data, const struct cgroup_place *place, int group_fd)
{
    static const struct {
        enum cgroup_controller controller;
        void (*add)(json_t *data, int group_fd);
    } parts[] = {
        {CGROUP_CPU, add_throttling},  {CGROUP_CPUACCT, add_cpu_usage},
        {CGROUP_CPUSET, add_cpuset},   {CGROUP_MEMORY, add_memory},
        {CGROUP_PIDS, stats_add_pids}, {CGROUP_BLOCK_IO, add_block_io},
    };
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        if ((place->controllers & 1U << parts[i].controller) != 0) {
            parts[i].add(data, group_fd);
        }
    }
    if ((place->controllers & 1U << CGROUP_HUGETLB) != 0) {
        stats_add_hugetlb(data, group_fd, false);
    }
}
