/* From analyzed guest instructions to host code.
 *
 * Registers: guest RAX..RDI without RSP and R8..R12 are the host's of the same name; guest RSP is R13; guest R13..R15 stay
 * in the vCPU. R14 and R15 are scratch, RSP points to the vCPU.
 *
 * Status flags are in the host's flags, or in the vCPU's 'status', or do not matter; 'flags' below says which, for the
 * place that is emitted. A check of a memory operand spoils the host's.
 *
 * 32-bit code: the same with operands of 32 bits. Upper halves of registers stay what they are until something writes the
 * lower half; addresses are cut to 32 bits. FS and GS have a base and a limit of 4 GiB, or the interpreter serves them.
 *
 * Memory: R14 becomes the offset in the page that the soft TLB's entry is for; more than fits there and the slow path has
 * the interpreter run the instruction. Each such place goes on behind the instruction afterwards. */
#include "engine/soft/translate/translate.h"

#include <stddef.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/translate/code_cache.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

void native_emit_count(struct translation *t, int32_t change)
{
    if (!t->counts || !change) {
        return;
    }
    bool is_add = change > 0;
    uint8_t by = (uint8_t)(is_add ? change : -change);
    _Static_assert(NATIVE_MAX_INSNS < 128, "the immediate is a signed byte");
    emit_insn(&t->e, &(struct host_insn){.opcode = 0x83, /* add or sub dword [native_budget], by */
                                         .reg = is_add ? 0 : 5,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(native_budget),
                                         .imm_bytes = 1,
                                         .imm = &by});
}

void native_save_flags(struct translation *t)
{
    struct emitter *e = &t->e;
    emit_op_reg(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RAX);
    emit8(e, 0x9f); /* lahf */
    emit8(e, 0x0f); /* seto al */
    emit8(e, 0x90);
    emit8(e, 0xc0);
    emit8(e, 0x66); /* mov [rsp + status], ax */
    emit8(e, 0x89);
    emit8(e, 0x84);
    emit8(e, 0x24);
    emit32(e, (uint32_t)VCPU_FIELD(status));
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RAX, SCRATCH);
    t->flags |= FLAGS_SAVED;
}

void native_restore_flags(struct emitter *e, uint8_t scratch)
{
    emit_op_reg(e, HOST_OP_MOV_REG_RM, scratch, HOST_RAX);
    emit8(e, 0x0f); /* movzx eax, word [rsp + status] */
    emit8(e, 0xb7);
    emit8(e, 0x84);
    emit8(e, 0x24);
    emit32(e, (uint32_t)VCPU_FIELD(status));
    emit8(e, 0x04); /* add al, 127: overflows if AL is 1 */
    emit8(e, 0x7f);
    emit8(e, 0x9e); /* sahf */
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RAX, scratch);
}

/* Before code that spoils the host's flags. */
void native_give_up_flags(struct translation *t, uint32_t live)
{
    if (live && !(t->flags & FLAGS_SAVED)) {
        native_save_flags(t);
    }
    t->flags &= ~FLAGS_HOST;
}

void native_want_flags(struct translation *t, uint8_t scratch)
{
    if (!(t->flags & FLAGS_HOST)) {
        native_restore_flags(&t->e, scratch);
        t->flags |= FLAGS_HOST;
    }
}

struct slow_path *native_add_slow(struct translation *t, enum slow_kind kind)
{
    struct slow_path *slow = &t->slow[t->slow_count++];
    *slow = (struct slow_path){.kind = kind, .index = t->index};
    return slow;
}

/* 32-bit code: 'size' bytes from the offset in R14 must not go beyond 4 GiB. */
static void emit_limit_check(struct translation *t, uint32_t size)
{
    if (size > 1) {
        emit_insn(&t->e, &(struct host_insn){.opcode = 0x81, .reg = 7, .rm = ADDRESS}); /* cmp */
        emit32(&t->e, -size);
        native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(&t->e, HOST_IF_ABOVE);
    }
}

