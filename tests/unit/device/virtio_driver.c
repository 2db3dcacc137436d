#include "virtio_driver.h"

#include <stdlib.h>

#include "base/core/endian.h"

#define ECAM_GPA     0xe0000000ull
#define MMIO32_GPA   0xe8000000ull
#define MMIO64_GPA   0x8000000000ull
#define WATCHDOG_NS  10000000000ull
#define COMMON(name) (driver->common + (name))

/* Offsets in the common configuration (virtio 1.2 section 4.1.4.3). */
enum {
    DEVICE_FEATURE_SELECT = 0,
    DEVICE_FEATURE = 4,
    DRIVER_FEATURE_SELECT = 8,
    DRIVER_FEATURE = 12,
    CONFIG_MSIX = 16,
    STATUS = 20,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_MSIX = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32,
    QUEUE_AVAIL = 40,
    QUEUE_USED = 48,
};

static void message_sent(void *ctx, uint64_t address, uint32_t data)
{
    struct driver *driver = ctx;
    assert_int_equal(address, 0xfee00000);
    assert_true(data < 16);
    driver->msi[data]++;
    event_loop_stop(driver->loop);
}

static void vm_stopped(void *ctx, const char *device_name, const char *why)
{
    struct driver *driver = ctx;
    driver->stop_vm_calls++;
}

static void too_late(void *ctx)
{
    fail_msg("the device did not answer in time");
}

void driver_create(struct driver *driver)
{
    *driver = (struct driver){.free_gpa = 0x10000};
    assert_int_equal(event_loop_create(&driver->loop, NULL), 0);
    assert_int_equal(event_timer_create(driver->loop, too_late, driver, &driver->watchdog, NULL),
                     0);
    assert_int_equal(guest_memory_create(&driver->memory, NULL), 0);
    uint64_t half = DRIVER_MEMORY_BYTES / 2;
    assert_int_equal(guest_memory_add(driver->memory, 0, half, false, false, NULL), 0);
    assert_int_equal(guest_memory_add(driver->memory, half, half, false, false, NULL), 0);
    assert_int_equal(bus_create(&driver->mmio, NULL), 0);
    assert_int_equal(bus_create(&driver->pio, NULL), 0);
    const struct pci_bus_config config = {
        .mmio = driver->mmio,
        .pio = driver->pio,
        .windows = {.ecam_gpa = ECAM_GPA,
                    .mmio32_gpa = MMIO32_GPA,
                    .mmio32_size = 16u << 20,
                    .mmio64_gpa = MMIO64_GPA,
                    .mmio64_size = 1u << 30,
                    .pio_base = 0xc000,
                    .pio_size = 0x1000},
        .msi = {message_sent, driver},
    };
    assert_int_equal(pci_bus_create(&config, &driver->pci, NULL), 0);
    driver->host = (struct device_host){
        .ctx = driver, .loop = driver->loop, .memory = driver->memory, .stop_vm = vm_stopped};
}

void driver_destroy(struct driver *driver)
{
    if (driver->device != NULL) {
        driver->device->ops->destroy(driver->device);
    }
    pci_bus_destroy(driver->pci);
    bus_destroy(driver->mmio);
    bus_destroy(driver->pio);
    guest_memory_destroy(driver->memory);
    event_timer_destroy(driver->watchdog);
    event_loop_destroy(driver->loop);
}

struct virtio_options driver_options(struct driver *driver)
{
    return (struct virtio_options){.host = &driver->host, .bus = driver->pci};
}

static uint32_t config_read(struct driver *driver, uint32_t offset, unsigned size)
{
    return pci_bus_config_read(driver->pci, 0, driver->bdf, offset, size);
}

static uint64_t bar_address(struct driver *driver, unsigned bar)
{
    uint32_t low = config_read(driver, PCI_BAR0 + bar * 4, 4);
    uint64_t high = (low & 6) == 4 ? config_read(driver, PCI_BAR0 + bar * 4 + 4, 4) : 0;
    return (low & ~15u) | high << 32;
}

