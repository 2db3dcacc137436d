/* The XSAVE area and FXSAVE image of a vCPU, as bytes. Private to engine/soft. */
#ifndef ENGINE_SOFT_XSAVE_H
#define ENGINE_SOFT_XSAVE_H

#include "engine/soft/vcpu.h"

/* The components that are not in their initial state (XINUSE of the manuals). */
uint64_t soft_xinuse(const struct soft_vcpu *v);

/* Makes the x87 image in v->fx one that a CPU can hold: reserved bits, and ES and B by the flags and masks. */
void soft_x87_normalize(struct soft_vcpu *v);

/* The standard format, all components, as struct x86_state has it. Set: false for an MXCSR that the host's CPU does not
 * know, or components that the engine has not. */
void soft_xsave_get(const struct soft_vcpu *v, uint8_t out_area[X86_XSAVE_SIZE]);
bool soft_xsave_set(struct soft_vcpu *v, const uint8_t area[X86_XSAVE_SIZE]);

#endif
