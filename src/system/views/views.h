/* /proc and /sys as a container should see them: with its own limits, not the host's.
 *
 * A small file system of FUSE (the kernel's protocol, by hand), served by the container's keeper. Each of
 * its files is bound over the kernel's by the container's configuration:
 *
 *   meminfo      of memory: limit, usage and cache of the control group; swap likewise; no limit: the host's
 *   cpuinfo      as many CPUs as the container has: its CPU set, or its quota rounded up, whichever is less; numbered from 0
 *   stat         these CPUs, with times that the container used (cpuacct or cpu.stat; idle is the rest of the time since its start); btime its start
 *   uptime       since its first process' start; idle likewise
 *   loadavg      of the container's processes: exponential averages over 1, 5, 15 minutes of those running or in uninterruptible sleep, sampled every
 *                5 s while somebody has asked in the last 20 minutes; the last process id as its pid namespace sees it
 *   swaps        one line of the container's swap limit
 *   diskstats    of the container's group (blkio or io.stat)
 *   pressure/{cpu,io,memory}  of the container's group of v2 where the host has PSI; missing there: the host's own stays
 *   cpu_online, cpu_possible, cpu_present   for /sys/devices/system/cpu/{online,possible,present}: "0-1"
 *
 * Also sysinfo(2), by user notification of seccomp: totals and uptime as above, so that busybox's free and uptime are right.
 *
 * Threads: all from one thread (the keeper's loop). What the container sends (reads of FUSE, the pointer of sysinfo) is not
 * trusted. Reads take at most a few system calls on files of control groups, held open or opened below a held descriptor;
 * nothing blocks on the container. */
#ifndef SYSTEM_VIEWS_VIEWS_H
#define SYSTEM_VIEWS_VIEWS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"
#include "container/cgroup/cgroup.h"

struct views;

/* Mounts the file system on 'target' (an empty folder) in the caller's mount namespace, for all users. Serve from here on:
 * whoever binds the files waits for their names. Until views_start they show the host's values. Errors: -ENODEV or -EPERM with
 * words: the host has no FUSE; nothing is mounted then, and the container can do without. */
int must_check views_create(const char *target, struct views **out_views, struct error *err);

/* What is shown, from now on: 'cgroup' is the container's (borrowed as long as the views live; its values are read at each read
 * of a file), 'pid' its first process as the caller sees it. */
int must_check views_start(struct views *views, const struct cgroup *cgroup, pid_t pid,
                           struct error *err);

/* Descriptor to be polled for reading; then views_serve, which answers what is there and returns. -ENODEV: it was unmounted. */
int views_fd(const struct views *views);
int must_check views_serve(struct views *views, struct error *err);
/* When views_tick is to be called next: ms from now; -1: not needed. For load averages. */
int views_timeout_ms(const struct views *views);
void views_tick(struct views *views);

/* Answers one notification of the seccomp listener 'listener_fd', which is readable: sysinfo is answered, everything else goes
 * on (SECCOMP_USER_NOTIF_FLAG_CONTINUE). The answer is written by a short-lived thread, as the memory may be one that waits for
 * the views. -ENOENT: the process is gone, fine. */
int must_check views_sysinfo(struct views *views, int listener_fd, struct error *err);

/* Unmounts nothing (the mount goes with the mount namespace); closes the connection. NULL is fine. */
void views_destroy(struct views *views);

/* Pairs of a file's name in the file system and the path that it is bound over, NULL at the end: {"meminfo", "/proc/meminfo"}
 * ... 'is_available' says whether this host has what it covers (PSI). */
struct views_file {
    const char *name, *covers;
};
extern const struct views_file views_files[];
bool views_is_available(const struct views_file *file);

#endif
