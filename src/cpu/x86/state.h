/* The complete state of one x86 vCPU in terms of the architecture. Every engine converts to and from it and
 * the save format is defined on it alone, so that a VM saved on one engine resumes on another.
 *
 * Sources: Intel SDM volume 3 and AMD APM volume 2; numbers of paravirtual MSRs: Linux
 * Documentation/virt/kvm/x86/msr.rst. */
#ifndef CPU_X86_STATE_H
#define CPU_X86_STATE_H

#include <stdbool.h>
#include <stdint.h>

/* Index of a general register, as instructions encode it. */
enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    X86_GPR_COUNT,
};

/* Index of a segment register, as instructions encode it. */
enum x86_segment_id {
    X86_ES,
    X86_CS,
    X86_SS,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_SEGMENT_COUNT,
};

/* A segment register with its hidden part. */
struct x86_segment {
    uint64_t base;
    uint32_t
        limit; /* in bytes, after the granularity is applied: offset 'limit' is the last valid one */
    uint16_t selector;
    uint16_t attributes; /* X86_SEGMENT_* below; the bits of descriptor bytes 5 and 6 */
};

/* Attributes, in the layout of descriptor bits 40..55 (Intel SDM 3A figure 3-8; limit 19:16 is zero here):
 *   15 14 13  12   11..8   7  6:5  4  3:0
 *    G D/B L  AVL    0     P  DPL  S  type      plus bit 16 of the VMX format as X86_SEGMENT_UNUSABLE */
#define X86_SEGMENT_TYPE     0x000fu
#define X86_SEGMENT_ACCESSED 0x0001u
#define X86_SEGMENT_WRITABLE 0x0002u /* data */
#define X86_SEGMENT_READABLE 0x0002u /* code */
#define X86_SEGMENT_DOWN     0x0004u /* data: expands down */
#define X86_SEGMENT_CONFORM  0x0004u /* code: conforming */
#define X86_SEGMENT_CODE     0x0008u
#define X86_SEGMENT_S        0x0010u /* code or data, not system */
#define X86_SEGMENT_DPL      0x0060u
#define X86_SEGMENT_P        0x0080u
#define X86_SEGMENT_UNUSABLE 0x0100u /* loaded with a null selector, or never loaded */
#define X86_SEGMENT_AVL      0x1000u
#define X86_SEGMENT_L        0x2000u
#define X86_SEGMENT_DB       0x4000u
#define X86_SEGMENT_G        0x8000u

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

/* RFLAGS */
#define X86_FLAG_CF   (1u << 0)
#define X86_FLAG_ONE  (1u << 1) /* always set */
#define X86_FLAG_PF   (1u << 2)
#define X86_FLAG_AF   (1u << 4)
#define X86_FLAG_ZF   (1u << 6)
#define X86_FLAG_SF   (1u << 7)
#define X86_FLAG_TF   (1u << 8)
#define X86_FLAG_IF   (1u << 9)
#define X86_FLAG_DF   (1u << 10)
#define X86_FLAG_OF   (1u << 11)
#define X86_FLAG_IOPL (3u << 12)
#define X86_FLAG_NT   (1u << 14)
#define X86_FLAG_RF   (1u << 16)
#define X86_FLAG_VM   (1u << 17)
#define X86_FLAG_AC   (1u << 18)
#define X86_FLAG_VIF  (1u << 19)
#define X86_FLAG_VIP  (1u << 20)
#define X86_FLAG_ID   (1u << 21)
#define X86_FLAGS_STATUS                                                                           \
    (X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)

/* CR0, CR4, EFER */
#define X86_CR0_PE (1u << 0)
#define X86_CR0_MP (1u << 1)
#define X86_CR0_EM (1u << 2)
#define X86_CR0_TS (1u << 3)
#define X86_CR0_ET (1u << 4)
#define X86_CR0_NE (1u << 5)
#define X86_CR0_WP (1u << 16)
#define X86_CR0_AM (1u << 18)
#define X86_CR0_NW (1u << 29)
#define X86_CR0_CD (1u << 30)
#define X86_CR0_PG (1u << 31)

