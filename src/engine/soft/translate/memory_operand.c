/* Memory operands: their linear addresses, and from those to the host's through the TLB, alone or in groups that one check covers.
 *
 * R14 becomes the offset in the page that the TLB's entry is for; more than fits there and a slow path has the entry filled, or the
 * interpreter run the instruction. */
#include "engine/soft/translate/translate.h"

#include <stddef.h>

#include "base/core/bits.h"
#include "engine/soft/windows.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

/* 32-bit code: 'size' bytes from the offset in R14 must not go beyond 4 GiB. */
static void emit_limit_check(struct translation *t, uint32_t size)
{
    if (size > 1) {
        emit_fit(&t->e, 7 + EMIT_JCC_SIZE);
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

/* lea r14, [base + r15 + disp] */
static void emit_add_scratch(struct translation *t, uint8_t base, int32_t disp)
{
    emit_insn(&t->e, &(struct host_insn){.opcode = HOST_OP_LEA,
                                         .w = true,
                                         .reg = ADDRESS,
                                         .is_memory = true,
                                         .base = base,
                                         .index = SCRATCH,
                                         .disp = disp});
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
                native_load_gpr(t, ADDRESS, insn->base);
                base = ADDRESS;
            }
        }
        if (insn->index != X86_BASE_NONE) {
            index = native_home(insn->index);
            if (native_is_spilled(insn->index)) {
                native_load_gpr(t, SCRATCH, insn->index);
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
        int32_t base = VCPU_FIELD(segment_base) + 8 * insn->segment;
        if (native_has_windows(t)) { /* no flag changes */
            emit_op_base(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP, base);
            emit_add_scratch(t, ADDRESS, 0);
        } else {
            emit_op_base(e, HOST_OP_ADD_REG_RM, ADDRESS, HOST_RSP, base);
        }
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
    if (t->native->has_fast_bextr) {
        /* One instruction less between an address and its entry: the constant is there before. */
        emit_mov_imm(e, SCRATCH, NATIVE_TLB_BITS);
        emit_bextr(e, false, SCRATCH, ADDRESS, SCRATCH);
        return;
    }
    if (t->native->has_bmi2) {
        emit_rorx(e, false, SCRATCH, ADDRESS, GUEST_PAGE_SHIFT);
    } else {
        emit8(e, 0x45); /* mov r15d, r14d */
        emit8(e, 0x89);
        emit8(e, 0xf7);
        emit_shift(e, HOST_SHR, false, SCRATCH, GUEST_PAGE_SHIFT);
    }
    emit8(e, 0x41); /* and r15d, entries - 1 */
    emit8(e, 0x81);
    emit8(e, 0xe7);
    emit32(e, SOFT_TLB_SIZE - 1);
}

void native_begin_window_access(struct translation *t)
{
    if (native_has_windows(t)) {
        struct slow_path *slow = native_add_slow(t, SLOW_WINDOW);
        slow->window = t->e.at;
        slow->stack_pending = t->stack_pending;
        slow->saves_flags = t->source->insn[t->index].live_before && !(t->flags & FLAGS_SAVED) &&
                            !slow->makes_flags;
    }
}

void native_before_access(struct translation *t, const struct native_insn *n)
{
    if (!native_has_windows(t) || !native_faults_by_one_access(n) || !n->live_before) {
        native_give_up_flags(t, n->live_before);
    }
}

/* R15 = what the window of the address in 'reg' adds to it. The host's flags stay, if they have not been given up. */
static void emit_window(struct translation *t, uint8_t reg)
{
    struct emitter *e = &t->e;
    native_begin_window_access(t);
    if (t->has_guess && !(t->flags & FLAGS_HOST)) {
        emit_rorx(e, true, SCRATCH, reg, SOFT_WINDOW_SHIFT);
        emit_fit(e, 5 + EMIT_JCC_SIZE);
        _Static_assert(VCPU_FIELD(window_role_slot[SOFT_WINDOW_ROLE_LAST]) < 128, "one byte");
        /* cmp r15b, [its slot]: the other bits of an address in a window are 0, and see windows.h. */
        emit_insn(e, &(struct host_insn){.opcode = 0x3a,
                                         .reg = SCRATCH,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(window_role_slot) + t->guessed_role});
        struct slow_path *slow = native_add_slow(t, SLOW_GUESS);
        slow->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
        emit_op_base(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP,
                     VCPU_FIELD(window_role_add) + 8 * t->guessed_role);
        slow->after = e->at;
        return;
    }
    if (t->native->has_fast_bextr && !(t->flags & FLAGS_HOST)) {
        emit_mov_imm(e, SCRATCH, NATIVE_WINDOW_BITS);
        emit_bextr(e, true, SCRATCH, reg, SCRATCH);
    } else {
        emit_rorx(e, true, SCRATCH, reg, SOFT_WINDOW_SHIFT);
        emit_low_word(e, SCRATCH);
    }
    emit_op_table(e, HOST_OP_MOV_REG_RM, SCRATCH, SCRATCH, VCPU_FIELD(window_table));
}

/* Is the address of the instruction's access, 'disp' bytes further, the same whenever the block runs? */
static bool find_fixed(const struct translation *t, const struct native_insn *n, int32_t disp,
                       uint64_t *out_address)
{
    const struct x86_insn *insn = &n->insn;
    bool is_relative = insn->base == X86_BASE_RIP;
    if (!native_has_windows(t) || t->is_shared || !insn->has_memory || insn->address_bytes != 8 ||
        (!is_relative && (insn->base != X86_BASE_NONE || insn->index != X86_BASE_NONE)) ||
        insn->segment == X86_FS || insn->segment == X86_GS) {
        return false;
    }
    *out_address = (uint64_t)insn->disp + (uint64_t)(int64_t)disp;
    if (is_relative) {
        *out_address += t->source->rip + n->offset + insn->length;
    }
    return true;
}

/* R14 = an address that find_fixed has found, R15 = what its window adds to it. */
static void emit_fixed(struct translation *t, uint64_t address)
{
    uint64_t slot = address >> SOFT_WINDOW_SHIFT & (SOFT_WINDOW_SLOTS - 1);
    emit_mov_imm(&t->e, ADDRESS, address);
    native_begin_window_access(t);
    emit_op_base(&t->e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP,
                 VCPU_FIELD(window_table) + 8 * (int32_t)slot);
}

/* An address that is a register and a displacement, both for the host. What the guards of windows do not cover is none. */
struct near_address {
    uint8_t base; /* HOST_NONE: it is not that simple */
    int32_t disp;
};

#define NEAR(disp) ((disp) > -(1 << 30) && (disp) < 1 << 30)

/* The register and the displacement of an instruction's access to the stack; HOST_NONE: it has another one. */
static uint8_t find_stack_access(const struct translation *t, const struct native_insn *n,
                                 int32_t *out_disp)
{
    *out_disp = 0;
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSHF:
    case NATIVE_PUSH_SELECTOR:
    case NATIVE_CALL:
        *out_disp = -native_word(t->source);
        return HOST_R13;
    case NATIVE_POP_REG:
    case NATIVE_RET:
        return HOST_R13;
    case NATIVE_LEAVE:
        return HOST_RBP;
    default:
        return HOST_NONE;
    }
}

/* The address of the instruction's access, 'disp' bytes further. */
static struct near_address find_near(const struct translation *t, const struct native_insn *n,
                                     int64_t disp)
{
    const struct x86_insn *insn = &n->insn;
    int32_t own_disp;
    uint8_t base = find_stack_access(t, n, &own_disp);
    disp += own_disp;
    bool is_simple = insn->base != X86_BASE_NONE && insn->base != X86_BASE_RIP &&
                     insn->index == X86_BASE_NONE && insn->address_bytes == 8 &&
                     insn->segment != X86_FS && insn->segment != X86_GS &&
                     !native_is_spilled(insn->base);
    if (base == HOST_NONE && is_simple) {
        base = native_home(insn->base);
        disp += insn->disp;
    }
    bool is_near = native_has_windows(t) && NEAR(disp);
    return (struct near_address){is_near ? base : HOST_NONE, (int32_t)disp};
}

void native_emit_near(struct translation *t, uint8_t base, int32_t disp)
{
    emit_window(t, base);
    emit_add_scratch(t, base, disp);
    t->address_group = NATIVE_NO_GROUP;
    t->operand_disp = 0;
}

/* R14 from a linear address to the host's address of 'size' bytes, through the TLB of the block's mode. */
void native_emit_translation(struct translation *t, uint32_t size, bool is_write, bool is_aligned)
{
    struct emitter *e = &t->e;
    int32_t tlb = VCPU_FIELD(tlbs) + (int32_t)(t->tlb * sizeof(struct soft_tlb));
    int32_t tag = tlb + (int32_t)(is_write ? offsetof(struct soft_tlb, write_tag)
                                           : offsetof(struct soft_tlb, read_tag));
    int32_t hva = tlb + (int32_t)offsetof(struct soft_tlb, hva);
    if (native_has_windows(t)) {
        emit_window(t, ADDRESS);
        emit_add_scratch(t, ADDRESS, 0);
        return;
    }
    uint8_t *retry = e->at;
    emit_tlb_index(t);
    emit_op_table(e, HOST_OP_SUB_REG_RM, ADDRESS, SCRATCH, tag);
    if (is_aligned && size > 1) {
        emit_fit(e, 4 + EMIT_JCC_SIZE);
        emit8(e, 0x41); /* test r14b, size - 1 */
        emit8(e, 0xf6);
        emit8(e, 0xc6);
        emit8(e, (uint8_t)(size - 1));
        native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    }
    emit_fit(e, 7 + EMIT_JCC_SIZE);
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
    slow->checked = is_write && !is_aligned ? e->at : NULL;
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
    int32_t own_disp;
    uint8_t base = find_stack_access(t, n, &own_disp);
    if (base != HOST_NONE) {
        native_emit_word(t, HOST_OP_LEA, ADDRESS, base, own_disp + disp);
        return;
    }
    struct native_insn moved = *n;
    moved.insn.disp += disp;
    native_emit_address(t, &moved);
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
bool native_faults_by_one_access(const struct native_insn *n)
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
        native_before_access(t, n);
        struct near_address near = find_near(t, n, group->low - n->group_disp);
        uint64_t fixed;
        if (find_fixed(t, n, group->low - n->group_disp, &fixed)) {
            emit_fixed(t, fixed);
            emit_add_scratch(t, ADDRESS, 0);
        } else if (near.base != HOST_NONE) {
            native_emit_near(t, near.base, near.disp);
        } else {
            emit_access_address(t, n, group->low - n->group_disp);
            native_emit_translation(t, group->span, group->is_written, false);
        }
        struct slow_path *slow = &t->slow[t->slow_count - 1];
        slow->fault_disp = (uint32_t)(n->group_disp - group->low);
        slow->is_fault_read = group->is_written && !writes_memory(n);
        t->checked_groups |= 1u << n->group;
        if (group->last != t->index) {
            emit_op_base(&t->e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, slot);
        }
    } else {
        native_begin_window_access(t);
        if (t->address_group != n->group) {
            emit_op_base(&t->e, HOST_OP_MOV_REG_RM, ADDRESS, HOST_RSP, slot);
        }
    }
    t->address_group = n->group;
    t->operand_disp = n->group_disp - group->low;
}

