/* A 16550A serial port. */
#ifndef DEVICE_SERIAL_SERIAL_H
#define DEVICE_SERIAL_SERIAL_H

#include <stddef.h>

#include "device/bus.h"
#include "device/device.h"
#include "device/irq.h"

struct serial_options {
    struct bus *pio;
    uint16_t port; /* of 8 */
    struct irq_line irq;
    uint32_t instance;
    void *ctx;
    /* Guest output. Any vCPU thread, with the device's lock held: do not call the device. Takes all bytes. May be NULL. */
    void (*write)(void *ctx, const uint8_t *data, size_t size);
    /* After serial_input took less than all: there is room again. Any vCPU thread, without a lock. May be NULL. */
    void (*input_ready)(void *ctx);
};

/* The device is the caller's: device->ops->destroy. */
int must_check serial_create(const struct serial_options *options, struct device **out_device,
                             struct error *err);
/* Bytes for the guest; returns how many the receiver's FIFO took now. Any thread. */
size_t serial_input(struct device *device, const uint8_t *data, size_t size);

#endif
