/* A vCPU's registers from and to their canonical form. The order of writing matters and stands in kvm_vcpu_set_state. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "cpu/x86/hypervisor.h"
#include "cpu/x86/state_check.h"
#include "engine/kvm/kvm_internal.h"

_Static_assert(sizeof(struct kvm_xsave) == X86_XSAVE_SIZE, "one form of the XSAVE area");
_Static_assert(sizeof(struct kvm_lapic_state) == X86_LAPIC_SIZE, "one form of the APIC page");

/* The local APIC's registers (SDM 3A table 10-1). */
#define LAPIC_ID      0x20
#define LAPIC_VERSION 0x30
#define LAPIC_DFR     0xe0
#define LAPIC_SVR     0xf0
#define LAPIC_CMCI    0x2f0
#define LAPIC_TIMER   0x320
#define LAPIC_LVT_END 0x370

struct msr_place {
    uint32_t index;
    uint32_t count;
    size_t offset; /* in x86_state */
    uint32_t step; /* between numbers, where count > 1 */
};

/* In the order of writing: Hyper-V's hypercall page needs a guest that has told its name, async page faults are switched on
 * last, with their vector known. TSC_DEADLINE is not here: it is armed after TSC and APIC. */
static const struct msr_place msr_places[] = {
    {X86_MSR_STAR, 1, offsetof(struct x86_state, star), 1},
    {X86_MSR_LSTAR, 1, offsetof(struct x86_state, lstar), 1},
    {X86_MSR_CSTAR, 1, offsetof(struct x86_state, cstar), 1},
    {X86_MSR_SFMASK, 1, offsetof(struct x86_state, sfmask), 1},
    {X86_MSR_KERNEL_GS_BASE, 1, offsetof(struct x86_state, kernel_gs_base), 1},
    {X86_MSR_SYSENTER_CS, 1, offsetof(struct x86_state, sysenter_cs), 1},
    {X86_MSR_SYSENTER_ESP, 1, offsetof(struct x86_state, sysenter_esp), 1},
    {X86_MSR_SYSENTER_EIP, 1, offsetof(struct x86_state, sysenter_eip), 1},
    {X86_MSR_PAT, 1, offsetof(struct x86_state, pat), 1},
    {X86_MSR_TSC, 1, offsetof(struct x86_state, tsc), 1},
    {X86_MSR_TSC_AUX, 1, offsetof(struct x86_state, tsc_aux), 1},
    {X86_MSR_TSC_ADJUST, 1, offsetof(struct x86_state, tsc_adjust), 1},
    {X86_MSR_MISC_ENABLE, 1, offsetof(struct x86_state, misc_enable), 1},
    {X86_MSR_SPEC_CTRL, 1, offsetof(struct x86_state, spec_ctrl), 1},
    {X86_MSR_XSS, 1, offsetof(struct x86_state, xss), 1},
    {X86_MSR_MTRR_DEF_TYPE, 1, offsetof(struct x86_state, mtrr_def_type), 1},
    {X86_MSR_MTRR_FIX64K, 1, offsetof(struct x86_state, mtrr_fixed[0]), 1},
    {X86_MSR_MTRR_FIX16K, 2, offsetof(struct x86_state, mtrr_fixed[1]), 1},
    {X86_MSR_MTRR_FIX4K, 8, offsetof(struct x86_state, mtrr_fixed[3]), 1},
    {X86_MSR_MTRR_BASE0, 8, offsetof(struct x86_state, mtrr_base), 2},
    {X86_MSR_MTRR_BASE0 + 1, 8, offsetof(struct x86_state, mtrr_mask), 2},
    {X86_MSR_MCG_STATUS, 1, offsetof(struct x86_state, mcg_status), 1},
    {X86_MSR_HYPERV_GUEST_OS_ID, 1, offsetof(struct x86_state, hyperv_guest_os_id), 1},
    {X86_MSR_HYPERV_HYPERCALL, 1, offsetof(struct x86_state, hyperv_hypercall), 1},
    {X86_MSR_HYPERV_REFERENCE_TSC, 1, offsetof(struct x86_state, hyperv_reference_tsc), 1},
    {X86_MSR_HYPERV_VP_ASSIST, 1, offsetof(struct x86_state, hyperv_vp_assist), 1},
    {X86_MSR_KVM_SYSTEM_TIME, 1, offsetof(struct x86_state, kvm_system_time), 1},
    {X86_MSR_KVM_WALL_CLOCK, 1, offsetof(struct x86_state, kvm_wall_clock), 1},
    {X86_MSR_KVM_STEAL_TIME, 1, offsetof(struct x86_state, kvm_steal_time), 1},
    {X86_MSR_KVM_PV_EOI_EN, 1, offsetof(struct x86_state, kvm_pv_eoi), 1},
    {X86_MSR_KVM_POLL_CONTROL, 1, offsetof(struct x86_state, kvm_poll_control), 1},
    {X86_MSR_KVM_ASYNC_PF_INT, 1, offsetof(struct x86_state, kvm_async_pf_int), 1},
    {X86_MSR_KVM_ASYNC_PF_EN, 1, offsetof(struct x86_state, kvm_async_pf), 1},
};

