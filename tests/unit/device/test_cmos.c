/* The clock: reading, setting, forms of numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "device/rtc/cmos.h"

static uint64_t now_s;

static uint64_t now_ns(void *ctx)
{
    return now_s * 1000000000u;
}

static unsigned get(struct bus *pio, unsigned index)
{
    bus_write(pio, 0, 0x70, 1, index);
    return (unsigned)bus_read(pio, 0, 0x71, 1);
}

static void set(struct bus *pio, unsigned index, unsigned value)
{
    bus_write(pio, 0, 0x70, 1, index);
    bus_write(pio, 0, 0x71, 1, value);
}

static void check(struct bus *pio, uint64_t at, unsigned year, unsigned month, unsigned day,
                  unsigned weekday)
{
    now_s = at;
    assert_int_equal(get(pio, 0x32) << 8 | get(pio, 0x09), year);
    assert_int_equal(get(pio, 0x08), month);
    assert_int_equal(get(pio, 0x07), day);
    assert_int_equal(get(pio, 0x06), weekday);
}

static void test_clock(void **state)
{
    struct bus *pio;
    struct device *device;

    assert_int_equal(bus_create(&pio, NULL), 0);
    const struct cmos_options options = {
        .pio = pio, .memory_below_4g = 512u << 20, .now_ns = now_ns};
    assert_int_equal(cmos_create(&options, &device, NULL), 0);
    check(pio, 0, 0x1970, 1, 1, 5);
    check(pio, 951782400, 0x2000, 2, 0x29, 3);
    check(pio, 1709251199, 0x2024, 2, 0x29, 5);
    check(pio, 1709251200, 0x2024, 3, 1, 6);
    check(pio, 4107542399, 0x2100, 2, 0x28, 1);
    check(pio, 4107542400, 0x2100, 3, 1, 2);
    now_s = 1709251200 + 13 * 3600 + 59 * 60 + 58;
    assert_int_equal(get(pio, 4), 0x13);
    assert_int_equal(get(pio, 2), 0x59);
    assert_int_equal(get(pio, 0), 0x58);
    set(pio, 0x0b, 0); /* 12 hours */
    assert_int_equal(get(pio, 4), 0x81);
    set(pio, 0x0b, 0x86); /* binary, 24 hours, being set */
    set(pio, 0, 58);
    set(pio, 2, 59);
    set(pio, 4, 23);
    set(pio, 7, 31);
    set(pio, 8, 12);
    set(pio, 9, 99);
    set(pio, 0x32, 19);
    set(pio, 0x0b, 0x06);
    now_s += 3600;
    assert_int_equal(get(pio, 0x09), 0);
    assert_int_equal(get(pio, 0x32), 20);
    assert_int_equal(get(pio, 4), 0);
    assert_int_equal(get(pio, 0x34) | get(pio, 0x35) << 8, (512 - 16) * 16);
    for (unsigned i = 0; i < 128; i++) { /* nonsense is taken */
        set(pio, i, 0xff);
        (void)get(pio, i);
    }
    device->ops->destroy(device);
    bus_destroy(pio);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_clock)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
