/* Conversion from and to the canonical state, and the checks of a state that may come from a file. */
#include <errno.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "cpu/x86/state_check.h"
#include "engine/soft/mmu.h"
#include "engine/soft/simd.h"
#include "engine/soft/system.h"
#include "engine/soft/xsave.h"

#define FX_FSW 2
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16

#define CR4_UNKNOWN   (X86_CR4_LA57 | X86_CR4_VMXE | X86_CR4_PKE | BITS(63, 23))
#define XCR0_MODELLED ((uint64_t)(X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX))

/* Registers that both directions copy alike. */
#define COPY_REGISTERS(to, from)                                                                   \
    do {                                                                                           \
        memcpy((to)->segment, (from)->segment, sizeof((to)->segment));                             \
        (to)->ldtr = (from)->ldtr;                                                                 \
        (to)->tr = (from)->tr;                                                                     \
        (to)->gdtr = (from)->gdtr;                                                                 \
        (to)->idtr = (from)->idtr;                                                                 \
        (to)->cr0 = (from)->cr0;                                                                   \
        (to)->cr2 = (from)->cr2;                                                                   \
        (to)->cr3 = (from)->cr3;                                                                   \
        (to)->cr4 = (from)->cr4;                                                                   \
        (to)->xcr0 = (from)->xcr0;                                                                 \
        (to)->efer = (from)->efer;                                                                 \
        memcpy((to)->dr, (from)->dr, sizeof((to)->dr));                                            \
        (to)->dr6 = (from)->dr6;                                                                   \
        (to)->dr7 = (from)->dr7;                                                                   \
        memcpy((to)->pdpte, (from)->pdpte, sizeof((to)->pdpte));                                   \
        (to)->star = (from)->star;                                                                 \
        (to)->lstar = (from)->lstar;                                                               \
        (to)->cstar = (from)->cstar;                                                               \
        (to)->sfmask = (from)->sfmask;                                                             \
        (to)->kernel_gs_base = (from)->kernel_gs_base;                                             \
        (to)->sysenter_cs = (from)->sysenter_cs;                                                   \
        (to)->sysenter_esp = (from)->sysenter_esp;                                                 \
        (to)->sysenter_eip = (from)->sysenter_eip;                                                 \
        (to)->pat = (from)->pat;                                                                   \
        (to)->tsc_aux = (from)->tsc_aux;                                                           \
        (to)->tsc_adjust = (from)->tsc_adjust;                                                     \
        (to)->tsc_deadline = (from)->tsc_deadline;                                                 \
        (to)->apic_base = (from)->apic_base;                                                       \
        (to)->misc_enable = (from)->misc_enable;                                                   \
        (to)->spec_ctrl = (from)->spec_ctrl;                                                       \
        (to)->xss = (from)->xss;                                                                   \
        (to)->mtrr_def_type = (from)->mtrr_def_type;                                               \
        memcpy((to)->mtrr_fixed, (from)->mtrr_fixed, sizeof((to)->mtrr_fixed));                    \
        memcpy((to)->mtrr_base, (from)->mtrr_base, sizeof((to)->mtrr_base));                       \
        memcpy((to)->mtrr_mask, (from)->mtrr_mask, sizeof((to)->mtrr_mask));                       \
        (to)->mcg_status = (from)->mcg_status;                                                     \
        (to)->mcg_cap = (from)->mcg_cap;                                                           \
        (to)->kvm_system_time = (from)->kvm_system_time;                                           \
        (to)->kvm_wall_clock = (from)->kvm_wall_clock;                                             \
        (to)->kvm_steal_time = (from)->kvm_steal_time;                                             \
        (to)->kvm_async_pf = (from)->kvm_async_pf;                                                 \
        (to)->kvm_async_pf_int = (from)->kvm_async_pf_int;                                         \
        (to)->kvm_pv_eoi = (from)->kvm_pv_eoi;                                                     \
        (to)->kvm_poll_control = (from)->kvm_poll_control;                                         \
        (to)->exception_pending = (from)->exception_pending;                                       \
        (to)->exception_has_error = (from)->exception_has_error;                                   \
        (to)->exception_vector = (from)->exception_vector;                                         \
        (to)->exception_error = (from)->exception_error;                                           \
        (to)->interrupt_injected = (from)->interrupt_injected;                                     \
        (to)->interrupt_is_soft = (from)->interrupt_is_soft;                                       \
        (to)->interrupt_vector = (from)->interrupt_vector;                                         \
        (to)->nmi_injected = (from)->nmi_injected;                                                 \
        (to)->nmi_masked = (from)->nmi_masked;                                                     \
        (to)->activity = (from)->activity;                                                         \
    } while (0)

