/* The host bridge: configuration cycles by ports 0xcf8/0xcfc and by ECAM, and the windows that BARs get addresses from. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "device/pci/internal.h"

#define ECAM_FUNCTION_SIZE 4096u
#define ECAM_BUS_SIZE      (1u << 20)
#define ADDRESS_ENABLE     0x80000000u

struct window {
    uint64_t base, limit;
};

/* The first address from 'from' on at which no function's BAR is after a reset; false: there is none. */
static bool find_room(const struct pci_bus *bus, bool is_io, const struct window *window,
                      uint64_t from, uint64_t size, uint64_t *out_address)
{
    uint64_t address = align_up(from, size);
    for (bool is_moved = true; is_moved;) {
        is_moved = false;
        if (address < window->base || !range_fits(address, size, window->limit)) {
            return false;
        }
        for (unsigned i = 0; i < PCI_MAX_DEVICES * PCI_BAR_COUNT; i++) {
            const struct pci_function *function = bus->function[i / PCI_BAR_COUNT];
            const struct pci_bar *bar = function != NULL ? &function->bar[i % PCI_BAR_COUNT] : NULL;
            if (bar != NULL && bar->is_used && (bar->kind == PCI_BAR_IO) == is_io &&
                ranges_overlap(address, size, bar->home, bar->size)) {
                address = align_up(bar->home + bar->size, size);
                is_moved = true;
            }
        }
    }
    *out_address = address;
    return true;
}

bool pci_bus_allocate(struct pci_bus *bus, enum pci_bar_kind kind, uint64_t size,
                      uint64_t *out_address)
{
    const struct pci_windows *windows = &bus->config.windows;
    struct window window = {windows->mmio32_gpa, windows->mmio32_gpa + windows->mmio32_size};
    uint64_t *next = &bus->mmio32_next;

    /* Small ones of 64 bits too go below 4 GiB, where any guest can reach them; large ones would fill that window. */
    if (kind == PCI_BAR_IO) {
        window =
            (struct window){windows->pio_base, (uint64_t)windows->pio_base + windows->pio_size};
        next = &bus->pio_next;
    } else if (kind == PCI_BAR_MEMORY64 && size > windows->mmio32_size / 64) {
        window = (struct window){windows->mmio64_gpa, windows->mmio64_gpa + windows->mmio64_size};
        next = &bus->mmio64_next;
    }
    /* Behind the last one; at the end of the window, where devices have gone. */
    bool is_io = kind == PCI_BAR_IO;
    if (!find_room(bus, is_io, &window, *next, size, out_address) &&
        !find_room(bus, is_io, &window, window.base, size, out_address)) {
        return false;
    }
    *next = *out_address + size;
    return true;
}

/* bdf: bus 15:8, device 7:3, function 2:0 */
static struct pci_function *find_function(struct pci_bus *bus, uint32_t bdf)
{
    if (bdf >= PCI_MAX_DEVICES * 8 || (bdf & 7) != 0) {
        return NULL;
    }
    uint32_t slot = bdf >> 3;
    return (atomic_load(&bus->ejected) >> slot & 1) == 0 ? bus->function[slot] : NULL;
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
    pthread_mutex_init(&bus->lock, NULL);
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
        rc = pci_hotplug_create(bus, err);
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
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

void pci_bus_reset(struct pci_bus *bus)
{
    atomic_store(&bus->address, 0);
    pci_hotplug_reset(bus);
    pci_function_reset(bus->bridge);
}

void pci_bus_save(struct pci_bus *bus, struct archive_writer *writer)
{
    archive_put_u32(writer, atomic_load(&bus->address));
    pci_function_save(bus->bridge, writer);
    pci_hotplug_save(bus, writer);
}

int pci_bus_restore(struct pci_bus *bus, struct archive_reader *reader, uint32_t version,
                    struct error *err)
{
    atomic_store(&bus->address, archive_get_u32(reader) & 0x80fffffcu);
    int rc = pci_function_restore(bus->bridge, reader, err);
    if (rc == 0 && version >= 2) {
        pci_hotplug_restore(bus, reader);
    }
    return rc;
}
