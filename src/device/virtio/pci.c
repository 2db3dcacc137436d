#include "device/virtio/pci.h"

#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/endian.h"
#include "device/pci/pci.h"

/* BAR 0, one page for each structure and one for each queue's doorbell, so that an engine can treat doorbells apart:
 *
 *   0x0000 common configuration   0x1000 ISR status   0x2000 device configuration   0x3000 + N * 0x1000 queue N's doorbell
 *
 * BAR 2 holds the MSI-X table. */
#define REGISTER_BAR  0u
#define MSIX_BAR      2u
#define BAR_SIZE      0x10000u
#define COMMON_OFFSET 0x0000u
#define COMMON_SIZE   60u
#define ISR_OFFSET    0x1000u
#define DEVICE_OFFSET 0x2000u
#define NOTIFY_OFFSET 0x3000u
#define NOTIFY_STRIDE 0x1000u
#define PAGE          0x1000u
_Static_assert(NOTIFY_OFFSET + VIRTIO_MAX_QUEUES * NOTIFY_STRIDE <= BAR_SIZE, "doorbells fit");

#define VIRTIO_VENDOR 0x1af4u
#define VIRTIO_DEVICE 0x1040u /* plus the device's type (4.1.2) */
#define ISR_QUEUE     1u
#define WINDOW_DATA   16u /* offset of pci_cfg_data in its capability */
#define NO_DOORBELL   UINT64_MAX

struct virtio_pci {
    struct virtio_device *device;
    struct pci_function *function;
    uint16_t vector_count;
    uint8_t window_offset; /* of the configuration access capability, 0: not there yet */

    /* Guarded by the device's lock. */
    uint8_t isr;
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_select;

    /* Its own lock, below the device's: BARs move without the device's lock held, or with it. */
    pthread_mutex_t doorbell_lock;
    struct doorbell doorbell;
    bool wants_doorbells;
    uint64_t doorbell_gpa[VIRTIO_MAX_QUEUES]; /* attached at, or NO_DOORBELL */
};

static void set_doorbell(struct virtio_pci *pci, unsigned index, uint64_t gpa)
{
    int fd = event_notifier_fd(pci->device->slot[index].notifier);
    const struct doorbell *doorbell = &pci->doorbell;
    if (pci->doorbell_gpa[index] == gpa) {
        return;
    }
    if (pci->doorbell_gpa[index] != NO_DOORBELL) {
        (void)doorbell->attach(doorbell->ctx, pci->doorbell_gpa[index], 2, fd,
                               false); /* it was attached */
        pci->doorbell_gpa[index] = NO_DOORBELL;
    }
    /* Where it fails, writes come through the bus. */
    if (gpa != NO_DOORBELL && doorbell->attach(doorbell->ctx, gpa, 2, fd, true) == 0) {
        pci->doorbell_gpa[index] = gpa;
    }
}

static void update_doorbells(struct virtio_pci *pci)
{
    if (pci->doorbell.attach == NULL) {
        return;
    }
    uint64_t base;
    bool is_there =
        pci->wants_doorbells && pci_function_bar_address(pci->function, REGISTER_BAR, &base);
    for (unsigned i = 0; i < pci->device->ops->queue_count; i++) {
        set_doorbell(pci, i, is_there ? base + NOTIFY_OFFSET + i * NOTIFY_STRIDE : NO_DOORBELL);
    }
}

static void bar_changed(void *ctx, unsigned bar)
{
    struct virtio_pci *pci = ctx;
    if (bar == REGISTER_BAR) {
        pthread_mutex_lock(&pci->doorbell_lock);
        update_doorbells(pci);
        pthread_mutex_unlock(&pci->doorbell_lock);
    }
}

static void want_doorbells(struct virtio_pci *pci, bool is_wanted)
{
    pthread_mutex_lock(&pci->doorbell_lock);
    pci->wants_doorbells = is_wanted;
    update_doorbells(pci);
    pthread_mutex_unlock(&pci->doorbell_lock);
}

