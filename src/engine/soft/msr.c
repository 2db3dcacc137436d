/* Model-specific registers: unknown ones and reserved bits give #GP. */
#include "base/core/bits.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define MTRR_COUNT 8u
#define MTRR_CAP   (MTRR_COUNT | 0x500u) /* fixed ranges, write combining */
/* What a guest is to leave away, as the bits of AMD's CPUs in cpuid.c: RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO,
 * MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO */
#define ARCH_CAPABILITIES                                                                          \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) |  \
     BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))

#define SPEC_CTRL_BHI_DIS_S BIT(10)

#define MSR_PLATFORM_ID    0x17u
#define MSR_SMI_COUNT      0x34u
#define MSR_PLATFORM_INFO  0xceu
#define MSR_MCG_CTL        0x17bu
#define MSR_MC0_CTL        0x400u
#define MSR_MC_END         0x480u
#define MSR_K8_SYSCFG      0xc0010010u
#define MSR_K7_HWCR        0xc0010015u
#define HWCR_TSC_AT_P0     BIT(24) /* what Linux wants to see of an invariant TSC */
#define MSR_K8_INT_PENDING 0xc0010055u
#define MSR_AMD_NB_CFG     0xc001001fu
#define MSR_AMD_DE_CFG     0xc0011029u
#define MSR_K7_EVNTSEL0    0xc0010000u
#define MSR_K7_PERFCTR3    0xc0010007u

/* Fixed MTRRs in the order of struct x86_state, or -1. */
static int fixed_index(uint32_t msr)
{
    if (msr == X86_MSR_MTRR_FIX64K) {
        return 0;
    }
    if (msr == X86_MSR_MTRR_FIX16K || msr == X86_MSR_MTRR_FIX16K + 1) {
        return (int)(1 + msr - X86_MSR_MTRR_FIX16K);
    }
    if (msr >= X86_MSR_MTRR_FIX4K && msr < X86_MSR_MTRR_FIX4K + 8) {
        return (int)(3 + msr - X86_MSR_MTRR_FIX4K);
    }
    return -1;
}

static bool is_memory_type(uint64_t type)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

/* The MSRs that are plain storage: where, and which bits may be set. */
static uint64_t *plain_msr(struct soft_vcpu *v, uint32_t msr, uint64_t *out_mask)
{
    int fixed = fixed_index(msr);
    *out_mask = UINT64_MAX;
    if (fixed >= 0) {
        return &v->mtrr_fixed[fixed];
    }
    if (msr >= X86_MSR_MTRR_BASE0 && msr < X86_MSR_MTRR_BASE0 + 2 * MTRR_COUNT) {
        unsigned n = (msr - X86_MSR_MTRR_BASE0) / 2;
        uint64_t address = (1ull << v->physical_bits) - 4096;
        bool is_mask = msr & 1;
        *out_mask = address | (is_mask ? 0x800 : 0xff);
        return is_mask ? &v->mtrr_mask[n] : &v->mtrr_base[n];
    }
    switch (msr) {
    case X86_MSR_SYSENTER_CS:
        *out_mask = UINT32_MAX;
        return &v->sysenter_cs;
    case X86_MSR_SYSENTER_ESP:
        return &v->sysenter_esp;
    case X86_MSR_SYSENTER_EIP:
        return &v->sysenter_eip;
    case X86_MSR_STAR:
        return &v->star;
    case X86_MSR_LSTAR:
        return &v->lstar;
    case X86_MSR_CSTAR:
        return &v->cstar;
    case X86_MSR_SFMASK:
        *out_mask = UINT32_MAX;
        return &v->sfmask;
    case X86_MSR_KERNEL_GS_BASE:
        return &v->kernel_gs_base;
    case X86_MSR_FS_BASE:
        return &v->segment[X86_FS].base;
    case X86_MSR_GS_BASE:
        return &v->segment[X86_GS].base;
    case X86_MSR_TSC_AUX:
        *out_mask = UINT32_MAX;
        return v->features.rdtscp ? &v->tsc_aux : NULL;
    case X86_MSR_MTRR_DEF_TYPE:
        *out_mask = 0xcff;
        return &v->mtrr_def_type;
    case X86_MSR_MISC_ENABLE:
        return &v->misc_enable;
    case X86_MSR_SPEC_CTRL:
        *out_mask = 7 | (v->features.bhi_ctrl ? SPEC_CTRL_BHI_DIS_S : 0);
        return v->features.spec_ctrl ? &v->spec_ctrl : NULL;
    case X86_MSR_MCG_STATUS:
        return &v->mcg_status;
    default:
        return NULL;
    }
}

