/* How long a vCPU polls before it sleeps. */
#include "engine/soft/halt_poll.h"
#include "engine/soft/system.h"

#include "soft_guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#define HZ     1000000000ull /* ticks are nanoseconds */
#define MAX_NS 100000u

static struct soft_halt_poll fresh(void)
{
    struct soft_halt_poll poll;
    soft_halt_poll_init(&poll, MAX_NS, HZ);
    return poll;
}

/* A halt that lasts 'waited', whether it polls or sleeps: how long it would poll. */
static uint64_t halt(struct soft_halt_poll *poll, uint64_t *now, uint64_t waited)
{
    uint64_t length = soft_halt_poll_begin(poll, *now);
    *now += waited;
    soft_halt_poll_end(poll, *now, waited);
    return length;
}

static void grows_while_waits_are_short(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000;
    assert_int_equal(halt(&poll, &now, 90000), 0); /* nothing is known yet */
    assert_int_equal(halt(&poll, &now, 90000), poll.start);
    uint64_t last = poll.start;
    for (unsigned i = 0; i < 10; i++) {
        uint64_t length = halt(&poll, &now, 90000);
        assert_true(length >= last && length <= poll.max);
        last = length;
    }
    assert_true(last >= 90000);
}

static void stays_where_it_catches_what_comes(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000;
    (void)halt(&poll, &now, 3000);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(halt(&poll, &now, 3000), poll.start);
    }
}

static void an_idle_guest_does_not_poll(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000, polled = 0;
    for (unsigned i = 0; i < 10; i++) {
        (void)halt(&poll, &now, 90000);
    }
    for (unsigned i = 0; i < 1000; i++) {
        polled += halt(&poll, &now, 4000000);
    }
    assert_true(polled <= 2 * (uint64_t)MAX_NS);
    assert_int_equal(soft_halt_poll_begin(&poll, now), 0);
    assert_int_equal(halt(&poll, &now, 20000), 0);
    assert_int_equal(halt(&poll, &now, 20000),
                     poll.start); /* and again, when it has something to do */
}

static void zero_is_never(void **state)
{
    struct soft_halt_poll poll;
    uint64_t now = 1000;
    soft_halt_poll_init(&poll, 0, HZ);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(halt(&poll, &now, i), 0);
    }
}

static void a_limit_below_the_first_step_holds(void **state)
{
    struct soft_halt_poll poll;
    uint64_t now = 1000;
    soft_halt_poll_init(&poll, 500, HZ);
    for (unsigned i = 0; i < 20; i++) {
        assert_true(halt(&poll, &now, 400) <= 500);
    }
    assert_int_equal(soft_halt_poll_begin(&poll, now), 500);
}

/* One that waits for 5000 each time, on a host where each poll finds others: the time that goes by between two polls. */
static uint64_t next_poll(struct soft_halt_poll *poll, uint64_t *now)
{
    uint64_t start = *now;
    while (!halt(poll, now, 5000)) {
    }
    uint64_t waited = *now - start;
    soft_halt_poll_host_is_busy(poll, *now - 2000, *now);
    return waited;
}

static void a_busy_host_is_asked_ever_less(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000, last = next_poll(&poll, &now);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t waited = next_poll(&poll, &now);
        assert_true(waited >= poll.min_hold);
        assert_true(waited <= poll.max_hold + 20000);
        assert_true(waited + 20000 >= last);
        last = waited;
    }
    assert_true(last >= poll.max_hold);
}

static void a_host_that_was_free_for_long_is_asked_soon(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000;
    for (unsigned i = 0; i < 20; i++) {
        (void)next_poll(&poll, &now);
    }
    now += 2 * poll.max_hold; /* polling all the time */
    soft_halt_poll_host_is_busy(&poll, now, now);
    assert_true(next_poll(&poll, &now) <= poll.min_hold + 20000);
}

static void the_first_hold_is_as_long_as_it_took_to_find_out(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 10000000, took = 3000000;
    assert_true(took > poll.min_hold);
    (void)halt(&poll, &now, 5000);
    soft_halt_poll_host_is_busy(&poll, now - took, now);
    (void)halt(&poll, &now, took - 1);
    assert_int_equal(poll.length, 0);
    (void)halt(&poll, &now, 5000);
    assert_int_equal(poll.length, poll.start);
}

/* Others take the CPU for a moment whenever it is offered: when it gives up. */
static uint64_t share(struct soft_halt_poll *poll, uint64_t *now)
{
    uint64_t start = *now;
    while (soft_halt_poll_may_share(poll, *now)) {
        *now += 20000;
    }
    return *now - start;
}

