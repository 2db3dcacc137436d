/* Threads: hand-over, atomic instructions, computing side by side. With two threads, one unit is one of each. */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

typedef void *(*thread_fn)(void *);

static pthread_t start_thread(thread_fn body, void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, argument) != 0) {
        bench_fail("pthread_create");
    }
    return thread;
}

/* --- futex --- */

static uint32_t turn;

static void futex_wait_while(uint32_t value)
{
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) == value) {
        (void)syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    }
}

static void give_turn(uint32_t to)
{
    __atomic_store_n(&turn, to, __ATOMIC_RELEASE);
    (void)syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_partner(void *argument)
{
    uint64_t count = *(const uint64_t *)argument;
    for (uint64_t n = 0; n < count; n++) {
        futex_wait_while(0);
        give_turn(0);
    }
    return NULL;
}

/* One unit is the turn given away and got back. */
static uint64_t run_futex(uint64_t count)
{
    bench_timer_stop();
    turn = 0;
    pthread_t partner = start_thread(futex_partner, &count);
    bench_timer_start();
    uint64_t sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        give_turn(1);
        futex_wait_while(1);
        sum += turn + 1;
    }
    bench_timer_stop();
    (void)pthread_join(partner, NULL);
    bench_timer_start();
    return sum;
}

/* --- work on two threads that start together --- */

struct worker {
    uint64_t count, result;
    uint64_t (*work)(uint64_t count, uint8_t seed);
    uint8_t seed;
    uint32_t *waiting; /* how many have not arrived yet */
};

static void *worker_body(void *argument)
{
    struct worker *worker = argument;
    (void)__atomic_sub_fetch(worker->waiting, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(worker->waiting, __ATOMIC_ACQUIRE) != 0) {
        __builtin_ia32_pause();
    }
    worker->result = worker->work(worker->count, worker->seed);
    return NULL;
}

static uint64_t run_on_two(uint64_t count, uint64_t (*work)(uint64_t, uint8_t))
{
    bench_timer_stop();
    uint32_t waiting = 3;
    struct worker workers[2];
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        workers[i] = (struct worker){count, 0, work, (uint8_t)(i + 1), &waiting};
        threads[i] = start_thread(worker_body, &workers[i]);
    }
    while (__atomic_load_n(&waiting, __ATOMIC_ACQUIRE) != 1) {
        __builtin_ia32_pause();
    }
    bench_timer_start();
    (void)__atomic_sub_fetch(&waiting, 1, __ATOMIC_ACQ_REL);
    (void)pthread_join(threads[0], NULL);
    (void)pthread_join(threads[1], NULL);
    return bench_mix(workers[0].result, workers[1].result);
}

static uint64_t run_sha256_two(uint64_t count)
{
    return run_on_two(count, bench_sha256_chain);
}

static uint64_t counter __attribute__((aligned(64)));

static uint64_t add_to_counter(uint64_t count, uint8_t seed)
{
    for (uint64_t n = 0; n < count; n++) {
        uint64_t old = seed;
        __asm__ volatile("lock xadd %0, %1" : "+r"(old), "+m"(counter) : : "cc");
    }
    return count;
}

static uint64_t run_xadd(uint64_t count)
{
    counter = 0;
    (void)add_to_counter(count, 1);
    return counter;
}

static uint64_t run_xadd_two(uint64_t count)
{
    counter = 0;
    (void)run_on_two(count, add_to_counter);
    return counter;
}

const struct bench_case bench_thread_cases[] = {
    {"futex", "round trip", run_futex, .check_count = 20, .is_smp = true},
    {"xadd", "lock xadd", run_xadd, .check_count = 20000, .is_smp = true},
    {"xadd_2", "lock xadd", run_xadd_two, .check_count = 20000, .threads = 2, .is_smp = true},
    {"sha256_2", "64-byte block", run_sha256_two, .check_count = 300, .threads = 2, .is_smp = true},
    {0},
};
