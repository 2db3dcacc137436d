/* The run loop: blocks one after the other; between two of them, if 'requests' says so, everything else: kicks, interrupts,
 * single steps, sleep. */
#include <string.h>

#include "engine/soft/block.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/icount.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"
#include "engine/soft/trace.h"
#include "engine/soft/translate/analyze.h"
#include "engine/soft/translate/native.h"
#include "engine/soft/windows.h"

void soft_kick(struct vcpu *vcpu)
{
    struct soft_vcpu *v = soft_from_vcpu(vcpu);
    soft_request(v, SOFT_REQUEST_KICK);
    soft_wake(v);
}

/* KVM_HC_KICK_CPU. Any thread. */
void soft_wake_from_guest(struct soft_vcpu *v)
{
    soft_request(v, SOFT_REQUEST_KICKED_BY_GUEST);
    soft_wake(v);
}

/* INIT and SIPI in the order in which they come: what came before an INIT is void, a SIPI behind it waits until the INIT is
 * done, be that before or after the run loop has taken it. */
static void request_init(struct soft_vcpu *v)
{
    uint32_t seen = atomic_load(&v->requests), wanted;
    do {
        wanted = (seen & ~SOFT_REQUEST_SIPI) | SOFT_REQUEST_INIT;
    } while (!atomic_compare_exchange_weak(&v->requests, &seen, wanted));
}

void soft_signal(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t value)
{
    struct soft_vcpu *v = soft_from_vcpu(vcpu);
    switch (signal) {
    case VCPU_SIGNAL_INTERRUPT:
        soft_request(v, SOFT_REQUEST_INTERRUPT);
        break;
    case VCPU_SIGNAL_NMI:
        soft_request(v, SOFT_REQUEST_NMI);
        break;
    case VCPU_SIGNAL_INIT:
        request_init(v);
        break;
    case VCPU_SIGNAL_SIPI:
        atomic_store(&v->sipi_vector, value);
        soft_request(v, SOFT_REQUEST_SIPI);
        break;
    default:
        return;
    }
    soft_wake(v);
}

static bool take_request(struct soft_vcpu *v, uint32_t bit)
{
    return atomic_fetch_and(&v->requests, ~bit) & bit;
}

/* Not one that waits for an INIT to be done, which may have come with it since the requests were looked at. */
static bool take_sipi_request(struct soft_vcpu *v)
{
    uint32_t seen = atomic_load(&v->requests);
    while ((seen & (SOFT_REQUEST_SIPI | SOFT_REQUEST_INIT)) == SOFT_REQUEST_SIPI) {
        if (atomic_compare_exchange_weak(&v->requests, &seen, seen & ~SOFT_REQUEST_SIPI)) {
            return true;
        }
    }
    return false;
}

static void take_init(struct soft_vcpu *v)
{
    struct x86_state state;
    bool is_bsp = v->apic_base & X86_APIC_BASE_BSP;
    soft_paravirt_reset(v);
    soft_state_get(v, &state);
    x86_state_reset(&state, is_bsp, true);
    state.tsc = 0; /* goes on as it is, in step with those of the others */
    state.activity = is_bsp ? X86_ACTIVITY_RUNNING : X86_ACTIVITY_WAIT_FOR_SIPI;
    /* What reset makes is valid. Requests stay as they are: a SIPI may be among them by now. */
    (void)soft_state_load(v, &state, NULL);
}

static void take_sipi(struct soft_vcpu *v)
{
    if (v->activity != X86_ACTIVITY_WAIT_FOR_SIPI) {
        return;
    }
    uint8_t vector = atomic_load(&v->sipi_vector);
    v->segment[X86_CS].selector = (uint16_t)(vector << 8);
    v->segment[X86_CS].base = (uint32_t)vector << 12;
    v->rip = 0;
    v->activity = X86_ACTIVITY_RUNNING;
    v->interrupt_waiting = true; /* requests of the time before have been dropped */
    soft_update_mode(v);
}

/* Where interrupt delivery stands between two instructions. */
static void begin_event(struct soft_vcpu *v)
{
    v->op = NULL;
    v->block = NULL;
    v->activity = X86_ACTIVITY_RUNNING;
}

/* Events that set_state brought along. */
static void deliver_saved(struct soft_vcpu *v)
{
    begin_event(v);
    if (v->exception_pending) {
        v->exception_pending = false;
        v->delivering = v->exception_vector;
        soft_deliver(v, v->exception_vector, v->exception_has_error ? SOFT_EVENT_HAS_ERROR : 0,
                     v->exception_error, v->rip);
    } else if (v->nmi_injected) {
        v->nmi_injected = false;
        v->nmi_masked = true;
        soft_deliver(v, X86_NMI, SOFT_EVENT_EXTERNAL, 0, v->rip);
    } else if (v->interrupt_injected) {
        v->interrupt_injected = false;
        soft_deliver(v, v->interrupt_vector,
                     v->interrupt_is_soft ? SOFT_EVENT_SOFTWARE : SOFT_EVENT_EXTERNAL, 0, v->rip);
    }
}

