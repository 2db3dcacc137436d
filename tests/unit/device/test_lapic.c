/* Local APICs and the I/O APIC: priorities, end of interrupt, timers under a fake clock, IPIs, x2APIC, save and restore. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "device/irqchip/ioapic.h"
#include "device/irqchip/lapic.h"

#define VCPUS 4
#define HZ    2000000000ull

struct bed {
    struct lapic_set *lapics;
    struct ioapic *ioapic;
    uint64_t now_ns;
    uint64_t deadline_ns[VCPUS];
    unsigned signals[VCPUS][5];
    uint8_t value[VCPUS];
};

static void on_signal(void *ctx, uint32_t vcpu, enum vcpu_signal signal, uint8_t value)
{
    struct bed *bed = ctx;
    bed->signals[vcpu][signal]++;
    bed->value[vcpu] = value;
}

static uint64_t now_ns(void *ctx)
{
    return ((struct bed *)ctx)->now_ns;
}

static void arm(void *ctx, uint32_t vcpu, uint64_t deadline_ns)
{
    ((struct bed *)ctx)->deadline_ns[vcpu] = deadline_ns;
}

static uint64_t tsc(void *ctx, uint32_t vcpu)
{
    return ((struct bed *)ctx)->now_ns * (HZ / 1000000000u);
}

static uint64_t tsc_hz(void *ctx, uint32_t vcpu)
{
    return HZ;
}

static void eoi(void *ctx, uint8_t vector)
{
    ioapic_end_of_interrupt(((struct bed *)ctx)->ioapic, vector);
}

static void deliver(void *ctx, const struct apic_message *message)
{
    lapic_deliver(((struct bed *)ctx)->lapics, message);
}

static void write(struct bed *bed, uint32_t vcpu, uint32_t offset, uint32_t value)
{
    lapic_write(bed->lapics, vcpu, offset, 4, value);
}

static uint32_t read(struct bed *bed, uint32_t vcpu, uint32_t offset)
{
    return lapic_read(bed->lapics, vcpu, offset, 4);
}

static void run_to(struct bed *bed, uint32_t vcpu, uint64_t ns)
{
    bed->now_ns = ns;
    if (bed->deadline_ns[vcpu] <= ns) {
        lapic_timer_expired(bed->lapics, vcpu);
    }
}

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof(bed));
    bed.now_ns = 1000;
    const struct lapic_host host = {&bed, on_signal, now_ns, arm, tsc, tsc_hz, eoi};
    for (uint32_t i = 0; i < VCPUS; i++) {
        bed.deadline_ns[i] = UINT64_MAX;
    }
    assert_int_equal(lapic_set_create(&host, VCPUS, &bed.lapics, NULL), 0);
    assert_int_equal(ioapic_create(deliver, &bed, &bed.ioapic, NULL), 0);
    for (uint32_t i = 0; i < VCPUS; i++) {
        write(&bed, i, 0xf0, 0x1ff);
        write(&bed, i, 0xd0, 1u << (24 + i)); /* flat logical IDs */
    }
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    ioapic_destroy(bed->ioapic);
    lapic_set_destroy(bed->lapics);
    return 0;
}

static void test_priority(void **state)
{
    struct bed *bed = *state;

    lapic_send_msi(bed->lapics, 0xfee00000, 0x41);
    lapic_send_msi(bed->lapics, 0xfee00000, 0x61);
    lapic_send_msi(bed->lapics, 0xfee00000, 0x62);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x62);
    assert_int_equal(read(bed, 0, 0xa0), 0x60);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), -1); /* same class */
    write(bed, 0, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x61);
    lapic_send_msi(bed->lapics, 0xfee00000, 0x71);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x71); /* nested */
    write(bed, 0, 0xb0, 0);
    write(bed, 0, 0xb0, 0);
    lapic_set_cr8(bed->lapics, 0, 4);
    assert_int_equal(read(bed, 0, 0x80), 0x40);
    assert_false(lapic_has_interrupt(bed->lapics, 0));
    unsigned before = bed->signals[0][VCPU_SIGNAL_INTERRUPT];
    lapic_set_cr8(bed->lapics, 0, 3);
    assert_int_equal(bed->signals[0][VCPU_SIGNAL_INTERRUPT], before + 1);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x41);
}