static void enable_msix(struct driver *driver, uint32_t cap)
{
    uint32_t control = config_read(driver, cap + 2, 2);
    uint32_t table = config_read(driver, cap + 4, 4);
    uint64_t at = bar_address(driver, table & 7) + (table & ~7u);
    for (uint32_t i = 0; i <= (control & 0x7ff); i++) {
        bus_write(driver->mmio, 0, at + i * 16, 4, 0xfee00000);
        bus_write(driver->mmio, 0, at + i * 16 + 4, 4, 0);
        bus_write(driver->mmio, 0, at + i * 16 + 8, 4, i);
        bus_write(driver->mmio, 0, at + i * 16 + 12, 4, 0);
    }
    pci_bus_config_write(driver->pci, 0, driver->bdf, cap + 2, 2, control | 0x8000);
}

void driver_attach(struct driver *driver, struct device *device)
{
    driver->device = device;
    driver->bdf = 1 << 3; /* the first one after the host bridge */
    assert_int_equal(config_read(driver, 0, 2), 0x1af4);
    assert_true(config_read(driver, 2, 2) > 0x1040);
    pci_bus_config_write(driver->pci, 0, driver->bdf, PCI_COMMAND, 2,
                         PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    uint32_t cap = config_read(driver, PCI_CAPABILITIES, 1);
    while (cap != 0) {
        uint32_t id = config_read(driver, cap, 1);
        if (id == PCI_CAPABILITY_MSIX) {
            enable_msix(driver, cap);
        } else if (id == PCI_CAPABILITY_VENDOR) {
            uint64_t at = bar_address(driver, config_read(driver, cap + 4, 1)) +
                          config_read(driver, cap + 8, 4);
            switch (config_read(driver, cap + 3, 1)) {
            case 1:
                driver->common = at;
                break;
            case 2:
                driver->notify = at;
                driver->notify_multiplier = config_read(driver, cap + 16, 4);
                break;
            case 3:
                driver->isr = at;
                break;
            case 4:
                driver->config = at;
                break;
            case 5:
                driver->window = cap;
                break;
            default:
                fail();
            }
        }
        cap = config_read(driver, cap + 1, 1);
    }
    assert_true(driver->common != 0 && driver->notify != 0 && driver->isr != 0 &&
                driver->window != 0);
}

uint64_t driver_alloc(struct driver *driver, size_t size)
{
    uint64_t gpa = driver->free_gpa;
    driver->free_gpa = (gpa + size + 15) & ~15ull;
    assert_true(driver->free_gpa <= DRIVER_MEMORY_BYTES / 2);
    return gpa;
}

void *driver_at(struct driver *driver, uint64_t gpa, size_t size)
{
    void *hva = guest_memory_map(driver->memory, gpa, size, true);
    assert_non_null(hva);
    return hva;
}

uint32_t driver_read(struct driver *driver, uint64_t address, unsigned size)
{
    return (uint32_t)bus_read(driver->mmio, 0, address, size);
}

void driver_write(struct driver *driver, uint64_t address, unsigned size, uint64_t value)
{
    bus_write(driver->mmio, 0, address, size, value);
}

uint64_t driver_offered(struct driver *driver)
{
    uint64_t features = 0;
    for (unsigned half = 0; half < 2; half++) {
        driver_write(driver, COMMON(DEVICE_FEATURE_SELECT), 4, half);
        features |= (uint64_t)driver_read(driver, COMMON(DEVICE_FEATURE), 4) << (half * 32);
    }
    return features;
}

uint8_t driver_status(struct driver *driver)
{
    return (uint8_t)driver_read(driver, COMMON(STATUS), 1);
}

bool driver_negotiate(struct driver *driver, uint64_t features)
{
    driver_write(driver, COMMON(STATUS), 1, 1);
    driver_write(driver, COMMON(STATUS), 1, 3);
    for (unsigned half = 0; half < 2; half++) {
        driver_write(driver, COMMON(DRIVER_FEATURE_SELECT), 4, half);
        driver_write(driver, COMMON(DRIVER_FEATURE), 4, (uint32_t)(features >> (half * 32)));
    }
    driver_write(driver, COMMON(STATUS), 1, 11);
    return driver_status(driver) == 11;
}

void driver_setup_queue(struct driver *driver, unsigned index, uint16_t size)
{
    struct driver_queue *queue = &driver->queue[index];
    *queue = (struct driver_queue){
        .size = size,
        .desc = driver_alloc(driver, size * 16u),
        .avail = driver_alloc(driver, size * 2u + 6),
        .used = driver_alloc(driver, size * 8u + 6),
    };
    memset(driver_at(driver, queue->avail, size * 2u + 6), 0, size * 2u + 6);
    memset(driver_at(driver, queue->used, size * 8u + 6), 0, size * 8u + 6);
    driver_write(driver, COMMON(QUEUE_SELECT), 2, index);
    driver_write(driver, COMMON(QUEUE_SIZE), 2, size);
    driver_write(driver, COMMON(QUEUE_MSIX), 2, index + 1);
    assert_int_equal(driver_read(driver, COMMON(QUEUE_MSIX), 2), index + 1);
    driver_write(driver, COMMON(QUEUE_DESC), 4, queue->desc);
    driver_write(driver, COMMON(QUEUE_DESC) + 4, 4, queue->desc >> 32);
    driver_write(driver, COMMON(QUEUE_AVAIL), 4, queue->avail);
    driver_write(driver, COMMON(QUEUE_USED), 4, queue->used);
    driver_write(driver, COMMON(QUEUE_ENABLE), 2, 1);
    assert_int_equal(driver_read(driver, COMMON(QUEUE_NOTIFY_OFF), 2), index);
}

void driver_start(struct driver *driver, uint64_t features, unsigned queue_count, uint16_t size)
{
    assert_true(driver_negotiate(driver, features | FEATURE_VERSION_1));
    driver_write(driver, COMMON(CONFIG_MSIX), 2, DRIVER_CONFIG_MSI);
    for (unsigned i = 0; i < queue_count; i++) {
        driver_setup_queue(driver, i, size);
    }
    driver_write(driver, COMMON(STATUS), 1, 15);
    driver_run(driver);
    assert_int_equal(driver_status(driver), 15);
}

void driver_reset(struct driver *driver)
{
    driver_write(driver, COMMON(STATUS), 1, 0);
    driver_run(driver);
    assert_int_equal(driver_status(driver), 0);
}

void driver_set_desc(struct driver *driver, unsigned index, uint16_t slot, uint64_t gpa,
                     uint32_t size, uint16_t flags, uint16_t next)
{
    uint8_t *desc = driver_at(driver, driver->queue[index].desc + slot * 16u, 16);
    le64_put(desc, gpa);
    le32_put(desc + 8, size);
    le16_put(desc + 12, flags);
    le16_put(desc + 14, next);
}

void driver_publish(struct driver *driver, unsigned index, uint16_t head)
{
    struct driver_queue *queue = &driver->queue[index];
    uint8_t *avail = driver_at(driver, queue->avail, queue->size * 2u + 6);
    le16_put(avail + 4 + (queue->avail_index % queue->size) * 2u, head);
    queue->avail_index++;
    le16_put(avail + 2, queue->avail_index);
}

uint16_t driver_add(struct driver *driver, unsigned index, const struct driver_buffer *buffers,
                    unsigned count)
{
    struct driver_queue *queue = &driver->queue[index];
    uint16_t head = queue->next_desc;
    for (unsigned i = 0; i < count; i++) {
        uint16_t slot = queue->next_desc;
        queue->next_desc = (uint16_t)((slot + 1) % queue->size);
        uint16_t flags = (uint16_t)((buffers[i].is_writable ? DRIVER_WRITE : 0) |
                                    (i + 1 < count ? DRIVER_NEXT : 0));
        driver_set_desc(driver, index, slot, buffers[i].gpa, buffers[i].size, flags,
                        queue->next_desc);
    }
    driver_publish(driver, index, head);
    return head;
}

uint16_t driver_add_indirect(struct driver *driver, unsigned index,
                             const struct driver_buffer *buffers, unsigned count)
{
    struct driver_queue *queue = &driver->queue[index];
    uint64_t table = driver_alloc(driver, count * 16u);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *desc = driver_at(driver, table + i * 16u, 16);
        le64_put(desc, buffers[i].gpa);
        le32_put(desc + 8, buffers[i].size);
        le16_put(desc + 12, (uint16_t)((buffers[i].is_writable ? DRIVER_WRITE : 0) |
                                       (i + 1 < count ? DRIVER_NEXT : 0)));
        le16_put(desc + 14, (uint16_t)(i + 1));
    }
    uint16_t head = queue->next_desc;
    queue->next_desc = (uint16_t)((head + 1) % queue->size);
    driver_set_desc(driver, index, head, table, count * 16, DRIVER_INDIRECT, 0);
    driver_publish(driver, index, head);
    return head;
}

