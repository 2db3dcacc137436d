/* Disks and network cards that come and go while the guest runs. The vCPUs stand still meanwhile, which takes no longer than it
 * takes to leave the guest: no access to a device is under way when it comes or goes, and none of its requests when it goes. */
#include <string.h>

#include "base/core/invariant.h"
#include "device/acpi/power.h"
#include "device/virtio/virtio.h"
#include "machine/internal.h"

static const char *const part_words[] = {[MACHINE_PART_DISK] = "disk", [MACHINE_PART_NET] = "net"};

/* The place of a part's device. NULL: there can be no such number. */
static struct device **find_place(struct machine *machine, enum machine_part part, size_t index)
{
    if (part == MACHINE_PART_DISK) {
        return index < MACHINE_MAX_DISKS ? &machine->disk[index] : NULL;
    }
    return index < MACHINE_MAX_NETS ? &machine->net[index] : NULL;
}

static struct device *part_device(const struct machine *machine, enum machine_part part,
                                  size_t index)
{
    struct device **place = find_place((struct machine *)machine, part, index);
    return place != NULL ? *place : NULL;
}

bool machine_has_part(const struct machine *machine, enum machine_part part, size_t index)
{
    return part_device(machine, part, index) != NULL;
}

unsigned machine_slot(const struct machine *machine, enum machine_part part, size_t index)
{
    return virtio_slot(virtio_from_device(part_device(machine, part, index)));
}

bool machine_is_leaving(const struct machine *machine, enum machine_part part, size_t index)
{
    return machine_has_part(machine, part, index) &&
           pci_bus_is_asked_for(machine->pci, machine_slot(machine, part, index));
}

bool machine_listens_to_plugs(const struct machine *machine)
{
    return power_listens_to_gpe(machine->power, POWER_GPE_PCI);
}

static void stand_still(struct machine *machine)
{
    if (machine->is_running) {
        vcpus_pause(machine);
    }
}

static void go_on(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool ends = machine->has_end; /* which pauses it, or resets it */
    pthread_mutex_unlock(&machine->lock);
    if (machine->is_running && !ends) {
        vcpus_resume(machine);
    }
}

static void take_out(struct machine *machine, enum machine_part part, size_t index)
{
    struct device **place = find_place(machine, part, index);
    struct device *device = *place;
    *place = NULL;
    if (device->ops->pause != NULL) {
        device->ops->pause(device, true); /* its requests end first */
    }
    size_t at = 0;
    while (machine->device[at] != device) {
        at++;
    }
    machine->device_count--;
    memmove(&machine->device[at], &machine->device[at + 1],
            (machine->device_count - at) * sizeof(machine->device[0]));
    device->ops->destroy(device);
    if (machine->config.unplugged != NULL) {
        machine->config.unplugged(machine->config.ctx, part, index);
    }
}

static bool take_out_of_slot(struct machine *machine, unsigned slot)
{
    for (size_t i = 0; i < MACHINE_MAX_DISKS + MACHINE_MAX_NETS; i++) {
        enum machine_part part = i < MACHINE_MAX_DISKS ? MACHINE_PART_DISK : MACHINE_PART_NET;
        size_t index = i < MACHINE_MAX_DISKS ? i : i - MACHINE_MAX_DISKS;
        if (machine_has_part(machine, part, index) && machine_slot(machine, part, index) == slot) {
            take_out(machine, part, index);
            return true;
        }
    }
    return false;
}

void hotplug_take_out(struct machine *machine, bool asked_too)
{
    unsigned slot;
    while ((slot = pci_bus_take_ejected(machine->pci, asked_too)) != 0) {
        invariant(take_out_of_slot(machine, slot)); /* no other device is ever asked for */
    }
}

void hotplug_ejected(void *ctx)
{
    struct machine *machine = ctx;
    if (machine->is_running) {
        stand_still(machine);
        hotplug_take_out(machine, false);
        go_on(machine);
    }
}

/* The device is there: it does what the others do, and the guest learns of it. */
static void announce(struct machine *machine, enum machine_part part, size_t index)
{
    struct device *device = part_device(machine, part, index);
    if (!machine->is_running) {
        device->ops->pause(device, true);
    }
    pci_bus_announce(machine->pci, machine_slot(machine, part, index));
}

int machine_plug_disk(struct machine *machine, size_t index, const struct machine_disk *disk,
                      struct error *err)
{
    invariant(index < MACHINE_MAX_DISKS && machine->disk[index] == NULL);
    struct machine_config *config = &machine->config;
    config->disk[index] = *disk;
    config->disk_count = MAX(config->disk_count, index + 1);
    stand_still(machine);
    int rc = micro_create_disk(machine, (uint32_t)index, true, err);
    if (rc == 0) {
        announce(machine, MACHINE_PART_DISK, index);
    }
    go_on(machine);
    return rc;
}

int machine_plug_net(struct machine *machine, size_t index, const struct machine_net *net,
                     struct error *err)
{
    invariant(index < MACHINE_MAX_NETS && machine->net[index] == NULL);
    struct machine_config *config = &machine->config;
    config->net[index] = *net;
    config->net_count = MAX(config->net_count, index + 1);
    stand_still(machine);
    int rc = micro_create_net(machine, (uint32_t)index, true, err);
    if (rc == 0) {
        announce(machine, MACHINE_PART_NET, index);
    }
    go_on(machine);
    return rc;
}

int machine_unplug(struct machine *machine, enum machine_part part, size_t index, struct error *err)
{
    if (!machine_has_part(machine, part, index)) {
        return error_set(err, ENODEV, "there is no %s%zu", part_words[part], index);
    }
    pci_bus_ask_for(machine->pci, machine_slot(machine, part, index));
    return 0;
}
