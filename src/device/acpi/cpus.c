#include "device/acpi/cpus.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/core/bits.h"

struct cpus {
    struct device device;
    struct cpus_options options;
    pthread_mutex_t lock;
    uint32_t selected;
    uint64_t present;            /* a bit for each CPU, as the rest */
    uint64_t leaving;            /* is asked to leave */
    uint64_t has_come, to_leave; /* the guest has yet to hear of it */
};

static struct cpus *cpus_from_device(struct device *device)
{
    return container_of(device, struct cpus, device);
}

static uint64_t all_of(const struct cpus *cpus)
{
    return BITS(cpus->options.count - 1, 0);
}

static uint64_t port_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct cpus *cpus = ctx;
    if (size != 4 || offset % 4 != 0) {
        return ~0ull;
    }
    pthread_mutex_lock(&cpus->lock);
    uint64_t bit = cpus->selected < CPUS_MAX ? BIT(cpus->selected) : 0;
    uint64_t value = offset == 0 ? cpus->selected
                                 : ((cpus->present & bit) != 0 ? CPUS_PRESENT : 0) |
                                       ((cpus->has_come & bit) != 0 ? CPUS_HAS_COME : 0) |
                                       ((cpus->to_leave & bit) != 0 ? CPUS_TO_LEAVE : 0);
    pthread_mutex_unlock(&cpus->lock);
    return value;
}

/* Returns whether the CPU has left. One that may stay after all comes back to the guest, which has let it go already. */
static bool eject(struct cpus *cpus, uint64_t bit, bool *out_is_news)
{
    if ((cpus->leaving & bit) == 0) {
        cpus->has_come |= cpus->present & bit & ~BIT(0);
        *out_is_news = (cpus->has_come & bit) != 0;
        return false;
    }
    cpus->present &= ~bit;
    cpus->leaving &= ~bit;
    cpus->has_come &= ~bit;
    cpus->to_leave &= ~bit;
    return true;
}

static void port_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct cpus *cpus = ctx;
    bool has_left = false, is_news = false;
    if (size != 4 || offset % 4 != 0) {
        return;
    }
    pthread_mutex_lock(&cpus->lock);
    uint64_t bit = cpus->selected < cpus->options.count ? BIT(cpus->selected) : 0;
    if (offset == 0) {
        cpus->selected = (uint32_t)value;
    } else {
        cpus->has_come &= (value & CPUS_HAS_COME) != 0 ? ~bit : ~0ull;
        cpus->to_leave &= (value & CPUS_TO_LEAVE) != 0 ? ~bit : ~0ull;
        has_left = (value & CPUS_EJECT) != 0 && eject(cpus, bit, &is_news);
    }
    pthread_mutex_unlock(&cpus->lock);
    if (has_left) {
        cpus->options.ejected(cpus->options.ctx);
    }
    if (is_news) {
        cpus->options.raise(cpus->options.ctx);
    }
}

uint64_t cpus_present(struct device *device)
{
    struct cpus *cpus = cpus_from_device(device);
    pthread_mutex_lock(&cpus->lock);
    uint64_t present = cpus->present;
    pthread_mutex_unlock(&cpus->lock);
    return present;
}

uint64_t cpus_leaving(struct device *device)
{
    struct cpus *cpus = cpus_from_device(device);
    pthread_mutex_lock(&cpus->lock);
    uint64_t leaving = cpus->leaving;
    pthread_mutex_unlock(&cpus->lock);
    return leaving;
}

void cpus_change(struct device *device, uint64_t add, uint64_t keep, uint64_t remove)
{
    struct cpus *cpus = cpus_from_device(device);
    pthread_mutex_lock(&cpus->lock);
    add &= all_of(cpus) & ~cpus->present;
    cpus->present |= add;
    cpus->has_come |= add;
    cpus->leaving &= ~keep;
    cpus->to_leave &= ~keep;
    remove &= cpus->present & ~BIT(0);
    cpus->leaving |= remove;
    cpus->to_leave |= remove;
    bool is_news = (cpus->has_come | cpus->to_leave) != 0;
    pthread_mutex_unlock(&cpus->lock);
    if (is_news) {
        cpus->options.raise(cpus->options.ctx);
    }
}

static void cpus_reset(struct device *device)
{
    struct cpus *cpus = cpus_from_device(device);
    pthread_mutex_lock(&cpus->lock);
    cpus->selected = 0;
    cpus->present &= ~cpus->leaving;
    cpus->leaving = cpus->has_come = cpus->to_leave = 0;
    pthread_mutex_unlock(&cpus->lock);
}

static void cpus_save(struct device *device, struct archive_writer *writer)
{
    struct cpus *cpus = cpus_from_device(device);
    archive_put_u32(writer, cpus->selected);
    archive_put_u64(writer, cpus->present);
    archive_put_u64(writer, cpus->leaving);
    archive_put_u64(writer, cpus->has_come);
    archive_put_u64(writer, cpus->to_leave);
}

static int cpus_restore(struct device *device, struct archive_reader *reader, uint32_t version,
                        struct error *err)
{
    struct cpus *cpus = cpus_from_device(device);
    cpus->selected = archive_get_u32(reader);
    uint64_t present = archive_get_u64(reader);
    uint64_t leaving = archive_get_u64(reader);
    cpus->has_come = archive_get_u64(reader) & present;
    cpus->to_leave = archive_get_u64(reader) & leaving;
    if (reader->status < 0 || (present & BIT(0)) == 0 || (present & ~all_of(cpus)) != 0 ||
        (leaving & (~present | BIT(0))) != 0) {
        return error_set(err, EBADMSG, "%s: its saved state cannot be", device->name);
    }
    cpus->present = present;
    cpus->leaving = leaving;
    return 0;
}

static void cpus_destroy(struct device *device)
{
    struct cpus *cpus = cpus_from_device(device);
    pthread_mutex_destroy(&cpus->lock);
    free(cpus);
}

static const struct bus_region_ops port_ops = {.read = port_read, .write = port_write};

static const struct device_ops cpus_ops = {
    .type = "acpi-cpus",
    .version = 1,
    .reset = cpus_reset,
    .save = cpus_save,
    .restore = cpus_restore,
    .destroy = cpus_destroy,
};

int cpus_create(const struct cpus_options *options, struct device **out_device, struct error *err)
{
    struct cpus *cpus = calloc(1, sizeof(*cpus));
    if (cpus == NULL) {
        return error_set(err, ENOMEM, "allocating the registers of CPUs");
    }
    cpus->device.ops = &cpus_ops;
    (void)snprintf(cpus->device.name, sizeof(cpus->device.name), "acpi-cpus.0");
    cpus->options = *options;
    cpus->present = BITS(options->present - 1, 0);
    pthread_mutex_init(&cpus->lock, NULL);
    int rc =
        bus_add(options->pio, "acpi-cpus", CPUS_PORT, CPUS_PORT_SIZE, &port_ops, cpus, NULL, err);
    if (rc < 0) {
        cpus_destroy(&cpus->device);
        return rc;
    }
    *out_device = &cpus->device;
    return 0;
}
