/* Exceptions and interrupts: how they are raised, what a second one becomes, and their delivery through the vector table, the
 * IDT of protected mode and that of long mode (SDM 3A chapter 6). */
#include <string.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/stack.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define DELIVERING_NOTHING (-1)
#define DELIVERING_BENIGN  (-2) /* interrupts: an exception on the way is handled for itself */

#define GATE_TASK         5u
#define GATE_INTERRUPT_16 6u
#define GATE_TRAP_16      7u
#define GATE_INTERRUPT    14u
#define GATE_TRAP         15u

static noreturn_fn void leave_instruction(struct soft_vcpu *v)
{
    if (unlikely(v->has_stopped_others)) {
        soft_resume_others(v);
    }
    siglongjmp(v->raise_to, 1);
}

void soft_raise(struct soft_vcpu *v, const struct soft_op *op, uint8_t vector)
{
    v->op = op;
    v->raised.vector = vector;
    v->raised.has_error = false;
    v->raised.error = 0;
    leave_instruction(v);
}

void soft_raise_error(struct soft_vcpu *v, const struct soft_op *op, uint8_t vector, uint32_t error)
{
    v->op = op;
    v->raised.vector = vector;
    v->raised.has_error = true;
    v->raised.error = error;
    leave_instruction(v);
}

void soft_raise_page_fault(struct soft_vcpu *v, uint64_t gva, uint32_t error)
{
    v->cr2 = gva;
    soft_raise_error(v, v->op, X86_PF, error);
}

static bool is_contributory(int vector)
{
    return vector == X86_DE || (vector >= X86_TS && vector <= X86_GP);
}

/* SDM 3A table 6-5. */
static bool makes_double_fault(int first, int second)
{
    return (is_contributory(first) && is_contributory(second)) ||
           (first == X86_PF && (second == X86_PF || is_contributory(second)));
}

bool soft_deliver_raised(struct soft_vcpu *v)
{
    if (v->op && v->block) {
        v->rip = soft_op_rip(v, v->op);
        v->stats.instructions -= v->block->count - (uint64_t)(v->op - v->block->op);
    }
    v->op = NULL;
    v->block = NULL;
    v->stats.exceptions++;
    v->pending_dr6 = 0; /* data breakpoints hit again when the instruction starts again */
    int first = v->delivering;
    uint8_t vector = v->raised.vector;
    uint32_t error = v->raised.error;
    bool has_error = v->raised.has_error;
    if (first == X86_DF && (is_contributory(vector) || vector == X86_PF)) {
        return false;
    }
    if (makes_double_fault(first, vector)) {
        vector = X86_DF;
        has_error = true;
        error = 0;
    }
    v->delivering = vector;
    /* A fault's handler returns to the instruction, whose breakpoint shall not hit again. */
    if (vector != X86_DB && vector != X86_DF) {
        v->flags |= X86_FLAG_RF;
    }
    bool pushes_error = has_error && soft_is_protected(v);
    soft_deliver(v, vector, pushes_error ? SOFT_EVENT_HAS_ERROR : 0, error, v->rip);
    v->delivering = DELIVERING_NOTHING;
    return true;
}

static void enter_handler(struct soft_vcpu *v, uint32_t cleared_flags)
{
    v->flags &= ~(cleared_flags | X86_FLAG_TF | X86_FLAG_RF);
    v->shadow_sti = false;
    v->shadow_mov_ss = false;
}

static void deliver_real(struct soft_vcpu *v, uint8_t vector, uint64_t return_rip)
{
    uint32_t offset = vector * 4u;
    if (offset + 3 > v->idtr.limit) {
        soft_raise_error(v, v->op, X86_GP, 0);
    }
    uint32_t entry = (uint32_t)soft_system_load_value(v, (uint32_t)(v->idtr.base + offset), 4);
    uint64_t sp = v->gpr[X86_RSP];
    sp = soft_push_at(v, v->op, sp, 2, soft_rflags(v));
    sp = soft_push_at(v, v->op, sp, 2, v->segment[X86_CS].selector);
    sp = soft_push_at(v, v->op, sp, 2, return_rip);
    soft_set_sp(v, sp);
    v->rip = entry & 0xffff;
    soft_set_real_segment(v, X86_CS, (uint16_t)(entry >> 16));
    enter_handler(v, X86_FLAG_IF | X86_FLAG_AC);
}

