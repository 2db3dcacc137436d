/* Instructions that are the host's as they are, but for the numbers of registers and the memory operand. */
#include "engine/soft/translate/translate.h"

#include <stddef.h>
#include <string.h>

#include "base/core/bits.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

/* MOV between 64-bit registers of which one or both are in the vCPU. */
static bool emit_spilled_move(struct translation *t, const struct x86_insn *insn, uint8_t reg,
                              uint8_t rm)
{
    if (insn->id != X86_ID_MOV || insn->map || insn->has_memory ||
        (insn->opcode != 0x89 && insn->opcode != 0x8b)) {
        return false;
    }
    uint8_t to = insn->opcode == 0x89 ? rm : reg;
    uint8_t from = insn->opcode == 0x89 ? reg : rm;
    bool is_half = native_holds(t, from) && t->held.is_half;
    if (insn->operand_bytes != 8 &&
        (insn->operand_bytes != 4 || !is_half || !native_is_spilled(to))) {
        return false;
    }
    if (native_is_spilled(to) && native_is_spilled(from)) {
        native_load_gpr(t, SCRATCH, from);
        native_store_gpr(t, SCRATCH, to);
        t->held.is_half = is_half;
    } else if (native_is_spilled(to)) {
        native_store_gpr(t, native_home(from), to);
    } else {
        native_load_gpr(t, native_home(to), from);
    }
    return true;
}

struct field_use {
    const struct native_field *field;
    uint8_t guest;
    uint8_t host;
};

/* Does W, which 32-bit code cannot have, say how wide a general register is? */
static bool has_gpr(const struct native_insn *n)
{
    const struct native_row *row = n->row;
    bool has = (row->reg.is_used && row->reg.reg_class == X86_REG_GPR) ||
               (row->rm.is_used && row->rm.reg_class == X86_REG_GPR);
    for (uint32_t i = 0; i < n->insn.operand_count; i++) {
        const struct x86_operand *operand = &n->insn.operand[i];
        has |= operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR;
    }
    return has;
}

/* Turns a register such that its second byte is the lowest, or back; no flags change. */
static void emit_turned(struct translation *t, uint8_t to, uint8_t reg, uint8_t count)
{
    emit_rorx(&t->e, true, to, reg, count);
}

static void emit_turn(struct translation *t, uint8_t reg, uint8_t count)
{
    emit_turned(t, reg, reg, count);
}

/* The second byte of 'reg' = the lowest of 'from'. */
static void emit_second_byte(struct translation *t, uint8_t reg, uint8_t from)
{
    emit_turn(t, reg, 8);
    emit_insn(&t->e, &(struct host_insn){.opcode = 0x88, .reg = from, .rm = reg}); /* mov */
    emit_turn(t, reg, 64 - 8);
}

/* Does an instruction with a memory operand need a register beside it: for a guest register that has none, or for the flags? */
static bool wants_scratch(const struct translation *t, const struct native_insn *n, uint8_t reg)
{
    const struct native_row *row = n->row;
    return native_has_high_byte(&n->insn) ||
           (row->reg.is_used && row->reg.reg_class == X86_REG_GPR && native_is_spilled(reg)) ||
           (row->vvvv.is_used && row->vvvv.reg_class == X86_REG_GPR) ||
           (native_needs_host_flags(n) &&
            (!(t->flags & FLAGS_HOST) || !native_faults_by_one_access(n) || !n->live_before));
}

/* Does it write all of a general register without a look at it? */
static bool is_pure_write(const struct x86_insn *insn)
{
    return (insn->id == X86_ID_MOV || insn->id == X86_ID_MOVZX || insn->id == X86_ID_MOVSX ||
            insn->id == X86_ID_MOVSXD) &&
           insn->operand[0].size_bytes >= 4;
}

/* Does it write 32 bits of a general register, its first operand, whatever they are? Then the upper half becomes 0. */
static bool writes_half(const struct x86_insn *insn)
{
    switch (insn->id) {
    case X86_ID_ADD:
    case X86_ID_AND:
    case X86_ID_MOV:
    case X86_ID_MOVZX:
    case X86_ID_OR:
    case X86_ID_SUB:
    case X86_ID_XOR:
        break;
    case X86_ID_ROL:
    case X86_ID_ROR:
    case X86_ID_SAR:
    case X86_ID_SHL:
    case X86_ID_SHR:
        if (insn->opcode != 0xc1 || !(insn->imm & 31)) {
            return false;
        }
        break;
    default:
        return false;
    }
    return insn->operand[0].kind == X86_OPERAND_REG && insn->operand[0].size_bytes == 4;
}

