/* virtio-blk: a disk (virtio 1.2 section 5.2). */
#ifndef DEVICE_VIRTIO_BLOCK_H
#define DEVICE_VIRTIO_BLOCK_H

#include "block/block.h"
#include "device/virtio/options.h"

/* What is made of a request that the disk could not carry out. */
enum virtio_blk_on_error {
    VIRTIO_BLK_REPORT, /* the guest gets an I/O error */
    VIRTIO_BLK_ENOSPC, /* as STOP where the host has no space, as REPORT else */
    VIRTIO_BLK_STOP,   /* the VM is paused; the request is kept, and carried out when it goes on */
    VIRTIO_BLK_IGNORE, /* the guest gets told that it was done */
};

struct virtio_blk_options {
    struct virtio_options common;
    struct block *block; /* owned by the device from then on, also on failure */
    enum virtio_blk_on_error on_read_error, on_write_error;
    bool
        is_write_through; /* every write is durable when it ends, unless the driver switches its cache on */
    const char *serial; /* at most 20 bytes count; NULL: empty */
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_blk_create(const struct virtio_blk_options *options,
                                 struct device **out_device, struct error *err);
/* The disk's size has changed: the driver is told to look. Loop's thread. */
void virtio_blk_resized(struct device *device);

#endif
