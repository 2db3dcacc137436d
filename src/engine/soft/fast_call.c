/* SYSCALL, SYSENTER and their returns: calls of the system that load CS and SS without a look at any table. */
#include "engine/soft/block.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

/* SYSCALL and SYSRET trap by the TF that they leave, so that a kernel that masks TF is not stepped into, and a program is
 * stepped right behind its SYSCALL. */
static void trap_by_new_tf(struct soft_vcpu *v)
{
    v->goes_by_new_tf = true;
    if (v->flags & X86_FLAG_TF) {
        v->pending_dr6 |= SOFT_DR6_BS;
        soft_request(v, SOFT_REQUEST_STEP);
    }
}

static void syscall(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!(v->efer & X86_EFER_SCE) || !soft_is_protected(v) ||
        (soft_is_long(v) && !soft_is_64(v) && v->vm->is_intel)) {
        soft_raise(v, op, X86_UD);
    }
    uint16_t cs = (uint16_t)(v->star >> 32);
    uint64_t next = soft_op_next_rip(v, op);
    if (soft_is_long(v)) {
        uint64_t target = soft_is_64(v) ? v->lstar : v->cstar;
        v->gpr[X86_RCX] = next;
        v->gpr[X86_R11] = soft_rflags(v) & ~X86_FLAG_RF;
        soft_set_flat_segments(v, cs, (uint16_t)(cs + 8), 0, true);
        v->rip = target;
        soft_set_flags(v, 0, (uint32_t)v->sfmask | X86_FLAG_RF);
    } else {
        soft_put32(v, X86_RCX * 8, (uint32_t)next);
        soft_set_flat_segments(v, cs, (uint16_t)(cs + 8), 0, false);
        v->rip = (uint32_t)v->star;
        soft_set_flags(v, 0, X86_FLAG_IF | X86_FLAG_RF | X86_FLAG_VM);
    }
    soft_update_mode(v);
    trap_by_new_tf(v);
}

static void sysret(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!(v->efer & X86_EFER_SCE) || !soft_is_protected(v) || (!soft_is_64(v) && v->vm->is_intel)) {
        soft_raise(v, op, X86_UD);
    }
    bool to_long = op->size == 8;
    uint64_t target = to_long ? v->gpr[X86_RCX] : (uint32_t)v->gpr[X86_RCX];
    if (v->cpl != 0 || !x86_is_canonical(target)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint16_t base = (uint16_t)(v->star >> 48);
    bool was_long = soft_is_long(v);
    uint32_t flags = (uint32_t)v->gpr[X86_R11];
    soft_set_flat_segments(v, (uint16_t)(to_long ? base + 16 : base), (uint16_t)(base + 8), 3,
                           to_long);
    v->rip = target;
    if (was_long) {
        soft_set_flags(v, flags, 0x3c7fd7 & ~(X86_FLAG_RF | X86_FLAG_VM));
        v->flags &= ~X86_FLAG_RF;
    } else {
        soft_set_flags(v, X86_FLAG_IF, X86_FLAG_IF);
    }
    soft_update_mode(v);
    trap_by_new_tf(v);
}

static void sysenter(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!soft_is_protected(v) || !(v->sysenter_cs & 0xfffc)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    bool is_long = soft_is_long(v);
    uint16_t cs = (uint16_t)v->sysenter_cs;
    v->gpr[X86_RSP] = is_long ? v->sysenter_esp : (uint32_t)v->sysenter_esp;
    v->rip = is_long ? v->sysenter_eip : (uint32_t)v->sysenter_eip;
    soft_set_flat_segments(v, cs, (uint16_t)(cs + 8), 0, is_long);
    soft_set_flags(v, 0, X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_RF);
    soft_update_mode(v);
}

static void sysexit(struct soft_vcpu *v, const struct soft_op *op)
{
    bool to_long = op->size == 8;
    uint64_t sp = v->gpr[X86_RCX];
    uint64_t target = v->gpr[X86_RDX];
    if (!soft_is_protected(v) || v->cpl != 0 || !(v->sysenter_cs & 0xfffc) ||
        (to_long && (!x86_is_canonical(sp) || !x86_is_canonical(target)))) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint16_t cs = (uint16_t)(v->sysenter_cs + (to_long ? 32 : 16));
    v->gpr[X86_RSP] = to_long ? sp : (uint32_t)sp;
    v->rip = to_long ? target : (uint32_t)target;
    soft_set_flat_segments(v, cs, (uint16_t)(cs + 8), 3, to_long);
    soft_update_mode(v);
}

bool soft_fast_call_prepare(struct soft_vcpu *v, const struct x86_insn *insn,
                            struct soft_op *out_op)
{
    switch (insn->id) {
    case X86_ID_SYSCALL:
        out_op->fn = syscall;
        return true;
    case X86_ID_SYSRET:
        out_op->fn = sysret;
        return true;
    case X86_ID_SYSENTER:
        out_op->fn = sysenter;
        return true;
    case X86_ID_SYSEXIT:
        out_op->fn = sysexit;
        return true;
    default:
        return false;
    }
}
