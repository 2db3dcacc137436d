/* Board micro: the memory map, interrupt controllers, buses and devices. */
#include "machine/micro.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "device/acpi/cpus.h"
#include "device/acpi/power.h"
#include "device/rtc/cmos.h"
#include "device/serial/serial.h"
#include "device/virtio/balloon.h"
#include "device/virtio/block.h"
#include "device/virtio/console.h"
#include "device/virtio/fs.h"
#include "device/virtio/mem.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/vsock.h"
#include "machine/boot/acpi.h"
#include "machine/boot/boot.h"
#include "machine/internal.h"

#define MEMORY_MIN_BYTES (4ull << 20)
#define MEMORY_MAX_BYTES (1ull << 40)
#define FOUR_GIB         (1ull << 32)

int micro_layout(const struct machine_config *config, struct machine_layout *out_layout,
                 struct error *err)
{
    const uint64_t bytes = config->memory_bytes;
    const uint64_t unit = config->huge_pages ? 2u << 20 : GUEST_PAGE_SIZE;

    if (bytes < MEMORY_MIN_BYTES || bytes > MEMORY_MAX_BYTES || bytes % unit != 0) {
        return error_set(err, EINVAL,
                         "memory of %llu bytes: expected 4 MiB to 1 TiB, a multiple of %llu KiB",
                         (unsigned long long)bytes, (unsigned long long)(unit >> 10));
    }
    const uint64_t later = config->memory_max_bytes - bytes;
    if (config->memory_max_bytes < bytes || config->memory_max_bytes > MEMORY_MAX_BYTES ||
        later % VIRTIO_MEM_BLOCK != 0) {
        return error_set(err, EINVAL,
                         "memory of at most %llu bytes: expected at least %llu, at most 1 TiB, and "
                         "the difference a multiple of 2 MiB",
                         (unsigned long long)config->memory_max_bytes, (unsigned long long)bytes);
    }
    if (later != 0 && config->huge_pages) {
        return error_set(err, ENOTSUP,
                         "memory that comes later cannot be backed with the host's huge pages");
    }
    uint64_t low = MIN(bytes, MICRO_LOW_LIMIT);
    uint64_t later_gpa = align_up(FOUR_GIB + (bytes - low), MICRO_LATER_ALIGN);
    *out_layout = (struct machine_layout){
        .low_bytes = low,
        .high_bytes = bytes - low,
        .later_gpa = later_gpa,
        .later_bytes = later,
        .pci =
            {
                .ecam_gpa = MICRO_ECAM_GPA,
                .mmio32_gpa = MICRO_MMIO32_GPA,
                .mmio32_size = MICRO_MMIO32_SIZE,
                .mmio64_gpa = align_up(later_gpa + later, 1ull << 30),
                .mmio64_size = MICRO_MMIO64_SIZE,
                .pio_base = MICRO_PIO_BASE,
                .pio_size = MICRO_PIO_SIZE,
            },
    };
    return 0;
}

/* What vCPUs ask for. */

static uint64_t pio_read(void *ctx, uint32_t vcpu, uint16_t port, unsigned size)
{
    struct machine *machine = ctx;
    return bus_read(machine->pio, vcpu, port, size);
}

static void pio_write(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value)
{
    struct machine *machine = ctx;
    bus_write(machine->pio, vcpu, port, size, value);
}

static uint64_t mmio_read(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size)
{
    struct machine *machine = ctx;
    uint32_t offset;

    if (machine->lapics != NULL && lapic_claims(machine->lapics, vcpu, gpa, &offset)) {
        return lapic_read(machine->lapics, vcpu, offset, size);
    }
    return bus_read(machine->mmio, vcpu, gpa, size);
}

static void mmio_write(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct machine *machine = ctx;
    uint32_t offset;

    if (machine->lapics != NULL && lapic_claims(machine->lapics, vcpu, gpa, &offset)) {
        lapic_write(machine->lapics, vcpu, offset, size, (uint32_t)value);
        return;
    }
    bus_write(machine->mmio, vcpu, gpa, size, value);
}

