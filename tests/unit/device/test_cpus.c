/* Covers device/acpi/cpus.c: what a guest reads and writes, and what it may not do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "device/acpi/cpus.h"

#define COUNT 4

struct bed {
    struct bus *pio;
    struct device *device;
    unsigned raised, ejected;
};

static void raise(void *ctx)
{
    ((struct bed *)ctx)->raised++;
}

static void ejected(void *ctx)
{
    ((struct bed *)ctx)->ejected++;
}

static void begin(struct bed *bed)
{
    *bed = (struct bed){0};
    assert_int_equal(bus_create(&bed->pio, NULL), 0);
    const struct cpus_options options = {.pio = bed->pio,
                                         .count = COUNT,
                                         .present = 1,
                                         .ctx = bed,
                                         .raise = raise,
                                         .ejected = ejected};
    assert_int_equal(cpus_create(&options, &bed->device, NULL), 0);
}

static void end(struct bed *bed)
{
    bed->device->ops->destroy(bed->device);
    bus_destroy(bed->pio);
}

static uint64_t flags(struct bed *bed, uint32_t index)
{
    bus_write(bed->pio, 0, CPUS_PORT, 4, index);
    return bus_read(bed->pio, 0, CPUS_PORT + 4, 4);
}

static void order(struct bed *bed, uint32_t index, uint32_t command)
{
    bus_write(bed->pio, 0, CPUS_PORT, 4, index);
    bus_write(bed->pio, 0, CPUS_PORT + 4, 4, command);
}

static void they_come_and_go(void **state)
{
    struct bed bed;
    begin(&bed);
    assert_int_equal(flags(&bed, 0), CPUS_PRESENT);
    assert_int_equal(flags(&bed, 1), 0);
    cpus_change(bed.device, 0x6, 0, 0);
    assert_int_equal(bed.raised, 1);
    assert_int_equal(cpus_present(bed.device), 0x7);
    assert_int_equal(flags(&bed, 2), CPUS_PRESENT | CPUS_HAS_COME);
    order(&bed, 2, CPUS_HAS_COME);
    assert_int_equal(flags(&bed, 2), CPUS_PRESENT);
    assert_int_equal(flags(&bed, 1), CPUS_PRESENT | CPUS_HAS_COME);

    cpus_change(bed.device, 0, 0, 0x4);
    assert_int_equal(flags(&bed, 2), CPUS_PRESENT | CPUS_TO_LEAVE);
    order(&bed, 2, CPUS_TO_LEAVE);
    assert_int_equal(flags(&bed, 2), CPUS_PRESENT);
    assert_int_equal(cpus_leaving(bed.device), 0x4);
    order(&bed, 2, CPUS_EJECT);
    assert_int_equal(bed.ejected, 1);
    assert_int_equal(cpus_present(bed.device), 0x3);
    assert_int_equal(cpus_leaving(bed.device), 0);
    end(&bed);
}

static void only_those_leave_that_are_asked_to(void **state)
{
    struct bed bed;
    begin(&bed);
    cpus_change(bed.device, 0x2, 0, 0);
    order(&bed, 1, CPUS_HAS_COME);
    /* The guest has let go of one that stays: it is told to take it again. */
    unsigned before = bed.raised;
    order(&bed, 1, CPUS_EJECT);
    assert_int_equal(bed.ejected, 0);
    assert_int_equal(bed.raised, before + 1);
    assert_int_equal(flags(&bed, 1), CPUS_PRESENT | CPUS_HAS_COME);
    /* Asked, and then not any more. */
    cpus_change(bed.device, 0, 0, 0x2);
    cpus_change(bed.device, 0, 0x2, 0);
    assert_int_equal(flags(&bed, 1) & CPUS_TO_LEAVE, 0);
    order(&bed, 1, CPUS_EJECT);
    assert_int_equal(cpus_present(bed.device), 0x3);
    /* The first one, those that are not there, and those that there are none of. */
    cpus_change(bed.device, 0, 0, ~0ull);
    before = bed.raised;
    order(&bed, 0, CPUS_EJECT);
    order(&bed, 3, CPUS_EJECT);
    order(&bed, COUNT, CPUS_EJECT);
    order(&bed, 64, CPUS_EJECT);
    order(&bed, UINT32_MAX, CPUS_EJECT | CPUS_HAS_COME | CPUS_TO_LEAVE);
    assert_int_equal(flags(&bed, UINT32_MAX), 0);
    assert_int_equal(bed.ejected, 0);
    assert_int_equal(bed.raised, before);
    assert_int_equal(cpus_present(bed.device), 0x3);
    cpus_change(bed.device, ~0ull, 0, 0);
    assert_int_equal(cpus_present(bed.device), 0xf);
    end(&bed);
}

