/* Buses and PCI: pieces and overlaps, both configuration mechanisms, BARs that move, MSI-X masking, save and restore. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "device/bus.h"
#include "device/pci/pci.h"

#define ECAM 0xe0000000ull

struct bed {
    struct bus *mmio, *pio;
    struct pci_bus *pci;
    struct pci_function *function;
    unsigned messages;
    uint64_t address;
    uint32_t data;
    unsigned bar_changes;
    uint8_t memory[0x100];
};

static uint64_t echo_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    return (uintptr_t)ctx << 32 | offset;
}

static void echo_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
}

static const struct bus_region_ops echo = {.read = echo_read, .write = echo_write};

static void test_bus(void **state)
{
    struct bus *bus;
    struct bus_region *a, *b;

    assert_int_equal(bus_create(&bus, NULL), 0);
    assert_int_equal(bus_add(bus, "a", 0x1000, 0x100, &echo, (void *)1, &a, NULL), 0);
    assert_int_equal(bus_add(bus, "b", 0x2000, 0x1000, &echo, (void *)2, &b, NULL), 0);
    struct error err;
    assert_int_equal(bus_add(bus, "c", 0x10ff, 1, &echo, NULL, NULL, &err), -EEXIST);
    assert_int_equal(bus_add(bus, "c", ~0ull, 2, &echo, NULL, NULL, &err), -EINVAL);
    assert_true(bus_read(bus, 0, 0x1010, 8) == 0x100000010ull);
    assert_true(bus_read(bus, 0, 0x1010, 2) == 0x10);
    assert_true(bus_read(bus, 0, 0xfff, 4) == 0x020100ff); /* split: one byte beside it */
    assert_true(bus_read(bus, 0, 0x3000, 4) == 0xffffffff);
    assert_true(bus_read(bus, 0, ~0ull, 4) == 0xffffffff);
    bus_region_move(b, 0x800); /* around the older one */
    assert_true(bus_read(bus, 0, 0x1000, 8) == 0x100000000ull);
    assert_true(bus_read(bus, 0, 0x1100, 8) == 0x200000900ull);
    assert_true(bus_read(bus, 0, 0x900, 8) == 0x200000100ull);
    bus_region_set_enabled(a, false);
    assert_true(bus_read(bus, 0, 0x1000, 8) == 0x200000800ull);
    bus_region_move(b, ~0ull);
    assert_true(bus_read(bus, 0, 0x1000, 4) == 0xffffffff);
    bus_destroy(bus);
}

static void on_message(void *ctx, uint64_t address, uint32_t data)
{
    struct bed *bed = ctx;
    bed->messages++;
    bed->address = address;
    bed->data = data;
}

static void on_bar(void *ctx, unsigned bar)
{
    ((struct bed *)ctx)->bar_changes++;
}

static const struct pci_function_ops function_ops = {.bar_changed = on_bar};

static int setup(void **state)
{
    static struct bed bed;
    memset(&bed, 0, sizeof(bed));
    assert_int_equal(bus_create(&bed.mmio, NULL), 0);
    assert_int_equal(bus_create(&bed.pio, NULL), 0);
    const struct pci_bus_config config = {
        .mmio = bed.mmio,
        .pio = bed.pio,
        .windows = {.ecam_gpa = ECAM,
                    .mmio32_gpa = 0xc0000000,
                    .mmio32_size = 0x20000000,
                    .mmio64_gpa = 1ull << 40,
                    .mmio64_size = 1ull << 34,
                    .pio_base = 0x1000,
                    .pio_size = 0xf000},
        .msi = {on_message, &bed},
    };
    static const struct pci_identity identity = {
        .vendor = 0x1234, .device = 0x5678, .class_code = 0x020000};
    assert_int_equal(pci_bus_create(&config, &bed.pci, NULL), 0);
    assert_int_equal(
        pci_function_create(bed.pci, "test", &identity, &function_ops, &bed, &bed.function, NULL),
        0);
    assert_int_equal(pci_function_add_bar(bed.function, 0, PCI_BAR_MEMORY64, true, 1ull << 30,
                                          &echo, (void *)3, NULL),
                     0);
    assert_int_equal(
        pci_function_add_bar(bed.function, 2, PCI_BAR_IO, false, 64, &echo, (void *)4, NULL), 0);
    assert_int_equal(pci_function_add_msix(bed.function, 4, 3, NULL), 0);
    *state = &bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    pci_function_destroy(bed->function);
    pci_bus_destroy(bed->pci);
    bus_destroy(bed->mmio);
    bus_destroy(bed->pio);
    return 0;
}