void virtio_pci_attach_doorbells(struct virtio_pci *pci)
{
    want_doorbells(pci, true);
}

void virtio_pci_interrupt(struct virtio_pci *pci, uint16_t vector, bool is_config)
{
    if (pci_function_msix_enabled(pci->function)) {
        if (vector != VIRTIO_MSI_NO_VECTOR) {
            pci_function_msix_send(pci->function, vector);
        }
        return;
    }
    pci->isr |= is_config ? VIRTIO_PCI_ISR_CONFIG : ISR_QUEUE;
    pci_function_set_intx(pci->function, true);
}

static uint64_t isr_read(struct virtio_pci *pci)
{
    uint8_t isr = pci->isr;
    pci->isr = 0;
    pci_function_set_intx(pci->function, false);
    return isr;
}

/* The common configuration structure as the driver sees it (4.1.4.3). */
static void common_image(const struct virtio_pci *pci, uint8_t *image)
{
    const struct virtio_device *device = pci->device;
    memset(image, 0, COMMON_SIZE);
    le32_put(image + VIRTIO_PCI_COMMON_DFSELECT, pci->device_feature_select);
    if (pci->device_feature_select < 2) {
        le32_put(image + VIRTIO_PCI_COMMON_DF,
                 (uint32_t)(device->offered_features >> (pci->device_feature_select * 32)));
    }
    le32_put(image + VIRTIO_PCI_COMMON_GFSELECT, pci->driver_feature_select);
    if (pci->driver_feature_select < 2) {
        le32_put(image + VIRTIO_PCI_COMMON_GF,
                 (uint32_t)(device->features >> (pci->driver_feature_select * 32)));
    }
    le16_put(image + VIRTIO_PCI_COMMON_MSIX, device->config_vector);
    le16_put(image + VIRTIO_PCI_COMMON_NUMQ, device->ops->queue_count);
    image[VIRTIO_PCI_COMMON_STATUS] = device->status;
    image[VIRTIO_PCI_COMMON_CFGGENERATION] = device->config_generation;
    le16_put(image + VIRTIO_PCI_COMMON_Q_SELECT, pci->queue_select);
    if (pci->queue_select >= device->ops->queue_count) {
        return; /* size 0: no such queue */
    }
    const struct virtio_queue_slot *slot = &device->slot[pci->queue_select];
    le16_put(image + VIRTIO_PCI_COMMON_Q_SIZE, slot->queue.size);
    le16_put(image + VIRTIO_PCI_COMMON_Q_MSIX, slot->vector);
    le16_put(image + VIRTIO_PCI_COMMON_Q_ENABLE, slot->queue.is_enabled);
    le16_put(image + VIRTIO_PCI_COMMON_Q_NOFF, pci->queue_select);
    le64_put(image + VIRTIO_PCI_COMMON_Q_DESCLO, slot->queue.desc_gpa);
    le64_put(image + VIRTIO_PCI_COMMON_Q_AVAILLO, slot->queue.avail_gpa);
    le64_put(image + VIRTIO_PCI_COMMON_Q_USEDLO, slot->queue.used_gpa);
}

/* Bytes [offset, offset + size) of an area of which only 'area_size' bytes exist; the rest reads 0. */
static uint64_t image_read(const uint8_t *area, uint32_t area_size, uint64_t offset, unsigned size)
{
    uint8_t bytes[8] = {0};
    if (offset < area_size) {
        memcpy(bytes, area + offset, MIN(size, area_size - offset));
    }
    return le64_get(bytes);
}

