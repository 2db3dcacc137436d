#include "device/virtio/virtio.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "device/virtio/pci.h"

#define COMMON_FEATURES                                                                            \
    (VIRTIO_FEATURE_INDIRECT_DESC | VIRTIO_FEATURE_EVENT_IDX | VIRTIO_FEATURE_VERSION_1)
#define NO_VECTOR     0xffffu
#define MAX_BREAKAGES 16
#define RESET_WAIT_NS 100000000
/* Much longer than any request takes, and short enough for who pauses a machine just then. */
#define REPEATABLE_WAIT_NS 2000000000

void virtio_lock(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
}

void virtio_unlock(struct virtio_device *device)
{
    pthread_mutex_unlock(&device->lock);
}

bool virtio_is_running(const struct virtio_device *device)
{
    return (device->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
               VIRTIO_STATUS_DRIVER_OK &&
           !device->is_reset_wanted && !device->is_paused;
}

bool virtio_pop(struct virtio_device *device, unsigned index, struct virtqueue_chain *out_chain)
{
    if (!virtio_is_running(device)) {
        return false;
    }
    struct virtqueue *queue = virtio_queue(device, index);
    switch (virtqueue_pop(queue, out_chain)) {
    case VIRTQUEUE_CHAIN:
        return true;
    case VIRTQUEUE_BROKEN:
        virtio_break(device, queue->broken);
        return false;
    case VIRTQUEUE_EMPTY:
        break;
    }
    return false;
}

void virtio_interrupt(struct virtio_device *device, unsigned index)
{
    struct virtio_queue_slot *slot = &device->slot[index];
    if (virtqueue_should_interrupt(&slot->queue)) {
        slot->interrupts++;
        virtio_pci_interrupt(device->pci, slot->vector, false);
    }
}

void virtio_config_changed(struct virtio_device *device)
{
    device->config_generation++;
    if ((device->status & VIRTIO_STATUS_DRIVER_OK) != 0) {
        virtio_pci_interrupt(device->pci, device->config_vector, true);
    }
}

void virtio_break(struct virtio_device *device, const char *why)
{
    if ((device->status & VIRTIO_STATUS_NEEDS_RESET) != 0) {
        return;
    }
    device->status |= VIRTIO_STATUS_NEEDS_RESET;
    log_limited(&device->log_limit, LOG_LEVEL_WARNING,
                "%s: the guest broke the protocol: %s; the device waits for a reset",
                device->device.name, why);
    device->breakages++;
    if (device->breakages == MAX_BREAKAGES && device->host->stop_vm != NULL) {
        device->host->stop_vm(device->host->ctx, device->device.name, why);
    }
    if ((device->status & VIRTIO_STATUS_DRIVER_OK) != 0) {
        virtio_pci_interrupt(device->pci, device->config_vector, true); /* 2.1.1 */
    }
}

static void process(struct virtio_device *device, unsigned index)
{
    if (virtio_is_running(device) && device->slot[index].queue.is_enabled) {
        device->ops->process(device, index);
        if (device->slot[index].queue.broken != NULL) {
            virtio_break(device, device->slot[index].queue.broken);
        }
    }
}

/* The driver's order is carried out. In a repeatable machine it waits for that, until the requests are done. */
static void carry_out(struct virtio_device *device, struct virtio_queue_slot *slot)
{
    process(device, (unsigned)(slot - device->slot));
    if (device->host->is_repeatable && !device->is_paused) {
        if (device->ops->drain != NULL && virtio_is_running(device)) {
            device->ops->drain(device);
        }
        slot->orders_done = slot->orders;
        pthread_cond_broadcast(&device->loop_done);
    }
}

static void queue_notified(void *ctx)
{
    struct virtio_queue_slot *slot = ctx;
    virtio_lock(slot->device);
    slot->notifications++;
    carry_out(slot->device, slot);
    virtio_unlock(slot->device);
}

/* Everything but the PCI function's own registers to the state after power-up. Loop's thread, with the lock. */
static void reset_now(struct virtio_device *device)
{
    if (device->ops->reset != NULL) {
        device->ops->reset(device);
    }
    virtio_pci_forget_driver(device->pci);
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        virtqueue_reset(&device->slot[i].queue);
        device->slot[i].vector = NO_VECTOR;
    }
    device->features = 0;
    device->status = 0;
    device->config_vector = NO_VECTOR;
    device->is_reset_wanted = false;
    device->is_start_wanted = false;
    pthread_cond_broadcast(&device->loop_done);
}