static int apic_acknowledge(void *ctx, uint32_t vcpu)
{
    return lapic_acknowledge(((struct machine *)ctx)->lapics, vcpu);
}

static bool apic_has_interrupt(void *ctx, uint32_t vcpu)
{
    return lapic_has_interrupt(((struct machine *)ctx)->lapics, vcpu);
}

static bool apic_msr_read(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t *out_value)
{
    return lapic_msr_read(((struct machine *)ctx)->lapics, vcpu, msr, out_value);
}

static bool apic_msr_write(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t value)
{
    return lapic_msr_write(((struct machine *)ctx)->lapics, vcpu, msr, value);
}

static uint8_t apic_get_cr8(void *ctx, uint32_t vcpu)
{
    return lapic_get_cr8(((struct machine *)ctx)->lapics, vcpu);
}

static void apic_set_cr8(void *ctx, uint32_t vcpu, uint8_t value)
{
    lapic_set_cr8(((struct machine *)ctx)->lapics, vcpu, value);
}

static bool apic_can_end_late(void *ctx, uint32_t vcpu, uint8_t vector)
{
    return lapic_can_end_late(((struct machine *)ctx)->lapics, vcpu, vector);
}

static void apic_end(void *ctx, uint32_t vcpu)
{
    lapic_end(((struct machine *)ctx)->lapics, vcpu);
}

static bool apic_send(void *ctx, uint32_t target, uint32_t icr)
{
    return lapic_send(((struct machine *)ctx)->lapics, target, icr);
}

static void timer_expired(void *ctx, uint32_t vcpu)
{
    lapic_timer_expired(((struct machine *)ctx)->lapics, vcpu);
}

struct vm_callbacks micro_callbacks(struct machine *machine)
{
    return (struct vm_callbacks){
        .ctx = machine,
        .pio_read = pio_read,
        .pio_write = pio_write,
        .mmio_read = mmio_read,
        .mmio_write = mmio_write,
        .apic_acknowledge = apic_acknowledge,
        .apic_has_interrupt = apic_has_interrupt,
        .apic_msr_read = apic_msr_read,
        .apic_msr_write = apic_msr_write,
        .apic_get_cr8 = apic_get_cr8,
        .apic_set_cr8 = apic_set_cr8,
        .apic_can_end_late = apic_can_end_late,
        .apic_end = apic_end,
        .apic_send = apic_send,
        .timer_expired = timer_expired,
    };
}

/* What the local APICs ask for. */

static void lapic_signal(void *ctx, uint32_t vcpu, enum vcpu_signal signal, uint8_t value)
{
    struct machine *machine = ctx;
    machine->config.engine->vcpu_signal(machine->vcpu[vcpu].vcpu, signal, value);
}

/* The clock of the guest's timers, and its time since 1970. */

static uint64_t now_ns(void *ctx)
{
    struct machine *machine = ctx;
    return machine->has_own_time ? machine->config.engine->vm_now_ns(machine->vm)
                                 : clock_monotonic_ns();
}

static uint64_t wall_ns(void *ctx)
{
    struct machine *machine = ctx;
    return machine->has_own_time ? ENGINE_OWN_EPOCH_S * 1000000000ull + now_ns(machine)
                                 : clock_realtime_ns();
}

static void lapic_arm_timer(void *ctx, uint32_t vcpu, uint64_t deadline_ns)
{
    struct machine *machine = ctx;

    if (machine->has_own_time) {
        machine->config.engine->vcpu_set_timer(machine->vcpu[vcpu].vcpu, deadline_ns);
    } else if (deadline_ns == UINT64_MAX) {
        event_timer_disarm(machine->vcpu[vcpu].timer);
    } else {
        event_timer_arm(machine->vcpu[vcpu].timer, deadline_ns);
    }
}

static uint64_t lapic_tsc(void *ctx, uint32_t vcpu)
{
    struct machine *machine = ctx;
    return machine->config.engine->vcpu_tsc(machine->vcpu[vcpu].vcpu);
}

