/* Hyper-V's interface for guests, as far as CPUID announces it (cpu/x86/hypervisor.c): identification, hypercall page, reference
 * time by MSR and by page, frequencies; hypercalls for TLB flushes, IPIs and long spins (Hypervisor Top Level Functional
 * Specification 6.0b; chapters 3 "Hypercall interface", 9 "Virtual MMU", 10 "Virtual interrupt controller", 12 "Timers").
 *
 * Flushes. HvCallFlushVirtualAddressSpace and its like promise that no target uses an old translation when they return. The caller
 * sets each target's SOFT_REQUEST_FLUSH and then waits for each until it has cleared that bit, which it does between two
 * instructions with an empty TLB, or is seen outside of soft_paravirt_begin and soft_paravirt_end, thus asleep or paused. In the
 * second case the target will first say that it runs and then look at its requests before any guest instruction; both are
 * sequentially consistent, as are the caller's setting of the bit and its look, so one of the two sees the other. Waiting callers
 * are out of the guest and serve their own bit, so no two of them, nor anybody else, wait for each other for ever. */
#include <sched.h>
#include <string.h>

#include "base/core/endian.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define MSR_ENABLED        1u
#define HYPERCALL_LOCKED   2u
#define PAGE_OF(value)     ((value) & ~(uint64_t)(GUEST_PAGE_SIZE - 1))
#define TICK_NS            100u /* of reference time */
#define TICKS_PER_SECOND   10000000u
#define APIC_FREQUENCY_HZ  1000000000u
#define SEQUENCE_INVALID   0u
#define SEQUENCE_OLD_WRONG UINT32_MAX /* meant "invalid" in the first version */

/* Hypercall codes, results, the input value's fields. */
#define CALL_FLUSH_SPACE    0x0002u
#define CALL_FLUSH_LIST     0x0003u
#define CALL_LONG_SPIN      0x0008u
#define CALL_SEND_IPI       0x000bu
#define CALL_FLUSH_SPACE_EX 0x0013u
#define CALL_FLUSH_LIST_EX  0x0014u
#define CALL_SEND_IPI_EX    0x0015u

#define HV_SUCCESS           0u
#define HV_INVALID_CODE      2u
#define HV_INVALID_INPUT     3u
#define HV_INVALID_ALIGNMENT 4u

#define FLUSH_ALL_PROCESSORS 1u
#define SET_IS_SPARSE        0u
#define SET_IS_ALL           1u
#define BANK_COUNT           64u
#define INPUT_MAX            (4u * 8u + BANK_COUNT * 8u)

/* --- time --- */

static uint64_t reference_time(struct soft_vcpu *v)
{
    return soft_clock_now_ns(v->vm) / TICK_NS;
}

/* The page: 32-bit sequence, 32 bits unused, scale, offset; time = (tsc * scale >> 64) + offset. */
void soft_hyperv_update_clock(struct soft_vcpu *v)
{
    struct soft_vm *vm = v->vm;
    uint64_t msr = atomic_load(&vm->hyperv_reference_tsc);
    if (v->vcpu.index != 0 || !(msr & MSR_ENABLED) || !soft_page_find(vm, PAGE_OF(msr)).slot) {
        return;
    }
    uint64_t scale = (uint64_t)(((unsigned __int128)TICKS_PER_SECOND << 64) / vm->tsc_hz);
    uint64_t tsc = soft_tsc(v), now = reference_time(v);
    uint64_t offset = now - (uint64_t)(((unsigned __int128)tsc * scale) >> 64);
    uint32_t invalid = SEQUENCE_INVALID;
    uint32_t sequence = atomic_fetch_add(&vm->hyperv_sequence, 1) + 1;
    while (sequence == SEQUENCE_INVALID || sequence == SEQUENCE_OLD_WRONG) {
        sequence = atomic_fetch_add(&vm->hyperv_sequence, 1) + 1;
    }
    uint64_t gpa = PAGE_OF(msr);
    soft_physical_store(v, gpa, &invalid, sizeof(invalid));
    soft_physical_store(v, gpa + 8, &scale, sizeof(scale));
    soft_physical_store(v, gpa + 16, &offset, sizeof(offset));
    soft_physical_store(v, gpa, &sequence, sizeof(sequence));
}

