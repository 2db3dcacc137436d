/* The CPUs that a container has. */
#include "system/views/cpus.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S    UINT64_C(1000000000)
#define NS_PER_TICK UINT64_C(10000000) /* of USER_HZ, which is 100 on all that Hull runs on */

static bool has_cpu(const struct cpus *cpus, uint64_t cpu)
{
    return cpu < CPUS_MAX && (cpus->set[cpu / 64] >> cpu % 64 & 1) != 0;
}

static void parse_list(struct cpus *cpus, const char *list)
{
    while (isdigit((unsigned char)*list)) {
        char *end;
        uint64_t first = strtoull(list, &end, 10), last = first;
        if (*end == '-') {
            last = strtoull(end + 1, &end, 10);
        }
        for (uint64_t cpu = first; cpu <= last && cpu < CPUS_MAX; cpu++) {
            cpus->set_count += !has_cpu(cpus, cpu);
            cpus->set[cpu / 64] |= UINT64_C(1) << cpu % 64;
        }
        list = end + (*end == ',');
    }
}

void cpus_parse(struct cpus *out_cpus, const char *list, int64_t quota, int64_t period)
{
    *out_cpus = (struct cpus){0};
    parse_list(out_cpus, list);
    if (out_cpus->set_count == 0) {
        parse_list(out_cpus, "0");
    }
    out_cpus->count = out_cpus->set_count;
    if (quota > 0 && period > 0) {
        int64_t whole = quota / period + (quota % period != 0);
        if (whole < (int64_t)out_cpus->count) {
            out_cpus->count = (unsigned)whole;
        }
    }
}

void cpus_parse_max(const char *text, int64_t *out_quota, int64_t *out_period)
{
    char *end;
    *out_quota = strtoll(text, &end, 10); /* 0 for "max" */
    end += strncmp(end, "max", 3) == 0 ? 3 : 0;
    *out_period = strtoll(end, NULL, 10);
}

void cpu_times_split(const struct cpus *cpus, struct cpu_time sum, struct cpu_time *out_times)
{
    for (unsigned i = 0; i < cpus->count; i++) {
        out_times[i] = (struct cpu_time){sum.user_ns / cpus->count, sum.system_ns / cpus->count};
    }
}

void cpu_times_parse_v1(const struct cpus *cpus, const char *usage_all, struct cpu_time *out_times)
{
    struct cpu_time sum = {0};
    bool is_same = cpus->count == cpus->set_count;
    memset(out_times, 0, cpus->count * sizeof(*out_times));
    unsigned next = 0;
    for (const char *line = usage_all; *line != '\0';) {
        uint64_t cpu;
        struct cpu_time time;
        if (sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64, &cpu, &time.user_ns,
                   &time.system_ns) == 3) {
            if (is_same && has_cpu(cpus, cpu) && next < cpus->count) {
                out_times[next++] = time;
            } else { /* also from before the set was another one */
                sum.user_ns += time.user_ns;
                sum.system_ns += time.system_ns;
            }
        }
        line = strchrnul(line, '\n');
        line += *line == '\n';
    }
    for (unsigned i = 0; i < cpus->count; i++) {
        out_times[i].user_ns += sum.user_ns / cpus->count;
        out_times[i].system_ns += sum.system_ns / cpus->count;
    }
}

uint64_t cpu_idle_ns(const struct cpu_time *time, uint64_t uptime_ns)
{
    uint64_t used = time->user_ns + time->system_ns;
    return uptime_ns > used ? uptime_ns - used : 0;
}

void render_cpuinfo(struct text *text, const struct cpus *cpus, const char *host_cpuinfo)
{
    unsigned done = 0;
    bool is_shown = false;
    for (const char *line = host_cpuinfo; *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        end += *end == '\n';
        uint64_t cpu;
        if (strncmp(line, "processor", 9) == 0 && sscanf(line + 9, " : %" SCNu64, &cpu) == 1) {
            is_shown = done < cpus->count && has_cpu(cpus, cpu);
            if (is_shown) {
                text_printf(text, "%.*s: %u\n", (int)strcspn(line, ":"), line, done++);
            }
        } else if (is_shown) {
            text_append(text, line, (size_t)(end - line));
        }
        line = end;
    }
}

void render_cpu_list(struct text *text, const struct cpus *cpus)
{
    text_printf(text, cpus->count == 1 ? "0\n" : "0-%u\n", cpus->count - 1);
}

static void render_times(struct text *text, const char *name, uint64_t user, uint64_t system,
                         uint64_t idle)
{
    text_printf(text, "%s %" PRIu64 " 0 %" PRIu64 " %" PRIu64 " 0 0 0 0 0 0\n", name,
                user / NS_PER_TICK, system / NS_PER_TICK, idle / NS_PER_TICK);
}

void render_stat(struct text *text, const struct stat_view *stat)
{
    uint64_t user = 0, system = 0, idle = 0;
    for (unsigned i = 0; i < stat->cpus->count; i++) {
        user += stat->times[i].user_ns;
        system += stat->times[i].system_ns;
        idle += cpu_idle_ns(&stat->times[i], stat->uptime_ns);
    }
    render_times(text, "cpu ", user, system, idle);
    for (unsigned i = 0; i < stat->cpus->count; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "cpu%u", i);
        render_times(text, name, stat->times[i].user_ns, stat->times[i].system_ns,
                     cpu_idle_ns(&stat->times[i], stat->uptime_ns));
    }
    text_printf(text,
                "intr 0\nctxt 0\nbtime %" PRIu64 "\nprocesses %" PRIu64
                "\nprocs_running %u\nprocs_blocked %u\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
                stat->started_s, stat->processes, stat->running, stat->blocked);
}

void render_uptime(struct text *text, const struct cpus *cpus, const struct cpu_time *times,
                   uint64_t uptime_ns)
{
    uint64_t idle = 0;
    for (unsigned i = 0; i < cpus->count; i++) {
        idle += cpu_idle_ns(&times[i], uptime_ns);
    }
    text_printf(text, "%" PRIu64 ".%02u %" PRIu64 ".%02u\n", uptime_ns / NS_PER_S,
                (unsigned)(uptime_ns % NS_PER_S / NS_PER_TICK), idle / NS_PER_S,
                (unsigned)(idle % NS_PER_S / NS_PER_TICK));
}
