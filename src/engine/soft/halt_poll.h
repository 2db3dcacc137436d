/* How long a vCPU that halts looks for what wakes it before its thread sleeps. To wake a thread takes two system calls, and
 * some ten microseconds where its core has gone to sleep as well; guests whose threads hand work to each other halt for
 * less. So the time grows while wake-ups come soon after the sleep began, and shrinks when they do not: an idle guest does
 * not poll. Nor does one whose host has other work for the CPU. Others who take it for a moment may be the very vCPUs that
 * this one waits for: hosts put threads that wake each other on one CPU, and take them apart only when both go on wanting
 * it, so that is tried for a while before it counts as other work. All times in ticks of one counter. */
#ifndef ENGINE_SOFT_HALT_POLL_H
#define ENGINE_SOFT_HALT_POLL_H

#include <stdbool.h>
#include <stdint.h>

#define SOFT_HALT_POLL_DEFAULT_NS 100000u
#define SOFT_HALT_POLL_MAX_NS     1000000u

struct soft_halt_poll {
    uint64_t start, max; /* the shortest and longest time but none; a 'max' of 0: never poll */
    uint64_t min_hold, max_hold;
    uint64_t length; /* now */
    uint64_t hold;   /* how long it did not poll after the host was busy last; 0: it never was */
    uint64_t held_until; /* with 'hold' */
    uint64_t max_shared; /* how long it shares the CPU before that counts as other work */
    uint64_t shared_since, shared_last; /* with 'is_shared' */
    bool is_shared;                     /* others had the CPU whenever it was offered */
};

/* 'hz': of the counter. */
void soft_halt_poll_init(struct soft_halt_poll *poll, uint32_t max_ns, uint64_t hz);

/* How long to poll in a halt that begins now. */
uint64_t soft_halt_poll_begin(struct soft_halt_poll *poll, uint64_t now);

/* A halt of 'waited', polled or slept, has ended now. */
void soft_halt_poll_end(struct soft_halt_poll *poll, uint64_t now, uint64_t waited);

/* Somebody else has wanted the CPU on which it polled since then. Without polls for a while, which doubles if the next ones
 * meet the same: what it takes to find out may be as long as a time slice. */
void soft_halt_poll_host_is_busy(struct soft_halt_poll *poll, uint64_t since, uint64_t now);

/* Others had the CPU for a moment when it was offered, or nobody wanted it. False: they do all the time, and the host is
 * busy. */
bool soft_halt_poll_may_share(struct soft_halt_poll *poll, uint64_t now);
void soft_halt_poll_is_alone(struct soft_halt_poll *poll);

#endif
