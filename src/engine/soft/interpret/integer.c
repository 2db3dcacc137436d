/* Arithmetic, logic and comparison. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/change.h"

enum form {
    FORM_REG_REG,
    FORM_REG_IMM,
    FORM_REG_MEM,
    FORM_MEM_REG,
    FORM_MEM_IMM,
    FORM_COUNT,
};

#define BINARY_SIZE(name, bits)                                                                    \
    static void name##bits##_rr(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        soft_put##bits(                                                                            \
            v, op->dst,                                                                            \
            alu_##name##bits(SOFT_GET(bits, op->dst), SOFT_GET(bits, op->src), &v->status));       \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_ri(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        soft_put##bits(                                                                            \
            v, op->dst,                                                                            \
            alu_##name##bits(SOFT_GET(bits, op->dst), (uint##bits##_t)op->imm, &v->status));       \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    SOFT_LOAD_HANDLER(                                                                             \
        name##bits##_rm, bits,                                                                     \
        soft_put##bits(v, op->dst, alu_##name##bits(SOFT_GET(bits, op->dst), value, &v->status)))  \
    static void name##bits##_mr(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        CHANGE_MEMORY(bits, alu_##name##bits(old, SOFT_GET(bits, op->src), &v->status))            \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_mi(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        CHANGE_MEMORY(bits, alu_##name##bits(old, (uint##bits##_t)op->imm, &v->status))            \
        SOFT_NEXT(v, op);                                                                          \
    }

#define COMPARE_SIZE(name, bits)                                                                   \
    static void name##bits##_rr(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        alu_##name##bits(SOFT_GET(bits, op->dst), SOFT_GET(bits, op->src), &v->status);            \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_ri(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        alu_##name##bits(SOFT_GET(bits, op->dst), (uint##bits##_t)op->imm, &v->status);            \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    SOFT_LOAD_HANDLER(name##bits##_rm, bits,                                                       \
                      alu_##name##bits(SOFT_GET(bits, op->dst), value, &v->status))                \
    SOFT_LOAD_HANDLER(name##bits##_mr, bits,                                                       \
                      alu_##name##bits(value, SOFT_GET(bits, op->src), &v->status))                \
    SOFT_LOAD_HANDLER(name##bits##_mi, bits,                                                       \
                      alu_##name##bits(value, (uint##bits##_t)op->imm, &v->status))

#define UNARY_SIZE(name, bits)                                                                     \
    static void name##bits##_r(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        soft_put##bits(v, op->dst, alu_##name##bits(SOFT_GET(bits, op->dst), &v->status));         \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_m(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        CHANGE_MEMORY(bits, alu_##name##bits(old, &v->status))                                     \
        SOFT_NEXT(v, op);                                                                          \
    }

#define ALL_SIZES(kind, name) kind(name, 8) kind(name, 16) kind(name, 32) kind(name, 64)

ALL_SIZES(BINARY_SIZE, add)
ALL_SIZES(BINARY_SIZE, or)
ALL_SIZES(BINARY_SIZE, adc)
ALL_SIZES(BINARY_SIZE, sbb)
ALL_SIZES(BINARY_SIZE, and)
ALL_SIZES(BINARY_SIZE, sub)
ALL_SIZES(BINARY_SIZE, xor)
ALL_SIZES(COMPARE_SIZE, cmp)
ALL_SIZES(COMPARE_SIZE, test)
ALL_SIZES(UNARY_SIZE, inc)
ALL_SIZES(UNARY_SIZE, dec)
ALL_SIZES(UNARY_SIZE, neg)
ALL_SIZES(UNARY_SIZE, not )

/* Rows by form, columns by size. */
#define FORM_ROW(name, form)                                                                       \
    {                                                                                              \
        name##8##form, name##16##form, name##32##form, name##64##form                              \
    }
#define BINARY_TABLE(name)                                                                         \
    {                                                                                              \
        FORM_ROW(name, _rr), FORM_ROW(name, _ri), FORM_ROW(name, _rm), FORM_ROW(name, _mr),        \
            FORM_ROW(name, _mi)                                                                    \
    }

static const soft_op_fn binary_handlers[][FORM_COUNT][4] = {
    BINARY_TABLE(add), BINARY_TABLE(or),  BINARY_TABLE(adc), BINARY_TABLE(sbb),  BINARY_TABLE(and),
    BINARY_TABLE(sub), BINARY_TABLE(xor), BINARY_TABLE(cmp), BINARY_TABLE(test),
};

static const soft_op_fn unary_handlers[][2][4] = {
    {FORM_ROW(inc, _r), FORM_ROW(inc, _m)},
    {FORM_ROW(dec, _r), FORM_ROW(dec, _m)},
    {FORM_ROW(neg, _r), FORM_ROW(neg, _m)},
    {FORM_ROW(not, _r), FORM_ROW(not, _m)},
};

static int binary_index(uint16_t id)
{
    switch (id) {
    case X86_ID_ADD:
        return 0;
    case X86_ID_OR:
        return 1;
    case X86_ID_ADC:
        return 2;
    case X86_ID_SBB:
        return 3;
    case X86_ID_AND:
        return 4;
    case X86_ID_SUB:
        return 5;
    case X86_ID_XOR:
        return 6;
    case X86_ID_CMP:
        return 7;
    case X86_ID_TEST:
        return 8;
    default:
        return -1;
    }
}

static int unary_index(uint16_t id)
{
    switch (id) {
    case X86_ID_INC:
        return 0;
    case X86_ID_DEC:
        return 1;
    case X86_ID_NEG:
        return 2;
    case X86_ID_NOT:
        return 3;
    default:
        return -1;
    }
}

static enum form form_of(const struct x86_insn *insn)
{
    bool is_memory = insn->operand[0].kind == X86_OPERAND_MEM;
    switch (insn->operand[1].kind) {
    case X86_OPERAND_IMM:
        return is_memory ? FORM_MEM_IMM : FORM_REG_IMM;
    case X86_OPERAND_MEM:
        return FORM_REG_MEM;
    default:
        return is_memory ? FORM_MEM_REG : FORM_REG_REG;
    }
}

bool soft_integer_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    unsigned size = soft_size_index(insn->operand[0].size_bytes);
    int index = binary_index(insn->id);
    if (index >= 0) {
        soft_set_registers(out_op, insn);
        out_op->fn = binary_handlers[index][form_of(insn)][size];
        return true;
    }
    index = unary_index(insn->id);
    if (index >= 0) {
        soft_set_registers(out_op, insn);
        out_op->fn = unary_handlers[index][insn->operand[0].kind == X86_OPERAND_MEM][size];
        return true;
    }
    return false;
}
