/* Moves of general registers: MOV, MOVZX, MOVSX, LEA, XCHG of registers, CMOVcc, SETcc, BSWAP, the conversions of RAX,
 * and instructions that do nothing. */
#include <sched.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"

#define MOVE_SIZE(bits)                                                                            \
    static void mov##bits##_rr(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        soft_put##bits(v, op->dst, SOFT_GET(bits, op->src));                                       \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void mov##bits##_ri(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        soft_put##bits(v, op->dst, (uint##bits##_t)op->imm);                                       \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    SOFT_LOAD_HANDLER(mov##bits##_rm, bits, soft_put##bits(v, op->dst, value))                     \
    SOFT_STORE_HANDLER(mov##bits##_mr, bits, SOFT_GET(bits, op->src))                              \
    SOFT_STORE_HANDLER(mov##bits##_mi, bits, (uint##bits##_t)op->imm)                              \
    static void xchg##bits##_rr(struct soft_vcpu *v, const struct soft_op *op)                     \
    {                                                                                              \
        uint##bits##_t a = SOFT_GET(bits, op->dst);                                                \
        uint##bits##_t b = SOFT_GET(bits, op->src);                                                \
        soft_put##bits(v, op->src, a);                                                             \
        soft_put##bits(v, op->dst, b);                                                             \
        SOFT_NEXT(v, op);                                                                          \
    }

MOVE_SIZE(8)
MOVE_SIZE(16)
MOVE_SIZE(32)
MOVE_SIZE(64)

/* From 'from' bits, zero- or sign-extended, to 'to' bits. */
#define EXTEND(name, to, from, type)                                                               \
    static void name##from##to##_r(struct soft_vcpu *v, const struct soft_op *op)                  \
    {                                                                                              \
        soft_put##to(v, op->dst, (uint##to##_t)(type)SOFT_GET(from, op->src));                     \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    SOFT_LOAD_HANDLER(name##from##to##_m, from, soft_put##to(v, op->dst, (uint##to##_t)(type)value))

EXTEND(movzx, 16, 8, uint8_t)
EXTEND(movzx, 32, 8, uint8_t)
EXTEND(movzx, 64, 8, uint8_t)
EXTEND(movzx, 16, 16, uint16_t)
EXTEND(movzx, 32, 16, uint16_t)
EXTEND(movzx, 64, 16, uint16_t)
EXTEND(movsx, 16, 8, int8_t)
EXTEND(movsx, 32, 8, int8_t)
EXTEND(movsx, 64, 8, int8_t)
EXTEND(movsx, 16, 16, int16_t)
EXTEND(movsx, 32, 16, int16_t)
EXTEND(movsx, 64, 16, int16_t)
EXTEND(movsx, 16, 32, int32_t)
EXTEND(movsx, 32, 32, int32_t)
EXTEND(movsx, 64, 32, int32_t)

/* [sign][source size][destination size][memory] */
static const soft_op_fn extend_handlers[2][3][4][2] = {
    {{{0}, {movzx816_r, movzx816_m}, {movzx832_r, movzx832_m}, {movzx864_r, movzx864_m}},
     {{0}, {movzx1616_r, movzx1616_m}, {movzx1632_r, movzx1632_m}, {movzx1664_r, movzx1664_m}},
     {{0}}},
    {{{0}, {movsx816_r, movsx816_m}, {movsx832_r, movsx832_m}, {movsx864_r, movsx864_m}},
     {{0}, {movsx1616_r, movsx1616_m}, {movsx1632_r, movsx1632_m}, {movsx1664_r, movsx1664_m}},
     {{0}, {movsx3216_r, movsx3216_m}, {movsx3232_r, movsx3232_m}, {movsx3264_r, movsx3264_m}}},
};

static void lea16(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_put16(v, op->dst, (uint16_t)soft_offset(v, op));
    SOFT_NEXT(v, op);
}

static void lea32(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_put32(v, op->dst, (uint32_t)soft_offset(v, op));
    SOFT_NEXT(v, op);
}

static void lea64(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_put64(v, op->dst, soft_offset(v, op));
    SOFT_NEXT(v, op);
}

/* The source is read, with its faults, and a 32-bit destination's upper half cleared, whatever the condition. */
#define CONDITIONAL(code)                                                                          \
    static void cmov_##code(struct soft_vcpu *v, const struct soft_op *op)                         \
    {                                                                                              \
        uint64_t value =                                                                           \
            op->flags & SOFT_OP_HAS_MEMORY                                                         \
                ? soft_load_sized(v, op, soft_linear(v, op, op->size, false), op->size)            \
                : soft_get_sized(v, op->src, op->size);                                            \
        if (!alu_condition(v->status, code)) {                                                     \
            value = soft_get_sized(v, op->dst, op->size);                                          \
        }                                                                                          \
        soft_put_sized(v, op->dst, op->size, value);                                               \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void set_##code##_r(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        soft_put8(v, op->dst, alu_condition(v->status, code));                                     \
        SOFT_NEXT(v, op);                                                                          \
    }                                                                                              \
    static void set_##code##_m(struct soft_vcpu *v, const struct soft_op *op)                      \
    {                                                                                              \
        soft_store8(v, op, soft_linear(v, op, 1, true), alu_condition(v->status, code));           \
        SOFT_NEXT(v, op);                                                                          \
    }

CONDITIONAL(0)
CONDITIONAL(1)
CONDITIONAL(2)
CONDITIONAL(3)
CONDITIONAL(4)
CONDITIONAL(5)
CONDITIONAL(6)
CONDITIONAL(7)
CONDITIONAL(8)
CONDITIONAL(9)
CONDITIONAL(10)
CONDITIONAL(11)
CONDITIONAL(12)
CONDITIONAL(13)
CONDITIONAL(14)
CONDITIONAL(15)

#define SIXTEEN(prefix, suffix)                                                                    \
    {                                                                                              \
        prefix##0##suffix, prefix##1##suffix, prefix##2##suffix, prefix##3##suffix,                \
            prefix##4##suffix, prefix##5##suffix, prefix##6##suffix, prefix##7##suffix,            \
            prefix##8##suffix, prefix##9##suffix, prefix##10##suffix, prefix##11##suffix,          \
            prefix##12##suffix, prefix##13##suffix, prefix##14##suffix, prefix##15##suffix         \
    }

static const soft_op_fn cmov_handlers[16] = SIXTEEN(cmov_, );
static const soft_op_fn set_handlers[2][16] = {SIXTEEN(set_, _r), SIXTEEN(set_, _m)};

/* Of 16 bits it is undefined; this is what CPUs do. */
static void bswap(struct soft_vcpu *v, const struct soft_op *op)
{
    if (op->size == 8) {
        v->gpr[op->dst / 8] = __builtin_bswap64(v->gpr[op->dst / 8]);
    } else if (op->size == 4) {
        soft_put32(v, op->dst, __builtin_bswap32((uint32_t)v->gpr[op->dst / 8]));
    } else {
        soft_put16(v, op->dst, 0);
    }
    SOFT_NEXT(v, op);
}

static void movbe_load(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value = soft_load_sized(v, op, soft_linear(v, op, op->size, false), op->size);
    soft_put_sized(v, op->dst, op->size, __builtin_bswap64(value) >> (64 - op->size * 8));
    SOFT_NEXT(v, op);
}

static void movbe_store(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value = soft_get_sized(v, op->src, op->size);
    soft_store_sized(v, op, soft_linear(v, op, op->size, true), op->size,
                     __builtin_bswap64(value) >> (64 - op->size * 8));
    SOFT_NEXT(v, op);
}

/* RAX from its lower half, by the size of the result. */
static void widen_rax(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t rax = v->gpr[X86_RAX];
    uint64_t value = op->size == 2   ? (uint64_t)(int8_t)rax
                     : op->size == 4 ? (uint64_t)(int16_t)rax
                                     : (uint64_t)(int32_t)rax;
    soft_put_sized(v, X86_RAX * 8, op->size, value);
    SOFT_NEXT(v, op);
}

static void widen_to_rdx(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sign = v->gpr[X86_RAX] >> (op->size * 8 - 1) & 1;
    soft_put_sized(v, X86_RDX * 8, op->size, sign ? UINT64_MAX : 0);
    SOFT_NEXT(v, op);
}

static void xlat(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t offset = (v->gpr[op->base] + (uint8_t)v->gpr[X86_RAX]) & soft_address_mask(op);
    uint8_t value = soft_load8(v, op, soft_linear_at(v, op, op->segment, offset, 1, false));
    soft_put8(v, X86_RAX * 8, value);
    SOFT_NEXT(v, op);
}

static void nothing(struct soft_vcpu *v, const struct soft_op *op)
{
    SOFT_NEXT(v, op);
}

/* A guest that spins waits for another vCPU, which may need this very CPU of the host. */
static void pause_spinning(struct soft_vcpu *v, const struct soft_op *op)
{
    if (++v->pauses % SOFT_PAUSES_UNTIL_YIELD == 0) {
        soft_leave_guest(v);
        sched_yield();
        soft_enter_guest(v);
    }
    SOFT_NEXT(v, op);
}

static void fence(struct soft_vcpu *v, const struct soft_op *op)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    SOFT_NEXT(v, op);
}

/* CLFLUSH and its like fault as a load of one byte. */
static void flush_line(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_check_read(v, op, soft_linear(v, op, 1, false), 1);
    SOFT_NEXT(v, op);
}

/* The accumulator and an absolute address of 64 bits (imm); 'variant': to memory. */
static void mov_absolute(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = soft_linear_at(v, op, op->segment, op->imm, op->src, op->variant);
    if (op->variant) {
        soft_store_sized(v, op, gva, op->src, soft_get_sized(v, X86_RAX * 8, op->src));
    } else {
        soft_put_sized(v, X86_RAX * 8, op->src, soft_load_sized(v, op, gva, op->src));
    }
    SOFT_NEXT(v, op);
}

static bool prepare_mov(const struct x86_insn *insn, struct soft_op *op)
{
    static const soft_op_fn handlers[5][4] = {
        {mov8_rr, mov16_rr, mov32_rr, mov64_rr}, {mov8_ri, mov16_ri, mov32_ri, mov64_ri},
        {mov8_rm, mov16_rm, mov32_rm, mov64_rm}, {mov8_mr, mov16_mr, mov32_mr, mov64_mr},
        {mov8_mi, mov16_mi, mov32_mi, mov64_mi},
    };
    bool to_memory = insn->operand[0].kind == X86_OPERAND_MEM;
    unsigned form = insn->operand[1].kind == X86_OPERAND_IMM   ? 1
                    : insn->operand[1].kind == X86_OPERAND_MEM ? 2
                                                               : 0;
    if (insn->has_memory && insn->address_bytes == 8 && insn->disp != (int32_t)insn->disp) {
        op->imm = (uint64_t)insn->disp;
        op->src = (uint8_t)insn->operand[0].size_bytes;
        op->variant = to_memory;
        op->fn = mov_absolute;
        return true;
    }
    soft_set_registers(op, insn);
    op->fn = handlers[form + (to_memory ? 3 : 0)][soft_size_index(insn->operand[0].size_bytes)];
    if (to_memory && form == 1) {
        op->fn = handlers[4][soft_size_index(insn->operand[0].size_bytes)];
    }
    return true;
}

static bool prepare_extend(const struct x86_insn *insn, struct soft_op *op)
{
    soft_set_registers(op, insn);
    unsigned from = soft_size_index(insn->operand[1].size_bytes);
    op->fn = extend_handlers[insn->id != X86_ID_MOVZX][from]
                            [soft_size_index(insn->operand[0].size_bytes)][insn->has_memory];
    return op->fn;
}

/* CMOVcc and SETcc, known by their opcodes. */
static bool prepare_conditional(const struct x86_insn *insn, struct soft_op *op)
{
    if (insn->map != 1 || (insn->prefixes & X86_PREFIX_VEX)) {
        return false;
    }
    if ((insn->opcode & 0xf0) == 0x40) {
        soft_set_registers(op, insn);
        op->fn = cmov_handlers[insn->opcode & 15];
        return true;
    }
    if ((insn->opcode & 0xf0) == 0x90) {
        soft_set_registers(op, insn);
        op->fn = set_handlers[insn->has_memory][insn->opcode & 15];
        return true;
    }
    return false;
}

bool soft_move_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    static const soft_op_fn xchg_handlers[4] = {xchg8_rr, xchg16_rr, xchg32_rr, xchg64_rr};
    switch (insn->id) {
    case X86_ID_MOV:
    case X86_ID_MOVNTI:
        return prepare_mov(insn, out_op);
    case X86_ID_MOVZX:
    case X86_ID_MOVSX:
    case X86_ID_MOVSXD:
        return prepare_extend(insn, out_op);
    case X86_ID_LEA:
        soft_set_registers(out_op, insn);
        out_op->fn = insn->operand_bytes == 8 ? lea64 : insn->operand_bytes == 4 ? lea32 : lea16;
        return true;
    case X86_ID_XCHG: /* with memory: locked.c */
        soft_set_registers(out_op, insn);
        out_op->fn = xchg_handlers[soft_size_index(insn->operand[0].size_bytes)];
        return true;
    case X86_ID_BSWAP:
        soft_set_registers(out_op, insn);
        out_op->fn = bswap;
        return true;
    case X86_ID_MOVBE:
        soft_set_registers(out_op, insn);
        out_op->fn = insn->operand[0].kind == X86_OPERAND_MEM ? movbe_store : movbe_load;
        return true;
    case X86_ID_CBW:
    case X86_ID_CWDE:
    case X86_ID_CDQE:
        out_op->fn = widen_rax;
        return true;
    case X86_ID_CWD:
    case X86_ID_CDQ:
    case X86_ID_CQO:
        out_op->fn = widen_to_rdx;
        return true;
    case X86_ID_XLAT:
        out_op->fn = xlat;
        return true;
    case X86_ID_PAUSE:
        out_op->fn = pause_spinning;
        return true;
    case X86_ID_NOP:
    case X86_ID_ENDBR32:
    case X86_ID_ENDBR64:
    case X86_ID_RDSSPD:
    case X86_ID_RDSSPQ:
    case X86_ID_CLDEMOTE:
    case X86_ID_PREFETCH:
    case X86_ID_PREFETCHW:
    case X86_ID_PREFETCHNTA:
    case X86_ID_PREFETCHT0:
    case X86_ID_PREFETCHT1:
    case X86_ID_PREFETCHT2:
        out_op->fn = nothing;
        return true;
    case X86_ID_LFENCE:
    case X86_ID_MFENCE:
    case X86_ID_SFENCE:
        out_op->fn = fence;
        return true;
    case X86_ID_CLFLUSH:
    case X86_ID_CLFLUSHOPT:
    case X86_ID_CLWB:
        out_op->fn = flush_line;
        return true;
    default:
        return prepare_conditional(insn, out_op);
    }
}
