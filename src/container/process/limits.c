/* Limits and priorities. */
#include "container/process/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"

#define IOPRIO_WHO_PROCESS 1
#define BITS_PER_LONG      (8 * sizeof(unsigned long))
#define CPUS_MAX           8192
#define NODES_MAX          1024

static const char *const rlimit_names[] = {
    [RLIMIT_CPU] = "CPU",           [RLIMIT_FSIZE] = "FSIZE",
    [RLIMIT_DATA] = "DATA",         [RLIMIT_STACK] = "STACK",
    [RLIMIT_CORE] = "CORE",         [RLIMIT_RSS] = "RSS",
    [RLIMIT_NPROC] = "NPROC",       [RLIMIT_NOFILE] = "NOFILE",
    [RLIMIT_MEMLOCK] = "MEMLOCK",   [RLIMIT_AS] = "AS",
    [RLIMIT_LOCKS] = "LOCKS",       [RLIMIT_SIGPENDING] = "SIGPENDING",
    [RLIMIT_MSGQUEUE] = "MSGQUEUE", [RLIMIT_NICE] = "NICE",
    [RLIMIT_RTPRIO] = "RTPRIO",     [RLIMIT_RTTIME] = "RTTIME",
};

static void name_rlimit(int resource, char out_field[static 64])
{
    bool is_known = resource >= 0 && (size_t)resource < ARRAY_COUNT(rlimit_names);
    (void)snprintf(out_field, 64, "process.rlimits.RLIMIT_%s",
                   is_known ? rlimit_names[resource] : "?");
}

static int set_oom_score(pid_t pid, int64_t score, struct degrade *degrade, struct error *err)
{
    char path[64], text[32];
    (void)snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
    (void)snprintf(text, sizeof(text), "%lld", (long long)score);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "process.oomScoreAdj: opening %s", path);
    }
    if (write(fd, text, strlen(text)) >= 0) {
        return 0;
    }
    if (errno == EACCES || errno == EPERM) {
        degrade_add(degrade, "process.oomScoreAdj", "lowering it to %s needs CAP_SYS_RESOURCE",
                    text);
        return 0;
    }
    return error_set_errno(err, errno, "process.oomScoreAdj: setting %s", text);
}

/* Only hard limits above those that the process has inherited from the caller: the rest is the process's own matter. */
static int raise_hard_limits(pid_t pid, const struct spec_process *process, struct error *err)
{
    for (size_t i = 0; i < process->rlimit_count; i++) {
        const struct spec_rlimit *wanted = &process->rlimits[i];
        char field[64];
        name_rlimit(wanted->resource, field);
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)wanted->resource, &limit) < 0) {
            return error_set_errno(err, errno, "%s", field);
        }
        if (wanted->hard <= limit.rlim_max) {
            continue;
        }
        limit.rlim_max = wanted->hard;
        if (prlimit(pid, (__rlimit_resource_t)wanted->resource, &limit, NULL) < 0 &&
            errno != EPERM) {
            return error_set_errno(err, errno, "%s", field);
        } /* EPERM: limits_set_rlimits tells it, with what it is instead */
    }
    return 0;
}

int process_prepare(pid_t pid, const struct spec_process *process, struct degrade *degrade,
                    struct error *err)
{
    int rc = process->oom_score_adj.has
                 ? set_oom_score(pid, process->oom_score_adj.value, degrade, err)
                 : 0;
    return rc < 0 ? rc : raise_hard_limits(pid, process, err);
}

int limits_set_rlimits(const struct spec_process *process, struct degrade *degrade,
                       struct error *err)
{
    for (size_t i = 0; i < process->rlimit_count; i++) {
        const struct spec_rlimit *wanted = &process->rlimits[i];
        char field[64];
        name_rlimit(wanted->resource, field);
        struct rlimit limit = {.rlim_cur = wanted->soft, .rlim_max = wanted->hard}, now;
        if (setrlimit((__rlimit_resource_t)wanted->resource, &limit) == 0) {
            continue;
        }
        if (errno != EPERM || getrlimit((__rlimit_resource_t)wanted->resource, &now) < 0) {
            return error_set_errno(err, errno, "%s", field);
        }
        limit =
            (struct rlimit){.rlim_cur = MIN(wanted->soft, now.rlim_max), .rlim_max = now.rlim_max};
        if (wanted->resource == RLIMIT_NOFILE && limit.rlim_max > wanted->hard) {
            limit.rlim_max =
                wanted->hard; /* beyond fs.nr_open; the hard limit that was wanted is lower */
        }
        if (setrlimit((__rlimit_resource_t)wanted->resource, &limit) < 0) {
            return error_set_errno(err, errno, "%s", field);
        }
        degrade_add(degrade, field,
                    "raising the hard limit from %llu to %llu needs CAP_SYS_RESOURCE",
                    (unsigned long long)now.rlim_max, (unsigned long long)wanted->hard);
    }
    return 0;
}