struct gate {
    uint64_t low, high;
    unsigned type, dpl;
    bool is_present;
    uint16_t selector;
    uint64_t offset;
};

static struct gate read_gate(struct soft_vcpu *v, uint8_t vector, unsigned event, uint32_t ext)
{
    bool is_long = soft_is_long(v);
    uint32_t size = is_long ? 16 : 8;
    uint32_t error = vector * 8u + 2 + ext;
    if (vector * size + size - 1 > v->idtr.limit) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    struct gate gate = {0};
    uint64_t at = v->idtr.base + vector * size;
    gate.low = soft_system_load_value(v, is_long ? at : (uint32_t)at, 8);
    if (is_long) {
        gate.high = soft_system_load_value(v, at + 8, 8);
    }
    gate.type = (gate.low >> 40) & 0x1f; /* S must be 0 */
    gate.dpl = (gate.low >> 45) & 3;
    gate.is_present = (gate.low >> 47) & 1;
    gate.selector = (uint16_t)(gate.low >> 16);
    gate.offset = (gate.low & 0xffff) | ((gate.low >> 32) & 0xffff0000) | (gate.high << 32);
    if (gate.type == GATE_INTERRUPT_16 || gate.type == GATE_TRAP_16) {
        gate.offset &= 0xffff;
    }
    bool is_known = gate.type == GATE_INTERRUPT || gate.type == GATE_TRAP ||
                    (!is_long && (gate.type == GATE_TASK || gate.type == GATE_INTERRUPT_16 ||
                                  gate.type == GATE_TRAP_16));
    if (!is_known || ((event & SOFT_EVENT_SOFTWARE) && gate.dpl < v->cpl)) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    if (!gate.is_present) {
        soft_raise_error(v, v->op, X86_NP, error);
    }
    return gate;
}

/* The handler's code segment: its descriptor and the CPL that it runs at. */
static unsigned check_handler(struct soft_vcpu *v, const struct gate *gate, uint32_t ext,
                              struct soft_descriptor *cs)
{
    uint32_t error = (gate->selector & 0xfffcu) | ext;
    if (!(gate->selector & ~3u)) {
        soft_raise_error(v, v->op, X86_GP, ext);
    }
    if (!soft_descriptor_read(v, gate->selector, cs) || !soft_descriptor_is_code(cs) ||
        soft_descriptor_dpl(cs) > v->cpl) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    uint16_t attributes = cs->segment.attributes;
    if (soft_is_long(v) && (attributes & (X86_SEGMENT_L | X86_SEGMENT_DB)) != X86_SEGMENT_L) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    if (!soft_descriptor_is_present(cs)) {
        soft_raise_error(v, v->op, X86_NP, error);
    }
    bool is_conforming = attributes & X86_SEGMENT_CONFORM;
    unsigned cpl = is_conforming ? v->cpl : soft_descriptor_dpl(cs);
    if (soft_is_v86(v) && (is_conforming || cpl != 0)) {
        soft_raise_error(v, v->op, X86_GP, error);
    }
    return cpl;
}

static void set_code_segment(struct soft_vcpu *v, struct soft_descriptor *cs, unsigned cpl)
{
    soft_descriptor_set_accessed(v, cs);
    v->segment[X86_CS] = cs->segment;
    v->segment[X86_CS].selector = (uint16_t)((cs->segment.selector & ~3u) | cpl);
    v->cpl = (uint8_t)cpl;
}

