/* Control transfers that load CS from tables: far CALL, JMP and RET, IRET, INT. */
#include <string.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/stack.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define TYPE_TSS_16       1u
#define TYPE_TSS_16_BUSY  3u
#define TYPE_CALL_GATE_16 4u
#define TYPE_TASK_GATE    5u
#define TYPE_TSS          9u
#define TYPE_TSS_BUSY     11u
#define TYPE_CALL_GATE    12u

static noreturn_fn void fault(struct soft_vcpu *v, uint8_t vector, uint32_t selector)
{
    soft_raise_error(v, v->op, vector, selector & 0xfffcu);
}

static void set_cs(struct soft_vcpu *v, struct soft_descriptor *d, unsigned cpl)
{
    soft_descriptor_set_accessed(v, d);
    v->segment[X86_CS] = d->segment;
    v->segment[X86_CS].selector = (uint16_t)((d->segment.selector & ~3u) | cpl);
    v->cpl = (uint8_t)cpl;
}

/* Is 'd' 64-bit code here? */
static bool is_long_code(const struct soft_vcpu *v, const struct soft_descriptor *d)
{
    return soft_is_long(v) && (d->segment.attributes & X86_SEGMENT_L);
}

static void check_offset(struct soft_vcpu *v, const struct soft_descriptor *d, uint64_t offset)
{
    if (is_long_code(v, d) ? !x86_is_canonical(offset) : offset > d->segment.limit) {
        fault(v, X86_GP, 0);
    }
}

static void read_code(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d)
{
    if (!(selector & ~3u)) {
        fault(v, X86_GP, 0);
    }
    if (!soft_descriptor_read(v, selector, d)) {
        fault(v, X86_GP, selector);
    }
}

/* A code segment as the target of a far CALL or JMP at the same privilege. */
static void check_direct(struct soft_vcpu *v, uint16_t selector, const struct soft_descriptor *d)
{
    bool both = (d->segment.attributes & X86_SEGMENT_L) &&
                (d->segment.attributes & X86_SEGMENT_DB) && soft_is_long(v);
    bool is_allowed = d->segment.attributes & X86_SEGMENT_CONFORM
                          ? soft_descriptor_dpl(d) <= v->cpl
                          : (selector & 3u) <= v->cpl && soft_descriptor_dpl(d) == v->cpl;
    if (!is_allowed || both) {
        fault(v, X86_GP, selector);
    }
    if (!soft_descriptor_is_present(d)) {
        fault(v, X86_NP, selector);
    }
}

struct call_gate {
    uint16_t selector;
    uint64_t offset;
    unsigned parameters;
    uint32_t size; /* of pushes */
};

static struct call_gate read_call_gate(struct soft_vcpu *v, uint16_t selector,
                                       struct soft_descriptor *d)
{
    unsigned type = soft_descriptor_type(d);
    unsigned dpl = soft_descriptor_dpl(d);
    if (dpl < v->cpl || dpl < (selector & 3u)) {
        fault(v, X86_GP, selector);
    }
    if (!soft_descriptor_is_present(d)) {
        fault(v, X86_NP, selector);
    }
    struct call_gate gate = {
        .selector = (uint16_t)(d->low >> 16),
        .offset = (d->low & 0xffff) | (type == TYPE_CALL_GATE ? (d->low >> 32) & 0xffff0000 : 0),
        .parameters = (d->low >> 32) & 31,
        .size = type == TYPE_CALL_GATE ? 4 : 2,
    };
    if (soft_is_long(v)) {
        if (type != TYPE_CALL_GATE || !soft_descriptor_read_high(v, selector, d) ||
            ((d->high >> 40) & 0x1f)) {
            fault(v, X86_GP, selector);
        }
        gate.offset |= d->high << 32;
        gate.size = 8;
        gate.parameters = 0;
    }
    return gate;
}

/* The gate's code segment. */
static void check_gate_target(struct soft_vcpu *v, const struct call_gate *gate,
                              struct soft_descriptor *cs)
{
    read_code(v, gate->selector, cs);
    if (!soft_descriptor_is_code(cs) || soft_descriptor_dpl(cs) > v->cpl ||
        (soft_is_long(v) &&
         (cs->segment.attributes & (X86_SEGMENT_L | X86_SEGMENT_DB)) != X86_SEGMENT_L)) {
        fault(v, X86_GP, gate->selector);
    }
    if (!soft_descriptor_is_present(cs)) {
        fault(v, X86_NP, gate->selector);
    }
    check_offset(v, cs, gate->offset);
}

