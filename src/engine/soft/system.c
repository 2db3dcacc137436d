/* System instructions: control, debug and model-specific registers, descriptor tables, ports, CPUID, time, HLT. */
#include "engine/soft/system.h"
#include "engine/soft/breakpoint.h"

#include <string.h>
#include <x86intrin.h>

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/stack.h"
#include "engine/soft/mmu.h"

#define CR0_KNOWN                                                                                  \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static noreturn_fn void general_protection(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_raise_error(v, op, X86_GP, 0);
}

static void require_cpl0(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (v->cpl != 0) {
        general_protection(v, op);
    }
}

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
    (void)keeps; /* the TLB knows no PCIDs: it forgets more than it must */
    v->cr3 = value;
    soft_tlb_flush(v, false);
    return true;
}

static void mov_from_cr(struct soft_vcpu *v, const struct soft_op *op)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint64_t value = 0;
    require_cpl0(v, op);
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
    require_cpl0(v, op);
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
        if (is_valid && callbacks->apic_set_cr8) {
            callbacks->apic_set_cr8(callbacks->ctx, v->vcpu.index, (uint8_t)value);
            soft_request(v, SOFT_REQUEST_INTERRUPT);
        }
        break;
    }
    if (!is_valid) {
        general_protection(v, op);
    }
    v->rip = next;
}

static void check_dr(struct soft_vcpu *v, const struct soft_op *op, unsigned n)
{
    require_cpl0(v, op);
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
        general_protection(v, op);
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
        general_protection(v, op);
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
    require_cpl0(v, op);
    uint16_t value = source16(v, op);
    /* PE can be set, not cleared. */
    (void)soft_set_cr0(v, (v->cr0 & ~0xeull) | (value & 0xf));
    SOFT_NEXT(v, op);
}

