/* Statistics of v2: under the names of v1, as runc shows them, plus pressure. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container/cgroup/stats.h"
#include "container/cgroup/tree.h"

static void add_cpu(json_t *data, int group_fd)
{
    json_t *stat = stats_key_values(group_fd, "cpu.stat");
    json_t *cpu = json_object_get(data, "cpu");
    json_t *usage = json_object_get(cpu, "usage"), *throttling = json_object_get(cpu, "throttling");
    stats_add_some(usage, "total", stats_value(stat, "usage_usec") * 1000);
    stats_add(usage, "kernel", stats_value(stat, "system_usec") * 1000);
    stats_add(usage, "user", stats_value(stat, "user_usec") * 1000);
    stats_add_some(throttling, "periods", stats_value(stat, "nr_periods"));
    stats_add_some(throttling, "throttledPeriods", stats_value(stat, "nr_throttled"));
    stats_add_some(throttling, "throttledTime", stats_value(stat, "throttled_usec") * 1000);
    json_decref(stat);
}

static void add_memory(json_t *data, int group_fd)
{
    json_t *memory = json_object_get(data, "memory");
    json_t *usage = json_object_get(memory, "usage"), *swap = json_object_get(memory, "swap");
    uint64_t failures = 0, used = stats_read(group_fd, "memory.current"),
             limit = stats_read(group_fd, "memory.max");
    (void)control_read_key(group_fd, "memory.events", "max", &failures);
    stats_add(usage, "limit", limit);
    stats_add_some(usage, "usage", used);
    stats_add_some(usage, "max", stats_read(group_fd, "memory.peak"));
    stats_add(usage, "failcnt", failures);
    /* Of memory and swap together, as v1 counts. */
    uint64_t swap_limit = stats_read(group_fd, "memory.swap.max");
    bool has_limit = limit != UINT64_MAX && swap_limit != UINT64_MAX;
    failures = 0;
    (void)control_read_key(group_fd, "memory.swap.events", "fail", &failures);
    stats_add(swap, "limit", has_limit ? limit + swap_limit : UINT64_MAX);
    stats_add_some(swap, "usage", used + stats_read(group_fd, "memory.swap.current"));
    stats_add(swap, "failcnt", failures);
    json_t *raw = stats_key_values(group_fd, "memory.stat");
    stats_add_some(memory, "cache", stats_value(raw, "file"));
    json_t *kernel = json_object_get(memory, "kernel"), *tcp = json_object_get(memory, "kernelTCP");
    stats_add(kernel, "limit", 0);
    stats_add_some(kernel, "usage", stats_value(raw, "kernel"));
    stats_add(kernel, "failcnt", 0);
    stats_add(tcp, "limit", 0);
    stats_add_some(tcp, "usage", stats_value(raw, "sock"));
    stats_add(tcp, "failcnt", 0);
    (void)json_object_set_new(memory, "raw", raw);
}

static void add_entry(json_t *block, const char *list_name, uint64_t major, uint64_t minor,
                      const char *op, uint64_t value)
{
    json_t *list = json_object_get(block, list_name);
    if (list == NULL) {
        list = json_array();
        (void)json_object_set_new(block, list_name, list);
    }
    json_t *entry = json_object();
    stats_add_some(entry, "major", major);
    stats_add_some(entry, "minor", minor);
    (void)json_object_set_new(entry, "op", json_string(op));
    stats_add_some(entry, "value", value);
    (void)json_array_append_new(list, entry);
}

/* "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6" */
static void add_device(const char *line, void *ctx)
{
    static const struct {
        const char *key, *list, *op;
    } keys[] = {
        {" rbytes=", "ioServiceBytesRecursive", "Read"},
        {" wbytes=", "ioServiceBytesRecursive", "Write"},
        {" dbytes=", "ioServiceBytesRecursive", "Discard"},
        {" rios=", "ioServicedRecursive", "Read"},
        {" wios=", "ioServicedRecursive", "Write"},
        {" dios=", "ioServicedRecursive", "Discard"},
    };
    uint64_t major, minor;
    if (sscanf(line, "%" SCNu64 ":%" SCNu64, &major, &minor) != 2) {
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        const char *found = strstr(line, keys[i].key);
        if (found != NULL) {
            add_entry(ctx, keys[i].list, major, minor, keys[i].op,
                      strtoull(found + strlen(keys[i].key), NULL, 10));
        }
    }
}

/* On a hybrid host the controllers are v1's, but pressure is here. */
void stats_add_v2(json_t *data, const struct cgroup *cgroup, int group_fd)
{
    json_t *block = json_object_get(data, "blkio");
    if (cgroup_find_v1(cgroup, CGROUP_CPUACCT) == NULL) {
        add_cpu(data, group_fd);
    }
    if (cgroup_find_v1(cgroup, CGROUP_MEMORY) == NULL) {
        add_memory(data, group_fd);
    }
    if (cgroup_find_v1(cgroup, CGROUP_CPUSET) == NULL) {
        json_t *cpuset = json_object_get(data, "cpuset");
        stats_add_list(cpuset, "cpus", group_fd, "cpuset.cpus.effective");
        stats_add_list(cpuset, "mems", group_fd, "cpuset.mems.effective");
    }
    if (cgroup_find_v1(cgroup, CGROUP_BLOCK_IO) == NULL) {
        stats_each_line(group_fd, "io.stat", add_device, block);
    }
    if (cgroup_find_v1(cgroup, CGROUP_PIDS) == NULL) {
        stats_add_pids(data, group_fd);
    }
    if (cgroup_find_v1(cgroup, CGROUP_HUGETLB) == NULL) {
        stats_add_hugetlb(data, group_fd, true);
    }
    stats_add_pressure(json_object_get(data, "cpu"), group_fd, "cpu.pressure");
    stats_add_pressure(json_object_get(data, "memory"), group_fd, "memory.pressure");
    stats_add_pressure(block, group_fd, "io.pressure");
}