/* --- segments and special registers --- */

static struct kvm_segment segment_to_kvm(const struct x86_segment *from)
{
    return (struct kvm_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .type = from->attributes & X86_SEGMENT_TYPE,
        .s = FIELD(from->attributes, 4, 4),
        .dpl = FIELD(from->attributes, 6, 5),
        .present = FIELD(from->attributes, 7, 7),
        .unusable = FIELD(from->attributes, 8, 8),
        .avl = FIELD(from->attributes, 12, 12),
        .l = FIELD(from->attributes, 13, 13),
        .db = FIELD(from->attributes, 14, 14),
        .g = FIELD(from->attributes, 15, 15),
    };
}

static struct x86_segment segment_from_kvm(const struct kvm_segment *from)
{
    return (struct x86_segment){
        .base = from->base,
        .limit = from->limit,
        .selector = from->selector,
        .attributes = (uint16_t)((from->type & 15) | (from->s & 1) << 4 | (from->dpl & 3) << 5 |
                                 (from->present & 1) << 7 | (from->unusable & 1) << 8 |
                                 (from->avl & 1) << 12 | (from->l & 1) << 13 |
                                 (from->db & 1) << 14 | (from->g & 1) << 15),
    };
}

/* kvm_sregs and kvm_sregs2 share these members; both are written through macros over the names. */
#define SREGS_FROM_STATE(to, state)                                                                \
    do {                                                                                           \
        (to)->cs = segment_to_kvm(&(state)->segment[X86_CS]);                                      \
        (to)->ds = segment_to_kvm(&(state)->segment[X86_DS]);                                      \
        (to)->es = segment_to_kvm(&(state)->segment[X86_ES]);                                      \
        (to)->fs = segment_to_kvm(&(state)->segment[X86_FS]);                                      \
        (to)->gs = segment_to_kvm(&(state)->segment[X86_GS]);                                      \
        (to)->ss = segment_to_kvm(&(state)->segment[X86_SS]);                                      \
        (to)->tr = segment_to_kvm(&(state)->tr);                                                   \
        (to)->ldt = segment_to_kvm(&(state)->ldtr);                                                \
        (to)->gdt.base = (state)->gdtr.base;                                                       \
        (to)->gdt.limit = (state)->gdtr.limit;                                                     \
        (to)->idt.base = (state)->idtr.base;                                                       \
        (to)->idt.limit = (state)->idtr.limit;                                                     \
        (to)->cr0 = (state)->cr0;                                                                  \
        (to)->cr2 = (state)->cr2;                                                                  \
        (to)->cr3 = (state)->cr3;                                                                  \
        (to)->cr4 = (state)->cr4;                                                                  \
        (to)->cr8 = (state)->cr8;                                                                  \
        (to)->efer = (state)->efer;                                                                \
        (to)->apic_base = (state)->apic_base;                                                      \
    } while (0)

#define STATE_FROM_SREGS(state, from)                                                              \
    do {                                                                                           \
        (state)->segment[X86_CS] = segment_from_kvm(&(from)->cs);                                  \
        (state)->segment[X86_DS] = segment_from_kvm(&(from)->ds);                                  \
        (state)->segment[X86_ES] = segment_from_kvm(&(from)->es);                                  \
        (state)->segment[X86_FS] = segment_from_kvm(&(from)->fs);                                  \
        (state)->segment[X86_GS] = segment_from_kvm(&(from)->gs);                                  \
        (state)->segment[X86_SS] = segment_from_kvm(&(from)->ss);                                  \
        (state)->tr = segment_from_kvm(&(from)->tr);                                               \
        (state)->ldtr = segment_from_kvm(&(from)->ldt);                                            \
        (state)->gdtr = (struct x86_table){(from)->gdt.base, (from)->gdt.limit};                   \
        (state)->idtr = (struct x86_table){(from)->idt.base, (from)->idt.limit};                   \
        (state)->cr0 = (from)->cr0;                                                                \
        (state)->cr2 = (from)->cr2;                                                                \
        (state)->cr3 = (from)->cr3;                                                                \
        (state)->cr4 = (from)->cr4;                                                                \
        (state)->cr8 = (from)->cr8;                                                                \
        (state)->efer = (from)->efer;                                                              \
        (state)->apic_base = (from)->apic_base;                                                    \
    } while (0)

