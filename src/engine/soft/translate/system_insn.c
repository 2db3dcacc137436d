/* Templates of system instructions: frequent ones in kernels. Most are a call of a stub; see native_system.h. */
#include <stddef.h>

#include "engine/soft/translate/native_system.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

static enum native_small small_of(uint16_t id)
{
    switch (id) {
    case X86_ID_CLI:
        return NATIVE_SMALL_CLI;
    case X86_ID_STI:
        return NATIVE_SMALL_STI;
    case X86_ID_CLD:
        return NATIVE_SMALL_CLD;
    case X86_ID_STD:
        return NATIVE_SMALL_STD;
    case X86_ID_STAC:
        return NATIVE_SMALL_STAC;
    case X86_ID_CLAC:
        return NATIVE_SMALL_CLAC;
    case X86_ID_SWAPGS:
        return NATIVE_SMALL_SWAPGS;
    case X86_ID_PUSHF:
        return NATIVE_SMALL_PUSHF;
    case X86_ID_RDTSC:
        return NATIVE_SMALL_RDTSC;
    default:
        return NATIVE_SMALL_RDTSCP;
    }
}

bool native_system_is_allowed(const struct soft_vcpu *v, const struct x86_insn *insn, uint32_t mode)
{
    bool is_kernel = (mode & NATIVE_MODE_TLB) != SOFT_TLB_USER;
    if (v->lockstep || v->vm->icount.is_on) {
        return false; /* the one compares no system state; with the other, clocks are not the host's */
    }
    if (mode & NATIVE_MODE_32) {
        switch (insn->id) {
        case X86_ID_SWAPGS:
        case X86_ID_SYSCALL:
        case X86_ID_SYSRET:
        case X86_ID_IRET:
        case X86_ID_INVLPG:
        case X86_ID_MOV_CR:
            return false;
        default:
            break;
        }
    }
    switch (insn->id) {
    case X86_ID_CLI:
    case X86_ID_STI:
    case X86_ID_SWAPGS:
    case X86_ID_INVLPG:
        return is_kernel;
    case X86_ID_STAC:
    case X86_ID_CLAC:
        return is_kernel && (mode & NATIVE_MODE_SMAP);
    case X86_ID_SYSRET:
    case X86_ID_IRET:
        return is_kernel && insn->operand_bytes == 8;
    case X86_ID_PUSHF:
    case X86_ID_POPF:
        return insn->operand_bytes == (mode & NATIVE_MODE_32 ? 4 : 8);
    case X86_ID_RDTSC:
        return !v->vm->tsc_ratio;
    case X86_ID_RDTSCP:
        return !v->vm->tsc_ratio && v->features.rdtscp;
    case X86_ID_MOV_CR: {
        unsigned cr = (unsigned)(insn->modrm >> 3 & 7) | (insn->rex & 4u) << 1;
        return is_kernel && (cr == 0 || cr == 2 || cr == 3 || cr == 4);
    }
    default:
        return true;
    }
}

static void call_small(struct translation *t, enum native_small small)
{
    emit_bind(emit_call(&t->e), t->native->small[small]);
    t->address_group = NATIVE_NO_GROUP;
}

/* The slow path if a test of these bits of a byte of the vCPU says so. */
static void leave_if(struct translation *t, int32_t disp, uint8_t bits, uint8_t condition)
{
    emit_insn(&t->e, &(struct host_insn){.opcode = 0xf6, /* test */
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = disp,
                                         .imm_bytes = 1,
                                         .imm = &bits});
    native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(&t->e, condition);
}

static void leave_if_set(struct translation *t, int32_t disp, uint8_t bits)
{
    leave_if(t, disp, bits, HOST_IF_NOT_EQUAL);
}

/* RDFSBASE, WRFSBASE and those of GS. */
static void emit_base(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    bool is_write = n->insn.id == X86_ID_WRFSBASE || n->insn.id == X86_ID_WRGSBASE;
    bool is_fs = n->insn.id == X86_ID_RDFSBASE || n->insn.id == X86_ID_WRFSBASE;
    uint8_t guest = (uint8_t)((n->insn.modrm & 7) | (n->insn.rex & 1) << 3);
    bool is_spilled = native_is_spilled(guest), is_64 = n->insn.operand_bytes == 8;
    _Static_assert(X86_CR4_FSGSBASE == 1u << 16, "the lowest bit of the third byte");
    native_give_up_flags(t, n->live_before);
    leave_if(t, VCPU_FIELD(cr4) + 2, 1, HOST_IF_EQUAL);
    struct host_insn move = {.opcode = HOST_OP_MOV_REG_RM,
                             .w = is_64,
                             .reg = ADDRESS,
                             .rm = native_home(guest),
                             .is_memory = true,
                             .base = HOST_RSP,
                             .index = HOST_NONE,
                             .disp = VCPU_FIELD(gpr) + 8 * guest};
    if (!is_write) {
        move.reg = is_spilled ? SCRATCH : native_home(guest);
        move.disp = VCPU_FIELD(segment_base) + 8 * (is_fs ? X86_FS : X86_GS);
        emit_insn(e, &move);
        if (is_spilled) {
            native_store_gpr(t, SCRATCH, guest);
        }
        return;
    }
    move.is_memory = is_spilled;
    emit_insn(e, &move);
    native_emit_canonical_check(t);
    emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
    call_small(t, is_fs ? NATIVE_SMALL_WRFSBASE : NATIVE_SMALL_WRGSBASE);
}

