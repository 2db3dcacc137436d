/* The debug registers' breakpoints. While DR7 enables one, the vCPU runs single steps, and pages with data breakpoints get no
 * entry for reads and writes in the TLB, so that each access of theirs comes to the slow path and is seen here. */
#ifndef ENGINE_SOFT_BREAKPOINT_H
#define ENGINE_SOFT_BREAKPOINT_H

#include "engine/soft/vcpu.h"

#define SOFT_DR7_ENABLED 0xffu

/* Bits of DR6 for the instruction at 'linear' that is about to run. */
uint64_t soft_breakpoint_fetch(const struct soft_vcpu *v, uint64_t linear);
/* Out-of-line halves of the following. */
bool soft_breakpoint_is_on_page(const struct soft_vcpu *v, uint64_t gva);
void soft_breakpoint_find_access(struct soft_vcpu *v, uint64_t gva, uint32_t size, bool is_write);

static inline bool soft_page_is_watched(const struct soft_vcpu *v, uint64_t gva)
{
    return unlikely(v->dr7 & SOFT_DR7_ENABLED) && soft_breakpoint_is_on_page(v, gva);
}

/* The instruction under way accesses [gva, gva + size), without fault: a hit becomes a trap behind it. */
static inline void soft_breakpoint_access(struct soft_vcpu *v, uint64_t gva, uint32_t size,
                                          bool is_write)
{
    if (unlikely(v->dr7 & SOFT_DR7_ENABLED)) {
        soft_breakpoint_find_access(v, gva, size, is_write);
    }
}

void soft_breakpoint_port(struct soft_vcpu *v, uint16_t port, uint32_t size);

#endif
