/* Time that is counted in instructions: see icount.h. */
#include "engine/soft/icount.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/host/log.h"
#include "engine/soft/mmu.h"
#include "engine/soft/trace.h"

/* Without a timer: so that the budget stays within its 32 bits. */
#define BUDGET_MAX (1u << 30)

static uint64_t now_ns(const struct soft_vcpu *v)
{
    return (soft_icount_executed(v) << v->vm->icount.shift) + v->icount.skipped_ns;
}

uint64_t soft_icount_now_ns(const struct soft_vm *vm)
{
    const struct soft_vcpu *v = atomic_load(&vm->vcpu[0]);
    return v ? now_ns(v) : 0;
}

/* As many instructions as reach the timer. */
static void give_budget(struct soft_vcpu *v)
{
    uint64_t executed = soft_icount_executed(v), now = now_ns(v), left = BUDGET_MAX;
    if (v->icount.deadline_ns != UINT64_MAX) {
        uint64_t wait_ns = v->icount.deadline_ns > now ? v->icount.deadline_ns - now : 0;
        uint32_t shift = v->vm->icount.shift;
        left = MIN(left, (wait_ns >> shift) + ((wait_ns & (BIT(shift) - 1)) != 0));
    }
    v->icount.end = executed + left;
    v->native_budget = (int32_t)left;
}

void soft_icount_init(struct soft_vcpu *v)
{
    v->icount.deadline_ns = UINT64_MAX;
    v->icount.random = 0;
    give_budget(v);
}

void soft_icount_set_timer(struct soft_vcpu *v, uint64_t deadline_ns)
{
    v->icount.deadline_ns = deadline_ns;
    give_budget(v);
    /* Out of the block that runs: it has its instructions already. */
    soft_request(v, SOFT_REQUEST_STEP);
}

void soft_icount_expire(struct soft_vcpu *v)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    if (v->icount.deadline_ns <= now_ns(v)) {
        v->icount.deadline_ns = UINT64_MAX;
        if (callbacks->timer_expired) {
            soft_leave_guest(v);
            callbacks->timer_expired(callbacks->ctx, v->vcpu.index);
            soft_enter_guest(v);
        }
    }
    give_budget(v);
}

bool soft_icount_skip(struct soft_vcpu *v)
{
    if (v->icount.deadline_ns == UINT64_MAX) {
        return false;
    }
    uint64_t now = now_ns(v);
    if (v->icount.deadline_ns > now) {
        v->icount.skipped_ns += v->icount.deadline_ns - now;
    }
    soft_icount_expire(v);
    return true;
}

bool soft_icount_is_over(struct soft_vcpu *v)
{
    return !soft_is_at_repetition(v);
}

/* SplitMix64. */
uint64_t soft_icount_random(struct soft_vcpu *v)
{
    uint64_t z = v->icount.random += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* A sum over all bytes that are not 0, so that memory that was never touched need not be read. */
static uint64_t hash_range(const struct guest_slot *slot, uint64_t start, uint64_t end)
{
    uint64_t sum = 0;
    for (uint64_t at = start; at + 8 <= end; at += 8) {
        uint64_t word;
        memcpy(&word, slot->hva + at, sizeof(word));
        if (word) {
            uint64_t mixed = (word ^ (slot->gpa + at) * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9;
            sum += mixed ^ mixed >> 32;
        }
    }
    return sum;
}

static uint64_t hash_slot(const struct guest_slot *slot)
{
    uint64_t sum = 0, at = 0;
    while (at < slot->size_bytes) {
        off_t data = lseek(slot->fd, (off_t)(slot->fd_offset + at), SEEK_DATA);
        if (data < 0) {
            break;
        }
        off_t hole = lseek(slot->fd, data, SEEK_HOLE);
        uint64_t start = (uint64_t)data - slot->fd_offset;
        uint64_t end =
            hole < 0 ? slot->size_bytes : MIN((uint64_t)hole - slot->fd_offset, slot->size_bytes);
        if (start >= slot->size_bytes) {
            break;
        }
        sum += hash_range(slot, start, end);
        at = end;
    }
    return sum;
}

void soft_icount_report(const struct soft_vcpu *v)
{
    const struct guest_memory *memory = v->vm->vm.config.memory;
    uint64_t hash = 0;
    for (size_t i = 0; i < memory->slot_count; i++) {
        hash += hash_slot(&memory->slot[i]);
    }
    log_info("icount: %" PRIu64 " instructions, %" PRIu64 " ns, hash of memory %016" PRIx64,
             soft_icount_executed(v), now_ns(v), hash);
}
