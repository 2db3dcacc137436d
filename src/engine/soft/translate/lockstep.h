/* Interpreter and translator side by side: option lockstep=on. */
#ifndef ENGINE_SOFT_TRANSLATE_LOCKSTEP_H
#define ENGINE_SOFT_TRANSLATE_LOCKSTEP_H

#include "engine/soft/translate/block_table.h"

struct soft_lockstep;

int must_check soft_lockstep_init(struct soft_vcpu *v, struct error *err);
void soft_lockstep_fini(struct soft_vcpu *v);

/* Translated code of 'block' is about to run at 'code', from the vCPU's registers and RIP. */
void soft_lockstep_begin(struct soft_vcpu *v, const struct native_block *block,
                         const uint8_t *code);

/* Translated code has come to 'rip', by a branch at the block's end or not, and its registers are in the vCPU. NULL: the
 * interpreter has come to the same. Else the place to run it again from, as a device may have written in between. Ends the
 * process if it differs again and again. */
const uint8_t *soft_lockstep_end(struct soft_vcpu *v, uint64_t rip, bool is_block_end);

/* The soft TLB is about to let the page at 'hva' be written, by entry 'index' of 'tlb'. */
void soft_lockstep_note_write(struct soft_vcpu *v, struct soft_tlb *tlb, size_t index,
                              uint8_t *hva);

#endif