static void call_inner(struct soft_vcpu *v, const struct soft_op *op, const struct call_gate *gate,
                       struct soft_descriptor *cs)
{
    unsigned cpl = soft_descriptor_dpl(cs);
    uint64_t next = soft_op_next_rip(v, op);
    uint64_t frame[4] = {next, v->segment[X86_CS].selector, v->gpr[X86_RSP],
                         v->segment[X86_SS].selector};
    if (soft_is_long(v)) {
        uint64_t sp = soft_task_stack_long(v, cpl, 0) - sizeof(frame);
        if (!x86_is_canonical(sp)) {
            fault(v, X86_SS_FAULT, 0);
        }
        soft_system_store(v, sp, frame, sizeof(frame));
        soft_set_null_segment(&v->segment[X86_SS], (uint16_t)cpl, cpl);
        v->gpr[X86_RSP] = sp;
    } else {
        uint16_t ss;
        uint32_t esp;
        struct soft_descriptor d;
        uint32_t parameter[32];
        soft_task_stack(v, cpl, 0, &ss, &esp);
        soft_check_stack_segment(v, ss, cpl, X86_TS, 0, &d);
        uint64_t old_sp = v->gpr[X86_RSP];
        for (unsigned i = 0; i < gate->parameters; i++) {
            parameter[i] = (uint32_t)soft_pop_at(v, op, &old_sp, gate->size);
        }
        uint32_t mask = d.segment.attributes & X86_SEGMENT_DB ? UINT32_MAX : UINT16_MAX;
        uint32_t bytes = gate->size * (4 + gate->parameters);
        uint32_t sp = (esp - bytes) & mask;
        if (!(d.segment.attributes & X86_SEGMENT_DOWN) &&
            (uint64_t)sp + bytes - 1 > d.segment.limit) {
            fault(v, X86_SS_FAULT, ss);
        }
        uint64_t at = d.segment.base + sp;
        for (unsigned i = 0; i < 4 + gate->parameters; i++) {
            uint64_t value = i < 2                      ? frame[i]
                             : i < 2 + gate->parameters ? parameter[i - 2]
                                                        : frame[i - gate->parameters];
            soft_system_store(v, (uint32_t)(at + (uint64_t)i * gate->size), &value, gate->size);
        }
        soft_descriptor_set_accessed(v, &d);
        v->segment[X86_SS] = d.segment;
        soft_put_sized(v, X86_RSP * 8, mask == UINT32_MAX ? 4 : 2, sp);
    }
    set_cs(v, cs, cpl);
    v->rip = gate->offset;
    soft_update_mode(v);
}

static void through_call_gate(struct soft_vcpu *v, const struct soft_op *op, uint16_t selector,
                              struct soft_descriptor *d, bool is_call)
{
    struct soft_descriptor cs;
    struct call_gate gate = read_call_gate(v, selector, d);
    check_gate_target(v, &gate, &cs);
    bool is_inner =
        !(cs.segment.attributes & X86_SEGMENT_CONFORM) && soft_descriptor_dpl(&cs) < v->cpl;
    if (is_call && is_inner) {
        call_inner(v, op, &gate, &cs);
        return;
    }
    if (is_inner) {
        fault(v, X86_GP, gate.selector);
    }
    if (is_call) {
        uint64_t sp = soft_push_at(v, op, v->gpr[X86_RSP], gate.size, v->segment[X86_CS].selector);
        sp = soft_push_at(v, op, sp, gate.size, soft_op_next_rip(v, op));
        soft_set_sp(v, sp);
    }
    set_cs(v, &cs, v->cpl);
    v->rip = gate.offset;
    soft_update_mode(v);
}

static void through_task(struct soft_vcpu *v, const struct soft_op *op, uint16_t selector,
                         struct soft_descriptor *d, bool is_call)
{
    unsigned dpl = soft_descriptor_dpl(d);
    if (dpl < v->cpl || dpl < (selector & 3u)) {
        fault(v, X86_GP, selector);
    }
    if (!soft_descriptor_is_present(d)) {
        fault(v, X86_NP, selector);
    }
    struct soft_descriptor tss = *d;
    if (soft_descriptor_type(d) == TYPE_TASK_GATE) {
        selector = (uint16_t)(d->low >> 16);
        if ((selector & 4) || !soft_descriptor_read(v, selector, &tss)) {
            fault(v, X86_GP, selector);
        }
    }
    soft_task_switch(v, selector, &tss, is_call ? SOFT_TASK_CALL : SOFT_TASK_JUMP,
                     soft_op_next_rip(v, op), false, 0);
}