static uint16_t valid_vector(const struct virtio_pci *pci, uint64_t value)
{
    return value < pci->vector_count ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

static void set_half(uint64_t *address, unsigned half, uint64_t value)
{
    unsigned shift = half * 32;
    *address = (*address & ~(0xffffffffull << shift)) | ((value & 0xffffffffu) << shift);
}

/* The fields of the selected queue. 'offset' is that of a field, 'size' the field's. */
static void queue_write(struct virtio_pci *pci, uint64_t offset, uint64_t value)
{
    struct virtio_device *device = pci->device;
    if (pci->queue_select >= device->ops->queue_count || device->is_reset_wanted) {
        return;
    }
    struct virtio_queue_slot *slot = &device->slot[pci->queue_select];
    struct virtqueue *queue = &slot->queue;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
        slot->vector = valid_vector(pci, value);
        return;
    }
    if (queue->is_enabled) {
        return; /* 4.1.4.3.2: not while the queue is enabled */
    }
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        queue->size = (uint16_t)value;
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1) {
            virtio_enable_queue(device, pci->queue_select);
        }
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        set_half(&queue->desc_gpa, offset == VIRTIO_PCI_COMMON_Q_DESCHI, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        set_half(&queue->avail_gpa, offset == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        set_half(&queue->used_gpa, offset == VIRTIO_PCI_COMMON_Q_USEDHI, value);
        break;
    default:
        break;
    }
}

static void common_write(struct virtio_pci *pci, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_device *device = pci->device;
    if (size == 8) { /* more than a driver may do; harmless */
        common_write(pci, offset, 4, value & 0xffffffffu);
        common_write(pci, offset + 4, 4, value >> 32);
        return;
    }
    unsigned field_size = offset < VIRTIO_PCI_COMMON_MSIX       ? 4
                          : offset == VIRTIO_PCI_COMMON_STATUS  ? 1
                          : offset < VIRTIO_PCI_COMMON_Q_DESCLO ? 2
                                                                : 4;
    if (size != field_size) {
        return; /* 4.1.3.1: fields are written whole */
    }
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        pci->device_feature_select = (uint32_t)value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        pci->driver_feature_select = (uint32_t)value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        virtio_write_features(device, pci->driver_feature_select, (uint32_t)value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        device->config_vector = valid_vector(pci, value);
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        virtio_write_status(device, (uint8_t)value);
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        pci->queue_select = (uint16_t)value;
        break;
    default:
        queue_write(pci, offset, value);
        break;
    }
}

static uint64_t config_area_read(struct virtio_device *device, uint64_t offset, unsigned size)
{
    uint8_t bytes[8] = {0};
    uint32_t config_size = device->ops->config_size;
    if (offset < config_size && device->ops->read_config != NULL) {
        device->ops->read_config(device, (uint32_t)offset, bytes,
                                 (uint32_t)MIN(size, config_size - offset));
    }
    return le64_get(bytes);
}

static void config_area_write(struct virtio_device *device, uint64_t offset, unsigned size,
                              uint64_t value)
{
    uint8_t bytes[8];
    le64_put(bytes, value);
    if (device->ops->write_config != NULL && range_fits(offset, size, device->ops->config_size)) {
        device->ops->write_config(device, (uint32_t)offset, bytes, size);
    }
}

static uint64_t register_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct virtio_pci *pci = ctx;
    uint64_t value = 0;
    virtio_lock(pci->device);
    switch (offset & ~(uint64_t)(PAGE - 1)) {
    case COMMON_OFFSET: {
        uint8_t image[COMMON_SIZE];
        common_image(pci, image);
        value = image_read(image, COMMON_SIZE, offset - COMMON_OFFSET, size);
        break;
    }
    case ISR_OFFSET:
        value = offset == ISR_OFFSET ? isr_read(pci) : 0;
        break;
    case DEVICE_OFFSET:
        value = config_area_read(pci->device, offset - DEVICE_OFFSET, size);
        break;
    default:
        break;
    }
    virtio_unlock(pci->device);
    return value;
}

