/* The frequent moves and bit operations in C: most SIMD instructions of ordinary programs are these, and a stub costs a
 * call and a trip through memory more. */
#include "engine/soft/simd.h"

/* Operands as byte offsets into v->vector, packed into soft_op.imm: first in bits 15:0, second in 31:16, third (VEX.vvvv)
 * in 47:32; bit 63: the memory operand must be aligned. */
#define IMM_ALIGNED (1ull << 63)

static always_inline uint8_t *first(struct soft_vcpu *v, const struct soft_op *op)
{
    return (uint8_t *)v->vector + (uint16_t)op->imm;
}

static always_inline uint8_t *second(struct soft_vcpu *v, const struct soft_op *op)
{
    return (uint8_t *)v->vector + (uint16_t)(op->imm >> 16);
}

static always_inline uint8_t *third(struct soft_vcpu *v, const struct soft_op *op)
{
    return (uint8_t *)v->vector + (uint16_t)(op->imm >> 32);
}

/* Loads of 'size' bytes; zeroes up to 'width' bytes of the register (16: legacy SSE, 32: VEX). */
static always_inline void load(struct soft_vcpu *v, const struct soft_op *op, uint8_t check,
                               unsigned size, unsigned width)
{
    simd_check(v, op, check);
    uint64_t gva = simd_linear(v, op, size, (op->imm & IMM_ALIGNED) != 0, false);
    uint8_t value[32] = {0};
    if (size == 32) {
        simd_check_ac(v, op, gva, 16); /* no more than that is asked of a YMM operand */
        soft_load_unchecked(v, op, gva, value, size);
    } else {
        soft_load_bytes(v, op, gva, value, size);
    }
    memcpy(first(v, op), value, width);
}

static always_inline void store(struct soft_vcpu *v, const struct soft_op *op, uint8_t check,
                                unsigned size)
{
    simd_check(v, op, check);
    uint64_t gva = simd_linear(v, op, size, (op->imm & IMM_ALIGNED) != 0, true);
    if (size == 32) {
        simd_check_ac(v, op, gva, 16);
        soft_store_unchecked(v, op, gva, first(v, op), size);
    } else {
        soft_store_bytes(v, op, gva, first(v, op), size);
    }
}

#define DEFINE_LOAD(name, check, size, width)                                                      \
    static void op_load_##name(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        load(v, op, check, size, width);                                                           \
        SOFT_NEXT(v, op);                                                                          \
    }
#define DEFINE_STORE(name, check, size)                                                            \
    static void op_store_##name(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        store(v, op, check, size);                                                                 \
        SOFT_NEXT(v, op);                                                                          \
    }

DEFINE_LOAD(sse_4, SIMD_CHECK_SSE, 4, 16)
DEFINE_LOAD(sse_8, SIMD_CHECK_SSE, 8, 16)
DEFINE_LOAD(sse_16, SIMD_CHECK_SSE, 16, 16)
DEFINE_LOAD(vex_4, SIMD_CHECK_VEX, 4, 32)
DEFINE_LOAD(vex_8, SIMD_CHECK_VEX, 8, 32)
DEFINE_LOAD(vex_16, SIMD_CHECK_VEX, 16, 32)
DEFINE_LOAD(vex_32, SIMD_CHECK_VEX, 32, 32)
DEFINE_STORE(sse_4, SIMD_CHECK_SSE, 4)
DEFINE_STORE(sse_8, SIMD_CHECK_SSE, 8)
DEFINE_STORE(sse_16, SIMD_CHECK_SSE, 16)
DEFINE_STORE(vex_4, SIMD_CHECK_VEX, 4)
DEFINE_STORE(vex_8, SIMD_CHECK_VEX, 8)
DEFINE_STORE(vex_16, SIMD_CHECK_VEX, 16)
DEFINE_STORE(vex_32, SIMD_CHECK_VEX, 32)

static void op_copy_sse(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_SSE);
    memmove(first(v, op), second(v, op), 16);
    SOFT_NEXT(v, op);
}

static void op_copy_vex_16(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_VEX);
    memmove(first(v, op), second(v, op), 16);
    memset(first(v, op) + 16, 0, 16);
    SOFT_NEXT(v, op);
}

static void op_copy_vex_32(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_VEX);
    memmove(first(v, op), second(v, op), 32);
    SOFT_NEXT(v, op);
}

typedef uint64_t pair __attribute__((vector_size(16)));
typedef int8_t bytes16 __attribute__((vector_size(16)));