static void start_now(struct virtio_device *device)
{
    device->is_start_wanted = false;
    if (device->ops->start != NULL) {
        device->ops->start(device);
    }
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        carry_out(device, &device->slot[i]);
    }
}

static void controlled(void *ctx)
{
    struct virtio_device *device = ctx;
    virtio_lock(device);
    if (device->is_reset_wanted) {
        reset_now(device);
    } else if (device->is_start_wanted && virtio_is_running(device)) {
        start_now(device);
    }
    virtio_unlock(device);
}

static struct timespec time_in(long ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

/* How long a vCPU waits for the loop's thread. */
static long wait_ns(const struct virtio_device *device)
{
    return device->host->is_repeatable ? REPEATABLE_WAIT_NS : RESET_WAIT_NS;
}

/* The loop's thread does it: requests in flight are its business. The driver may see the old status for a while (2.1.2:
 * it waits for 0); since most drivers do not expect that, wait a little, but not for good: the loop's thread may itself wait for
 * this vCPU. */
static void ask_for_reset(struct virtio_device *device)
{
    device->is_reset_wanted = true;
    if (event_loop_is_own_thread(device->host->loop)) {
        reset_now(device);
        return;
    }
    event_notifier_signal(device->control);
    struct timespec until = time_in(wait_ns(device));
    int rc = 0;
    while (device->is_reset_wanted && rc == 0) {
        rc = pthread_cond_timedwait(&device->loop_done, &device->lock, &until);
    }
}

/* Section 2.2.2 and 3.1.1: the device takes FEATURES_OK only for a set that it can work with. */
static bool can_take_features(const struct virtio_device *device)
{
    return (device->features & ~device->offered_features) == 0 &&
           (~device->features & (VIRTIO_FEATURE_VERSION_1 | device->ops->required_features)) == 0;
}

static void freeze_features(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        struct virtqueue *queue = &device->slot[i].queue;
        queue->has_event_idx = (device->features & VIRTIO_FEATURE_EVENT_IDX) != 0;
        queue->has_indirect = (device->features & VIRTIO_FEATURE_INDIRECT_DESC) != 0;
    }
}

/* In a repeatable machine the driver goes on when the device has seen it start. */
static void wait_for_start(struct virtio_device *device)
{
    struct timespec until = time_in(wait_ns(device));
    int rc = 0;
    bool waits = device->host->is_repeatable && !event_loop_is_own_thread(device->host->loop);
    while (waits && device->is_start_wanted && rc == 0) {
        rc = pthread_cond_timedwait(&device->loop_done, &device->lock, &until);
    }
}

void virtio_write_status(struct virtio_device *device, uint8_t value)
{
    if (device->is_reset_wanted) {
        return;
    }
    if (value == 0) {
        if (device->status != 0 || device->features != 0) {
            ask_for_reset(device);
        }
        return;
    }
    /* Bits are only ever added (2.1.1), and NEEDS_RESET is the device's. */
    uint8_t added = (uint8_t)(value & ~device->status & ~VIRTIO_STATUS_NEEDS_RESET);
    if ((added & VIRTIO_STATUS_FEATURES_OK) != 0) {
        if (can_take_features(device)) {
            freeze_features(device);
        } else {
            added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
        }
    }
    device->status |= added;
    if ((added & VIRTIO_STATUS_DRIVER_OK) != 0) {
        if ((device->status & VIRTIO_STATUS_FEATURES_OK) == 0) {
            virtio_break(device, "driver started without features");
            return;
        }
        virtio_pci_attach_doorbells(device->pci);
        device->is_start_wanted = true;
        event_notifier_signal(device->control);
        wait_for_start(device);
    }
}

void virtio_write_features(struct virtio_device *device, unsigned half, uint32_t value)
{
    if ((device->status & VIRTIO_STATUS_FEATURES_OK) != 0 || half > 1) {
        return;
    }
    uint64_t mask = 0xffffffffull << (half * 32);
    device->features = (device->features & ~mask) | ((uint64_t)value << (half * 32));
}