static uint64_t lapic_tsc_hz(void *ctx, uint32_t vcpu)
{
    struct machine *machine = ctx;
    return machine->config.engine->vcpu_tsc_hz(machine->vcpu[vcpu].vcpu);
}

static void lapic_eoi(void *ctx, uint8_t vector)
{
    ioapic_end_of_interrupt(((struct machine *)ctx)->ioapic, vector);
}

static void ioapic_deliver(void *ctx, const struct apic_message *message)
{
    lapic_deliver(((struct machine *)ctx)->lapics, message);
}

int micro_create_irqchip(struct machine *machine, struct error *err)
{
    const struct lapic_host host = {
        .ctx = machine,
        .signal = lapic_signal,
        .now_ns = now_ns,
        .arm_timer = lapic_arm_timer,
        .tsc = lapic_tsc,
        .tsc_hz = lapic_tsc_hz,
        .end_of_interrupt = lapic_eoi,
    };
    int rc = lapic_set_create(&host, machine->config.vcpu_max, &machine->lapics, err);
    if (rc == 0) {
        rc = ioapic_create(ioapic_deliver, machine, &machine->ioapic, err);
    }
    if (rc == 0) {
        rc = bus_add(machine->mmio, "ioapic", IOAPIC_DEFAULT_GPA, IOAPIC_SIZE, &ioapic_region_ops,
                     machine->ioapic, NULL, err);
    }
    return rc;
}

/* What devices ask for. */

static void set_line(void *ctx, uint32_t line, bool level)
{
    struct machine *machine = ctx;

    if (machine->has_irqchip) {
        /* It fails only for an input that there is none of. */
        (void)machine->config.engine->vm_irq_line(machine->vm, line, level);
    } else {
        ioapic_set_pin(machine->ioapic, line, level);
    }
}

static void send_message(void *ctx, uint64_t address, uint32_t data)
{
    struct machine *machine = ctx;

    if (machine->has_irqchip) {
        /* The guest chose the message: one that no APIC takes is lost, as on hardware. */
        (void)machine->config.engine->vm_msi(machine->vm, address, data);
    } else {
        lapic_send_msi(machine->lapics, address, data);
    }
}

static int attach_doorbell(void *ctx, uint64_t gpa, unsigned size, int fd, bool attach)
{
    struct machine *machine = ctx;
    const struct engine_ops *ops = machine->config.engine;

    if ((machine->vm->features & VM_HAS_IOEVENTFD) == 0 || ops->vm_ioeventfd == NULL) {
        return -EOPNOTSUPP;
    }
    return ops->vm_ioeventfd(machine->vm, false, gpa, size, fd, attach, NULL);
}

static void stop_vm(void *ctx, const char *device_name, const char *why)
{
    char text[MACHINE_WHY_SIZE];

    (void)snprintf(text, sizeof(text), "%s: %.120s", device_name, why);
    machine_request_end(ctx, MACHINE_END_DEVICE, 0, text);
}

static void disk_failed(void *ctx, const char *device_name, bool is_write, int error, bool stops)
{
    const struct machine_config *config = &((struct machine *)ctx)->config;

    if (config->disk_failed != NULL) {
        config->disk_failed(config->ctx, device_name, is_write, error, stops);
    }
}

static void share_lost(void *ctx, const char *device_name, const char *why)
{
    const struct machine_config *config = &((struct machine *)ctx)->config;

    if (config->share_lost != NULL) {
        config->share_lost(config->ctx, device_name, why);
    }
}

static void power_off(void *ctx)
{
    machine_request_end(ctx, MACHINE_END_POWEROFF, 0, "");
}

static void guest_reset(void *ctx)
{
    machine_request_end(ctx, MACHINE_END_RESET, 0, "");
}

static void debug_exit(void *ctx, uint32_t value)
{
    machine_request_end(ctx, MACHINE_END_DEBUG_EXIT, value, "");
}

static void reset_control(void *ctx, uint8_t value)
{
    struct machine *machine = ctx;
    power_reset_control(machine->power, value);
}

