/* Stopping the other vCPUs for the few accesses that have to be whole and that no instruction of the host does in one piece:
 * locked ones across two pages. */
#include <sched.h>

#include "engine/soft/mmu.h"

static struct soft_vcpu *other_vcpu(const struct soft_vcpu *v, size_t index)
{
    struct soft_vcpu *other = atomic_load(&v->vm->vcpu[index]);
    return other == v ? NULL : other;
}

void soft_stop_others(struct soft_vcpu *v)
{
    /* Out of the guest, as whoever holds the lock waits for all who are inside. */
    soft_leave_guest(v);
    pthread_mutex_lock(&v->vm->stop_lock);
    v->has_stopped_others = true;
    soft_enter_guest(v);
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *other = other_vcpu(v, i);
        if (other) {
            soft_request(other, SOFT_REQUEST_STOP);
        }
    }
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *other = other_vcpu(v, i);
        while (other && atomic_load(&other->is_in_guest)) {
            /* One of them may wait for this one, before it comes to its own request. */
            if (atomic_load(&v->requests) & SOFT_REQUEST_FLUSH_WRITES) {
                soft_tlb_flush_writes(v);
            }
            sched_yield();
        }
    }
}

void soft_resume_others(struct soft_vcpu *v)
{
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *other = other_vcpu(v, i);
        if (other) {
            atomic_fetch_and(&other->requests, ~SOFT_REQUEST_STOP);
        }
    }
    v->has_stopped_others = false;
    pthread_mutex_unlock(&v->vm->stop_lock);
}

void soft_wait_while_stopped(struct soft_vcpu *v)
{
    pthread_mutex_lock(&v->vm->stop_lock);
    pthread_mutex_unlock(&v->vm->stop_lock);
}
