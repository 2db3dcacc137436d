/* Multiplication and division. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"

static always_inline uint64_t source(struct soft_vcpu *v, const struct soft_op *op)
{
    return op->flags & SOFT_OP_HAS_MEMORY
               ? soft_load_sized(v, op, soft_linear(v, op, op->size, false), op->size)
               : soft_get_sized(v, op->src, op->size);
}

/* The 8-bit forms: AX = AL * source. */
#define MULTIPLY_8(name)                                                                           \
    static void name##_8(struct soft_vcpu *v, const struct soft_op *op)                            \
    {                                                                                              \
        uint8_t b = (uint8_t)source(v, op);                                                        \
        uint16_t ax = (uint8_t)v->gpr[X86_RAX], status;                                            \
        __asm__(#name "b %[b]\n\tmovw %%ax, %%dx\n\tlahf\n\tseto %%al"                             \
                : "+a"(ax), "=&d"(status)                                                          \
                : [b] "q"(b)                                                                       \
                : "cc");                                                                           \
        soft_put16(v, X86_RAX * 8, status);                                                        \
        v->status = ax;                                                                            \
        SOFT_NEXT(v, op);                                                                          \
    }
MULTIPLY_8(mul)
MULTIPLY_8(imul)

#define MULTIPLY(name, bits, suffix)                                                               \
    static void name##_##bits(struct soft_vcpu *v, const struct soft_op *op)                       \
    {                                                                                              \
        uint##bits##_t b = (uint##bits##_t)source(v, op);                                          \
        uint64_t low = v->gpr[X86_RAX], high, flags;                                               \
        __asm__(#name suffix " %[b]\n\tmovq %%rax, %[low]\n\tlahf\n\tseto %%al"                    \
                : "=&a"(flags), "=&d"(high), [low] "=&r"(low)                                      \
                : [b] "r"(b), "0"(low)                                                             \
                : "cc");                                                                           \
        soft_put##bits(v, X86_RAX * 8, (uint##bits##_t)low);                                       \
        soft_put##bits(v, X86_RDX * 8, (uint##bits##_t)high);                                      \
        v->status = (uint16_t)flags;                                                               \
        SOFT_NEXT(v, op);                                                                          \
    }
MULTIPLY(mul, 16, "w")
MULTIPLY(mul, 32, "l")
MULTIPLY(mul, 64, "q")
MULTIPLY(imul, 16, "w")
MULTIPLY(imul, 32, "l")
MULTIPLY(imul, 64, "q")

