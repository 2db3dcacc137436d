/* BT and its like without LOCK, bit scans and counts. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/change.h"

#define GIVE_ALL "addb $127, %%al\n\tsahf\n\t"

/* The host's instruction on a register: flags that it leaves alone stay. */
#define BIT_HOST(name, bits, text)                                                                 \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint16_t *status)                         \
    {                                                                                              \
        uint16_t flags = *status;                                                                  \
        __asm__(GIVE_ALL text " %[b], %[a]" ALU_TAKE                                               \
                : "+a"(flags), [a] "+r"(a)                                                         \
                : [b] "r"(b)                                                                       \
                : "cc");                                                                           \
        *status = flags;                                                                           \
        return a;                                                                                  \
    }

/* Address of the element that holds bit 'offset' of a bit string, and the bit in it. */
static inline uint64_t element(struct soft_vcpu *v, const struct soft_op *op, int64_t offset,
                               bool is_write)
{
    uint32_t size = op->size;
    int64_t skip = (offset >> (3 + __builtin_ctz(size))) * size;
    uint64_t at = (soft_offset(v, op) + (uint64_t)skip) & soft_address_mask(op);
    return soft_linear_at(v, op, op->segment, at, size, is_write);
}

/* The bit number: an immediate within the operand, or a register, which for memory reaches beyond. */
#define BIT_INDEX(bits) (op->variant ? (uint##bits##_t)op->imm : SOFT_GET(bits, op->src))

#define BIT_SIZE(name, bits, text, writes)                                                         \
    BIT_HOST(name, bits, text)                                                                     \
    static void name##bits##_r(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        uint##bits##_t result =                                                                    \
            alu_##name##bits(SOFT_GET(bits, op->dst), BIT_INDEX(bits), &v->status);                \
        if (writes) {                                                                              \
            soft_put##bits(v, op->dst, result);                                                    \
        }                                                                                          \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void name##bits##_m(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        uint##bits##_t index = BIT_INDEX(bits);                                                    \
        int64_t offset = op->variant ? 0 : (int##bits##_t)index;                                   \
        uint64_t gva = element(v, op, offset, writes);                                             \
        if (writes) {                                                                              \
            soft_check_change(v, op, gva, bits / 8);                                               \
        }                                                                                          \
        uint16_t status = v->status;                                                               \
        uint##bits##_t old = soft_load##bits(v, op, gva);                                          \
        uint##bits##_t result = alu_##name##bits(old, index, &status);                             \
        if (writes) {                                                                              \
            soft_store##bits(v, op, gva, result);                                                  \
        }                                                                                          \
        v->status = status;                                                                        \
        SOFT_NEXT(v, op);                                                                          \
    }

#define BIT_SIZES(name, writes)                                                                    \
    BIT_SIZE(name, 16, #name "w", writes)                                                          \
    BIT_SIZE(name, 32, #name "l", writes)                                                          \
    BIT_SIZE(name, 64, #name "q", writes)

BIT_SIZES(bt, false)
BIT_SIZES(bts, true)
BIT_SIZES(btr, true)
BIT_SIZES(btc, true)

/* BSF and BSR of zero leave the destination's value, as every CPU does; a 32-bit one's upper half as the host does. */
#define SCAN_SIZE(name, bits, text)                                                                \
    static void name##bits(struct soft_vcpu *v, const struct soft_op *op)                          \
    {                                                                                              \
        uint##bits##_t source = op->flags & SOFT_OP_HAS_MEMORY                                     \
                                    ? soft_load##bits(v, op, soft_linear(v, op, bits / 8, false))  \
                                    : SOFT_GET(bits, op->src);                                     \
        uint64_t result = SOFT_GET(64, op->dst);                                                   \
        uint16_t flags = v->status;                                                                \
        __asm__(GIVE_ALL text ALU_TAKE : "+a"(flags), [a] "+r"(result) : [b] "r"(source) : "cc");  \
        v->status = flags;                                                                         \
        SOFT_GET(64, op->dst) = result;                                                            \
        SOFT_NEXT(v, op);                                                                          \
    }

#define SCAN_SIZES(name)                                                                           \
    SCAN_SIZE(name, 16, #name "w %[b], %w[a]")                                                     \
    SCAN_SIZE(name, 32, #name "l %[b], %k[a]")                                                     \
    SCAN_SIZE(name, 64, #name "q %[b], %q[a]")

SCAN_SIZES(bsf)
SCAN_SIZES(bsr)
SCAN_SIZES(tzcnt)
SCAN_SIZES(lzcnt)
SCAN_SIZES(popcnt)

#define BIT_TABLE(name)                                                                            \
    {                                                                                              \
        {0, name##16_r, name##32_r, name##64_r},                                                   \
        {                                                                                          \
            0, name##16_m, name##32_m, name##64_m                                                  \
        }                                                                                          \
    }
static const soft_op_fn bit_handlers[4][2][4] = {
    BIT_TABLE(bt),
    BIT_TABLE(bts),
    BIT_TABLE(btr),
    BIT_TABLE(btc),
};

#define SCAN_TABLE(name)                                                                           \
    {                                                                                              \
        0, name##16, name##32, name##64                                                            \
    }
static const soft_op_fn scan_handlers[5][4] = {
    SCAN_TABLE(bsf), SCAN_TABLE(bsr), SCAN_TABLE(tzcnt), SCAN_TABLE(lzcnt), SCAN_TABLE(popcnt),
};

static bool prepare_scan(const struct x86_insn *insn, struct soft_op *op, int index)
{
    soft_set_registers(op, insn);
    op->fn = scan_handlers[index][soft_size_index(insn->operand[0].size_bytes)];
    return true;
}

static bool prepare_bit(const struct x86_insn *insn, struct soft_op *op, int index)
{
    soft_set_registers(op, insn);
    op->variant = (uint8_t)(insn->operand[1].kind == X86_OPERAND_IMM);
    op->imm &= insn->operand[0].size_bytes * 8u - 1;
    op->fn = bit_handlers[index][insn->has_memory][soft_size_index(insn->operand[0].size_bytes)];
    return true;
}

bool soft_bit_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    switch (insn->id) {
    case X86_ID_BT:
        return prepare_bit(insn, out_op, 0);
    case X86_ID_BTS:
        return prepare_bit(insn, out_op, 1);
    case X86_ID_BTR:
        return prepare_bit(insn, out_op, 2);
    case X86_ID_BTC:
        return prepare_bit(insn, out_op, 3);
    case X86_ID_BSF:
        return prepare_scan(insn, out_op, 0);
    case X86_ID_BSR:
        return prepare_scan(insn, out_op, 1);
    case X86_ID_TZCNT:
        return prepare_scan(insn, out_op, 2);
    case X86_ID_LZCNT:
        return prepare_scan(insn, out_op, 3);
    case X86_ID_POPCNT:
        return prepare_scan(insn, out_op, 4);
    default:
        return false;
    }
}
