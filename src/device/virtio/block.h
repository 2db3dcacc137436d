/* virtio-blk: a disk (virtio 1.2 section 5.2). */
#ifndef DEVICE_VIRTIO_BLOCK_H
#define DEVICE_VIRTIO_BLOCK_H

#include "block/block.h"
#include "device/virtio/options.h"

struct virtio_blk_options {
    struct virtio_options common;
    struct block *block; /* owned by the device from then on, also on failure */
    const char *serial;  /* at most 20 bytes count; NULL: empty */
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_blk_create(const struct virtio_blk_options *options,
                                 struct device **out_device, struct error *err);

#endif