void driver_kick(struct driver *driver, unsigned index)
{
    driver_write(driver, driver->notify + index * driver->notify_multiplier, 2, index);
}

uint16_t driver_used_index(struct driver *driver, unsigned index)
{
    return le16_get(driver_at(driver, driver->queue[index].used + 2, 2));
}

uint32_t driver_used_length(struct driver *driver, unsigned index, uint16_t which)
{
    struct driver_queue *queue = &driver->queue[index];
    return le32_get(driver_at(driver, queue->used + 4 + (which % queue->size) * 8u + 4, 4));
}

void driver_wait_used(struct driver *driver, unsigned index, uint16_t target)
{
    struct driver_queue *queue = &driver->queue[index];
    event_timer_arm(driver->watchdog, clock_monotonic_ns() + WATCHDOG_NS);
    /* With event indices: interrupt when this one is used. */
    le16_put(driver_at(driver, queue->avail + 4 + queue->size * 2u, 2), (uint16_t)(target - 1));
    while (driver_used_index(driver, index) != target) {
        assert_int_equal(event_loop_run(driver->loop, NULL), 0);
    }
    event_timer_disarm(driver->watchdog);
}

static void stop(void *ctx)
{
    event_loop_stop(((struct driver *)ctx)->loop);
}

void driver_run(struct driver *driver)
{
    /* What is pending may signal once more; three turns are enough for every device. */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(event_loop_defer(driver->loop, stop, driver, NULL), 0);
        assert_int_equal(event_loop_run(driver->loop, NULL), 0);
    }
}

