/* virtio-vsock: stream sockets between guest and host (virtio 1.2 section 5.10), mapped to unix sockets in one directory.
 *
 * A guest's connection to port P of the host (CID 2) becomes a connection to the unix socket named "P" in decimal. A host
 * program reaches the guest by connecting to the unix socket "connect" there and sending "CONNECT P\n"; the answer is
 * "OK <host port>\n" and then the stream, or the connection is closed. Firecracker's scheme. */
#ifndef DEVICE_VIRTIO_VSOCK_H
#define DEVICE_VIRTIO_VSOCK_H

#include "device/virtio/options.h"

struct virtio_vsock_options {
    struct virtio_options common;
    uint32_t guest_cid; /* at least 3 */
    int dir_fd; /* the directory; owned by the device from then on, also on failure; -1: the host has no ports */
};

/* Called on the loop's thread. Makes the listening socket "connect", -EADDRINUSE if there is one that somebody serves. The
 * device is the caller's: device->ops->destroy. */
int must_check virtio_vsock_create(const struct virtio_vsock_options *options,
                                   struct device **out_device, struct error *err);

#endif