/* Read as zero, writes without effect: what Linux touches on the vendor's CPUs without asking. */
static bool is_ignored(const struct soft_vcpu *v, uint32_t msr)
{
    if (msr >= MSR_MC0_CTL && msr < MSR_MC_END) {
        return true;
    }
    if (msr == X86_MSR_BIOS_SIGN_ID || msr == MSR_PLATFORM_ID || msr == MSR_SMI_COUNT ||
        msr == MSR_PLATFORM_INFO || msr == MSR_MCG_CTL || msr == X86_MSR_FEATURE_CONTROL) {
        return true;
    }
    return !v->vm->is_intel &&
           (msr == MSR_K8_SYSCFG || msr == MSR_K7_HWCR || msr == MSR_K8_INT_PENDING ||
            msr == MSR_AMD_NB_CFG || msr == MSR_AMD_DE_CFG ||
            (msr >= MSR_K7_EVNTSEL0 && msr <= MSR_K7_PERFCTR3));
}

static bool is_apic_msr(uint32_t msr)
{
    return msr == X86_MSR_APIC_BASE || msr == X86_MSR_TSC_DEADLINE ||
           (msr >= X86_MSR_X2APIC && msr < X86_MSR_X2APIC + 0x100);
}

static bool is_hyperv_msr(uint32_t msr)
{
    return msr >= X86_MSR_HYPERV_GUEST_OS_ID && msr <= X86_MSR_HYPERV_VP_ASSIST;
}

bool soft_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint64_t mask;
    const uint64_t *plain = plain_msr(v, msr, &mask);
    if (plain) {
        *out_value = *plain;
        return true;
    }
    if (is_apic_msr(msr)) {
        soft_sync_apic(v);
        if (callbacks->apic_msr_read) {
            return callbacks->apic_msr_read(callbacks->ctx, v->vcpu.index, msr, out_value);
        }
        *out_value = v->apic_base;
        return msr == X86_MSR_APIC_BASE;
    }
    *out_value = 0;
    if (is_hyperv_msr(msr)) {
        return soft_hyperv_msr_read(v, msr, out_value);
    }
    switch (msr) {
    case X86_MSR_TSC:
        *out_value = soft_tsc(v);
        return true;
    case X86_MSR_TSC_ADJUST:
        *out_value = v->tsc_adjust;
        return true;
    case X86_MSR_EFER:
        *out_value = v->efer;
        return true;
    case X86_MSR_PAT:
        *out_value = v->pat;
        return true;
    case X86_MSR_MTRRCAP:
        *out_value = MTRR_CAP;
        return true;
    case X86_MSR_MCG_CAP:
        *out_value = v->mcg_cap;
        return true;
    case X86_MSR_ARCH_CAPABILITIES:
        *out_value = ARCH_CAPABILITIES;
        return v->features.arch_capabilities;
    case X86_MSR_XSS:
        *out_value = v->xss;
        return v->features.xsave;
    case MSR_K7_HWCR:
        *out_value = HWCR_TSC_AT_P0;
        return !v->vm->is_intel;
    case X86_MSR_KVM_SYSTEM_TIME:
    case 0x12:
        *out_value = v->kvm_system_time;
        return true;
    case X86_MSR_KVM_WALL_CLOCK:
    case 0x11:
        *out_value = v->kvm_wall_clock;
        return true;
    default:
        return is_ignored(v, msr) || soft_paravirt_msr_read(v, msr, out_value);
    }
}

