/* Status flags that nobody has to save: those of an instruction whose operands are there still when the block is left by an indirect
 * branch, as at the end of most functions. They are made once more, by one to three instructions in front of the jump, for a target
 * that hardly ever looks at them. */
#include "base/core/bits.h"
#include "engine/soft/translate/translate.h"

#define MOST_DISP (1 << 30)

/* Between the instruction and the branch: nothing that needs flags or makes other ones. */
static bool is_simple(const struct native_insn *n)
{
    switch (n->kind) {
    case NATIVE_PLAIN:
        return n->insn.id != X86_ID_XCHG && n->insn.id != X86_ID_CMPXCHG16B;
    case NATIVE_NOTHING:
    case NATIVE_LEA:
    case NATIVE_MOV_IMM:
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_POP_REG:
        return true;
    case NATIVE_RAW:
        return n->row->is_vector; /* VZEROUPPER */
    default:
        return false;
    }
}

/* Registers that it writes, but for what PUSH and POP do to RSP. */
static uint16_t changed_by(const struct native_insn *n)
{
    uint16_t changed = 0;
    bool is_stack =
        n->kind == NATIVE_PUSH_REG || n->kind == NATIVE_PUSH_IMM || n->kind == NATIVE_POP_REG;
    if (n->kind == NATIVE_POP_REG || n->kind == NATIVE_MOV_IMM) {
        changed |= (uint16_t)BIT((n->insn.opcode & 7) | (n->insn.rex & 1) << 3);
    }
    return changed | (is_stack ? 0 : native_written_gprs(&n->insn));
}

static int32_t stack_change(const struct native_source *source, const struct native_insn *n)
{
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
        return -native_word(source);
    case NATIVE_POP_REG:
        return native_word(source);
    default:
        return 0;
    }
}

static bool is_gpr(const struct x86_operand *operand, uint32_t size)
{
    return operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
           operand->size_bytes == size && !operand->is_high;
}

/* A register in the host's that is none of 'changed'. */
static bool is_kept(const struct x86_operand *operand, uint32_t size, uint16_t changed)
{
    return is_gpr(operand, size) && operand->reg != X86_RSP && !native_is_spilled(operand->reg) &&
           !(changed >> operand->reg & 1);
}

/* Can the flags of an instruction be had again behind others that have changed registers? */
static bool can_make(const struct native_insn *n, uint16_t changed)
{
    const struct x86_insn *insn = &n->insn;
    const struct x86_operand *target = &insn->operand[0], *source = &insn->operand[1];
    uint32_t size = target->size_bytes;
    bool has_source = insn->operand_count == 2 && !insn->has_memory &&
                      (source->kind == X86_OPERAND_IMM || is_kept(source, size, changed));
    if (n->kind != NATIVE_PLAIN || insn->map || insn->operand_count < 2 ||
        (size != 1 && size != 4 && size != 8)) {
        return false;
    }
    switch (insn->id) {
    case X86_ID_AND:
    case X86_ID_OR:
    case X86_ID_XOR:
        return is_kept(target, size, changed);
    case X86_ID_CMP:
    case X86_ID_TEST:
        return insn->has_modrm && has_source && is_kept(target, size, changed);
    case X86_ID_ADD:
    case X86_ID_SUB:
        if (!has_source || size == 1 || !is_gpr(target, size)) {
            return false;
        }
        if (source->kind == X86_OPERAND_IMM) {
            int64_t imm = (int32_t)insn->imm;
            bool is_stack = target->reg == X86_RSP && !(changed >> X86_RSP & 1);
            return imm > -MOST_DISP && imm < MOST_DISP &&
                   (is_stack || is_kept(target, size, changed));
        }
        return is_kept(target, size, changed) && source->reg != target->reg;
    default:
        return false;
    }
}

/* Landings begin with the flags in 'status' (call_return.c). */
static bool leaves_indirectly(const struct translation *t, const struct native_insn *n)
{
    return n->kind == NATIVE_JMP_INDIRECT || n->kind == NATIVE_CALL_INDIRECT ||
           (n->kind == NATIVE_RET && !t->has_landings);
}

