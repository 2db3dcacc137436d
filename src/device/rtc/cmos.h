/* The PC's clock and its 128 bytes of memory: an MC146818 at ports 0x70 and 0x71. */
#ifndef DEVICE_RTC_CMOS_H
#define DEVICE_RTC_CMOS_H

#include "device/bus.h"
#include "device/device.h"

struct cmos_options {
    struct bus *pio;
    uint64_t memory_below_4g, memory_above_4g; /* bytes, for the size registers of firmware */
    void *ctx;
    uint64_t (*now_ns)(void *ctx); /* nanoseconds since 1970 */
};

/* The device is the caller's: device->ops->destroy. */
int must_check cmos_create(const struct cmos_options *options, struct device **out_device,
                           struct error *err);

#endif
