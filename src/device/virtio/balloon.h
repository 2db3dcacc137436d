/* virtio-balloon: memory that the guest gives back, on request (the balloon) or on its own (free page reporting); virtio 1.2
 * section 5.5. */
#ifndef DEVICE_VIRTIO_BALLOON_H
#define DEVICE_VIRTIO_BALLOON_H

#include "device/virtio/options.h"

struct virtio_balloon_options {
    struct virtio_options common;
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_balloon_create(const struct virtio_balloon_options *options,
                                     struct device **out_device, struct error *err);

/* Asks the guest to give 'bytes' of its memory back. Threads: any. */
void virtio_balloon_set_target(struct device *device, uint64_t bytes);
/* How many bytes it was asked for, and holds as the driver says. Threads: any. */
uint64_t virtio_balloon_target(struct device *device);
uint64_t virtio_balloon_held(struct device *device);

#endif
