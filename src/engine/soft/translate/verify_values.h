/* Private to the verifier: what a memory operand has been found to be, and what an instruction does to what is known. */
#ifndef ENGINE_SOFT_TRANSLATE_VERIFY_VALUES_H
#define ENGINE_SOFT_TRANSLATE_VERIFY_VALUES_H

#include <stddef.h>

#include "engine/soft/translate/verify_forms.h"

#define VERIFY_MEMBER(type, member) ((uint32_t)offsetof(struct type, member))

/* What a memory operand is. */
enum verify_form {
    VERIFY_FORM_NONE, /* no memory */
    VERIFY_FORM_FIELD,
    VERIFY_FORM_SLOT,
    VERIFY_FORM_TLB,
    VERIFY_FORM_JUMP,
    VERIFY_FORM_CALL,
    VERIFY_FORM_WINDOW,
    VERIFY_FORM_FIXED_WINDOW, /* an element of the same table, at no index */
    VERIFY_FORM_GUEST,
};

struct verify_memory {
    uint8_t form;  /* enum verify_form */
    uint8_t index; /* register, of tables; element, of SLOT */
    uint32_t
        offset; /* of FIELD: in the vCPU; of tables: in the entry; of FIXED_WINDOW: in the table */
    uint32_t size;
    uint8_t access;
};

/* No bits but those of 'bits'. */
static inline bool verify_is_bounded(const struct verify_value *value)
{
    return value->kind == VERIFY_MASKED || value->kind == VERIFY_INDEX;
}

/* An address and what its window adds: any displacement is less than the windows' guards are large. */
static inline bool verify_is_windowed(const struct x86_insn *insn, const struct verify_state *state)
{
    if (insn->base == X86_BASE_NONE || insn->base == X86_BASE_RIP || insn->index == X86_BASE_NONE ||
        insn->scale != 1) {
        return false;
    }
    const struct verify_value *window = &state->reg[insn->index];
    return window->kind == VERIFY_WINDOW && window->of == insn->base;
}

/* Applies an allowed instruction with that memory operand, which does not branch. */
void verify_apply(const struct verify_insn *at, const struct verify_memory *memory,
                  struct verify_state *state);

#endif