/* uapi/linux/sched/types.h, version 0. */
struct scheduler_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

int limits_set_scheduler(const struct spec_scheduler *scheduler, struct degrade *degrade,
                         struct error *err)
{
    struct scheduler_attributes attributes = {
        .size = sizeof(attributes),
        .policy = scheduler->policy,
        .flags = scheduler->flags,
        .nice = scheduler->nice,
        .priority = scheduler->priority,
        .runtime_ns = scheduler->runtime_ns,
        .deadline_ns = scheduler->deadline_ns,
        .period_ns = scheduler->period_ns,
    };
    if (syscall(SYS_sched_setattr, 0, &attributes, 0) == 0) {
        return 0;
    }
    if (errno == EPERM) {
        degrade_add(degrade, "process.scheduler",
                    "the host does not allow this policy or priority");
        return 0;
    }
    return error_set_errno(err, errno, "process.scheduler");
}

int limits_set_io_priority(int64_t priority, struct degrade *degrade, struct error *err)
{
    if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (int)priority) == 0) {
        return 0;
    }
    if (errno == EPERM) {
        degrade_add(degrade, "process.ioPriority",
                    "this class needs CAP_SYS_ADMIN or CAP_SYS_NICE on the host");
        return 0;
    }
    return error_set_errno(err, errno, "process.ioPriority");
}

int limits_parse_list(const char *list, unsigned long *bits, size_t bit_count)
{
    memset(bits, 0, bit_count / 8);
    for (const char *c = list;;) {
        char *end;
        if (*c < '0' || *c > '9') {
            return -EINVAL;
        }
        errno = 0;
        unsigned long first = strtoul(c, &end, 10), last = first;
        if (*end == '-' && end[1] >= '0' && end[1] <= '9') {
            last = strtoul(end + 1, &end, 10);
        }
        if (errno != 0 || last < first || last >= bit_count ||
            (*end != ',' && *end != '\0' && *end != '\n')) {
            return -EINVAL;
        }
        for (unsigned long bit = first; bit <= last; bit++) {
            bits[bit / BITS_PER_LONG] |= 1UL << (bit % BITS_PER_LONG);
        }
        if (*end != ',') {
            return 0;
        }
        c = end + 1;
    }
}

int process_set_affinity(const char *cpus, struct error *err)
{
    unsigned long bits[CPUS_MAX / BITS_PER_LONG];
    if (limits_parse_list(cpus, bits, CPUS_MAX) < 0) {
        return error_set(err, EINVAL,
                         "process.execCPUAffinity: \"%s\" is not a list of CPUs like 0-3,7", cpus);
    }
    if (sched_setaffinity(0, sizeof(bits), (const cpu_set_t *)(const void *)bits) < 0) {
        return error_set_errno(err, errno, "process.execCPUAffinity: CPUs %s", cpus);
    }
    return 0;
}

int limits_set_memory_policy(const struct spec_memory_policy *policy, struct degrade *degrade,
                             struct error *err)
{
    unsigned long bits[NODES_MAX / BITS_PER_LONG] = {0};
    bool has_nodes = policy->nodes != NULL && *policy->nodes != '\0';
    if (has_nodes && limits_parse_list(policy->nodes, bits, NODES_MAX) < 0) {
        return error_set(err, EINVAL,
                         "linux.memoryPolicy.nodes: \"%s\" is not a list of nodes like 0-3,7",
                         policy->nodes);
    }
    if (syscall(SYS_set_mempolicy, policy->mode, has_nodes ? bits : NULL,
                has_nodes ? NODES_MAX : 0) == 0) {
        return 0;
    }
    if (errno == ENOSYS) {
        degrade_add(degrade, "linux.memoryPolicy", "this kernel has no memory policies");
        return 0;
    }
    return error_set_errno(err, errno, "linux.memoryPolicy");
}