static void deliver_interrupts(struct soft_vcpu *v)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    if (take_request(v, SOFT_REQUEST_NMI)) {
        v->nmi_waiting = true;
    }
    if (take_request(v, SOFT_REQUEST_INTERRUPT)) {
        v->interrupt_waiting = true;
    }
    if (v->nmi_waiting && !v->nmi_masked && !v->shadow_mov_ss) {
        v->nmi_waiting = false;
        v->nmi_masked = true;
        begin_event(v);
        soft_deliver(v, X86_NMI, SOFT_EVENT_EXTERNAL, 0, v->rip);
    }
    if (v->interrupt_waiting && (v->flags & X86_FLAG_IF) && !v->shadow_sti && !v->shadow_mov_ss) {
        v->interrupt_waiting = false;
        soft_sync_apic(v);
        soft_leave_guest(v);
        int vector = callbacks->apic_acknowledge
                         ? callbacks->apic_acknowledge(callbacks->ctx, v->vcpu.index)
                         : -1;
        soft_enter_guest(v);
        if (vector >= 0) {
            v->interrupt_waiting = true; /* there may be more */
            v->stats.interrupts++;
            begin_event(v);
            if (v->cpl == 3) {
                soft_windows_tick(v);
            }
            soft_paravirt_interrupt(v, (uint8_t)vector);
            soft_deliver(v, (uint8_t)vector, SOFT_EVENT_EXTERNAL, 0, v->rip);
        }
    }
}

/* Does the vCPU have to be run one instruction at a time? */
static bool needs_steps(const struct soft_vcpu *v)
{
    return (v->flags & X86_FLAG_TF) || v->shadow_sti || v->shadow_mov_ss ||
           (v->dr7 & SOFT_DR7_ENABLED) || v->pending_dr6;
}

static void deliver_debug_trap(struct soft_vcpu *v)
{
    v->dr6 |= v->pending_dr6;
    v->pending_dr6 = 0;
    begin_event(v);
    v->delivering = X86_DB;
    v->stats.exceptions++;
    soft_deliver(v, X86_DB, 0, 0, v->rip);
}

static void check_breakpoints(struct soft_vcpu *v)
{
    if ((v->flags & X86_FLAG_RF) || !(v->dr7 & SOFT_DR7_ENABLED)) {
        return;
    }
    uint64_t hit = soft_breakpoint_fetch(v, v->rip + v->segment_base[X86_CS]);
    if (hit) {
        v->dr6 |= hit;
        v->op = NULL;
        v->block = NULL;
        soft_raise(v, NULL, X86_DB);
    }
}

static inline void run_block(struct soft_vcpu *v, bool is_single)
{
    uint64_t rip = v->rip;
    soft_block_enter(v, soft_block_find(v, is_single));
    soft_icount_step(v, rip);
}

/* One instruction, with what comes before and after it when somebody looks that closely. */
static void step(struct soft_vcpu *v)
{
    bool had_tf = v->flags & X86_FLAG_TF;
    bool had_shadow_sti = v->shadow_sti, had_shadow_mov_ss = v->shadow_mov_ss;
    check_breakpoints(v);
    v->flags &= ~X86_FLAG_RF;
    v->has_delivered = false;
    v->goes_by_new_tf = false;
    run_block(v, true);
    if (had_shadow_sti) {
        v->shadow_sti = false;
    }
    if (had_shadow_mov_ss) {
        v->shadow_mov_ss = false;
    }
    if (had_tf && !v->has_delivered && !v->goes_by_new_tf) {
        v->pending_dr6 |= SOFT_DR6_BS;
    }
    if (v->pending_dr6 && !v->shadow_mov_ss) {
        deliver_debug_trap(v);
    }
}