static void test_bad_vector(void **state)
{
    struct bed *bed = *state;

    write(bed, 0, 0x370, 0x33);
    lapic_send_msi(bed->lapics, 0xfee00000, 5);
    write(bed, 0, 0x280, 0);
    assert_int_equal(read(bed, 0, 0x280), 0x40);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x33);
    (void)read(bed, 0, 0x3f0);
    write(bed, 0, 0x280, 0);
    assert_int_equal(read(bed, 0, 0x280), 0x80);
}

static void test_ipis(void **state)
{
    struct bed *bed = *state;

    write(bed, 0, 0x310, 2u << 24);
    write(bed, 0, 0x300, 0x50); /* physical */
    assert_int_equal(lapic_acknowledge(bed->lapics, 2), 0x50);
    write(bed, 0, 0x310, 0x0a000000);
    write(bed, 0, 0x300, 0x851); /* logical flat: 1 and 3 */
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), -1);
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x51);
    assert_int_equal(lapic_acknowledge(bed->lapics, 3), 0x51);
    write(bed, 0, 0x300, 0xc0061); /* all others */
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), -1);
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x61);
    write(bed, 1, 0x300, 0x40071); /* self */
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x71);
    write(bed, 0, 0x310, 1u << 24);
    write(bed, 0, 0x300, 0x4500); /* INIT */
    assert_int_equal(bed->signals[1][VCPU_SIGNAL_INIT], 1);
    write(bed, 0, 0x300, 0x8500); /* its de-assertion */
    assert_int_equal(bed->signals[1][VCPU_SIGNAL_INIT], 1);
    write(bed, 0, 0x300, 0x469a);
    assert_int_equal(bed->signals[1][VCPU_SIGNAL_SIPI], 1);
    assert_int_equal(bed->value[1], 0x9a);
    write(bed, 0, 0x300, 0xc0400); /* NMI to the others */
    assert_int_equal(bed->signals[0][VCPU_SIGNAL_NMI], 0);
    assert_int_equal(bed->signals[3][VCPU_SIGNAL_NMI], 1);
    write(bed, 2, 0x80, 0x70); /* above what 3 has in service */
    write(bed, 3, 0x80, 0x10);
    lapic_send_msi(bed->lapics, 0xfee0c00c, 0x181); /* lowest priority of 2 and 3 */
    assert_true(lapic_has_interrupt(bed->lapics, 3));
    assert_true((read(bed, 2, 0x240) & 2) == 0);
}

static void test_one_shot_and_periodic(void **state)
{
    struct bed *bed = *state;

    write(bed, 0, 0x3e0, 0xb); /* by 1 */
    write(bed, 0, 0x320, 0x40);
    write(bed, 0, 0x380, 100000);
    assert_int_equal(bed->deadline_ns[0], 101000);
    run_to(bed, 0, 51000);
    assert_int_equal(read(bed, 0, 0x390), 50000);
    run_to(bed, 0, 101000);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x40);
    assert_int_equal(read(bed, 0, 0x390), 0);
    assert_true(bed->deadline_ns[0] == UINT64_MAX);
    write(bed, 0, 0xb0, 0);

    write(bed, 0, 0x3e0, 0x0); /* by 2 */
    write(bed, 0, 0x320, 0x20041);
    write(bed, 0, 0x380, 100000);
    run_to(bed, 0, 301000);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x41);
    assert_int_equal(bed->deadline_ns[0], 501000);
    run_to(bed, 0, 951000); /* late by two: one interrupt, and in step again */
    assert_int_equal(bed->deadline_ns[0], 1101000);
    write(bed, 0, 0x320, 0x30041); /* masked: the count goes on, silently */
    write(bed, 0, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x41);
    run_to(bed, 0, 1101000);
    write(bed, 0, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), -1);
}

