/* The option icount: time is counted in instructions that the guest has executed, so that it depends on nothing else.
 *
 * A vCPU has a budget: how many instructions may run until its timer is due. Translated blocks take their number from it
 * when they begin, and do not begin if it is too small; whoever leaves a block in its middle gives back what did not run
 * (native_emit_count). The last instructions before the timer are the interpreter's, one at a time. So interrupts come
 * behind the same instruction in every run. A repeated string instruction counts once, when it is over; one that faults
 * does not count. */
#ifndef ENGINE_SOFT_ICOUNT_H
#define ENGINE_SOFT_ICOUNT_H

#include "engine/soft/vcpu.h"

/* The guest's TSC in this mode: a tick is a nanosecond. */
#define SOFT_ICOUNT_HZ        1000000000u
#define SOFT_ICOUNT_MAX_SHIFT 10u

/* The one vCPU's first budget. */
void soft_icount_init(struct soft_vcpu *v);

/* Instructions so far. */
static inline uint64_t soft_icount_executed(const struct soft_vcpu *v)
{
    return v->icount.end - (uint64_t)(int64_t)v->native_budget;
}

/* Nanoseconds since the VM was made: what has been executed, and what was skipped while the guest was idle. Exact on the
 * vCPU's thread. */
uint64_t soft_icount_now_ns(const struct soft_vm *vm);

/* engine_ops.vcpu_set_timer */
void soft_icount_set_timer(struct soft_vcpu *v, uint64_t deadline_ns);

/* No budget is left: tells the machine if the timer is due, and gives more. */
void soft_icount_expire(struct soft_vcpu *v);

/* The guest is idle: on to the timer. False: there is none. */
bool soft_icount_skip(struct soft_vcpu *v);

/* An instruction left RIP where it was. Is it over? */
bool soft_icount_is_over(struct soft_vcpu *v);

/* Behind each instruction of the interpreter; it began at 'rip'. */
static inline void soft_icount_step(struct soft_vcpu *v, uint64_t rip)
{
    if (unlikely(v->vm->icount.is_on) && (v->rip != rip || soft_icount_is_over(v))) {
        v->native_budget--;
    }
}

/* For RDRAND and RDSEED: the same numbers in every run. */
uint64_t soft_icount_random(struct soft_vcpu *v);

/* Into the log, when the vCPU goes: how much was executed, and a hash of the guest's memory. */
void soft_icount_report(const struct soft_vcpu *v);

#endif