void virtio_enable_queue(struct virtio_device *device, unsigned index)
{
    struct virtqueue *queue = &device->slot[index].queue;
    if (queue->is_enabled || device->is_reset_wanted) {
        return;
    }
    if ((device->status & VIRTIO_STATUS_FEATURES_OK) == 0) {
        virtio_break(device, "queue enabled before the features were agreed on");
    } else if (!virtqueue_enable(queue)) {
        virtio_break(device, queue->broken);
    } else if ((device->status & VIRTIO_STATUS_DRIVER_OK) != 0) {
        virtio_pci_attach_doorbells(device->pci);
    }
}

void virtio_notify(struct virtio_device *device, unsigned index)
{
    event_notifier_signal(device->slot[index].notifier);
}

void virtio_ring(struct virtio_device *device, unsigned index)
{
    struct virtio_queue_slot *slot = &device->slot[index];
    if (!device->host->is_repeatable || event_loop_is_own_thread(device->host->loop)) {
        virtio_notify(device, index);
        return;
    }
    virtio_lock(device);
    uint64_t order = ++slot->orders;
    event_notifier_signal(slot->notifier);
    struct timespec until = time_in(wait_ns(device));
    int rc = 0;
    while (slot->orders_done < order && rc == 0) {
        rc = pthread_cond_timedwait(&device->loop_done, &device->lock, &until);
    }
    virtio_unlock(device);
}

static void device_reset(struct device *base)
{
    struct virtio_device *device = virtio_from_device(base);
    virtio_lock(device);
    reset_now(device);
    virtio_pci_reset(device->pci);
    virtio_unlock(device);
}

/* Notifications that came while the machine was paused were dropped. */
static void process_missed(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        struct virtio_queue_slot *slot = &device->slot[i];
        /* To look at a queue without need might send an interrupt without need. */
        if (!device->host->is_repeatable || slot->orders_done != slot->orders) {
            carry_out(device, slot);
        }
    }
}

static void device_pause(struct device *base, bool is_paused)
{
    struct virtio_device *device = virtio_from_device(base);
    virtio_lock(device);
    if (device->is_reset_wanted) {
        reset_now(device); /* the vCPU that asked has stopped waiting */
    }
    if (is_paused && !device->is_paused) {
        if (device->ops->drain != NULL) {
            device->ops->drain(device);
        }
        device->is_paused = true;
    } else if (!is_paused && device->is_paused) {
        device->is_paused = false;
        if (device->ops->resume != NULL && virtio_is_running(device)) {
            device->ops->resume(device);
        }
        if (device->is_start_wanted && virtio_is_running(device)) {
            start_now(device);
        } else {
            process_missed(device);
        }
    }
    virtio_unlock(device);
}

static void device_save(struct device *base, struct archive_writer *writer)
{
    struct virtio_device *device = virtio_from_device(base);
    virtio_lock(device);
    archive_put_u64(writer, device->features);
    archive_put_u8(writer, device->status);
    archive_put_u8(writer, device->config_generation);
    archive_put_u16(writer, device->config_vector);
    archive_put_bool(writer, device->is_start_wanted);
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        archive_put_u16(writer, device->slot[i].vector);
        virtqueue_save(&device->slot[i].queue, writer);
    }
    virtio_pci_save(device->pci, writer);
    if (device->ops->save != NULL) {
        device->ops->save(device, writer);
    }
    virtio_unlock(device);
}

static int restore_core(struct virtio_device *device, struct archive_reader *reader,
                        struct error *err)
{
    device->features = archive_get_u64(reader);
    device->status = archive_get_u8(reader);
    device->config_generation = archive_get_u8(reader);
    device->config_vector = archive_get_u16(reader);
    device->is_start_wanted = archive_get_bool(reader);
    bool has_features = (device->status & VIRTIO_STATUS_FEATURES_OK) != 0;
    if (has_features && !can_take_features(device)) {
        return error_set(err, EBADMSG,
                         "%s: saved with features 0x%llx of which this device has only 0x%llx",
                         device->device.name, (unsigned long long)device->features,
                         (unsigned long long)device->offered_features);
    }
    if ((device->status & VIRTIO_STATUS_DRIVER_OK) != 0 && !has_features) {
        return error_set(err, EBADMSG, "%s: saved state cannot be", device->device.name);
    }
    if (has_features) {
        freeze_features(device);
    }
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        device->slot[i].vector = archive_get_u16(reader);
        if (!virtqueue_restore(&device->slot[i].queue, reader)) {
            return error_set(err, EBADMSG, "%s: saved queue %u cannot be: %s", device->device.name,
                             i,
                             device->slot[i].queue.broken != NULL ? device->slot[i].queue.broken
                                                                  : "it ends early");
        }
    }
    return 0;
}

