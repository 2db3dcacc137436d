/* Answers to sysinfo(2) by user notification of seccomp. */
#ifndef SYSTEM_VIEWS_SYSINFO_H
#define SYSTEM_VIEWS_SYSINFO_H

#include <stdint.h>
#include <sys/sysinfo.h>

#include "base/core/error.h"
#include "system/views/load.h"
#include "system/views/memory.h"

/* As i386 has it. */
struct sysinfo_32 {
    int32_t uptime;
    uint32_t loads[3];
    uint32_t totalram, freeram, sharedram, bufferram, totalswap, freeswap;
    uint16_t procs, pad;
    uint32_t totalhigh, freehigh, mem_unit;
    char unused[8];
};

void sysinfo_fill(struct sysinfo *out_info, const struct memory_totals *totals, uint64_t uptime_ns,
                  const struct load *load);
/* With a larger unit where the numbers need it. */
void sysinfo_fill_32(struct sysinfo_32 *out_info, const struct sysinfo *info);

/* The answers are written into the callers' memory by threads, a few at a time: a page of that memory may be one that somebody
 * in the container has to supply (a file system of its own), or this very keeper (a private mapping of a file of the views).
 * They may outlive the desk. */
struct sysinfo_desk;
int must_check sysinfo_desk_create(struct sysinfo_desk **out_desk, struct error *err);
void sysinfo_desk_destroy(struct sysinfo_desk *desk); /* NULL is fine */

/* Called for a caller of sysinfo only. */
typedef void (*sysinfo_fn)(void *ctx, struct sysinfo *out_info);
/* As views_sysinfo. 'proc_fd': of a proc file system of the caller's pid namespace. */
int must_check sysinfo_answer(struct sysinfo_desk *desk, int listener_fd, int proc_fd,
                              sysinfo_fn fill, void *ctx, struct error *err);

#endif
