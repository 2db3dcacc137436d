/* CPUs that come and go while the guest runs: the registers behind the ACPI objects of machine/boot/acpi_cpus.c.
 *
 * A CPU comes by a bit that the guest reads when its general purpose event is raised. It leaves when the guest ejects it, which
 * it is asked for in the same way; the first CPU never leaves. */
#ifndef DEVICE_ACPI_CPUS_H
#define DEVICE_ACPI_CPUS_H

#include "device/bus.h"
#include "device/device.h"

/* Two registers of four bytes: the CPU's index at +0, and at +4 what there is to say of it; what is written there does it. */
#define CPUS_PORT      0x660
#define CPUS_PORT_SIZE 8
#define CPUS_PRESENT   1u
#define CPUS_HAS_COME  2u /* written: the guest has heard of it */
#define CPUS_TO_LEAVE  4u /* written: the guest has heard of it */
#define CPUS_EJECT     8u /* written: the CPU leaves */
#define CPUS_MAX       64u

struct cpus_options {
    struct bus *pio;
    uint32_t count;   /* of all, at most CPUS_MAX */
    uint32_t present; /* from the start: the first so many */
    void *ctx;
    /* There is news for the guest. Any thread, without a lock. */
    void (*raise)(void *ctx);
    /* The guest has ejected a CPU. A vCPU's thread, without a lock. */
    void (*ejected)(void *ctx);
};

/* The device is the caller's: device->ops->destroy. Its reset takes the CPUs away that are asked to leave. */
int must_check cpus_create(const struct cpus_options *options, struct device **out_device,
                           struct error *err);

/* A bit for each CPU. Any thread. */
uint64_t cpus_present(struct device *device);
/* Those that are there and asked to leave. Any thread. */
uint64_t cpus_leaving(struct device *device);
/* Any thread. 'add' is present from now on, and the guest hears of it; of what was asked to leave, 'keep' may stay; 'remove' is asked
 * to leave. */
void cpus_change(struct device *device, uint64_t add, uint64_t keep, uint64_t remove);

#endif