static void clts(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
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
    require_cpl0(v, op);
    soft_load_unchecked(v, op, soft_linear(v, op, size, false), bytes, size);
    memcpy(&table.limit, bytes, 2);
    memcpy(&table.base, bytes + 2, 8);
    if (op->size == 2 && !soft_is_64(v)) {
        table.base &= 0xffffff;
    }
    if (soft_is_64(v) && !x86_is_canonical(table.base)) {
        general_protection(v, op);
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
    require_cpl0(v, op);
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
    require_cpl0(v, op);
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

static void invlpg(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
    uint64_t gva = soft_offset(v, op) + v->segment_base[op->segment];
    soft_tlb_flush_page(v, soft_is_long(v) ? gva : (uint32_t)gva);
    SOFT_NEXT(v, op);
}

/* There are no PCIDs in the TLB, so that all kinds but the first drop everything. */
static void invpcid(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t descriptor[2];
    if (!v->features.invpcid) {
        soft_raise(v, op, X86_UD);
    }
    require_cpl0(v, op);
    uint64_t type = soft_get_sized(v, op->dst, soft_is_64(v) ? 8 : 4);
    soft_load_unchecked(v, op, soft_linear(v, op, 16, false), descriptor, sizeof(descriptor));
    if (type > 3 || (type < 2 && (descriptor[0] >> 12)) ||
        (type == 0 && !x86_is_canonical(descriptor[1]))) {
        general_protection(v, op);
    }
    if (type == 0) {
        soft_tlb_flush_page(v, descriptor[1]);
    } else {
        soft_tlb_flush(v, type != 1);
    }
    SOFT_NEXT(v, op);
}

static void privileged_nothing(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
    SOFT_NEXT(v, op);
}

static void hlt(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
    v->rip = soft_op_next_rip(v, op);
    v->activity = X86_ACTIVITY_HALTED;
    v->stats.halts++;
    soft_request(v, SOFT_REQUEST_STEP | (v->interrupt_waiting ? SOFT_REQUEST_INTERRUPT : 0));
}

static void cpuid(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t regs[4];
    x86_cpuid_query(&v->cpuid, (uint32_t)v->gpr[X86_RAX], (uint32_t)v->gpr[X86_RCX], v->cr4,
                    v->xcr0, v->apic_base, regs);
    soft_put32(v, X86_RAX * 8, regs[0]);
    soft_put32(v, X86_RBX * 8, regs[1]);
    soft_put32(v, X86_RCX * 8, regs[2]);
    soft_put32(v, X86_RDX * 8, regs[3]);
    SOFT_NEXT(v, op);
}

static void put_edx_eax(struct soft_vcpu *v, uint64_t value)
{
    soft_put32(v, X86_RAX * 8, (uint32_t)value);
    soft_put32(v, X86_RDX * 8, (uint32_t)(value >> 32));
}

static uint64_t get_edx_eax(const struct soft_vcpu *v)
{
    return v->gpr[X86_RDX] << 32 | (uint32_t)v->gpr[X86_RAX];
}

/* variant: RDTSCP */
static void rdtsc(struct soft_vcpu *v, const struct soft_op *op)
{
    if (op->variant && !v->features.rdtscp) {
        soft_raise(v, op, X86_UD);
    }
    if (v->cpl != 0 && (v->cr4 & X86_CR4_TSD)) {
        general_protection(v, op);
    }
    put_edx_eax(v, soft_tsc(v));
    if (op->variant) {
        soft_put32(v, X86_RCX * 8, (uint32_t)v->tsc_aux);
    }
    SOFT_NEXT(v, op);
}

static void rdpid(struct soft_vcpu *v, const struct soft_op *op)
{
    if (!v->features.rdpid) {
        soft_raise(v, op, X86_UD);
    }
    soft_put64(v, op->dst, v->tsc_aux);
    SOFT_NEXT(v, op);
}

/* No counters exist. */
static void rdpmc(struct soft_vcpu *v, const struct soft_op *op)
{
    general_protection(v, op);
}

static void rdmsr(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value;
    require_cpl0(v, op);
    if (!soft_msr_read(v, (uint32_t)v->gpr[X86_RCX], &value)) {
        general_protection(v, op);
    }
    put_edx_eax(v, value);
    SOFT_NEXT(v, op);
}

static void wrmsr(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
    if (!soft_msr_write(v, (uint32_t)v->gpr[X86_RCX], get_edx_eax(v))) {
        general_protection(v, op);
    }
    SOFT_NEXT(v, op);
}

static void check_osxsave(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (!(v->cr4 & X86_CR4_OSXSAVE)) {
        soft_raise(v, op, X86_UD);
    }
}

/* XGETBV 1: components in use; all that are enabled is a valid answer. */
static void xgetbv(struct soft_vcpu *v, const struct soft_op *op)
{
    check_osxsave(v, op);
    if ((uint32_t)v->gpr[X86_RCX] > 1) {
        general_protection(v, op);
    }
    put_edx_eax(v, v->xcr0);
    SOFT_NEXT(v, op);
}

static void xsetbv(struct soft_vcpu *v, const struct soft_op *op)
{
    check_osxsave(v, op);
    require_cpl0(v, op);
    uint64_t value = get_edx_eax(v);
    uint64_t known = X86_XCR0_X87 | X86_XCR0_SSE | (v->features.avx ? X86_XCR0_AVX : 0);
    if ((uint32_t)v->gpr[X86_RCX] != 0 || (value & ~known) || !(value & X86_XCR0_X87) ||
        ((value & X86_XCR0_AVX) && !(value & X86_XCR0_SSE))) {
        general_protection(v, op);
    }
    v->xcr0 = value;
    SOFT_NEXT(v, op);
}

static void swapgs(struct soft_vcpu *v, const struct soft_op *op)
{
    require_cpl0(v, op);
    uint64_t base = v->segment[X86_GS].base;
    v->segment[X86_GS].base = v->kernel_gs_base;
    v->segment_base[X86_GS] = v->kernel_gs_base;
    v->kernel_gs_base = base;
    SOFT_NEXT(v, op);
}

/* RDFSBASE, WRFSBASE and those of GS: variant is the segment, imm whether it writes. */
static void fsgsbase(struct soft_vcpu *v, const struct soft_op *op)
{
    unsigned id = op->variant;
    if (!(v->cr4 & X86_CR4_FSGSBASE)) {
        soft_raise(v, op, X86_UD);
    }
    if (op->imm) {
        uint64_t base = soft_get_sized(v, op->dst, op->size);
        if (!x86_is_canonical(base)) {
            general_protection(v, op);
        }
        v->segment[id].base = base;
        v->segment_base[id] = base;
    } else {
        soft_put_sized(v, op->dst, op->size, v->segment[id].base);
    }
    SOFT_NEXT(v, op);
}

void soft_check_io(struct soft_vcpu *v, const struct soft_op *op, uint16_t port, uint32_t size)
{
    v->op = op;
    unsigned iopl = (v->flags & X86_FLAG_IOPL) >> 12;
    if (soft_is_protected(v) && (v->cpl > iopl || soft_is_v86(v)) &&
        !soft_task_allows_io(v, port, size)) {
        general_protection(v, op);
    }
}

uint32_t soft_port_read(struct soft_vcpu *v, uint16_t port, uint32_t size)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    v->stats.exits_pio++;
    soft_breakpoint_port(v, port, size);
    soft_leave_guest(v);
    uint32_t value = callbacks->pio_read
                         ? (uint32_t)callbacks->pio_read(callbacks->ctx, v->vcpu.index, port, size)
                         : UINT32_MAX;
    soft_enter_guest(v);
    return value;
}

void soft_port_write(struct soft_vcpu *v, uint16_t port, uint32_t size, uint32_t value)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    v->stats.exits_pio++;
    soft_breakpoint_port(v, port, size);
    soft_leave_guest(v);
    if (callbacks->pio_write) {
        callbacks->pio_write(callbacks->ctx, v->vcpu.index, port, size, value);
    }
    soft_enter_guest(v);
}

