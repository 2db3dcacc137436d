/* KVM's paravirtual interfaces, as stock kernels use them: steal time with its note that a vCPU does not run, ends of interrupts
 * in memory, hypercalls (Linux Documentation/virt/kvm/x86/msr.rst and hypercalls.rst). kvmclock is in clock.c.
 *
 * TLB flushes that nobody waits for. A guest that has changed a page table makes other vCPUs drop old translations. One that
 * does not run need not be woken for that (KVM_FEATURE_PV_TLB_FLUSH): where the guest finds PREEMPTED in the 'preempted' byte
 * of its steal time, it sets FLUSH_TLB beside it by a locked compare-and-exchange, and sends its interrupt only if that failed.
 * This vCPU
 *
 *   1. executes its last guest instruction,
 *   2. stores PREEMPTED          (soft_paravirt_end),
 *   3. sleeps, reading no guest memory and using no translation,
 *   4. exchanges the byte for 0  (soft_paravirt_begin),
 *   5. drops all translations if FLUSH_TLB was in it, and then runs the next guest instruction.
 *
 * Let P be the guest's change of a page table and C its compare-and-exchange of this byte, P before C as a locked instruction
 * orders it. If C succeeds, it saw 2 and precedes 4 (all three are on one byte, so they have one order). Whatever this vCPU wrote
 * through an old translation was before 2 and is visible to whoever has seen 2, as the host keeps stores in order; whatever it
 * does from 5 on walks tables that it reads after 4, thus after C and P. So no old translation is used after C. If C fails or
 * finds no PREEMPTED, the guest sends an interrupt, as it would without all this. Both the store and the exchange are by this
 * vCPU's own thread, and nobody else ever fills its TLB.
 *
 * What PREEMPTED can say: that the vCPU halts, or that its VM is paused. That the host's scheduler has put the thread aside is not
 * told to user space before the thread runs again, so then the byte says "runs", which costs the guest an interrupt and no more. */
#include <errno.h>
#include <linux/kvm_para.h>
#include <sched.h>
#include <time.h>

#include "engine/soft/block.h"
#include "engine/soft/interpret/alu.h"
#include "engine/soft/interpret/operand.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

#define NS_PER_SECOND 1000000000ull
/* Guests look at each tick, of which the fastest kernels have 1000 a second. */
#define STEAL_UPDATES_PER_SECOND 1000u

#define PV_EOI_RESERVED 2u
#define PV_EOI_DONE     0u
#define PV_EOI_PENDING  1u

static bool has_feature(const struct soft_vcpu *v, unsigned feature)
{
    return v->paravirt.features >> feature & 1;
}

/* 'size' bytes at an address that the guest chose, or NULL: not in one page of memory that can be written. */
static void *shared_bytes(struct soft_vcpu *v, uint64_t gpa, size_t size,
                          struct soft_page *out_page)
{
    if ((gpa & (GUEST_PAGE_SIZE - 1)) + size > GUEST_PAGE_SIZE) {
        return NULL;
    }
    *out_page = soft_page_find(v->vm, gpa);
    return out_page->slot && !out_page->slot->is_readonly ? out_page->hva : NULL;
}

/* --- steal time --- */

/* Of the host. */
static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static struct kvm_steal_time *steal_time(struct soft_vcpu *v, struct soft_page *out_page)
{
    if (!(v->kvm_steal_time & KVM_MSR_ENABLED)) {
        return NULL;
    }
    return shared_bytes(v, v->kvm_steal_time & KVM_STEAL_VALID_BITS, sizeof(struct kvm_steal_time),
                        out_page);
}

