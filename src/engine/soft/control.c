/* System registers: control and debug registers, descriptor tables, and instructions that ask about
 * descriptors. */
#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"

#define CR0_KNOWN                                                                                  \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static void require_protected(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (!soft_is_protected(v) || soft_is_v86(v)) {
        soft_raise(v, op, X86_UD);
    }
}

void soft_set_flags(struct soft_vcpu *v, uint32_t value, uint32_t mask)
{
    const uint32_t existing = 0x3f7fd7u;
    uint32_t old = soft_rflags(v);
    uint32_t flags = (old & ~mask) | (value & mask & existing) | X86_FLAG_ONE;
    v->flags = flags & ~X86_FLAGS_STATUS;
    soft_set_status(v, flags);
    if (flags & X86_FLAG_TF) {
        soft_request(v, SOFT_REQUEST_STEP);
    }
    if ((old ^ flags) & (X86_FLAG_AC | X86_FLAG_VM)) {
        soft_update_mode(v);
    }
    if ((flags & X86_FLAG_IF) && !(old & X86_FLAG_IF) && v->interrupt_waiting) {
        soft_request(v, SOFT_REQUEST_INTERRUPT);
    }
}

bool soft_set_cr0(struct soft_vcpu *v, uint64_t value)
{
    value = (value & (CR0_KNOWN | ~0xffffffffull)) | X86_CR0_ET;
    bool pg = value & X86_CR0_PG, pe = value & X86_CR0_PE;
    bool was_pg = v->cr0 & X86_CR0_PG;
    if ((value >> 32) || (pg && !pe) || ((value & X86_CR0_NW) && !(value & X86_CR0_CD))) {
        return false;
    }
    if (pg && !was_pg) {
        if (v->efer & X86_EFER_LME) {
            if (!(v->cr4 & X86_CR4_PAE) || (v->segment[X86_CS].attributes & X86_SEGMENT_L)) {
                return false;
            }
            v->efer |= X86_EFER_LMA;
        } else if (v->cr4 & X86_CR4_PAE) {
            struct x86_paging_memory memory = soft_paging_memory(v);
            if (!x86_paging_load_pdptes(&memory, v->cr3, v->physical_bits, v->pdpte)) {
                return false;
            }
        }
    } else if (!pg && was_pg) {
        if (soft_is_64(v) || (v->cr4 & X86_CR4_PCIDE)) {
            return false;
        }
        v->efer &= ~(uint64_t)X86_EFER_LMA;
    }
    uint64_t changed = v->cr0 ^ value;
    v->cr0 = value;
    if (changed & (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE)) {
        soft_tlb_flush(v, true);
    }
    soft_update_mode(v);
    return true;
}

bool soft_set_cr4(struct soft_vcpu *v, uint64_t value)
{
    uint64_t known =
        X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |
        X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |
        (v->features.umip ? X86_CR4_UMIP : 0) | (v->features.fsgsbase ? X86_CR4_FSGSBASE : 0) |
        (v->features.pcid ? X86_CR4_PCIDE : 0) | (v->features.xsave ? X86_CR4_OSXSAVE : 0) |
        (v->features.smep ? X86_CR4_SMEP : 0) | (v->features.smap ? X86_CR4_SMAP : 0);
    uint64_t changed = v->cr4 ^ value;
    if ((value & ~known) || (soft_is_long(v) && !(value & X86_CR4_PAE))) {
        return false;
    }
    if ((changed & value & X86_CR4_PCIDE) && (!soft_is_long(v) || (v->cr3 & 0xfff))) {
        return false;
    }
    uint64_t paging =
        X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE;
    if ((changed & paging) && (v->cr0 & X86_CR0_PG) && !soft_is_long(v) && (value & X86_CR4_PAE)) {
        struct x86_paging_memory memory = soft_paging_memory(v);
        if (!x86_paging_load_pdptes(&memory, v->cr3, v->physical_bits, v->pdpte)) {
            return false;
        }
    }
    v->cr4 = value;
    soft_cpuid_forget(v);
    if (changed & paging) {
        soft_tlb_flush(v, true);
    }
    soft_update_mode(v);
    return true;
}

