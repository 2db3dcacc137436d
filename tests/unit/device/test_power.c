/* The ACPI power block's general purpose events: status, enable, the SCI, and saves with and without them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "device/acpi/power.h"

struct fixture {
    struct bus *pio;
    struct device *power;
    bool sci;
};

static uint64_t now_ns(void *ctx)
{
    return 0;
}

static void set_sci(void *ctx, uint32_t line, bool level)
{
    ((struct fixture *)ctx)->sci = level;
}

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){0};
    assert_int_equal(bus_create(&fixture.pio, NULL), 0);
    const struct power_options options = {
        .pio = fixture.pio, .sci = {.set = set_sci, .ctx = &fixture}, .now_ns = now_ns};
    assert_int_equal(power_create(&options, &fixture.power, NULL), 0);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    f->power->ops->destroy(f->power);
    bus_destroy(f->pio);
    return 0;
}

static void events_pull_the_sci_when_enabled(void **state)
{
    struct fixture *f = *state;

    power_raise_gpe(f->power, POWER_GPE_PCI);
    assert_false(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 2), 1 << POWER_GPE_PCI);
    assert_false(power_listens_to_gpe(f->power, POWER_GPE_PCI));
    bus_write(f->pio, 0, POWER_GPE + 2, 1, 1 << POWER_GPE_PCI);
    assert_true(f->sci);
    assert_true(power_listens_to_gpe(f->power, POWER_GPE_PCI));
    assert_false(power_listens_to_gpe(f->power, POWER_GPE_CPU));
    bus_write(f->pio, 0, POWER_GPE + 2, 1, 0); /* as long as it deals with it */
    assert_true(!f->sci && power_listens_to_gpe(f->power, POWER_GPE_PCI));
    bus_write(f->pio, 0, POWER_GPE + 2, 1, 1 << POWER_GPE_PCI);
    bus_write(f->pio, 0, POWER_GPE, 1, 1 << POWER_GPE_CPU); /* another one's bit */
    assert_true(f->sci);
    bus_write(f->pio, 0, POWER_GPE, 1, 1 << POWER_GPE_PCI);
    assert_false(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 4), 1u << (POWER_GPE_PCI + 16));

    /* The upper byte, by writes of each size; reads of single bytes. */
    power_raise_gpe(f->power, 12);
    bus_write(f->pio, 0, POWER_GPE + 2, 2, 1 << 12);
    assert_true(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE + 1, 1), 0x10);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE + 3, 1), 0x10);
    bus_write(f->pio, 0, POWER_GPE + 1, 1, 0x10);
    assert_false(f->sci);
    power_raise_gpe(f->power, 12);
    bus_write(f->pio, 0, POWER_GPE, 4, 1 << 12);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 4), 0);

    /* It shares the line with the button: either keeps it up. */
    bus_write(f->pio, 0, POWER_GPE + 2, 2, 1 << POWER_GPE_CPU);
    bus_write(f->pio, 0, POWER_PM1_EVENT + 2, 2, 0x100);
    power_press_button(f->power);
    power_raise_gpe(f->power, POWER_GPE_CPU);
    bus_write(f->pio, 0, POWER_PM1_EVENT, 2, 0x100);
    assert_true(f->sci);
    f->power->ops->reset(f->power);
    assert_false(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 4), 0);
}

struct bytes {
    uint8_t data[64];
    size_t size;
};

static int append(void *ctx, const void *data, size_t size)
{
    struct bytes *bytes = ctx;
    assert_true(size <= sizeof(bytes->data) - bytes->size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return 0;
}

static void events_are_saved(void **state)
{
    struct fixture *f = *state;
    struct bytes saved = {0};
    struct archive_writer writer = {.write = append, .ctx = &saved};
    struct error err = {0};

    bus_write(f->pio, 0, POWER_GPE + 2, 2, 1 << POWER_GPE_PCI);
    power_raise_gpe(f->power, POWER_GPE_PCI);
    f->power->ops->save(f->power, &writer);
    assert_int_equal(writer.status, 0);
    f->power->ops->reset(f->power);
    assert_false(f->sci);
    struct archive_reader reader;
    archive_reader_init(&reader, saved.data, saved.size);
    assert_int_equal(f->power->ops->restore(f->power, &reader, 2, &err), 0);
    assert_true(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 4), 0x20002);

    /* As version 1 wrote it: no events. */
    archive_reader_init(&reader, saved.data, saved.size - 4);
    assert_int_equal(f->power->ops->restore(f->power, &reader, 1, &err), 0);
    assert_int_equal(archive_finish(&reader, &err), 0);
    assert_false(f->sci);
    assert_int_equal(bus_read(f->pio, 0, POWER_GPE, 4), 0);
    archive_reader_init(&reader, saved.data, saved.size - 1);
    assert_int_equal(f->power->ops->restore(f->power, &reader, 2, &err), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(events_pull_the_sci_when_enabled, setup, teardown),
        cmocka_unit_test_setup_teardown(events_are_saved, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