static void steal_mark(struct soft_vcpu *v)
{
    v->paravirt.wall_ns = clock_ns(CLOCK_MONOTONIC);
    v->paravirt.thread_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* Time that passed while the vCPU wanted to run and its thread did not: others had the host's CPU, or a device's lock. */
static void steal_count(struct soft_vcpu *v)
{
    struct soft_paravirt *p = &v->paravirt;
    uint64_t wall_ns = p->wall_ns, thread_ns = p->thread_ns;
    steal_mark(v);
    p->stolen_ns += (int64_t)(p->wall_ns - wall_ns) - (int64_t)(p->thread_ns - thread_ns);
}

/* Tells the guest, whose reader takes an odd version for "being written". */
static void steal_tell(struct soft_vcpu *v, struct kvm_steal_time *time)
{
    volatile struct kvm_steal_time *shared = time;
    if (v->paravirt.stolen_ns <= 0) {
        return;
    }
    uint32_t version = shared->version | 1;
    shared->version = version;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    shared->steal += (uint64_t)v->paravirt.stolen_ns;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    shared->version = version + 1;
    v->paravirt.stolen_ns = 0;
}

static void steal_update(struct soft_vcpu *v)
{
    struct soft_page page;
    struct kvm_steal_time *time = steal_time(v, &page);
    if (time) {
        steal_count(v);
        steal_tell(v, time);
        soft_written(v, &page, sizeof(*time));
    }
    v->paravirt.due_tsc = soft_tsc(v) + v->vm->tsc_hz / STEAL_UPDATES_PER_SECOND;
}

void soft_paravirt_begin(struct soft_vcpu *v)
{
    struct soft_page page;
    struct kvm_steal_time *time = steal_time(v, &page);
    atomic_store(&v->paravirt.is_running, true);
    if (!time) {
        return;
    }
    steal_mark(v);
    uint8_t seen = __atomic_exchange_n(&time->preempted, 0, __ATOMIC_SEQ_CST);
    soft_written(v, &page, sizeof(*time));
    if (seen & KVM_VCPU_FLUSH_TLB) {
        soft_tlb_flush(v, true);
    }
}

void soft_paravirt_end(struct soft_vcpu *v)
{
    struct soft_page page;
    struct kvm_steal_time *time = steal_time(v, &page);
    soft_sync_apic(v);
    if (time) {
        steal_count(v);
        steal_tell(v, time);
        __atomic_store_n(&time->preempted, KVM_VCPU_PREEMPTED, __ATOMIC_SEQ_CST);
        soft_written(v, &page, sizeof(*time));
    }
    atomic_store(&v->paravirt.is_running, false);
}

static bool steal_set(struct soft_vcpu *v, uint64_t value)
{
    if (!has_feature(v, KVM_FEATURE_STEAL_TIME) || (value & KVM_STEAL_RESERVED_MASK)) {
        return false;
    }
    v->kvm_steal_time = value;
    v->paravirt.stolen_ns = 0;
    soft_paravirt_begin(v);
    return true;
}

/* --- the end of interrupts --- */

void soft_paravirt_interrupt(struct soft_vcpu *v, uint8_t vector)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    struct soft_page page;
    if ((v->kvm_pv_eoi & KVM_MSR_ENABLED) && callbacks->apic_can_end_late && callbacks->apic_end &&
        callbacks->apic_can_end_late(callbacks->ctx, v->vcpu.index, vector)) {
        uint64_t gpa = v->kvm_pv_eoi & ~(uint64_t)KVM_MSR_ENABLED;
        uint8_t *note = shared_bytes(v, gpa, sizeof(uint32_t), &page);
        if (note) {
            *(volatile uint8_t *)note = PV_EOI_PENDING;
            soft_written(v, &page, sizeof(uint32_t));
            v->paravirt.is_end_in_memory = true;
            v->paravirt.end_gpa = gpa;
        }
    }
    if ((v->kvm_steal_time & KVM_MSR_ENABLED) &&
        (int64_t)(soft_tsc(v) - v->paravirt.due_tsc) >= 0) {
        steal_update(v);
    }
}

/* The note says whether the guest has ended the interrupt. If not, it is taken back, and the guest will write to EOI: so
 * whatever is asked of the APIC finds it as if each end had been written at once. */
void soft_paravirt_end_interrupt(struct soft_vcpu *v)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    struct soft_page page;
    v->paravirt.is_end_in_memory = false;
    uint8_t *note = shared_bytes(v, v->paravirt.end_gpa, sizeof(uint32_t), &page);
    if (note && (*(volatile uint8_t *)note & PV_EOI_PENDING)) {
        *(volatile uint8_t *)note = PV_EOI_DONE;
        soft_written(v, &page, sizeof(uint32_t));
    } else {
        callbacks->apic_end(callbacks->ctx, v->vcpu.index);
    }
}

/* INIT: the APIC has forgotten what was in service. */
void soft_paravirt_reset(struct soft_vcpu *v)
{
    v->paravirt.is_end_in_memory = false;
    v->paravirt.is_unhalted = false;
}

static bool end_note_set(struct soft_vcpu *v, uint64_t value)
{
    if (!has_feature(v, KVM_FEATURE_PV_EOI) || (value & PV_EOI_RESERVED)) {
        return false;
    }
    soft_sync_apic(v);
    v->kvm_pv_eoi = value;
    return true;
}

/* --- MSRs --- */

bool soft_paravirt_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value)
{
    switch (msr) {
    case X86_MSR_KVM_STEAL_TIME:
        *out_value = v->kvm_steal_time;
        return has_feature(v, KVM_FEATURE_STEAL_TIME);
    case X86_MSR_KVM_PV_EOI_EN:
        *out_value = v->kvm_pv_eoi;
        return has_feature(v, KVM_FEATURE_PV_EOI);
    case X86_MSR_KVM_POLL_CONTROL:
        *out_value = v->kvm_poll_control;
        return has_feature(v, KVM_FEATURE_POLL_CONTROL);
    default:
        return false;
    }
}

bool soft_paravirt_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case X86_MSR_KVM_STEAL_TIME:
        return steal_set(v, value);
    case X86_MSR_KVM_PV_EOI_EN:
        return end_note_set(v, value);
    case X86_MSR_KVM_POLL_CONTROL:
        /* Whether the host may poll while the guest halts: halt.c. */
        if (!has_feature(v, KVM_FEATURE_POLL_CONTROL) || value > 1) {
            return false;
        }
        v->kvm_poll_control = value;
        return true;
    default:
        return false;
    }
}

/* --- hypercalls --- */