static void other_sizes_do_nothing(void **state)
{
    struct bed bed;
    begin(&bed);
    cpus_change(bed.device, 0x2, 0, 0);
    cpus_change(bed.device, 0, 0, 0x2);
    bus_write(bed.pio, 0, CPUS_PORT, 4, 1);
    bus_write(bed.pio, 0, CPUS_PORT + 4, 1, CPUS_EJECT);
    bus_write(bed.pio, 0, CPUS_PORT + 4, 2, CPUS_EJECT);
    bus_write(bed.pio, 0, CPUS_PORT + 2, 4, CPUS_EJECT);
    assert_int_equal(bed.ejected, 0);
    assert_int_equal(bus_read(bed.pio, 0, CPUS_PORT + 4, 1) & 0xff, 0xff);
    end(&bed);
}

static void resets_end_what_is_under_way(void **state)
{
    struct bed bed;
    begin(&bed);
    cpus_change(bed.device, 0xe, 0, 0);
    cpus_change(bed.device, 0, 0, 0x8);
    bed.device->ops->reset(bed.device);
    assert_int_equal(cpus_present(bed.device), 0x7);
    assert_int_equal(cpus_leaving(bed.device), 0);
    assert_int_equal(flags(&bed, 1), CPUS_PRESENT);
    end(&bed);
}

struct bytes {
    uint8_t data[64];
    size_t size;
};

static int put_bytes(void *ctx, const void *data, size_t size)
{
    struct bytes *bytes = ctx;
    assert_true(bytes->size + size <= sizeof(bytes->data));
    __builtin_memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return 0;
}

static int restore(struct bed *bed, const struct bytes *bytes, size_t size)
{
    struct archive_reader reader;
    archive_reader_init(&reader, bytes->data, size);
    return bed->device->ops->restore(bed->device, &reader, 1, NULL);
}

static void saved_states_are_checked(void **state)
{
    struct bed bed;
    struct bytes bytes = {.size = 0};
    struct archive_writer writer = {.write = put_bytes, .ctx = &bytes};
    begin(&bed);
    cpus_change(bed.device, 0x6, 0, 0);
    cpus_change(bed.device, 0, 0, 0x4);
    bed.device->ops->save(bed.device, &writer);
    bed.device->ops->reset(bed.device);
    assert_int_equal(restore(&bed, &bytes, bytes.size), 0);
    assert_int_equal(cpus_present(bed.device), 0x7);
    assert_int_equal(cpus_leaving(bed.device), 0x4);
    assert_int_equal(flags(&bed, 2), CPUS_PRESENT | CPUS_HAS_COME | CPUS_TO_LEAVE);
    for (size_t size = 0; size < bytes.size; size++) {
        assert_true(restore(&bed, &bytes, size) < 0);
    }
    bytes.data[4] &= 0xfe; /* without the first */
    assert_true(restore(&bed, &bytes, bytes.size) < 0);
    bytes.data[4] = 0x1f; /* more than there are */
    assert_true(restore(&bed, &bytes, bytes.size) < 0);
    bytes.data[4] = 0x03; /* one is to leave that is not there */
    assert_true(restore(&bed, &bytes, bytes.size) < 0);
    end(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_come_and_go),
        cmocka_unit_test(only_those_leave_that_are_asked_to),
        cmocka_unit_test(other_sizes_do_nothing),
        cmocka_unit_test(resets_end_what_is_under_way),
        cmocka_unit_test(saved_states_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
