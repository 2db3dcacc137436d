/* Templates of instructions whose operands are not just what ModRM names: strings, strings of bits, selectors. */
#include <stddef.h>

#include "engine/soft/string_run.h"
#include "engine/soft/translate/native_string.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

static uint8_t string_kind(const struct x86_insn *insn)
{
    switch (insn->id) {
    case X86_ID_MOVS:
        return SOFT_STRING_MOVS;
    case X86_ID_STOS:
        return SOFT_STRING_STOS;
    case X86_ID_LODS:
        return SOFT_STRING_LODS;
    case X86_ID_CMPS:
        return SOFT_STRING_CMPS;
    default:
        return SOFT_STRING_SCAS;
    }
}

/* A stub that does the instruction, or has the interpreter do it, and goes on behind. */
static void emit_call_of(struct translation *t, const uint8_t *stub)
{
    emit_bind(emit_call(&t->e), stub);
    emit64(&t->e, native_rip(t->source, t->index));
    emit64(&t->e, native_next_rip(t->source, t->index));
    native_emit_count(t, 1 - native_left(t, t->index)); /* who ran it has counted it */
    t->flags = FLAGS_SAVED;
    t->has_vectors = t->has_x87 = false; /* if the interpreter had to help */
    t->address_group = NATIVE_NO_GROUP;
}

void native_emit_string(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    uint32_t size_bits = (uint32_t)__builtin_ctz(native_memory_size(insn));
    uint32_t segment = insn->segment == X86_FS || insn->segment == X86_GS ? insn->segment : X86_DS;
    uint32_t description = string_kind(insn) | size_bits << NATIVE_STRING_SIZE_SHIFT |
                           segment << NATIVE_STRING_SEGMENT_SHIFT;
    if (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) {
        description |= NATIVE_STRING_REP;
    }
    if (insn->prefixes & X86_PREFIX_REPNE) {
        description |= NATIVE_STRING_REPNE;
    }
    if (t->source->is_32) {
        description |= NATIVE_STRING_32;
    }
    native_give_up_flags(t, n->live_before);
    native_emit_count(t, native_left(t, t->index));
    bool is_write = string_kind(insn) <= SOFT_STRING_STOS;
    if (is_write && (insn->prefixes & X86_PREFIX_REP) && segment == X86_DS && !t->source->is_32 &&
        !t->counts) {
        size_t number = native_string_number(string_kind(insn), (uint8_t)size_bits);
        emit_call_of(t, native_has_windows(t) ? t->native->window_string[number].code
                                              : t->native->tlb_string[t->tlb][number]);
        return;
    }
    emit_mov_imm(&t->e, SCRATCH, description);
    emit_call_of(t, t->native->string);
}

void native_emit_cpuid(struct translation *t, const struct native_insn *n)
{
    native_give_up_flags(t, n->live_before);
    native_emit_count(t, native_left(t, t->index));
    emit_call_of(t, t->native->cpuid);
}

static uint8_t reg_field(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
}

/* R15 = the guest register, or the sign-extended lower half of it. */
static void emit_copy(struct translation *t, uint8_t guest, bool is_64)
{
    uint8_t opcode = is_64 ? HOST_OP_MOV_REG_RM : 0x63;
    if (native_is_spilled(guest)) {
        emit_op_base(&t->e, opcode, SCRATCH, HOST_RSP, VCPU_FIELD(gpr) + 8 * guest);
    } else {
        emit_op_reg(&t->e, opcode, SCRATCH, guest == X86_RSP ? HOST_R13 : guest);
    }
}

/* The status flags to the host, while both scratch registers are in use. */
static void restore_flags_by_field(struct emitter *e)
{
    emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_RAX, HOST_RSP, VCPU_FIELD(native_target));
    native_load_flags(e);
    emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_RAX, HOST_RSP, VCPU_FIELD(native_target));
}

/* BT and its kin reach as far as the register says, in units of the operand; within one unit they are locked as a whole. */
void native_emit_bit_string(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    struct emitter *e = &t->e;
    bool is_64 = insn->operand_bytes == 8;
    uint8_t bits = is_64 ? 6 : 5;
    native_give_up_flags(t, n->live_before);
    t->address_group = NATIVE_NO_GROUP;
    native_emit_address(t, n);
    emit_copy(t, reg_field(insn), is_64);
    emit_shift(e, HOST_SAR, true, SCRATCH, bits);
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                     .w = !t->source->is_32,
                                     .reg = ADDRESS,
                                     .is_memory = true,
                                     .base = ADDRESS,
                                     .index = SCRATCH,
                                     .shift = is_64 ? 3 : 2});
    native_emit_translation(t, insn->operand_bytes, insn->id != X86_ID_BT, false);
    emit_copy(t, reg_field(insn), is_64);
    uint8_t mask = is_64 ? 63 : 31;
    emit_insn(e, &(struct host_insn){.opcode = 0x83, /* and r15d, mask */
                                     .reg = 4,
                                     .rm = SCRATCH,
                                     .imm_bytes = 1,
                                     .imm = &mask});
    if (n->live_after & ~n->writes) {
        restore_flags_by_field(e);
    }
    emit_insn(e, &(struct host_insn){.map = 1,
                                     .opcode = insn->opcode,
                                     .w = is_64,
                                     .is_locked = native_keeps_lock(t, insn),
                                     .reg = SCRATCH,
                                     .is_memory = true,
                                     .base = ADDRESS,
                                     .index = HOST_NONE});
    t->flags = FLAGS_HOST;
}

void native_emit_selector(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    struct emitter *e = &t->e;
    uint8_t rm = (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
    int32_t selector =
        VCPU_FIELD(segment) + (int32_t)(insn->operand[1].reg * sizeof(struct x86_segment) +
                                        offsetof(struct x86_segment, selector));
    bool is_16 = insn->operand_bytes == 2, is_spilled = native_is_spilled(rm);
    emit_insn(e, &(struct host_insn){.map = is_16 ? 0 : 1,
                                     .opcode = is_16 ? HOST_OP_MOV_REG_RM : 0xb7,
                                     .is_16 = is_16,
                                     .reg = is_spilled      ? SCRATCH
                                            : rm == X86_RSP ? HOST_R13
                                                            : rm,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = selector});
    if (is_spilled) {
        emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_RM_REG,
                                         .is_16 = is_16,
                                         .w = !is_16,
                                         .reg = SCRATCH,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(gpr) + 8 * rm});
    }
}
