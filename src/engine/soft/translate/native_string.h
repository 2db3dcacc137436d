/* String instructions of translated code: what they call. */
#ifndef ENGINE_SOFT_TRANSLATE_NATIVE_STRING_H
#define ENGINE_SOFT_TRANSLATE_NATIVE_STRING_H

#include "engine/soft/translate/block_table.h"

/* 'description': enum soft_string_kind, the element's size as a power of two, prefixes, the source's segment. */
#define NATIVE_STRING_KIND          0x07u
#define NATIVE_STRING_SIZE_SHIFT    3
#define NATIVE_STRING_REP           0x20u
#define NATIVE_STRING_REPNE         0x40u
#define NATIVE_STRING_32            0x80u /* registers of 32 bits; the segments are flat */
#define NATIVE_STRING_SEGMENT_SHIFT 8

/* string_run.c: the instruction of 'site'. Returns where to go on, or NULL if the interpreter is to do what is left of it. The
 * guest's vectors may be in the host's registers. */
const uint8_t *native_on_string(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t description);

/* string_stubs.c */
void native_make_string_stubs(struct soft_native *n, struct emitter *e);
/* Which one: the number of elements in soft_native.window_string and tlb_string. */
static inline size_t native_string_number(uint8_t kind, uint8_t size_bits)
{
    return (size_t)kind * NATIVE_STRING_SIZES + size_bits;
}

/* Does 'code' lie among them? */
bool native_is_string_stub(const struct soft_native *n, const uint8_t *code);
/* Is it the start of one for such blocks? 'tlb': enum soft_tlb_mode, or any other value. */
bool native_is_string_stub_of(const struct soft_native *n, const uint8_t *code, bool has_windows,
                              uint32_t tlb);
/* The access of one of them at that place of the code cache, or NULL. */
const struct native_window_site *native_find_window_string(const struct soft_native *n,
                                                           uint32_t place);

#endif