static bool uses_pdptes(const struct x86_state *state)
{
    return (state->cr0 & X86_CR0_PG) && (state->cr4 & X86_CR4_PAE) && !(state->efer & X86_EFER_LMA);
}

static int get_sregs(struct kvm_processor *processor, struct x86_state *state)
{
    if (!kvm_guest_from_vm(processor->vcpu.vm)->has_sregs2) {
        struct kvm_sregs sregs;
        int rc = kvm_ioctl(processor->fd, KVM_GET_SREGS, &sregs);
        STATE_FROM_SREGS(state, &sregs);
        return rc;
    }
    struct kvm_sregs2 sregs;
    int rc = kvm_ioctl(processor->fd, KVM_GET_SREGS2, &sregs);
    if (rc == 0) {
        STATE_FROM_SREGS(state, &sregs);
        if (sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
            memcpy(state->pdpte, sregs.pdptrs, sizeof(state->pdpte));
        }
    }
    return rc;
}

static int set_sregs(struct kvm_processor *processor, const struct x86_state *state)
{
    if (!kvm_guest_from_vm(processor->vcpu.vm)->has_sregs2) {
        struct kvm_sregs sregs = {0};
        SREGS_FROM_STATE(&sregs, state);
        return kvm_ioctl(processor->fd, KVM_SET_SREGS, &sregs);
    }
    struct kvm_sregs2 sregs = {0};
    SREGS_FROM_STATE(&sregs, state);
    if (uses_pdptes(state)) {
        sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(sregs.pdptrs, state->pdpte, sizeof(sregs.pdptrs));
    }
    return kvm_ioctl(processor->fd, KVM_SET_SREGS2, &sregs);
}

/* --- general registers --- */

static int get_regs(struct kvm_processor *processor, struct x86_state *state)
{
    struct kvm_regs regs;
    int rc = kvm_ioctl(processor->fd, KVM_GET_REGS, &regs);
    if (rc == 0) {
        const uint64_t gpr[X86_GPR_COUNT] = {
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        };
        memcpy(state->gpr, gpr, sizeof(gpr));
        state->rip = regs.rip;
        state->rflags = regs.rflags;
    }
    return rc;
}

static int set_regs(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_regs regs = {
        .rax = state->gpr[X86_RAX],
        .rcx = state->gpr[X86_RCX],
        .rdx = state->gpr[X86_RDX],
        .rbx = state->gpr[X86_RBX],
        .rsp = state->gpr[X86_RSP],
        .rbp = state->gpr[X86_RBP],
        .rsi = state->gpr[X86_RSI],
        .rdi = state->gpr[X86_RDI],
        .r8 = state->gpr[X86_R8],
        .r9 = state->gpr[X86_R9],
        .r10 = state->gpr[X86_R10],
        .r11 = state->gpr[X86_R11],
        .r12 = state->gpr[X86_R12],
        .r13 = state->gpr[X86_R13],
        .r14 = state->gpr[X86_R14],
        .r15 = state->gpr[X86_R15],
        .rip = state->rip,
        .rflags = state->rflags,
    };
    return kvm_ioctl(processor->fd, KVM_SET_REGS, &regs);
}

static int get_debug(struct kvm_processor *processor, struct x86_state *state)
{
    struct kvm_debugregs debug;
    int rc = kvm_ioctl(processor->fd, KVM_GET_DEBUGREGS, &debug);
    if (rc == 0) {
        memcpy(state->dr, debug.db, sizeof(state->dr));
        state->dr6 = debug.dr6;
        state->dr7 = debug.dr7;
    }
    return rc;
}

static int set_debug(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_debugregs debug = {.dr6 = state->dr6, .dr7 = state->dr7};
    memcpy(debug.db, state->dr, sizeof(debug.db));
    return kvm_ioctl(processor->fd, KVM_SET_DEBUGREGS, &debug);
}

/* --- extended state --- */