/* dst = dst * source, or with 'variant': dst = source * imm. */
#define MULTIPLY_SIGNED(bits, suffix)                                                              \
    static void imul2_##bits(struct soft_vcpu *v, const struct soft_op *op)                        \
    {                                                                                              \
        uint##bits##_t b = (uint##bits##_t)source(v, op);                                          \
        uint##bits##_t a = op->variant ? (uint##bits##_t)op->imm : SOFT_GET(bits, op->dst);        \
        uint16_t status;                                                                           \
        __asm__("imul" suffix " %[b], %[a]" ALU_TAKE                                               \
                : "=&a"(status), [a] "+r"(a)                                                       \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        v->status = status;                                                                        \
        soft_put##bits(v, op->dst, a);                                                             \
        SOFT_NEXT(v, op);                                                                          \
    }
MULTIPLY_SIGNED(16, "w")
MULTIPLY_SIGNED(32, "l")
MULTIPLY_SIGNED(64, "q")

/* Divisions that would fault on the host never get there. The flags are what the host leaves. */
static void div_8(struct soft_vcpu *v, const struct soft_op *op)
{
    uint8_t b = (uint8_t)source(v, op);
    uint16_t ax = (uint16_t)v->gpr[X86_RAX];
    if (b == 0 || ax >> 8 >= b) {
        soft_raise(v, op, X86_DE);
    }
    soft_put16(v, X86_RAX * 8, (uint16_t)((ax % b) << 8 | ax / b));
    SOFT_NEXT(v, op);
}

static void idiv_8(struct soft_vcpu *v, const struct soft_op *op)
{
    int32_t b = (int8_t)source(v, op);
    int32_t ax = (int16_t)v->gpr[X86_RAX];
    if (b == 0 || ax / b != (int8_t)(ax / b)) {
        soft_raise(v, op, X86_DE);
    }
    soft_put16(v, X86_RAX * 8, (uint16_t)((uint8_t)(ax % b) << 8 | (uint8_t)(ax / b)));
    SOFT_NEXT(v, op);
}

#define DIVIDE(bits, suffix)                                                                       \
    static void div_##bits(struct soft_vcpu *v, const struct soft_op *op)                          \
    {                                                                                              \
        uint##bits##_t b = (uint##bits##_t)source(v, op);                                          \
        uint##bits##_t low = SOFT_GET(bits, X86_RAX * 8), high = SOFT_GET(bits, X86_RDX * 8);      \
        if (high >= b) {                                                                           \
            soft_raise(v, op, X86_DE);                                                             \
        }                                                                                          \
        uint16_t status;                                                                           \
        uint##bits##_t quotient;                                                                   \
        __asm__("div" suffix " %[b]\n\tmov %%rax, %q[quotient]\n\tlahf\n\tseto %%al"               \
                : "=&a"(status), "+d"(high), [quotient] "=&r"(quotient)                            \
                : [b] "r"(b), "0"(low)                                                             \
                : "cc");                                                                           \
        v->status = status;                                                                        \
        soft_put##bits(v, X86_RAX * 8, quotient);                                                  \
        soft_put##bits(v, X86_RDX * 8, high);                                                      \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void idiv_##bits(struct soft_vcpu *v, const struct soft_op *op)                         \
    {                                                                                              \
        __int128 b = (int##bits##_t)source(v, op);                                                 \
        uint##bits##_t low = SOFT_GET(bits, X86_RAX * 8), high = SOFT_GET(bits, X86_RDX * 8);      \
        __int128 dividend =                                                                        \
            (__int128)((unsigned __int128)(__int128)(int##bits##_t)high << bits | low);            \
        bool overflows = b == 0;                                                                   \
        if (!overflows && b == -1) {                                                               \
            overflows = (unsigned __int128)dividend == (unsigned __int128)1 << 127 ||              \
                        -dividend != (int##bits##_t) - dividend;                                   \
        } else if (!overflows) {                                                                   \
            overflows = dividend / b != (int##bits##_t)(dividend / b);                             \
        }                                                                                          \
        if (overflows) {                                                                           \
            soft_raise(v, op, X86_DE);                                                             \
        }                                                                                          \
        soft_put##bits(v, X86_RAX * 8, (uint##bits##_t)(b == -1 ? -dividend : dividend / b));      \
        soft_put##bits(v, X86_RDX * 8, (uint##bits##_t)(b == -1 ? 0 : dividend % b));              \
        SOFT_NEXT(v, op);                                                                          \
    }
DIVIDE(16, "w")
DIVIDE(32, "l")
DIVIDE(64, "q")

bool soft_muldiv_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    static const soft_op_fn handlers[4][4] = {
        {mul_8, mul_16, mul_32, mul_64},
        {imul_8, imul_16, imul_32, imul_64},
        {div_8, div_16, div_32, div_64},
        {idiv_8, idiv_16, idiv_32, idiv_64},
    };
    static const soft_op_fn imul2_handlers[4] = {0, imul2_16, imul2_32, imul2_64};
    int index;
    switch (insn->id) {
    case X86_ID_MUL:
        index = 0;
        break;
    case X86_ID_IMUL:
        index = 1;
        break;
    case X86_ID_DIV:
        index = 2;
        break;
    case X86_ID_IDIV:
        index = 3;
        break;
    default:
        return false;
    }
    const struct x86_operand *first = &insn->operand[0];
    if (index == 1 && insn->operand_count > 1 && !insn->operand[1].is_implicit) {
        soft_set_registers(out_op, insn);
        out_op->variant = (uint8_t)(insn->operand_count > 2);
        out_op->fn = imul2_handlers[soft_size_index(first->size_bytes)];
        return true;
    }
    out_op->size = (uint8_t)first->size_bytes;
    if (soft_is_gpr(first)) {
        out_op->src = soft_reg_offset(first);
    }
    out_op->fn = handlers[index][soft_size_index(first->size_bytes)];
    return true;
}