static int device_restore(struct device *base, struct archive_reader *reader, uint32_t version,
                          struct error *err)
{
    struct virtio_device *device = virtio_from_device(base);
    virtio_lock(device);
    reset_now(device);
    int rc = restore_core(device, reader, err);
    if (rc == 0) {
        rc = virtio_pci_restore(device->pci, reader, err);
    }
    if (rc == 0 && device->ops->restore != NULL) {
        rc = device->ops->restore(device, reader, version, err);
    }
    device->is_paused = true; /* until the machine runs */
    if (rc < 0) {
        device->status = VIRTIO_STATUS_NEEDS_RESET; /* no queue is touched any more */
    } else if ((device->status & VIRTIO_STATUS_DRIVER_OK) != 0) {
        virtio_pci_attach_doorbells(device->pci);
        device->is_start_wanted = true; /* the next resume starts it */
    }
    virtio_unlock(device);
    return rc;
}

static void device_destroy(struct device *base)
{
    if (base != NULL) {
        struct virtio_device *device = virtio_from_device(base);
        if (device->ops->reset != NULL) {
            virtio_lock(device);
            device->ops->reset(device);
            virtio_unlock(device);
        }
        device->ops->destroy(device);
    }
}

static void device_stats(struct device *base,
                         void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct virtio_device *device = virtio_from_device(base);
    virtio_lock(device);
    uint64_t notifications = 0, interrupts = 0, chains = 0;
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        notifications += device->slot[i].notifications;
        interrupts += device->slot[i].interrupts;
        chains += device->slot[i].queue.chains;
    }
    emit(ctx, "notifications", notifications);
    emit(ctx, "interrupts", interrupts);
    emit(ctx, "chains", chains);
    if (device->ops->stats != NULL) {
        device->ops->stats(device, emit, ctx);
    }
    virtio_unlock(device);
}

/* struct device wants a table of its own; the type's name and version are the only differences. */
static void fill_device_ops(struct virtio_device *device)
{
    device->device_ops = (struct device_ops){
        .type = device->ops->type,
        .version = device->ops->version,
        .reset = device_reset,
        .pause = device_pause,
        .save = device_save,
        .restore = device_restore,
        .destroy = device_destroy,
        .stats = device_stats,
    };
    device->device.ops = &device->device_ops;
}

int virtio_init(struct virtio_device *device, const struct virtio_ops *ops,
                uint64_t offered_features, const struct virtio_options *options, struct error *err)
{
    device->ops = ops;
    device->host = options->host;
    device->offered_features = offered_features | COMMON_FEATURES;
    device->config_vector = NO_VECTOR;
    device->log_limit = (struct log_limit)LOG_LIMIT(5);
    fill_device_ops(device);
    (void)snprintf(device->device.name, sizeof(device->device.name), "%s.%u", ops->type,
                   options->instance); /* longest type and number fit */
    pthread_mutex_init(&device->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&device->loop_done, &attr);
    pthread_condattr_destroy(&attr);
    int rc = event_notifier_create(options->host->loop, controlled, device, &device->control, err);
    for (unsigned i = 0; i < ops->queue_count && rc == 0; i++) {
        struct virtio_queue_slot *slot = &device->slot[i];
        slot->device = device;
        slot->vector = NO_VECTOR;
        virtqueue_init(&slot->queue, options->host->memory, ops->queue_size[i]);
        rc = event_notifier_create(options->host->loop, queue_notified, slot, &slot->notifier, err);
    }
    if (rc == 0) {
        rc = virtio_pci_create(device, options, &device->pci, err);
    }
    if (rc < 0) {
        virtio_fini(device);
        return error_prefix(err, rc, "%s", device->device.name);
    }
    return 0;
}

unsigned virtio_slot(const struct virtio_device *device)
{
    return virtio_pci_slot(device->pci);
}

void virtio_fini(struct virtio_device *device)
{
    virtio_pci_destroy(device->pci);
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        event_notifier_destroy(device->slot[i].notifier);
    }
    event_notifier_destroy(device->control);
    pthread_cond_destroy(&device->loop_done);
    pthread_mutex_destroy(&device->lock);
}