static void register_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *pci = ctx;
    if (offset >= NOTIFY_OFFSET) {
        uint64_t index = (offset - NOTIFY_OFFSET) / NOTIFY_STRIDE;
        if (index < pci->device->ops->queue_count) {
            virtio_ring(pci->device, (unsigned)index);
        }
        return;
    }
    virtio_lock(pci->device);
    if (offset < COMMON_SIZE) {
        common_write(pci, offset, size, value);
    } else if (offset >= DEVICE_OFFSET) {
        config_area_write(pci->device, offset - DEVICE_OFFSET, size, value);
    }
    virtio_unlock(pci->device);
}

static const struct bus_region_ops register_ops = {.read = register_read, .write = register_write};

/* The window through which configuration space reaches the BAR (4.1.4.9). False: what it is set to cannot be. */
static bool window_target(struct virtio_pci *pci, uint32_t *out_offset, unsigned *out_size)
{
    uint32_t at = pci->window_offset;
    uint32_t bar = pci_function_config_get(pci->function, at + VIRTIO_PCI_CAP_BAR, 1);
    uint32_t offset = pci_function_config_get(pci->function, at + VIRTIO_PCI_CAP_OFFSET, 4);
    uint32_t size = pci_function_config_get(pci->function, at + VIRTIO_PCI_CAP_LENGTH, 4);
    *out_offset = offset;
    *out_size = size;
    return bar == REGISTER_BAR && (size == 1 || size == 2 || size == 4) && offset % size == 0 &&
           range_fits(offset, size, BAR_SIZE);
}

static bool is_window(const struct virtio_pci *pci, uint32_t offset)
{
    return pci->window_offset != 0 && offset == pci->window_offset + WINDOW_DATA;
}

static bool config_read(void *ctx, uint32_t vcpu, uint32_t offset, unsigned size,
                        uint32_t *out_value)
{
    struct virtio_pci *pci = ctx;
    uint32_t target;
    unsigned target_size;
    if (!is_window(pci, offset) || !window_target(pci, &target, &target_size)) {
        return false;
    }
    *out_value = (uint32_t)register_read(pci, vcpu, target, target_size);
    return true;
}

static void config_written(void *ctx, uint32_t vcpu, uint32_t offset, unsigned size)
{
    struct virtio_pci *pci = ctx;
    uint32_t target;
    unsigned target_size;
    if (is_window(pci, offset) && window_target(pci, &target, &target_size)) {
        register_write(pci, vcpu, target, target_size,
                       pci_function_config_get(pci->function, offset, target_size));
    }
}

static const struct pci_function_ops function_ops = {
    .config_read = config_read,
    .config_written = config_written,
    .bar_changed = bar_changed,
};

static int add_structure(struct virtio_pci *pci, uint8_t type, uint32_t offset, uint32_t size,
                         struct error *err)
{
    struct virtio_pci_notify_cap cap = {
        .cap = {.cap_len = sizeof(struct virtio_pci_cap),
                .cfg_type = type,
                .bar = REGISTER_BAR,
                .offset = offset,
                .length = size},
    };
    if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
        cap.cap.cap_len = sizeof(cap);
        cap.notify_off_multiplier = NOTIFY_STRIDE;
    }
    uint8_t at;
    return pci_function_add_capability(pci->function, PCI_CAPABILITY_VENDOR, &cap, NULL,
                                       cap.cap.cap_len, &at, err);
}

static int add_window(struct virtio_pci *pci, struct error *err)
{
    struct virtio_pci_cfg_cap cap = {
        .cap = {.cap_len = sizeof(cap), .cfg_type = VIRTIO_PCI_CAP_PCI_CFG}};
    struct virtio_pci_cfg_cap mask = {.cap = {.bar = 0xff, .offset = ~0u, .length = ~0u}};
    memset(mask.pci_cfg_data, 0xff, sizeof(mask.pci_cfg_data));
    return pci_function_add_capability(pci->function, PCI_CAPABILITY_VENDOR, &cap, &mask,
                                       sizeof(cap), &pci->window_offset, err);
}