bool soft_set_cr3(struct soft_vcpu *v, uint64_t value)
{
    bool has_pcid = v->cr4 & X86_CR4_PCIDE;
    bool keeps = has_pcid && (value >> 63);
    if (has_pcid) {
        value &= ~(1ull << 63);
    }
    if (soft_is_long(v) && (value >> v->physical_bits)) {
        return false;
    }
    if ((v->cr0 & X86_CR0_PG) && (v->cr4 & X86_CR4_PAE) && !soft_is_long(v)) {
        struct x86_paging_memory memory = soft_paging_memory(v);
        if (!x86_paging_load_pdptes(&memory, value, v->physical_bits, v->pdpte)) {
            return false;
        }
    }
    v->cr3 = value;
    soft_space_enter(v, keeps);
    return true;
}

static void mov_from_cr(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint64_t value = 0;
    soft_require_cpl0(v, op);
    switch (op->src) {
    case 0:
        value = v->cr0;
        break;
    case 2:
        value = v->cr2;
        break;
    case 3:
        value = v->cr3;
        break;
    case 4:
        value = v->cr4;
        break;
    default:
        soft_sync_apic(v);
        if (callbacks->apic_get_cr8) {
            value = callbacks->apic_get_cr8(callbacks->ctx, v->vcpu.index);
        }
        break;
    }
    soft_put_sized(v, op->dst, soft_is_64(v) ? 8 : 4, value);
    SOFT_NEXT(v, op);
}

static void mov_to_cr(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    soft_require_cpl0(v, op);
    uint64_t value = soft_get_sized(v, op->src, soft_is_64(v) ? 8 : 4);
    /* Taken before a change of mode alters what the RIP is masked with. */
    uint64_t next = soft_op_next_rip(v, op);
    bool is_valid = true;
    switch (op->dst) {
    case 0:
        is_valid = soft_set_cr0(v, value);
        break;
    case 2:
        v->cr2 = value;
        break;
    case 3:
        is_valid = soft_set_cr3(v, value);
        break;
    case 4:
        is_valid = soft_set_cr4(v, value);
        break;
    default:
        is_valid = value <= 15;
        soft_sync_apic(v);
        if (is_valid && callbacks->apic_set_cr8) {
            callbacks->apic_set_cr8(callbacks->ctx, v->vcpu.index, (uint8_t)value);
            soft_request(v, SOFT_REQUEST_INTERRUPT);
        }
        break;
    }
    if (!is_valid) {
        soft_general_protection(v, op);
    }
    v->rip = next;
}

static void check_dr(struct soft_vcpu *v, const struct soft_op *op, unsigned n)
{
    soft_require_cpl0(v, op);
    if ((n == 4 || n == 5) && (v->cr4 & X86_CR4_DE)) {
        soft_raise(v, op, X86_UD);
    }
    if (v->dr7 & BIT(13)) { /* GD */
        v->dr7 &= ~BIT(13);
        v->dr6 |= BIT(13);
        soft_raise(v, op, X86_DB);
    }
}

static void mov_from_dr(struct soft_vcpu *v, const struct soft_op *op)
{
    check_dr(v, op, op->src);
    uint64_t value = op->src < 4 ? v->dr[op->src] : op->src & 1 ? v->dr7 : v->dr6;
    soft_put_sized(v, op->dst, soft_is_64(v) ? 8 : 4, value);
    SOFT_NEXT(v, op);
}

