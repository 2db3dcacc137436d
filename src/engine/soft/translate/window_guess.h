/* See window_guess.c. */
#ifndef ENGINE_SOFT_TRANSLATE_WINDOW_GUESS_H
#define ENGINE_SOFT_TRANSLATE_WINDOW_GUESS_H

#include "engine/soft/translate/analyze.h"

/* What registers hold at a place of a block when it runs for the first time, as far as that is known. */
struct native_guess {
    struct soft_vcpu *v;
    uint64_t value[X86_GPR_COUNT];
    uint16_t known;    /* bit n: value[n] */
    uint16_t stepping; /* bit n: the block moves it by constants */
};

/* At the start of a block that the vCPU is about to run. */
void native_guess_begin(struct native_guess *g, struct soft_vcpu *v,
                        const struct native_source *source);
/* Behind an instruction. */
void native_guess_follow(struct native_guess *g, const struct native_insn *n);
/* The role of the window of the instruction's access, or of what it does on the stack. False: nobody knows, or a guess is of no
 * use. */
bool native_guess_window(const struct native_guess *g, const struct native_insn *n,
                         uint8_t *out_role);

#endif
