/* Which limits a container has hit, in the manner of OpenVZ's failure counters: of v1 and v2 in the same words. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"
#include "container/runtime/loaded.h"
#include "system/life/internal.h"

/* A counter of one file: the whole of it, or the value of a line "KEY N". */
struct counter {
    const char *name;
    enum cgroup_controller controller;
    const char *v1_file, *v1_key, *v2_file, *v2_key; /* a key of NULL: the file is the number */
};

/* Memory: the limit was reached; processes were killed for want of it. Processes: one could not be made. CPU: periods in which
 * it had to wait. */
static const struct counter counters[] = {
    {"memory_limit", CGROUP_MEMORY, "memory.failcnt", NULL, "memory.events", "max"},
    {"memory_oom_kills", CGROUP_MEMORY, "memory.oom_control", "oom_kill", "memory.events",
     "oom_kill"},
    {"swap_limit", CGROUP_MEMORY, "memory.memsw.failcnt", NULL, "memory.swap.events", "max"},
    {"processes_limit", CGROUP_PIDS, "pids.events", "max", "pids.events", "max"},
    {"cpu_throttled", CGROUP_CPU, "cpu.stat", "nr_throttled", "cpu.stat", "nr_throttled"},
};

static void add(const struct cgroup *cgroup, const struct counter *counter, json_t *object)
{
    bool is_unified;
    uint64_t value;
    int group = cgroup_open_controller(cgroup, counter->controller, &is_unified);
    if (group < 0) {
        return;
    }
    AUTO_CLOSE int fd = group;
    const char *file = is_unified ? counter->v2_file : counter->v1_file;
    const char *key = is_unified ? counter->v2_key : counter->v1_key;
    int rc =
        key != NULL ? control_read_key(fd, file, key, &value) : control_read_u64(fd, file, &value);
    if (rc == 0) {
        (void)json_object_set_new(object, counter->name, json_integer((json_int_t)value));
    }
}

int life_counters(const struct life *life, const char *name, json_t **out_counters,
                  struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(&life->runtime, name, false, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    json_t *object = json_object();
    for (size_t i = 0; loaded.cgroup != NULL && i < ARRAY_COUNT(counters); i++) {
        add(loaded.cgroup, &counters[i], object);
    }
    loaded_close(&loaded);
    *out_counters = object;
    return 0;
}
