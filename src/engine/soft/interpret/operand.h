/* Operands of handlers: general registers by byte offset, and what the prepare functions need. */
#ifndef ENGINE_SOFT_INTERPRET_OPERAND_H
#define ENGINE_SOFT_INTERPRET_OPERAND_H

#include "engine/soft/memory_access.h"

#define SOFT_GET(bits, offset) (*(soft_u##bits *)((uint8_t *)v->gpr + (offset)))

static always_inline void soft_put8(struct soft_vcpu *v, uint8_t offset, uint8_t value)
{
    SOFT_GET(8, offset) = value;
}

static always_inline void soft_put16(struct soft_vcpu *v, uint8_t offset, uint16_t value)
{
    SOFT_GET(16, offset) = value;
}

/* A write of 32 bits clears the upper half. */
static always_inline void soft_put32(struct soft_vcpu *v, uint8_t offset, uint32_t value)
{
    SOFT_GET(64, offset) = value;
}

static always_inline void soft_put64(struct soft_vcpu *v, uint8_t offset, uint64_t value)
{
    SOFT_GET(64, offset) = value;
}

/* Two functions: handler 'name' of an op that reads 'value' from its memory operand and does 'then', and its slow half. */
#define SOFT_LOAD_HANDLER(name, bits, then)                                                        \
    cold_fn static void name##_slow(struct soft_vcpu *v, const struct soft_op *op)                 \
    {                                                                                              \
        uint##bits##_t value = soft_load##bits(v, op, soft_linear(v, op, bits / 8, false));        \
        then;                                                                                      \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name(struct soft_vcpu *v, const struct soft_op *op)                                \
    {                                                                                              \
        const volatile soft_u##bits *at = soft_fast_operand(v, op, bits / 8, false);               \
        if (unlikely(!at)) {                                                                       \
            name##_slow(v, op);                                                                    \
            return;                                                                                \
        }                                                                                          \
        uint##bits##_t value = *at;                                                                \
        then;                                                                                      \
        SOFT_NEXT(v, op);                                                                          \
    }

/* The same for an op that writes 'value' there and does nothing else. */
#define SOFT_STORE_HANDLER(name, bits, value)                                                      \
    cold_fn static void name##_slow(struct soft_vcpu *v, const struct soft_op *op)                 \
    {                                                                                              \
        soft_store##bits(v, op, soft_linear(v, op, bits / 8, true), value);                        \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name(struct soft_vcpu *v, const struct soft_op *op)                                \
    {                                                                                              \
        volatile soft_u##bits *at = soft_fast_operand(v, op, bits / 8, true);                      \
        if (unlikely(!at)) {                                                                       \
            name##_slow(v, op);                                                                    \
            return;                                                                                \
        }                                                                                          \
        *at = value;                                                                               \
        SOFT_NEXT(v, op);                                                                          \
    }

static inline uint8_t soft_reg_offset(const struct x86_operand *operand)
{
    return (uint8_t)(operand->reg * 8 + operand->is_high);
}

static inline bool soft_is_gpr(const struct x86_operand *operand)
{
    return operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR;
}

/* 1, 2, 4, 8 to 0..3 */
static inline unsigned soft_size_index(uint32_t size)
{
    return (unsigned)__builtin_ctz(size | 16u) & 3u;
}

static inline uint64_t soft_get_sized(const struct soft_vcpu *v, uint8_t offset, uint32_t size)
{
    const uint8_t *at = (const uint8_t *)v->gpr + offset;
    return size == 1   ? *at
           : size == 2 ? *(const soft_u16 *)at
           : size == 4 ? *(const soft_u32 *)at
                       : *(const soft_u64 *)at;
}

static inline void soft_put_sized(struct soft_vcpu *v, uint8_t offset, uint32_t size,
                                  uint64_t value)
{
    if (size == 1) {
        soft_put8(v, offset, (uint8_t)value);
    } else if (size == 2) {
        soft_put16(v, offset, (uint16_t)value);
    } else if (size == 4) {
        soft_put32(v, offset, (uint32_t)value);
    } else {
        soft_put64(v, offset, value);
    }
}

static inline uint64_t soft_load_sized(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                                       uint32_t size)
{
    uint64_t value = 0;
    switch (size) {
    case 1:
        return soft_load8(v, op, gva);
    case 2:
        return soft_load16(v, op, gva);
    case 4:
        return soft_load32(v, op, gva);
    case 8:
        return soft_load64(v, op, gva);
    default:
        soft_load_bytes(v, op, gva, &value, size);
        return value;
    }
}

static inline void soft_store_sized(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                                    uint32_t size, uint64_t value)
{
    switch (size) {
    case 1:
        soft_store8(v, op, gva, (uint8_t)value);
        break;
    case 2:
        soft_store16(v, op, gva, (uint16_t)value);
        break;
    case 4:
        soft_store32(v, op, gva, (uint32_t)value);
        break;
    default:
        soft_store64(v, op, gva, value);
        break;
    }
}

static inline uint64_t soft_size_mask(uint32_t size)
{
    return size >= 8 ? UINT64_MAX : (1ull << size * 8) - 1;
}

/* Fills dst and src from the first two operands; the memory operand leaves its own at 0. */
static inline void soft_set_registers(struct soft_op *op, const struct x86_insn *insn)
{
    if (soft_is_gpr(&insn->operand[0])) {
        op->dst = soft_reg_offset(&insn->operand[0]);
    }
    if (insn->operand_count > 1 && soft_is_gpr(&insn->operand[1])) {
        op->src = soft_reg_offset(&insn->operand[1]);
    }
}

#endif
