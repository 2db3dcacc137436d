/* A container's numbers. */
#include "system/views/meter.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"

#define NS_PER_US 1000U

void meter_init(struct meter *meter)
{
    static const struct meter_place none = {.fd = -1};
    *meter = (struct meter){none, none, none, none, none, -1, none};
}

static struct meter_place open_place(const struct cgroup *cgroup, enum cgroup_controller controller)
{
    struct meter_place place = {.fd = -1};
    int fd = cgroup_open_controller(cgroup, controller, &place.is_unified);
    place.fd = fd < 0 ? -1 : fd;
    return place;
}

void meter_open(struct meter *meter, const struct cgroup *cgroup)
{
    *meter = (struct meter){
        .memory = open_place(cgroup, CGROUP_MEMORY),
        .cpu = open_place(cgroup, CGROUP_CPU),
        .cpuacct = open_place(cgroup, CGROUP_CPUACCT),
        .cpuset = open_place(cgroup, CGROUP_CPUSET),
        .block_io = open_place(cgroup, CGROUP_BLOCK_IO),
        .unified_fd = cgroup_open_unified(cgroup),
    };
    const struct meter_place *thread = meter->memory.fd >= 0 ? &meter->memory : &meter->cpu;
    meter->thread = meter->unified_fd >= 0
                        ? (struct meter_place){.fd = meter->unified_fd, .is_unified = true}
                        : *thread;
}

void meter_fini(struct meter *meter)
{
    const int fds[] = {meter->memory.fd, meter->cpu.fd,      meter->cpuacct.fd,
                       meter->cpuset.fd, meter->block_io.fd, meter->unified_fd};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    meter_init(meter);
}

static uint64_t read_value(int fd, const char *file, uint64_t otherwise)
{
    uint64_t value;
    return control_read_u64(fd, file, &value) < 0 ? otherwise : value;
}

void meter_read_memory(const struct meter *meter, struct group_memory *out_memory)
{
    group_memory_init(out_memory);
    if (meter->memory.fd < 0) {
        return;
    }
    int fd = meter->memory.fd;
    AUTO_FREE char *stat = control_read_all(fd, "memory.stat");
    if (stat == NULL) {
        return;
    }
    if (meter->memory.is_unified) {
        group_memory_parse_v2(out_memory, read_value(fd, "memory.max", MEMORY_NO_LIMIT),
                              read_value(fd, "memory.current", 0),
                              read_value(fd, "memory.swap.max", MEMORY_NO_LIMIT),
                              read_value(fd, "memory.swap.current", 0), stat);
    } else {
        group_memory_parse_v1(out_memory, read_value(fd, "memory.usage_in_bytes", 0), stat);
    }
}

/* "0-3" of what a process may run on, where no group says it. */
static void format_affinity(pid_t pid, char *text, size_t size)
{
    static const size_t set_size = CPUS_MAX / 8;
    AUTO_FREE cpu_set_t *set = malloc(set_size);
    struct text list = {0};
    if (set != NULL && sched_getaffinity(pid, set_size, set) == 0) {
        for (unsigned cpu = 0; cpu < CPUS_MAX; cpu++) {
            if (CPU_ISSET_S(cpu, set_size, set)) {
                text_printf(&list, "%s%u", list.size > 0 ? "," : "", cpu);
            }
        }
    }
    size_t length = MIN(list.size, size - 1);
    if (length > 0) {
        memcpy(text, list.data, length);
    }
    text[length] = '\0';
    text_fini(&list);
}

void meter_read_cpus(const struct meter *meter, pid_t pid, struct cpus *out_cpus)
{
    char list[4096], max[64];
    int64_t quota = 0, period = 0;
    const char *file = meter->cpuset.is_unified ? "cpuset.cpus.effective" : "cpuset.effective_cpus";
    if (meter->cpuset.fd < 0 ||
        (control_read(meter->cpuset.fd, file, list, sizeof(list)) <= 0 &&
         control_read(meter->cpuset.fd, "cpuset.cpus", list, sizeof(list)) <= 0)) {
        format_affinity(pid, list, sizeof(list));
    }
    if (meter->cpu.fd >= 0 && meter->cpu.is_unified) {
        if (control_read(meter->cpu.fd, "cpu.max", max, sizeof(max)) > 0) {
            cpus_parse_max(max, &quota, &period);
        }
    } else if (meter->cpu.fd >= 0) { /* -1: none */
        if (control_read(meter->cpu.fd, "cpu.cfs_quota_us", max, sizeof(max)) > 0) {
            quota = strtoll(max, NULL, 10);
        }
        period = (int64_t)read_value(meter->cpu.fd, "cpu.cfs_period_us", 0);
    }
    cpus_parse(out_cpus, list, quota, period);
}

struct cpu_time *meter_read_times(const struct meter *meter, const struct cpus *cpus)
{
    struct cpu_time *times = calloc(cpus->count, sizeof(*times));
    if (times == NULL) {
        return NULL;
    }
    if (meter->cpuacct.fd >= 0 && !meter->cpuacct.is_unified) {
        AUTO_FREE char *text = control_read_all(meter->cpuacct.fd, "cpuacct.usage_all");
        cpu_times_parse_v1(cpus, text == NULL ? "" : text, times);
    } else if (meter->unified_fd >= 0) { /* has these without a controller too */
        struct cpu_time sum = {0};
        error_ignore(control_read_key(meter->unified_fd, "cpu.stat", "user_usec", &sum.user_ns));
        error_ignore(
            control_read_key(meter->unified_fd, "cpu.stat", "system_usec", &sum.system_ns));
        sum.user_ns *= NS_PER_US;
        sum.system_ns *= NS_PER_US;
        cpu_times_split(cpus, sum, times);
    }
    return times;
}

void meter_read_disks(const struct meter *meter, struct disks *out_disks)
{
    out_disks->count = 0;
    int fd = meter->block_io.fd;
    if (fd < 0) {
        return;
    }
    if (meter->block_io.is_unified) {
        AUTO_FREE char *text = control_read_all(fd, "io.stat");
        disks_parse_v2(out_disks, text == NULL ? "" : text);
        return;
    }
    AUTO_FREE char *bytes = control_read_all(fd, "blkio.throttle.io_service_bytes_recursive");
    AUTO_FREE char *requests = control_read_all(fd, "blkio.throttle.io_serviced_recursive");
    disks_parse_v1(out_disks, bytes == NULL ? "" : bytes, true);
    disks_parse_v1(out_disks, requests == NULL ? "" : requests, false);
}