/* 'reg' = native_page << 12; no flag changes. */
static void emit_page_address(struct translation *t, uint8_t reg)
{
    static const uint8_t turn = 64 - GUEST_PAGE_SHIFT;
    if (t->native->has_bmi2) {
        emit_insn(&t->e, &(struct host_insn){.prefix = 0xf2, /* rorx reg, [native_page], 52 */
                                             .is_vex = true,
                                             .map = 3,
                                             .opcode = 0xf0,
                                             .w = true,
                                             .reg = reg,
                                             .is_memory = true,
                                             .base = HOST_RSP,
                                             .index = HOST_NONE,
                                             .disp = VCPU_FIELD(native_page),
                                             .imm_bytes = 1,
                                             .imm = &turn});
        return;
    }
    emit_op_base(&t->e, HOST_OP_MOV_REG_RM, reg, HOST_RSP, VCPU_FIELD(native_page));
    for (int shift = 0; shift < GUEST_PAGE_SHIFT; shift += 3) {
        emit_insn(&t->e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                             .w = true,
                                             .reg = reg,
                                             .is_memory = true,
                                             .base = HOST_NONE,
                                             .index = reg,
                                             .shift = 3});
    }
}

void native_emit_rip(struct translation *t, uint8_t reg, uint64_t rip)
{
    struct emitter *e = &t->e;
    if (!t->is_shared) {
        emit_mov_imm(e, reg, rip);
        return;
    }
    emit_page_address(t, reg);
    /* 2 GiB and a little more in either direction. */
    while (rip) {
        int64_t step = MAX(MIN((int64_t)rip, INT32_MAX), INT32_MIN);
        emit_op_base(e, HOST_OP_LEA, reg, reg, (int32_t)step);
        rip -= (uint64_t)step;
    }
}

/* The effective address, segment base included, in R14. */
void native_emit_address(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    const struct x86_insn *insn = &n->insn;
    if (insn->base == X86_BASE_RIP ||
        (insn->base == X86_BASE_NONE && insn->index == X86_BASE_NONE)) {
        uint64_t address = (uint64_t)insn->disp;
        if (insn->base == X86_BASE_RIP) {
            address += t->source->rip + n->offset + insn->length;
            native_emit_rip(t, ADDRESS, address);
            if (insn->address_bytes == 4) {
                emit_insn(e, &(struct host_insn){
                                 .opcode = HOST_OP_MOV_REG_RM, .reg = ADDRESS, .rm = ADDRESS});
            }
        } else {
            emit_mov_imm(e, ADDRESS, insn->address_bytes == 4 ? (uint32_t)address : address);
        }
    } else {
        uint8_t base = HOST_NONE, index = HOST_NONE;
        if (insn->base != X86_BASE_NONE) {
            base = native_home(insn->base);
            if (native_is_spilled(insn->base)) {
                emit_op_base(e, HOST_OP_MOV_REG_RM, ADDRESS, HOST_RSP,
                             VCPU_FIELD(gpr) + 8 * insn->base);
                base = ADDRESS;
            }
        }
        if (insn->index != X86_BASE_NONE) {
            index = native_home(insn->index);
            if (native_is_spilled(insn->index)) {
                emit_op_base(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP,
                             VCPU_FIELD(gpr) + 8 * insn->index);
                index = SCRATCH;
            }
        }
        bool is_copy = index == HOST_NONE && !insn->disp && insn->address_bytes == 8;
        if (is_copy) {
            if (base != ADDRESS) {
                emit_op_reg(e, HOST_OP_MOV_REG_RM, ADDRESS, base);
            }
        } else {
            emit_insn(e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                             .w = insn->address_bytes == 8,
                                             .reg = ADDRESS,
                                             .is_memory = true,
                                             .base = base,
                                             .index = index,
                                             .shift = (uint8_t)__builtin_ctz(insn->scale),
                                             .disp = (int32_t)insn->disp});
        }
    }
    if (insn->segment == X86_FS || insn->segment == X86_GS) {
        if (t->source->is_32) {
            emit_limit_check(t, native_memory_size(insn));
        }
        emit_op_base(e, HOST_OP_ADD_REG_RM, ADDRESS, HOST_RSP,
                     VCPU_FIELD(segment_base) + 8 * insn->segment);
        if (t->source->is_32) {
            emit_insn(e, &(struct host_insn){
                             .opcode = HOST_OP_MOV_REG_RM, .reg = ADDRESS, .rm = ADDRESS});
        }
    }
}

