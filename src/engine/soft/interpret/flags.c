/* Instructions on RFLAGS, and decimal arithmetic. What may change IF, TF, AC or VM ends its block (the decoder sees to it:
 * their rows are X86_ROW_SYSTEM). */
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/stack.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

static void clc(struct soft_vcpu *v, const struct soft_op *op)
{
    v->status &= (uint16_t)~SOFT_STATUS_CF;
    SOFT_NEXT(v, op);
}

static void stc(struct soft_vcpu *v, const struct soft_op *op)
{
    v->status |= SOFT_STATUS_CF;
    SOFT_NEXT(v, op);
}

static void cmc(struct soft_vcpu *v, const struct soft_op *op)
{
    v->status ^= SOFT_STATUS_CF;
    SOFT_NEXT(v, op);
}

static void cld(struct soft_vcpu *v, const struct soft_op *op)
{
    v->flags &= ~X86_FLAG_DF;
    SOFT_NEXT(v, op);
}

static void std(struct soft_vcpu *v, const struct soft_op *op)
{
    v->flags |= X86_FLAG_DF;
    SOFT_NEXT(v, op);
}

static void lahf(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_put8(v, X86_RAX * 8 + 1, (uint8_t)(((v->status >> 8) & 0xd5) | X86_FLAG_ONE));
    SOFT_NEXT(v, op);
}

static void sahf(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t ah = SOFT_GET(8, X86_RAX * 8 + 1);
    v->status = (uint16_t)((v->status & SOFT_STATUS_OF) | (ah & 0xd5) << 8);
    SOFT_NEXT(v, op);
}

static void salc(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_put8(v, X86_RAX * 8, v->status & SOFT_STATUS_CF ? 0xff : 0);
    SOFT_NEXT(v, op);
}

static unsigned iopl(const struct soft_vcpu *v)
{
    return (v->flags & X86_FLAG_IOPL) >> 12;
}

/* SDM 2A, CLI and STI: with IOPL too low VME or PVI move the virtual flag in its place. */
static bool uses_virtual_flag(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!soft_is_protected(v) || v->cpl <= iopl(v)) {
        return false;
    }
    bool is_allowed = soft_is_v86(v) ? v->cr4 & X86_CR4_VME : v->cpl == 3 && (v->cr4 & X86_CR4_PVI);
    if (!is_allowed) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    return true;
}

static void cli(struct soft_vcpu *v, const struct soft_op *op)
{
    v->flags &= uses_virtual_flag(v, op) ? ~X86_FLAG_VIF : ~X86_FLAG_IF;
    SOFT_NEXT(v, op);
}

static void sti(struct soft_vcpu *v, const struct soft_op *op)
{
    if (uses_virtual_flag(v, op)) {
        if (v->flags & X86_FLAG_VIP) {
            soft_raise_error(v, op, X86_GP, 0);
        }
        v->flags |= X86_FLAG_VIF;
    } else if (!(v->flags & X86_FLAG_IF)) {
        v->flags |= X86_FLAG_IF;
        v->shadow_sti = true;
        soft_request(v, SOFT_REQUEST_STEP);
    }
    SOFT_NEXT(v, op);
}

static void clac(struct soft_vcpu *v, const struct soft_op *op)
{
    if (v->cpl != 0 || !v->features.smap) {
        soft_raise(v, op, X86_UD);
    }
    v->flags = op->imm ? v->flags | X86_FLAG_AC : v->flags & ~X86_FLAG_AC;
    soft_update_mode(v);
    SOFT_NEXT(v, op);
}

