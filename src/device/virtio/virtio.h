/* The core of every virtio device (virtio 1.2 sections 2 and 3): status, features, queues' life, reset, save and restore; and
 * what a device type implements. The transport (pci.h) sits beside it: registers in, interrupts out.
 *
 * Threads: 'lock' guards all of struct virtio_device and of the type's own struct. Registers are used by vCPU threads; all work
 * on queues happens on the loop's thread, which notifiers wake. So are the operations below called: on the loop's thread
 * with the lock held, unless they say otherwise. */
#ifndef DEVICE_VIRTIO_VIRTIO_H
#define DEVICE_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/bits.h"
#include "base/host/event_loop.h"
#include "base/host/log.h"
#include "device/virtio/options.h"
#include "device/virtio/queue.h"

#define VIRTIO_MAX_QUEUES 8

#define VIRTIO_FEATURE_INDIRECT_DESC BIT(28)
#define VIRTIO_FEATURE_EVENT_IDX     BIT(29)
#define VIRTIO_FEATURE_VERSION_1     BIT(32)

enum virtio_status {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

struct virtio_device;

/* A type of device. All but the names, numbers and process may be NULL. */
struct virtio_ops {
    const char *type; /* "virtio-blk" */
    uint32_t version; /* of what save writes */
    uint16_t device_id;
    uint32_t pci_class; /* 24 bits */
    uint16_t queue_count;
    uint16_t queue_size[VIRTIO_MAX_QUEUES];
    uint32_t config_size;
    uint64_t required_features; /* of the offered ones: a driver without them is turned away */

    /* Queue 'index' may hold new chains. Also after start and after a pause. */
    void (*process)(struct virtio_device *device, unsigned index);
    /* The driver is ready (DRIVER_OK): device->features is final. Also after a restore in that state. */
    void (*start)(struct virtio_device *device);
    /* The machine goes on after a pause. */
    void (*resume)(struct virtio_device *device);
    /* Finishes or drops what is in flight, without touching the guest afterwards, and forgets the driver. */
    void (*reset)(struct virtio_device *device);
    /* Finishes what is in flight: chains are pushed or unpopped. */
    void (*drain)(struct virtio_device *device);
    /* Bytes of the device's configuration; offset + size is within config_size. Any thread. */
    void (*read_config)(struct virtio_device *device, uint32_t offset, void *out_data,
                        uint32_t size);
    void (*write_config)(struct virtio_device *device, uint32_t offset, const void *data,
                         uint32_t size);
    /* Nothing is in flight. */
    void (*save)(struct virtio_device *device, struct archive_writer *writer);
    int (*restore)(struct virtio_device *device, struct archive_reader *reader, uint32_t version,
                   struct error *err);
    void (*stats)(struct virtio_device *device,
                  void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx);
    /* Frees the type's own parts and the struct itself. Without the lock; nothing is in flight. */
    void (*destroy)(struct virtio_device *device);
};

struct virtio_queue_slot {
    struct virtqueue queue;
    struct event_notifier *notifier;
    struct virtio_device *device;
    uint16_t vector; /* MSI-X, 0xffff: none */
    uint64_t notifications;
    uint64_t
        orders; /* of the driver to look at the queue, if the machine is repeatable; and those carried out */
    uint64_t orders_done;
    uint64_t interrupts;
};

/* The first member of each type's struct. */
struct virtio_device {
    struct device device;
    struct device_ops device_ops; /* for device.ops: the same functions for every type */
    const struct virtio_ops *ops;
    const struct device_host *host;
    pthread_mutex_t lock;
    pthread_cond_t loop_done; /* the loop's thread has done something that a vCPU waits for */

    uint64_t offered_features;
    uint64_t features; /* what the driver took */
    uint8_t status;
    uint8_t config_generation;
    uint16_t config_vector;
    struct virtio_queue_slot slot[VIRTIO_MAX_QUEUES];
    struct event_notifier *control; /* reset or start, asked for by a vCPU thread */
    bool is_reset_wanted;
    bool is_start_wanted;
    bool is_paused;
    unsigned breakages; /* how often the guest broke the protocol */
    struct log_limit log_limit;

    struct virtio_pci *pci;
};

/* Sets up what all types share and puts the device on the PCI bus; 'offered_features' without the common ones. On failure the
 * caller still owns the struct and needs no virtio_fini. */
int must_check virtio_init(struct virtio_device *device, const struct virtio_ops *ops,
                           uint64_t offered_features, const struct virtio_options *options,
                           struct error *err);
/* Where it is on the PCI bus. */
unsigned virtio_slot(const struct virtio_device *device);
/* Part of ops->destroy. */
void virtio_fini(struct virtio_device *device);

static inline struct virtio_device *virtio_from_device(struct device *device)
{
    return container_of(device, struct virtio_device, device);
}
static inline bool virtio_has_feature(const struct virtio_device *device, unsigned bit)
{
    return (device->features & BIT(bit)) != 0;
}
static inline struct virtqueue *virtio_queue(struct virtio_device *device, unsigned index)
{
    return &device->slot[index].queue;
}

void virtio_lock(struct virtio_device *device);
void virtio_unlock(struct virtio_device *device);
/* The driver is ready, nothing is broken, and the machine is not paused. */
bool virtio_is_running(const struct virtio_device *device);

/* The next chain of a queue, or false: empty, or broken (which is then reported). */
bool must_check virtio_pop(struct virtio_device *device, unsigned index,
                           struct virtqueue_chain *out_chain);
/* Sends the queue's interrupt if the guest wants one for what was pushed. */
void virtio_interrupt(struct virtio_device *device, unsigned index);
/* The device's configuration changed: the driver shall look. */
void virtio_config_changed(struct virtio_device *device);
/* The guest broke the protocol: the device stops until it is reset, and a guest that goes on so stops the VM. */
void virtio_break(struct virtio_device *device, const char *why);

/* For the transport, with the lock held. */
void virtio_write_status(struct virtio_device *device, uint8_t value);
void virtio_write_features(struct virtio_device *device, unsigned half, uint32_t value);
void virtio_enable_queue(struct virtio_device *device, unsigned index);
/* Have the queue looked at. Any thread. */
void virtio_notify(struct virtio_device *device, unsigned index);
/* For the transport, without the lock: the driver rang the queue's doorbell. */
void virtio_ring(struct virtio_device *device, unsigned index);

#endif