/* Only vCPU 0 writes the page, so that no two do: it may have to be told. */
static void reference_tsc_set(struct soft_vcpu *v, uint64_t value)
{
    struct soft_vcpu *first = atomic_load(&v->vm->vcpu[0]);
    atomic_store(&v->vm->hyperv_reference_tsc, value);
    if (v->vcpu.index == 0) {
        soft_hyperv_update_clock(v);
    } else if (first) {
        uint32_t invalid = SEQUENCE_INVALID; /* until then the guest takes the MSR */
        if ((value & MSR_ENABLED) && soft_page_find(v->vm, PAGE_OF(value)).slot) {
            soft_physical_store(v, PAGE_OF(value), &invalid, sizeof(invalid));
        }
        soft_request(first, SOFT_REQUEST_CLOCK);
    }
}

/* --- MSRs --- */

static bool hypercall_set(struct soft_vcpu *v, uint64_t value)
{
    struct soft_vm *vm = v->vm;
    const uint8_t intel[] = {0x0f, 0x01, 0xc1, 0xc3}; /* vmcall; ret */
    const uint8_t amd[] = {0x0f, 0x01, 0xd9, 0xc3};   /* vmmcall; ret */
    if (atomic_load(&vm->hyperv_guest_os_id) == 0 ||
        (atomic_load(&vm->hyperv_hypercall) & HYPERCALL_LOCKED)) {
        return true; /* without effect */
    }
    if (value & MSR_ENABLED) {
        struct soft_page page = soft_page_find(vm, PAGE_OF(value));
        if (!page.slot || page.slot->is_readonly) {
            return false;
        }
        soft_physical_store(v, PAGE_OF(value), vm->is_intel ? intel : amd, sizeof(intel));
    }
    atomic_store(&vm->hyperv_hypercall, value);
    return true;
}

/* Nothing of what the page is for is announced (short EOIs, nested virtualization): it stays empty. Linux sets it regardless. */
static bool vp_assist_set(struct soft_vcpu *v, uint64_t value)
{
    static const uint8_t empty[GUEST_PAGE_SIZE];
    if (value & MSR_ENABLED) {
        struct soft_page page = soft_page_find(v->vm, PAGE_OF(value));
        if (!page.slot || page.slot->is_readonly) {
            return false;
        }
        soft_physical_store(v, PAGE_OF(value), empty, sizeof(empty));
    }
    v->paravirt.hyperv_vp_assist = value;
    return true;
}

bool soft_hyperv_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value)
{
    struct soft_vm *vm = v->vm;
    if (!v->paravirt.has_hyperv) {
        return false;
    }
    switch (msr) {
    case X86_MSR_HYPERV_GUEST_OS_ID:
        *out_value = atomic_load(&vm->hyperv_guest_os_id);
        return true;
    case X86_MSR_HYPERV_HYPERCALL:
        *out_value = atomic_load(&vm->hyperv_hypercall);
        return true;
    case X86_MSR_HYPERV_VP_INDEX:
        *out_value = v->vcpu.index;
        return true;
    case X86_MSR_HYPERV_TIME_REF_COUNT:
        *out_value = reference_time(v);
        return true;
    case X86_MSR_HYPERV_REFERENCE_TSC:
        *out_value = atomic_load(&vm->hyperv_reference_tsc);
        return true;
    case X86_MSR_HYPERV_TSC_FREQUENCY:
        *out_value = vm->tsc_hz;
        return true;
    case X86_MSR_HYPERV_APIC_FREQUENCY:
        *out_value = APIC_FREQUENCY_HZ;
        return true;
    case X86_MSR_HYPERV_VP_ASSIST:
        *out_value = v->paravirt.hyperv_vp_assist;
        return true;
    default:
        return false;
    }
}