static int build_function(struct virtio_pci *pci, const struct virtio_options *options,
                          struct error *err)
{
    const struct virtio_ops *ops = pci->device->ops;
    const struct pci_identity identity = {
        .slot = options->slot,
        .is_plugged = options->is_plugged,
        .vendor = VIRTIO_VENDOR,
        .device = (uint16_t)(VIRTIO_DEVICE + ops->device_id),
        .subsystem_vendor = VIRTIO_VENDOR,
        .subsystem = (uint16_t)(VIRTIO_DEVICE + ops->device_id),
        .class_code = ops->pci_class,
        .revision = 1, /* modern only (4.1.2.1) */
        .has_intx = true,
    };
    int rc = pci_function_create(options->bus, pci->device->device.name, &identity, &function_ops,
                                 pci, &pci->function, err);
    if (rc == 0) {
        rc = pci_function_add_bar(pci->function, REGISTER_BAR, PCI_BAR_MEMORY64, false, BAR_SIZE,
                                  &register_ops, pci, err);
    }
    if (rc == 0) {
        rc = pci_function_add_msix(pci->function, MSIX_BAR, pci->vector_count, err);
    }
    if (rc == 0) {
        rc = add_structure(pci, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_SIZE, err);
    }
    if (rc == 0) {
        rc = add_structure(pci, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET,
                           ops->queue_count * NOTIFY_STRIDE, err);
    }
    if (rc == 0) {
        rc = add_structure(pci, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1, err);
    }
    if (rc == 0 && ops->config_size > 0) {
        rc = add_structure(pci, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, ops->config_size, err);
    }
    return rc == 0 ? add_window(pci, err) : rc;
}

int virtio_pci_create(struct virtio_device *device, const struct virtio_options *options,
                      struct virtio_pci **out_pci, struct error *err)
{
    struct virtio_pci *pci = calloc(1, sizeof(*pci));
    if (pci == NULL) {
        return error_set_errno(err, ENOMEM, "creating a virtio device");
    }
    pci->device = device;
    pci->doorbell = options->doorbell;
    pci->vector_count = device->ops->queue_count + 1; /* the configuration's */
    for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
        pci->doorbell_gpa[i] = NO_DOORBELL;
    }
    pthread_mutex_init(&pci->doorbell_lock, NULL);
    int rc = build_function(pci, options, err);
    if (rc < 0) {
        virtio_pci_destroy(pci);
        return rc;
    }
    *out_pci = pci;
    return 0;
}

void virtio_pci_destroy(struct virtio_pci *pci)
{
    if (pci == NULL) {
        return;
    }
    want_doorbells(pci, false);
    pci_function_destroy(pci->function);
    pthread_mutex_destroy(&pci->doorbell_lock);
    free(pci);
}

unsigned virtio_pci_slot(const struct virtio_pci *pci)
{
    return pci_function_device_number(pci->function);
}

void virtio_pci_forget_driver(struct virtio_pci *pci)
{
    pci->isr = 0;
    pci->device_feature_select = 0;
    pci->driver_feature_select = 0;
    pci->queue_select = 0;
    pci_function_set_intx(pci->function, false);
    want_doorbells(pci, false);
}

void virtio_pci_reset(struct virtio_pci *pci)
{
    pci_function_reset(pci->function);
}

void virtio_pci_save(struct virtio_pci *pci, struct archive_writer *writer)
{
    archive_put_u8(writer, pci->isr);
    archive_put_u32(writer, pci->device_feature_select);
    archive_put_u32(writer, pci->driver_feature_select);
    archive_put_u16(writer, pci->queue_select);
    pci_function_save(pci->function, writer);
}

int virtio_pci_restore(struct virtio_pci *pci, struct archive_reader *reader, struct error *err)
{
    pci->isr = archive_get_u8(reader);
    pci->device_feature_select = archive_get_u32(reader);
    pci->driver_feature_select = archive_get_u32(reader);
    pci->queue_select = archive_get_u16(reader);
    return pci_function_restore(pci->function, reader, err);
}