static bool is_grouped(const struct translation *t, const struct native_insn *n)
{
    if (n->group == NATIVE_NO_GROUP) {
        return false;
    }
    const struct native_group *group = &t->source->group[n->group];
    return group->first != group->last &&
           (t->checked_groups >> n->group & 1 || group_fits(n, group->low - n->group_disp));
}

bool native_emit_grouped(struct translation *t, const struct native_insn *n)
{
    if (!is_grouped(t, n)) {
        return false;
    }
    emit_group_access(t, n);
    return true;
}

void native_emit_operand(struct translation *t, const struct native_insn *n, uint32_t size,
                         bool is_write, bool is_aligned)
{
    if (native_emit_grouped(t, n)) {
        return;
    }
    native_before_access(t, n);
    struct near_address near = find_near(t, n, 0);
    uint64_t fixed;
    if (near.base != HOST_NONE) {
        native_emit_near(t, near.base, near.disp);
        return;
    }
    if (find_fixed(t, n, 0, &fixed)) {
        emit_fixed(t, fixed);
        emit_add_scratch(t, ADDRESS, 0);
    } else {
        native_emit_address(t, n);
        native_emit_translation(t, size, is_write, is_aligned);
    }
    t->address_group = NATIVE_NO_GROUP;
    t->operand_disp = 0;
}

