/* Templates of instructions whose registers are named by the opcode or by their meaning, and LEA. */
#include "base/core/bits.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

static uint8_t opcode_reg(const struct x86_insn *insn)
{
    return (uint8_t)((insn->opcode & 7) | (insn->rex & 1) << 3);
}

/* Where LEA finds a register of its operand: SCRATCH, if the vCPU keeps it. */
static uint8_t lea_register(uint8_t guest)
{
    if (guest == X86_BASE_NONE || guest == X86_BASE_RIP) {
        return HOST_NONE;
    }
    return native_is_spilled(guest) ? SCRATCH : native_home(guest);
}

void native_emit_lea(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    uint8_t reg = (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
    struct emitter *e = &t->e;
    /* An operand that is no wider than the address needs no address of its own. */
    bool is_simple = insn->operand_bytes >= 4 && insn->address_bytes >= insn->operand_bytes;
    uint8_t to = native_is_spilled(reg) ? SCRATCH : native_home(reg);
    if (is_simple && insn->base == X86_BASE_RIP) {
        uint64_t value = native_next_rip(t->source, t->index) + (uint64_t)insn->disp;
        native_emit_rip(t, to, value);
        if (insn->operand_bytes == 4) {
            emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_REG_RM, .reg = to, .rm = to});
        }
        if (to == SCRATCH) {
            native_store_gpr(t, SCRATCH, reg);
        }
        return;
    }
    uint8_t base = lea_register(insn->base), index = lea_register(insn->index);
    if (is_simple && (base != SCRATCH || index != SCRATCH || insn->base == insn->index)) {
        if (base == SCRATCH || index == SCRATCH) {
            native_load_gpr(t, SCRATCH, base == SCRATCH ? insn->base : insn->index);
        }
        bool holds = native_holds_any(t);
        emit_insn(e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                         .w = insn->operand_bytes == 8,
                                         .reg = to,
                                         .is_memory = true,
                                         .base = base,
                                         .index = index,
                                         .shift = (uint8_t)__builtin_ctz(insn->scale),
                                         .disp = (int32_t)insn->disp});
        if (holds && (to != t->held.host || reg == t->held.guest)) {
            native_go_on_holding(t);
        }
        if (to == SCRATCH) {
            native_store_gpr(t, SCRATCH, reg);
            t->held.is_half = insn->operand_bytes == 4;
        }
        return;
    }
    t->address_group = NATIVE_NO_GROUP;
    struct native_insn plain = *n;
    plain.insn.segment = X86_DS;
    native_emit_address(t, &plain);
    /* R14 has the address; the register takes as much of it as the operand size says. */
    if (insn->operand_bytes == 2) {
        if (native_is_spilled(reg)) {
            native_load_gpr(t, SCRATCH, reg);
        }
        emit_insn(e, &(struct host_insn){
                         .opcode = HOST_OP_MOV_REG_RM, .is_16 = true, .reg = to, .rm = ADDRESS});
        if (native_is_spilled(reg)) {
            native_store_gpr(t, SCRATCH, reg);
        }
        return;
    }
    to = native_is_spilled(reg) ? ADDRESS : to;
    if (insn->operand_bytes == 4 || to != ADDRESS) {
        emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_REG_RM,
                                         .w = insn->operand_bytes == 8,
                                         .reg = to,
                                         .rm = ADDRESS});
    }
    if (native_is_spilled(reg)) {
        native_store_gpr(t, ADDRESS, reg);
    }
}

void native_emit_mov_immediate(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    uint8_t reg = opcode_reg(insn);
    bool is_byte = (insn->opcode & 0xf8) == 0xb0;
    struct emitter *e = &t->e;
    if (!is_byte && insn->operand_bytes >= 4) {
        uint64_t value = insn->operand_bytes == 4 ? (uint32_t)insn->imm : insn->imm;
        uint8_t to = native_is_spilled(reg) ? SCRATCH : native_home(reg);
        emit_mov_imm(e, to, value);
        if (native_is_spilled(reg)) {
            native_store_gpr(t, SCRATCH, reg);
        }
        return;
    }
    /* C6 /0 or C7 /0 with 16 bits, in memory for spilled ones. */
    bool is_high = is_byte && !insn->rex && reg >= 4;
    bool is_spilled = native_is_spilled(reg);
    emit_insn(e, &(struct host_insn){
                     .opcode = is_byte ? 0xc6 : 0xc7,
                     .is_16 = !is_byte,
                     .needs_rex = is_byte && !is_high && !is_spilled && reg >= 4,
                     .is_memory = is_spilled,
                     .base = HOST_RSP,
                     .index = HOST_NONE,
                     .disp = VCPU_FIELD(gpr) + 8 * reg,
                     .rm = is_high ? reg : native_home(reg),
                     .imm_bytes = insn->imm_bytes,
                     .imm = t->source->copy + n->offset + insn->imm_offset,
                 });
}

void native_emit_bswap(struct translation *t, const struct native_insn *n)
{
    uint8_t guest = opcode_reg(&n->insn);
    uint8_t reg = native_is_spilled(guest) ? SCRATCH : native_home(guest);
    if (reg == SCRATCH) {
        native_load_gpr(t, SCRATCH, guest);
    }
    if (n->insn.operand_bytes == 2) {
        emit8(&t->e, 0x66);
    }
    uint8_t rex = (uint8_t)((n->insn.operand_bytes == 8 ? 8 : 0) | reg >> 3);
    if (rex) {
        emit8(&t->e, 0x40 | rex);
    }
    emit8(&t->e, 0x0f);
    emit8(&t->e, 0xc8 | (reg & 7));
    if (reg == SCRATCH) {
        native_store_gpr(t, SCRATCH, guest);
    }
}

void native_emit_xchg_rax(struct translation *t, const struct native_insn *n)
{
    emit_insn(&t->e, &(struct host_insn){.opcode = 0x87,
                                         .is_16 = n->insn.operand_bytes == 2,
                                         .w = n->insn.operand_bytes == 8,
                                         .reg = HOST_RAX,
                                         .rm = native_home(opcode_reg(&n->insn))});
}

void native_emit_step(struct translation *t, const struct native_insn *n)
{
    if (native_needs_host_flags(n)) {
        native_want_flags(t, SCRATCH);
    }
    uint8_t *start = t->e.at;
    emit_insn(&t->e, &(struct host_insn){.opcode = 0xff,
                                         .is_16 = n->insn.operand_bytes == 2,
                                         .reg = n->insn.id == X86_ID_DEC,
                                         .rm = native_home(n->insn.opcode & 7)});
    native_fit_next(t, n, start);
    native_flags_written(t, n);
}

void native_emit_moffs(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    bool is_store = insn->opcode & 2, is_byte = !(insn->opcode & 1);
    native_emit_operand(t, n, is_byte ? 1 : insn->operand_bytes, is_store, false);
    emit_insn(&t->e, &(struct host_insn){
                         .opcode = (uint8_t)((is_store ? 0x88 : 0x8a) | !is_byte),
                         .is_16 = !is_byte && insn->operand_bytes == 2,
                         .w = !is_byte && insn->operand_bytes == 8,
                         .reg = HOST_RAX,
                         .is_memory = true,
                         .base = ADDRESS,
                         .index = HOST_NONE,
                         .disp = t->operand_disp,
                     });
}