static void test_tsc_deadline(void **state)
{
    struct bed *bed = *state;
    uint64_t value;

    assert_true(lapic_msr_write(bed->lapics, 0, X86_MSR_TSC_DEADLINE, 5000));
    assert_true(bed->deadline_ns[0] == UINT64_MAX); /* ignored in the other modes */
    write(bed, 0, 0x320, 0x40042);
    assert_true(lapic_msr_write(bed->lapics, 0, X86_MSR_TSC_DEADLINE, 10001));
    assert_int_equal(bed->deadline_ns[0], 5001);
    assert_true(lapic_msr_read(bed->lapics, 0, X86_MSR_TSC_DEADLINE, &value));
    assert_int_equal(value, 10001);
    write(bed, 0, 0x380, 7);
    assert_int_equal(bed->deadline_ns[0], 5001);
    run_to(bed, 0, 5001);
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x42);
    assert_true(lapic_msr_read(bed->lapics, 0, X86_MSR_TSC_DEADLINE, &value));
    assert_int_equal(value, 0);
    assert_true(lapic_msr_write(bed->lapics, 0, X86_MSR_TSC_DEADLINE, 4)); /* in the past */
    assert_int_equal(bed->deadline_ns[0], 5001);
    assert_true(lapic_msr_write(bed->lapics, 0, X86_MSR_TSC_DEADLINE, 0));
    assert_true(bed->deadline_ns[0] == UINT64_MAX);
}

static void test_x2apic(void **state)
{
    struct bed *bed = *state;
    const uint64_t base = X86_APIC_DEFAULT_GPA;
    uint64_t value;

    assert_false(lapic_msr_read(bed->lapics, 1, 0x802, &value)); /* not in that mode yet */
    assert_false(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0x400));
    assert_false(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0x801));
    assert_true(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0xc00));
    assert_true(lapic_msr_write(bed->lapics, 2, X86_MSR_APIC_BASE, base | 0xc00));
    uint32_t offset;
    assert_false(lapic_claims(bed->lapics, 1, base + 0x20, &offset));
    assert_true(lapic_claims(bed->lapics, 0, base + 0x20, &offset));
    assert_true(lapic_msr_read(bed->lapics, 1, 0x802, &value));
    assert_int_equal(value, 1);
    assert_true(lapic_msr_read(bed->lapics, 2, 0x80d, &value));
    assert_int_equal(value, 4);
    assert_true(lapic_msr_write(bed->lapics, 1, 0x830, 0x0000000200000055ull));
    assert_int_equal(lapic_acknowledge(bed->lapics, 2), 0x55);
    assert_true(lapic_msr_write(bed->lapics, 1, 0x830, 0x0000000400000866ull)); /* logical */
    assert_int_equal(lapic_acknowledge(bed->lapics, 2), 0x66);
    assert_true(lapic_msr_write(bed->lapics, 1, 0x83f, 0x77));
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x77);
    assert_false(lapic_msr_write(bed->lapics, 1, 0x80b, 1)); /* EOI takes only 0 */
    assert_true(lapic_msr_write(bed->lapics, 1, 0x80b, 0));
    assert_false(lapic_msr_write(bed->lapics, 1, 0x802, 3));   /* read-only */
    assert_false(lapic_msr_write(bed->lapics, 1, 0x80e, 0));   /* gone */
    assert_false(lapic_msr_write(bed->lapics, 1, 0x808, 256)); /* reserved bits */
    assert_false(lapic_msr_read(bed->lapics, 1, 0x83f, &value));
    assert_false(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0x800));
    assert_true(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base));
    assert_false(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0xc00));
    assert_true(lapic_msr_write(bed->lapics, 1, X86_MSR_APIC_BASE, base | 0x800));
}

static void ioapic_write(struct bed *bed, uint32_t reg, uint32_t value)
{
    ioapic_region_ops.write(bed->ioapic, 0, 0x00, 4, reg);
    ioapic_region_ops.write(bed->ioapic, 0, 0x10, 4, value);
}