static void slots_changed(void *ctx)
{
    struct machine *machine = ctx;
    power_raise_gpe(machine->power, POWER_GPE_PCI);
}

static void ejected(void *ctx)
{
    struct machine *machine = ctx;
    event_notifier_signal(machine->eject_notifier);
}

static void cpus_raise(void *ctx)
{
    power_raise_gpe(((struct machine *)ctx)->power, POWER_GPE_CPU);
}

static void cpu_ejected(void *ctx)
{
    vcpus_follow(ctx);
}

static struct irq_line line(struct machine *machine, uint32_t gsi)
{
    return (struct irq_line){.set = set_line, .ctx = machine, .line = gsi};
}

static struct device *add_device(struct machine *machine, struct device *device)
{
    machine->device[machine->device_count++] = device;
    return device;
}

/* As PCs have them, but for the interrupts of the last two: those would be the first two's, and edges cannot be shared. */
static const struct acpi_serial serial_ports[1 + MACHINE_MAX_SERIALS] = {
    {MICRO_COM1_PORT, MICRO_COM1_GSI}, {0x2f8, 3}, {0x3e8, 5}, {0x2e8, 7}};

static int create_serial(struct machine *machine, uint32_t index,
                         const struct console_backend *backend, struct error *err)
{
    const struct serial_options options = {
        .pio = machine->pio,
        .port = serial_ports[index].port,
        .irq = line(machine, serial_ports[index].gsi),
        .instance = index,
        .ctx = backend->ctx,
        .write = backend->write,
        .input_ready = backend->input_ready,
    };
    struct device *device;
    int rc = serial_create(&options, &device, err);
    if (rc == 0) {
        machine->serial[index] = add_device(machine, device);
    }
    return rc;
}