static int get_xcr0(struct kvm_processor *processor, struct x86_state *state)
{
    struct kvm_xcrs xcrs = {0};
    int rc = kvm_ioctl(processor->fd, KVM_GET_XCRS, &xcrs);
    if (rc == 0) {
        for (uint32_t i = 0; i < MIN(xcrs.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++) {
            if (xcrs.xcrs[i].xcr == 0) {
                state->xcr0 = xcrs.xcrs[i].value;
            }
        }
    }
    return rc;
}

static int set_xcr0(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = state->xcr0}}};
    return kvm_ioctl(processor->fd, KVM_SET_XCRS, &xcrs);
}

static int get_xsave(struct kvm_processor *processor, struct x86_state *state)
{
    return kvm_ioctl(processor->fd, KVM_GET_XSAVE, state->xsave);
}

static int set_xsave(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_xsave xsave;
    memcpy(&xsave, state->xsave, sizeof(xsave));
    return kvm_ioctl(processor->fd, KVM_SET_XSAVE, &xsave);
}

/* --- MSRs --- */

/* A struct kvm_msrs with one entry. */
struct one_msr {
    uint32_t count, pad;
    struct kvm_msr_entry entry;
};
_Static_assert(offsetof(struct one_msr, entry) == sizeof(struct kvm_msrs), "the kernel's layout");

static bool get_msr(struct kvm_processor *processor, uint32_t index, uint64_t *out_value)
{
    struct one_msr msr = {.count = 1, .entry.index = index};
    if (kvm_ioctl(processor->fd, KVM_GET_MSRS, &msr) != 1) {
        return false;
    }
    *out_value = msr.entry.data;
    return true;
}

static bool set_msr(struct kvm_processor *processor, uint32_t index, uint64_t value)
{
    struct one_msr msr = {.count = 1, .entry = {.index = index, .data = value}};
    return kvm_ioctl(processor->fd, KVM_SET_MSRS, &msr) == 1;
}

/* To ask for Hyper-V's would have the kernel prepare the vCPU for it. */
static bool is_wanted(const struct kvm_processor *processor, const struct msr_place *place)
{
    return place->index < X86_MSR_HYPERV_GUEST_OS_ID || place->index > X86_MSR_HYPERV_VP_ASSIST ||
           x86_cpuid_has_hyperv(&processor->cpuid);
}

/* An MSR that this kernel or CPU does not have reads as 0. */
static void get_msrs(struct kvm_processor *processor, struct x86_state *state)
{
    for (size_t i = 0; i < ARRAY_COUNT(msr_places); i++) {
        const struct msr_place *place = &msr_places[i];
        for (uint32_t j = 0; is_wanted(processor, place) && j < place->count; j++) {
            uint64_t value = 0;
            (void)get_msr(processor, place->index + j * place->step, &value); /* stays 0 */
            memcpy((uint8_t *)state + place->offset + j * sizeof(value), &value, sizeof(value));
        }
    }
    state->tsc_deadline = 0;
    (void)get_msr(processor, X86_MSR_TSC_DEADLINE, &state->tsc_deadline); /* stays 0 */
    kvm_measure_tsc(processor);
}

static int set_msrs(struct kvm_processor *processor, const struct x86_state *state,
                    struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(msr_places); i++) {
        const struct msr_place *place = &msr_places[i];
        for (uint32_t j = 0; is_wanted(processor, place) && j < place->count; j++) {
            uint32_t index = place->index + j * place->step;
            uint64_t value;
            memcpy(&value, (const uint8_t *)state + place->offset + j * sizeof(value),
                   sizeof(value));
            /* 0 in an MSR that is not there is what get_msrs gives. */
            if (!set_msr(processor, index, value) && value != 0) {
                return error_set(err, EINVAL, "vCPU %u: KVM refuses 0x%llx for MSR 0x%x",
                                 processor->vcpu.index, (unsigned long long)value, index);
            }
        }
    }
    kvm_measure_tsc(processor);
    return 0;
}

void kvm_measure_tsc(struct kvm_processor *processor)
{
    uint64_t tsc, before = kvm_scaled_tsc(processor);
    if (get_msr(processor, X86_MSR_TSC, &tsc)) {
        uint64_t took = kvm_scaled_tsc(processor) - before;
        atomic_store(&processor->tsc_offset, tsc - (before + took / 2));
    }
}

/* --- events and activity --- */