static void pushf(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t value = soft_rflags(v) & ~(X86_FLAG_RF | X86_FLAG_VM);
    if (soft_is_v86(v) && iopl(v) < 3) {
        if (!(v->cr4 & X86_CR4_VME) || op->size != 2) {
            soft_raise_error(v, op, X86_GP, 0);
        }
        value =
            (value & ~X86_FLAG_IF) | X86_FLAG_IOPL | (v->flags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
    }
    soft_push(v, op, op->size, value);
    SOFT_NEXT(v, op);
}

static void popf_vme(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t sp = v->gpr[X86_RSP];
    uint32_t value = (uint32_t)soft_pop_at(v, op, &sp, 2);
    if (((value & X86_FLAG_IF) && (v->flags & X86_FLAG_VIP)) || (value & X86_FLAG_TF)) {
        soft_raise_error(v, op, X86_GP, 0);
    }
    uint32_t mask = X86_FLAGS_STATUS | X86_FLAG_DF | X86_FLAG_NT;
    soft_set_sp(v, sp);
    soft_set_flags(v, (value & ~X86_FLAG_VIF) | (value & X86_FLAG_IF ? X86_FLAG_VIF : 0),
                   mask | X86_FLAG_VIF);
}

static void popf(struct soft_vcpu *v, const struct soft_op *op)
{
    if (soft_is_v86(v) && iopl(v) < 3) {
        if (!(v->cr4 & X86_CR4_VME) || op->size != 2) {
            soft_raise_error(v, op, X86_GP, 0);
        }
        popf_vme(v, op);
        SOFT_NEXT(v, op);
    }
    uint64_t sp = v->gpr[X86_RSP];
    uint32_t value = (uint32_t)soft_pop_at(v, op, &sp, op->size);
    uint32_t mask = X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT;
    if (op->size != 2) {
        mask |= X86_FLAG_AC | X86_FLAG_ID;
    }
    if (v->cpl <= iopl(v)) {
        mask |= X86_FLAG_IF;
    }
    if (v->cpl == 0) {
        mask |= X86_FLAG_IOPL;
    }
    soft_set_sp(v, sp);
    soft_set_flags(v, value, mask | X86_FLAG_RF);
    v->flags &= ~X86_FLAG_RF;
    SOFT_NEXT(v, op);
}

/* The decimal adjustments do not exist in 64-bit mode, so the host cannot do them; SDM 2A, DAA .. AAS. Undefined flags are as
 * in the logic operation on the result. */
static void set_result_flags(struct soft_vcpu *v, uint8_t value, bool carry, bool adjust)
{
    uint16_t status = 0;
    alu_or8(value, value, &status);
    status &= (uint16_t) ~(SOFT_STATUS_AF | SOFT_STATUS_CF);
    v->status = (uint16_t)(status | (carry ? SOFT_STATUS_CF : 0) | (adjust ? SOFT_STATUS_AF : 0));
}

static void daa_das(struct soft_vcpu *v, const struct soft_op *op)
{
    bool is_add = op->imm;
    uint8_t al = (uint8_t)v->gpr[X86_RAX];
    uint8_t old = al;
    bool old_carry = v->status & SOFT_STATUS_CF;
    bool carry = false;
    bool adjust = (al & 15) > 9 || (v->status & SOFT_STATUS_AF);
    if (adjust) {
        carry = old_carry || (is_add ? al > 0xf9 : al < 6);
        al = (uint8_t)(is_add ? al + 6 : al - 6);
    }
    if (old > 0x99 || old_carry) {
        al = (uint8_t)(is_add ? al + 0x60 : al - 0x60);
        carry = true;
    } else if (is_add) {
        carry = false;
    }
    soft_put8(v, X86_RAX * 8, al);
    set_result_flags(v, al, carry, adjust);
    SOFT_NEXT(v, op);
}

static void aaa_aas(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t ax = (uint16_t)v->gpr[X86_RAX];
    bool adjust = (ax & 15) > 9 || (v->status & SOFT_STATUS_AF);
    if (adjust) {
        ax = (uint16_t)(op->imm ? ax + 0x106 : ax - 0x106);
    }
    ax &= 0xff0f;
    soft_put16(v, X86_RAX * 8, ax);
    set_result_flags(v, (uint8_t)ax, adjust, adjust);
    SOFT_NEXT(v, op);
}

static void aam(struct soft_vcpu *v, const struct soft_op *op)
{
    uint8_t al = (uint8_t)v->gpr[X86_RAX];
    uint8_t base = (uint8_t)op->imm;
    if (base == 0) {
        soft_raise(v, op, X86_DE);
    }
    soft_put16(v, X86_RAX * 8, (uint16_t)((al / base) << 8 | al % base));
    set_result_flags(v, al % base, false, false);
    SOFT_NEXT(v, op);
}

static void aad(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t ax = (uint16_t)v->gpr[X86_RAX];
    uint8_t al = (uint8_t)(ax + (ax >> 8) * (uint8_t)op->imm);
    soft_put16(v, X86_RAX * 8, al);
    set_result_flags(v, al, false, false);
    SOFT_NEXT(v, op);
}

static const struct {
    uint16_t id;
    uint8_t imm;
    bool sets_imm;
    soft_op_fn fn;
} flag_handlers[] = {
    {X86_ID_CLC, 0, 0, clc},     {X86_ID_STC, 0, 0, stc},     {X86_ID_CMC, 0, 0, cmc},
    {X86_ID_CLD, 0, 0, cld},     {X86_ID_STD, 0, 0, std},     {X86_ID_LAHF, 0, 0, lahf},
    {X86_ID_SAHF, 0, 0, sahf},   {X86_ID_SALC, 0, 0, salc},   {X86_ID_CLI, 0, 0, cli},
    {X86_ID_STI, 0, 0, sti},     {X86_ID_CLAC, 0, 1, clac},   {X86_ID_STAC, 1, 1, clac},
    {X86_ID_PUSHF, 0, 0, pushf}, {X86_ID_POPF, 0, 0, popf},   {X86_ID_DAA, 1, 1, daa_das},
    {X86_ID_DAS, 0, 1, daa_das}, {X86_ID_AAA, 1, 1, aaa_aas}, {X86_ID_AAS, 0, 1, aaa_aas},
    {X86_ID_AAM, 0, 0, aam},     {X86_ID_AAD, 0, 0, aad},
};

bool soft_flags_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    for (size_t i = 0; i < ARRAY_COUNT(flag_handlers); i++) {
        if (flag_handlers[i].id == insn->id) {
            out_op->fn = flag_handlers[i].fn;
            if (flag_handlers[i].sets_imm) {
                out_op->imm = flag_handlers[i].imm;
            }
            return true;
        }
    }
    return false;
}