/* R15 = number of the TLB's entry for the address in R14. */
static void emit_tlb_index(struct translation *t)
{
    struct emitter *e = &t->e;
    if (t->native->has_bmi2) {
        static const uint8_t shift = GUEST_PAGE_SHIFT;
        emit_insn(e, &(struct host_insn){.prefix = 0xf2, /* rorx r15d, r14d, 12 */
                                         .is_vex = true,
                                         .map = 3,
                                         .opcode = 0xf0,
                                         .reg = SCRATCH,
                                         .rm = ADDRESS,
                                         .imm_bytes = 1,
                                         .imm = &shift});
    } else {
        emit8(e, 0x45); /* mov r15d, r14d */
        emit8(e, 0x89);
        emit8(e, 0xf7);
        emit8(e, 0x41); /* shr r15d, 12 */
        emit8(e, 0xc1);
        emit8(e, 0xef);
        emit8(e, GUEST_PAGE_SHIFT);
    }
    emit8(e, 0x41); /* and r15d, entries - 1 */
    emit8(e, 0x81);
    emit8(e, 0xe7);
    emit32(e, SOFT_TLB_SIZE - 1);
}

/* R14 from a linear address to the host's address of 'size' bytes, through the TLB of the block's mode. */
void native_emit_translation(struct translation *t, uint32_t size, bool is_write, bool is_aligned)
{
    struct emitter *e = &t->e;
    int32_t tlb = (int32_t)(offsetof(struct soft_vcpu, tlbs) + t->tlb * sizeof(struct soft_tlb));
    int32_t tag = tlb + (int32_t)(is_write ? offsetof(struct soft_tlb, write_tag)
                                           : offsetof(struct soft_tlb, read_tag));
    int32_t hva = tlb + (int32_t)offsetof(struct soft_tlb, hva);
    uint8_t *retry = e->at;
    emit_tlb_index(t);
    emit_op_table(e, HOST_OP_SUB_REG_RM, ADDRESS, SCRATCH, tag);
    if (is_aligned && size > 1) {
        emit8(e, 0x41); /* test r14b, size - 1 */
        emit8(e, 0xf6);
        emit8(e, 0xc6);
        emit8(e, (uint8_t)(size - 1));
        native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    }
    emit8(e, 0x49); /* cmp r14, 4096 - size */
    emit8(e, 0x81);
    emit8(e, 0xfe);
    emit32(e, GUEST_PAGE_SIZE - size);
    struct slow_path *slow = native_add_slow(t, SLOW_INTERPRET);
    slow->jump = emit_jcc(e, HOST_IF_ABOVE);
    slow->retry = retry;
    slow->size = size;
    slow->is_write = is_write;
    slow->tag = tag;
    emit_op_table(e, HOST_OP_ADD_REG_RM, ADDRESS, SCRATCH, hva);
}

void native_emit_check(struct translation *t, uint32_t size, bool is_write)
{
    native_emit_translation(t, size, is_write, false);
    t->address_group = NATIVE_NO_GROUP;
    t->operand_disp = 0;
}

/* The address of the instruction's access, 'disp' bytes further, in R14. */
static void emit_access_address(struct translation *t, const struct native_insn *n, int32_t disp)
{
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSHF:
    case NATIVE_PUSH_SELECTOR:
    case NATIVE_CALL:
        native_emit_word(t, HOST_OP_LEA, ADDRESS, HOST_R13, disp - native_word(t->source));
        break;
    case NATIVE_POP_REG:
    case NATIVE_RET:
        native_emit_word(t, HOST_OP_LEA, ADDRESS, HOST_R13, disp);
        break;
    case NATIVE_LEAVE:
        native_emit_word(t, HOST_OP_LEA, ADDRESS, HOST_RBP, disp);
        break;
    default: {
        struct native_insn moved = *n;
        moved.insn.disp += disp;
        native_emit_address(t, &moved);
        break;
    }
    }
}

/* Can the displacement of a group's first byte be encoded? */
static bool group_fits(const struct native_insn *n, int32_t disp)
{
    int64_t moved = n->insn.disp + disp;
    return n->insn.base == X86_BASE_RIP || !n->insn.has_memory || moved == (int32_t)moved;
}

/* Is the one access to memory a write? */
static bool writes_memory(const struct native_insn *n)
{
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSHF:
    case NATIVE_PUSH_SELECTOR:
    case NATIVE_CALL:
        return true;
    default:
        return n->row->memory_access & X86_OPERAND_WRITE;
    }
}

