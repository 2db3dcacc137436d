/* ACPI fixed hardware (ACPI 6.4, section 4.8) and reset ports. */
#include "device/acpi/power.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define PM1_TIMER        0x0001u
#define PM1_POWER_BUTTON 0x0100u
#define PM1_STATUS_BITS  0x8731u
#define PM1_ENABLE_BITS  0x4721u
#define CONTROL_SCI_EN   0x0001u
#define CONTROL_SLP_TYP  0x1c00u
#define CONTROL_SLP_EN   0x2000u
#define PM_TIMER_HZ      3579545u

struct power {
    struct device device;
    struct power_options options;
    pthread_mutex_t lock;
    uint16_t status, enable, control;
    uint16_t gpe_status, gpe_enable;
    uint16_t gpe_known; /* enabled once: a guest takes the bit back while it deals with an event */
    uint64_t timer_base_ns;
};

static struct power *power_from_device(struct device *device)
{
    return container_of(device, struct power, device);
}

static void update_sci(struct power *power)
{
    irq_line_set(&power->options.sci, (power->status & power->enable) != 0 ||
                                          (power->gpe_status & power->gpe_enable) != 0);
}

/* 24 bits of a counter at 3.579545 MHz. */
static uint32_t timer_value(const struct power *power)
{
    uint64_t ns = power->options.now_ns(power->options.ctx) - power->timer_base_ns;
    return (uint32_t)((unsigned __int128)ns * PM_TIMER_HZ / 1000000000u) & 0xffffffu;
}

/* The block as 12 bytes: ports are read in any size. */
static uint64_t port_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct power *power = ctx;

    pthread_mutex_lock(&power->lock);
    const uint32_t word[3] = {power->status | (uint32_t)power->enable << 16, power->control,
                              offset + size > 8 ? timer_value(power) : 0};
    pthread_mutex_unlock(&power->lock);
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        uint64_t at = offset + i;
        value |= (uint64_t)((word[at / 4] >> (at % 4 * 8)) & 0xff) << (i * 8);
    }
    return value;
}

static void port_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct power *power = ctx;
    bool is_off = false;

    pthread_mutex_lock(&power->lock);
    for (unsigned i = 0; i < size; i++) {
        uint16_t byte = (value >> (i * 8)) & 0xff;
        switch (offset + i) {
        case 0:
            power->status &= (uint16_t)~byte; /* written ones clear */
            break;
        case 1:
            power->status &= (uint16_t) ~(byte << 8);
            break;
        case 2:
            power->enable = (uint16_t)(((power->enable & 0xff00) | byte) & PM1_ENABLE_BITS);
            break;
        case 3:
            power->enable = (uint16_t)(((power->enable & 0x00ff) | byte << 8) & PM1_ENABLE_BITS);
            break;
        case 4:
            power->control = (uint16_t)((power->control & 0xff00) | byte | CONTROL_SCI_EN);
            break;
        case 5: {
            uint16_t high = (uint16_t)(byte << 8);
            power->control =
                (uint16_t)((power->control & 0x00ff) | (high & ~CONTROL_SLP_EN & 0x3c00));
            is_off = (high & CONTROL_SLP_EN) != 0 && (high & CONTROL_SLP_TYP) == POWER_SLEEP_TYPE_S5
                                                                                     << 10;
            break;
        }
        default: /* the timer is read-only */
            break;
        }
    }
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
    if (is_off) {
        power->options.power_off(power->options.ctx);
    }
}

void power_press_button(struct device *device)
{
    struct power *power = power_from_device(device);

    pthread_mutex_lock(&power->lock);
    power->status |= PM1_POWER_BUTTON;
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

static uint64_t gpe_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct power *power = ctx;

    pthread_mutex_lock(&power->lock);
    uint32_t block = power->gpe_status | (uint32_t)power->gpe_enable << 16;
    pthread_mutex_unlock(&power->lock);
    return block >> (offset * 8);
}

static void gpe_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct power *power = ctx;

    pthread_mutex_lock(&power->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned shift = (offset + i) % 2 * 8;
        uint16_t byte = (uint16_t)((value >> (i * 8) & 0xff) << shift);
        if (offset + i < 2) {
            power->gpe_status &= (uint16_t)~byte; /* written ones clear */
        } else {
            power->gpe_enable = (uint16_t)((power->gpe_enable & ~(0xffu << shift)) | byte);
            power->gpe_known |= power->gpe_enable;
        }
    }
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

void power_raise_gpe(struct device *device, unsigned event)
{
    struct power *power = power_from_device(device);

    pthread_mutex_lock(&power->lock);
    power->gpe_status |= (uint16_t)(1u << event);
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

bool power_listens_to_gpe(struct device *device, unsigned event)
{
    struct power *power = power_from_device(device);

    pthread_mutex_lock(&power->lock);
    bool listens = (power->gpe_known >> event & 1) != 0;
    pthread_mutex_unlock(&power->lock);
    return listens;
}

void power_reset_control(struct device *device, uint8_t value)
{
    struct power *power = power_from_device(device);

    if ((value & 0x04) != 0) {
        power->options.reset(power->options.ctx);
    }
}

/* The keyboard controller's command port: nothing there but the reset line. Status 0: ready for commands, no data. */
static uint64_t keyboard_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    return 0;
}