/* False: leave with *out_exit. */
static bool serve_requests(struct soft_vcpu *v, enum vcpu_exit *out_exit)
{
    uint32_t requests = atomic_load(&v->requests);
    v->op = NULL;
    v->block = NULL;
    if (requests & SOFT_REQUEST_FLUSH_WRITES) {
        soft_tlb_flush_writes(v);
    }
    if (requests & SOFT_REQUEST_FLUSH) {
        soft_hyperv_flush(v);
    }
    if (requests & SOFT_REQUEST_STOP) {
        soft_leave_guest(v);
        soft_enter_guest(v);
    }
    if ((requests & SOFT_REQUEST_CODE) && take_request(v, SOFT_REQUEST_CODE)) {
        soft_native_check_pages(v);
    }
    if ((requests & SOFT_REQUEST_CLOCK) && take_request(v, SOFT_REQUEST_CLOCK)) {
        soft_clock_set_system_time(v, v->kvm_system_time);
        soft_hyperv_update_clock(v);
    }
    if (requests & SOFT_REQUEST_KICK) {
        take_request(v, SOFT_REQUEST_KICK);
        *out_exit = VCPU_EXIT_KICKED;
        return false;
    }
    if ((requests & SOFT_REQUEST_INIT) && take_request(v, SOFT_REQUEST_INIT)) {
        take_init(v);
    }
    if ((requests & SOFT_REQUEST_SIPI) && take_sipi_request(v)) {
        take_sipi(v);
    }
    if ((requests & SOFT_REQUEST_KICKED_BY_GUEST) &&
        take_request(v, SOFT_REQUEST_KICKED_BY_GUEST)) {
        v->paravirt.is_unhalted = true;
    }
    if (v->activity == X86_ACTIVITY_SHUTDOWN) {
        *out_exit = VCPU_EXIT_SHUTDOWN;
        return false;
    }
    if (v->activity == X86_ACTIVITY_WAIT_FOR_INIT || v->activity == X86_ACTIVITY_WAIT_FOR_SIPI) {
        atomic_fetch_and(&v->requests, ~(SOFT_REQUEST_INTERRUPT | SOFT_REQUEST_NMI));
        soft_sleep(v);
        return true;
    }
    if (v->exception_pending || v->nmi_injected || v->interrupt_injected) {
        deliver_saved(v);
    }
    if (v->pending_dr6 && !v->shadow_mov_ss) {
        deliver_debug_trap(v); /* SYSRET's; before interrupts */
    }
    deliver_interrupts(v);
    if (v->activity == X86_ACTIVITY_HALTED && v->paravirt.is_unhalted) {
        v->paravirt.is_unhalted = false;
        v->activity = X86_ACTIVITY_RUNNING;
    }
    if (v->activity == X86_ACTIVITY_HALTED) {
        bool is_on = v->vm->icount.is_on && !(atomic_load(&v->requests) & SOFT_REQUESTS_WAKING);
        if (!is_on || !soft_icount_skip(v)) {
            soft_halt(v);
        }
        return true;
    }
    v->is_stepping = needs_steps(v);
    if (!v->is_stepping) {
        atomic_fetch_and(&v->requests, ~SOFT_REQUEST_STEP);
    }
    return true;
}

static enum vcpu_exit shut_down(struct soft_vcpu *v)
{
    v->activity = X86_ACTIVITY_SHUTDOWN;
    error_set(&v->error, EFAULT,
              "triple fault at rip 0x%llx, cs 0x%x, cr2 0x%llx, last exception %u",
              (unsigned long long)v->rip, v->segment[X86_CS].selector, (unsigned long long)v->cr2,
              v->raised.vector);
    return VCPU_EXIT_SHUTDOWN;
}

enum vcpu_exit soft_run(struct vcpu *vcpu)
{
    struct soft_vcpu *v = soft_from_vcpu(vcpu);
    enum vcpu_exit result = VCPU_EXIT_KICKED;
    soft_enter_guest(v);
    soft_paravirt_begin(v);
    v->chain_floor = soft_stack_pointer() - SOFT_CHAIN_STACK;
    /* So that the state is looked at once before the first block. */
    soft_request(v, SOFT_REQUEST_STEP);
    if (sigsetjmp(v->raise_to, 0) && !soft_deliver_raised(v)) {
        v->delivering = -1;
        result = shut_down(v);
        soft_paravirt_end(v);
        soft_leave_guest(v);
        return result;
    }
    bool counts = v->vm->icount.is_on;
    for (;;) {
        if (unlikely(counts) && v->native_budget <= 0) {
            soft_icount_expire(v);
        }
        if (unlikely(atomic_load_explicit(&v->requests, memory_order_relaxed))) {
            if (!serve_requests(v, &result)) {
                break;
            }
            if (v->activity != X86_ACTIVITY_RUNNING) {
                continue;
            }
            if (v->is_stepping) {
                step(v);
                continue;
            }
        }
        if (unlikely(counts) && v->native_budget < NATIVE_MAX_INSNS) {
            run_block(v, true);
            continue;
        }
        if (!v->native || !soft_native_run(v)) {
            if (unlikely(v->vm->trace != NULL)) {
                soft_trace_interpreted(v->vm->trace, v, "and its block: not for the translator");
            }
            run_block(v, counts);
        }
    }
    v->op = NULL;
    v->block = NULL;
    soft_paravirt_end(v);
    soft_leave_guest(v);
    return result;
}
