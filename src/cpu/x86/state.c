/* The state after power-up, RESET and INIT (Intel SDM 3A 9.1, table 9-1; bits of the MSRs: SDM 4). */
#include "cpu/x86/state.h"

#include <string.h>

/* Fields of the XSAVE area's legacy region, SDM 1 table 10-2. */
#define XSAVE_FCW        0
#define XSAVE_MXCSR      24
#define XSAVE_MXCSR_MASK 28

#define PAT_RESET               0x0007040600070406ull
#define FCW_RESET               0x0040
#define MXCSR_RESET             0x1f80
#define MISC_ENABLE_FAST_STRING (1u << 0)

/* Model 15.6 ("family, model, stepping in DX"): what real software reads there it takes from CPUID instead. */
#define RESET_DX 0x600

static void segment_set(struct x86_segment *segment, uint16_t selector, uint64_t base,
                        uint16_t attributes)
{
    *segment = (struct x86_segment){
        .base = base,
        .limit = 0xffff,
        .selector = selector,
        .attributes = attributes,
    };
}

/* What RESET sets and INIT keeps. */
static void reset_extended(struct x86_state *state)
{
    static const uint8_t mxcsr[4] = {MXCSR_RESET & 0xff, MXCSR_RESET >> 8, 0, 0};
    static const uint8_t mxcsr_mask[4] = {0xff, 0xff, 0, 0};
    memset(state, 0, sizeof(*state));
    state->xsave[XSAVE_FCW] = FCW_RESET;
    memcpy(&state->xsave[XSAVE_MXCSR], mxcsr, sizeof(mxcsr));
    memcpy(&state->xsave[XSAVE_MXCSR_MASK], mxcsr_mask, sizeof(mxcsr_mask));
    state->xcr0 = X86_XCR0_X87;
    state->pat = PAT_RESET;
    state->misc_enable = MISC_ENABLE_FAST_STRING;
    state->kvm_poll_control = 1; /* the host may poll while the guest halts */
    state->cr0 = X86_CR0_CD | X86_CR0_NW;
}

void x86_state_reset(struct x86_state *state, bool is_bsp, bool is_init)
{
    if (!is_init) {
        reset_extended(state);
        state->apic_base =
            X86_APIC_DEFAULT_GPA | X86_APIC_BASE_ENABLE | (is_bsp ? X86_APIC_BASE_BSP : 0);
    }
    memset(state->gpr, 0, sizeof(state->gpr));
    state->gpr[X86_RDX] = RESET_DX;
    state->rip = 0xfff0;
    state->rflags = X86_FLAG_ONE;
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        segment_set(&state->segment[i], 0, 0,
                    X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_WRITABLE | X86_SEGMENT_ACCESSED);
    }
    segment_set(&state->segment[X86_CS], 0xf000, 0xffff0000,
                X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_CODE | X86_SEGMENT_READABLE |
                    X86_SEGMENT_ACCESSED);
    segment_set(&state->ldtr, 0, 0, X86_SEGMENT_P | 2);
    segment_set(&state->tr, 0, 0, X86_SEGMENT_P | 11); /* a busy TSS, as VM entry wants it */
    state->gdtr = (struct x86_table){.limit = 0xffff};
    state->idtr = (struct x86_table){.limit = 0xffff};
    state->cr0 = (state->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    state->cr2 = 0;
    state->cr3 = 0;
    state->cr4 = 0;
    state->cr8 = 0;
    state->efer = 0;
    memset(state->dr, 0, sizeof(state->dr));
    state->dr6 = 0xffff0ff0;
    state->dr7 = 0x400;
    memset(state->pdpte, 0, sizeof(state->pdpte));
    memset(state->lapic, 0, sizeof(state->lapic));

    state->exception_pending = false;
    state->exception_has_error = false;
    state->exception_vector = 0;
    state->exception_error = 0;
    state->interrupt_injected = false;
    state->interrupt_is_soft = false;
    state->interrupt_vector = 0;
    state->nmi_pending = false;
    state->nmi_injected = false;
    state->nmi_masked = false;
    state->interrupt_shadow_sti = false;
    state->interrupt_shadow_mov_ss = false;
    state->sipi_pending = false;
    state->sipi_vector = 0;
    state->pv_unhalted = false;
    /* As KVM has it: nobody writes to where the software of the time before INIT wanted it. */
    state->kvm_system_time = 0;
    state->kvm_steal_time = 0;
    state->kvm_async_pf = 0;
    state->kvm_async_pf_int = 0;
    state->kvm_pv_eoi = 0;
    if (is_bsp) {
        state->activity = X86_ACTIVITY_RUNNING;
    } else {
        state->activity = is_init ? X86_ACTIVITY_WAIT_FOR_SIPI : X86_ACTIVITY_WAIT_FOR_INIT;
    }
}
