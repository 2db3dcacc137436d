/* Pushes and pops with the width of the current stack. */
#ifndef ENGINE_SOFT_INTERPRET_STACK_H
#define ENGINE_SOFT_INTERPRET_STACK_H

#include "engine/soft/interpret/operand.h"

static inline uint64_t soft_stack_mask(const struct soft_vcpu *v)
{
    return soft_size_mask(v->stack_bytes);
}

static inline void soft_set_sp(struct soft_vcpu *v, uint64_t sp)
{
    soft_put_sized(v, X86_RSP * 8, v->stack_bytes, sp);
}

/* Linear address of stack offset 'sp'. */
static always_inline uint64_t soft_stack_linear(struct soft_vcpu *v, const struct soft_op *op,
                                                uint64_t sp, uint32_t size, bool is_write)
{
    if (v->code_size == X86_CODE_64) {
        if (unlikely(!x86_is_canonical(sp) || !x86_is_canonical(sp + size - 1))) {
            soft_raise_error(v, op, X86_SS_FAULT, 0);
        }
        return sp;
    }
    uint8_t flat = is_write ? v->flat_write : v->flat_read;
    if (likely((flat >> X86_SS) & 1) && sp + size <= 0x100000000ull) {
        return sp;
    }
    return soft_segment_check(v, op, X86_SS, sp, size, is_write);
}

/* Host address of the 8 bytes at 'sp' in 64-bit mode, or NULL: the slow path is to look. The TLB holds canonical addresses
 * only. */
static always_inline void *soft_fast_stack64(struct soft_vcpu *v, uint64_t sp, bool is_write)
{
    return likely(v->code_size == X86_CODE_64) ? soft_fast_access(v, sp, 8, is_write) : NULL;
}

/* Stores 'value' below 'sp', which is then the new stack pointer; the register is the caller's to set. */
static always_inline uint64_t soft_push_at(struct soft_vcpu *v, const struct soft_op *op,
                                           uint64_t sp, uint32_t size, uint64_t value)
{
    sp = (sp - size) & soft_stack_mask(v);
    soft_store_sized(v, op, soft_stack_linear(v, op, sp, size, true), size, value);
    return sp;
}

static always_inline uint64_t soft_pop_at(struct soft_vcpu *v, const struct soft_op *op,
                                          uint64_t *sp, uint32_t size)
{
    uint64_t at = *sp & soft_stack_mask(v);
    uint64_t value = soft_load_sized(v, op, soft_stack_linear(v, op, at, size, false), size);
    *sp = (at + size) & soft_stack_mask(v);
    return value;
}

static always_inline void soft_push(struct soft_vcpu *v, const struct soft_op *op, uint32_t size,
                                    uint64_t value)
{
    soft_set_sp(v, soft_push_at(v, op, v->gpr[X86_RSP], size, value));
}

#endif
