/* The software engine's TSC for a guest that comes from elsewhere: in step, at the rate that it knows, with kvmclock. */
#include "soft_guest.h"

static uint64_t tsc(const struct soft_guest *g, unsigned vcpu)
{
    return soft_engine_ops.vcpu_tsc(g->vcpu[vcpu]);
}

static void restore(struct soft_guest *g, unsigned vcpu, uint64_t value, uint64_t adjust)
{
    struct x86_state state;
    struct error err = {0};
    x86_state_reset(&state, vcpu == 0, false);
    state.tsc = value;
    state.tsc_adjust = adjust;
    if (soft_engine_ops.vcpu_set_state(g->vcpu[vcpu], &state, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

/* vCPU 1's counter was read a little after vCPU 0's, and is restored a little after; its guest had moved vCPU 2's on; vCPU 3's
 * was somewhere else from the start. */
static void test_counters_stay_in_step(void **state)
{
    struct soft_guest g;
    guest_start(&g, 4);
    const uint64_t hz = soft_engine_ops.vcpu_tsc_hz(g.vcpu[0]), start = 1000 * hz;
    restore(&g, 0, start, 0);
    restore(&g, 1, start + hz / 100, 0);
    restore(&g, 2, start + 5 * hz + hz / 100, 5 * hz);
    restore(&g, 3, start / 2, 0);
    uint64_t first = tsc(&g, 0), second = tsc(&g, 1), third = tsc(&g, 2), again = tsc(&g, 0);
    assert_true(first >= start);
    assert_true(second >= first && second <= again);
    assert_true(third >= first + 5 * hz && third <= again + 5 * hz);
    assert_true(tsc(&g, 3) < first);
    guest_end(&g);
}

struct reading {
    uint64_t host_before, guest, clock_ns, host_after;
};

static void read_clocks(struct soft_guest *g, struct reading *out_reading)
{
    out_reading->host_before = __builtin_ia32_rdtsc();
    out_reading->guest = tsc(g, 1);
    out_reading->clock_ns = soft_engine_ops.vm_get_clock(g->vm);
    out_reading->host_after = __builtin_ia32_rdtsc();
}

static void test_rate_of_another_host(void **state)
{
    struct soft_guest g;
    guest_start(&g, 2);
    const uint64_t hz = soft_engine_ops.vcpu_tsc_hz(g.vcpu[0]);
    /* What no measurement tells apart is the same. */
    assert_int_equal(soft_engine_ops.vcpu_set_tsc_hz(g.vcpu[0], hz + hz / 10000, NULL), 0);
    assert_int_equal(soft_engine_ops.vcpu_tsc_hz(g.vcpu[0]), hz);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(soft_engine_ops.vcpu_set_tsc_hz(g.vcpu[i], hz / 2, NULL), 0);
        restore(&g, i, 1000 * hz, 0);
        assert_int_equal(soft_engine_ops.vcpu_tsc_hz(g.vcpu[i]), hz / 2);
    }
    soft_engine_ops.vm_set_clock(g.vm, 7000000000ull);
    struct reading from, to;
    read_clocks(&g, &from);
    while (__builtin_ia32_rdtsc() - from.host_after < hz / 50) {
    }
    read_clocks(&g, &to);
    assert_true(from.clock_ns >= 7000000000ull);
    /* However long this process had to wait between two reads: each pair encloses what is between. */
    const uint64_t ticks = to.guest - from.guest, ns = to.clock_ns - from.clock_ns;
    const uint64_t host_most = to.host_after - from.host_before;
    const uint64_t host_least = to.host_before - from.host_after;
    assert_true(ticks <= host_most / 2 + 1 && ticks + 1 >= host_least / 2);
    assert_true((double)ns <= (double)host_most * 1e9 / (double)hz * 1.0001 + 1);
    assert_true((double)ns >= (double)host_least * 1e9 / (double)hz * 0.9999 - 1);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_stay_in_step),
        cmocka_unit_test(test_rate_of_another_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
