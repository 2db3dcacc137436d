/* Near branches: they set the RIP and end the block. In these operations imm counts from the block's first instruction. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/stack.h"

/* The branch itself faults, before it changes anything, if its target is outside of the code segment. */
static always_inline void check_target(struct soft_vcpu *v, const struct soft_op *op,
                                       uint64_t target)
{
    if (likely(!(op->flags & SOFT_OP_LEGACY))) {
        if (unlikely(!x86_is_canonical(target))) {
            soft_raise_error(v, op, X86_GP, 0);
        }
    } else if (unlikely(target > v->segment[X86_CS].limit)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
}

static always_inline uint64_t relative_target(const struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t target = v->gpr[SOFT_REG_RIP] + op->imm;
    return likely(op->size == 8) ? target : target & soft_size_mask(op->size);
}

static always_inline void branch_if(struct soft_vcpu *v, const struct soft_op *op, bool is_taken)
{
    if (is_taken) {
        uint64_t target = relative_target(v, op);
        check_target(v, op, target);
        v->rip = target;
    } else {
        v->rip = soft_op_next_rip(v, op);
    }
    soft_chain(v);
}

#define JCC(code)                                                                                  \
    static void jcc_##code(struct soft_vcpu *v, const struct soft_op *op)                          \
    {                                                                                              \
        branch_if(v, op, alu_condition(v->status, code));                                          \
    }

JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)

static const soft_op_fn jcc_handlers[16] = {
    jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
    jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15,
};

static void jmp_relative(struct soft_vcpu *v, const struct soft_op *op)
{
    branch_if(v, op, true);
}

/* The target in a register or memory, not checked yet. */
static always_inline uint64_t indirect_target(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t target = op->flags & SOFT_OP_HAS_MEMORY
                          ? soft_load_sized(v, op, soft_linear(v, op, op->size, false), op->size)
                          : soft_get_sized(v, op->dst, op->size);
    return target;
}

static void jmp_indirect(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t target = indirect_target(v, op);
    check_target(v, op, target);
    v->rip = target;
    soft_chain(v);
}

/* On CPUs of Intel the return address is on the stack already when the target faults, though RSP has not moved. */
static always_inline void call_to(struct soft_vcpu *v, const struct soft_op *op, uint64_t target)
{
    bool is_intel = v->vm->is_intel;
    if (!is_intel) {
        check_target(v, op, target);
    }
    uint64_t sp = soft_push_at(v, op, v->gpr[X86_RSP], op->size, soft_op_next_rip(v, op));
    if (is_intel) {
        check_target(v, op, target);
    }
    soft_set_sp(v, sp);
    v->rip = target;
    soft_chain(v);
}

cold_fn static void call_relative_slow(struct soft_vcpu *v, const struct soft_op *op)
{
    call_to(v, op, relative_target(v, op));
}

static void call_relative(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t target = relative_target(v, op);
    uint64_t sp = v->gpr[X86_RSP] - 8;
    volatile soft_u64 *at = op->size == 8 ? soft_fast_stack64(v, sp, true) : NULL;
    if (unlikely(!at || !x86_is_canonical(target))) {
        call_relative_slow(v, op);
        return;
    }
    *at = v->gpr[SOFT_REG_RIP] + op->offset + op->length;
    v->gpr[X86_RSP] = sp;
    v->rip = target;
    soft_chain(v);
}

static void call_indirect(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t target = indirect_target(v, op);
    /* CPUs find a bad stack before a bad target. */
    uint64_t sp = (v->gpr[X86_RSP] - op->size) & soft_stack_mask(v);
    uint64_t gva = soft_stack_linear(v, op, sp, op->size, true);
    soft_check_alignment(v, op, gva, op->size);
    soft_check_write(v, op, gva, op->size);
    call_to(v, op, target);
}

/* imm: bytes to release. */
static void ret(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t target = soft_pop_at(v, op, &sp, op->size);
    check_target(v, op, target);
    soft_set_sp(v, sp + op->imm);
    v->rip = target;
    soft_chain(v);
}

cold_fn static void ret64_slow(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t target = soft_load64(v, op, soft_stack_linear(v, op, sp, 8, false));
    check_target(v, op, target);
    v->gpr[X86_RSP] = sp + 8 + op->imm;
    v->rip = target;
    soft_chain(v);
}

static void ret64(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    const volatile soft_u64 *at = soft_fast_stack64(v, sp, false);
    uint64_t target = likely(at) ? *at : 0;
    if (unlikely(!at || !x86_is_canonical(target))) {
        ret64_slow(v, op);
        return;
    }
    v->gpr[X86_RSP] = sp + 8 + op->imm;
    v->rip = target;
    soft_chain(v);
}

/* Counts down in CX, ECX or RCX (src: its size); 'variant' is the value of ZF that goes on, or 2: any. */
static void loop(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t count = (soft_get_sized(v, X86_RCX * 8, op->src) - 1) & soft_size_mask(op->src);
    uint8_t wanted = op->variant;
    bool is_zero = v->status & SOFT_STATUS_ZF;
    bool is_taken = count != 0 && (wanted == 2 || wanted == is_zero);
    if (is_taken) {
        check_target(v, op, relative_target(v, op));
    }
    soft_put_sized(v, X86_RCX * 8, op->src, count);
    branch_if(v, op, is_taken);
}

static void jcxz(struct soft_vcpu *v, const struct soft_op *op)
{
    branch_if(v, op, soft_get_sized(v, X86_RCX * 8, op->src) == 0);
}

static void prepare_relative(const struct x86_insn *insn, struct soft_op *op, soft_op_fn fn)
{
    op->imm = insn->imm + op->offset + op->length;
    op->fn = fn;
}

static void prepare_loop(const struct x86_insn *insn, struct soft_op *op, soft_op_fn fn,
                         uint8_t variant)
{
    prepare_relative(insn, op, fn);
    op->src = insn->address_bytes;
    op->variant = variant;
}

bool soft_branch_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    bool is_relative = insn->operand_count && insn->operand[0].kind == X86_OPERAND_REL;
    if (insn->operand_count && soft_is_gpr(&insn->operand[0])) {
        out_op->dst = soft_reg_offset(&insn->operand[0]);
    }
    switch (insn->id) {
    case X86_ID_JMP:
        if (is_relative) {
            prepare_relative(insn, out_op, jmp_relative);
        } else {
            out_op->fn = jmp_indirect;
        }
        return true;
    case X86_ID_CALL:
        if (is_relative) {
            prepare_relative(insn, out_op, call_relative);
        } else {
            out_op->fn = call_indirect;
        }
        return true;
    case X86_ID_RET:
        out_op->fn = out_op->size == 8 ? ret64 : ret;
        return true;
    case X86_ID_LOOP:
        prepare_loop(insn, out_op, loop, 2);
        return true;
    case X86_ID_LOOPE:
        prepare_loop(insn, out_op, loop, 1);
        return true;
    case X86_ID_LOOPNE:
        prepare_loop(insn, out_op, loop, 0);
        return true;
    case X86_ID_JCXZ:
        prepare_loop(insn, out_op, jcxz, 0);
        return true;
    default:
        break;
    }
    bool is_jcc =
        !(insn->prefixes & X86_PREFIX_VEX) && ((insn->map == 0 && (insn->opcode & 0xf0) == 0x70) ||
                                               (insn->map == 1 && (insn->opcode & 0xf0) == 0x80));
    if (is_jcc) {
        prepare_relative(insn, out_op, jcc_handlers[insn->opcode & 15]);
        return true;
    }
    out_op->dst = 0;
    return false;
}