static always_inline pair pair_get(const uint8_t *from)
{
    pair value;
    memcpy(&value, from, sizeof(value));
    return value;
}

/* Legacy bit operations between registers: first = first OP second. */
#define DEFINE_BITWISE(name, expression)                                                           \
    static void op_##name(struct soft_vcpu *v, const struct soft_op *op)                           \
    {                                                                                              \
        simd_check(v, op, SIMD_CHECK_SSE);                                                         \
        pair a = pair_get(first(v, op)), b = pair_get(second(v, op));                              \
        pair result = (pair)(expression);                                                          \
        memcpy(first(v, op), &result, sizeof(result));                                             \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void op_v##name(struct soft_vcpu *v, const struct soft_op *op)                          \
    {                                                                                              \
        simd_check(v, op, SIMD_CHECK_VEX);                                                         \
        pair a = pair_get(third(v, op)), b = pair_get(second(v, op));                              \
        pair result = (pair)(expression);                                                          \
        memcpy(first(v, op), &result, sizeof(result));                                             \
        memset(first(v, op) + 16, 0, 16);                                                          \
        SOFT_NEXT(v, op);                                                                          \
    }

DEFINE_BITWISE(pxor, a ^ b)
DEFINE_BITWISE(pand, a &b)
DEFINE_BITWISE(por, a | b)
DEFINE_BITWISE(pcmpeqb, (bytes16)a == (bytes16)b)

static void op_pmovmskb(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_SSE);
    const uint8_t *from = second(v, op);
    uint32_t result = 0;
    for (unsigned i = 0; i < 16; i++) {
        result |= (uint32_t)(from[i] >> 7) << i;
    }
    v->gpr[(uint16_t)op->imm] = result;
    SOFT_NEXT(v, op);
}

/* MOVD and MOVQ between general and vector registers. The general register is 'src' or 'dst'. */
static void op_movd_in(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_SSE);
    uint64_t value[2] = {v->gpr[op->src], 0};
    if (op->size == 4) {
        value[0] = (uint32_t)value[0];
    }
    memcpy(first(v, op), value, 16);
    SOFT_NEXT(v, op);
}

static void op_movd_out(struct soft_vcpu *v, const struct soft_op *op)
{
    simd_check(v, op, SIMD_CHECK_SSE);
    uint64_t value;
    memcpy(&value, first(v, op), 8);
    v->gpr[op->dst] = op->size == 4 ? (uint32_t)value : value;
    SOFT_NEXT(v, op);
}

enum move_kind {
    MOVE_NONE,
    MOVE_FULL,   /* all of the vector, both directions, also between registers */
    MOVE_SCALAR, /* to and from memory only */
};

static enum move_kind move_kind(uint16_t id)
{
    switch (id) {
    case X86_ID_MOVUPS:
    case X86_ID_MOVUPD:
    case X86_ID_MOVAPS:
    case X86_ID_MOVAPD:
    case X86_ID_MOVDQA:
    case X86_ID_MOVDQU:
    case X86_ID_LDDQU:
    case X86_ID_MOVNTPS:
    case X86_ID_MOVNTPD:
    case X86_ID_MOVNTDQ:
    case X86_ID_MOVNTDQA:
    case X86_ID_VMOVUPS:
    case X86_ID_VMOVUPD:
    case X86_ID_VMOVAPS:
    case X86_ID_VMOVAPD:
    case X86_ID_VMOVDQA:
    case X86_ID_VMOVDQU:
    case X86_ID_VLDDQU:
    case X86_ID_VMOVNTPS:
    case X86_ID_VMOVNTPD:
    case X86_ID_VMOVNTDQ:
    case X86_ID_VMOVNTDQA:
        return MOVE_FULL;
    case X86_ID_MOVSS:
    case X86_ID_MOVSD:
    case X86_ID_MOVD:
    case X86_ID_MOVQ:
    case X86_ID_VMOVSS:
    case X86_ID_VMOVSD:
    case X86_ID_VMOVD:
    case X86_ID_VMOVQ:
        return MOVE_SCALAR;
    default:
        return MOVE_NONE;
    }
}

static soft_op_fn memory_move(bool is_vex, bool is_store, unsigned size)
{
    switch (size) {
    case 4:
        return is_vex ? (is_store ? op_store_vex_4 : op_load_vex_4)
                      : (is_store ? op_store_sse_4 : op_load_sse_4);
    case 8:
        return is_vex ? (is_store ? op_store_vex_8 : op_load_vex_8)
                      : (is_store ? op_store_sse_8 : op_load_sse_8);
    case 16:
        return is_vex ? (is_store ? op_store_vex_16 : op_load_vex_16)
                      : (is_store ? op_store_sse_16 : op_load_sse_16);
    case 32:
        return is_vex ? (is_store ? op_store_vex_32 : op_load_vex_32) : NULL;
    default:
        return NULL;
    }
}