static void mov_to_dr(struct soft_vcpu *v, const struct soft_op *op)
{
    check_dr(v, op, op->dst);
    uint64_t value = soft_get_sized(v, op->src, soft_is_64(v) ? 8 : 4);
    if (op->dst >= 4 && (value >> 32)) {
        soft_general_protection(v, op);
    }
    if (op->dst < 4) {
        v->dr[op->dst] = value;
        soft_tlb_flush(v, true); /* entries of pages that are watched now */
    } else if (op->dst & 1) {
        v->dr7 = (value & 0xffff2fff) | 0x400;
        soft_tlb_flush(v, true);
        soft_request(v, SOFT_REQUEST_STEP);
    } else {
        v->dr6 = (value & 0xe00f) | 0xffff0ff0;
    }
    SOFT_NEXT(v, op);
}

/* The 16 bits of a register or memory source. */
static uint16_t source16(struct soft_vcpu *v, const struct soft_op *op)
{
    return op->flags & SOFT_OP_HAS_MEMORY ? soft_load16(v, op, soft_linear(v, op, 2, false))
                                          : SOFT_GET(16, op->dst);
}

static void check_umip(struct soft_vcpu *v, const struct soft_op *op)
{
    if (v->cpl != 0 && (v->cr4 & X86_CR4_UMIP)) {
        soft_general_protection(v, op);
    }
}

static void store16(struct soft_vcpu *v, const struct soft_op *op, uint64_t value)
{
    if (op->flags & SOFT_OP_HAS_MEMORY) {
        soft_store16(v, op, soft_linear(v, op, 2, true), (uint16_t)value);
    } else {
        soft_put_sized(v, op->dst, op->size, value);
    }
}

static void smsw(struct soft_vcpu *v, const struct soft_op *op)
{
    check_umip(v, op);
    store16(v, op, v->cr0);
    SOFT_NEXT(v, op);
}

static void lmsw(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    uint16_t value = source16(v, op);
    /* PE can be set, not cleared. */
    (void)soft_set_cr0(v, (v->cr0 & ~0xeull) | (value & 0xf));
    SOFT_NEXT(v, op);
}

static void clts(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    v->cr0 &= ~(uint64_t)X86_CR0_TS;
    SOFT_NEXT(v, op);
}

static void store_table(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct x86_table *table = op->variant ? &v->idtr : &v->gdtr;
    uint8_t bytes[10];
    uint32_t size = soft_is_64(v) ? 10 : 6;
    check_umip(v, op);
    memcpy(bytes, &table->limit, 2);
    memcpy(bytes + 2, &table->base, 8);
    soft_store_unchecked(v, op, soft_linear(v, op, size, true), bytes, size);
    SOFT_NEXT(v, op);
}

static void load_table(struct soft_vcpu *v, const struct soft_op *op)
{
    struct x86_table table = {0};
    uint8_t bytes[10] = {0};
    uint32_t size = soft_is_64(v) ? 10 : 6;
    soft_require_cpl0(v, op);
    soft_load_unchecked(v, op, soft_linear(v, op, size, false), bytes, size);
    memcpy(&table.limit, bytes, 2);
    memcpy(&table.base, bytes + 2, 8);
    if (op->size == 2 && !soft_is_64(v)) {
        table.base &= 0xffffff;
    }
    if (soft_is_64(v) && !x86_is_canonical(table.base)) {
        soft_general_protection(v, op);
    }
    *(op->variant ? &v->idtr : &v->gdtr) = table;
    SOFT_NEXT(v, op);
}

static void sldt_str(struct soft_vcpu *v, const struct soft_op *op)
{
    require_protected(v, op);
    check_umip(v, op);
    store16(v, op, op->variant ? v->tr.selector : v->ldtr.selector);
    SOFT_NEXT(v, op);
}

