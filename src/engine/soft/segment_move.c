/* MOV to and from segment registers, their PUSH and POP, and the loads of far pointers. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/stack.h"
#include "engine/soft/system.h"

static void after_segment_load(struct soft_vcpu *v, const struct soft_op *op, unsigned id)
{
    if (id == X86_SS) {
        v->shadow_mov_ss = true;
        soft_request(v, SOFT_REQUEST_STEP);
    }
    v->rip = soft_op_next_rip(v, op);
}

static void mov_to_segment(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t selector = op->flags & SOFT_OP_HAS_MEMORY
                            ? soft_load16(v, op, soft_linear(v, op, 2, false))
                            : SOFT_GET(16, op->src);
    uint64_t next = soft_op_next_rip(v, op);
    soft_load_segment(v, op, op->dst, selector);
    after_segment_load(v, op, op->dst);
    v->rip = next;
}

static void mov_from_segment(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t selector = v->segment[op->src].selector;
    if (op->flags & SOFT_OP_HAS_MEMORY) {
        soft_store16(v, op, soft_linear(v, op, 2, true), selector);
    } else {
        soft_put_sized(v, op->dst, op->size, selector);
    }
    SOFT_NEXT(v, op);
}

/* Of 32 bits Intel's CPUs write the selector only, AMD's all (SDM 2B, PUSH; the host's behaviour). */
static void push_segment(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = (v->gpr[X86_RSP] - op->size) & soft_stack_mask(v);
    uint32_t size = op->size == 4 && v->vm->is_intel ? 2 : op->size;
    soft_store_sized(v, op, soft_stack_linear(v, op, sp, size, true), size,
                     v->segment[op->src].selector);
    soft_set_sp(v, sp);
    SOFT_NEXT(v, op);
}

static void pop_segment(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t at = sp & soft_stack_mask(v);
    uint16_t selector = (uint16_t)soft_load_sized(v, op, soft_stack_linear(v, op, at, 2, false), 2);
    unsigned width = v->stack_bytes;
    soft_load_segment(v, op, op->dst, selector);
    soft_put_sized(v, X86_RSP * 8, width, sp + op->size);
    after_segment_load(v, op, op->dst);
}

/* src: the segment. */
static void load_far_pointer(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t gva = soft_linear(v, op, op->size + 2u, false);
    uint64_t offset = soft_load_sized(v, op, gva, op->size);
    uint16_t selector = soft_load16(v, op, gva + op->size);
    soft_load_segment(v, op, op->src, selector);
    soft_put_sized(v, op->dst, op->size, offset);
    v->rip = soft_op_next_rip(v, op);
}

static bool prepare_far_pointer(const struct x86_insn *insn, struct soft_op *op, unsigned segment)
{
    op->dst = soft_reg_offset(&insn->operand[0]);
    op->src = (uint8_t)segment;
    op->fn = load_far_pointer;
    return true;
}

bool soft_segment_move_prepare(struct soft_vcpu *v, const struct x86_insn *insn,
                               struct soft_op *out_op)
{
    switch (insn->id) {
    case X86_ID_MOV_SREG:
        if (insn->operand[0].kind == X86_OPERAND_REG &&
            insn->operand[0].reg_class == X86_REG_SEGMENT) {
            out_op->dst = insn->operand[0].reg;
            if (soft_is_gpr(&insn->operand[1])) {
                out_op->src = soft_reg_offset(&insn->operand[1]);
            }
            out_op->fn = mov_to_segment;
        } else {
            if (soft_is_gpr(&insn->operand[0])) {
                out_op->dst = soft_reg_offset(&insn->operand[0]);
            }
            out_op->src = insn->operand[1].reg;
            out_op->fn = mov_from_segment;
        }
        return true;
    case X86_ID_PUSH_SREG:
        out_op->src = insn->operand[0].reg;
        out_op->fn = push_segment;
        return true;
    case X86_ID_POP_SREG:
        out_op->dst = insn->operand[0].reg;
        out_op->fn = pop_segment;
        return true;
    case X86_ID_LES:
        return prepare_far_pointer(insn, out_op, X86_ES);
    case X86_ID_LDS:
        return prepare_far_pointer(insn, out_op, X86_DS);
    case X86_ID_LSS:
        return prepare_far_pointer(insn, out_op, X86_SS);
    case X86_ID_LFS:
        return prepare_far_pointer(insn, out_op, X86_FS);
    case X86_ID_LGS:
        return prepare_far_pointer(insn, out_op, X86_GS);
    default:
        return false;
    }
}
