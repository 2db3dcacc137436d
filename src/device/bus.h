/* Address spaces: port I/O and memory-mapped I/O, from address to device.
 *
 * Regions are found without a lock held during the device's handler; a region, once added, lives until it is removed while no
 * vCPU runs, and can be moved or disabled meanwhile (PCI BARs), so an access that is under way stays safe. */
#ifndef DEVICE_BUS_H
#define DEVICE_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"

struct bus;
struct bus_region;

struct bus_region_ops {
    /* 'offset' is within the region and offset + size too. 'vcpu': who accesses. Any vCPU thread. Sizes 1, 2, 4, 8 (ports: not
     * 8), any alignment: a device that cannot serve a size returns all ones or ignores the write. */
    uint64_t (*read)(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size);
    void (*write)(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value);
};

int must_check bus_create(struct bus **out_bus, struct error *err);
void bus_destroy(struct bus *bus);

/* Adds a region (enabled). 'name' is borrowed for good. -EEXIST if it overlaps an enabled one. */
int must_check bus_add(struct bus *bus, const char *name, uint64_t base, uint64_t size,
                       const struct bus_region_ops *ops, void *ctx, struct bus_region **out_region,
                       struct error *err);
/* The same, but it answers only when it is moved or enabled: it may overlap. */
int must_check bus_add_disabled(struct bus *bus, const char *name, uint64_t base, uint64_t size,
                                const struct bus_region_ops *ops, void *ctx,
                                struct bus_region **out_region, struct error *err);
/* Frees the region. No vCPU runs. NULL is fine. */
void bus_remove(struct bus_region *region);
/* Moves and enables. Where it overlaps another enabled region the older one wins: a guest may place BARs badly. Any thread. */
void bus_region_move(struct bus_region *region, uint64_t base);
void bus_region_set_enabled(struct bus_region *region, bool is_enabled);

/* Any vCPU thread. Without a device: all ones, writes vanish. An access that crosses a region's end is split in bytes. */
uint64_t bus_read(struct bus *bus, uint32_t vcpu, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint32_t vcpu, uint64_t address, unsigned size, uint64_t value);

#endif