/* Does the instruction raise #PF if its access misses the TLB and the page tables do not allow it? Not if there is another access,
 * or something else may come first. */
static bool faults_by_one_access(const struct native_insn *n)
{
    switch (n->kind) {
    case NATIVE_PLAIN:
        return n->insn.id != X86_ID_CMPXCHG16B; /* #GP if it is not aligned */
    case NATIVE_DIVIDE:
    case NATIVE_MOFFS:
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_POP_REG:
    case NATIVE_LEAVE:
    case NATIVE_CALL:
    case NATIVE_RET:
        return true;
    default:
        return false;
    }
}

static void emit_group_access(struct translation *t, const struct native_insn *n)
{
    const struct native_group *group = &t->source->group[n->group];
    int32_t slot = VCPU_FIELD(native_group) + 8 * n->group;
    if (!(t->checked_groups >> n->group & 1)) {
        native_give_up_flags(t, n->live_before);
        emit_access_address(t, n, group->low - n->group_disp);
        native_emit_translation(t, group->span, group->is_written, false);
        struct slow_path *slow = &t->slow[t->slow_count - 1];
        slow->fault_disp = (uint32_t)(n->group_disp - group->low);
        slow->is_fault_read = group->is_written && !writes_memory(n);
        t->checked_groups |= 1u << n->group;
        if (group->last != t->index) {
            emit_op_base(&t->e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, slot);
        }
    } else if (t->address_group != n->group) {
        emit_op_base(&t->e, HOST_OP_MOV_REG_RM, ADDRESS, HOST_RSP, slot);
    }
    t->address_group = n->group;
    t->operand_disp = n->group_disp - group->low;
}

bool native_emit_grouped(struct translation *t, const struct native_insn *n)
{
    if (n->group == NATIVE_NO_GROUP) {
        return false;
    }
    const struct native_group *group = &t->source->group[n->group];
    bool is_grouped = group->first != group->last && (t->checked_groups >> n->group & 1 ||
                                                      group_fits(n, group->low - n->group_disp));
    if (is_grouped) {
        emit_group_access(t, n);
    }
    return is_grouped;
}

void native_emit_operand(struct translation *t, const struct native_insn *n, uint32_t size,
                         bool is_write, bool is_aligned)
{
    if (native_emit_grouped(t, n)) {
        return;
    }
    native_give_up_flags(t, n->live_before);
    native_emit_address(t, n);
    native_emit_translation(t, size, is_write, is_aligned);
    t->address_group = NATIVE_NO_GROUP;
    t->operand_disp = 0;
}

/* The flags as the instruction proper needs and leaves them. */
bool native_needs_host_flags(const struct native_insn *n)
{
    return n->reads || (n->writes && (n->live_after & ~n->writes));
}

void native_flags_written(struct translation *t, const struct native_insn *n)
{
    if (n->writes) {
        t->flags = FLAGS_HOST;
    }
}

