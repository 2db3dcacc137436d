/* The translator: guest code as host code: that of 64-bit mode, and 32-bit code whose CS, SS, DS and ES are flat.
 *
 * A block is compiled from straight guest code within one page, or from one instruction that ends in the next, for one address
 * and one mode. It goes on behind a few conditional branches, which leave it if they are taken: flags stay in registers, and
 * checks of memory before a branch hold behind it. Guest registers live in the host's (see translate.c), the status flags in the host's flags; RSP points into the vCPU, below which lies a little stack
 * for signals. Whatever has no template, misses the TLB or faults is run by the interpreter, one instruction at a time, in
 * the middle of the block. So the interpreter is the one place that knows what is exceptional. */
#ifndef ENGINE_SOFT_TRANSLATE_NATIVE_H
#define ENGINE_SOFT_TRANSLATE_NATIVE_H

#include "base/host/huge.h"
#include "engine/soft/vcpu.h"

/* Stack below a struct soft_vcpu: signal handlers' frames while translated code runs. */
#define NATIVE_STACK_SIZE 65536u
/* A vCPU and this stack. Most of it are tables, which translated code looks at all the time. */
#define NATIVE_VCPU_MEMORY align_up(NATIVE_STACK_SIZE + sizeof(struct soft_vcpu), HUGE_PAGE_SIZE)

int must_check soft_native_init(struct soft_vcpu *v, struct error *err);
void soft_native_fini(struct soft_vcpu *v);

/* Runs translated code from RIP until something is to be done outside. False: there is none for this mode or address, the
 * interpreter has to go on. Raises the faults of the fetch. */
bool soft_native_run(struct soft_vcpu *v);

/* The guest has written to these granules of a page that may hold code: the vCPU's own blocks of them go. */
void soft_native_written(struct soft_vcpu *v, uint64_t gpa, uint64_t granules);
/* That was all that has raised the page's generation since 'before'. */
void soft_native_keep_page(struct soft_vcpu *v, uint64_t gpa, uint32_t before, uint32_t after);
/* Others have written to code: blocks of pages whose generation has changed go. SOFT_REQUEST_CODE. */
void soft_native_check_pages(struct soft_vcpu *v);
/* After a flush of the TLB: what was found by linear address is looked up again. */
void soft_native_forget_addresses(struct soft_vcpu *v, bool upper_half);
/* The same for one page. */
void soft_native_forget_page(struct soft_vcpu *v, uint64_t gva);
/* What an address space has found in the lower half, to come back to it: 0 if nothing stays. */
uint64_t soft_native_epoch(const struct soft_vcpu *v);
void soft_native_set_epoch(struct soft_vcpu *v, uint64_t epoch);

/* The host's CPU faulted at 'pc' with the vCPU's translated code: where to go on, or 0 if it is none of that. For signal
 * handlers. */
uintptr_t soft_native_fault(uintptr_t pc);
/* The same for an access to memory, at 'address' if it was a page fault. */
uintptr_t soft_native_access_fault(uintptr_t pc, uintptr_t address, bool is_page_fault,
                                   bool is_write);

#endif
