/* How long a vCPU that halts looks for what wakes it before its thread sleeps. To wake a thread takes two system calls, and some ten
 * microseconds where its core has gone to sleep as well; guests whose threads hand work to each other halt for less. So the time
 * grows while wake-ups come soon after the sleep began, and shrinks when they do not: an idle guest does not poll. Nor does one
 * whose host has other work for the CPU; the caller sees that by gaps in its own time. All times in ticks of one counter. */
#ifndef ENGINE_SOFT_HALT_POLL_H
#define ENGINE_SOFT_HALT_POLL_H

#include <stdint.h>

#define SOFT_HALT_POLL_DEFAULT_NS 100000u
#define SOFT_HALT_POLL_MAX_NS     1000000u

struct soft_halt_poll {
    uint64_t start, max; /* the shortest and longest time but none; a 'max' of 0: never poll */
    uint64_t min_hold, max_hold;
    uint64_t length; /* now */
    uint64_t hold;   /* how long it did not poll after the host was busy last; 0: it never was */
    uint64_t held_until; /* with 'hold' */
};

/* 'hz': of the counter. */
void soft_halt_poll_init(struct soft_halt_poll *poll, uint32_t max_ns, uint64_t hz);

/* How long to poll in a halt that begins now. */
uint64_t soft_halt_poll_begin(struct soft_halt_poll *poll, uint64_t now);

/* A halt of 'waited', polled or slept, has ended now. */
void soft_halt_poll_end(struct soft_halt_poll *poll, uint64_t now, uint64_t waited);

/* Somebody else wants the CPU on which it polled. Without polls for a while, which doubles if the next ones meet the same: what
 * it takes to find out may be as long as a time slice. */
void soft_halt_poll_host_is_busy(struct soft_halt_poll *poll, uint64_t now);

#endif