/* MOV between 64-bit registers of which one or both are in the vCPU. */
static bool emit_spilled_move(struct translation *t, const struct x86_insn *insn, uint8_t reg,
                              uint8_t rm)
{
    if (insn->id != X86_ID_MOV || insn->map || insn->has_memory || insn->operand_bytes != 8 ||
        (insn->opcode != 0x89 && insn->opcode != 0x8b)) {
        return false;
    }
    uint8_t to = insn->opcode == 0x89 ? rm : reg;
    uint8_t from = insn->opcode == 0x89 ? reg : rm;
    if (native_is_spilled(to) && native_is_spilled(from)) {
        native_load_gpr(t, SCRATCH, from);
        native_store_gpr(t, SCRATCH, to);
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
static void emit_turn(struct translation *t, uint8_t reg, uint8_t count)
{
    emit_insn(&t->e, &(struct host_insn){.prefix = 0xf2, /* rorx */
                                         .is_vex = true,
                                         .map = 3,
                                         .opcode = 0xf0,
                                         .w = true,
                                         .reg = reg,
                                         .rm = reg,
                                         .imm_bytes = 1,
                                         .imm = &count});
}

static void emit_plain(struct translation *t, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    const struct native_row *row = n->row;
    struct emitter *e = &t->e;
    bool is_vex = insn->prefixes & X86_PREFIX_VEX;
    bool is_byte = false;
    uint8_t reg = (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
    uint8_t rm = (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
    struct host_insn host = {
        .prefix = insn->mandatory_prefix,
        .is_16 = insn->prefixes & X86_PREFIX_DATA && !row->is_vector,
        .is_locked = insn->prefixes & X86_PREFIX_LOCK,
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
    uint8_t turned = HOST_NONE;
    if (insn->has_memory) {
        uint32_t size = native_memory_size(insn);
        native_emit_operand(t, n, size, row->memory_access & X86_OPERAND_WRITE,
                            x86_rows[insn->row].attributes & X86_ROW_ALIGNED);
    } else if ((row->reg.is_used && row->reg.reg_class == X86_REG_GPR && native_is_spilled(reg)) ||
               (row->rm.is_used && row->rm.reg_class == X86_REG_GPR && native_is_spilled(rm))) {
        if (emit_spilled_move(t, insn, reg, rm)) {
            return;
        }
    }
    if (insn->has_memory) {
        host.disp = t->operand_disp;
    }
    if (native_needs_host_flags(n)) {
        native_want_flags(t, SCRATCH);
    }
    struct field_use uses[3];
    uint32_t use_count = 0;
    uint8_t free_scratch[2] = {SCRATCH, ADDRESS};
    uint32_t next_scratch = 0;
    const struct {
        const struct native_field *field;
        uint8_t *number;
        bool is_there;
    } fields[] = {
        {&row->reg, &host.reg, insn->has_modrm},
        {&row->rm, &host.rm, !insn->has_memory},
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
            if (is_turned) {
                turned = *fields[i].number = guest & 3;
            }
            continue;
        }
        if (!native_is_spilled(guest)) {
            *fields[i].number = native_home(guest);
            continue;
        }
        /* What is only read, and no register by its meaning, is as good in memory. */
        if (i == 1 && field->access == X86_OPERAND_READ && !row->is_bit_test) {
            host.is_memory = true;
            host.base = HOST_RSP;
            host.disp = VCPU_FIELD(gpr) + 8 * guest;
            continue;
        }
        struct field_use *use = NULL;
        for (uint32_t k = 0; k < use_count; k++) {
            if (uses[k].guest == guest) {
                use = &uses[k];
            }
        }
        if (!use) {
            use = &uses[use_count++];
            *use = (struct field_use){
                .field = field, .guest = guest, .host = free_scratch[next_scratch++]};
            native_load_gpr(t, use->host, guest);
            if (use->host == ADDRESS) {
                t->address_group = NATIVE_NO_GROUP;
            }
        } else if (field->access & X86_OPERAND_WRITE) {
            use->field = field;
        }
        *fields[i].number = use->host;
    }
    if (turned != HOST_NONE) {
        emit_turn(t, turned, 8);
    }
    emit_insn(e, &host);
    if (turned != HOST_NONE) {
        emit_turn(t, turned, 64 - 8);
    }
    for (uint32_t k = 0; k < use_count; k++) {
        if (uses[k].field->access & X86_OPERAND_WRITE) {
            native_store_gpr(t, uses[k].host, uses[k].guest);
        }
    }
    native_flags_written(t, n);
}

/* Loads the guest's vectors into the host's registers, unless they are there. */
static void emit_vectors(struct translation *t, const struct native_insn *n)
{
    if (t->has_vectors) {
        return;
    }
    native_give_up_flags(t, n->live_before);
    struct emitter *e = &t->e;
    emit8(e, 0x80); /* cmp byte [rsp + native_vectors_live], 0 */
    emit8(e, 0xbc);
    emit8(e, 0x24);
    emit32(e, (uint32_t)VCPU_FIELD(native_vectors_live));
    emit8(e, 0);
    struct slow_path *slow = native_add_slow(t, SLOW_VECTORS);
    slow->jump = emit_jcc(e, HOST_IF_EQUAL);
    slow->after = e->at;
    t->has_vectors = true;
}

static void emit_raw(struct translation *t, const struct native_insn *n)
{
    if (native_needs_host_flags(n)) {
        native_want_flags(t, SCRATCH);
    }
    memcpy(t->e.at, t->source->copy + n->offset, n->insn.length);
    t->e.at += n->insn.length;
    native_flags_written(t, n);
}

static void emit_divide(struct translation *t, const struct native_insn *n)
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
    t->flags |= FLAGS_HOST; /* it reads none */
    emit_plain(t, n);
    t->flags = FLAGS_HOST;
}

/* The interpreter runs it, then the code goes on behind. */
static void emit_interpret(struct translation *t, const struct native_insn *n, bool is_last)
{
    native_give_up_flags(t, n->live_before);
    native_emit_count(t, native_left(t, t->index));
    emit_bind(emit_call(&t->e), t->native->interpret);
    emit64(&t->e, native_rip(t->source, t->index));
    emit64(&t->e, is_last ? 0 : native_next_rip(t->source, t->index));
    if (!is_last) {
        native_emit_count(t, 1 - native_left(t, t->index));
    }
    t->flags = FLAGS_SAVED;
    t->has_vectors = false;
    t->has_x87 = false;
    t->address_group = NATIVE_NO_GROUP;
}

/* Looks whether somebody wants something of the vCPU, where the flags do not matter or are saved. */
void native_emit_poll(struct translation *t)
{
    emit_cmp_field(&t->e, VCPU_FIELD(requests), 0);
    native_add_slow(t, SLOW_EXIT)->jump = emit_jcc(&t->e, HOST_IF_NOT_EQUAL);
    t->flags &= ~FLAGS_HOST;
    t->needs_poll = false;
}

/* Does a later instruction use a check that comes before this one or belongs to it? The interpreter may let others take
 * translations away, so after its turn such code is not to be gone on with. */
static bool is_within_group(const struct translation *t)
{
    for (uint32_t i = 0; i < t->source->group_count; i++) {
        const struct native_group *group = &t->source->group[i];
        if (group->first <= t->index && group->last > t->index) {
            return true;
        }
    }
    return false;
}

/* An interrupt must not come between STI and the next instruction, so this one has to be here and nobody may look between them. */
static bool is_sti(const struct native_insn *n)
{
    return n->kind == NATIVE_SMALL && n->insn.id == X86_ID_STI;
}

static void emit_one(struct translation *t, const struct native_insn *n, bool is_last)
{
    if (is_last && is_sti(n)) {
        emit_interpret(t, n, is_last);
        return;
    }
    uint32_t first_slow = t->slow_count;
    if (n->row->is_vector && n->kind != NATIVE_INTERPRET) {
        emit_vectors(t, n);
        first_slow = t->slow_count;
    }
    switch (n->kind) {
    case NATIVE_PLAIN:
        emit_plain(t, n);
        break;
    case NATIVE_DIVIDE:
        emit_divide(t, n);
        break;
    case NATIVE_RAW:
        emit_raw(t, n);
        break;
    case NATIVE_NOTHING:
        break;
    case NATIVE_LEA:
        native_emit_lea(t, n);
        break;
    case NATIVE_X87:
        native_emit_x87(t, n);
        break;
    case NATIVE_MOV_IMM:
        native_emit_mov_immediate(t, n);
        break;
    case NATIVE_BSWAP:
        native_emit_bswap(t, n);
        break;
    case NATIVE_XCHG_RAX:
        native_emit_xchg_rax(t, n);
        break;
    case NATIVE_STEP:
        native_emit_step(t, n);
        break;
    case NATIVE_MOFFS:
        native_emit_moffs(t, n);
        break;
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSH_MEM:
        native_emit_push(t, n);
        break;
    case NATIVE_PUSHF:
        native_emit_pushf(t, n);
        break;
    case NATIVE_POPF:
        native_emit_popf(t, n);
        break;
    case NATIVE_PUSH_SELECTOR:
        native_emit_push_selector(t, n);
        break;
    case NATIVE_POP_MEM:
        native_emit_pop_memory(t, n);
        break;
    case NATIVE_PAUSE:
        native_emit_pause(t, n);
        break;
    case NATIVE_SMALL:
        native_emit_small(t, n);
        break;
    case NATIVE_READ_CR:
        native_emit_read_cr(t, n);
        break;
    case NATIVE_ENTRY:
        native_emit_entry(t, n);
        break;
    case NATIVE_POP_REG:
        native_emit_pop(t, n);
        break;
    case NATIVE_LEAVE:
        native_emit_leave(t, n);
        break;
    case NATIVE_STRING:
        native_emit_string(t, n);
        break;
    case NATIVE_BIT_STRING:
        native_emit_bit_string(t, n);
        break;
    case NATIVE_SELECTOR:
        native_emit_selector(t, n);
        break;
    case NATIVE_CALL:
    case NATIVE_CALL_INDIRECT:
    case NATIVE_JMP:
    case NATIVE_JMP_INDIRECT:
    case NATIVE_JCC:
    case NATIVE_RET:
        native_emit_branch(t, n);
        break;
    default:
        emit_interpret(t, n, is_last);
        break;
    }
    for (uint32_t i = first_slow; i < t->slow_count; i++) {
        if (t->slow[i].kind == SLOW_INTERPRET) {
            t->slow[i].is_in_group = is_within_group(t);
            t->slow[i].may_fault = t->slow[i].retry && faults_by_one_access(n);
            bool is_end = is_last && t->source->ends_by_itself;
            t->slow[i].after = is_end || t->slow[i].is_in_group ? NULL : t->e.at;
            t->slow[i].wants_flags = (t->flags & FLAGS_HOST) && n->live_after;
            t->slow[i].wants_vectors = t->has_vectors;
            t->slow[i].wants_x87 = t->has_x87;
        }
    }
}

/* A miss of the TLB: has it filled and tries again. */
static void emit_fill(struct translation *t, const struct slow_path *slow)
{
    struct emitter *e = &t->e;
    emit_op_table(e, HOST_OP_ADD_REG_RM, ADDRESS, SCRATCH, slow->tag);
    emit_mov_imm(e, SCRATCH,
                 slow->size | (slow->is_write ? NATIVE_FILL_WRITE : 0) |
                     (slow->may_fault ? NATIVE_FILL_FAULT : 0) |
                     (slow->is_fault_read ? NATIVE_FILL_FAULT_READ : 0) |
                     slow->fault_disp << NATIVE_FILL_FAULT_SHIFT);
    emit_bind(emit_call(e), t->native->fill);
    emit_bind(emit_jcc(e, HOST_IF_NOT_EQUAL), slow->retry);
}

static void emit_slow_paths(struct translation *t)
{
    struct emitter *e = &t->e;
    for (uint32_t i = 0; i < t->slow_count; i++) {
        struct slow_path *slow = &t->slow[i];
        if (slow->kind == SLOW_INDIRECT && !slow->tag) {
            /* The second one, which has to have the target again, goes on with the first. */
            const struct slow_path *second = &t->slow[++i];
            emit_bind(second->jump, e->at);
            emit_op_table(e, HOST_OP_MOV_REG_RM, ADDRESS, SCRATCH, second->tag);
        }
        emit_bind(slow->jump, e->at);
        switch (slow->kind) {
        case SLOW_INTERPRET:
            if (slow->retry) {
                emit_fill(t, slow);
            }
            native_emit_count(t, native_left(t, slow->index));
            emit_bind(emit_call(e), slow->may_fault || slow->is_in_group ? t->native->page_fault
                                                                         : t->native->interpret);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, slow->after         ? native_next_rip(t->source, slow->index)
                      : slow->is_in_group ? NATIVE_SITE_UNGROUPED
                                          : 0);
            if (!slow->after) {
                break;
            }
            native_emit_count(t, 1 - native_left(t, slow->index));
            if (slow->wants_vectors) {
                emit_bind(emit_call(e), t->native->load_vectors);
            }
            if (slow->wants_x87) {
                emit_bind(emit_call(e), t->native->load_x87);
            }
            if (slow->wants_flags) {
                native_restore_flags(e, ADDRESS);
            }
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_VECTORS:
            emit_bind(emit_call(e), t->native->load_vectors);
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_X87:
            emit_bind(emit_call(e), t->native->load_x87);
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_BUDGET:
        case SLOW_EXIT:
            native_emit_count(t, native_left(t, slow->index));
            emit_bind(emit_call(e), t->native->exit_at);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, 0);
            break;
        case SLOW_INDIRECT:
            emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
            emit_bind(emit_call(e), t->native->indirect);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, (uint64_t)(int64_t)slow->stack_change);
            break;
        }
    }
    native_emit_link_stubs(t);
}