static int get_events(struct kvm_processor *processor, struct x86_state *state)
{
    struct kvm_vcpu_events events;
    int rc = kvm_ioctl(processor->fd, KVM_GET_VCPU_EVENTS, &events);
    if (rc < 0) {
        return rc;
    }
    state->exception_pending = events.exception.injected;
    state->exception_has_error = events.exception.has_error_code;
    state->exception_vector = events.exception.nr;
    state->exception_error = events.exception.error_code;
    state->interrupt_injected = events.interrupt.injected;
    state->interrupt_is_soft = events.interrupt.soft;
    state->interrupt_vector = events.interrupt.nr;
    state->interrupt_shadow_sti = events.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
    state->interrupt_shadow_mov_ss = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
    state->nmi_injected = events.nmi.injected;
    state->nmi_pending = events.nmi.pending;
    state->nmi_masked = events.nmi.masked;
    state->sipi_vector = (uint8_t)events.sipi_vector;
    return 0;
}

static int set_events(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_vcpu_events events = {
        .exception = {.injected = state->exception_pending,
                      .nr = state->exception_vector,
                      .has_error_code = state->exception_has_error,
                      .error_code = state->exception_error},
        .interrupt = {.injected = state->interrupt_injected,
                      .nr = state->interrupt_vector,
                      .soft = state->interrupt_is_soft,
                      .shadow = (state->interrupt_shadow_sti ? KVM_X86_SHADOW_INT_STI : 0) |
                                (state->interrupt_shadow_mov_ss ? KVM_X86_SHADOW_INT_MOV_SS : 0)},
        .nmi = {.injected = state->nmi_injected,
                .pending = state->nmi_pending,
                .masked = state->nmi_masked},
        .sipi_vector = state->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW,
    };
    return kvm_ioctl(processor->fd, KVM_SET_VCPU_EVENTS, &events);
}

static int get_activity(struct kvm_processor *processor, struct x86_state *state)
{
    struct kvm_mp_state mp = {0};
    int rc = kvm_ioctl(processor->fd, KVM_GET_MP_STATE, &mp);
    if (rc < 0) {
        return rc;
    }
    state->sipi_pending = mp.mp_state == KVM_MP_STATE_SIPI_RECEIVED;
    if (processor->is_shut_down) {
        state->activity = X86_ACTIVITY_SHUTDOWN;
        return 0;
    }
    switch (mp.mp_state) {
    case KVM_MP_STATE_UNINITIALIZED:
        state->activity = X86_ACTIVITY_WAIT_FOR_INIT;
        break;
    case KVM_MP_STATE_INIT_RECEIVED:
    case KVM_MP_STATE_SIPI_RECEIVED:
        state->activity = X86_ACTIVITY_WAIT_FOR_SIPI;
        break;
    case KVM_MP_STATE_HALTED:
    case KVM_MP_STATE_AP_RESET_HOLD:
        state->activity = X86_ACTIVITY_HALTED;
        break;
    default:
        state->activity = X86_ACTIVITY_RUNNING;
        break;
    }
    return 0;
}

static int set_activity(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
    switch (state->activity) {
    case X86_ACTIVITY_HALTED:
        /* The kernel has no way to set its own note of a kick: it reads as runnable from a vCPU that halts. */
        mp.mp_state = state->pv_unhalted ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_HALTED;
        break;
    case X86_ACTIVITY_WAIT_FOR_INIT:
        mp.mp_state = KVM_MP_STATE_UNINITIALIZED;
        break;
    case X86_ACTIVITY_WAIT_FOR_SIPI:
        mp.mp_state = state->sipi_pending ? KVM_MP_STATE_SIPI_RECEIVED : KVM_MP_STATE_INIT_RECEIVED;
        break;
    default:
        break;
    }
    processor->is_shut_down = state->activity == X86_ACTIVITY_SHUTDOWN;
    return kvm_ioctl(processor->fd, KVM_SET_MP_STATE, &mp);
}

/* --- local APIC --- */

static int get_lapic(struct kvm_processor *processor, struct x86_state *state)
{
    return kvm_ioctl(processor->fd, KVM_GET_LAPIC, state->lapic);
}