static void keyboard_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct power *power = ctx;

    if ((value & 0xff) == 0xfe) {
        power->options.reset(power->options.ctx);
    }
}

/* System control port A: bit 1 is A20 (always on), bit 0 resets. */
static uint64_t control_a_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    return 0x02;
}

static void control_a_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size,
                            uint64_t value)
{
    struct power *power = ctx;

    if ((value & 1) != 0) {
        power->options.reset(power->options.ctx);
    }
}

static uint64_t debug_exit_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    return ~0ull;
}

static void debug_exit_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size,
                             uint64_t value)
{
    struct power *power = ctx;
    power->options.debug_exit(power->options.ctx, (uint32_t)value);
}

static void power_reset(struct device *device)
{
    struct power *power = power_from_device(device);

    pthread_mutex_lock(&power->lock);
    power->status = 0;
    power->enable = 0;
    power->gpe_status = power->gpe_enable = power->gpe_known = 0;
    power->control = CONTROL_SCI_EN; /* there is no other mode than ACPI's */
    power->timer_base_ns = power->options.now_ns(power->options.ctx);
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

static void power_save(struct device *device, struct archive_writer *writer)
{
    struct power *power = power_from_device(device);

    archive_put_u16(writer, power->status);
    archive_put_u16(writer, power->enable);
    archive_put_u16(writer, power->control);
    archive_put_u64(writer, power->options.now_ns(power->options.ctx) - power->timer_base_ns);
    archive_put_u16(writer, power->gpe_status);
    archive_put_u16(writer, power->gpe_enable);
}

static int power_restore(struct device *device, struct archive_reader *reader, uint32_t version,
                         struct error *err)
{
    struct power *power = power_from_device(device);

    power->status = archive_get_u16(reader) & PM1_STATUS_BITS;
    power->enable = archive_get_u16(reader) & PM1_ENABLE_BITS;
    power->control = (archive_get_u16(reader) & 0x1cff) | CONTROL_SCI_EN;
    power->timer_base_ns = power->options.now_ns(power->options.ctx) - archive_get_u64(reader);
    power->gpe_status = power->gpe_enable = power->gpe_known = 0;
    if (version >= 2) {
        power->gpe_status = archive_get_u16(reader);
        power->gpe_enable = archive_get_u16(reader);
        power->gpe_known = power->gpe_enable;
    }
    update_sci(power);
    return reader->status < 0 ? error_set(err, EBADMSG, "%s: the state is cut short", device->name)
                              : 0;
}

static void power_destroy(struct device *device)
{
    struct power *power = power_from_device(device);
    pthread_mutex_destroy(&power->lock);
    free(power);
}

static const struct bus_region_ops port_ops = {.read = port_read, .write = port_write};
static const struct bus_region_ops gpe_ops = {.read = gpe_read, .write = gpe_write};
static const struct bus_region_ops keyboard_ops = {.read = keyboard_read, .write = keyboard_write};
static const struct bus_region_ops control_a_ops = {.read = control_a_read,
                                                    .write = control_a_write};
static const struct bus_region_ops debug_exit_ops = {.read = debug_exit_read,
                                                     .write = debug_exit_write};

static const struct device_ops power_ops = {
    .type = "acpi-power",
    .version = 2, /* 2: general purpose events */
    .reset = power_reset,
    .save = power_save,
    .restore = power_restore,
    .destroy = power_destroy,
};

int power_create(const struct power_options *options, struct device **out_device, struct error *err)
{
    struct power *power = calloc(1, sizeof(*power));
    if (power == NULL) {
        return error_set(err, ENOMEM, "allocating the ACPI power block");
    }
    power->device.ops = &power_ops;
    snprintf(power->device.name, sizeof(power->device.name), "acpi-power.0");
    power->options = *options;
    pthread_mutex_init(&power->lock, NULL);
    int rc = bus_add(options->pio, "acpi-power", POWER_PORT, POWER_PORT_SIZE, &port_ops, power,
                     NULL, err);
    if (rc == 0) {
        rc = bus_add(options->pio, "acpi-gpe", POWER_GPE, POWER_GPE_SIZE, &gpe_ops, power, NULL,
                     err);
    }
    if (rc == 0) {
        rc = bus_add(options->pio, "keyboard-reset", 0x64, 1, &keyboard_ops, power, NULL, err);
    }
    if (rc == 0) {
        rc = bus_add(options->pio, "system-control-a", 0x92, 1, &control_a_ops, power, NULL, err);
    }
    if (rc == 0 && options->has_debug_exit) {
        rc = bus_add(options->pio, "debug-exit", POWER_DEBUG_EXIT, 4, &debug_exit_ops, power, NULL,
                     err);
    }
    if (rc < 0) {
        power_destroy(&power->device);
        return rc;
    }
    power_reset(&power->device);
    *out_device = &power->device;
    return 0;
}