static bool write_efer(struct soft_vcpu *v, uint64_t value)
{
    uint64_t allowed =
        X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | (v->features.ffxsr ? X86_EFER_FFXSR : 0) |
        (v->features.nx ? X86_EFER_NXE : 0) | (v->features.automatic_ibrs ? X86_EFER_AIBRSE : 0);
    if (value & ~allowed) {
        return false;
    }
    if ((v->cr0 & X86_CR0_PG) && ((v->efer ^ value) & X86_EFER_LME)) {
        return false;
    }
    v->efer = (value & ~(uint64_t)X86_EFER_LMA) | (v->efer & X86_EFER_LMA);
    soft_tlb_flush(v, true);
    return true;
}

static bool write_pat(struct soft_vcpu *v, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t type = (value >> (i * 8)) & 0xff;
        if (!is_memory_type(type) && type != 7) {
            return false;
        }
    }
    v->pat = value;
    return true;
}

/* Is 'value' possible in a plain MSR with more rules than reserved bits? */
static bool is_valid(uint32_t msr, uint64_t value)
{
    switch (msr) {
    case X86_MSR_FS_BASE:
    case X86_MSR_GS_BASE:
    case X86_MSR_KERNEL_GS_BASE:
    case X86_MSR_LSTAR:
    case X86_MSR_CSTAR:
    case X86_MSR_SYSENTER_ESP:
    case X86_MSR_SYSENTER_EIP:
        return x86_is_canonical(value);
    case X86_MSR_MTRR_DEF_TYPE:
        return is_memory_type(value & 0xff);
    default:
        break;
    }
    if (msr >= X86_MSR_MTRR_BASE0 && msr < X86_MSR_MTRR_BASE0 + 2 * MTRR_COUNT) {
        return (msr & 1) || is_memory_type(value & 0xff);
    }
    if (fixed_index(msr) >= 0) {
        for (unsigned i = 0; i < 8; i++) {
            if (!is_memory_type((value >> (i * 8)) & 0xff)) {
                return false;
            }
        }
    }
    return true;
}

bool soft_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint64_t mask;
    uint64_t *plain = plain_msr(v, msr, &mask);
    if (plain) {
        if ((value & ~mask) || !is_valid(msr, value)) {
            return false;
        }
        *plain = value;
        if (msr == X86_MSR_FS_BASE || msr == X86_MSR_GS_BASE) {
            soft_update_mode(v);
        }
        return true;
    }
    if (is_apic_msr(msr)) {
        soft_sync_apic(v);
        if (!callbacks->apic_msr_write ||
            !callbacks->apic_msr_write(callbacks->ctx, v->vcpu.index, msr, value)) {
            return false;
        }
        if (msr == X86_MSR_APIC_BASE) {
            v->apic_base = value;
            soft_cpuid_forget(v);
        }
        return true;
    }
    if (is_hyperv_msr(msr)) {
        return soft_hyperv_msr_write(v, msr, value);
    }
    switch (msr) {
    case X86_MSR_TSC: {
        uint64_t delta = value - soft_tsc(v);
        atomic_fetch_add(&v->tsc_offset, delta);
        v->tsc_adjust += delta;
        return true;
    }
    case X86_MSR_TSC_ADJUST:
        atomic_fetch_add(&v->tsc_offset, value - v->tsc_adjust);
        v->tsc_adjust = value;
        return true;
    case X86_MSR_EFER:
        return write_efer(v, value);
    case X86_MSR_PAT:
        return write_pat(v, value);
    case X86_MSR_XSS:
        return v->features.xsave && value == 0;
    case X86_MSR_PRED_CMD:
        return v->features.spec_ctrl && !(value & ~1ull);
    case X86_MSR_KVM_SYSTEM_TIME:
    case 0x12:
        v->kvm_system_time = value;
        soft_clock_set_system_time(v, value);
        return true;
    case X86_MSR_KVM_WALL_CLOCK:
    case 0x11:
        v->kvm_wall_clock = value;
        soft_clock_write_wall_clock(v, value);
        return true;
    default:
        return is_ignored(v, msr) || soft_paravirt_msr_write(v, msr, value);
    }
}