static int create_platform(struct machine *machine, struct error *err)
{
    const struct cmos_options cmos = {
        .pio = machine->pio,
        .memory_below_4g = machine->layout.low_bytes,
        .memory_above_4g = machine->layout.high_bytes,
        .ctx = machine,
        .now_ns = wall_ns,
    };
    const struct power_options power = {
        .pio = machine->pio,
        .sci = line(machine, MICRO_SCI_GSI),
        .has_debug_exit = machine->config.debug_exit,
        .ctx = machine,
        .now_ns = now_ns,
        .power_off = power_off,
        .reset = guest_reset,
        .debug_exit = debug_exit,
    };
    struct pci_bus_config pci = {
        .mmio = machine->mmio,
        .pio = machine->pio,
        .windows = machine->layout.pci,
        .msi = {.send = send_message, .ctx = machine},
        .reset_control = reset_control,
        .slots_changed = slots_changed,
        .ejected = ejected,
        .ctx = machine,
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(pci.intx); i++) {
        pci.intx[i] = line(machine, MICRO_INTX_GSI + i);
        pci.intx_line[i] = (uint8_t)(MICRO_INTX_GSI + i);
    }
    struct device *device;
    int rc = power_create(&power, &device, err);
    if (rc < 0) {
        return rc;
    }
    machine->power = add_device(machine, device);
    if (machine->has_cpu_events) {
        const struct cpus_options cpus = {
            .pio = machine->pio,
            .count = machine->config.vcpu_max,
            .present = machine->config.vcpu_count,
            .ctx = machine,
            .raise = cpus_raise,
            .ejected = cpu_ejected,
        };
        rc = cpus_create(&cpus, &device, err);
        if (rc < 0) {
            return rc;
        }
        machine->cpus = add_device(machine, device);
    }
    rc = create_serial(machine, 0, &machine->config.serial_console, err);
    for (uint32_t i = 0; rc == 0 && i < machine->config.serial_count; i++) {
        rc = create_serial(machine, i + 1, &machine->config.serial[i], err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = cmos_create(&cmos, &device, err);
    if (rc < 0) {
        return rc;
    }
    (void)add_device(machine, device);
    return pci_bus_create(&pci, &machine->pci, err);
}

static struct virtio_options virtio(struct machine *machine, uint32_t instance)
{
    return (struct virtio_options){
        .host = &machine->host,
        .bus = machine->pci,
        .doorbell = {.attach = attach_doorbell, .ctx = machine},
        .instance = instance,
    };
}

int micro_create_disk(struct machine *machine, uint32_t index, bool is_plugged, struct error *err)
{
    struct machine_disk *disk = &machine->config.disk[index];
    struct virtio_blk_options options = {
        .common = virtio(machine, index),
        .block = disk->block,
        .serial = disk->serial,
        .on_read_error = disk->on_read_error,
        .on_write_error = disk->on_write_error,
        .is_write_through = disk->is_write_through,
    };
    options.common.slot = disk->slot;
    options.common.is_plugged = is_plugged;
    disk->block = NULL; /* the device's, also on failure */
    struct device *device;
    int rc = virtio_blk_create(&options, &device, err);
    if (rc == 0) {
        machine->disk[index] = add_device(machine, device);
    }
    return rc;
}

int micro_create_net(struct machine *machine, uint32_t index, bool is_plugged, struct error *err)
{
    struct machine_net *net = &machine->config.net[index];
    struct virtio_net_options options = {.common = virtio(machine, index), .net = net->net};
    options.common.slot = net->slot;
    options.common.is_plugged = is_plugged;
    memcpy(options.mac, net->mac, sizeof(options.mac));
    net->net = NULL;
    struct device *device;
    int rc = virtio_net_create(&options, &device, err);
    if (rc == 0) {
        machine->net[index] = add_device(machine, device);
    }
    return rc;
}

/* Those that have a slot of their own come first, so that no other takes it. */
static int create_disks_and_nets(struct machine *machine, bool with_slot, struct error *err)
{
    const struct machine_config *config = &machine->config;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < config->disk_count; i++) {
        if (config->disk[i].block != NULL && (config->disk[i].slot != 0) == with_slot) {
            rc = micro_create_disk(machine, i, false, err);
        }
    }
    for (uint32_t i = 0; rc == 0 && i < config->net_count; i++) {
        if (config->net[i].net != NULL && (config->net[i].slot != 0) == with_slot) {
            rc = micro_create_net(machine, i, false, err);
        }
    }
    return rc;
}

static int create_others(struct machine *machine, struct error *err)
{
    struct machine_config *config = &machine->config;
    const struct console_backend *console = &config->virtio_console;
    struct device *device;
    int rc = 0;

    if (config->has_virtio_console) {
        const struct virtio_console_options options = {
            .common = virtio(machine, 0),
            .ctx = console->ctx,
            .write = console->write,
            .input_ready = console->input_ready,
        };
        rc = virtio_console_create(&options, &device, err);
        if (rc < 0) {
            return rc;
        }
        machine->console = add_device(machine, device);
    }
    if (config->has_rng) {
        const struct virtio_rng_options options = {.common = virtio(machine, 0)};
        rc = virtio_rng_create(&options, &device, err);
        if (rc < 0) {
            return rc;
        }
        (void)add_device(machine, device);
    }
    if (config->has_balloon) {
        const struct virtio_balloon_options options = {.common = virtio(machine, 0)};
        rc = virtio_balloon_create(&options, &device, err);
        if (rc < 0) {
            return rc;
        }
        machine->balloon = add_device(machine, device);
    }
    if (machine->layout.later_bytes != 0) {
        const struct virtio_mem_options options = {
            .common = virtio(machine, 0),
            .gpa = machine->layout.later_gpa,
            .size_bytes = machine->layout.later_bytes,
        };
        rc = virtio_mem_create(&options, &device, err);
        if (rc < 0) {
            return rc;
        }
        machine->mem = add_device(machine, device);
    }
    if (config->has_vsock) {
        const struct virtio_vsock_options options = {
            .common = virtio(machine, 0),
            .guest_cid = config->vsock_cid,
            .dir_fd = config->vsock_dir_fd,
        };
        rc = virtio_vsock_create(&options, &device, err);
        if (rc == 0) {
            (void)add_device(machine, device);
        }
    }
    return rc;
}

/* Last: a machine with shares has all else where one without has it. */
static int create_shares(struct machine *machine, struct error *err)
{
    struct machine_config *config = &machine->config;
    struct device *device;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < config->share_count; i++) {
        const struct virtio_fs_options options = {
            .common = virtio(machine, i),
            .fd = config->share[i].fd,
            .tag = config->share[i].tag,
        };
        config->share[i].fd = -1; /* the device's, also on failure */
        rc = virtio_fs_create(&options, &device, err);
        if (rc == 0) {
            (void)add_device(machine, device);
        }
    }
    return rc;
}