/* The operand of an instruction that leaves R15 alone, in a group that has been checked: by R15, if R14 has the address of another
 * group that is still of use. */
static bool find_in_scratch(struct translation *t, const struct native_insn *n,
                            struct native_operand *out)
{
    if (!is_grouped(t, n) || !(t->checked_groups >> n->group & 1)) {
        return false;
    }
    if (t->address_group == n->group) {
        t->scratch_group = t->kept_group;
        return false;
    }
    const struct native_group *group = &t->source->group[n->group];
    bool is_other_used =
        t->address_group != NATIVE_NO_GROUP && t->source->group[t->address_group].last > t->index;
    if (t->kept_group != n->group && !is_other_used) {
        return false;
    }
    native_begin_window_access(t);
    if (t->kept_group != n->group) {
        emit_op_base(&t->e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP,
                     VCPU_FIELD(native_group) + 8 * n->group);
    }
    t->scratch_group = n->group;
    *out = (struct native_operand){SCRATCH, HOST_NONE, n->group_disp - group->low, HOST_NONE};
    return true;
}

struct native_operand native_emit_parts(struct translation *t, const struct native_insn *n,
                                        uint32_t size, bool is_write, bool is_aligned,
                                        bool wants_scratch)
{
    struct native_operand in_scratch;
    if (!wants_scratch && find_in_scratch(t, n, &in_scratch)) {
        return in_scratch;
    }
    struct near_address near = find_near(t, n, 0);
    bool is_alone = native_has_windows(t) && !is_grouped(t, n);
    /* RAX is changed for a moment when the flags are restored. */
    bool keeps_base = near.base != HOST_NONE && near.base != HOST_RAX;
    if (!is_alone || (!keeps_base && wants_scratch)) {
        native_emit_operand(t, n, size, is_write, is_aligned);
        return (struct native_operand){ADDRESS, HOST_NONE, t->operand_disp, SCRATCH};
    }
    native_before_access(t, n);
    t->address_group = NATIVE_NO_GROUP;
    uint64_t fixed;
    if (find_fixed(t, n, 0, &fixed)) {
        emit_fixed(t, fixed);
        return (struct native_operand){ADDRESS, SCRATCH, 0, HOST_NONE};
    }
    if (near.base == HOST_NONE) {
        native_emit_address(t, n);
        emit_window(t, ADDRESS);
        return (struct native_operand){ADDRESS, SCRATCH, 0, HOST_NONE};
    }
    emit_window(t, near.base);
    return (struct native_operand){near.base, SCRATCH, near.disp, ADDRESS};
}