static void far_transfer(struct soft_vcpu *v, const struct soft_op *op, uint16_t selector,
                         uint64_t offset, bool is_call)
{
    struct soft_descriptor d;
    v->op = op;
    if (!soft_is_protected(v) || soft_is_v86(v)) {
        if (offset > 0xffff && offset > v->segment[X86_CS].limit) {
            fault(v, X86_GP, 0);
        }
        if (is_call) {
            uint64_t sp =
                soft_push_at(v, op, v->gpr[X86_RSP], op->size, v->segment[X86_CS].selector);
            soft_set_sp(v, soft_push_at(v, op, sp, op->size, soft_op_next_rip(v, op)));
        }
        soft_set_real_segment(v, X86_CS, selector);
        v->rip = offset;
        soft_update_mode(v);
        return;
    }
    read_code(v, selector, &d);
    if (soft_descriptor_is_code(&d)) {
        check_direct(v, selector, &d);
        uint64_t sp = v->gpr[X86_RSP];
        if (is_call) {
            sp = soft_push_at(v, op, sp, op->size, v->segment[X86_CS].selector);
            sp = soft_push_at(v, op, sp, op->size, soft_op_next_rip(v, op));
        }
        check_offset(v, &d, offset);
        if (is_call) {
            soft_set_sp(v, sp);
        }
        set_cs(v, &d, v->cpl);
        v->rip = offset;
        soft_update_mode(v);
        return;
    }
    if (d.segment.attributes & X86_SEGMENT_S) {
        fault(v, X86_GP, selector);
    }
    switch (soft_descriptor_type(&d)) {
    case TYPE_CALL_GATE_16:
    case TYPE_CALL_GATE:
        through_call_gate(v, op, selector, &d, is_call);
        return;
    case TYPE_TASK_GATE:
    case TYPE_TSS_16:
    case TYPE_TSS:
        if (!soft_is_long(v)) {
            through_task(v, op, selector, &d, is_call);
            return;
        }
        break;
    default:
        break;
    }
    fault(v, X86_GP, selector);
}

/* dst: is it a CALL; memory holds offset, then selector. */
static void far_memory(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    uint64_t gva = soft_linear(v, op, op->size + 2u, false);
    uint64_t offset = soft_load_sized(v, op, gva, op->size);
    uint16_t selector = soft_load16(v, op, gva + op->size);
    far_transfer(v, op, selector, offset, op->dst);
}

static void far_immediate(struct soft_vcpu *v, const struct soft_op *op)
{
    far_transfer(v, op, (uint16_t)(op->imm >> 32), op->imm & soft_size_mask(op->size), op->dst);
}

/* The code segment that RET or IRET returns to. */
static void check_return(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d)
{
    unsigned rpl = selector & 3u;
    read_code(v, selector, d);
    bool is_conforming = d->segment.attributes & X86_SEGMENT_CONFORM;
    unsigned dpl = soft_descriptor_dpl(d);
    bool both = (d->segment.attributes & X86_SEGMENT_L) &&
                (d->segment.attributes & X86_SEGMENT_DB) && soft_is_long(v);
    if (!soft_descriptor_is_code(d) || rpl < v->cpl || (is_conforming ? dpl > rpl : dpl != rpl) ||
        both) {
        fault(v, X86_GP, selector);
    }
    if (!soft_descriptor_is_present(d)) {
        fault(v, X86_NP, selector);
    }
}

/* SS:RSP as popped, for privilege 'rpl' of code 'cs'. */
static void load_outer_stack(struct soft_vcpu *v, uint16_t ss, uint64_t sp, unsigned rpl,
                             bool to_long, uint32_t extra)
{
    struct soft_descriptor d;
    if (!(ss & ~3u)) {
        if (!to_long || rpl == 3 || (ss & 3u) != rpl) {
            fault(v, X86_GP, 0);
        }
        soft_set_null_segment(&v->segment[X86_SS], ss, rpl);
        v->gpr[X86_RSP] = sp + extra;
        return;
    }
    soft_check_stack_segment(v, ss, rpl, X86_GP, 0, &d);
    soft_descriptor_set_accessed(v, &d);
    v->segment[X86_SS] = d.segment;
    unsigned width = to_long ? 8 : d.segment.attributes & X86_SEGMENT_DB ? 4 : 2;
    soft_put_sized(v, X86_RSP * 8, width, sp + extra);
}