struct memory_file {
    uint8_t data[65536];
    size_t size;
};

static int memory_file_write(void *ctx, const void *data, size_t size)
{
    struct memory_file *file = ctx;
    assert_true(file->size + size <= sizeof(file->data));
    memcpy(file->data + file->size, data, size);
    file->size += size;
    return 0;
}

static struct memory_file *save(struct driver *driver)
{
    struct memory_file *file = calloc(1, sizeof(*file));
    struct archive_writer writer = {.write = memory_file_write, .ctx = file};
    driver->device->ops->pause(driver->device, true);
    driver->device->ops->save(driver->device, &writer);
    assert_int_equal(writer.status, 0);
    return file;
}

static int restore(struct driver *driver, const void *data, size_t size)
{
    struct error err = {0};
    struct archive_reader reader;
    archive_reader_init(&reader, data, size);
    int rc =
        driver->device->ops->restore(driver->device, &reader, driver->device->ops->version, &err);
    return rc == 0 ? archive_finish(&reader, &err) : rc;
}

void driver_save_and_restore(struct driver *driver)
{
    struct memory_file *file = save(driver);
    driver->device->ops->reset(driver->device);
    driver->device->ops->pause(driver->device, false); /* as one that was just made */
    assert_int_equal(restore(driver, file->data, file->size), 0);
    driver->device->ops->pause(driver->device, false);
    free(file);
}

void driver_restore_rubbish(struct driver *driver)
{
    struct memory_file *file = save(driver);
    for (size_t size = 0; size < file->size; size++) {
        uint8_t *exact = malloc(size + 1); /* so that sanitizers see a read beyond */
        memcpy(exact, file->data, size);
        (void)restore(driver, exact, size);
        free(exact);
    }
    for (size_t i = 0; i < file->size; i++) {
        for (unsigned bit = 0; bit < 8; bit += 7) {
            file->data[i] ^= (uint8_t)(1u << bit);
            if (restore(driver, file->data, file->size) == 0) {
                driver->device->ops->pause(driver->device, false);
                driver_run(driver);
                driver->device->ops->pause(driver->device, true);
            }
            file->data[i] ^= (uint8_t)(1u << bit);
        }
    }
    assert_int_equal(restore(driver, file->data, file->size), 0);
    driver->device->ops->pause(driver->device, false);
    driver_run(driver);
    free(file);
}
