/* Random configuration and BAR accesses on a host bridge with one function: nothing may crash, and accesses stay in their BAR.
 *
 * Input: records of 12 bytes: kind and size, address (low bits and what they are relative to), value. */
#include <stdlib.h>
#include <string.h>

#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "device/bus.h"
#include "device/pci/pci.h"

#define ECAM     0xe0000000ull
#define BAR_SIZE 0x2000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t bar_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    invariant(offset < BAR_SIZE && size <= BAR_SIZE - offset);
    return offset;
}

static void bar_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    invariant(offset < BAR_SIZE && size <= BAR_SIZE - offset);
}

static void send(void *ctx, uint64_t address, uint32_t data)
{
    ++*(unsigned *)ctx;
}

static const struct bus_region_ops bar_ops = {.read = bar_read, .write = bar_write};

struct bed {
    struct bus *mmio, *pio;
    struct pci_bus *pci;
    struct pci_function *function;
    unsigned messages;
};

static void create(struct bed *bed)
{
    static const struct pci_identity identity = {
        .vendor = 0x1af4, .device = 0x1041, .class_code = 0x020000, .has_intx = true};
    struct error err;

    memset(bed, 0, sizeof(*bed));
    if (bus_create(&bed->mmio, &err) < 0 || bus_create(&bed->pio, &err) < 0) {
        abort();
    }
    const struct pci_bus_config config = {
        .mmio = bed->mmio,
        .pio = bed->pio,
        .windows = {.ecam_gpa = ECAM,
                    .mmio32_gpa = 0xc0000000,
                    .mmio32_size = 0x20000000,
                    .mmio64_gpa = 1ull << 40,
                    .mmio64_size = 1ull << 34,
                    .pio_base = 0x1000,
                    .pio_size = 0xf000},
        .msi = {send, &bed->messages},
    };
    if (pci_bus_create(&config, &bed->pci, &err) < 0 ||
        pci_function_create(bed->pci, "test", &identity, NULL, NULL, &bed->function, &err) < 0 ||
        pci_function_add_bar(bed->function, 0, PCI_BAR_MEMORY64, false, BAR_SIZE, &bar_ops, NULL,
                             &err) < 0 ||
        pci_function_add_bar(bed->function, 2, PCI_BAR_MEMORY32, true, BAR_SIZE, &bar_ops, NULL,
                             &err) < 0 ||
        pci_function_add_bar(bed->function, 3, PCI_BAR_IO, false, 64, &bar_ops, NULL, &err) < 0 ||
        pci_function_add_msix(bed->function, 4, 5, &err) < 0) {
        abort();
    }
}

static void destroy(struct bed *bed)
{
    pci_function_destroy(bed->function);
    pci_bus_destroy(bed->pci);
    bus_destroy(bed->mmio);
    bus_destroy(bed->pio);
}

static void access_one(struct bed *bed, const uint8_t *record)
{
    const unsigned size = 1u << ((record[0] >> 1) & 3);
    const bool is_write = (record[0] & 1) != 0;
    struct bus *bus = bed->mmio;
    uint64_t address = le16_get(record + 2);
    uint64_t value = le64_get(record + 4);
    uint64_t base = 0;

    switch ((record[0] >> 3) & 7) {
    case 0: /* the function's registers */
        address = ECAM + 0x8000 + (address & 0x1ff);
        break;
    case 1:
        address += ECAM;
        break;
    case 2:
        bus = bed->pio;
        address = 0xcf8 + (address & 7);
        break;
    case 3:
        bus = bed->pio;
        break;
    case 4:
        pci_function_msix_send(bed->function, (uint16_t)(address & 7));
        return;
    case 5:
        pci_function_set_intx(bed->function, is_write);
        return;
    case 6:
        address = value; /* anywhere */
        break;
    default: /* around a BAR */
        if (!pci_function_bar_address(bed->function, record[1] % PCI_BAR_COUNT, &base)) {
            return;
        }
        address = base + (address & 0x3fff) - 8;
        break;
    }
    if (is_write) {
        bus_write(bus, 0, address, size, value);
    } else {
        (void)bus_read(bus, 0, address, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bed bed;

    create(&bed);
    for (size_t at = 0; at + 12 <= size; at += 12) {
        access_one(&bed, data + at);
    }
    pci_function_reset(bed.function);
    destroy(&bed);
    return 0;
}
