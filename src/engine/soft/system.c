/* System instructions: model-specific registers, ports, CPUID, time, HLT, the TLB. Control registers are in control.c. */
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/icount.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"

static void invlpg(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    uint64_t gva = soft_offset(v, op) + v->segment_base[op->segment];
    soft_tlb_flush_page(v, soft_is_long(v) ? gva : (uint32_t)gva);
    SOFT_NEXT(v, op);
}

static void invpcid(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t descriptor[2];
    if (!v->features.invpcid) {
        soft_raise(v, op, X86_UD);
    }
    soft_require_cpl0(v, op);
    uint64_t type = soft_get_sized(v, op->dst, soft_is_64(v) ? 8 : 4);
    soft_load_unchecked(v, op, soft_linear(v, op, 16, false), descriptor, sizeof(descriptor));
    if (type > 3 || (type < 2 && (descriptor[0] >> 12)) ||
        (type < 2 && descriptor[0] && !(v->cr4 & X86_CR4_PCIDE)) ||
        (type == 0 && !x86_is_canonical(descriptor[1]))) {
        soft_general_protection(v, op);
    }
    soft_space_invalidate(v, (unsigned)type, (uint16_t)descriptor[0], descriptor[1]);
    SOFT_NEXT(v, op);
}

static void privileged_nothing(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    SOFT_NEXT(v, op);
}

static void hlt(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    v->rip = soft_op_next_rip(v, op);
    v->activity = X86_ACTIVITY_HALTED;
    v->stats.halts++;
    soft_request(v, SOFT_REQUEST_STEP | (v->interrupt_waiting ? SOFT_REQUEST_INTERRUPT : 0));
}

static void cpuid(struct soft_vcpu *v, const struct soft_op *op)
{
    uint32_t regs[4], leaf = (uint32_t)v->gpr[X86_RAX], subleaf = (uint32_t)v->gpr[X86_RCX];
    x86_cpuid_query(&v->cpuid, leaf, subleaf, v->cr4, v->xcr0, v->apic_base, regs);
    v->cpuid_known[(leaf + subleaf) % SOFT_CPUID_KNOWN] = (struct soft_cpuid_known){
        leaf, subleaf, regs[0], regs[1], regs[2], regs[3], 0,
    };
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
        soft_general_protection(v, op);
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
    soft_general_protection(v, op);
}

static void rdmsr(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t value;
    soft_require_cpl0(v, op);
    if (!soft_msr_read(v, (uint32_t)v->gpr[X86_RCX], &value)) {
        soft_general_protection(v, op);
    }
    put_edx_eax(v, value);
    SOFT_NEXT(v, op);
}

static void wrmsr(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
    if (!soft_msr_write(v, (uint32_t)v->gpr[X86_RCX], get_edx_eax(v))) {
        soft_general_protection(v, op);
    }
    SOFT_NEXT(v, op);
}

static void swapgs(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_require_cpl0(v, op);
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
            soft_general_protection(v, op);
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
        soft_general_protection(v, op);
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

/* CPUs of Intel do not look at the upper bound if the index is below the lower one. */
static void check_lower_bound(struct soft_vcpu *v, const struct soft_op *op, int64_t index,
                              int64_t low)
{
    if (v->vm->is_intel && index < low) {
        soft_raise(v, op, X86_BR);
    }
}

/* Two accesses, one after the other: the first bound can fault for its page while the second is beyond the limit. */
static void bound(struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t offset = soft_offset(v, op);
    uint64_t first = soft_linear_at(v, op, op->segment, offset, op->size, false);
    int64_t low, high, index;
    if (op->size == 2) {
        index = (int16_t)SOFT_GET(16, op->dst);
        low = (int16_t)soft_load16(v, op, first);
        check_lower_bound(v, op, index, low);
        uint64_t second = soft_linear_at(v, op, op->segment, offset + 2, 2, false);
        high = (int16_t)soft_load16(v, op, second);
    } else {
        index = (int32_t)SOFT_GET(32, op->dst);
        low = (int32_t)soft_load32(v, op, first);
        check_lower_bound(v, op, index, low);
        uint64_t second = soft_linear_at(v, op, op->segment, offset + 4, 4, false);
        high = (int32_t)soft_load32(v, op, second);
    }
    if (index < low || index > high) {
        soft_raise(v, op, X86_BR);
    }
    SOFT_NEXT(v, op);
}

static void rdrand(struct soft_vcpu *v, const struct soft_op *op)
{
    unsigned long long value = 0;
    uint8_t ok = true;
    if (v->vm->icount.is_on) {
        value = soft_icount_random(v);
    } else if (op->variant) {
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
    {X86_ID_INVLPG, 0, invlpg},
    {X86_ID_INVPCID, 0, invpcid},
    {X86_ID_INVD, 0, privileged_nothing},
    {X86_ID_WBINVD, 0, privileged_nothing},
    {X86_ID_WBNOINVD, 0, privileged_nothing},
    {X86_ID_VMCALL, 0, soft_hypercall},
    {X86_ID_VMMCALL, 0, soft_hypercall},
    {X86_ID_HLT, 0, hlt},
    {X86_ID_CPUID, 0, cpuid},
    {X86_ID_RDTSC, 0, rdtsc},
    {X86_ID_RDTSCP, 1, rdtsc},
    {X86_ID_RDPID, 0, rdpid},
    {X86_ID_RDPMC, 0, rdpmc},
    {X86_ID_RDMSR, 0, rdmsr},
    {X86_ID_WRMSR, 0, wrmsr},
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
