/* System instructions of translated code: the stubs that blocks call for them. */
#ifndef ENGINE_SOFT_TRANSLATE_NATIVE_SYSTEM_H
#define ENGINE_SOFT_TRANSLATE_NATIVE_SYSTEM_H

#include "engine/soft/translate/block_table.h"

/* Stubs that are called and return, with a few instructions of their own. They spoil R14, R15 and the host's flags; those that read
 * the guest's status flags need them in 'status'. All are for CPL 0 but PUSHF, POPF, the counters and the bases. */
enum native_small {
    NATIVE_SMALL_CLI,
    NATIVE_SMALL_STI, /* no interrupt is waiting; the next instruction follows before anybody polls */
    NATIVE_SMALL_CLD,
    NATIVE_SMALL_STD,
    NATIVE_SMALL_STAC, /* and CLAC: CR4.SMAP is set; they change the mode of the code that follows */
    NATIVE_SMALL_CLAC,
    NATIVE_SMALL_SWAPGS,
    NATIVE_SMALL_PUSHF, /* what is to be pushed, in native_target */
    NATIVE_SMALL_POPF,  /* status flags and IF from there */
    NATIVE_SMALL_RDTSC, /* the guest's counter has the host's rate */
    NATIVE_SMALL_RDTSCP,
    NATIVE_SMALL_WRFSBASE, /* the base is in native_target */
    NATIVE_SMALL_WRGSBASE,
};

_Static_assert(NATIVE_SMALL_WRGSBASE + 1 == NATIVE_SMALL_COUNT, "each has its stub");

/* Emits the stub. */
void native_make_small(struct emitter *e, enum native_small small);

/* kernel_entry.c, without vector registers: the common cases of the instruction of 'site', or of its #PF, for a guest in 64-bit
 * mode before and after it. They return where to go on, or NULL, with nothing changed, if the interpreter is to do it. 'length' is the
 * instruction's. */
const uint8_t *native_on_syscall(struct soft_vcpu *v, const struct native_site *site,
                                 uint32_t length);
const uint8_t *native_on_sysret(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t length);
const uint8_t *native_on_page_fault(struct soft_vcpu *v, const struct native_site *site,
                                    uint32_t unused);
/* Of the address in native_target. */
const uint8_t *native_on_invlpg(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t length);
const uint8_t *native_on_iret(struct soft_vcpu *v, const struct native_site *site, uint32_t length);

#endif