static void others_may_have_the_cpu_for_moments(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000;
    (void)halt(&poll, &now, 5000);
    for (unsigned i = 0; i < 3; i++) {
        for (uint64_t end = now + poll.max_shared - 1000; now < end; now += 20000) {
            assert_true(soft_halt_poll_may_share(&poll, now));
        }
        soft_halt_poll_is_alone(&poll);
    }
    assert_true(soft_halt_poll_may_share(&poll, now));
    now += poll.max_shared; /* it has not polled: who knows what was between */
    assert_true(soft_halt_poll_may_share(&poll, now));
    now += poll.max_shared - 1;
    assert_true(soft_halt_poll_may_share(&poll, now));
    assert_int_equal(soft_halt_poll_begin(&poll, now), poll.start);
    now++;
    assert_false(soft_halt_poll_may_share(&poll, now));
    assert_int_equal(soft_halt_poll_begin(&poll, now), 0);
}

static void others_who_stay_are_other_work(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = 1000, last = 0;
    for (unsigned i = 0; i < 10; i++) {
        while (!halt(&poll, &now, 5000)) {
        }
        uint64_t shared = share(&poll, &now);
        assert_true(shared >= poll.max_shared && shared <= poll.max_shared + 20000);
        assert_int_equal(soft_halt_poll_begin(&poll, now + poll.hold - 1), 0);
        assert_true(poll.hold >= MIN(MAX(2 * last, poll.max_shared), poll.max_hold));
        last = poll.hold;
    }
    assert_int_equal(last, poll.max_hold);
}

static void a_counter_may_wrap(void **state)
{
    struct soft_halt_poll poll = fresh();
    uint64_t now = UINT64_MAX - 1000;
    (void)halt(&poll, &now, 500);
    soft_halt_poll_host_is_busy(&poll, now, now);
    assert_int_equal(soft_halt_poll_begin(&poll, now + 1000), 0);
    now += poll.min_hold;
    assert_int_equal(halt(&poll, &now, 500), 0);
    assert_int_equal(halt(&poll, &now, 500), poll.start);
    poll = fresh();
    now = UINT64_MAX - poll.max_shared / 2;
    uint64_t shared = share(&poll, &now);
    assert_true(shared >= poll.max_shared && shared <= poll.max_shared + 20000);
    assert_true(poll.hold >= poll.max_shared && poll.hold <= shared);
    uint64_t last = poll.hold;
    now = poll.held_until;
    (void)share(&poll, &now);
    assert_int_equal(poll.hold, 2 * last);
}

static void the_option_sets_the_limit(void **state)
{
    static const struct {
        const char *options;
        uint32_t ns;
    } cases[] = {{"", SOFT_HALT_POLL_DEFAULT_NS},
                 {"halt-poll=0", 0},
                 {"cache=4,halt-poll=5000", 5000},
                 {"halt-poll=1000000", 1000000},
                 {"icount=on,halt-poll=5000", 0}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct soft_guest g;
        guest_start_with(&g, 1, cases[i].options);
        struct soft_halt_poll expected;
        soft_halt_poll_init(&expected, cases[i].ns, soft_host_tsc_hz());
        assert_int_equal(soft_from_vcpu(g.vcpu[0])->halt_poll.max, expected.max);
        guest_end(&g);
    }
    static const char *const bad[] = {
        "halt-poll",    "halt-poll=",   "halt-poll=1000001",
        "halt-poll=-1", "halt-poll=1k", "halt-poll=99999999999999999999"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct error err = {0};
        struct vm *vm = NULL;
        struct vm_config config = {.options = bad[i], .vcpu_count = 1};
        assert_int_equal(guest_memory_create(&config.memory, &err), 0);
        assert_true(soft_engine_ops.vm_create(&config, &vm, &err) < 0);
        assert_non_null(strstr(err.text, "halt-poll=NS (0 to 1000000)"));
        guest_memory_destroy(config.memory);
    }
}

#define COUNTER 0x20000u
#define HANDLER 0x100u
#define ROUNDS  3000u

/* Halts for ever; each NMI counts. */
GUEST_CODE_BLOCK(halts, ".code64",
                 "1: hlt\n jmp 1b\n"
                 ".org halts + 0x100\n incq 0x20000\n iretq\n");

struct runner {
    struct vcpu *vcpu;
    atomic_bool is_over;
};

static void *compute(void *arg)
{
    const atomic_bool *is_over = arg;
    while (!atomic_load(is_over)) {
    }
    return NULL;
}

static void pin(pthread_t thread)
{
    cpu_set_t all, first;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&first);
    for (unsigned cpu = 0; CPU_COUNT(&first) == 0; cpu++) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &first);
        }
    }
    assert_int_equal(pthread_setaffinity_np(thread, sizeof(first), &first), 0);
}

