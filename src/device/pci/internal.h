/* Shared by the files of this folder. */
#ifndef DEVICE_PCI_INTERNAL_H
#define DEVICE_PCI_INTERNAL_H

#include <pthread.h>

#include "device/pci/pci.h"

/* The table is 16 bytes a vector at the start of its BAR, the pending bits are in the upper half (PCI 3.0, 6.8.2). */
#define MSIX_BAR_SIZE        4096u
#define MSIX_PENDING_OFFSET  0x800u
#define MSIX_CONTROL_ENABLE  0x8000u
#define MSIX_CONTROL_MASKALL 0x4000u
#define MSIX_VECTOR_MASKED   0x1u

struct pci_bar {
    bool is_used;
    enum pci_bar_kind kind;
    uint64_t size;
    uint64_t home; /* where it is after a reset */
    struct bus_region *region;
    /* As the bus has it now. */
    bool is_mapped;
    uint64_t address;
};

struct msix_vector {
    uint64_t address;
    uint32_t data;
    uint32_t control;
};

struct pci_function {
    struct pci_bus *bus;
    unsigned device_number;
    const char *name;
    bool is_plugged;
    bool is_restored; /* and so in its place */
    const struct pci_function_ops *ops;
    void *ctx;
    pthread_mutex_t lock;

    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t write_mask[PCI_CONFIG_SIZE];
    uint8_t initial[PCI_CONFIG_SIZE]; /* what reset puts into the writable bits */
    uint8_t next_capability;          /* where the next one goes */
    uint8_t last_capability;          /* the end of the list, 0: none yet */

    struct pci_bar bar[PCI_BAR_COUNT];

    uint8_t msix_capability; /* 0: none */
    uint16_t msix_count;
    struct msix_vector msix[PCI_MSIX_MAX];
    uint64_t msix_pending;

    bool intx_level; /* what the device asks for */
    bool intx_sent;  /* what the input was told */
};

struct pci_bus {
    struct pci_bus_config config;
    struct pci_function *function[PCI_MAX_DEVICES];
    struct pci_function *bridge;
    uint64_t mmio32_next, mmio64_next, pio_next;
    _Atomic uint32_t address; /* port 0xcf8 */

    /* Hot-plug, a bit for each slot, with the lock. */
    pthread_mutex_t lock;
    uint32_t arrived, leaving; /* the registers */
    uint32_t asked;            /* the guest may eject these */
    _Atomic uint32_t ejected;  /* it has, and sees no device there */
};

/* Takes the address of a new BAR out of a window; false: it is full. */
bool pci_bus_allocate(struct pci_bus *bus, enum pci_bar_kind kind, uint64_t size,
                      uint64_t *out_address);

/* hotplug.c */
int must_check pci_hotplug_create(struct pci_bus *bus, struct error *err);
/* The slot's function goes. */
void pci_hotplug_forget(struct pci_bus *bus, unsigned slot);
void pci_hotplug_reset(struct pci_bus *bus);
void pci_hotplug_save(struct pci_bus *bus, struct archive_writer *writer);
void pci_hotplug_restore(struct pci_bus *bus, struct archive_reader *reader);

uint32_t pci_function_config_read(struct pci_function *function, uint32_t vcpu, uint32_t offset,
                                  unsigned size);
void pci_function_config_write(struct pci_function *function, uint32_t vcpu, uint32_t offset,
                               unsigned size, uint32_t value);

/* With the function's lock held; false: nothing to send. Pending vectors that may go now come one after the other. */
bool msix_take_pending(struct pci_function *function, uint64_t *out_address, uint32_t *out_data);
void msix_reset(struct pci_function *function);
/* Sends what became unmasked. Without the lock. */
void msix_flush(struct pci_function *function);
void msix_save(struct pci_function *function, struct archive_writer *writer);
int must_check msix_restore(struct pci_function *function, struct archive_reader *reader,
                            struct error *err);

#endif