/* The page after a reset (SDM 3A 10.4.7.1), with the version that the kernel gives its APICs. */
static void reset_lapic(const struct kvm_processor *processor, uint32_t version,
                        struct kvm_lapic_state *lapic)
{
    uint8_t *page = (uint8_t *)lapic->regs;
    memset(page, 0, sizeof(lapic->regs));
    le32_put(page + LAPIC_ID, processor->vcpu.index << 24);
    le32_put(page + LAPIC_VERSION, version);
    le32_put(page + LAPIC_DFR, ~0u);
    le32_put(page + LAPIC_SVR, 0xff);
    for (unsigned lvt = LAPIC_TIMER; lvt <= LAPIC_LVT_END; lvt += 16) {
        le32_put(page + lvt, 1u << 16);
    }
    le32_put(page + LAPIC_CMCI, 1u << 16);
}

static int set_lapic(struct kvm_processor *processor, const struct x86_state *state)
{
    struct kvm_lapic_state lapic;
    memcpy(lapic.regs, state->lapic, sizeof(lapic.regs));
    /* A page without a version is none: x86_state_reset leaves it to the APIC's owner. */
    if (le32_get(state->lapic + LAPIC_VERSION) == 0) {
        int rc = kvm_ioctl(processor->fd, KVM_GET_LAPIC, &lapic);
        if (rc < 0) {
            return rc;
        }
        reset_lapic(processor, le32_get((uint8_t *)lapic.regs + LAPIC_VERSION), &lapic);
    }
    return kvm_ioctl(processor->fd, KVM_SET_LAPIC, &lapic);
}

/* --- all of it --- */

static int failed(const struct kvm_processor *processor, int rc, const char *what,
                  struct error *err)
{
    return error_set_errno(err, -rc, "vCPU %u: %s", processor->vcpu.index, what);
}

int kvm_vcpu_get_state(struct vcpu *vcpu, struct x86_state *out_state, struct error *err)
{
    /* Activity first: the kernel takes a pending INIT or SIPI on that occasion, and registers change with it. */
    static const struct {
        int (*get)(struct kvm_processor *processor, struct x86_state *state);
        const char *what;
    } parts[] = {
        {get_activity, "reading the activity"},    {get_events, "reading pending events"},
        {get_regs, "reading general registers"},   {get_sregs, "reading special registers"},
        {get_debug, "reading debug registers"},    {get_xcr0, "reading XCR0"},
        {get_xsave, "reading the extended state"}, {get_lapic, "reading the local APIC"},
    };
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    invariant(!processor->has_io_to_complete);
    struct x86_state *state = aligned_alloc(64, align_up(sizeof(*state), 64));
    if (state == NULL) {
        return error_set(err, ENOMEM, "reading the state of vCPU %u", vcpu->index);
    }
    memset(state, 0, sizeof(*state));
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        int rc = parts[i].get(processor, state);
        if (rc < 0) {
            free(state);
            return failed(processor, rc, parts[i].what, err);
        }
    }
    get_msrs(processor, state);
    *out_state = *state;
    free(state);
    return 0;
}

int kvm_vcpu_set_state(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    /* The APIC base (in special registers) decides how the APIC page is read, XCR0 which extended state there is.
     * Setting registers drops pending exceptions, so events come after; the deadline is armed at the very end. */
    static const struct {
        int (*set)(struct kvm_processor *processor, const struct x86_state *state);
        const char *what;
    } before[] =
        {
            {set_sregs, "writing special registers"},
            {set_regs, "writing general registers"},
            {set_xcr0, "writing XCR0"},
            {set_xsave, "writing the extended state"},
        },
      after[] = {
          {set_activity, "writing the activity"},
          {set_lapic, "writing the local APIC"},
          {set_debug, "writing debug registers"},
          {set_events, "writing pending events"},
      };
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    /* Much of what no CPU has the kernel would take, or turn into something else, without a word. */
    int rc = x86_state_check(state, &processor->cpuid, err);
    if (rc < 0) {
        return error_prefix(err, rc, "vCPU %u", vcpu->index);
    }
    for (size_t i = 0; i < ARRAY_COUNT(before); i++) {
        rc = before[i].set(processor, state);
        if (rc < 0) {
            return failed(processor, rc, before[i].what, err);
        }
    }
    rc = set_msrs(processor, state, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < ARRAY_COUNT(after); i++) {
        rc = after[i].set(processor, state);
        if (rc < 0) {
            return failed(processor, rc, after[i].what, err);
        }
    }
    if (!set_msr(processor, X86_MSR_TSC_DEADLINE, state->tsc_deadline) &&
        state->tsc_deadline != 0) {
        return error_set(err, EINVAL, "vCPU %u: KVM refuses the TSC deadline 0x%llx", vcpu->index,
                         (unsigned long long)state->tsc_deadline);
    }
    processor->has_io_to_complete = false;
    return 0;
}