#define X86_CR4_VME        (1u << 0)
#define X86_CR4_PVI        (1u << 1)
#define X86_CR4_TSD        (1u << 2)
#define X86_CR4_DE         (1u << 3)
#define X86_CR4_PSE        (1u << 4)
#define X86_CR4_PAE        (1u << 5)
#define X86_CR4_MCE        (1u << 6)
#define X86_CR4_PGE        (1u << 7)
#define X86_CR4_PCE        (1u << 8)
#define X86_CR4_OSFXSR     (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP       (1u << 11)
#define X86_CR4_LA57       (1u << 12)
#define X86_CR4_VMXE       (1u << 13)
#define X86_CR4_FSGSBASE   (1u << 16)
#define X86_CR4_PCIDE      (1u << 17)
#define X86_CR4_OSXSAVE    (1u << 18)
#define X86_CR4_SMEP       (1u << 20)
#define X86_CR4_SMAP       (1u << 21)
#define X86_CR4_PKE        (1u << 22)

#define X86_EFER_SCE    (1u << 0)
#define X86_EFER_LME    (1u << 8)
#define X86_EFER_LMA    (1u << 10)
#define X86_EFER_NXE    (1u << 11)
#define X86_EFER_SVME   (1u << 12)
#define X86_EFER_FFXSR  (1u << 14)
#define X86_EFER_AIBRSE (1u << 21) /* automatic IBRS */

/* Exception vectors (Intel SDM 3A table 6-1). */
enum x86_exception {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS_FAULT = 12,
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC = 17,
    X86_MC = 18,
    X86_XM = 19,
};

/* Error code of #PF (Intel SDM 3A 4.7). */
#define X86_PF_PRESENT (1u << 0)
#define X86_PF_WRITE   (1u << 1)
#define X86_PF_USER    (1u << 2)
#define X86_PF_RSVD    (1u << 3)
#define X86_PF_FETCH   (1u << 4)

/* Extended state components (XCR0 bits). */
#define X86_XCR0_X87 (1u << 0)
#define X86_XCR0_SSE (1u << 1)
#define X86_XCR0_AVX (1u << 2)

/* Area in the standard (not compacted) XSAVE format, Intel SDM 1 13.4: 512 bytes legacy region, 64 bytes header,
 * then AVX state at its architectural offset 576. Large enough for AVX-512 and PKRU at their offsets. */
#define X86_XSAVE_SIZE       4096
#define X86_XSAVE_HEADER     512
#define X86_XSAVE_AVX_OFFSET 576

/* What the vCPU is doing (as KVM's mp_state). */
enum x86_activity {
    X86_ACTIVITY_RUNNING,
    X86_ACTIVITY_HALTED,        /* HLT: an interrupt, NMI or INIT wakes it */
    X86_ACTIVITY_WAIT_FOR_INIT, /* an application processor after reset */
    X86_ACTIVITY_WAIT_FOR_SIPI, /* after INIT */
    X86_ACTIVITY_SHUTDOWN,      /* triple fault */
};

/* The local APIC's registers: the 4 KiB page as software sees it at the APIC base (SDM 3A 10.4.1), one 32-bit
 * register each 16 bytes. In x2APIC mode the ID stands in full at 0x20 and ICR's high half at 0x310. */
#define X86_LAPIC_SIZE 1024 /* bytes 0..0x3ff hold every register */

struct x86_state {
    uint64_t gpr[X86_GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;

    struct x86_segment segment[X86_SEGMENT_COUNT];
    struct x86_segment ldtr;
    struct x86_segment tr;
    struct x86_table gdtr;
    struct x86_table idtr;

    uint64_t cr0, cr2, cr3, cr4;
    uint64_t cr8; /* task priority, bits 3:0; the same as the APIC's TPR 7:4 */
    uint64_t xcr0;
    uint64_t efer;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdpte[4]; /* PAE paging: loaded with CR3, used until the next load */

    uint8_t xsave[X86_XSAVE_SIZE] __attribute__((aligned(64)));

    /* MSRs by name */
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat;
    uint64_t tsc; /* the guest's counter at the moment of the read */
    uint64_t tsc_aux, tsc_adjust, tsc_deadline;
    uint64_t apic_base;
    uint64_t misc_enable, spec_ctrl, xss;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8],
        mtrr_mask[8]; /* 11: 64K, 2 x 16K, 8 x 4K */
    uint64_t mcg_status, mcg_cap;
    /* Paravirtual MSRs, 0 when the guest has not set them (poll control: 1). */
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_async_pf, kvm_async_pf_int,
        kvm_pv_eoi, kvm_poll_control;
    /* Hyper-V's; the VM has one of each, so all vCPUs have the same. */
    uint64_t hyperv_guest_os_id, hyperv_hypercall, hyperv_reference_tsc;
    uint64_t hyperv_vp_assist; /* each vCPU's own */