static uint32_t ioapic_read(struct bed *bed, uint32_t reg)
{
    ioapic_region_ops.write(bed->ioapic, 0, 0x00, 4, reg);
    return (uint32_t)ioapic_region_ops.read(bed->ioapic, 0, 0x10, 4);
}

static void test_ioapic_level(void **state)
{
    struct bed *bed = *state;

    assert_int_equal(ioapic_read(bed, 1), 0x170011);
    ioapic_write(bed, 0x10 + 2 * 9 + 1, 1u << 24);
    ioapic_write(bed, 0x10 + 2 * 9, 0x8049);
    ioapic_set_pin(bed->ioapic, 9, true);
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x49);
    assert_int_equal(ioapic_read(bed, 0x10 + 2 * 9) & 0x4000, 0x4000);
    assert_int_equal(read(bed, 1, 0x1a0) & (1u << 9), 1u << 9); /* TMR */
    ioapic_set_pin(bed->ioapic, 9, true);
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), -1);
    write(bed, 1, 0xb0, 0); /* still asserted: again */
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), 0x49);
    ioapic_set_pin(bed->ioapic, 9, false);
    write(bed, 1, 0xb0, 0);
    assert_int_equal(lapic_acknowledge(bed->lapics, 1), -1);
    assert_int_equal(ioapic_read(bed, 0x10 + 2 * 9) & 0x4000, 0);
    ioapic_write(bed, 0x10 + 2 * 9, 0x18049); /* masked: waits, and comes on unmasking */
    ioapic_set_pin(bed->ioapic, 9, true);
    assert_false(lapic_has_interrupt(bed->lapics, 1));
    ioapic_write(bed, 0x10 + 2 * 9, 0x8049);
    assert_true(lapic_has_interrupt(bed->lapics, 1));
}

static void test_ioapic_edge(void **state)
{
    struct bed *bed = *state;

    ioapic_write(bed, 0x10 + 2 * 4 + 1, 0xff000000u);
    ioapic_write(bed, 0x10 + 2 * 4, 0x0035); /* physical broadcast */
    ioapic_set_pin(bed->ioapic, 4, true);
    for (uint32_t i = 0; i < VCPUS; i++) {
        assert_int_equal(lapic_acknowledge(bed->lapics, i), 0x35);
        write(bed, i, 0xb0, 0);
    }
    ioapic_set_pin(bed->ioapic, 4, true);
    assert_false(lapic_has_interrupt(bed->lapics, 0));
    ioapic_set_pin(bed->ioapic, 4, false);
    ioapic_set_pin(bed->ioapic, 4, true);
    assert_true(lapic_has_interrupt(bed->lapics, 0));
}

static void test_save(void **state)
{
    struct bed *bed = *state;
    static struct x86_state saved, again;

    write(bed, 0, 0x320, 0x40042);
    assert_true(lapic_msr_write(bed->lapics, 0, X86_MSR_TSC_DEADLINE, 10000));
    write(bed, 0, 0x80, 0x30);
    lapic_send_msi(bed->lapics, 0xfee00000, 0x51);
    lapic_save(bed->lapics, 0, &saved);
    assert_int_equal(saved.cr8, 3);
    assert_int_equal(saved.tsc_deadline, 10000);
    lapic_reset(bed->lapics, 0, false);
    assert_false(lapic_has_interrupt(bed->lapics, 0));
    assert_int_equal(lapic_restore(bed->lapics, 0, &saved, NULL), 0);
    assert_int_equal(bed->deadline_ns[0], 5000);
    lapic_save(bed->lapics, 0, &again);
    assert_memory_equal(saved.lapic, again.lapic, sizeof(saved.lapic));
    assert_int_equal(lapic_acknowledge(bed->lapics, 0), 0x51);
    saved.apic_base = 0xfee00400;
    struct error err;
    assert_int_equal(lapic_restore(bed->lapics, 0, &saved, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_priority, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_vector, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ipis, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_shot_and_periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tsc_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_x2apic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ioapic_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
