/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE. Those of segments: segment.c; of flags: flags.c. */
#include "engine/soft/interpret/stack.h"

#include "engine/soft/block.h"

static void push_reg(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_push(v, op, op->size, soft_get_sized(v, op->dst, op->size));
    SOFT_NEXT(v, op);
}

cold_fn static void push_reg64_slow(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP] - 8;
    soft_store64(v, op, soft_stack_linear(v, op, sp, 8, true), v->gpr[op->dst / 8]);
    v->gpr[X86_RSP] = sp;
    SOFT_NEXT(v, op);
}

static void push_reg64(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP] - 8;
    volatile soft_u64 *at = soft_fast_stack64(v, sp, true);
    if (unlikely(!at)) {
        push_reg64_slow(v, op);
        return;
    }
    *at = v->gpr[op->dst / 8];
    v->gpr[X86_RSP] = sp;
    SOFT_NEXT(v, op);
}

static void push_imm(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_push(v, op, op->size, op->imm);
    SOFT_NEXT(v, op);
}

static void push_memory(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value = soft_load_sized(v, op, soft_linear(v, op, op->size, false), op->size);
    soft_push(v, op, op->size, value);
    SOFT_NEXT(v, op);
}

static void pop_reg(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t value = soft_pop_at(v, op, &sp, op->size);
    soft_set_sp(v, sp);
    soft_put_sized(v, op->dst, op->size, value);
    SOFT_NEXT(v, op);
}

cold_fn static void pop_reg64_slow(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t value = soft_load64(v, op, soft_stack_linear(v, op, sp, 8, false));
    v->gpr[X86_RSP] = sp + 8;
    v->gpr[op->dst / 8] = value;
    SOFT_NEXT(v, op);
}

static void pop_reg64(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    const volatile soft_u64 *at = soft_fast_stack64(v, sp, false);
    if (unlikely(!at)) {
        pop_reg64_slow(v, op);
        return;
    }
    uint64_t value = *at;
    v->gpr[X86_RSP] = sp + 8;
    v->gpr[op->dst / 8] = value;
    SOFT_NEXT(v, op);
}

/* The address is formed with the stack pointer after the pop (SDM 2B, POP). */
static void pop_memory(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t before = v->gpr[X86_RSP];
    uint64_t sp = before;
    uint64_t value = soft_pop_at(v, op, &sp, op->size);
    uint64_t offset = soft_offset(v, op);
    if (op->base == X86_RSP) {
        soft_set_sp(v, sp);
        offset = soft_offset(v, op);
        v->gpr[X86_RSP] = before;
    }
    uint64_t gva = soft_linear_at(v, op, op->segment, offset, op->size, true);
    soft_store_sized(v, op, gva, op->size, value);
    soft_set_sp(v, sp);
    SOFT_NEXT(v, op);
}

static void pusha(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    for (int i = 0; i < 8; i++) {
        sp = soft_push_at(v, op, sp, op->size, soft_get_sized(v, (uint8_t)(i * 8), op->size));
    }
    soft_set_sp(v, sp);
    SOFT_NEXT(v, op);
}

static void popa(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t value[8];
    for (int i = 7; i >= 0; i--) {
        value[i] = soft_pop_at(v, op, &sp, op->size);
    }
    for (int i = 0; i < 8; i++) {
        if (i != X86_RSP) {
            soft_put_sized(v, (uint8_t)(i * 8), op->size, value[i]);
        }
    }
    soft_set_sp(v, sp);
    SOFT_NEXT(v, op);
}

static void leave(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RBP];
    uint64_t value = soft_pop_at(v, op, &sp, op->size);
    soft_set_sp(v, sp);
    soft_put_sized(v, X86_RBP * 8, op->size, value);
    SOFT_NEXT(v, op);
}

/* Immediates: the frame's size in imm, the nesting level in variant. */
static void enter(struct soft_vcpu *v, const struct soft_op *op)
{
    unsigned level = op->variant & 31;
    uint64_t frame = v->gpr[X86_RBP];
    uint64_t sp = soft_push_at(v, op, v->gpr[X86_RSP], op->size, frame);
    /* All of ESP, also where the stack has 16 bits. */
    uint64_t new_frame = (v->gpr[X86_RSP] & ~soft_stack_mask(v)) | sp;
    for (unsigned i = 1; i < level; i++) {
        frame = (frame - op->size) & soft_stack_mask(v);
        uint64_t gva = soft_stack_linear(v, op, frame, op->size, false);
        sp = soft_push_at(v, op, sp, op->size, soft_load_sized(v, op, gva, op->size));
    }
    if (level) {
        sp = soft_push_at(v, op, sp, op->size, new_frame);
    }
    sp = (sp - (uint16_t)op->imm) & soft_stack_mask(v);
    soft_check_write(v, op, soft_stack_linear(v, op, sp, op->size, true), op->size);
    soft_set_sp(v, sp);
    soft_put_sized(v, X86_RBP * 8, op->size, new_frame);
    SOFT_NEXT(v, op);
}

static bool prepare_push(const struct x86_insn *insn, struct soft_op *op)
{
    switch (insn->operand[0].kind) {
    case X86_OPERAND_REG:
        op->fn = op->size == 8 ? push_reg64 : push_reg;
        return true;
    case X86_OPERAND_MEM:
        op->fn = push_memory;
        return true;
    default:
        op->fn = push_imm;
        return true;
    }
}

bool soft_stack_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    soft_set_registers(out_op, insn);
    switch (insn->id) {
    case X86_ID_PUSH:
        return prepare_push(insn, out_op);
    case X86_ID_POP:
        out_op->fn = insn->operand[0].kind == X86_OPERAND_MEM ? pop_memory
                     : out_op->size == 8                      ? pop_reg64
                                                              : pop_reg;
        return true;
    case X86_ID_PUSHA:
        out_op->fn = pusha;
        return true;
    case X86_ID_POPA:
        out_op->fn = popa;
        return true;
    case X86_ID_LEAVE:
        out_op->fn = leave;
        return true;
    case X86_ID_ENTER:
        out_op->variant = (uint8_t)(insn->imm2 & 31);
        out_op->fn = enter;
        return true;
    default:
        out_op->dst = out_op->src = 0;
        return false;
    }
}