    /* Events between instructions */
    bool exception_pending; /* an exception that was raised and not yet delivered */
    bool exception_has_error;
    uint8_t exception_vector;
    uint32_t exception_error;
    bool interrupt_injected; /* taken from the interrupt controller, not yet delivered */
    bool interrupt_is_soft;
    uint8_t interrupt_vector;
    bool nmi_pending;
    bool nmi_injected;
    bool nmi_masked; /* until IRET */
    bool interrupt_shadow_sti;
    bool interrupt_shadow_mov_ss;
    bool sipi_pending;
    uint8_t sipi_vector;
    bool pv_unhalted; /* kicked by KVM_HC_KICK_CPU: the next HLT does not wait */
    enum x86_activity activity;

    uint8_t lapic[X86_LAPIC_SIZE]; /* from whoever models the APIC: the engine or device/irqchip */
};

/* The state after power-up, RESET or (is_init) INIT: SDM 3A table 9-1. INIT keeps the extended state, the MSRs, CR0's
 * CD and NW, the TSC. 'is_bsp' goes into the APIC base and makes it run. The lapic page is left zero. */
void x86_state_reset(struct x86_state *state, bool is_bsp, bool is_init);

/* MSR numbers. */
#define X86_MSR_TSC                   0x10
#define X86_MSR_APIC_BASE             0x1b
#define X86_MSR_FEATURE_CONTROL       0x3a
#define X86_MSR_TSC_ADJUST            0x3b
#define X86_MSR_SPEC_CTRL             0x48
#define X86_MSR_PRED_CMD              0x49
#define X86_MSR_BIOS_SIGN_ID          0x8b
#define X86_MSR_MTRRCAP               0xfe
#define X86_MSR_ARCH_CAPABILITIES     0x10a
#define X86_MSR_SYSENTER_CS           0x174
#define X86_MSR_SYSENTER_ESP          0x175
#define X86_MSR_SYSENTER_EIP          0x176
#define X86_MSR_MCG_CAP               0x179
#define X86_MSR_MCG_STATUS            0x17a
#define X86_MSR_MISC_ENABLE           0x1a0
#define X86_MSR_MTRR_BASE0            0x200 /* base and mask in turn, 8 pairs */
#define X86_MSR_MTRR_FIX64K           0x250
#define X86_MSR_MTRR_FIX16K           0x258 /* 2 */
#define X86_MSR_MTRR_FIX4K            0x268 /* 8 */
#define X86_MSR_PAT                   0x277
#define X86_MSR_MTRR_DEF_TYPE         0x2ff
#define X86_MSR_TSC_DEADLINE          0x6e0
#define X86_MSR_X2APIC                0x800 /* to 0x8ff */
#define X86_MSR_XSS                   0xda0
#define X86_MSR_EFER                  0xc0000080
#define X86_MSR_STAR                  0xc0000081
#define X86_MSR_LSTAR                 0xc0000082
#define X86_MSR_CSTAR                 0xc0000083
#define X86_MSR_SFMASK                0xc0000084
#define X86_MSR_FS_BASE               0xc0000100
#define X86_MSR_GS_BASE               0xc0000101
#define X86_MSR_KERNEL_GS_BASE        0xc0000102
#define X86_MSR_TSC_AUX               0xc0000103
#define X86_MSR_HYPERV_GUEST_OS_ID    0x40000000
#define X86_MSR_HYPERV_HYPERCALL      0x40000001
#define X86_MSR_HYPERV_VP_INDEX       0x40000002
#define X86_MSR_HYPERV_TIME_REF_COUNT 0x40000020
#define X86_MSR_HYPERV_REFERENCE_TSC  0x40000021
#define X86_MSR_HYPERV_TSC_FREQUENCY  0x40000022
#define X86_MSR_HYPERV_APIC_FREQUENCY 0x40000023
#define X86_MSR_HYPERV_VP_ASSIST      0x40000073
#define X86_MSR_KVM_WALL_CLOCK        0x4b564d00
#define X86_MSR_KVM_SYSTEM_TIME       0x4b564d01
#define X86_MSR_KVM_ASYNC_PF_EN       0x4b564d02
#define X86_MSR_KVM_STEAL_TIME        0x4b564d03
#define X86_MSR_KVM_PV_EOI_EN         0x4b564d04
#define X86_MSR_KVM_POLL_CONTROL      0x4b564d05
#define X86_MSR_KVM_ASYNC_PF_INT      0x4b564d06
#define X86_MSR_KVM_ASYNC_PF_ACK      0x4b564d07

#define X86_APIC_BASE_BSP    (1u << 8)
#define X86_APIC_BASE_X2APIC (1u << 10)
#define X86_APIC_BASE_ENABLE (1u << 11)
#define X86_APIC_DEFAULT_GPA 0xfee00000u

#endif