/* The vCPU whose APIC ID is 'id', as CPUID tells them: that of its index. */
static struct soft_vcpu *vcpu_by_apic_id(struct soft_vcpu *v, uint64_t id)
{
    return id < ENGINE_MAX_VCPUS ? atomic_load(&v->vm->vcpu[id]) : NULL;
}

static int64_t send_ipis(struct soft_vcpu *v, const uint64_t argument[4], unsigned bits)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    const uint32_t forms = 0xc0800; /* shorthand, logical destination */
    uint32_t icr = (uint32_t)argument[3];
    if (!callbacks->apic_send) {
        return -KVM_EOPNOTSUPP;
    }
    if (icr & forms) {
        return -KVM_EINVAL;
    }
    int64_t count = 0;
    for (unsigned half = 0; half < 2 && argument[2] < ENGINE_MAX_VCPUS; half++) {
        for (uint64_t left = argument[half]; left; left &= left - 1) {
            uint64_t id = argument[2] + half * bits + (unsigned)__builtin_ctzll(left);
            count +=
                vcpu_by_apic_id(v, id) && callbacks->apic_send(callbacks->ctx, (uint32_t)id, icr);
        }
    }
    return count;
}

/* The host's scheduler takes no wishes: what there is to give is the rest of this thread's turn. */
static void yield_to(struct soft_vcpu *v, uint64_t apic_id)
{
    struct soft_vcpu *other = vcpu_by_apic_id(v, apic_id);
    if (other && other != v) {
        soft_leave_guest(v);
        sched_yield();
        soft_enter_guest(v);
    }
}

/* Writes all or nothing, at an address of the guest's choice. */
static bool write_shared(struct soft_vcpu *v, uint64_t gpa, const void *data, uint32_t size)
{
    uint32_t first = MIN(size, (uint32_t)(GUEST_PAGE_SIZE - (gpa & (GUEST_PAGE_SIZE - 1))));
    struct soft_page page;
    if (!shared_bytes(v, gpa, first, &page) ||
        (first < size && !shared_bytes(v, gpa + first, size - first, &page))) {
        return false;
    }
    soft_physical_store(v, gpa, data, first);
    if (first < size) {
        soft_physical_store(v, gpa + first, (const uint8_t *)data + first, size - first);
    }
    return true;
}

/* The wall clock and the guest's TSC at one moment: what the guest's ptp_kvm disciplines its clock with. */
static int64_t pair_clocks(struct soft_vcpu *v, uint64_t gpa, uint64_t type)
{
    if (type != KVM_CLOCK_PAIRING_WALLCLOCK) {
        return -KVM_EOPNOTSUPP;
    }
    uint64_t before = soft_tsc(v), now = soft_wall_clock_ns(v->vm);
    struct kvm_clock_pairing pairing = {
        .sec = (int64_t)(now / NS_PER_SECOND),
        .nsec = (int64_t)(now % NS_PER_SECOND),
        .tsc = before + (soft_tsc(v) - before) / 2,
    };
    return write_shared(v, gpa, &pairing, sizeof(pairing)) ? 0 : -KVM_EFAULT;
}

static int64_t call(struct soft_vcpu *v, uint64_t number, const uint64_t argument[4], bool is_64)
{
    struct soft_vcpu *target;
    switch (number) {
    case KVM_HC_VAPIC_POLL_IRQ:
        return 0; /* to have come here is all there is to it */
    case KVM_HC_KICK_CPU:
        if (!has_feature(v, KVM_FEATURE_PV_UNHALT)) {
            return -KVM_ENOSYS;
        }
        target = vcpu_by_apic_id(v, argument[1]);
        if (target) {
            soft_wake_from_guest(target);
        }
        return 0;
    case KVM_HC_CLOCK_PAIRING:
        return pair_clocks(v, argument[0], argument[1]);
    case KVM_HC_SEND_IPI:
        return has_feature(v, KVM_FEATURE_PV_SEND_IPI) ? send_ipis(v, argument, is_64 ? 64 : 32)
                                                       : -KVM_ENOSYS;
    case KVM_HC_SCHED_YIELD:
        if (!has_feature(v, KVM_FEATURE_PV_SCHED_YIELD)) {
            return -KVM_ENOSYS;
        }
        yield_to(v, argument[0]);
        return 0;
    default:
        return -KVM_ENOSYS;
    }
}

void soft_hypercall(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (v->paravirt.has_hyperv && atomic_load(&v->vm->hyperv_guest_os_id) != 0) {
        soft_hyperv_call(v, op);
        SOFT_NEXT(v, op);
    }
    bool is_64 = soft_is_64(v);
    uint64_t mask = is_64 ? UINT64_MAX : UINT32_MAX;
    const uint64_t argument[4] = {v->gpr[X86_RBX] & mask, v->gpr[X86_RCX] & mask,
                                  v->gpr[X86_RDX] & mask, v->gpr[X86_RSI] & mask};
    int64_t result = v->cpl == 0 ? call(v, v->gpr[X86_RAX] & mask, argument, is_64) : -KVM_EPERM;
    soft_put_sized(v, X86_RAX * 8, is_64 ? 8 : 4, (uint64_t)result);
    SOFT_NEXT(v, op);
}
