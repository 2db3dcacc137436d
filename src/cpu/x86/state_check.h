/* Whether a state that may come from a file is one that a CPU can be in. */
#ifndef CPU_X86_STATE_CHECK_H
#define CPU_X86_STATE_CHECK_H

#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"

/* Can a vCPU whose CPUID is 'cpuid' come to be in 'state'? What some hardware or KVM lets happen passes: values of SVM that
 * VMX would not enter with, for one.
 * Errors: -EINVAL, naming the field, its value, and what would be right. */
int must_check x86_state_check(const struct x86_state *state, const struct x86_cpuid *cpuid,
                               struct error *err);

#endif