/* dst: is the port in DX; src: operand size. */
static void in(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t port = op->dst ? (uint16_t)v->gpr[X86_RDX] : (uint8_t)op->imm;
    soft_check_io(v, op, port, op->src);
    soft_put_sized(v, X86_RAX * 8, op->src, soft_port_read(v, port, op->src));
    SOFT_NEXT(v, op);
}

static void out(struct soft_vcpu *v, const struct soft_op *op)
{
    uint16_t port = op->dst ? (uint16_t)v->gpr[X86_RDX] : (uint8_t)op->imm;
    soft_check_io(v, op, port, op->src);
    soft_port_write(v, port, op->src, (uint32_t)soft_get_sized(v, X86_RAX * 8, op->src));
    SOFT_NEXT(v, op);
}

/* Two accesses, one after the other: the first bound can fault for its page while the second is beyond the limit. */
static void bound(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t offset = soft_offset(v, op);
    uint64_t first = soft_linear_at(v, op, op->segment, offset, op->size, false);
    int64_t low, high, index;
    if (op->size == 2) {
        low = (int16_t)soft_load16(v, op, first);
        uint64_t second = soft_linear_at(v, op, op->segment, offset + 2, 2, false);
        high = (int16_t)soft_load16(v, op, second);
        index = (int16_t)SOFT_GET(16, op->dst);
    } else {
        low = (int32_t)soft_load32(v, op, first);
        uint64_t second = soft_linear_at(v, op, op->segment, offset + 4, 4, false);
        high = (int32_t)soft_load32(v, op, second);
        index = (int32_t)SOFT_GET(32, op->dst);
    }
    if (index < low || index > high) {
        soft_raise(v, op, X86_BR);
    }
    SOFT_NEXT(v, op);
}

static void rdrand(struct soft_vcpu *v, const struct soft_op *op)
{
    unsigned long long value = 0;
    uint8_t ok;
    if (op->variant) {
        __asm__ volatile("rdseed %0; setc %1" : "=r"(value), "=q"(ok)::"cc");
    } else {
        __asm__ volatile("rdrand %0; setc %1" : "=r"(value), "=q"(ok)::"cc");
    }
    soft_put_sized(v, op->dst, op->size, ok ? value : 0);
    v->status = ok ? SOFT_STATUS_CF : 0;
    SOFT_NEXT(v, op);
}