static void lldt(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    require_protected(v, op);
    soft_require_cpl0(v, op);
    uint16_t selector = source16(v, op);
    if (!(selector & ~3u)) {
        soft_set_null_segment(&v->ldtr, selector, 0);
        SOFT_NEXT(v, op);
    }
    uint32_t error = selector & 0xfffcu;
    if ((selector & 4) || !soft_descriptor_read(v, selector, &d) ||
        (d.segment.attributes & (X86_SEGMENT_S | X86_SEGMENT_TYPE)) != 2 ||
        (soft_is_long(v) && !soft_descriptor_read_high(v, selector, &d))) {
        soft_raise_error(v, op, X86_GP, error);
    }
    if (!soft_descriptor_is_present(&d)) {
        soft_raise_error(v, op, X86_NP, error);
    }
    if (soft_is_long(v) && !x86_is_canonical(d.segment.base)) {
        soft_raise_error(v, op, X86_GP, error);
    }
    v->ldtr = d.segment;
    SOFT_NEXT(v, op);
}

static void ltr(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    require_protected(v, op);
    soft_require_cpl0(v, op);
    uint16_t selector = source16(v, op);
    uint32_t error = selector & 0xfffcu;
    if ((selector & 4) || !(selector & ~3u) || !soft_descriptor_read(v, selector, &d)) {
        soft_raise_error(v, op, X86_GP, error);
    }
    unsigned type = d.segment.attributes & (X86_SEGMENT_S | X86_SEGMENT_TYPE);
    bool is_available = type == 9 || (type == 1 && !soft_is_long(v));
    if (!is_available || (soft_is_long(v) && !soft_descriptor_read_high(v, selector, &d))) {
        soft_raise_error(v, op, X86_GP, error);
    }
    if (!soft_descriptor_is_present(&d)) {
        soft_raise_error(v, op, X86_NP, error);
    }
    if (soft_is_long(v) && !x86_is_canonical(d.segment.base)) {
        soft_raise_error(v, op, X86_GP, error);
    }
    uint8_t busy = (uint8_t)(d.low >> 40) | 2;
    soft_system_store(v, d.address + 5, &busy, 1);
    v->tr = d.segment;
    v->tr.attributes |= 2;
    SOFT_NEXT(v, op);
}

static void set_zero_flag(struct soft_vcpu *v, bool is_set)
{
    v->status = (uint16_t)((v->status & ~SOFT_STATUS_ZF) | (is_set ? SOFT_STATUS_ZF : 0));
}

/* May the current privilege and the selector's RPL see the descriptor? */
static bool is_visible(const struct soft_vcpu *v, uint16_t selector,
                       const struct soft_descriptor *d)
{
    uint16_t code = X86_SEGMENT_S | X86_SEGMENT_CODE | X86_SEGMENT_CONFORM;
    unsigned dpl = soft_descriptor_dpl(d);
    return (d->segment.attributes & code) == code || (dpl >= v->cpl && dpl >= (selector & 3u));
}

static void verify(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    bool for_write = op->variant;
    require_protected(v, op);
    uint16_t selector = source16(v, op);
    bool is_valid = soft_descriptor_read(v, selector, &d) &&
                    (d.segment.attributes & X86_SEGMENT_S) && is_visible(v, selector, &d);
    if (is_valid) {
        bool is_code = d.segment.attributes & X86_SEGMENT_CODE;
        is_valid = for_write ? !is_code && (d.segment.attributes & X86_SEGMENT_WRITABLE)
                             : !is_code || (d.segment.attributes & X86_SEGMENT_READABLE);
    }
    set_zero_flag(v, is_valid);
    SOFT_NEXT(v, op);
}

