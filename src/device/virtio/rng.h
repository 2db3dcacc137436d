/* virtio-rng: random bytes from the host's kernel (virtio 1.2 section 5.4). */
#ifndef DEVICE_VIRTIO_RNG_H
#define DEVICE_VIRTIO_RNG_H

#include "device/virtio/options.h"

struct virtio_rng_options {
    struct virtio_options common;
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_rng_create(const struct virtio_rng_options *options,
                                 struct device **out_device, struct error *err);

#endif