static bool is_of_base(uint16_t id)
{
    return id == X86_ID_RDFSBASE || id == X86_ID_RDGSBASE || id == X86_ID_WRFSBASE ||
           id == X86_ID_WRGSBASE;
}

void native_emit_small(struct translation *t, const struct native_insn *n)
{
    if (is_of_base(n->insn.id)) {
        emit_base(t, n);
        return;
    }
    enum native_small small = small_of(n->insn.id);
    native_give_up_flags(t, n->live_before);
    switch (small) {
    case NATIVE_SMALL_STI:
        leave_if_set(t, VCPU_FIELD(interrupt_waiting), 0xff);
        break;
    case NATIVE_SMALL_RDTSC:
    case NATIVE_SMALL_RDTSCP:
        if (t->tlb == SOFT_TLB_USER) {
            leave_if_set(t, VCPU_FIELD(cr4), X86_CR4_TSD);
        }
        break;
    default:
        break;
    }
    call_small(t, small);
    if (small == NATIVE_SMALL_STAC) {
        t->tlb = SOFT_TLB_SUPERVISOR_AC;
    } else if (small == NATIVE_SMALL_CLAC) {
        t->tlb = SOFT_TLB_SUPERVISOR;
    }
}

void native_emit_pushf(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    native_give_up_flags(t, n->live_before);
    call_small(t, NATIVE_SMALL_PUSHF);
    uint8_t word = native_word(t->source);
    native_emit_stack(t, n, -word, true);
    emit_op_base(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
    native_emit_word(t, HOST_OP_MOV_RM_REG, SCRATCH, ADDRESS, t->operand_disp);
    native_emit_move_stack(t, -word);
}

/* Only if no flags change but those of status, and IF in the kernel while no interrupt waits. */
void native_emit_popf(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    uint32_t free_flags = X86_FLAGS_STATUS;
    native_give_up_flags(t, n->live_before);
    if (t->tlb != SOFT_TLB_USER) {
        leave_if_set(t, VCPU_FIELD(interrupt_waiting), 0xff);
        free_flags |= X86_FLAG_IF;
    }
    native_emit_stack(t, n, 0, false);
    native_emit_word(t, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS, t->operand_disp);
    emit_op_base(e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(native_target));
    emit_insn(e, &(struct host_insn){.opcode = 0x33, /* xor r15d, [flags] */
                                     .reg = SCRATCH,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(flags)});
    emit_insn(e, &(struct host_insn){.opcode = 0xf7, .rm = SCRATCH}); /* test */
    emit32(e, ~free_flags);
    native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    call_small(t, NATIVE_SMALL_POPF);
    native_emit_move_stack(t, native_word(t->source));
    t->flags = FLAGS_SAVED;
}

/* The interpreter counts pauses, too, and now and then gives the host's CPU to others: that one is its. */
void native_emit_pause(struct translation *t, const struct native_insn *n)
{
    static const uint8_t one = 1, mask = SOFT_PAUSES_UNTIL_YIELD - 1;
    struct emitter *e = &t->e;
    struct host_insn pauses = {.opcode = HOST_OP_MOV_REG_RM,
                               .reg = SCRATCH,
                               .is_memory = true,
                               .base = HOST_RSP,
                               .index = HOST_NONE,
                               .disp = VCPU_FIELD(pauses)};
    native_give_up_flags(t, n->live_before);
    emit_insn(e, &pauses);
    emit_insn(e, &(struct host_insn){/* add r15d, 1 */
                                     .opcode = 0x83,
                                     .rm = SCRATCH,
                                     .imm_bytes = 1,
                                     .imm = &one});
    emit_insn(e, &(struct host_insn){/* test r15b, mask */
                                     .opcode = 0xf6,
                                     .rm = SCRATCH,
                                     .imm_bytes = 1,
                                     .imm = &mask});
    native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(e, HOST_IF_EQUAL);
    pauses.opcode = HOST_OP_MOV_RM_REG;
    emit_insn(e, &pauses);
}

void native_emit_read_cr(struct translation *t, const struct native_insn *n)
{
    static const int32_t field[] = {
        [0] = VCPU_FIELD(cr0), [2] = VCPU_FIELD(cr2), [3] = VCPU_FIELD(cr3), [4] = VCPU_FIELD(cr4)};
    struct emitter *e = &t->e;
    uint8_t guest = (uint8_t)((n->insn.modrm & 7) | (n->insn.rex & 1) << 3);
    uint8_t to = native_is_spilled(guest) ? SCRATCH : guest == X86_RSP ? HOST_R13 : guest;
    emit_op_base(e, HOST_OP_MOV_REG_RM, to, HOST_RSP, field[n->insn.modrm >> 3 & 7]);
    if (to == SCRATCH) {
        emit_op_base(e, HOST_OP_MOV_RM_REG, SCRATCH, HOST_RSP, VCPU_FIELD(gpr) + 8 * guest);
    }
}

static const uint8_t *stub_of(const struct soft_native *native, uint16_t id)
{
    switch (id) {
    case X86_ID_SYSCALL:
        return native->syscall;
    case X86_ID_SYSRET:
        return native->sysret;
    case X86_ID_INVLPG:
        return native->invlpg;
    default:
        return native->iret;
    }
}

void native_emit_entry(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    native_give_up_flags(t, n->live_before);
    if (n->insn.has_memory) {
        native_emit_address(t, n);
        emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
    }
    emit_mov_imm(e, SCRATCH, n->insn.length);
    emit_bind(emit_call(e), stub_of(t->native, n->insn.id));
    emit64(e, native_rip(t->source, t->index));
    emit64(e, 0);
    t->flags = FLAGS_SAVED;
}
