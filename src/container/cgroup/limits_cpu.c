/* Limits of CPU time, of the CPUs and memory nodes themselves, and of processes. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "container/cgroup/limits.h"
#include "container/cgroup/tree.h"

#define FIELD_SHARES  LIMIT_FIELD("cpu.shares")
#define FIELD_QUOTA   LIMIT_FIELD("cpu.quota")
#define FIELD_PERIOD  LIMIT_FIELD("cpu.period")
#define FIELD_BURST   LIMIT_FIELD("cpu.burst")
#define FIELD_IDLE    LIMIT_FIELD("cpu.idle")
#define FIELD_RUNTIME LIMIT_FIELD("cpu.realtimeRuntime")
#define FIELD_RT      LIMIT_FIELD("cpu.realtimePeriod")

#define SHARES_MIN 2
#define SHARES_MAX 262144

uint64_t limit_cpu_weight(uint64_t shares)
{
    if (shares <= SHARES_MIN) {
        return 1;
    }
    if (shares >= SHARES_MAX) {
        return 10000;
    }
    double l = log2((double)shares);
    double exponent = (l * l + 125 * l) / 612.0 - 7.0 / 34.0;
    /* Rounded up, but not for what the arithmetic adds: 1024 is 100. */
    return (uint64_t)ceil(pow(10, exponent) - 1e-6);
}

/* An idle group has no shares; the kernel refuses them. */
static bool becomes_idle(const struct limits *limits)
{
    return limits->resources->cpu.idle.has && limits->resources->cpu.idle.value == 1;
}

static void add_shares(struct limits *limits, struct limit_values *values)
{
    struct spec_u64 shares = limits->resources->cpu.shares;
    if (!is_given_u64(shares)) {
        return;
    }
    if (becomes_idle(limits)) {
        degrade_add(limits->degrade, FIELD_SHARES, "idle groups have no shares");
    } else if (limits->is_unified) {
        limit_values_add(values, FIELD_SHARES, "cpu.weight", "%" PRIu64,
                         limit_cpu_weight(shares.value));
    } else {
        limit_values_add(values, FIELD_SHARES, "cpu.shares", "%" PRIu64, shares.value);
    }
}

static void add_idle(struct limits *limits, struct limit_values *values)
{
    if (limits->resources->cpu.idle.has) {
        limit_values_add(values, FIELD_IDLE, "cpu.idle", "%" PRId64,
                         limits->resources->cpu.idle.value);
    }
}

int limit_cpu_v1(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    struct limit_values values = {0};
    if (is_given_u64(resources->cpu.period_us)) {
        limit_values_add(&values, FIELD_PERIOD, "cpu.cfs_period_us", "%" PRIu64,
                         resources->cpu.period_us.value);
    }
    if (is_given_i64(resources->cpu.quota_us)) {
        limit_values_add(&values, FIELD_QUOTA, "cpu.cfs_quota_us", "%" PRId64,
                         resources->cpu.quota_us.value);
    }
    if (resources->cpu.burst_us.has) {
        limit_values_add(&values, FIELD_BURST, "cpu.cfs_burst_us", "%" PRIu64,
                         resources->cpu.burst_us.value);
    }
    add_shares(limits, &values);
    add_idle(limits, &values);
    int rc = limit_write_together(limits, &values);
    if (rc < 0) {
        return rc;
    }
    if (is_given_u64(resources->cpu.realtime_period_us)) {
        limit_values_add(&values, FIELD_RT, "cpu.rt_period_us", "%" PRIu64,
                         resources->cpu.realtime_period_us.value);
    }
    if (is_given_i64(resources->cpu.realtime_runtime_us)) {
        limit_values_add(&values, FIELD_RUNTIME, "cpu.rt_runtime_us", "%" PRId64,
                         resources->cpu.realtime_runtime_us.value);
    }
    return limit_write_together(limits, &values);
}

static int add_maximum(struct limits *limits, struct limit_values *values)
{
    struct spec_i64 quota = limits->resources->cpu.quota_us;
    struct spec_u64 period = limits->resources->cpu.period_us;
    char text[LIMIT_NUMBER_SIZE], now[64] = "max";
    if (!is_given_i64(quota) && !is_given_u64(period)) {
        return 0;
    }
    if (!is_given_i64(quota)) {
        /* The quota stays: it is the first number in the file. */
        if (limits->fd >= 0) {
            int rc = control_read(limits->fd, "cpu.max", now, sizeof(now));
            if (rc < 0 && rc != -ENOENT) {
                return error_set_errno(limits->err, -rc, "%s: reading cpu.max of group /%s",
                                       FIELD_PERIOD, limits->path);
            }
        }
        now[strcspn(now, " ")] = '\0';
        limit_values_add(values, FIELD_PERIOD, "cpu.max", "%.20s %" PRIu64, now, period.value);
    } else if (!is_given_u64(period)) {
        limit_values_add(values, FIELD_QUOTA, "cpu.max", "%s",
                         limit_number(limits, quota.value, text));
    } else {
        limit_values_add(values, FIELD_QUOTA, "cpu.max", "%s %" PRIu64,
                         limit_number(limits, quota.value, text), period.value);
    }
    return 0;
}

int limit_cpu_v2(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    struct limit_values values = {0};
    int rc = add_maximum(limits, &values);
    if (rc < 0) {
        return rc;
    }
    if (resources->cpu.burst_us.has) {
        limit_values_add(&values, FIELD_BURST, "cpu.max.burst", "%" PRIu64,
                         resources->cpu.burst_us.value);
    }
    add_shares(limits, &values);
    add_idle(limits, &values);
    if (is_given_u64(resources->cpu.realtime_period_us)) {
        degrade_add(limits->degrade, FIELD_RT, "cgroup v2 has no limit of realtime processes");
    }
    if (is_given_i64(resources->cpu.realtime_runtime_us)) {
        degrade_add(limits->degrade, FIELD_RUNTIME, "cgroup v2 has no limit of realtime processes");
    }
    return limit_write_together(limits, &values);
}

int limit_cpuset(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    int rc = 0;
    if (resources->cpu.cpus != NULL && *resources->cpu.cpus != '\0') {
        rc = limit_write(limits, LIMIT_FIELD("cpu.cpus"), "cpuset.cpus", "%s", resources->cpu.cpus);
    }
    if (rc == 0 && resources->cpu.mems != NULL && *resources->cpu.mems != '\0') {
        rc = limit_write(limits, LIMIT_FIELD("cpu.mems"), "cpuset.mems", "%s", resources->cpu.mems);
    }
    return rc;
}

/* 0 is a limit as any other (the specification, since 1.3): the first process is there, more are not. */
int limit_pids(struct limits *limits)
{
    struct spec_i64 limit = limits->resources->pids_limit;
    char text[LIMIT_NUMBER_SIZE];
    if (!limit.has) {
        return 0;
    }
    return limit_write(limits, LIMIT_FIELD("pids.limit"), "pids.max", "%s",
                       limit.value < 0 ? "max" : limit_number(limits, limit.value, text));
}