static void *run_vcpu(void *arg)
{
    struct runner *r = arg;
    while (!atomic_load(&r->is_over)) {
        (void)soft_engine_ops.vcpu_run(r->vcpu);
    }
    return NULL;
}

/* Wakes the vCPU when it has just begun to halt, polls, is about to sleep, or sleeps. */
static void wait_for_some_time(unsigned round)
{
    if (round % 64 == 0) {
        usleep(300);
    }
    for (unsigned n = 0; n < round % 64 * 40; n++) {
        __asm__ volatile("pause");
    }
}

static void no_wake_up_is_lost(void **state)
{
    static const struct {
        const char *options;
        bool is_forbidden; /* by the guest, which polls by itself */
    } cases[] = {{"", false},
                 {"", true},
                 {"halt-poll=0", false},
                 {"halt-poll=20000", false},
                 {"halt-poll=1000000", false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct soft_guest g;
        struct x86_state s;
        struct error err = {0};
        pthread_t thread;
        guest_start_with(&g, 1, cases[i].options);
        guest_long_mode(&g, 0, halts, GUEST_CODE_SIZE(halts), &s);
        s.kvm_poll_control = !cases[i].is_forbidden;
        guest_gate(&g, X86_NMI, GUEST_CODE + HANDLER, 0, 0);
        assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[0], &s, &err), 0);
        struct runner r = {.vcpu = g.vcpu[0]};
        assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &r), 0);
        for (unsigned round = 0; round < ROUNDS; round++) {
            wait_for_some_time(round);
            soft_engine_ops.vcpu_signal(g.vcpu[0], VCPU_SIGNAL_NMI, 0);
            while (guest_get64(&g, COUNTER) != round + 1) {
                sched_yield();
            }
        }
        atomic_store(&r.is_over, true);
        soft_engine_ops.vcpu_kick(g.vcpu[0]);
        pthread_join(thread, NULL);
        const struct soft_stats *stats = &soft_from_vcpu(g.vcpu[0])->stats;
        assert_true(stats->halts > ROUNDS / 2);
        assert_true(stats->halt_polls_woken + stats->halt_polls_busy <= stats->halt_polls);
        if (cases[i].is_forbidden || soft_from_vcpu(g.vcpu[0])->halt_poll.max == 0) {
            assert_int_equal(stats->halt_polls, 0);
        }
        guest_end(&g);
    }
}

static void it_gives_way_to_who_computes_on_its_cpu(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    pthread_t thread, other;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, halts, GUEST_CODE_SIZE(halts), &s);
    s.kvm_poll_control = true;
    guest_gate(&g, X86_NMI, GUEST_CODE + HANDLER, 0, 0);
    assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[0], &s, &err), 0);
    struct soft_vcpu *v = soft_from_vcpu(g.vcpu[0]);
    v->halt_poll.length = v->halt_poll.max;
    struct runner r = {.vcpu = g.vcpu[0]};
    assert_int_equal(pthread_create(&other, NULL, compute, &r.is_over), 0);
    pin(other);
    assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &r), 0);
    pin(thread);
    uint64_t polls_busy = 0;
    for (unsigned round = 0; round < ROUNDS && polls_busy == 0; round++) {
        wait_for_some_time(round);
        soft_engine_ops.vcpu_signal(g.vcpu[0], VCPU_SIGNAL_NMI, 0);
        while (guest_get64(&g, COUNTER) != round + 1) {
            sched_yield();
        }
        polls_busy = __atomic_load_n(&v->stats.halt_polls_busy, __ATOMIC_RELAXED);
    }
    atomic_store(&r.is_over, true);
    soft_engine_ops.vcpu_kick(g.vcpu[0]);
    pthread_join(thread, NULL);
    pthread_join(other, NULL);
    assert_true(polls_busy > 0);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_while_waits_are_short),
        cmocka_unit_test(stays_where_it_catches_what_comes),
        cmocka_unit_test(an_idle_guest_does_not_poll),
        cmocka_unit_test(zero_is_never),
        cmocka_unit_test(a_limit_below_the_first_step_holds),
        cmocka_unit_test(a_busy_host_is_asked_ever_less),
        cmocka_unit_test(a_host_that_was_free_for_long_is_asked_soon),
        cmocka_unit_test(the_first_hold_is_as_long_as_it_took_to_find_out),
        cmocka_unit_test(others_may_have_the_cpu_for_moments),
        cmocka_unit_test(others_who_stay_are_other_work),
        cmocka_unit_test(a_counter_may_wrap),
        cmocka_unit_test(the_option_sets_the_limit),
        cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(it_gives_way_to_who_computes_on_its_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