static uint32_t get(struct bed *bed, uint32_t offset, unsigned size)
{
    return (uint32_t)bus_read(bed->mmio, 0, ECAM + 0x8000 + offset, size);
}

static void put(struct bed *bed, uint32_t offset, unsigned size, uint32_t value)
{
    bus_write(bed->mmio, 0, ECAM + 0x8000 + offset, size, value);
}

static void test_mechanisms(void **state)
{
    struct bed *bed = *state;

    bus_write(bed->pio, 0, 0xcf8, 4, 0x80000800);
    assert_int_equal(bus_read(bed->pio, 0, 0xcfc, 4), 0x56781234);
    assert_int_equal(bus_read(bed->pio, 0, 0xcfe, 2), 0x5678);
    assert_int_equal(bus_read(bed->pio, 0, 0xcf8, 4), 0x80000800);
    bus_write(bed->pio, 0, 0xcf8, 4, 0x800);
    assert_int_equal(bus_read(bed->pio, 0, 0xcfc, 4), 0xffffffff);
    assert_int_equal(get(bed, 0, 4), 0x56781234);
    assert_int_equal(bus_read(bed->mmio, 0, ECAM + 0x10000, 4), 0xffffffff);
    assert_int_equal(bus_read(bed->mmio, 0, ECAM + 0x9000, 4), 0xffffffff); /* function 1 */
    put(bed, 0, 4, 0);
    assert_int_equal(get(bed, 0, 4), 0x56781234);
    put(bed, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(get(bed, PCI_COMMAND, 2), 0x407);
}

static void test_bars(void **state)
{
    struct bed *bed = *state;
    uint64_t address;

    assert_true(pci_function_bar_address(bed->function, 0, &address));
    assert_true(address == 1ull << 40);
    assert_true(bus_read(bed->mmio, 0, address + 8, 8) == 0x300000008ull);
    put(bed, PCI_COMMAND, 2, 0);
    assert_true(bus_read(bed->mmio, 0, address + 8, 8) == ~0ull);
    put(bed, PCI_BAR0, 4, ~0u);
    put(bed, PCI_BAR0 + 4, 4, ~0u);
    assert_int_equal(get(bed, PCI_BAR0, 4), 0xc000000c);
    assert_int_equal(get(bed, PCI_BAR0 + 4, 4), 0xffffffff);
    put(bed, PCI_BAR0 + 8, 4, ~0u);
    assert_int_equal(get(bed, PCI_BAR0 + 8, 4), 0xffffffc1);
    put(bed, PCI_BAR0, 4, 0);
    put(bed, PCI_BAR0 + 4, 4, 0x200);
    put(bed, PCI_BAR0 + 8, 4, 0x2000);
    bed->bar_changes = 0;
    put(bed, PCI_COMMAND, 2, 3);
    assert_int_equal(bed->bar_changes, 3);
    assert_true(bus_read(bed->mmio, 0, 0x20000000010ull, 8) == 0x300000010ull);
    assert_true(bus_read(bed->pio, 0, 0x2004, 4) == 4);
    pci_function_reset(bed->function);
    assert_true(pci_function_bar_address(bed->function, 0, &address));
    assert_true(address == 1ull << 40);
}

static void test_msix(void **state)
{
    struct bed *bed = *state;
    uint64_t table;

    assert_true(pci_function_bar_address(bed->function, 4, &table));
    uint32_t capability = get(bed, PCI_CAPABILITIES, 1);
    assert_int_equal(get(bed, capability, 1), PCI_CAPABILITY_MSIX);
    assert_int_equal(get(bed, capability + 2, 2), 2);
    bus_write(bed->mmio, 0, table + 16, 8, 0xfee01000);
    bus_write(bed->mmio, 0, table + 24, 4, 0x41);
    pci_function_msix_send(bed->function, 1);
    assert_int_equal(bed->messages, 0); /* off */
    put(bed, capability + 2, 2, 0x8000);
    pci_function_msix_send(bed->function, 1);
    assert_int_equal(bed->messages, 0); /* masked */
    assert_int_equal(bus_read(bed->mmio, 0, table + 0x800, 4), 2);
    bus_write(bed->mmio, 0, table + 28, 4, 0);
    assert_int_equal(bed->messages, 1);
    assert_int_equal(bed->address, 0xfee01000);
    assert_int_equal(bed->data, 0x41);
    assert_int_equal(bus_read(bed->mmio, 0, table + 0x800, 4), 0);
    put(bed, capability + 2, 2, 0xc000);
    pci_function_msix_send(bed->function, 1);
    assert_int_equal(bed->messages, 1);
    put(bed, capability + 2, 2, 0x8000);
    assert_int_equal(bed->messages, 2);
    pci_function_msix_send(bed->function, 3);
    assert_int_equal(bed->messages, 2);
}

struct sink {
    uint8_t data[8192];
    size_t size;
};

static int sink_write(void *ctx, const void *data, size_t size)
{
    struct sink *sink = ctx;
    memcpy(sink->data + sink->size, data, size);
    sink->size += size;
    return 0;
}

static void test_save(void **state)
{
    struct bed *bed = *state;
    struct sink sink = {.size = 0};
    struct archive_writer writer = {.write = sink_write, .ctx = &sink};
    struct archive_reader reader;
    uint64_t address;

    put(bed, PCI_BAR0 + 4, 4, 0x300);
    pci_function_save(bed->function, &writer);
    pci_function_reset(bed->function);
    archive_reader_init(&reader, sink.data, sink.size);
    assert_int_equal(pci_function_restore(bed->function, &reader, NULL), 0);
    assert_int_equal(archive_finish(&reader, NULL), 0);
    assert_true(pci_function_bar_address(bed->function, 0, &address));
    assert_true(address == 0x30000000000ull);
    struct error err;
    archive_reader_init(&reader, sink.data, sink.size - 1);
    assert_int_equal(pci_function_restore(bed->function, &reader, &err), -EBADMSG);
    sink.data[1] ^= 1;
    archive_reader_init(&reader, sink.data, sink.size);
    assert_int_equal(pci_function_restore(bed->function, &reader, &err), -EINVAL);
}

static void test_slots(void **state)
{
    struct bed *bed = *state;
    struct error err;
    struct pci_function *plugged, *other;
    struct pci_identity identity = {.slot = 5, .is_plugged = true, .vendor = 1, .device = 2};
    uint64_t address;

    assert_int_equal(
        pci_function_create(bed->pci, "plugged", &identity, &function_ops, bed, &plugged, NULL), 0);
    assert_int_equal(
        pci_function_add_bar(plugged, 0, PCI_BAR_MEMORY32, false, 0x10000, &echo, (void *)5, NULL),
        0);
    assert_int_equal(
        pci_function_create(bed->pci, "other", &identity, &function_ops, bed, &other, &err),
        -EBUSY);
    assert_non_null(strstr(err.text, "plugged"));
    assert_int_equal(pci_bus_free_slot(bed->pci), 2);

    /* Like hardware that comes: no address until the guest or a reset gives one. */
    uint64_t config = ECAM + 5 * 0x8000;
    assert_false(pci_function_bar_address(plugged, 0, &address));
    assert_int_equal(bus_read(bed->mmio, 0, config + PCI_COMMAND, 2), 0);
    assert_int_equal(bus_read(bed->mmio, 0, config + PCI_BAR0, 4), 0);
    pci_function_reset(plugged);
    assert_true(pci_function_bar_address(plugged, 0, &address));
    assert_int_equal(bus_read(bed->mmio, 0, address + 4, 4), 4);

    /* The same slot can be plugged for ever. */
    pci_function_destroy(plugged);
    assert_int_equal(bus_read(bed->mmio, 0, config, 4), 0xffffffff);
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(
            pci_function_create(bed->pci, "plugged", &identity, &function_ops, bed, &plugged, NULL),
            0);
        assert_int_equal(pci_function_add_bar(plugged, 0, PCI_BAR_MEMORY32, false, 0x10000, &echo,
                                              (void *)5, NULL),
                         0);
        pci_function_destroy(plugged);
    }
}

