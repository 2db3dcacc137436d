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

/* window_strings.c */
void native_make_window_strings(struct soft_native *n, struct emitter *e);
/* The access of one of them at that place of the code cache, or NULL. */
const struct native_window_site *native_find_window_string(const struct soft_native *n,
                                                           uint32_t place);

#endif
