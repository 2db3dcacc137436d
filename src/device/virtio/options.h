/* What every virtio device is made with. */
#ifndef DEVICE_VIRTIO_OPTIONS_H
#define DEVICE_VIRTIO_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"
#include "device/irq.h"

struct pci_bus;

struct virtio_options {
    const struct device_host *host; /* borrowed while the device lives */
    struct pci_bus *bus;            /* the device puts itself on it */
    struct doorbell doorbell;       /* copied; no functions: the engine has none */
    uint32_t instance;              /* N in the device's name "virtio-blk.N" */
    unsigned slot;                  /* on the bus, 0: the lowest free one */
    bool is_plugged;                /* it comes while the guest runs */
};

#endif
