/* Signals that the software engine's vCPUs get from other threads: INIT and SIPI in every order. */
#include "soft_guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define COUNTER     0x20000u
#define SIPI_VECTOR (GUEST_CODE >> 12)
#define ROUNDS      2000

/* Where SIPI starts: counts, then halts for good. */
GUEST_CODE_BLOCK(startup, ".code16",
                 "mov $0x2000, %ax\n mov %ax, %ds\n lock incl 0\n cli\n 1: hlt\n jmp 1b\n");

struct processor {
    struct soft_guest *guest;
    atomic_bool is_over;
};

static void *run_processor(void *arg)
{
    struct processor *p = arg;
    while (!atomic_load(&p->is_over)) {
        (void)soft_engine_ops.vcpu_run(p->guest->vcpu[1]);
    }
    return NULL;
}

/* Until the counter is 'value', or for ten seconds. */
static bool wait_for_count(struct soft_guest *g, uint64_t value)
{
    const time_t end = time(NULL) + 10;
    while (guest_get64(g, COUNTER) != value) {
        if (time(NULL) > end) {
            return false;
        }
        sched_yield();
    }
    return true;
}

static void signal_processor(struct soft_guest *g, enum vcpu_signal signal, uint8_t value)
{
    soft_engine_ops.vcpu_signal(g->vcpu[1], signal, value);
}

static void test_init_sipi(void **state)
{
    struct soft_guest g;
    pthread_t thread;
    guest_start(&g, 2);
    struct processor p = {.guest = &g};
    guest_put(&g, GUEST_CODE, startup, GUEST_CODE_SIZE(startup));
    assert_int_equal(pthread_create(&thread, NULL, run_processor, &p), 0);
    uint64_t count = 0;
    bool has_started = true;
    for (unsigned i = 0; i < ROUNDS && has_started; i++) {
        /* Out of place: the first while it halts, or waits for INIT, the other one is void by the INIT behind it. */
        signal_processor(&g, VCPU_SIGNAL_SIPI, SIPI_VECTOR);
        signal_processor(&g, VCPU_SIGNAL_INIT, 0);
        signal_processor(&g, VCPU_SIGNAL_INIT, 0);
        for (unsigned n = 0; n < (i % 64) * 10; n++) {
            __asm__ volatile("pause");
        }
        signal_processor(&g, VCPU_SIGNAL_SIPI, SIPI_VECTOR);
        has_started = wait_for_count(&g, ++count);
    }
    atomic_store(&p.is_over, true);
    soft_engine_ops.vcpu_kick(g.vcpu[1]);
    pthread_join(thread, NULL);
    assert_true(has_started);
    assert_int_equal(guest_get64(&g, COUNTER), ROUNDS);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_sipi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
