/* Tests with threads on several processors. */
#ifndef TESTS_GUEST_THREADS_H
#define TESTS_GUEST_THREADS_H

#include "guest.h"

#define TEST_MS 400u /* for one test, however slow the host */

static volatile unsigned arrived;
static uint64_t deadline;

static inline void begin_part(unsigned ms)
{
    deadline = rdtsc() + tsc_hz() / 1000 * ms;
}

static inline bool is_out_of_time(void)
{
    return rdtsc() > deadline;
}

/* All of 'count' threads come here before any goes on; 'turn' grows from call to call. */
static inline void meet(unsigned count, unsigned *turn)
{
    *turn += count;
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < *turn) {
        pause();
    }
}

static inline void on_threads(unsigned count, void (*fn)(void *arg))
{
    arrived = 0;
    for (unsigned i = 1; i < count; i++) {
        smp_run(i, fn, (void *)(uintptr_t)i);
    }
    fn(NULL);
    for (unsigned i = 1; i < count; i++) {
        smp_wait(i);
    }
}

/* False: the tests have nothing to do, and have said why. */
static inline bool has_several_processors(void)
{
    if (!check("all processors came", smp_start())) {
        return false;
    }
    if (cpu_count == 1) {
        check_skipped("what needs two processors", "there is one");
    }
    return cpu_count > 1;
}

#endif
