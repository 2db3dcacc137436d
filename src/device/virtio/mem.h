/* virtio-mem: memory that a running guest gets and gives back in blocks; virtio 1.2 section 5.15.
 *
 * It has a slot of guest memory of its own (guest_memory_reserve). What the guest has plugged never exceeds what was asked for,
 * and it reaches nothing behind the part of the slot that this could be in. */
#ifndef DEVICE_VIRTIO_MEM_H
#define DEVICE_VIRTIO_MEM_H

#include "device/virtio/options.h"

/* Memory comes and goes in such pieces: a huge page of the host. */
#define VIRTIO_MEM_BLOCK (2u << 20)

struct virtio_mem_options {
    struct virtio_options common;
    uint64_t gpa, size_bytes; /* of the reserved slot; multiples of VIRTIO_MEM_BLOCK */
};

/* Called on the loop's thread. The device is the caller's: device->ops->destroy. */
int must_check virtio_mem_create(const struct virtio_mem_options *options,
                                 struct device **out_device, struct error *err);

/* Asks the guest to have 'bytes' plugged, rounded up to blocks, at most the slot's size. Loop's thread. */
int must_check virtio_mem_set_requested(struct device *device, uint64_t bytes, struct error *err);
/* Any thread. */
uint64_t virtio_mem_requested(struct device *device);
uint64_t virtio_mem_plugged(struct device *device);
/* The machine's reset, unlike the driver's, takes all memory away. Loop's thread, no vCPU runs. */
int must_check virtio_mem_power_cycle(struct device *device, struct error *err);

#endif
