/* Which limits a container has hit, in the manner of OpenVZ's failure counters: of v1 and v2 in the same words. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"
#include "system/life/internal.h"

/* A counter of one file: the whole of it, or the value of a line "KEY N". */
struct counter {
    const char *name;
    enum cgroup_controller controller;
    const char *v1_file, *v1_key, *v2_file, *v2_key; /* a key of NULL: the file is the number */
    unsigned v2_scale;                               /* 0: 1 */
};

/* Memory: the limit was reached; processes were killed for want of it. Processes: one could not be made. CPU: periods in which
 * it had to wait. Those of a controller stand together. */
static const struct counter counters[] = {
    {"memory_limit", CGROUP_MEMORY, "memory.failcnt", NULL, "memory.events", "max", 0},
    {"memory_oom_kills", CGROUP_MEMORY, "memory.oom_control", "oom_kill", "memory.events",
     "oom_kill", 0},
    {"swap_limit", CGROUP_MEMORY, "memory.memsw.failcnt", NULL, "memory.swap.events", "max", 0},
    {"processes_limit", CGROUP_PIDS, "pids.events", "max", "pids.events", "max", 0},
    {"cpu_throttled", CGROUP_CPU, "cpu.stat", "nr_throttled", "cpu.stat", "nr_throttled", 0},
};
/* What lists show: few files, as hundreds of containers are asked for at once. */
static const struct counter usage[] = {
    {"memory_used_bytes", CGROUP_MEMORY, "memory.usage_in_bytes", NULL, "memory.current", NULL, 0},
    {"cpu_ns", CGROUP_CPUACCT, "cpuacct.usage", NULL, "cpu.stat", "usage_usec", 1000},
    {"processes", CGROUP_PIDS, "pids.current", NULL, "pids.current", NULL, 0},
};

/* v2 counts time whether it has the controller or not. */
static int open_group(const struct cgroup *cgroup, enum cgroup_controller controller,
                      bool *out_is_unified)
{
    int group = cgroup_open_controller(cgroup, controller, out_is_unified);
    if (group < 0 && controller == CGROUP_CPUACCT) {
        *out_is_unified = true;
        group = cgroup_open_unified(cgroup);
    }
    return group;
}

static void add(int group, bool is_unified, const struct counter *counter, json_t *object)
{
    uint64_t value;
    const char *file = is_unified ? counter->v2_file : counter->v1_file;
    const char *key = is_unified ? counter->v2_key : counter->v1_key;
    int rc = key != NULL ? control_read_key(group, file, key, &value)
                         : control_read_u64(group, file, &value);
    if (rc == 0) {
        value *= is_unified && counter->v2_scale != 0 ? counter->v2_scale : 1;
        (void)json_object_set_new(object, counter->name, json_integer((json_int_t)value));
    }
}

static void add_all(const struct cgroup *cgroup, const struct counter *list, size_t count,
                    json_t *object)
{
    int group = -1;
    bool is_unified = false;
    for (size_t i = 0; cgroup != NULL && i < count; i++) {
        if (i == 0 || list[i].controller != list[i - 1].controller) {
            if (group >= 0) {
                close(group);
            }
            group = open_group(cgroup, list[i].controller, &is_unified);
        }
        if (group >= 0) {
            add(group, is_unified, &list[i], object);
        }
    }
    if (group >= 0) {
        close(group);
    }
}

void life_add_usage(const struct loaded *loaded, json_t *info)
{
    add_all(loaded->cgroup, usage, ARRAY_COUNT(usage), info);
    if (json_object_get(info, "cpu_ns") == NULL) {
        life_add_processes(loaded->state.pid, info);
    }
}

json_t *life_count(const struct loaded *loaded)
{
    json_t *object = json_object();
    add_all(loaded->cgroup, counters, ARRAY_COUNT(counters), object);
    return object;
}
