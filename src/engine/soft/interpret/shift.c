/* Shifts and rotates. The host gets the guest's flags first, so that counts of zero and flags that an instruction leaves
 * alone need no case. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/change.h"

/* All status flags into the host's: OF from AL's overflow, the rest by SAHF. */
#define GIVE_ALL "addb $127, %%al\n\tsahf\n\t"

#define SHIFT(name, bits, text)                                                                    \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint8_t count,          \
                                                         uint16_t *status)                         \
    {                                                                                              \
        uint16_t flags = *status;                                                                  \
        __asm__(GIVE_ALL text " %%cl, %[a]" ALU_TAKE                                               \
                : "+a"(flags), [a] "+q"(a)                                                         \
                : "c"(count)                                                                       \
                : "cc");                                                                           \
        *status = flags;                                                                           \
        return a;                                                                                  \
    }                                                                                              \
    static void name##bits##_ri(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        soft_put##bits(v, op->dst,                                                                 \
                       alu_##name##bits(SOFT_GET(bits, op->dst), (uint8_t)op->imm, &v->status));   \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_rc(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        soft_put##bits(                                                                            \
            v, op->dst,                                                                            \
            alu_##name##bits(SOFT_GET(bits, op->dst), (uint8_t)v->gpr[X86_RCX], &v->status));      \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_mi(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        CHANGE_MEMORY(bits, alu_##name##bits(old, (uint8_t)op->imm, &v->status))                   \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_mc(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        CHANGE_MEMORY(bits, alu_##name##bits(old, (uint8_t)v->gpr[X86_RCX], &v->status))           \
        SOFT_NEXT(v, op);                                                                          \
    }

ALU_SIZES(SHIFT, rol)
ALU_SIZES(SHIFT, ror)
ALU_SIZES(SHIFT, rcl)
ALU_SIZES(SHIFT, rcr)
ALU_SIZES(SHIFT, shl)
ALU_SIZES(SHIFT, shr)
ALU_SIZES(SHIFT, sar)

#define DOUBLE(name, bits, text)                                                                   \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint8_t count, uint16_t *status)          \
    {                                                                                              \
        uint16_t flags = *status;                                                                  \
        __asm__(GIVE_ALL text " %%cl, %[b], %[a]" ALU_TAKE                                         \
                : "+a"(flags), [a] "+r"(a)                                                         \
                : "c"(count), [b] "r"(b)                                                           \
                : "cc");                                                                           \
        *status = flags;                                                                           \
        return a;                                                                                  \
    }                                                                                              \
    static void name##bits##_r(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        uint8_t count = op->variant ? (uint8_t)v->gpr[X86_RCX] : (uint8_t)op->imm;                 \
        soft_put##bits(v, op->dst,                                                                 \
                       alu_##name##bits(SOFT_GET(bits, op->dst), SOFT_GET(bits, op->src), count,   \
                                        &v->status));                                              \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_m(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        uint8_t count = op->variant ? (uint8_t)v->gpr[X86_RCX] : (uint8_t)op->imm;                 \
        CHANGE_MEMORY(bits, alu_##name##bits(old, SOFT_GET(bits, op->src), count, &v->status))     \
        SOFT_NEXT(v, op);                                                                          \
    }

DOUBLE(shld, 16, "shldw")
DOUBLE(shld, 32, "shldl")
DOUBLE(shld, 64, "shldq")
DOUBLE(shrd, 16, "shrdw")
DOUBLE(shrd, 32, "shrdl")
DOUBLE(shrd, 64, "shrdq")

#define FORM_ROW(name, form)                                                                       \
    {                                                                                              \
        name##8##form, name##16##form, name##32##form, name##64##form                              \
    }
#define SHIFT_TABLE(name)                                                                          \
    {                                                                                              \
        FORM_ROW(name, _ri), FORM_ROW(name, _rc), FORM_ROW(name, _mi), FORM_ROW(name, _mc)         \
    }

static const soft_op_fn shift_handlers[][4][4] = {
    SHIFT_TABLE(rol), SHIFT_TABLE(ror), SHIFT_TABLE(rcl), SHIFT_TABLE(rcr),
    SHIFT_TABLE(shl), SHIFT_TABLE(shr), SHIFT_TABLE(sar),
};

static const soft_op_fn double_handlers[2][2][4] = {
    {{0, shld16_r, shld32_r, shld64_r}, {0, shld16_m, shld32_m, shld64_m}},
    {{0, shrd16_r, shrd32_r, shrd64_r}, {0, shrd16_m, shrd32_m, shrd64_m}},
};

bool soft_shift_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    int index;
    switch (insn->id) {
    case X86_ID_ROL:
        index = 0;
        break;
    case X86_ID_ROR:
        index = 1;
        break;
    case X86_ID_RCL:
        index = 2;
        break;
    case X86_ID_RCR:
        index = 3;
        break;
    case X86_ID_SHL:
        index = 4;
        break;
    case X86_ID_SHR:
        index = 5;
        break;
    case X86_ID_SAR:
        index = 6;
        break;
    case X86_ID_SHLD:
    case X86_ID_SHRD:
        soft_set_registers(out_op, insn);
        out_op->variant = (uint8_t)(insn->operand[2].kind == X86_OPERAND_REG);
        out_op->fn = double_handlers[insn->id == X86_ID_SHRD][insn->has_memory]
                                    [soft_size_index(insn->operand[0].size_bytes)];
        return true;
    default:
        return false;
    }
    bool by_cl = insn->operand[1].kind == X86_OPERAND_REG;
    soft_set_registers(out_op, insn);
    out_op->fn = shift_handlers[index][(insn->has_memory ? 2 : 0) + by_cl]
                               [soft_size_index(insn->operand[0].size_bytes)];
    return true;
}
