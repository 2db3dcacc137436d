/* virtio over PCI, modern devices only (virtio 1.2 section 4.1): registers in, interrupts out, doorbells.
 *
 * Threads: with the device's lock held, unless noted. */
#ifndef DEVICE_VIRTIO_PCI_H
#define DEVICE_VIRTIO_PCI_H

#include "device/virtio/virtio.h"

struct virtio_pci;

/* Puts 'device' on the bus. Without the lock. */
int must_check virtio_pci_create(struct virtio_device *device, const struct virtio_options *options,
                                 struct virtio_pci **out_pci, struct error *err);
/* Without the lock. NULL is fine. */
void virtio_pci_destroy(struct virtio_pci *pci);
/* Without the lock. */
unsigned virtio_pci_slot(const struct virtio_pci *pci);

/* By MSI-X 'vector' (0xffff: none), or by the interrupt line where MSI-X is off. */
void virtio_pci_interrupt(struct virtio_pci *pci, uint16_t vector, bool is_config);
/* The driver's writes to the queues' doorbells shall signal their notifiers, where the engine can do that. */
void virtio_pci_attach_doorbells(struct virtio_pci *pci);
/* A device reset: selectors, pending interrupts and doorbells, but no register of the PCI function. */
void virtio_pci_forget_driver(struct virtio_pci *pci);
/* Power-up state of the PCI function. */
void virtio_pci_reset(struct virtio_pci *pci);

void virtio_pci_save(struct virtio_pci *pci, struct archive_writer *writer);
int must_check virtio_pci_restore(struct virtio_pci *pci, struct archive_reader *reader,
                                  struct error *err);

#endif
