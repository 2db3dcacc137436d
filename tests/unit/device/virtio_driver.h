/* Plays the guest's driver against one virtio device, through configuration space, BARs and rings, as a real guest would. */
#ifndef TESTS_UNIT_DEVICE_VIRTIO_DRIVER_H
#define TESTS_UNIT_DEVICE_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/host/event_loop.h"
#include "device/bus.h"
#include "device/device.h"
#include "device/pci/pci.h"
#include "device/virtio/options.h"
#include "engine/memory.h"

#define DRIVER_MEMORY_BYTES (8u << 20) /* in two slots that touch at half of it */
#define DRIVER_QUEUES       8
#define DRIVER_CONFIG_MSI   0u /* vector of configuration changes; queue N has N + 1 */
#define DRIVER_NEXT         1u /* descriptor flags */
#define DRIVER_WRITE        2u
#define DRIVER_INDIRECT     4u

#define FEATURE_INDIRECT  (1ull << 28)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)

struct driver_buffer {
    uint64_t gpa;
    uint32_t size;
    bool is_writable;
};

struct driver_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t next_desc;
    uint16_t avail_index;
};

struct driver {
    struct event_loop *loop;
    struct event_timer *watchdog;
    struct guest_memory *memory;
    struct bus *mmio, *pio;
    struct pci_bus *pci;
    struct device_host host;
    struct device *device;
    unsigned stop_vm_calls;
    unsigned msi[16]; /* messages, by their data */
    uint64_t free_gpa;
    uint32_t bdf;
    uint64_t common, notify, isr, config; /* addresses of the structures */
    uint32_t window;                      /* the access window's offset in configuration space */
    uint32_t notify_multiplier;
    struct driver_queue queue[DRIVER_QUEUES];
};

void driver_create(struct driver *driver);
/* Destroys the device too. */
void driver_destroy(struct driver *driver);
struct virtio_options driver_options(struct driver *driver);
/* Finds the device's structures and turns MSI-X on. */
void driver_attach(struct driver *driver, struct device *device);

/* Memory of the guest for buffers, 16-byte aligned. */
uint64_t driver_alloc(struct driver *driver, size_t size);
void *driver_at(struct driver *driver, uint64_t gpa, size_t size);

uint32_t driver_read(struct driver *driver, uint64_t address, unsigned size);
void driver_write(struct driver *driver, uint64_t address, unsigned size, uint64_t value);
uint64_t driver_offered(struct driver *driver);
uint8_t driver_status(struct driver *driver);
/* Steps of 3.1.1 up to FEATURES_OK; false: the device did not take them. */
bool driver_negotiate(struct driver *driver, uint64_t features);
void driver_setup_queue(struct driver *driver, unsigned index, uint16_t size);
/* All of 3.1.1, with 'queue_count' queues of 'size'. */
void driver_start(struct driver *driver, uint64_t features, unsigned queue_count, uint16_t size);
void driver_reset(struct driver *driver);

/* Puts a chain into the descriptor table and makes it available. Returns its head. */
uint16_t driver_add(struct driver *driver, unsigned index, const struct driver_buffer *buffers,
                    unsigned count);
uint16_t driver_add_indirect(struct driver *driver, unsigned index,
                             const struct driver_buffer *buffers, unsigned count);
void driver_set_desc(struct driver *driver, unsigned index, uint16_t slot, uint64_t gpa,
                     uint32_t size, uint16_t flags, uint16_t next);
void driver_publish(struct driver *driver, unsigned index, uint16_t head);
void driver_kick(struct driver *driver, unsigned index);
uint16_t driver_used_index(struct driver *driver, unsigned index);
/* Length in the used ring's element for the chain number 'which' (from 0) since the queue was set up. */
uint32_t driver_used_length(struct driver *driver, unsigned index, uint16_t which);
/* Runs the loop until the used index is 'target'; fails after some seconds. */
void driver_wait_used(struct driver *driver, unsigned index, uint16_t target);
/* Lets the loop do what is pending now. */
void driver_run(struct driver *driver);

/* Saves the device, resets it and restores it from that. */
void driver_save_and_restore(struct driver *driver);
/* Restores from every shortened and some spoilt copies of what the device saves: no crash, errors are fine. */
void driver_restore_rubbish(struct driver *driver);

#endif