bool soft_hyperv_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value)
{
    struct soft_vm *vm = v->vm;
    if (!v->paravirt.has_hyperv) {
        return false;
    }
    switch (msr) {
    case X86_MSR_HYPERV_GUEST_OS_ID:
        atomic_store(&vm->hyperv_guest_os_id, value);
        if (value == 0) {
            atomic_store(&vm->hyperv_hypercall, 0);
        }
        return true;
    case X86_MSR_HYPERV_HYPERCALL:
        return hypercall_set(v, value);
    case X86_MSR_HYPERV_REFERENCE_TSC:
        reference_tsc_set(v, value);
        return true;
    case X86_MSR_HYPERV_VP_ASSIST:
        return vp_assist_set(v, value);
    default:
        return false;
    }
}

/* --- hypercalls --- */

struct hyperv_call {
    uint32_t code, variable_size, rep_count, rep_start;
    bool is_fast;
    uint64_t input[2]; /* where the input is, or, if it is fast, the input */
};

/* The input of at most 'size' bytes from the page that the guest names: copied once. */
static uint32_t read_input(struct soft_vcpu *v, const struct hyperv_call *call, void *out_data,
                           uint32_t size)
{
    if (call->is_fast) {
        if (size > sizeof(call->input)) {
            return HV_INVALID_INPUT;
        }
        memcpy(out_data, call->input, size);
        return HV_SUCCESS;
    }
    uint64_t gpa = call->input[0];
    if ((gpa & 7) || (gpa & (GUEST_PAGE_SIZE - 1)) + size > GUEST_PAGE_SIZE) {
        return HV_INVALID_ALIGNMENT;
    }
    if (!soft_page_find(v->vm, gpa).slot) {
        return HV_INVALID_INPUT;
    }
    soft_physical_load(v, gpa, out_data, size);
    return HV_SUCCESS;
}

/* A processor set of the wide form: format, mask of banks, one word for each bank that is there. There are no processors beyond
 * bank 0. */
static uint32_t wide_set(const struct hyperv_call *call, const uint8_t *set, uint64_t *out_mask)
{
    uint64_t format = le64_get(set), banks = le64_get(set + 8);
    if (format == SET_IS_ALL) {
        *out_mask = UINT64_MAX;
        return HV_SUCCESS;
    }
    if (format != SET_IS_SPARSE || (uint32_t)__builtin_popcountll(banks) != call->variable_size) {
        return HV_INVALID_INPUT;
    }
    *out_mask = banks & 1 ? le64_get(set + 16) : 0;
    return HV_SUCCESS;
}

void soft_hyperv_flush(struct soft_vcpu *v)
{
    soft_tlb_flush(v, true);
    atomic_fetch_and(&v->requests, ~SOFT_REQUEST_FLUSH);
}

static struct soft_vcpu *target_at(const struct soft_vcpu *v, uint64_t mask, size_t index)
{
    return mask >> index & 1 ? atomic_load(&v->vm->vcpu[index]) : NULL;
}

_Static_assert(ENGINE_MAX_VCPUS <= 64, "one bank of processors");

/* Everything of everybody who is meant: more than was asked for is allowed. */
static void flush_targets(struct soft_vcpu *v, uint64_t mask)
{
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *target = target_at(v, mask, i);
        if (target == v) {
            soft_tlb_flush(v, true);
        } else if (target) {
            soft_request(target, SOFT_REQUEST_FLUSH);
        }
    }
    soft_leave_guest(v);
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        const struct soft_vcpu *target = target_at(v, mask, i);
        while (target && target != v && atomic_load(&target->paravirt.is_running) &&
               (atomic_load(&target->requests) & SOFT_REQUEST_FLUSH)) {
            if (atomic_load(&v->requests) & SOFT_REQUEST_FLUSH) {
                soft_hyperv_flush(v);
            }
            sched_yield();
        }
    }
    soft_enter_guest(v);
}

/* Input: address space, flags, set of processors; the lists of addresses behind it need not be read. */
static uint32_t flush(struct soft_vcpu *v, const struct hyperv_call *call, bool is_wide)
{
    uint8_t input[INPUT_MAX];
    uint64_t mask = 0;
    uint32_t size = is_wide ? 32 + call->variable_size * 8 : 24;
    uint32_t status = size > INPUT_MAX ? HV_INVALID_INPUT : read_input(v, call, input, size);
    if (status != HV_SUCCESS) {
        return status;
    }
    if (le64_get(input + 8) & FLUSH_ALL_PROCESSORS) {
        mask = UINT64_MAX;
    } else if (is_wide) {
        status = wide_set(call, input + 16, &mask);
    } else {
        mask = le64_get(input + 16);
    }
    if (status == HV_SUCCESS) {
        flush_targets(v, mask);
    }
    return status;
}