static void ret_far(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    uint32_t extra = (uint16_t)op->imm;
    v->op = op;
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t offset = soft_pop_at(v, op, &sp, op->size);
    uint16_t selector = (uint16_t)soft_pop_at(v, op, &sp, op->size);
    if (!soft_is_protected(v) || soft_is_v86(v)) {
        if (offset > v->segment[X86_CS].limit) {
            fault(v, X86_GP, 0);
        }
        soft_set_sp(v, sp + extra);
        soft_set_real_segment(v, X86_CS, selector);
        v->rip = offset;
        soft_update_mode(v);
        return;
    }
    check_return(v, selector, &d);
    unsigned rpl = selector & 3u;
    if (rpl == v->cpl) {
        check_offset(v, &d, offset);
        soft_set_sp(v, sp + extra);
        set_cs(v, &d, v->cpl);
    } else {
        sp = (sp + extra) & soft_stack_mask(v);
        uint64_t outer_sp = soft_pop_at(v, op, &sp, op->size);
        uint16_t ss = (uint16_t)soft_pop_at(v, op, &sp, op->size);
        check_offset(v, &d, offset);
        load_outer_stack(v, ss, outer_sp, rpl, is_long_code(v, &d), extra);
        set_cs(v, &d, rpl);
        soft_drop_inner_segments(v);
    }
    v->rip = offset;
    soft_update_mode(v);
}

/* Flags that IRET at the current privilege may change. */
static uint32_t iret_mask(const struct soft_vcpu *v, uint32_t size)
{
    uint32_t mask = X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT;
    if (size > 2) {
        mask |= X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;
        if (v->cpl == 0) {
            mask |= X86_FLAG_VIF | X86_FLAG_VIP;
        }
    }
    if (v->cpl <= (v->flags & X86_FLAG_IOPL) >> 12 || !soft_is_protected(v)) {
        mask |= X86_FLAG_IF;
    }
    if (v->cpl == 0) {
        mask |= X86_FLAG_IOPL;
    }
    return mask;
}

static void iret_real(struct soft_vcpu *v, const struct soft_op *op)
{
    if (soft_is_v86(v) && (v->flags & X86_FLAG_IOPL) != X86_FLAG_IOPL) {
        fault(v, X86_GP, 0);
    }
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t offset = soft_pop_at(v, op, &sp, op->size);
    uint16_t selector = (uint16_t)soft_pop_at(v, op, &sp, op->size);
    uint32_t flags = (uint32_t)soft_pop_at(v, op, &sp, op->size);
    if (offset > v->segment[X86_CS].limit) {
        fault(v, X86_GP, 0);
    }
    uint32_t mask = iret_mask(v, op->size);
    soft_set_sp(v, sp);
    soft_set_real_segment(v, X86_CS, selector);
    v->rip = offset;
    if (soft_is_v86(v)) {
        mask &= ~X86_FLAG_IOPL;
    }
    soft_set_flags(v, flags, mask);
    soft_update_mode(v);
}

static void iret_to_v86(struct soft_vcpu *v, const struct soft_op *op, uint64_t sp, uint32_t flags,
                        uint16_t cs, uint64_t offset)
{
    uint64_t popped[6]; /* ESP SS ES DS FS GS */
    for (int i = 0; i < 6; i++) {
        popped[i] = soft_pop_at(v, op, &sp, 4);
    }
    if (offset > 0xffff) {
        fault(v, X86_GP, 0);
    }
    v->cpl = 3;
    soft_set_flags(v, flags, UINT32_MAX);
    soft_set_real_segment(v, X86_CS, cs);
    soft_set_real_segment(v, X86_SS, (uint16_t)popped[1]);
    soft_set_real_segment(v, X86_ES, (uint16_t)popped[2]);
    soft_set_real_segment(v, X86_DS, (uint16_t)popped[3]);
    soft_set_real_segment(v, X86_FS, (uint16_t)popped[4]);
    soft_set_real_segment(v, X86_GS, (uint16_t)popped[5]);
    v->gpr[X86_RSP] = (uint32_t)popped[0];
    v->rip = (uint16_t)offset;
    soft_update_mode(v);
}

