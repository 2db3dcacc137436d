/* A machine's life: creation, running and pausing, how it ends, reset. */
#include "machine/machine.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "device/acpi/cpus.h"
#include "device/acpi/power.h"
#include "device/serial/serial.h"
#include "device/virtio/balloon.h"
#include "device/virtio/block.h"
#include "device/virtio/console.h"
#include "device/virtio/mem.h"
#include "machine/internal.h"

#define DEFAULT_COMMAND_LINE "console=ttyS0"
#define IDLE_CHECK_NS        1000000000ull

void machine_request_end(struct machine *machine, enum machine_end end, uint32_t code,
                         const char *why)
{
    pthread_mutex_lock(&machine->lock);
    bool is_first = !machine->has_end && !machine->is_over;
    if (is_first) {
        machine->has_end = true;
        machine->end = end;
        machine->end_code = code;
        (void)snprintf(machine->end_why, sizeof(machine->end_why), "%s", why);
        machine->is_pause_wanted = true;
    }
    pthread_mutex_unlock(&machine->lock);
    if (is_first) {
        vcpus_kick(machine);
        event_notifier_signal(machine->end_notifier);
    }
}

static void end_machine(struct machine *machine, enum machine_end end, uint32_t code,
                        const char *why)
{
    pthread_mutex_lock(&machine->lock);
    machine->is_over = true;
    pthread_mutex_unlock(&machine->lock);
    event_timer_disarm(machine->idle_timer);
    machine->config.ended(machine->config.ctx, end, code, why);
}

static void carry_out_end(void *ctx)
{
    struct machine *machine = ctx;

    pthread_mutex_lock(&machine->lock);
    bool has_end = machine->has_end;
    enum machine_end end = machine->end;
    uint32_t code = machine->end_code;
    char why[MACHINE_WHY_SIZE];
    memcpy(why, machine->end_why, sizeof(why));
    pthread_mutex_unlock(&machine->lock);
    if (!has_end) {
        return;
    }
    bool was_running = machine->is_running;
    machine_pause(machine);
    pthread_mutex_lock(&machine->lock);
    machine->has_end = false;
    pthread_mutex_unlock(&machine->lock);
    if (end == MACHINE_END_RESET && !machine->config.no_reboot) {
        struct error err = {0};
        if (machine_reset(machine, &err) < 0) {
            end_machine(machine, MACHINE_END_ENGINE, 0, err.text);
        } else if (was_running) {
            machine_resume(machine);
        }
        return;
    }
    end_machine(machine, end, code, why);
}

/* Once a second, and at the cost of a few loads: a machine whose counters stand still may have halted for good. It is looked at
 * closely once, until its counters move again. */
static void check_idle(void *ctx)
{
    struct machine *machine = ctx;

    if (!machine->is_running) {
        return;
    }
    uint64_t counter = vcpus_counter(machine);
    if (counter != machine->idle_counter) {
        machine->idle_counter = counter;
        machine->is_idle_checked = false;
    } else if (!machine->is_idle_checked) {
        machine->is_idle_checked = true;
        vcpus_pause(machine);
        bool is_over = vcpus_are_halted_for_good(machine);
        pthread_mutex_lock(&machine->lock);
        bool has_end = machine->has_end;
        pthread_mutex_unlock(&machine->lock);
        if (is_over) {
            machine_request_end(machine, MACHINE_END_POWEROFF, 0, "all vcpus halted for good");
        } else if (!has_end) {
            vcpus_resume(machine);
            machine->idle_counter = vcpus_counter(machine);
        }
    }
    event_timer_arm(machine->idle_timer, clock_monotonic_ns() + IDLE_CHECK_NS);
}

static int keep_fd(int fd, int *out_fd, const char *name, struct error *err)
{
    *out_fd = -1;
    if (fd >= 0) {
        *out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (*out_fd < 0) {
            return error_set_errno(err, errno, "keeping %s for resets", name);
        }
    }
    return 0;
}

static int keep_files(struct machine *machine, struct error *err)
{
    const struct machine_config *config = &machine->config;
    const char *line = config->command_line != NULL ? config->command_line : DEFAULT_COMMAND_LINE;

    machine->command_line = strdup(line);
    machine->kernel_name = strdup(config->kernel_name != NULL ? config->kernel_name : "kernel");
    machine->initrd_name = strdup(config->initrd_name != NULL ? config->initrd_name : "initrd");
    if (machine->command_line == NULL || machine->kernel_name == NULL ||
        machine->initrd_name == NULL) {
        return error_set(err, ENOMEM, "allocating the machine");
    }
    int rc = keep_fd(config->kernel_fd, &machine->kernel_fd, machine->kernel_name, err);
    return rc < 0 ? rc : keep_fd(config->initrd_fd, &machine->initrd_fd, machine->initrd_name, err);
}