/* Input: vector, 32 bits of which only the low 8 may be set and that name no exception; target level; set of processors. */
static uint32_t send_ipi(struct soft_vcpu *v, const struct hyperv_call *call, bool is_wide)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint8_t input[INPUT_MAX];
    uint64_t mask = 0;
    uint32_t size = is_wide ? 24 + call->variable_size * 8 : 16;
    uint32_t status = size > INPUT_MAX ? HV_INVALID_INPUT : read_input(v, call, input, size);
    if (status != HV_SUCCESS) {
        return status;
    }
    if (is_wide) {
        status = wide_set(call, input + 8, &mask);
    } else {
        mask = le64_get(input + 8);
    }
    uint32_t vector = le32_get(input);
    if (status != HV_SUCCESS || vector < 16 || vector > 255) {
        return HV_INVALID_INPUT;
    }
    for (uint32_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        if (target_at(v, mask, i) && callbacks->apic_send) {
            (void)callbacks->apic_send(callbacks->ctx, i, vector); /* off: as with an ICR */
        }
    }
    return HV_SUCCESS;
}

static void yield(struct soft_vcpu *v)
{
    soft_leave_guest(v);
    sched_yield();
    soft_enter_guest(v);
}

static uint32_t do_call(struct soft_vcpu *v, const struct hyperv_call *call)
{
    bool has_reps = call->code == CALL_FLUSH_LIST || call->code == CALL_FLUSH_LIST_EX;
    bool is_wide = call->code >= CALL_FLUSH_SPACE_EX;
    if (has_reps ? call->rep_start >= call->rep_count : call->rep_count || call->rep_start) {
        return HV_INVALID_INPUT;
    }
    if (!is_wide && call->variable_size != 0) {
        return HV_INVALID_INPUT;
    }
    switch (call->code) {
    case CALL_FLUSH_SPACE:
    case CALL_FLUSH_LIST:
    case CALL_FLUSH_SPACE_EX:
    case CALL_FLUSH_LIST_EX:
        return flush(v, call, is_wide);
    case CALL_SEND_IPI:
    case CALL_SEND_IPI_EX:
        return send_ipi(v, call, is_wide);
    case CALL_LONG_SPIN:
        yield(v);
        return HV_SUCCESS;
    default:
        return HV_INVALID_CODE;
    }
}

void soft_hyperv_call(struct soft_vcpu *v, const struct soft_op *op)
{
    bool is_64 = soft_is_64(v);
    const uint64_t *gpr = v->gpr;
    if (v->cpl != 0 || !soft_is_protected(v)) {
        soft_raise(v, op, X86_UD);
    }
    uint64_t value =
        is_64 ? gpr[X86_RCX] : (uint32_t)gpr[X86_RAX] | (uint64_t)(uint32_t)gpr[X86_RDX] << 32;
    const struct hyperv_call call = {
        .code = (uint16_t)value,
        .is_fast = value >> 16 & 1,
        .variable_size = value >> 17 & 0x3ff,
        .rep_count = value >> 32 & 0xfff,
        .rep_start = value >> 48 & 0xfff,
        .input = {is_64 ? gpr[X86_RDX]
                        : (uint32_t)gpr[X86_RCX] | (uint64_t)(uint32_t)gpr[X86_RBX] << 32,
                  is_64 ? gpr[X86_R8]
                        : (uint32_t)gpr[X86_RSI] | (uint64_t)(uint32_t)gpr[X86_RDI] << 32},
    };
    uint32_t status = do_call(v, &call);
    uint64_t result = status;
    if (status == HV_SUCCESS) {
        result |= (uint64_t)call.rep_count << 32; /* all done */
    }
    if (is_64) {
        v->gpr[X86_RAX] = result;
    } else {
        v->gpr[X86_RAX] = (uint32_t)result;
        v->gpr[X86_RDX] = result >> 32;
    }
}
