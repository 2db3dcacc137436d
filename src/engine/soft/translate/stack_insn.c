/* Templates of the stack: pushes, pops, LEAVE. A word is what they move: 8 bytes, 4 in 32-bit code, whose stack is flat. */
#include <stddef.h>

#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15
#define STACK   HOST_R13

void native_emit_word(struct translation *t, uint8_t opcode, uint8_t reg, uint8_t base,
                      int32_t disp)
{
    emit_insn(&t->e, &(struct host_insn){.opcode = opcode,
                                         .w = !t->source->is_32,
                                         .reg = reg,
                                         .is_memory = true,
                                         .base = base,
                                         .index = HOST_NONE,
                                         .disp = disp});
}

static void move_word(struct translation *t, uint8_t to, uint8_t from)
{
    emit_insn(&t->e,
              &(struct host_insn){
                  .opcode = HOST_OP_MOV_REG_RM, .w = !t->source->is_32, .reg = to, .rm = from});
}

/* The register of PUSH and POP. */
static uint8_t stack_register(const struct native_insn *n)
{
    return (uint8_t)((n->insn.opcode & 7) | (n->insn.rex & 1) << 3);
}

static bool is_simple_stack_access(const struct native_insn *n)
{
    return (n->kind == NATIVE_PUSH_REG || n->kind == NATIVE_POP_REG) &&
           stack_register(n) != X86_RSP;
}

/* Neither accesses memory nor has to do with RSP, nor can leave the block. */
static bool is_quiet(const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    if (n->kind == NATIVE_NOTHING) {
        return true;
    }
    if (n->kind != NATIVE_MOV_IMM && n->kind != NATIVE_LEA &&
        (n->kind != NATIVE_PLAIN || insn->has_memory || n->row->is_vector)) {
        return false;
    }
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind == X86_OPERAND_REG &&
            (operand->reg_class != X86_REG_GPR || operand->reg == X86_RSP)) {
            return false;
        }
    }
    return !insn->has_memory || (insn->base != X86_RSP && insn->index != X86_RSP);
}

#define QUIET_MOST 4u

/* Will an instruction soon behind this one move RSP as well, whose access needs no check? */
static bool moves_again(const struct translation *t)
{
    const struct native_source *source = t->source;
    const struct native_insn *n = &source->insn[t->index];
    if (!is_simple_stack_access(n) || n->group == NATIVE_NO_GROUP || t->needs_poll ||
        !(t->checked_groups >> n->group & 1)) {
        return false;
    }
    for (uint32_t i = t->index + 1; i < source->count && i <= t->index + 1 + QUIET_MOST; i++) {
        const struct native_insn *next = &source->insn[i];
        if (is_simple_stack_access(next) || next->kind == NATIVE_RET) {
            return next->group == n->group;
        }
        if (!is_quiet(next)) {
            return false;
        }
    }
    return false;
}

void native_emit_move_stack(struct translation *t, int32_t change)
{
    t->stack_pending += change;
    if (!moves_again(t)) {
        native_emit_word(t, HOST_OP_LEA, STACK, STACK, t->stack_pending);
        t->stack_pending = 0;
    }
}

static void emit_word_at(struct translation *t, const struct native_insn *n, uint8_t base,
                         int32_t disp, bool is_write)
{
    if (native_emit_grouped(t, n)) {
        return;
    }
    native_before_access(t, n);
    if (native_has_windows(t)) {
        native_emit_near(t, base, disp);
        return;
    }
    if (disp) {
        native_emit_word(t, HOST_OP_LEA, ADDRESS, base, disp);
    } else {
        move_word(t, ADDRESS, base);
    }
    native_emit_check(t, native_word(t->source), is_write);
}

void native_emit_stack(struct translation *t, const struct native_insn *n, int32_t disp,
                       bool is_write)
{
    emit_word_at(t, n, STACK, disp, is_write);
}

static void store_imm(struct translation *t, int32_t value)
{
    native_emit_word(t, 0xc7, 0, ADDRESS, t->operand_disp);
    emit32(&t->e, (uint32_t)value);
}