/* May the guest register that the field rm names, one in the vCPU, be changed there? Not so if upper bits become 0, if the other
 * operand may be the same register, or if an access to memory means more than one to a register. */
static bool may_change_in_place(const struct native_insn *n, uint8_t reg, uint8_t rm)
{
    const struct native_row *row = n->row;
    bool is_other = row->reg.is_used && row->reg.reg_class == X86_REG_GPR && reg == rm;
    return !row->is_vector && !row->is_bit_test && !row->vvvv.is_used && !is_other &&
           n->insn.operand[0].size_bytes != 4 && n->insn.id != X86_ID_XCHG;
}

/* The field rm names a register that is in the vCPU: the instruction takes it from there, or changes it there. */
static void use_in_memory(struct host_insn *host, uint8_t guest)
{
    host->is_memory = true;
    host->base = HOST_RSP;
    host->disp = VCPU_FIELD(gpr) + 8 * guest;
}

/* Of 'op rm, reg' the opcode of the same with the two fields exchanged; or that it has none. */
static bool find_exchanged(const struct x86_insn *insn, uint8_t *out_opcode)
{
    bool is_alu = (insn->opcode & 0xc7) == 0x01, is_test = insn->opcode == 0x85;
    *out_opcode = insn->opcode ^ (is_test ? 0 : 2);
    return !insn->has_memory && !insn->map && (is_alu || is_test || insn->opcode == 0x89);
}

/* 'op rm, reg' with a register that is in the vCPU, but only read, and one that is not: turns the two around, so that the former can
 * be memory. */
static bool turn_operands(const struct translation *t, const struct native_insn *n, uint8_t reg,
                          uint8_t rm, struct host_insn *host)
{
    uint8_t opcode;
    if (!find_exchanged(&n->insn, &opcode) || !native_is_spilled(reg) || native_is_spilled(rm) ||
        native_holds(t, reg)) {
        return false;
    }
    host->opcode = opcode;
    host->reg = native_home(rm);
    use_in_memory(host, reg);
    return true;
}

/* A VM's only vCPU shares its memory with devices alone, and they neither lock nor wait for a lock: as Linux does on a machine with one
 * CPU, where it takes the prefixes out of its own code, LOCK is left away, which saves some 20 cycles. It is kept where its use is to
 * keep a store and a later load in order, which is how drivers agree with devices on who sleeps: barriers are written as an access
 * that changes nothing, and to the stack (smp_mb, KeMemoryBarrier, fences of Java and C++). XCHG and MFENCE are what they are. */
bool native_keeps_lock(const struct translation *t, const struct x86_insn *insn)
{
    bool is_barrier = insn->base == X86_RSP || (!insn->map && insn->imm_bytes && !insn->imm);
    return insn->prefixes & X86_PREFIX_LOCK && (!t->source->is_alone || is_barrier);
}

/* A shift by CL whose flags do not matter: SHL, SHR and SAR may leave them as they are and so wait for whoever wrote them last. */
static bool emit_free_shift(struct translation *t, const struct native_insn *n, uint8_t rm)
{
    const struct x86_insn *insn = &n->insn;
    bool is_shift = insn->id == X86_ID_SHL || insn->id == X86_ID_SHR || insn->id == X86_ID_SAR;
    if (!is_shift || insn->opcode != 0xd3 || insn->has_memory || insn->operand_bytes < 4 ||
        n->live_after & n->writes || !t->native->has_bmi2) {
        return false;
    }
    bool is_spilled = native_is_spilled(rm);
    uint8_t host = is_spilled ? SCRATCH : native_home(rm);
    if (is_spilled) {
        native_load_gpr(t, host, rm);
    } else {
        t->scratch_group = t->kept_group;
    }
    bool holds = native_holds_any(t);
    emit_insn(&t->e, &(struct host_insn){.prefix = insn->id == X86_ID_SHL   ? 0x66
                                                   : insn->id == X86_ID_SHR ? 0xf2
                                                                            : 0xf3,
                                         .is_vex = true,
                                         .map = 2,
                                         .opcode = 0xf7,
                                         .w = insn->operand_bytes == 8,
                                         .reg = host,
                                         .rm = host,
                                         .vvvv = HOST_RCX});
    if (holds) {
        native_go_on_holding(t);
    }
    if (is_spilled) {
        native_store_gpr(t, host, rm);
    }
    return true;
}

