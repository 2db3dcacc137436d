/* virtio-console: one terminal, hvc0 in a Linux guest (virtio 1.2 section 5.3). */
#ifndef DEVICE_VIRTIO_CONSOLE_H
#define DEVICE_VIRTIO_CONSOLE_H

#include <stddef.h>

#include "device/virtio/options.h"

struct virtio_console_options {
    struct virtio_options common;
    void *ctx;
    /* Guest output, on the loop's thread, with the device's lock held: do not call the device. Takes all bytes. */
    void (*write)(void *ctx, const uint8_t *data, size_t size);
    /* After virtio_console_input took less than all: it takes input again. On the loop's thread, without a lock. May be NULL. */
    void (*input_ready)(void *ctx);
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_console_create(const struct virtio_console_options *options,
                                     struct device **out_device, struct error *err);

/* Bytes for the guest; returns how many it took now. On the loop's thread. */
size_t virtio_console_input(struct device *device, const uint8_t *data, size_t size);
/* Tells the guest the size of the terminal. On the loop's thread. */
void virtio_console_resize(struct device *device, uint16_t columns, uint16_t rows);

#endif