void native_emit_push(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    uint8_t word = native_word(t->source);
    bool is_memory = n->kind == NATIVE_PUSH_MEM && insn->has_memory;
    if (is_memory) {
        native_emit_operand(t, n, word, false, false);
        native_emit_word(t, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS, t->operand_disp);
        emit_op_base(&t->e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
    }
    native_emit_stack(t, n, -word, true);
    uint8_t guest = (uint8_t)(((n->kind == NATIVE_PUSH_REG ? insn->opcode : insn->modrm) & 7) |
                              (insn->rex & 1) << 3);
    if (n->kind == NATIVE_PUSH_IMM) {
        store_imm(t, (int32_t)insn->imm);
    } else if (is_memory) {
        emit_op_base(&t->e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
        native_emit_word(t, HOST_OP_MOV_RM_REG, SCRATCH, ADDRESS, t->operand_disp);
    } else if (native_is_spilled(guest)) {
        native_load_gpr(t, SCRATCH, guest);
        native_emit_word(t, HOST_OP_MOV_RM_REG, SCRATCH, ADDRESS, t->operand_disp);
    } else {
        native_emit_word(t, HOST_OP_MOV_RM_REG, native_home(guest), ADDRESS, t->operand_disp);
    }
    native_emit_move_stack(t, -word);
}

void native_emit_pop(struct translation *t, const struct native_insn *n)
{
    uint8_t guest = stack_register(n);
    native_emit_stack(t, n, 0, false);
    /* The load comes first, as the host may fault there. */
    if (native_is_spilled(guest)) {
        native_emit_word(t, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS, t->operand_disp);
        native_store_gpr(t, SCRATCH, guest);
    } else {
        native_emit_word(t, HOST_OP_MOV_REG_RM, native_home(guest), ADDRESS, t->operand_disp);
    }
    if (guest != X86_RSP) {
        native_emit_move_stack(t, native_word(t->source));
    }
}

void native_emit_push_selector(struct translation *t, const struct native_insn *n)
{
    uint8_t word = native_word(t->source);
    int32_t selector =
        VCPU_FIELD(segment) + (int32_t)(n->insn.operand[0].reg * sizeof(struct x86_segment) +
                                        offsetof(struct x86_segment, selector));
    native_emit_stack(t, n, -word, true);
    emit_insn(&t->e, &(struct host_insn){.map = 1, /* movzx r15d, word [selector] */
                                         .opcode = 0xb7,
                                         .reg = SCRATCH,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = selector});
    /* Of 4 bytes Intel's CPUs write the selector only. */
    emit_insn(&t->e, &(struct host_insn){.opcode = HOST_OP_MOV_RM_REG,
                                         .is_16 = word == 4 && t->is_intel,
                                         .w = word == 8,
                                         .reg = SCRATCH,
                                         .is_memory = true,
                                         .base = ADDRESS,
                                         .index = HOST_NONE,
                                         .disp = t->operand_disp});
    native_emit_move_stack(t, -word);
}

void native_emit_pop_memory(struct translation *t, const struct native_insn *n)
{
    uint8_t word = native_word(t->source);
    struct native_insn target = *n;
    if (n->insn.has_memory && n->insn.base == X86_RSP) {
        target.insn.disp += word; /* the address counts from RSP after the pop */
    }
    native_emit_stack(t, n, 0, false);
    native_emit_word(t, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS, t->operand_disp);
    if (!n->insn.has_memory) {
        uint8_t guest = (uint8_t)((n->insn.modrm & 7) | (n->insn.rex & 1) << 3);
        native_emit_move_stack(t, word);
        if (native_is_spilled(guest)) {
            native_store_gpr(t, SCRATCH, guest);
        } else {
            emit_op_reg(&t->e, HOST_OP_MOV_REG_RM, native_home(guest), SCRATCH);
        }
        return;
    }
    emit_op_base(&t->e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
    native_emit_operand(t, &target, word, true, false);
    emit_op_base(&t->e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
    native_emit_word(t, HOST_OP_MOV_RM_REG, SCRATCH, ADDRESS, t->operand_disp);
    native_emit_move_stack(t, word);
}

void native_emit_leave(struct translation *t, const struct native_insn *n)
{
    emit_word_at(t, n, HOST_RBP, 0, false);
    if (native_has_windows(t)) { /* the host may fault there */
        native_emit_word(t, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS, t->operand_disp);
        native_emit_word(t, HOST_OP_LEA, STACK, HOST_RBP, native_word(t->source));
        emit_op_reg(&t->e, HOST_OP_MOV_REG_RM, HOST_RBP, SCRATCH);
        return;
    }
    native_emit_word(t, HOST_OP_LEA, STACK, HOST_RBP, native_word(t->source));
    native_emit_word(t, HOST_OP_MOV_REG_RM, HOST_RBP, ADDRESS, t->operand_disp);
}
