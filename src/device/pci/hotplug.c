/* Devices that come and go while the guest runs. The guest is told by an ACPI event, and its methods read and write these
 * registers. It can eject only what it was asked for: what else it turns off stays where it is. */
#include <stdatomic.h>

#include "device/pci/internal.h"

static void changed(struct pci_bus *bus)
{
    if (bus->config.slots_changed != NULL) {
        bus->config.slots_changed(bus->config.ctx);
    }
}

static uint64_t hotplug_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = ctx;
    uint32_t value = ~0u;

    if (size != 4 || offset % 4 != 0) {
        return ~0ull;
    }
    pthread_mutex_lock(&bus->lock);
    uint32_t *reg = offset == PCI_HOTPLUG_ARRIVED - PCI_HOTPLUG_PORT   ? &bus->arrived
                    : offset == PCI_HOTPLUG_LEAVING - PCI_HOTPLUG_PORT ? &bus->leaving
                                                                       : NULL;
    if (reg != NULL) {
        value = *reg;
        *reg = 0;
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

static void hotplug_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = ctx;

    if (size != 4 || offset != PCI_HOTPLUG_EJECT - PCI_HOTPLUG_PORT) {
        return;
    }
    pthread_mutex_lock(&bus->lock);
    uint32_t slots = (uint32_t)value & bus->asked;
    bus->asked &= ~slots;
    bus->leaving &= ~slots;
    atomic_fetch_or(&bus->ejected, slots);
    pthread_mutex_unlock(&bus->lock);
    if (slots != 0 && bus->config.ejected != NULL) {
        bus->config.ejected(bus->config.ctx);
    }
}

static const struct bus_region_ops hotplug_ops = {.read = hotplug_read, .write = hotplug_write};

int pci_hotplug_create(struct pci_bus *bus, struct error *err)
{
    return bus_add(bus->config.pio, "pci-hotplug", PCI_HOTPLUG_PORT, PCI_HOTPLUG_PORT_SIZE,
                   &hotplug_ops, bus, NULL, err);
}

void pci_hotplug_forget(struct pci_bus *bus, unsigned slot)
{
    uint32_t others = ~(1u << slot);
    pthread_mutex_lock(&bus->lock);
    bus->arrived &= others;
    bus->leaving &= others;
    bus->asked &= others;
    atomic_fetch_and(&bus->ejected, others);
    pthread_mutex_unlock(&bus->lock);
}

void pci_hotplug_reset(struct pci_bus *bus)
{
    pthread_mutex_lock(&bus->lock);
    bus->arrived = bus->leaving = 0;
    pthread_mutex_unlock(&bus->lock);
}

void pci_hotplug_save(struct pci_bus *bus, struct archive_writer *writer)
{
    pthread_mutex_lock(&bus->lock);
    archive_put_u32(writer, bus->arrived);
    archive_put_u32(writer, bus->leaving);
    archive_put_u32(writer, bus->asked);
    pthread_mutex_unlock(&bus->lock);
}

void pci_hotplug_restore(struct pci_bus *bus, struct archive_reader *reader)
{
    uint32_t present = 0;
    for (unsigned slot = 1; slot < PCI_MAX_DEVICES; slot++) {
        present |= bus->function[slot] != NULL ? 1u << slot : 0;
    }
    pthread_mutex_lock(&bus->lock);
    bus->arrived = archive_get_u32(reader);
    bus->leaving = archive_get_u32(reader) & present;
    bus->asked = archive_get_u32(reader) & present;
    pthread_mutex_unlock(&bus->lock);
}

unsigned pci_bus_free_slot(const struct pci_bus *bus)
{
    for (unsigned slot = 1; slot < PCI_MAX_DEVICES; slot++) {
        if (bus->function[slot] == NULL) {
            return slot;
        }
    }
    return 0;
}

void pci_bus_announce(struct pci_bus *bus, unsigned slot)
{
    pthread_mutex_lock(&bus->lock);
    bus->arrived |= 1u << slot;
    pthread_mutex_unlock(&bus->lock);
    changed(bus);
}

void pci_bus_ask_for(struct pci_bus *bus, unsigned slot)
{
    pthread_mutex_lock(&bus->lock);
    bus->leaving |= 1u << slot;
    bus->asked |= 1u << slot;
    pthread_mutex_unlock(&bus->lock);
    changed(bus);
}

bool pci_bus_is_asked_for(struct pci_bus *bus, unsigned slot)
{
    pthread_mutex_lock(&bus->lock);
    bool is_asked = (bus->asked >> slot & 1) != 0;
    pthread_mutex_unlock(&bus->lock);
    return is_asked;
}

unsigned pci_bus_take_ejected(struct pci_bus *bus, bool asked_too)
{
    unsigned slot = 0;
    pthread_mutex_lock(&bus->lock);
    uint32_t slots = atomic_load(&bus->ejected) | (asked_too ? bus->asked : 0);
    if (slots != 0) {
        slot = (unsigned)__builtin_ctz(slots); /* its bits go with the function */
    }
    pthread_mutex_unlock(&bus->lock);
    return slot;
}