bool native_find_flags_again(struct translation *t)
{
    const struct native_source *source = t->source;
    uint32_t last = source->count - 1, from = t->index;
    if (t->flags_again) {
        return from >= t->flags_again_from;
    }
    if (t->counts || !(t->flags & FLAGS_HOST) || !leaves_indirectly(t, &source->insn[last])) {
        return false;
    }
    uint16_t changed = 0;
    for (uint32_t i = from; i < last; i++) {
        const struct native_insn *n = &source->insn[i];
        if (!is_simple(n) || n->reads || n->writes) {
            return false;
        }
        changed |= changed_by(n);
    }
    while (from-- > 0) {
        const struct native_insn *n = &source->insn[from];
        if (n->writes) {
            bool is_all = !(source->insn[last].live_before & ~n->writes);
            t->flags_again = is_all && can_make(n, changed) ? n : NULL;
            t->flags_again_from = t->index;
            return t->flags_again != NULL;
        }
        if (!is_simple(n) && n->kind != NATIVE_JCC) {
            return false;
        }
        changed |= changed_by(n);
    }
    return false;
}

/* 'scratch' = what the target of ADD or SUB of a constant was before. */
static void emit_old_value(struct translation *t, uint32_t index, int32_t moved, uint8_t scratch)
{
    const struct native_insn *n = t->flags_again;
    const struct x86_insn *insn = &n->insn;
    uint8_t target = insn->operand[0].reg;
    int32_t imm = (int32_t)insn->imm;
    int32_t disp = insn->id == X86_ID_ADD ? -imm : imm;
    if (target == X86_RSP) {
        for (const struct native_insn *later = n + 1; later < &t->source->insn[index]; later++) {
            disp -= stack_change(t->source, later);
        }
        disp -= moved;
    }
    emit_insn(&t->e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                         .w = insn->operand_bytes == 8,
                                         .reg = scratch,
                                         .is_memory = true,
                                         .base = native_home(target),
                                         .index = HOST_NONE,
                                         .disp = disp});
}

void native_emit_flags_again(struct translation *t, uint32_t index, int32_t moved, uint8_t scratch)
{
    struct emitter *e = &t->e;
    const struct x86_insn *insn = &t->flags_again->insn;
    const struct x86_operand *target = &insn->operand[0], *source = &insn->operand[1];
    bool is_64 = insn->operand_bytes == 8, is_add = insn->id == X86_ID_ADD;
    bool is_byte = target->size_bytes == 1; /* SPL to DIL need a REX prefix */
    uint8_t home = native_home(target->reg);
    switch (insn->id) {
    case X86_ID_AND:
    case X86_ID_OR:
    case X86_ID_XOR: /* test */
        emit_insn(e, &(struct host_insn){.opcode = is_byte ? 0x84 : 0x85,
                                         .w = is_64 && !is_byte,
                                         .needs_rex = is_byte && home >= 4,
                                         .reg = home,
                                         .rm = home});
        return;
    case X86_ID_ADD:
    case X86_ID_SUB: {
        int32_t imm = (int32_t)insn->imm;
        if (source->kind == X86_OPERAND_IMM) {
            emit_old_value(t, index, moved, scratch);
            bool is_short = imm == (int8_t)imm;
            emit_insn(e, &(struct host_insn){.opcode = is_short ? 0x83 : 0x81,
                                             .w = is_64,
                                             .reg = is_add ? 0 : 5,
                                             .rm = scratch,
                                             .imm_bytes = is_short ? 1 : 4,
                                             .imm = (const uint8_t *)&imm});
            return;
        }
        static const uint8_t add = 0x03, sub = 0x2b;
        const uint8_t opcode[] = {HOST_OP_MOV_REG_RM, is_add ? sub : add, is_add ? add : sub};
        for (size_t i = 0; i < ARRAY_COUNT(opcode); i++) {
            emit_insn(e, &(struct host_insn){.opcode = opcode[i],
                                             .w = is_64,
                                             .reg = scratch,
                                             .rm = i ? native_home(source->reg) : home});
        }
        return;
    }
    default: { /* CMP and TEST as they are */
        uint8_t reg = insn->modrm >> 3 & 7, rm = insn->modrm & 7;
        rm |= (uint8_t)((insn->rex & 1) << 3);
        if (source->kind == X86_OPERAND_REG) {
            reg |= (uint8_t)((insn->rex & 4) << 1);
        }
        bool is_low = source->kind == X86_OPERAND_REG && reg >= 4;
        emit_insn(e, &(struct host_insn){.opcode = insn->opcode,
                                         .w = is_64 && !is_byte,
                                         .needs_rex = is_byte && (rm >= 4 || is_low),
                                         .reg = reg,
                                         .rm = rm,
                                         .imm_bytes = insn->imm_bytes,
                                         .imm = t->source->copy + t->flags_again->offset +
                                                insn->imm_offset});
        return;
    }
    }
}
