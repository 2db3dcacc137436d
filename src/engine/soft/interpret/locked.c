/* Locked read-modify-writes, and those that are often used so: XCHG with memory, XADD, CMPXCHG, CMPXCHG8B and 16B.
 *
 * Host atomics on guest memory: a loop around compare-and-swap does for every operation. What lies across two pages, or on
 * a device, is done while all other vCPUs stand still. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"

/* The operation proper: its result from the old value of memory. */
#define SOURCE(bits) (op->variant ? (uint##bits##_t)op->imm : SOFT_GET(bits, op->src))

#define LOCKED(name, bits, result_of_old, and_then)                                                \
    static void name##bits##_locked(struct soft_vcpu *v, const struct soft_op *op)                 \
    {                                                                                              \
        uint64_t gva = soft_linear(v, op, bits / 8, true);                                         \
        soft_u##bits *at = soft_fast_write(v, gva, bits / 8);                                      \
        struct soft_page page = {0};                                                               \
        uint##bits##_t old, result;                                                                \
        uint16_t status;                                                                           \
        if (unlikely(!at)) {                                                                       \
            at = (void *)soft_map_write(v, op, gva, bits / 8, &page);                              \
        }                                                                                          \
        if (likely(at)) {                                                                          \
            do {                                                                                   \
                old = *(volatile soft_u##bits *)at;                                                \
                status = v->status;                                                                \
                result = result_of_old;                                                            \
            } while (!__sync_bool_compare_and_swap((uint##bits##_t *)at, old, result));            \
            if (unlikely(page.slot)) {                                                             \
                soft_written(v, &page, bits / 8);                                                  \
            }                                                                                      \
        } else {                                                                                   \
            soft_stop_others(v);                                                                   \
            soft_load_unchecked(v, op, gva, &old, bits / 8);                                       \
            status = v->status;                                                                    \
            result = result_of_old;                                                                \
            soft_store_unchecked(v, op, gva, &result, bits / 8);                                   \
            soft_resume_others(v);                                                                 \
        }                                                                                          \
        v->status = status;                                                                        \
        and_then;                                                                                  \
        SOFT_NEXT(v, op);                                                                          \
    }

#define LOCKED_BINARY(name, bits)                                                                  \
    LOCKED(name, bits, alu_##name##bits(old, SOURCE(bits), &status), (void)0)
#define LOCKED_UNARY(name, bits) LOCKED(name, bits, alu_##name##bits(old, &status), (void)0)
#define LOCKED_XCHG(name, bits)                                                                    \
    LOCKED(name, bits, SOFT_GET(bits, op->src), soft_put##bits(v, op->src, old))
#define LOCKED_XADD(name, bits)                                                                    \
    LOCKED(name, bits, alu_add##bits(old, SOFT_GET(bits, op->src), &status),                       \
           soft_put##bits(v, op->src, old))

/* Compares with the accumulator; the store happens in either case. */
#define LOCKED_CMPXCHG(name, bits)                                                                 \
    static always_inline uint##bits##_t exchange_if_equal##bits(                                   \
        struct soft_vcpu *v, uint##bits##_t old, uint##bits##_t wanted, uint16_t *status)          \
    {                                                                                              \
        uint##bits##_t accumulator = SOFT_GET(bits, X86_RAX * 8);                                  \
        alu_cmp##bits(accumulator, old, status);                                                   \
        return accumulator == old ? wanted : old;                                                  \
    }                                                                                              \
    LOCKED(name, bits, exchange_if_equal##bits(v, old, SOFT_GET(bits, op->src), &status),          \
           if (!(status & SOFT_STATUS_ZF)) soft_put##bits(v, X86_RAX * 8, old))                    \
    static void name##bits##_reg(struct soft_vcpu *v, const struct soft_op *op)                    \
    {                                                                                              \
        uint##bits##_t old = SOFT_GET(bits, op->dst);                                              \
        uint##bits##_t result =                                                                    \
            exchange_if_equal##bits(v, old, SOFT_GET(bits, op->src), &v->status);                  \
        if (v->status & SOFT_STATUS_ZF) {                                                          \
            soft_put##bits(v, op->dst, result);                                                    \
        } else {                                                                                   \
            soft_put##bits(v, X86_RAX * 8, old);                                                   \
        }                                                                                          \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void xadd##bits##_reg(struct soft_vcpu *v, const struct soft_op *op)                    \
    {                                                                                              \
        uint##bits##_t a = SOFT_GET(bits, op->dst);                                                \
        uint##bits##_t sum = alu_add##bits(a, SOFT_GET(bits, op->src), &v->status);                \
        soft_put##bits(v, op->src, a);                                                             \
        soft_put##bits(v, op->dst, sum);                                                           \
        SOFT_NEXT(v, op);                                                                          \
    }

#define ALL_SIZES(kind, name) kind(name, 8) kind(name, 16) kind(name, 32) kind(name, 64)

ALL_SIZES(LOCKED_BINARY, add)
ALL_SIZES(LOCKED_BINARY, or)
ALL_SIZES(LOCKED_BINARY, adc)
ALL_SIZES(LOCKED_BINARY, sbb)
ALL_SIZES(LOCKED_BINARY, and)
ALL_SIZES(LOCKED_BINARY, sub)
ALL_SIZES(LOCKED_BINARY, xor)
ALL_SIZES(LOCKED_UNARY, inc)
ALL_SIZES(LOCKED_UNARY, dec)
ALL_SIZES(LOCKED_UNARY, neg)
ALL_SIZES(LOCKED_UNARY, not )
ALL_SIZES(LOCKED_XCHG, xchg)
ALL_SIZES(LOCKED_XADD, xadd)
ALL_SIZES(LOCKED_CMPXCHG, cmpxchg)

/* LOCK BTS, BTR, BTC: 'imm' selects; the address moves by the register's bit offset. */
enum bit_operation {
    BIT_SET,
    BIT_RESET,
    BIT_COMPLEMENT,
};

static void bit_locked(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t size = op->size;
    bool is_immediate = op->dst;
    uint64_t raw = is_immediate ? op->imm : soft_get_sized(v, op->src, size);
    int64_t index = size == 2 ? (int16_t)raw : size == 4 ? (int32_t)raw : (int64_t)raw;
    uint64_t offset = soft_offset(v, op);
    if (!is_immediate) {
        offset += (uint64_t)((index >> (3 + __builtin_ctz(size))) * size);
    }
    uint64_t gva = soft_linear_at(v, op, op->segment, offset & soft_address_mask(op), size, true);
    soft_check_alignment(v, op, gva, size);
    soft_check_write(v, op, gva, size);
    if (!soft_fast_write(v, gva, size)) {
        soft_check_write(v, op, gva, size);
    }
    /* One byte is all that changes; nobody can tell the difference. */
    unsigned bit = (unsigned)index & (size * 8 - 1);
    gva += bit / 8;
    uint8_t mask = (uint8_t)(1u << (bit & 7));
    struct soft_page page = {0};
    uint8_t *at = soft_fast_write(v, gva, 1);
    if (!at) {
        at = soft_map_write(v, op, gva, 1, &page);
    }
    uint8_t old = 0;
    enum bit_operation operation = (enum bit_operation)op->variant;
    if (at) {
        old = operation == BIT_SET     ? __atomic_fetch_or(at, mask, __ATOMIC_SEQ_CST)
              : operation == BIT_RESET ? __atomic_fetch_and(at, (uint8_t)~mask, __ATOMIC_SEQ_CST)
                                       : __atomic_fetch_xor(at, mask, __ATOMIC_SEQ_CST);
        if (page.slot) {
            soft_written(v, &page, 1);
        }
    } else {
        soft_load_unchecked(v, op, gva, &old, 1);
        uint8_t result = operation == BIT_SET     ? old | mask
                         : operation == BIT_RESET ? old & (uint8_t)~mask
                                                  : old ^ mask;
        soft_store_unchecked(v, op, gva, &result, 1);
    }
    v->status = (uint16_t)((v->status & ~SOFT_STATUS_CF) | (old & mask ? SOFT_STATUS_CF : 0));
    SOFT_NEXT(v, op);
}

static void set_zero_flag(struct soft_vcpu *v, bool is_set)
{
    v->status = (uint16_t)((v->status & ~SOFT_STATUS_ZF) | (is_set ? SOFT_STATUS_ZF : 0));
}

static void cmpxchg8b(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = soft_linear(v, op, 8, true);
    uint64_t expected = v->gpr[X86_RDX] << 32 | (uint32_t)v->gpr[X86_RAX];
    uint64_t desired = v->gpr[X86_RCX] << 32 | (uint32_t)v->gpr[X86_RBX];
    uint64_t old;
    struct soft_page page = {0};
    uint64_t *at = soft_fast_write(v, gva, 8);
    if (!at) {
        at = (void *)soft_map_write(v, op, gva, 8, &page);
    }
    if (at) {
        old = __sync_val_compare_and_swap(at, expected, desired);
        if (page.slot) {
            soft_written(v, &page, 8);
        }
    } else {
        soft_stop_others(v);
        soft_load_unchecked(v, op, gva, &old, 8);
        uint64_t result = old == expected ? desired : old;
        soft_store_unchecked(v, op, gva, &result, 8);
        soft_resume_others(v);
    }
    set_zero_flag(v, old == expected);
    if (old != expected) {
        soft_put32(v, X86_RAX * 8, (uint32_t)old);
        soft_put32(v, X86_RDX * 8, (uint32_t)(old >> 32));
    }
    SOFT_NEXT(v, op);
}

static void cmpxchg16b(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = soft_linear(v, op, 16, true);
    if (gva & 15) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint64_t low = v->gpr[X86_RAX], high = v->gpr[X86_RDX];
    bool is_equal;
    struct soft_page page = {0};
    uint8_t *at = soft_fast_write(v, gva, 16);
    if (!at) {
        at = soft_map_write(v, op, gva, 16, &page);
    }
    if (at) {
        __asm__ volatile("lock cmpxchg16b %[at]"
                         : "=@ccz"(is_equal), [at] "+m"(*(unsigned __int128 *)at), "+a"(low),
                           "+d"(high)
                         : "b"(v->gpr[X86_RBX]), "c"(v->gpr[X86_RCX])
                         : "memory");
        if (page.slot) {
            soft_written(v, &page, 16);
        }
    } else {
        uint64_t old[2];
        soft_load_unchecked(v, op, gva, old, 16);
        is_equal = old[0] == low && old[1] == high;
        if (is_equal) {
            uint64_t desired[2] = {v->gpr[X86_RBX], v->gpr[X86_RCX]};
            soft_store_unchecked(v, op, gva, desired, 16);
        }
        low = old[0];
        high = old[1];
    }
    set_zero_flag(v, is_equal);
    if (!is_equal) {
        v->gpr[X86_RAX] = low;
        v->gpr[X86_RDX] = high;
    }
    SOFT_NEXT(v, op);
}

#define ROW(name, suffix)                                                                          \
    {                                                                                              \
        name##8##suffix, name##16##suffix, name##32##suffix, name##64##suffix                      \
    }

static const struct {
    uint16_t id;
    soft_op_fn fn[4];
} locked_handlers[] = {
    {X86_ID_ADD, ROW(add, _locked)},   {X86_ID_OR, ROW(or, _locked)},
    {X86_ID_ADC, ROW(adc, _locked)},   {X86_ID_SBB, ROW(sbb, _locked)},
    {X86_ID_AND, ROW(and, _locked)},   {X86_ID_SUB, ROW(sub, _locked)},
    {X86_ID_XOR, ROW(xor, _locked)},   {X86_ID_INC, ROW(inc, _locked)},
    {X86_ID_DEC, ROW(dec, _locked)},   {X86_ID_NEG, ROW(neg, _locked)},
    {X86_ID_NOT, ROW(not, _locked)},   {X86_ID_XCHG, ROW(xchg, _locked)},
    {X86_ID_XADD, ROW(xadd, _locked)}, {X86_ID_CMPXCHG, ROW(cmpxchg, _locked)},
};

static bool prepare_bit(const struct x86_insn *insn, struct soft_op *op,
                        enum bit_operation operation)
{
    soft_set_registers(op, insn);
    op->dst = insn->operand[1].kind == X86_OPERAND_IMM;
    op->variant = (uint8_t)operation;
    op->fn = bit_locked;
    return true;
}

bool soft_locked_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    static const soft_op_fn xadd_reg[4] = ROW(xadd, _reg);
    static const soft_op_fn cmpxchg_reg[4] = ROW(cmpxchg, _reg);
    unsigned size = soft_size_index(insn->operand[0].size_bytes);
    bool is_locked = insn->prefixes & X86_PREFIX_LOCK;
    switch (insn->id) {
    case X86_ID_CMPXCHG8B:
        out_op->fn = cmpxchg8b;
        return true;
    case X86_ID_CMPXCHG16B:
        out_op->fn = cmpxchg16b;
        return true;
    case X86_ID_XADD:
    case X86_ID_CMPXCHG:
        if (!insn->has_memory) {
            soft_set_registers(out_op, insn);
            out_op->fn = insn->id == X86_ID_XADD ? xadd_reg[size] : cmpxchg_reg[size];
            return true;
        }
        break;
    case X86_ID_XCHG:
        if (!insn->has_memory) {
            return false;
        }
        break;
    case X86_ID_BTS:
        return is_locked && prepare_bit(insn, out_op, BIT_SET);
    case X86_ID_BTR:
        return is_locked && prepare_bit(insn, out_op, BIT_RESET);
    case X86_ID_BTC:
        return is_locked && prepare_bit(insn, out_op, BIT_COMPLEMENT);
    default:
        if (!is_locked) {
            return false;
        }
        break;
    }
    for (size_t i = 0; i < ARRAY_COUNT(locked_handlers); i++) {
        if (locked_handlers[i].id == insn->id) {
            soft_set_registers(out_op, insn);
            out_op->variant =
                (uint8_t)(insn->operand_count > 1 && insn->operand[1].kind == X86_OPERAND_IMM);
            out_op->fn = locked_handlers[i].fn[size];
            return true;
        }
    }
    return false;
}
