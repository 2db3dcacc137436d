/* The verifier of translated code: decodes a block's host code again and follows every path through it, to see that it
 * can touch guest memory and the vCPU's own fields and nothing else, and leaves the block only where it may.
 *
 * It trusts the decoder, the tables of verify_forms.c and what C code puts into TLBs and jump cache; not the translator. What
 * it promises and what not is in docs/soft-engine-security.md. */
#ifndef ENGINE_SOFT_TRANSLATE_VERIFY_H
#define ENGINE_SOFT_TRANSLATE_VERIFY_H

#include "engine/soft/translate/block_table.h"

struct native_verifier;

/* Work space for blocks of up to 'max_code_size' bytes; NULL: no memory. */
struct native_verifier *native_verifier_create(size_t max_code_size);
void native_verifier_destroy(struct native_verifier *verifier);

/* Errors: EPERM, with the instruction and what is wrong with it. */
int must_check native_verify(struct native_verifier *verifier, const struct soft_vcpu *v,
                             const struct native_block *block, struct error *err);

#endif
