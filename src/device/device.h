/* The life cycle of a device model.
 *
 * Threads and locks: each device has its own lock (a plain mutex) around its registers and queues. Register handlers come
 * on vCPU threads, backend events on the loop's thread. Lock order: device, then irqchip. A device never calls out to
 * a bus while it holds its lock. */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/archive.h"
#include "base/core/error.h"

#define DEVICE_NAME_SIZE 32

struct device;

struct device_ops {
    const char *type; /* "virtio-blk": the section's name in a save is type.instance */
    uint32_t version; /* of what save writes; restore takes this and older ones */
    /* To the state after power-up. vCPUs are stopped. */
    void (*reset)(struct device *device);
    /* Stops taking new requests and waits for those in flight; 'false' undoes it. vCPUs are stopped. NULL: nothing to do. */
    void (*pause)(struct device *device, bool is_paused);
    void (*save)(struct device *device, struct archive_writer *writer);
    /* The bytes are untrusted. On failure the device may be in any safe state: the VM will not run. */
    int (*restore)(struct device *device, struct archive_reader *reader, uint32_t version,
                   struct error *err);
    void (*destroy)(struct device *device);
    /* Counters for `hull ctl PATH stats`. NULL: none. */
    void (*stats)(struct device *device, void (*emit)(void *ctx, const char *name, uint64_t value),
                  void *ctx);
};

/* The first member of every device. */
struct device {
    const struct device_ops *ops;
    char name[DEVICE_NAME_SIZE]; /* "virtio-blk.0", unique in the machine */
};

/* What a device may ask of the process that holds it. */
struct device_host {
    void *ctx;
    struct event_loop *loop; /* base/host/event_loop.h */
    struct guest_memory *memory;
    /* Two runs are to be the same: a request is done when the guest's order to look at it is, and what would be random
     * repeats itself. */
    bool is_repeatable;
    /* The guest broke the device's protocol beyond repair, or a backend is gone: stop the VM with status 4 and this one
     * line. Any thread; returns at once. */
    void (*stop_vm)(void *ctx, const char *device_name, const char *why);
    /* A request to a disk failed with 'error', an errno. With 'stops' it is kept, the VM is to be paused, and a resume tries it
     * again. On the loop's thread with the device's lock held: returns at once. NULL: nobody wants to know. */
    void (*disk_failed)(void *ctx, const char *device_name, bool is_write, int error, bool stops);
    /* The process behind a shared folder is gone: the guest's requests fail from now on. On the loop's thread with the device's
     * lock held: returns at once. NULL: nobody wants to know. */
    void (*share_lost)(void *ctx, const char *device_name, const char *why);
};

#endif