static int add_memory(struct machine *machine, struct error *err)
{
    const bool huge = machine->config.huge_pages;
    int rc = guest_memory_create(&machine->memory, err);
    if (rc == 0) {
        rc = guest_memory_add(machine->memory, 0, machine->layout.low_bytes, huge, false, err);
    }
    if (rc == 0 && machine->layout.high_bytes != 0) {
        rc = guest_memory_add(machine->memory, 1ull << 32, machine->layout.high_bytes, huge, false,
                              err);
    }
    if (rc == 0 && machine->layout.later_bytes != 0) {
        rc = guest_memory_reserve(machine->memory, machine->layout.later_gpa,
                                  machine->layout.later_bytes, err);
    }
    return rc;
}

static int create_parts(struct machine *machine, struct error *err)
{
    const struct machine_config *config = &machine->config;

    if (config->board == NULL || strcmp(config->board, "micro") != 0) {
        return error_set(err, EINVAL, "machine %s: expected micro",
                         config->board != NULL ? config->board : "?");
    }
    if (config->vcpu_count < 1 || config->vcpu_max > ENGINE_MAX_VCPUS) {
        return error_set(err, EINVAL, "%u vcpus: expected 1 to %u", config->vcpu_max,
                         ENGINE_MAX_VCPUS);
    }
    int rc = micro_layout(config, &machine->layout, err);
    if (rc == 0) {
        rc = keep_files(machine, err);
    }
    if (rc == 0) {
        rc = add_memory(machine, err);
    }
    if (rc == 0) {
        rc = bus_create(&machine->mmio, err);
    }
    if (rc == 0) {
        rc = bus_create(&machine->pio, err);
    }
    if (rc == 0) {
        rc = event_notifier_create(config->loop, carry_out_end, machine, &machine->end_notifier,
                                   err);
    }
    if (rc == 0) {
        rc = event_notifier_create(config->loop, hotplug_ejected, machine, &machine->eject_notifier,
                                   err);
    }
    if (rc == 0) {
        rc = event_timer_create(config->loop, check_idle, machine, &machine->idle_timer, err);
    }
    if (rc < 0) {
        return rc;
    }
    const struct vm_config vm = {
        .vcpu_count = config->vcpu_max,
        .memory = machine->memory,
        .callbacks = micro_callbacks(machine),
        .options = config->engine_options,
    };
    rc = config->engine->vm_create(&vm, &machine->vm, err);
    if (rc == 0) {
        machine->has_irqchip = (machine->vm->features & VM_HAS_IRQCHIP) != 0;
        machine->has_own_time = (machine->vm->features & VM_HAS_OWN_TIME) != 0;
        rc = machine->has_irqchip ? 0 : micro_create_irqchip(machine, err);
    }
    if (rc == 0) {
        rc = vcpus_create(machine, err);
    }
    if (rc == 0) {
        rc = micro_create(machine, err);
    }
    return rc < 0 ? rc : vcpus_reset(machine, !machine->config.is_restored, err);
}

int machine_create(const struct machine_config *config, struct machine **out_machine,
                   struct error *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    invariant(machine != NULL);
    machine->config = *config;
    machine->has_cpu_events = config->vcpu_max > 1;
    machine->config.vcpu_max = MAX(config->vcpu_max, config->vcpu_count);
    if (config->memory_max_bytes == 0) {
        machine->config.memory_max_bytes = config->memory_bytes;
    }
    machine->kernel_fd = machine->initrd_fd = -1;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->changed, NULL);

    int rc = create_parts(machine, err);
    if (rc < 0) {
        machine_destroy(machine);
        return rc;
    }
    *out_machine = machine;
    return 0;
}