void soft_state_get(struct soft_vcpu *v, struct x86_state *out)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint32_t requests = atomic_load(&v->requests);
    memset(out, 0, sizeof(*out));
    memcpy(out->gpr, v->gpr, sizeof(out->gpr));
    out->rip = v->rip;
    out->rflags = soft_rflags(v);
    COPY_REGISTERS(out, v);
    soft_xsave_get(v, out->xsave);
    out->tsc = soft_tsc(v);
    out->hyperv_guest_os_id = atomic_load(&v->vm->hyperv_guest_os_id);
    out->hyperv_hypercall = atomic_load(&v->vm->hyperv_hypercall);
    out->hyperv_reference_tsc = atomic_load(&v->vm->hyperv_reference_tsc);
    out->hyperv_vp_assist = v->paravirt.hyperv_vp_assist;
    out->nmi_pending = v->nmi_waiting || (requests & SOFT_REQUEST_NMI);
    out->interrupt_shadow_sti = v->shadow_sti;
    out->interrupt_shadow_mov_ss = v->shadow_mov_ss;
    out->sipi_pending = requests & SOFT_REQUEST_SIPI;
    out->sipi_vector = atomic_load(&v->sipi_vector);
    out->pv_unhalted = v->paravirt.is_unhalted || (requests & SOFT_REQUEST_KICKED_BY_GUEST);
    if (callbacks->apic_get_cr8) {
        out->cr8 = callbacks->apic_get_cr8(callbacks->ctx, v->vcpu.index);
    }
}

/* What a CPU can have and this engine has not, should a CPUID table promise it. */
static int check_supported(const struct x86_state *s, struct error *err)
{
    if ((s->cr4 & CR4_UNKNOWN) != 0 || (s->efer & X86_EFER_SVME) != 0 ||
        (s->xcr0 & ~XCR0_MODELLED) != 0) {
        return error_set(
            err, EINVAL,
            "state of a vCPU: cr4 0x%llx, efer 0x%llx or xcr0 0x%llx asks for what the software engine does not have",
            (unsigned long long)s->cr4, (unsigned long long)s->efer, (unsigned long long)s->xcr0);
    }
    return 0;
}

int soft_state_load(struct soft_vcpu *v, const struct x86_state *state, struct error *err)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    if (!soft_xsave_set(v, state->xsave)) {
        return error_set(
            err, EINVAL,
            "state of a vCPU: mxcsr or xstate_bv of the xsave area has bits that this host's CPU does not");
    }
    soft_cpuid_forget(v);
    memcpy(v->gpr, state->gpr, sizeof(state->gpr));
    v->rip = state->rip;
    v->flags = (uint32_t)(state->rflags & ~X86_FLAGS_STATUS) | X86_FLAG_ONE;
    soft_set_status(v, (uint32_t)state->rflags);
    COPY_REGISTERS(v, state);
    v->cpl = !(v->cr0 & X86_CR0_PE)   ? 0
             : v->flags & X86_FLAG_VM ? 3
                                      : (v->segment[X86_SS].attributes & X86_SEGMENT_DPL) >> 5;
    if (state->tsc) {
        soft_tsc_restore(v, state->tsc);
    }
    v->nmi_waiting = state->nmi_pending;
    v->paravirt.is_unhalted = state->pv_unhalted;
    v->shadow_sti = state->interrupt_shadow_sti;
    v->shadow_mov_ss = state->interrupt_shadow_mov_ss;
    v->interrupt_waiting = true;
    v->delivering = -1;
    if (callbacks->apic_set_cr8) {
        callbacks->apic_set_cr8(callbacks->ctx, v->vcpu.index, (uint8_t)state->cr8);
    }
    soft_request(v, SOFT_REQUEST_STEP);
    soft_tlb_flush(v, true);
    soft_update_mode(v);
    if (v->kvm_system_time & 1) {
        soft_clock_set_system_time(v, v->kvm_system_time);
    }
    return 0;
}

int soft_state_set(struct soft_vcpu *v, const struct x86_state *state, struct error *err)
{
    int rc = x86_state_check(state, &v->cpuid, err);
    rc = rc < 0 ? rc : check_supported(state, err);
    rc = rc < 0 ? rc : soft_state_load(v, state, err);
    if (rc < 0) {
        return rc;
    }
    atomic_store(&v->vm->hyperv_guest_os_id, state->hyperv_guest_os_id);
    atomic_store(&v->vm->hyperv_hypercall, state->hyperv_hypercall);
    atomic_store(&v->vm->hyperv_reference_tsc, state->hyperv_reference_tsc);
    v->paravirt.hyperv_vp_assist = state->hyperv_vp_assist;
    atomic_fetch_and(&v->requests, ~(SOFT_REQUEST_SIPI | SOFT_REQUEST_INIT | SOFT_REQUEST_NMI |
                                     SOFT_REQUEST_KICKED_BY_GUEST));
    if (state->sipi_pending) {
        atomic_store(&v->sipi_vector, state->sipi_vector);
        soft_request(v, SOFT_REQUEST_SIPI);
    }
    return 0;
}
