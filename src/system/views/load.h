/* Load averages of a container, and how many of its threads run. */
#ifndef SYSTEM_VIEWS_LOAD_H
#define SYSTEM_VIEWS_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/views/text.h"

#define LOAD_FIXED_SHIFT 11 /* as the kernel keeps them */

struct load_counts {
    unsigned running, blocked, total; /* threads */
    pid_t newest;                     /* as the caller sees it; 0: there is none */
};

struct load {
    uint64_t average[3];             /* over 1, 5, 15 minutes; fixed point */
    uint64_t sampled_ns, counted_ns; /* the last sample, the last count; 0: never */
    uint64_t asked_ns;
    struct load_counts counts;
};

/* The averages after 'times' samples (of 5 s each) of 'active' threads. */
void load_advance(uint64_t average[3], unsigned active, uint64_t times);

/* Counts the threads of the group 'group_fd' and of those below it. Of many only some are looked at, and the rest is taken to
 * be like them; 'before' is what was counted the last time. 'proc_fd': of a proc file system of the caller's pid namespace. */
void load_count(int group_fd, bool is_unified, int proc_fd, const struct load_counts *before,
                struct load_counts *out_counts);

/* Somebody asks: counts again if that was not done just now, and samples for a while from here on. */
void load_ask(struct load *load, uint64_t now_ns, int group_fd, bool is_unified, int proc_fd);
/* ms until the next sample, -1: nobody asks. */
int load_timeout_ms(const struct load *load, uint64_t now_ns);
void load_tick(struct load *load, uint64_t now_ns, int group_fd, bool is_unified, int proc_fd);

/* A thread's id in the pid namespace at 'level' (1: the caller's own), from the text of its /proc/PID/status; 0: it is not in
 * it. */
pid_t load_namespace_pid(const char *status, unsigned level);
/* How many levels there are. */
unsigned load_namespace_level(const char *status);

void render_loadavg(struct text *text, const struct load *load, pid_t last_pid);

#endif