static void test_removal_from_a_bus(void **state)
{
    struct bus *bus;
    struct bus_region *a, *b;
    assert_int_equal(bus_create(&bus, NULL), 0);
    assert_int_equal(bus_add(bus, "a", 0x1000, 0x100, &echo, (void *)1, &a, NULL), 0);
    assert_int_equal(bus_add_disabled(bus, "b", 0x1080, 0x100, &echo, (void *)2, &b, NULL), 0);
    assert_true(bus_read(bus, 0, 0x1100, 4) == 0xffffffff);
    bus_region_set_enabled(b, true);
    assert_true(bus_read(bus, 0, 0x1090, 8) == 0x100000090ull);
    assert_true(bus_read(bus, 0, 0x1100, 8) == 0x200000080ull);
    bus_remove(a);
    assert_true(bus_read(bus, 0, 0x1090, 8) == 0x200000010ull);
    assert_true(bus_read(bus, 0, 0x1000, 4) == 0xffffffff);
    bus_remove(b);
    assert_true(bus_read(bus, 0, 0x1100, 4) == 0xffffffff);
    bus_destroy(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bus),
        cmocka_unit_test_setup_teardown(test_mechanisms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bars, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slots, setup, teardown),
        cmocka_unit_test(test_removal_from_a_bus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
