/* The CPUs that a container has, and what it used of them. Pure functions. */
#ifndef SYSTEM_VIEWS_CPUS_H
#define SYSTEM_VIEWS_CPUS_H

#include <stdint.h>

#include "system/views/text.h"

#define CPUS_MAX 8192 /* of the kernel */

struct cpus {
    unsigned count;              /* how many are shown, at least 1 */
    unsigned set_count;          /* on how many of the host's they run */
    uint64_t set[CPUS_MAX / 64]; /* these */
};

/* "0-1,4"; what is beyond CPUS_MAX, and rubbish, is left out. 'quota' of each 'period', both in microseconds; quota <= 0:
 * none. */
void cpus_parse(struct cpus *out_cpus, const char *list, int64_t quota, int64_t period);
/* The text of v2's cpu.max, "max 100000", as that. */
void cpus_parse_max(const char *text, int64_t *out_quota, int64_t *out_period);

struct cpu_time {
    uint64_t user_ns, system_ns;
};
/* For each of the CPUs that are shown. 'usage_all' is the text of v1's cpuacct.usage_all. Where CPUs of the host are no CPUs of
 * the container's (a quota, v2, which does not count them apart), all have the same part of the sum. */
void cpu_times_parse_v1(const struct cpus *cpus, const char *usage_all, struct cpu_time *out_times);
void cpu_times_split(const struct cpus *cpus, struct cpu_time sum, struct cpu_time *out_times);
/* Not below 0. */
uint64_t cpu_idle_ns(const struct cpu_time *time, uint64_t uptime_ns);

/* The host's blocks of the first CPUs of the set, numbered from 0. */
void render_cpuinfo(struct text *text, const struct cpus *cpus, const char *host_cpuinfo);
/* "0-1" */
void render_cpu_list(struct text *text, const struct cpus *cpus);

struct stat_view {
    const struct cpus *cpus;
    const struct cpu_time *times;
    uint64_t uptime_ns, started_s; /* since 1970 */
    uint64_t processes;            /* made since the start */
    unsigned running, blocked;
};
/* Interrupts and switches of context are the host's and tell about others: 0. */
void render_stat(struct text *text, const struct stat_view *stat);
void render_uptime(struct text *text, const struct cpus *cpus, const struct cpu_time *times,
                   uint64_t uptime_ns);

#endif