/* LAR (variant 0) and LSL (1). */
static void lar_lsl(struct soft_vcpu *v, const struct soft_op *op)
{
    struct soft_descriptor d;
    bool wants_limit = op->variant;
    require_protected(v, op);
    uint16_t selector = op->flags & SOFT_OP_HAS_MEMORY
                            ? soft_load16(v, op, soft_linear(v, op, 2, false))
                            : SOFT_GET(16, op->src);
    bool is_valid = soft_descriptor_read(v, selector, &d) && is_visible(v, selector, &d);
    if (is_valid && !(d.segment.attributes & X86_SEGMENT_S)) {
        /* Types 1 2 3 9 11 (TSS, LDT); for LAR gates as well: 4 5 12. In long mode only the wide ones. */
        uint32_t legacy = wants_limit ? 0x0a0eu : 0x1a3eu;
        uint32_t types = soft_is_long(v) ? (wants_limit ? 0x0a04u : 0x1a04u) : legacy;
        is_valid = types >> soft_descriptor_type(&d) & 1;
    }
    set_zero_flag(v, is_valid);
    if (is_valid) {
        uint64_t value = wants_limit ? d.segment.limit : (d.low >> 32) & 0x00ffff00;
        soft_put_sized(v, op->dst, op->size, value);
    }
    SOFT_NEXT(v, op);
}

static void arpl(struct soft_vcpu *v, const struct soft_op *op)
{
    require_protected(v, op);
    uint16_t value;
    if (op->flags & SOFT_OP_HAS_MEMORY) {
        value = soft_load16(v, op, soft_linear(v, op, 2, false));
    } else {
        value = SOFT_GET(16, op->dst);
    }
    uint16_t rpl = SOFT_GET(16, op->src) & 3;
    bool is_raised = (value & 3) < rpl;
    if (is_raised) {
        value = (uint16_t)((value & ~3u) | rpl);
        if (op->flags & SOFT_OP_HAS_MEMORY) {
            /* Only now it is a write, as on CPUs of AMD. */
            soft_store16(v, op, soft_linear(v, op, 2, true), value);
        } else {
            SOFT_GET(16, op->dst) = value;
        }
    }
    set_zero_flag(v, is_raised);
    SOFT_NEXT(v, op);
}

static const struct {
    uint16_t id;
    bool variant; /* for the handler */
    soft_op_fn fn;
} control_handlers[] = {
    {X86_ID_SMSW, 0, smsw},        {X86_ID_LMSW, 0, lmsw},        {X86_ID_CLTS, 0, clts},
    {X86_ID_SGDT, 0, store_table}, {X86_ID_SIDT, 1, store_table}, {X86_ID_LGDT, 0, load_table},
    {X86_ID_LIDT, 1, load_table},  {X86_ID_SLDT, 0, sldt_str},    {X86_ID_STR, 1, sldt_str},
    {X86_ID_LLDT, 0, lldt},        {X86_ID_LTR, 0, ltr},          {X86_ID_VERR, 0, verify},
    {X86_ID_VERW, 1, verify},      {X86_ID_LAR, 0, lar_lsl},      {X86_ID_LSL, 1, lar_lsl},
    {X86_ID_ARPL, 0, arpl},
};

static bool prepare_control(const struct x86_insn *insn, struct soft_op *op, soft_op_fn from,
                            soft_op_fn to)
{
    if (soft_is_gpr(&insn->operand[0])) {
        op->dst = soft_reg_offset(&insn->operand[0]);
        op->src = insn->operand[1].reg;
        op->fn = from;
    } else {
        op->dst = insn->operand[0].reg;
        op->src = soft_reg_offset(&insn->operand[1]);
        op->fn = to;
    }
    return true;
}

bool soft_control_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    if (insn->id == X86_ID_MOV_CR) {
        return prepare_control(insn, out_op, mov_from_cr, mov_to_cr);
    }
    if (insn->id == X86_ID_MOV_DR) {
        return prepare_control(insn, out_op, mov_from_dr, mov_to_dr);
    }
    for (size_t i = 0; i < ARRAY_COUNT(control_handlers); i++) {
        if (control_handlers[i].id == insn->id) {
            soft_set_registers(out_op, insn);
            out_op->variant = control_handlers[i].variant;
            out_op->fn = control_handlers[i].fn;
            return true;
        }
    }
    return false;
}
