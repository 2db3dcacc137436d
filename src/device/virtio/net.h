/* virtio-net: a network card with one pair of queues (virtio 1.2 section 5.1). */
#ifndef DEVICE_VIRTIO_NET_H
#define DEVICE_VIRTIO_NET_H

#include "device/virtio/options.h"
#include "net/net.h"

struct virtio_net_options {
    struct virtio_options common;
    struct net *net; /* owned by the device from then on, also on failure */
    uint8_t mac[6];
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_net_create(const struct virtio_net_options *options,
                                 struct device **out_device, struct error *err);

#endif
