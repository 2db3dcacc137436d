/* ACPI's fixed hardware (power button, sleep control, PM timer, general purpose events) and the ports by which PCs are reset
 * or, for tests, ended. */
#ifndef DEVICE_ACPI_POWER_H
#define DEVICE_ACPI_POWER_H

#include "device/bus.h"
#include "device/device.h"
#include "device/irq.h"

/* PM1a event at +0 (4 bytes), PM1a control at +4 (2), PM timer at +8 (4). */
#define POWER_PORT        0x600
#define POWER_PM1_EVENT   (POWER_PORT + 0)
#define POWER_PM1_CONTROL (POWER_PORT + 4)
#define POWER_PM_TIMER    (POWER_PORT + 8)
#define POWER_PORT_SIZE   12
/* General purpose events: status at +0, enable at +2. A raised event whose enable bit is set pulls the SCI. */
#define POWER_GPE           0x620
#define POWER_GPE_SIZE      4
#define POWER_GPE_COUNT     16
#define POWER_GPE_PCI       1 /* \_GPE._E01: devices have come to PCI slots, or are to leave */
#define POWER_GPE_CPU       2 /* \_GPE._E02: the same of CPUs */
#define POWER_SLEEP_TYPE_S5 5
#define POWER_RESET_PORT    0xcf9 /* the PCI host bridge passes it on: power_reset_control */
#define POWER_RESET_VALUE   0x06
#define POWER_DEBUG_EXIT    0xf4

struct power_options {
    struct bus *pio;
    struct irq_line sci; /* level-triggered */
    bool has_debug_exit;
    uint64_t (*now_ns)(void *ctx);
    void *ctx;
    /* Any vCPU thread, without a lock. */
    void (*power_off)(void *ctx);
    void (*reset)(void *ctx);
    void (*debug_exit)(void *ctx, uint32_t value);
};

/* The device is the caller's: device->ops->destroy. */
int must_check power_create(const struct power_options *options, struct device **out_device,
                            struct error *err);
/* Presses the power button. Any thread. */
void power_press_button(struct device *device);
/* Sets status bit 'event'. Any thread. */
void power_raise_gpe(struct device *device, unsigned event);
/* Does the guest listen to the event? Also while it deals with one, and has it disabled for that (ACPI 6.4, section 5.6.4). */
bool power_listens_to_gpe(struct device *device, unsigned event);
/* A byte for port 0xcf9. */
void power_reset_control(struct device *device, uint8_t value);

#endif
