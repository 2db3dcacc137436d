/* PCI: bus 0 behind a host bridge, and the part of a function that is the same for all: configuration space, base address
 * registers, capabilities, MSI-X and the interrupt line.
 *
 * A device creates its function, adds BARs and capabilities, and is on the bus from then on. BARs get addresses at once
 * (direct boot: there is no firmware); the guest may move them. Decoding is on from the start: I/O and memory space enabled,
 * bus mastering as the guest says. One that comes while the guest runs has no addresses and decodes nothing, as on hardware: the
 * guest gives it some, and after a reset it is like the others.
 *
 * Guests learn of devices that come and go by the registers of hotplug.c.
 *
 * Threads: creation, destruction and reset on the loop's thread while no vCPU runs; everything else from any thread. A function has
 * a lock of its own, below the device's: a device may call in with its lock held. The callbacks of pci_function_ops come
 * without the function's lock. */
#ifndef DEVICE_PCI_PCI_H
#define DEVICE_PCI_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/archive.h"
#include "base/core/error.h"
#include "device/bus.h"
#include "device/irq.h"

#define PCI_MAX_DEVICES 32 /* of bus 0, function 0 each */
#define PCI_BAR_COUNT   6
#define PCI_CONFIG_SIZE                                                                            \
    256 /* beyond it, extended space reads zero: there are no extended capabilities */
#define PCI_MSIX_MAX 64 /* vectors of one function */

/* Configuration space (PCI Local Bus 3.0, section 6.1). */
#define PCI_COMMAND             0x04
#define PCI_COMMAND_IO          0x0001u
#define PCI_COMMAND_MEMORY      0x0002u
#define PCI_COMMAND_MASTER      0x0004u
#define PCI_COMMAND_INTX_OFF    0x0400u
#define PCI_STATUS              0x06
#define PCI_STATUS_INTX         0x0008u
#define PCI_STATUS_CAPABILITIES 0x0010u
#define PCI_BAR0                0x10
#define PCI_CAPABILITIES        0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d
#define PCI_CAPABILITY_VENDOR   0x09
#define PCI_CAPABILITY_MSIX     0x11

struct pci_bus;
struct pci_function;

/* Where things are; the ACPI tables say the same to the guest. */
struct pci_windows {
    uint64_t ecam_gpa; /* 1 MiB: bus 0 */
    uint64_t mmio32_gpa, mmio32_size;
    uint64_t mmio64_gpa, mmio64_size;
    uint16_t pio_base, pio_size;
};

struct pci_bus_config {
    struct bus *mmio, *pio;
    struct pci_windows windows;
    struct msi_sink msi;
    struct irq_line
        intx[4];          /* level-triggered; device N's INTA goes to intx[N % 4]; may be empty */
    uint8_t intx_line[4]; /* what "interrupt line" registers say: the input's number */
    /* A byte written to port 0xcf9, the chipset's reset control, which shares the address port's range. May be NULL. */
    void (*reset_control)(void *ctx, uint8_t value);
    /* A slot's register has something for the guest to see: raise the event. Any thread. May be NULL. */
    void (*slots_changed)(void *ctx);
    /* The guest has let go of a device that it was asked for, and sees it no more; pci_bus_take_ejected has it. Any vCPU thread.
     * May be NULL. */
    void (*ejected)(void *ctx);
    void *ctx;
};

/* Hot-plug registers, 32 bits each, a bit for each slot: those with a new device, and those whose device is to go; both are
 * cleared by reading. A bit written to the third ejects. The DSDT's methods use them. */
#define PCI_HOTPLUG_PORT      0x640
#define PCI_HOTPLUG_ARRIVED   (PCI_HOTPLUG_PORT + 0)
#define PCI_HOTPLUG_LEAVING   (PCI_HOTPLUG_PORT + 4)
#define PCI_HOTPLUG_EJECT     (PCI_HOTPLUG_PORT + 8)
#define PCI_HOTPLUG_PORT_SIZE 12

/* Adds the ports 0xcf8..0xcff, ECAM and the host bridge as device 0. 'config' is copied. */
int must_check pci_bus_create(const struct pci_bus_config *config, struct pci_bus **out_bus,
                              struct error *err);
/* After all functions. NULL is fine. */
void pci_bus_destroy(struct pci_bus *bus);
/* The host bridge's and the address port's own state; functions are their devices' affair. */
void pci_bus_reset(struct pci_bus *bus);
void pci_bus_save(struct pci_bus *bus, struct archive_writer *writer);
int must_check pci_bus_restore(struct pci_bus *bus, struct archive_reader *reader, uint32_t version,
                               struct error *err);

/* What pci_bus_save writes. 2: with the hot-plug registers. */
#define PCI_BUS_VERSION 2u