static bool goes_back(const struct native_source *source)
{
    const struct native_insn *last = &source->insn[source->count - 1];
    switch (last->kind) {
    case NATIVE_JMP:
    case NATIVE_JCC:
    case NATIVE_CALL:
        return (int64_t)last->insn.imm < 0;
    case NATIVE_JMP_INDIRECT:
    case NATIVE_CALL_INDIRECT:
    case NATIVE_RET:
        return true;
    default:
        return false;
    }
}

/* Does the block have a use for flags in the host's before something spoils them there? */
static bool uses_host_flags_first(const struct native_source *source)
{
    for (uint32_t i = 0; i < source->count; i++) {
        const struct native_insn *n = &source->insn[i];
        switch (n->kind) {
        case NATIVE_LEA:
        case NATIVE_NOTHING:
        case NATIVE_MOV_IMM:
        case NATIVE_BSWAP:
            break;
        case NATIVE_JCC:
            return true;
        case NATIVE_PLAIN:
        case NATIVE_RAW:
        case NATIVE_XCHG_RAX:
        case NATIVE_STEP:
            if (n->insn.has_memory || n->row->is_vector) {
                return false;
            }
            if (native_needs_host_flags(n)) {
                return true;
            }
            break;
        default:
            return false;
        }
    }
    return false;
}