static void deliver_long(struct soft_vcpu *v, uint8_t vector, unsigned event, uint32_t error,
                         uint64_t return_rip)
{
    uint32_t ext = event & SOFT_EVENT_EXTERNAL || !(event & SOFT_EVENT_SOFTWARE) ? 1 : 0;
    struct gate gate = read_gate(v, vector, event, ext);
    struct soft_descriptor cs;
    unsigned cpl = check_handler(v, &gate, ext, &cs);
    unsigned ist = (gate.low >> 32) & 7;
    uint64_t sp = v->gpr[X86_RSP];
    if (ist) {
        sp = soft_task_stack_long(v, 3 + ist - 1, ext);
    } else if (cpl != v->cpl) {
        sp = soft_task_stack_long(v, cpl, ext);
    }
    if (!x86_is_canonical(sp)) {
        soft_raise_error(v, v->op, X86_SS_FAULT, ext);
    }
    if (!x86_is_canonical(gate.offset)) {
        soft_raise_error(v, v->op, X86_GP, ext);
    }
    uint64_t frame[6] = {error,          return_rip,      v->segment[X86_CS].selector,
                         soft_rflags(v), v->gpr[X86_RSP], v->segment[X86_SS].selector};
    sp &= ~15ull;
    bool has_error = event & SOFT_EVENT_HAS_ERROR;
    const uint64_t *first = has_error ? frame : frame + 1;
    uint32_t size = has_error ? 48 : 40;
    sp -= size;
    if (!x86_is_canonical(sp)) {
        soft_raise_error(v, v->op, X86_SS_FAULT, ext);
    }
    /* The pushes have the handler's privilege. */
    if (v->cpl == cpl) {
        const struct soft_op *op = v->op;
        soft_store_unchecked(v, op, sp, first, size);
    } else {
        soft_system_store(v, sp, first, size);
    }
    if (cpl != v->cpl) {
        soft_set_null_segment(&v->segment[X86_SS], (uint16_t)cpl, cpl);
    }
    set_code_segment(v, &cs, cpl);
    v->gpr[X86_RSP] = sp;
    v->rip = gate.offset;
    enter_handler(v, X86_FLAG_NT | X86_FLAG_VM | (gate.type & 1 ? 0 : X86_FLAG_IF));
    soft_update_mode(v);
}

/* Pushes on a stack that is not in SS yet: without paging's user rights, within its segment's limit. */
struct new_stack {
    struct x86_segment segment;
    uint32_t sp;
};

static void new_stack_push(struct soft_vcpu *v, struct new_stack *stack, uint32_t size,
                           uint32_t value, uint32_t ext)
{
    uint32_t mask = stack->segment.attributes & X86_SEGMENT_DB ? UINT32_MAX : UINT16_MAX;
    stack->sp = (stack->sp & ~mask) | ((stack->sp - size) & mask);
    uint64_t offset = stack->sp & mask;
    bool is_down = stack->segment.attributes & X86_SEGMENT_DOWN;
    bool fits = is_down ? offset > stack->segment.limit && offset + size - 1 <= mask
                        : offset + size - 1 <= stack->segment.limit;
    if (!fits) {
        soft_raise_error(v, v->op, X86_SS_FAULT, (stack->segment.selector & 0xfffcu) | ext);
    }
    soft_system_store(v, (uint32_t)(stack->segment.base + offset), &value, size);
}

static void deliver_inner(struct soft_vcpu *v, const struct gate *gate, struct soft_descriptor *cs,
                          unsigned cpl, unsigned event, uint32_t error, uint64_t return_rip,
                          uint32_t ext)
{
    uint32_t size = gate->type >= GATE_INTERRUPT ? 4 : 2;
    uint16_t ss;
    uint32_t esp;
    struct soft_descriptor d;
    soft_task_stack(v, cpl, ext, &ss, &esp);
    soft_check_stack_segment(v, ss, cpl, X86_TS, ext, &d);
    if (gate->offset > cs->segment.limit) {
        soft_raise_error(v, v->op, X86_GP, ext);
    }
    struct new_stack stack = {.segment = d.segment, .sp = esp};
    bool was_v86 = soft_is_v86(v);
    if (was_v86) {
        static const enum x86_segment_id order[] = {X86_GS, X86_FS, X86_DS, X86_ES};
        for (size_t i = 0; i < ARRAY_COUNT(order); i++) {
            new_stack_push(v, &stack, size, v->segment[order[i]].selector, ext);
        }
    }
    new_stack_push(v, &stack, size, v->segment[X86_SS].selector, ext);
    new_stack_push(v, &stack, size, (uint32_t)v->gpr[X86_RSP], ext);
    new_stack_push(v, &stack, size, soft_rflags(v), ext);
    new_stack_push(v, &stack, size, v->segment[X86_CS].selector, ext);
    new_stack_push(v, &stack, size, (uint32_t)return_rip, ext);
    if (event & SOFT_EVENT_HAS_ERROR) {
        new_stack_push(v, &stack, size, error, ext);
    }
    soft_descriptor_set_accessed(v, &d);
    if (was_v86) {
        soft_set_null_segment(&v->segment[X86_GS], 0, 0);
        soft_set_null_segment(&v->segment[X86_FS], 0, 0);
        soft_set_null_segment(&v->segment[X86_DS], 0, 0);
        soft_set_null_segment(&v->segment[X86_ES], 0, 0);
        v->flags &= ~X86_FLAG_VM;
    }
    v->segment[X86_SS] = d.segment;
    soft_put_sized(v, X86_RSP * 8, d.segment.attributes & X86_SEGMENT_DB ? 4 : 2, stack.sp);
    set_code_segment(v, cs, cpl);
}