/* The instruction itself, beside the jump that is fused with it. */
static void emit_compared(struct translation *t, const struct native_insn *n,
                          const struct host_insn *host)
{
    uint8_t *start = t->e.at;
    emit_insn(&t->e, host);
    native_fit_next(t, n, start);
}

/* The same when it changes no scratch register. */
static void emit_register_insn(struct translation *t, const struct native_insn *n,
                               const struct host_insn *host)
{
    bool holds = native_holds_any(t);
    emit_compared(t, n, host);
    if (holds) {
        native_go_on_holding(t);
    }
}

void native_emit_plain(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    const struct native_row *row = n->row;
    bool is_vex = insn->prefixes & X86_PREFIX_VEX;
    bool is_byte = false;
    uint8_t reg = (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
    uint8_t rm = (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
    if (emit_free_shift(t, n, rm)) {
        return;
    }
    struct host_insn host = {
        .prefix = insn->mandatory_prefix,
        .is_16 = insn->prefixes & X86_PREFIX_DATA && !row->is_vector,
        .is_locked = native_keeps_lock(t, insn),
        .w = insn->rex & 8 && !(t->source->is_32 && has_gpr(n)),
        .is_vex = is_vex,
        .vex_l = insn->vex_l,
        .vvvv = insn->vex_vvvv & (t->source->is_32 ? 7 : 15),
        .map = insn->map,
        .opcode = insn->map == 0 && insn->opcode == 0x82 ? 0x80 : insn->opcode, /* not in 64 bits */
        .reg = reg,
        .rm = rm,
        .is_memory = insn->has_memory,
        .base = ADDRESS,
        .index = HOST_NONE,
        .imm_bytes = insn->imm_bytes,
        .imm = t->source->copy + n->offset + insn->imm_offset,
    };
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        bool is_gpr = operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR;
        is_byte |= is_gpr && operand->size_bytes == 1 && !operand->is_high && operand->reg >= 4;
    }
    host.needs_rex = !is_vex && is_byte;
    bool is_turned = native_has_high_byte(insn) && native_high_needs_rex(insn);
    uint8_t turned = HOST_NONE, scratch = SCRATCH, written_byte = HOST_NONE;
    /* The host may fault at the access: no register may be turned then. */
    bool is_copied = is_turned && insn->has_memory && native_has_windows(t);
    if (insn->has_memory) {
        uint32_t size = native_memory_size(insn);
        struct native_operand operand =
            native_emit_parts(t, n, size, row->memory_access & X86_OPERAND_WRITE,
                              row->attributes & X86_ROW_ALIGNED, wants_scratch(t, n, reg));
        host.base = operand.base;
        host.index = operand.index;
        host.disp = operand.disp;
        scratch = operand.scratch;
    } else if ((row->reg.is_used && row->reg.reg_class == X86_REG_GPR && native_is_spilled(reg)) ||
               (row->rm.is_used && row->rm.reg_class == X86_REG_GPR && native_is_spilled(rm))) {
        if (emit_spilled_move(t, insn, reg, rm)) {
            return;
        }
    }
    bool wants_flags = native_needs_host_flags(n);
    if (wants_flags) {
        native_want_flags(t, scratch);
    }
    if (turn_operands(t, n, reg, rm, &host)) {
        emit_register_insn(t, n, &host);
        native_flags_written(t, n);
        return;
    }
    uint8_t exchanged;
    bool are_exchanged = native_is_spilled(reg) && native_is_spilled(rm) && reg != rm &&
                         find_exchanged(insn, &exchanged);
    if (are_exchanged) { /* the one that is only read can be memory */
        host.opcode = exchanged;
        host.reg = rm;
        host.rm = reg;
    }
    struct field_use uses[3];
    uint32_t use_count = 0;
    const uint8_t free_scratch[2] = {scratch, ADDRESS};
    const struct {
        const struct native_field *field;
        uint8_t *number;
        bool is_there;
    } fields[] = {
        {are_exchanged ? &row->rm : &row->reg, &host.reg, insn->has_modrm},
        {are_exchanged ? &row->reg : &row->rm, &host.rm, !insn->has_memory},
        {&row->vvvv, &host.vvvv, is_vex},
    };
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        const struct native_field *field = fields[i].field;
        if (!field->is_used || !fields[i].is_there || field->reg_class != X86_REG_GPR) {
            continue;
        }
        uint8_t guest = *fields[i].number;
        bool is_high = false;
        for (uint32_t k = 0; k < insn->operand_count; k++) {
            const struct x86_operand *operand = &insn->operand[k];
            is_high |= operand->kind == X86_OPERAND_REG && operand->is_high &&
                       !operand->is_implicit && operand->reg + 4 == guest;
        }
        if (is_turned && !insn->has_memory && i != 1) {
            is_high = false; /* MOVZX ESP, AH: both have the number 4 */
        }
        if (is_high) {
            /* AH..BH: numbers 4..7 as they are, or the lowest byte for a moment. */
            if (is_copied) {
                *fields[i].number = scratch;
                emit_turned(t, scratch, guest & 3, 8);
                written_byte = field->access & X86_OPERAND_WRITE ? guest & 3 : HOST_NONE;
            } else if (is_turned) {
                turned = *fields[i].number = guest & 3;
            }
            continue;
        }
        if (!native_is_spilled(guest)) {
            *fields[i].number = native_home(guest);
            continue;
        }
        bool is_held = native_holds(t, guest);
        if (i == 1 && is_held && field->access == X86_OPERAND_READ) {
            *fields[i].number = native_use_held(t);
            continue;
        }
        /* What is only read, and no register by its meaning, is as good in memory. */
        if (i == 1 && !is_held &&
            ((field->access == X86_OPERAND_READ && !row->is_bit_test) ||
             may_change_in_place(n, reg, rm))) {
            use_in_memory(&host, guest);
            continue;
        }
        struct field_use *use = NULL;
        for (uint32_t k = 0; k < use_count; k++) {
            if (uses[k].guest == guest) {
                use = &uses[k];
            }
        }
        if (!use) {
            bool is_second = use_count && uses[0].host == free_scratch[0];
            uint8_t free = free_scratch[is_second];
            if (is_held && (!use_count || uses[0].host != t->held.host)) {
                free = t->held.host;
            }
            use = &uses[use_count++];
            *use = (struct field_use){.field = field, .guest = guest, .host = free};
            if (field->access != X86_OPERAND_WRITE || !is_pure_write(insn)) {
                native_load_gpr(t, use->host, guest);
            }
            if (use->host == ADDRESS) {
                t->address_group = NATIVE_NO_GROUP;
            }
        } else if (field->access & X86_OPERAND_WRITE) {
            use->field = field;
        }
        *fields[i].number = use->host;
    }
    bool holds = native_holds_any(t) && !insn->has_memory;
    for (uint32_t k = 0; k < use_count; k++) {
        holds &= uses[k].host != t->held.host || uses[k].guest == t->held.guest;
    }
    if (turned != HOST_NONE) {
        emit_turn(t, turned, 8);
    }
    emit_compared(t, n, &host);
    if (turned != HOST_NONE) {
        emit_turn(t, turned, 64 - 8);
    }
    if (holds) {
        native_go_on_holding(t);
    }
    if (written_byte != HOST_NONE) {
        emit_second_byte(t, written_byte, scratch);
    }
    for (uint32_t k = 0; k < use_count; k++) {
        if (uses[k].field->access & X86_OPERAND_WRITE) {
            native_store_gpr(t, uses[k].host, uses[k].guest);
            t->held.is_half = writes_half(insn);
        }
    }
    if (!insn->has_memory && !use_count && !wants_flags) {
        t->scratch_group = t->kept_group;
    }
    native_flags_written(t, n);
}

