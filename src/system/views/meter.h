/* A container's numbers: read from its control groups, which are held open, and from the host's /proc. */
#ifndef SYSTEM_VIEWS_METER_H
#define SYSTEM_VIEWS_METER_H

#include "container/cgroup/cgroup.h"
#include "system/views/cpus.h"
#include "system/views/disks.h"
#include "system/views/memory.h"

/* A group with the controller that is asked for; fd -1: there is none. */
struct meter_place {
    int fd;
    bool is_unified;
};

struct meter {
    struct meter_place memory, cpu, cpuacct, cpuset, block_io;
    int unified_fd;            /* of v2, with or without controllers; -1: there is none */
    struct meter_place thread; /* where its threads are found */
};

void meter_init(struct meter *meter); /* nothing is open */
void meter_open(struct meter *meter, const struct cgroup *cgroup);
void meter_fini(struct meter *meter);

/* What cannot be read (the group has gone) is as without limits. */
void meter_read_memory(const struct meter *meter, struct group_memory *out_memory);
/* 'pid': whose CPUs are meant where no control group says it; 0: the caller. */
void meter_read_cpus(const struct meter *meter, pid_t pid, struct cpus *out_cpus);
/* New memory for cpus->count; NULL: there is none. */
struct cpu_time *meter_read_times(const struct meter *meter, const struct cpus *cpus);
void meter_read_disks(const struct meter *meter, struct disks *out_disks);

#endif