static void deliver_same(struct soft_vcpu *v, const struct gate *gate, struct soft_descriptor *cs,
                         unsigned event, uint32_t error, uint64_t return_rip, uint32_t ext)
{
    uint32_t size = gate->type >= GATE_INTERRUPT ? 4 : 2;
    uint64_t sp = v->gpr[X86_RSP];
    if (gate->offset > cs->segment.limit) {
        soft_raise_error(v, v->op, X86_GP, ext);
    }
    sp = soft_push_at(v, v->op, sp, size, soft_rflags(v));
    sp = soft_push_at(v, v->op, sp, size, v->segment[X86_CS].selector);
    sp = soft_push_at(v, v->op, sp, size, return_rip);
    if (event & SOFT_EVENT_HAS_ERROR) {
        sp = soft_push_at(v, v->op, sp, size, error);
    }
    soft_set_sp(v, sp);
    set_code_segment(v, cs, v->cpl);
}

static void deliver_protected(struct soft_vcpu *v, uint8_t vector, unsigned event, uint32_t error,
                              uint64_t return_rip)
{
    uint32_t ext = event & SOFT_EVENT_SOFTWARE ? 0 : 1;
    struct gate gate = read_gate(v, vector, event, ext);
    struct soft_descriptor d;
    if (gate.type == GATE_TASK) {
        if ((gate.selector & 4) || !soft_descriptor_read(v, gate.selector, &d)) {
            soft_raise_error(v, v->op, X86_GP, (gate.selector & 0xfffcu) | ext);
        }
        soft_task_switch(v, gate.selector, &d, SOFT_TASK_CALL, return_rip,
                         event & SOFT_EVENT_HAS_ERROR, error);
        return;
    }
    unsigned cpl = check_handler(v, &gate, ext, &d);
    if (cpl < v->cpl) {
        deliver_inner(v, &gate, &d, cpl, event, error, return_rip, ext);
    } else {
        deliver_same(v, &gate, &d, event, error, return_rip, ext);
    }
    v->rip = gate.offset;
    enter_handler(v, X86_FLAG_NT | X86_FLAG_VM | (gate.type & 1 ? 0 : X86_FLAG_IF));
    soft_update_mode(v);
}

void soft_deliver(struct soft_vcpu *v, uint8_t vector, unsigned event, uint32_t error,
                  uint64_t return_rip)
{
    if (event & (SOFT_EVENT_EXTERNAL | SOFT_EVENT_SOFTWARE)) {
        v->delivering = DELIVERING_BENIGN;
    }
    if (!soft_is_protected(v)) {
        deliver_real(v, vector, return_rip);
        soft_update_mode(v);
    } else if (soft_is_long(v)) {
        deliver_long(v, vector, event, error, return_rip);
    } else {
        deliver_protected(v, vector, event, error, return_rip);
    }
    v->delivering = DELIVERING_NOTHING;
    v->has_delivered = true;
    /* A step that MOV to SS has put off is lost, with TF, where the next instruction enters a handler. */
    v->pending_dr6 &= ~(uint64_t)SOFT_DR6_BS;
}