void native_emit_raw(struct translation *t, const struct native_insn *n)
{
    if (native_needs_host_flags(n)) {
        native_want_flags(t, SCRATCH);
    }
    memcpy(t->e.at, t->source->copy + n->offset, n->insn.length);
    t->e.at += n->insn.length;
    native_flags_written(t, n);
}

void native_emit_divide(struct translation *t, const struct native_insn *n)
{
    /* The flags are in 'status' for the handler of #DE. */
    native_give_up_flags(t, n->live_before);
    native_emit_rip(t, SCRATCH, native_rip(t->source, t->index));
    emit_op_base(&t->e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_fault_rip));
    if (t->counts) {
        emit_mov_imm(&t->e, SCRATCH, (uint64_t)native_left(t, t->index));
        emit_insn(&t->e, &(struct host_insn){.opcode = HOST_OP_MOV_RM_REG,
                                             .reg = SCRATCH,
                                             .is_memory = true,
                                             .base = HOST_RSP,
                                             .index = HOST_NONE,
                                             .disp = VCPU_FIELD(native_fault_unrun)});
    }
    t->kept_group = NATIVE_NO_GROUP;
    t->flags |= FLAGS_HOST; /* it reads none */
    native_emit_plain(t, n);
    t->flags = FLAGS_HOST;
}