/* 1..31 without a device; 0: there is none. */
unsigned pci_bus_free_slot(const struct pci_bus *bus);
/* Tells the guest that the slot has a new device. */
void pci_bus_announce(struct pci_bus *bus, unsigned slot);
/* Asks the guest to let go of the slot's device. May be asked again. */
void pci_bus_ask_for(struct pci_bus *bus, unsigned slot);
bool pci_bus_is_asked_for(struct pci_bus *bus, unsigned slot);
/* A slot whose device the guest has ejected, and with 'asked_too' also one that it was only asked for (it forgets everything in
 * a reset); 0: there is none. Loop's thread. */
unsigned pci_bus_take_ejected(struct pci_bus *bus, bool asked_too);

struct pci_identity {
    unsigned slot;   /* 1..31; 0: the lowest free one */
    bool is_plugged; /* it comes while the guest runs */
    uint16_t vendor, device;
    uint16_t subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, programming interface */
    uint8_t revision;
    bool has_intx; /* INTA */
};

/* All may be NULL. 'ctx' is the one given at creation. */
struct pci_function_ops {
    /* A register of the device's own in configuration space (virtio's window): true if it answered. 'offset' + 'size' stay
     * within configuration space. Sizes 1, 2, 4, naturally aligned. */
    bool (*config_read)(void *ctx, uint32_t vcpu, uint32_t offset, unsigned size,
                        uint32_t *out_value);
    /* After the bytes were written under their masks (also those of BARs and command). */
    void (*config_written)(void *ctx, uint32_t vcpu, uint32_t offset, unsigned size);
    /* A BAR's address or decoding may have changed: ask pci_function_bar_address. Also after reset and restore. */
    void (*bar_changed)(void *ctx, unsigned bar);
    /* Masking or MSI-X enable changed. */
    void (*msix_changed)(void *ctx);
};

/* 'name' is borrowed. -ENOSPC when the bus is full, -EBUSY when the slot is taken. */
int must_check pci_function_create(struct pci_bus *bus, const char *name,
                                   const struct pci_identity *identity,
                                   const struct pci_function_ops *ops, void *ctx,
                                   struct pci_function **out_function, struct error *err);
/* Takes it off the bus. NULL is fine. */
void pci_function_destroy(struct pci_function *function);

enum pci_bar_kind {
    PCI_BAR_MEMORY32,
    PCI_BAR_MEMORY64, /* uses up 'bar' and 'bar' + 1 */
    PCI_BAR_IO,
};

/* 'size': a power of two, at least 4096 for memory. 'ops' and 'ctx' get the accesses. -ENOSPC: the window is full. */
int must_check pci_function_add_bar(struct pci_function *function, unsigned bar,
                                    enum pci_bar_kind kind, bool is_prefetchable, uint64_t size,
                                    const struct bus_region_ops *ops, void *ctx, struct error *err);
/* Where the guest has it now; false: it is not decoded. */
bool pci_function_bar_address(struct pci_function *function, unsigned bar, uint64_t *out_address);

/* Adds a capability: 'data' is its whole body including the two header bytes (which are filled in), 'write_mask' says which
 * bits the guest can write (NULL: none). */
int must_check pci_function_add_capability(struct pci_function *function, uint8_t id,
                                           const void *data, const void *write_mask, uint8_t size,
                                           uint8_t *out_offset, struct error *err);

/* Bytes of configuration space, little-endian, without side effects. */
uint32_t pci_function_config_get(struct pci_function *function, uint32_t offset, unsigned size);
void pci_function_config_set(struct pci_function *function, uint32_t offset, unsigned size,
                             uint32_t value, uint32_t write_mask);

/* MSI-X with 'vector_count' vectors: capability, and the table and pending bits in memory BAR 'bar', which becomes theirs. */
int must_check pci_function_add_msix(struct pci_function *function, unsigned bar,
                                     uint16_t vector_count, struct error *err);
bool pci_function_msix_enabled(struct pci_function *function);
/* Sends vector's message, or marks it pending while it is masked. Vectors out of range, and all while MSI-X is off: nothing. */
void pci_function_msix_send(struct pci_function *function, uint16_t vector);

/* The function's own interrupt line; shows in the status register, reaches the input unless the command register masks it. */
void pci_function_set_intx(struct pci_function *function, bool level);

/* May the function read and write memory? */
bool pci_function_is_master(struct pci_function *function);

/* For the device's own reset, save and restore: registers, BARs, MSI-X table and pending bits. A restore puts the function into
 * the slot that it was saved in. */
void pci_function_reset(struct pci_function *function);
void pci_function_save(struct pci_function *function, struct archive_writer *writer);
int must_check pci_function_restore(struct pci_function *function, struct archive_reader *reader,
                                    struct error *err);
/* 0..31. */
unsigned pci_function_device_number(const struct pci_function *function);

/* Configuration cycles, as both mechanisms make them. */
uint32_t pci_bus_config_read(struct pci_bus *bus, uint32_t vcpu, uint32_t bdf, uint32_t offset,
                             unsigned size);
void pci_bus_config_write(struct pci_bus *bus, uint32_t vcpu, uint32_t bdf, uint32_t offset,
                          unsigned size, uint32_t value);

#endif