struct native_block *native_translate(struct soft_vcpu *v, uint64_t rip, uint64_t gpa,
                                      uint32_t mode, const uint8_t *page)
{
    struct soft_native *native = v->native;
    bool is_shared = native_is_shared(v, mode);
    uint64_t address = native_address(v, rip, mode);
    rip = is_shared ? rip & ~NATIVE_BASE_MASK : rip;
    struct native_source *source = native->source;
    native_analyze(v, rip, page, mode, source);
    if (!(mode & NATIVE_MODE_UNGROUPED)) {
        native_find_groups(source);
    }
    struct native_block *block = native_cache_new_block(native);
    block->gpa = gpa;
    block->mode = mode;
    block->address = address;
    block->is_crossing = source->is_crossing;
    block->size_bytes = source->size_bytes & BITS(11, 0);
    block->last_offset = source->insn[source->count - 1].offset & BITS(11, 0);
    struct translation t; /* the array at its end is large */
    memset(&t, 0, offsetof(struct translation, slow));
    t.native = native;
    t.source = source;
    t.block = block;
    t.e.at = native_entry_saved(native, block);
    t.tlb = mode & NATIVE_MODE_TLB;
    t.is_intel = v->vm->is_intel;
    t.is_shared = is_shared;
    t.needs_poll = goes_back(source);
    t.counts = v->vm->icount.is_on;
    t.address_group = NATIVE_NO_GROUP;
    if (t.counts) {
        native_emit_count(&t, -native_left(&t, 0));
        native_add_slow(&t, SLOW_BUDGET)->jump = emit_jcc(&t.e, HOST_IF_SIGN);
        t.flags = FLAGS_SAVED;
    }
    block->saves_first = source->insn[0].live_before && !uses_host_flags_first(source);
    if (block->saves_first) {
        t.flags = FLAGS_SAVED;
    } else if (source->insn[0].live_before) {
        native_restore_flags(&t.e, ADDRESS);
        t.flags |= FLAGS_HOST;
    }
    /* Counting spoils the flags: then there is but one entry. */
    uint8_t *code = native_entry_saved(native, block);
    block->entry_offset = t.counts ? 0 : (uint16_t)(t.e.at - code);
    for (t.index = 0; t.index < source->count; t.index++) {
        const struct native_insn *n = &source->insn[t.index];
        bool is_last = t.index + 1 == source->count;
        bool flags_are_free =
            (!n->live_before && !source->has_exact_flags) || (t.flags & FLAGS_SAVED);
        if (t.needs_poll && (flags_are_free || is_last || is_sti(n))) {
            native_give_up_flags(&t, n->live_before);
            native_emit_poll(&t);
        }
        emit_one(&t, n, is_last);
    }
    t.index = source->count - 1;
    if (!source->ends_by_itself) {
        native_emit_exit(&t, native_cut_rip(source, source->rip + source->size_bytes),
                         source->live_next);
    }
    if (block->saves_first && !t.counts) {
        block->entry_offset = (uint16_t)(t.e.at - code);
        native_save_flags(&t);
        emit_bind(emit_jmp(&t.e), code);
    }
    const uint8_t *end = t.e.at;
    t.e.at = native_cold(native, block);
    emit_slow_paths(&t);
    native_cache_keep_block(native, block, end, t.e.at);
    return block;
}