static uint64_t pack(uint8_t a, uint8_t b, uint8_t c)
{
    return a * 32ull | (b * 32ull) << 16 | (c * 32ull) << 32;
}

static bool is_vector(const struct x86_operand *operand)
{
    return operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_VECTOR;
}

static bool prepare_move(const struct x86_insn *insn, enum move_kind kind, struct soft_op *out_op)
{
    const struct x86_operand *to = &insn->operand[0], *from = &insn->operand[1];
    bool is_vex = (insn->prefixes & X86_PREFIX_VEX) != 0;
    if (insn->operand_count != 2) {
        return false;
    }
    if (insn->has_memory) {
        bool is_store = to->kind == X86_OPERAND_MEM;
        const struct x86_operand *reg = is_store ? from : to;
        soft_op_fn fn = memory_move(is_vex, is_store, (is_store ? to : from)->size_bytes);
        if (!is_vector(reg) || fn == NULL) {
            return false;
        }
        out_op->fn = fn;
        out_op->imm = pack(reg->reg, 0, 0);
        if ((x86_rows[insn->row].attributes & X86_ROW_ALIGNED) != 0) {
            out_op->imm |= IMM_ALIGNED;
        }
        return true;
    }
    if (kind == MOVE_FULL && is_vector(to) && is_vector(from)) {
        out_op->fn = !is_vex ? op_copy_sse : insn->vex_l != 0 ? op_copy_vex_32 : op_copy_vex_16;
        out_op->imm = pack(to->reg, from->reg, 0);
        return true;
    }
    if (is_vex || (insn->id != X86_ID_MOVD && insn->id != X86_ID_MOVQ)) {
        return false;
    }
    if (is_vector(to) && from->kind == X86_OPERAND_REG && from->reg_class == X86_REG_GPR) {
        out_op->fn = op_movd_in;
        out_op->imm = pack(to->reg, 0, 0);
        out_op->src = from->reg;
        out_op->size = (uint8_t)from->size_bytes;
        return true;
    }
    if (is_vector(from) && to->kind == X86_OPERAND_REG && to->reg_class == X86_REG_GPR) {
        out_op->fn = op_movd_out;
        out_op->imm = pack(from->reg, 0, 0);
        out_op->dst = to->reg;
        out_op->size = (uint8_t)to->size_bytes;
        return true;
    }
    return false;
}

static bool prepare_bitwise(const struct x86_insn *insn, struct soft_op *out_op)
{
    static const struct {
        uint16_t id;
        soft_op_fn fn;
    } handlers[] = {
        {X86_ID_PXOR, op_pxor},   {X86_ID_XORPS, op_pxor},        {X86_ID_PAND, op_pand},
        {X86_ID_ANDPS, op_pand},  {X86_ID_POR, op_por},           {X86_ID_PCMPEQB, op_pcmpeqb},
        {X86_ID_VPXOR, op_vpxor}, {X86_ID_VXORPS, op_vpxor},      {X86_ID_VPAND, op_vpand},
        {X86_ID_VPOR, op_vpor},   {X86_ID_VPCMPEQB, op_vpcmpeqb},
    };
    if (insn->has_memory || insn->vex_l != 0 || !is_vector(&insn->operand[0])) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_COUNT(handlers); i++) {
        if (insn->id == handlers[i].id) {
            bool is_vex = (insn->prefixes & X86_PREFIX_VEX) != 0;
            out_op->fn = handlers[i].fn;
            out_op->imm =
                is_vex ? pack(insn->operand[0].reg, insn->operand[2].reg, insn->operand[1].reg)
                       : pack(insn->operand[0].reg, insn->operand[1].reg, 0);
            return true;
        }
    }
    return false;
}

bool simd_prepare_move(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    (void)v;
    enum move_kind kind = move_kind(insn->id);
    if (kind != MOVE_NONE && prepare_move(insn, kind, out_op)) {
        return true;
    }
    if (insn->id == X86_ID_PMOVMSKB && is_vector(&insn->operand[1])) {
        out_op->fn = op_pmovmskb;
        out_op->imm = insn->operand[0].reg | (insn->operand[1].reg * 32ull) << 16;
        return true;
    }
    return prepare_bitwise(insn, out_op);
}
