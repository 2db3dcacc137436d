/* virtio-fs: a folder of the host in the guest (virtio 1.2 section 5.11). The device knows nothing of files: it passes requests on to
 * the process hull-share (fs_wire.h), and its replies back. When that process ends, every request fails with EIO. */
#ifndef DEVICE_VIRTIO_FS_H
#define DEVICE_VIRTIO_FS_H

#include "device/virtio/options.h"

struct virtio_fs_options {
    struct virtio_options common;
    int fd; /* a connected stream socket; owned by the device from then on, also on failure */
    const char *tag;
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_fs_create(const struct virtio_fs_options *options, struct device **out_device,
                                struct error *err);

#endif