static void iret_from_task(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    if (soft_is_long(v)) {
        fault(v, X86_GP, 0);
    }
    uint16_t link = (uint16_t)soft_system_load_value(v, v->tr.base, 2);
    if ((link & 4) || !soft_descriptor_read(v, link, &d)) {
        fault(v, X86_TS, link);
    }
    soft_task_switch(v, link, &d, SOFT_TASK_IRET, soft_op_next_rip(v, op), false, 0);
}

static void iret_protected(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    if (v->flags & X86_FLAG_NT) {
        iret_from_task(v, op);
        return;
    }
    uint64_t sp = v->gpr[X86_RSP];
    uint64_t offset = soft_pop_at(v, op, &sp, op->size);
    uint16_t selector = (uint16_t)soft_pop_at(v, op, &sp, op->size);
    uint32_t flags = (uint32_t)soft_pop_at(v, op, &sp, op->size);
    if (op->size == 4 && (flags & X86_FLAG_VM) && v->cpl == 0 && !soft_is_long(v)) {
        iret_to_v86(v, op, sp, flags, selector, offset);
        return;
    }
    check_return(v, selector, &d);
    unsigned rpl = selector & 3u;
    uint32_t mask = iret_mask(v, op->size);
    bool pops_stack = rpl != v->cpl || soft_is_64(v);
    uint64_t outer_sp = 0;
    uint16_t ss = 0;
    if (pops_stack) {
        outer_sp = soft_pop_at(v, op, &sp, op->size);
        ss = (uint16_t)soft_pop_at(v, op, &sp, op->size);
    }
    check_offset(v, &d, offset);
    bool is_outer = rpl != v->cpl;
    if (pops_stack) {
        load_outer_stack(v, ss, outer_sp, rpl, is_long_code(v, &d), 0);
    } else {
        soft_set_sp(v, sp);
    }
    set_cs(v, &d, rpl);
    if (is_outer) {
        soft_drop_inner_segments(v);
    }
    v->rip = offset;
    soft_set_flags(v, flags, mask);
    soft_update_mode(v);
}

static void iret(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (!soft_is_protected(v) || soft_is_v86(v)) {
        iret_real(v, op);
    } else {
        iret_protected(v, op);
    }
    if (v->nmi_masked) {
        v->nmi_masked = false;
        soft_request(v, SOFT_REQUEST_INTERRUPT);
    }
}

static void int_n(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (soft_is_v86(v) && (v->flags & X86_FLAG_IOPL) != X86_FLAG_IOPL && !op->dst) {
        fault(v, X86_GP, 0);
    }
    soft_deliver(v, (uint8_t)op->imm, SOFT_EVENT_SOFTWARE, 0, soft_op_next_rip(v, op));
}

static void into(struct soft_vcpu *v, const struct soft_op *op)
{
    if (v->status & SOFT_STATUS_OF) {
        v->op = op;
        soft_deliver(v, X86_OF, SOFT_EVENT_SOFTWARE, 0, soft_op_next_rip(v, op));
        return;
    }
    SOFT_NEXT(v, op);
}

static void int1(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    soft_deliver(v, X86_DB, SOFT_EVENT_INT1, 0, soft_op_next_rip(v, op));
}

static bool prepare_far(const struct x86_insn *insn, struct soft_op *op, bool is_call)
{
    op->dst = is_call;
    if (insn->has_memory) {
        op->fn = far_memory;
    } else {
        op->imm = (uint32_t)insn->imm | (uint64_t)(uint16_t)insn->imm2 << 32;
        op->fn = far_immediate;
    }
    return true;
}

bool soft_far_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    switch (insn->id) {
    case X86_ID_CALL_FAR:
        return prepare_far(insn, out_op, true);
    case X86_ID_JMP_FAR:
        return prepare_far(insn, out_op, false);
    case X86_ID_RET_FAR:
        out_op->fn = ret_far;
        return true;
    case X86_ID_IRET:
        out_op->fn = iret;
        return true;
    case X86_ID_INT:
        out_op->fn = int_n;
        return true;
    case X86_ID_INT3:
        out_op->imm = X86_BP;
        out_op->dst = 1;
        out_op->fn = int_n;
        return true;
    case X86_ID_INTO:
        out_op->fn = into;
        return true;
    case X86_ID_INT1:
        out_op->fn = int1;
        return true;
    default:
        return false;
    }
}
