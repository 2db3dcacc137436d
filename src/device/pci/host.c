/* The host bridge: configuration cycles by ports 0xcf8/0xcfc and by ECAM, and the windows that BARs get addresses from. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "device/pci/internal.h"

#define ECAM_FUNCTION_SIZE 4096u
#define ECAM_BUS_SIZE      (1u << 20)
#define ADDRESS_ENABLE     0x80000000u

bool pci_bus_allocate(struct pci_bus *bus, enum pci_bar_kind kind, uint64_t size,
                      uint64_t *out_address)
{
    const struct pci_windows *windows = &bus->config.windows;
    uint64_t base = windows->mmio32_gpa;
    uint64_t limit = windows->mmio32_gpa + windows->mmio32_size;
    uint64_t next = bus->mmio32_next;

    /* Small ones of 64 bits too go below 4 GiB, where any guest can reach them; large ones would fill that window. */
    bool is_high = kind == PCI_BAR_MEMORY64 && size > windows->mmio32_size / 64;
    if (kind == PCI_BAR_IO) {
        base = windows->pio_base;
        limit = (uint64_t)windows->pio_base + windows->pio_size;
        next = bus->pio_next;
    } else if (is_high) {
        base = windows->mmio64_gpa;
        limit = windows->mmio64_gpa + windows->mmio64_size;
        next = bus->mmio64_next;
    }
    uint64_t address = align_up(next, size);
    if (address < base || !range_fits(address, size, limit)) {
        return false;
    }
    if (kind == PCI_BAR_IO) {
        bus->pio_next = (uint32_t)(address + size);
    } else if (is_high) {
        bus->mmio64_next = address + size;
    } else {
        bus->mmio32_next = address + size;
    }
    *out_address = address;
    return true;
}

/* bdf: bus 15:8, device 7:3, function 2:0 */
static struct pci_function *find_function(struct pci_bus *bus, uint32_t bdf)
{
    if (bdf >= PCI_MAX_DEVICES * 8 || (bdf & 7) != 0) {
        return NULL;
    }
    return bus->function[bdf >> 3];
}

uint32_t pci_bus_config_read(struct pci_bus *bus, uint32_t vcpu, uint32_t bdf, uint32_t offset,
                             unsigned size)
{
    struct pci_function *function = find_function(bus, bdf);

    if (function == NULL || size > 4 || offset % size != 0) {
        return ~0u;
    }
    if (offset >= PCI_CONFIG_SIZE) {
        return 0;
    }
    return pci_function_config_read(function, vcpu, offset, size);
}

void pci_bus_config_write(struct pci_bus *bus, uint32_t vcpu, uint32_t bdf, uint32_t offset,
                          unsigned size, uint32_t value)
{
    struct pci_function *function = find_function(bus, bdf);

    if (function == NULL || size > 4 || offset % size != 0 || offset >= PCI_CONFIG_SIZE) {
        return;
    }
    pci_function_config_write(function, vcpu, offset, size, value);
}

static uint64_t address_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = ctx;
    return size == 4 && offset == 0 ? atomic_load(&bus->address) : ~0ull;
}

static void address_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = ctx;

    if (size == 4 && offset == 0) {
        atomic_store(&bus->address, (uint32_t)value & 0x80fffffcu);
    } else if (size == 1 && offset == 1 && bus->config.reset_control != NULL) {
        bus->config.reset_control(bus->config.ctx, (uint8_t)value);
    }
}

static uint64_t data_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = ctx;
    uint32_t address = atomic_load(&bus->address);

    if ((address & ADDRESS_ENABLE) == 0) {
        return ~0ull;
    }
    return pci_bus_config_read(bus, vcpu, (address >> 8) & 0xffff,
                               (address & 0xfc) + (uint32_t)offset, size);
}

static void data_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = ctx;
    uint32_t address = atomic_load(&bus->address);

    if ((address & ADDRESS_ENABLE) != 0) {
        pci_bus_config_write(bus, vcpu, (address >> 8) & 0xffff,
                             (address & 0xfc) + (uint32_t)offset, size, (uint32_t)value);
    }
}

static uint64_t ecam_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    if (size > 4) {
        return ~0ull;
    }
    return pci_bus_config_read(ctx, vcpu, (uint32_t)(offset / ECAM_FUNCTION_SIZE),
                               offset % ECAM_FUNCTION_SIZE, size);
}

static void ecam_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    if (size <= 4) {
        pci_bus_config_write(ctx, vcpu, (uint32_t)(offset / ECAM_FUNCTION_SIZE),
                             offset % ECAM_FUNCTION_SIZE, size, (uint32_t)value);
    }
}

static const struct bus_region_ops address_ops = {.read = address_read, .write = address_write};
static const struct bus_region_ops data_ops = {.read = data_read, .write = data_write};
static const struct bus_region_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

int pci_bus_create(const struct pci_bus_config *config, struct pci_bus **out_bus, struct error *err)
{
    /* The IDs of QEMU's generic PCI Express host bridge: no driver binds to it, no quirk applies. */
    static const struct pci_identity bridge_identity = {
        .vendor = 0x1b36,
        .device = 0x0008,
        .subsystem_vendor = 0x1af4,
        .subsystem = 0x1100,
        .class_code = 0x060000,
    };
    struct pci_bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL) {
        return error_set(err, ENOMEM, "allocating the PCI bus");
    }
    bus->config = *config;
    bus->mmio32_next = config->windows.mmio32_gpa;
    bus->mmio64_next = config->windows.mmio64_gpa;
    bus->pio_next = config->windows.pio_base;

    int rc = bus_add(config->pio, "pci-address", 0xcf8, 4, &address_ops, bus, NULL, err);
    if (rc == 0) {
        rc = bus_add(config->pio, "pci-data", 0xcfc, 4, &data_ops, bus, NULL, err);
    }
    if (rc == 0) {
        rc = bus_add(config->mmio, "pci-ecam", config->windows.ecam_gpa, ECAM_BUS_SIZE, &ecam_ops,
                     bus, NULL, err);
    }
    if (rc == 0) {
        rc = pci_function_create(bus, "pci-host", &bridge_identity, NULL, NULL, &bus->bridge, err);
    }
    if (rc < 0) {
        pci_bus_destroy(bus);
        return rc;
    }
    *out_bus = bus;
    return 0;
}

void pci_bus_destroy(struct pci_bus *bus)
{
    if (bus == NULL) {
        return;
    }
    pci_function_destroy(bus->bridge);
    free(bus);
}

void pci_bus_reset(struct pci_bus *bus)
{
    atomic_store(&bus->address, 0);
    pci_function_reset(bus->bridge);
}

void pci_bus_save(struct pci_bus *bus, struct archive_writer *writer)
{
    archive_put_u32(writer, atomic_load(&bus->address));
    pci_function_save(bus->bridge, writer);
}

int pci_bus_restore(struct pci_bus *bus, struct archive_reader *reader, struct error *err)
{
    atomic_store(&bus->address, archive_get_u32(reader) & 0x80fffffcu);
    return pci_function_restore(bus->bridge, reader, err);
}