static const struct {
    uint16_t id;
    bool variant; /* for the handler */
    soft_op_fn fn;
} system_handlers[] = {
    {X86_ID_SMSW, 0, smsw},
    {X86_ID_LMSW, 0, lmsw},
    {X86_ID_CLTS, 0, clts},
    {X86_ID_SGDT, 0, store_table},
    {X86_ID_SIDT, 1, store_table},
    {X86_ID_LGDT, 0, load_table},
    {X86_ID_LIDT, 1, load_table},
    {X86_ID_SLDT, 0, sldt_str},
    {X86_ID_STR, 1, sldt_str},
    {X86_ID_LLDT, 0, lldt},
    {X86_ID_LTR, 0, ltr},
    {X86_ID_VERR, 0, verify},
    {X86_ID_VERW, 1, verify},
    {X86_ID_LAR, 0, lar_lsl},
    {X86_ID_LSL, 1, lar_lsl},
    {X86_ID_ARPL, 0, arpl},
    {X86_ID_INVLPG, 0, invlpg},
    {X86_ID_INVPCID, 0, invpcid},
    {X86_ID_INVD, 0, privileged_nothing},
    {X86_ID_WBINVD, 0, privileged_nothing},
    {X86_ID_WBNOINVD, 0, privileged_nothing},
    {X86_ID_HLT, 0, hlt},
    {X86_ID_CPUID, 0, cpuid},
    {X86_ID_RDTSC, 0, rdtsc},
    {X86_ID_RDTSCP, 1, rdtsc},
    {X86_ID_RDPID, 0, rdpid},
    {X86_ID_RDPMC, 0, rdpmc},
    {X86_ID_RDMSR, 0, rdmsr},
    {X86_ID_WRMSR, 0, wrmsr},
    {X86_ID_XGETBV, 0, xgetbv},
    {X86_ID_XSETBV, 0, xsetbv},
    {X86_ID_SWAPGS, 0, swapgs},
    {X86_ID_BOUND, 0, bound},
    {X86_ID_RDRAND, 0, rdrand},
    {X86_ID_RDSEED, 1, rdrand},
};

static bool prepare_port(const struct x86_insn *insn, struct soft_op *op, bool is_in)
{
    const struct x86_operand *port = &insn->operand[is_in ? 1 : 0];
    op->dst = port->kind == X86_OPERAND_REG;
    op->src = (uint8_t)insn->operand[is_in ? 0 : 1].size_bytes;
    op->fn = is_in ? in : out;
    return true;
}

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

static bool prepare_base(const struct x86_insn *insn, struct soft_op *op, unsigned segment,
                         bool writes)
{
    op->dst = soft_reg_offset(&insn->operand[0]);
    op->size = (uint8_t)insn->operand[0].size_bytes; /* 66 does not make it 2 */
    op->variant = (uint8_t)segment;
    op->imm = writes;
    op->fn = fsgsbase;
    return true;
}

bool soft_system_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op)
{
    switch (insn->id) {
    case X86_ID_IN:
        return prepare_port(insn, out_op, true);
    case X86_ID_OUT:
        return prepare_port(insn, out_op, false);
    case X86_ID_MOV_CR:
        return prepare_control(insn, out_op, mov_from_cr, mov_to_cr);
    case X86_ID_MOV_DR:
        return prepare_control(insn, out_op, mov_from_dr, mov_to_dr);
    case X86_ID_RDFSBASE:
        return prepare_base(insn, out_op, X86_FS, false);
    case X86_ID_RDGSBASE:
        return prepare_base(insn, out_op, X86_GS, false);
    case X86_ID_WRFSBASE:
        return prepare_base(insn, out_op, X86_FS, true);
    case X86_ID_WRGSBASE:
        return prepare_base(insn, out_op, X86_GS, true);
    default:
        break;
    }
    for (size_t i = 0; i < ARRAY_COUNT(system_handlers); i++) {
        if (system_handlers[i].id == insn->id) {
            soft_set_registers(out_op, insn);
            out_op->variant = system_handlers[i].variant;
            out_op->fn = system_handlers[i].fn;
            return true;
        }
    }
    return false;
}
