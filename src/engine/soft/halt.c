/* A vCPU that halts: it looks for requests for a while (halt_poll.h), then its thread sleeps on the word of its requests. Whoever
 * raises one calls the system only for a vCPU that sleeps. */
#include <linux/futex.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/soft/mmu.h"
#include "engine/soft/system.h"

/* Between two looks at the time. */
#define PAUSES 8
/* How often others are offered the CPU. Who shares it with others loses by polling, be they a vCPU that this one waits for. */
#define YIELD_NS 4000u
/* Nobody took the CPU if it was back sooner. If not, that may still be an interrupt or a hypervisor's work, which take tens of
 * microseconds in VMs: only the kernel's count of preemptions tells. */
#define SHORT_YIELD_NS 2500u
/* Who keeps the CPU for so long computes. */
#define LONG_GAP_NS 200000u

void soft_halt_init(struct soft_vcpu *v)
{
    bool is_on = !v->vm->icount.is_on;
    uint64_t hz = soft_host_tsc_hz();
    soft_halt_poll_init(&v->halt_poll, is_on ? v->vm->halt_poll_ns : 0, hz);
    v->halt_yield_ticks = hz / 1000000 * YIELD_NS / 1000;
    v->halt_short_yield_ticks = hz / 1000000 * SHORT_YIELD_NS / 1000;
    v->halt_long_gap_ticks = hz / 1000000 * LONG_GAP_NS / 1000;
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Whoever takes 'is_sleeping' back is the one to wake. The request stands before it is looked at, and a sleeper sets it before
 * it looks at the requests: one of the two sees the other. */
void soft_wake(struct soft_vcpu *v)
{
    if (atomic_load(&v->is_sleeping) && atomic_exchange(&v->is_sleeping, false)) {
        (void)futex(&v->requests, FUTEX_WAKE, 1);
    }
}

void soft_sleep(struct soft_vcpu *v)
{
    if (atomic_load(&v->requests) & SOFT_REQUESTS_WAKING) {
        return;
    }
    soft_paravirt_end(v);
    soft_leave_guest(v);
    for (;;) {
        atomic_store(&v->is_sleeping, true);
        uint32_t seen = atomic_load(&v->requests);
        if (seen & SOFT_REQUESTS_WAKING) {
            break;
        }
        /* Fails if a request has come since: the next round looks. */
        (void)futex(&v->requests, FUTEX_WAIT, seen);
    }
    atomic_store(&v->is_sleeping, false);
    soft_enter_guest(v);
    soft_paravirt_begin(v);
}

/* How often others have had this thread's CPU while it wanted to go on. */
static long count_preemptions(void)
{
    struct rusage usage = {0};
    (void)getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

struct watch {
    uint64_t now, offered; /* the last look at the time; when others were offered the CPU */
    long preemptions;      /* so far; -1: not counted yet */
};

/* A gap in its time began at 'since': did others take the CPU? False: they go on wanting it. */
static bool may_go_on(struct soft_vcpu *v, struct watch *w, uint64_t since)
{
    long before = w->preemptions;
    w->preemptions = count_preemptions();
    if (before < 0) {
        return true;
    }
    if (w->preemptions == before) {
        soft_halt_poll_is_alone(&v->halt_poll);
        return true;
    }
    if (w->now - since < v->halt_long_gap_ticks) {
        return soft_halt_poll_may_share(&v->halt_poll, w->now);
    }
    soft_halt_poll_host_is_busy(&v->halt_poll, since, w->now);
    return false;
}

/* Offers the CPU now and then. False: others go on wanting it. */
static bool watch_host(struct soft_vcpu *v, struct watch *w)
{
    uint64_t before = w->now;
    w->now = __rdtsc();
    if (w->now - before >= v->halt_long_gap_ticks) {
        return may_go_on(v, w, before);
    }
    if (w->now - w->offered < v->halt_yield_ticks) {
        return true;
    }
    if (w->preemptions < 0) {
        w->preemptions = count_preemptions();
    }
    before = __rdtsc();
    sched_yield();
    w->now = w->offered = __rdtsc();
    if (w->now - before >= v->halt_short_yield_ticks) {
        return may_go_on(v, w, before);
    }
    soft_halt_poll_is_alone(&v->halt_poll);
    return true;
}

/* Any request ends it, as others may wait for this vCPU to serve theirs. It counts as running all the time. False: sleep. */
static bool poll_requests(struct soft_vcpu *v, uint64_t start, uint64_t length)
{
    struct watch w = {.now = start, .offered = start, .preemptions = -1};
    if (v->halt_poll.is_shared) {
        w.offered -= v->halt_yield_ticks; /* at once: it may be what this one waits for */
    }
    while (w.now - start < length) {
        for (unsigned i = 0; i < PAUSES; i++) {
            _mm_pause();
            if (atomic_load_explicit(&v->requests, memory_order_relaxed) & ~SOFT_REQUEST_STEP) {
                return true;
            }
        }
        if (!watch_host(v, &w)) {
            v->stats.halt_polls_busy++;
            return false;
        }
    }
    return false;
}

void soft_halt(struct soft_vcpu *v)
{
    if (atomic_load(&v->requests) & SOFT_REQUESTS_WAKING) {
        return;
    }
    /* The guest's wish: it may poll by itself. */
    if (!v->halt_poll.max || !(v->kvm_poll_control & 1)) {
        soft_sleep(v);
        return;
    }
    uint64_t start = __rdtsc(), length = soft_halt_poll_begin(&v->halt_poll, start);
    v->stats.halt_polls += length != 0;
    if (length && poll_requests(v, start, length)) {
        v->stats.halt_polls_woken += (atomic_load(&v->requests) & SOFT_REQUESTS_WAKING) != 0;
        return;
    }
    soft_sleep(v);
    uint64_t end = __rdtsc();
    soft_halt_poll_end(&v->halt_poll, end, end - start);
}