void machine_destroy(struct machine *machine)
{
    if (machine == NULL) {
        return;
    }
    /* No vCPU may run, and no timer fire, while devices go; the vCPUs themselves go last of the two: devices lower lines. */
    if (machine->vcpu != NULL) {
        vcpus_pause(machine);
    }
    micro_destroy(machine);
    vcpus_destroy(machine);
    for (size_t i = 0; i < machine->config.disk_count; i++) {
        block_close(machine->config.disk[i].block);
    }
    for (size_t i = 0; i < machine->config.net_count; i++) {
        if (machine->config.net[i].net != NULL) {
            net_close(machine->config.net[i].net);
        }
    }
    for (size_t i = 0; i < machine->config.share_count; i++) {
        if (machine->config.share[i].fd >= 0) {
            close(machine->config.share[i].fd);
        }
    }
    if (machine->vm != NULL) {
        machine->config.engine->vm_destroy(machine->vm);
    }
    if (machine->idle_timer != NULL) {
        event_timer_destroy(machine->idle_timer);
    }
    if (machine->end_notifier != NULL) {
        event_notifier_destroy(machine->end_notifier);
    }
    if (machine->eject_notifier != NULL) {
        event_notifier_destroy(machine->eject_notifier);
    }
    bus_destroy(machine->mmio);
    bus_destroy(machine->pio);
    if (machine->memory != NULL) {
        guest_memory_destroy(machine->memory);
    }
    if (machine->kernel_fd >= 0) {
        close(machine->kernel_fd);
    }
    if (machine->initrd_fd >= 0) {
        close(machine->initrd_fd);
    }
    free(machine->command_line);
    free(machine->kernel_name);
    free(machine->initrd_name);
    pthread_cond_destroy(&machine->changed);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

static void pause_devices(struct machine *machine, bool is_paused)
{
    for (size_t i = 0; i < machine->device_count; i++) {
        struct device *device = machine->device[i];
        if (device->ops->pause != NULL) {
            device->ops->pause(device, is_paused);
        }
    }
}

void machine_resume(struct machine *machine)
{
    if (machine->is_running || machine->is_over) {
        return;
    }
    machine->is_running = true;
    pause_devices(machine, false);
    vcpus_resume(machine);
    event_timer_arm(machine->idle_timer, clock_monotonic_ns() + IDLE_CHECK_NS);
}

void machine_pause(struct machine *machine)
{
    if (!machine->is_running) {
        return;
    }
    event_timer_disarm(machine->idle_timer);
    vcpus_pause(machine);
    hotplug_take_out(machine, false);
    pause_devices(machine, true);
    machine->is_running = false;
}

bool machine_is_running(const struct machine *machine)
{
    return machine->is_running;
}

void machine_power_button(struct machine *machine)
{
    power_press_button(machine->power);
}

int machine_reset(struct machine *machine, struct error *err)
{
    bool was_running = machine->is_running;

    machine_pause(machine);
    hotplug_take_out(machine, true);
    for (size_t i = 0; i < machine->device_count; i++) {
        machine->device[i]->ops->reset(machine->device[i]);
    }
    pci_bus_reset(machine->pci);
    if (machine->has_irqchip) {
        struct x86_ioapic_state state = {.base_gpa = IOAPIC_DEFAULT_GPA};
        for (size_t i = 0; i < ARRAY_COUNT(state.redirection); i++) {
            state.redirection[i] = 1u << 16; /* masked */
        }
        int rc = machine->config.engine->vm_set_ioapic(machine->vm, &state, err);
        if (rc < 0) {
            return rc;
        }
    } else {
        ioapic_reset(machine->ioapic);
    }
    if (machine->cpus != NULL) {
        vcpus_follow(machine);
    }
    int rc = vcpus_reset(machine, true, err);
    if (rc == 0 && machine->mem != NULL) {
        rc = virtio_mem_power_cycle(machine->mem, err);
    }
    if (rc == 0 && was_running) {
        machine_resume(machine);
    }
    return rc;
}

size_t machine_serial_input(struct machine *machine, unsigned port, const uint8_t *data,
                            size_t size)
{
    return serial_input(machine->serial[port], data, size);
}

size_t machine_virtio_console_input(struct machine *machine, const uint8_t *data, size_t size)
{
    return machine->console != NULL ? virtio_console_input(machine->console, data, size) : size;
}

void machine_virtio_console_resize(struct machine *machine, uint16_t columns, uint16_t rows)
{
    if (machine->console != NULL) {
        virtio_console_resize(machine->console, columns, rows);
    }
}

int machine_set_balloon(struct machine *machine, uint64_t bytes, struct error *err)
{
    if (machine->balloon == NULL) {
        return error_set(err, ENODEV, "setting the balloon: the VM has none");
    }
    uint64_t all = machine->config.memory_bytes +
                   (machine->mem != NULL ? virtio_mem_requested(machine->mem) : 0);
    virtio_balloon_set_target(machine->balloon, bytes < all ? all - bytes : 0);
    return 0;
}

int machine_set_memory(struct machine *machine, uint64_t bytes, struct error *err)
{
    const struct machine_config *config = &machine->config;
    uint64_t later = bytes > config->memory_bytes ? bytes - config->memory_bytes : 0;

    if (bytes > config->memory_max_bytes) {
        return error_set(err, ERANGE, "%llu MiB of memory: the VM was made for %llu at most",
                         (unsigned long long)(bytes >> 20),
                         (unsigned long long)(config->memory_max_bytes >> 20));
    }
    if (bytes < config->memory_bytes && machine->balloon == NULL) {
        return error_set(
            err, ENODEV, "%llu MiB of memory: less than %llu needs a balloon, which the VM has not",
            (unsigned long long)(bytes >> 20), (unsigned long long)(config->memory_bytes >> 20));
    }
    int rc = machine->mem != NULL ? virtio_mem_set_requested(machine->mem, later, err) : 0;
    if (rc == 0 && machine->balloon != NULL) {
        virtio_balloon_set_target(machine->balloon,
                                  config->memory_bytes - MIN(bytes, config->memory_bytes));
    }
    return rc;
}

struct machine_memory_size machine_memory_size(struct machine *machine)
{
    const struct machine_config *config = &machine->config;
    struct machine_memory_size size = {
        .wanted = config->memory_bytes,
        .present = config->memory_bytes,
        .max = config->memory_max_bytes,
    };
    if (machine->mem != NULL) {
        size.wanted += virtio_mem_requested(machine->mem);
        size.present += virtio_mem_plugged(machine->mem);
    }
    if (machine->balloon != NULL) {
        size.wanted -= MIN(size.wanted, virtio_balloon_target(machine->balloon));
        size.present -= MIN(size.present, virtio_balloon_held(machine->balloon));
    }
    return size;
}

struct machine_vcpu_count machine_vcpu_count(struct machine *machine)
{
    struct machine_vcpu_count count = {machine->config.vcpu_count, 0, machine->config.vcpu_max};
    if (machine->cpus != NULL) {
        count.present = (uint32_t)__builtin_popcountll(cpus_present(machine->cpus));
        count.leaving = (uint32_t)__builtin_popcountll(cpus_leaving(machine->cpus));
    }
    return count;
}

/* The lowest ones that are there stay, then the lowest that are not come; so an order in the middle of a removal is right, too. */
int machine_set_vcpus(struct machine *machine, uint32_t count, struct error *err)
{
    if (count < 1 || count > machine->config.vcpu_max) {
        return error_set(err, ERANGE, "%u vcpus: the VM was made for 1 to %u", count,
                         machine->config.vcpu_max);
    }
    if (machine->cpus == NULL) {
        return count == machine->config.vcpu_count
                   ? 0
                   : error_set(err, ENODEV, "%u vcpus: the VM was made for %u, now and later",
                               count, machine->config.vcpu_count);
    }
    uint64_t present = cpus_present(machine->cpus), keep = 0, add = 0;
    for (uint32_t i = 0; i < machine->vcpu_count && count > 0; i++) {
        keep |= present & BIT(i);
        count -= (present >> i & 1) != 0;
    }
    for (uint32_t i = 0; i < machine->vcpu_count && count > 0; i++) {
        if ((present >> i & 1) == 0) {
            add |= BIT(i);
            count--;
        }
    }
    cpus_change(machine->cpus, add, keep, present & ~keep);
    vcpus_follow(machine);
    if (machine->is_running) {
        (void)vcpus_start_threads(machine);
    }
    return 0;
}

void machine_disk_resized(struct machine *machine, size_t index)
{
    virtio_blk_resized(machine->disk[index]);
}

struct guest_memory *machine_memory(struct machine *machine)
{
    return machine->memory;
}

const struct machine_config *machine_get_config(const struct machine *machine)
{
    return &machine->config;
}

struct stats_sink {
    void (*emit)(void *ctx, const char *object, const char *name, uint64_t value);
    void *ctx;
    const char *object;
};

static void forward(void *ctx, const char *name, uint64_t value)
{
    const struct stats_sink *sink = ctx;
    sink->emit(sink->ctx, sink->object, name, value);
}

void machine_stats(struct machine *machine,
                   void (*emit)(void *ctx, const char *object, const char *name, uint64_t value),
                   void *ctx)
{
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        char name[16];
        if (!machine->vcpu[i].is_present) {
            continue;
        }
        (void)snprintf(name, sizeof(name), "vcpu.%u", i);
        struct stats_sink sink = {emit, ctx, name};
        machine->config.engine->vcpu_stats(machine->vcpu[i].vcpu, forward, &sink);
    }
    for (size_t i = 0; i < machine->device_count; i++) {
        struct device *device = machine->device[i];
        if (device->ops->stats != NULL) {
            struct stats_sink sink = {emit, ctx, device->name};
            device->ops->stats(device, forward, &sink);
        }
    }
}

void machine_devices(struct machine *machine, void (*emit)(void *ctx, const char *name), void *ctx)
{
    for (size_t i = 0; i < machine->device_count; i++) {
        emit(ctx, machine->device[i]->name);
    }
}