int micro_boot(struct machine *machine, struct x86_state *state, struct error *err)
{
    struct acpi_config acpi = {
        .vcpu_count = machine->config.vcpu_max,
        .has_cpu_events = machine->has_cpu_events,
        .absent = machine->cpus != NULL ? ~cpus_present(machine->cpus) : 0,
        .lapic_gpa = X86_APIC_DEFAULT_GPA,
        .ioapic_gpa = IOAPIC_DEFAULT_GPA,
        .windows = machine->layout.pci,
        .intx_gsi = {MICRO_INTX_GSI, MICRO_INTX_GSI + 1, MICRO_INTX_GSI + 2, MICRO_INTX_GSI + 3},
        .pm1_event_port = POWER_PM1_EVENT,
        .pm1_control_port = POWER_PM1_CONTROL,
        .pm_timer_port = POWER_PM_TIMER,
        .gpe_port = POWER_GPE,
        .gpe_size = POWER_GPE_SIZE,
        .hotplug_port = PCI_HOTPLUG_PORT,
        .hotplug_event = POWER_GPE_PCI,
        .reset_port = POWER_RESET_PORT,
        .reset_value = POWER_RESET_VALUE,
        .sci_gsi = MICRO_SCI_GSI,
        .s5_type = POWER_SLEEP_TYPE_S5,
        .serial_count = (uint32_t)machine->config.serial_count + 1,
        .rtc_port = 0x70,
        .rtc_gsi = 8,
    };
    const struct boot_reserved ecam = {machine->layout.pci.ecam_gpa, 1u << 20};
    struct boot_config boot = {
        .memory = machine->memory,
        .ram_below_4g = machine->layout.low_bytes,
        .ram_above_4g = machine->layout.high_bytes,
        .reserved = &ecam,
        .reserved_count = 1,
        .kernel_fd = machine->kernel_fd,
        .initrd_fd = machine->initrd_fd,
        .kernel_name = machine->kernel_name,
        .initrd_name = machine->initrd_name,
        .command_line = machine->command_line,
        .is_repeatable = machine->has_own_time,
    };
    memcpy(acpi.serial, serial_ports, sizeof(serial_ports));
    int rc = acpi_build(machine->memory, BOOT_ACPI_GPA, BOOT_ACPI_SIZE, &acpi, &boot.rsdp_gpa, err);
    return rc < 0 ? rc : boot_load(&boot, state, err);
}

int micro_create(struct machine *machine, struct error *err)
{
    machine->host = (struct device_host){
        .ctx = machine,
        .loop = machine->config.loop,
        .memory = machine->memory,
        .is_repeatable = machine->has_own_time,
        .stop_vm = stop_vm,
        .disk_failed = disk_failed,
        .share_lost = share_lost,
    };
    int rc = create_platform(machine, err);
    if (rc == 0) {
        rc = create_disks_and_nets(machine, true, err);
    }
    if (rc == 0) {
        rc = create_disks_and_nets(machine, false, err);
    }
    if (rc == 0) {
        rc = create_others(machine, err);
    }
    if (rc == 0) {
        rc = create_shares(machine, err);
    }
    return rc;
}

void micro_destroy(struct machine *machine)
{
    for (size_t i = machine->device_count; i-- > 0;) {
        machine->device[i]->ops->destroy(machine->device[i]);
    }
    machine->device_count = 0;
    pci_bus_destroy(machine->pci);
    ioapic_destroy(machine->ioapic);
    lapic_set_destroy(machine->lapics);
}
