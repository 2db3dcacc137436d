/* MC146818: time in UTC from the host's clock plus what the guest set. The interrupt line is not wired; flags in register C
 * tell updates to those who poll. */
#include "device/rtc/cmos.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE            128
#define REG_SECONDS     0x00
#define REG_MINUTES     0x02
#define REG_HOURS       0x04
#define REG_WEEKDAY     0x06
#define REG_DAY         0x07
#define REG_MONTH       0x08
#define REG_YEAR        0x09
#define REG_A           0x0a
#define REG_B           0x0b
#define REG_C           0x0c
#define REG_D           0x0d
#define REG_CENTURY     0x32
#define A_UPDATING      0x80u
#define B_SET           0x80u /* the clock stands still while it is being set */
#define B_BINARY        0x04u
#define B_24_HOURS      0x02u
#define C_UPDATE        0x10u
#define D_VALID         0x80u
#define NS_PER_SECOND   1000000000ull
#define SECONDS_PER_DAY 86400
/* The data sheet: 244 us before an update the flag goes up. */
#define UPDATE_WARNING_NS 244000u

struct cmos {
    struct device device;
    struct cmos_options options;
    pthread_mutex_t lock;
    uint8_t index;
    uint8_t memory[SIZE];
    int64_t offset_s;       /* guest time minus host time */
    uint64_t update_seen_s; /* host second at which register C was read */
};

static struct cmos *cmos_from_device(struct device *device)
{
    return container_of(device, struct cmos, device);
}

static bool is_clock(uint8_t index)
{
    return index == REG_SECONDS || index == REG_MINUTES || index == REG_HOURS ||
           (index >= REG_WEEKDAY && index <= REG_YEAR) || index == REG_CENTURY;
}

static uint8_t to_form(const struct cmos *cmos, int value)
{
    if ((cmos->memory[REG_B] & B_BINARY) != 0) {
        return (uint8_t)value;
    }
    return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static int from_form(const struct cmos *cmos, uint8_t value)
{
    if ((cmos->memory[REG_B] & B_BINARY) != 0) {
        return value;
    }
    return (value >> 4) * 10 + (value & 0xf);
}

struct civil {
    int64_t year;
    int month, day; /* from 1 */
};

/* The calendar without the C library, whose functions read the time zone's file where a sandbox forbids it. Years begin in
 * March here, so that the leap day is the last one: day d of such a year lies in month (5 d + 2) / 153. */
static struct civil civil_from_days(int64_t days)
{
    days += 719468; /* from 1970-01-01 to 0000-03-01 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    int64_t of_era = days - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153;
    struct civil civil = {
        .year = year + era * 400 + (month >= 10 ? 1 : 0),
        .month = (int)(month < 10 ? month + 3 : month - 9),
        .day = (int)(of_year - (153 * month + 2) / 5 + 1),
    };
    return civil;
}

/* Takes any numbers: a guest may write nonsense. */
static int64_t days_from_civil(const struct civil *civil)
{
    int64_t year = civil->year - (civil->month <= 2 ? 1 : 0);
    int64_t month = civil->month > 2 ? civil->month - 3 : civil->month + 9;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era_year = year - era * 400;
    int64_t of_year = (153 * month + 2) / 5 + civil->day - 1;
    int64_t of_era = of_era_year * 365 + of_era_year / 4 - of_era_year / 100 + of_year;
    return era * 146097 + of_era - 719468;
}

/* The clock's registers from the time. */
static void clock_load(struct cmos *cmos)
{
    int64_t now =
        (int64_t)(cmos->options.now_ns(cmos->options.ctx) / NS_PER_SECOND) + cmos->offset_s;
    int64_t days = (now >= 0 ? now : now - (SECONDS_PER_DAY - 1)) / SECONDS_PER_DAY;
    int second = (int)(now - days * SECONDS_PER_DAY);
    struct civil civil = civil_from_days(days);
    int hour = second / 3600;
    int weekday = (int)(((days + 4) % 7 + 7) % 7); /* 1970 began on a Thursday */

    uint8_t hours = to_form(cmos, hour);
    if ((cmos->memory[REG_B] & B_24_HOURS) == 0) {
        hours = to_form(cmos, hour % 12 == 0 ? 12 : hour % 12);
        hours |= hour >= 12 ? 0x80 : 0;
    }
    cmos->memory[REG_SECONDS] = to_form(cmos, second % 60);
    cmos->memory[REG_MINUTES] = to_form(cmos, second / 60 % 60);
    cmos->memory[REG_HOURS] = hours;
    cmos->memory[REG_WEEKDAY] = to_form(cmos, weekday + 1);
    cmos->memory[REG_DAY] = to_form(cmos, civil.day);
    cmos->memory[REG_MONTH] = to_form(cmos, civil.month);
    cmos->memory[REG_YEAR] = to_form(cmos, (int)(civil.year % 100));
    cmos->memory[REG_CENTURY] = to_form(cmos, (int)(civil.year / 100 % 100));
}

/* The offset from the clock's registers. */
static void clock_store(struct cmos *cmos)
{
    int hours = from_form(cmos, cmos->memory[REG_HOURS] & 0x7f);
    if ((cmos->memory[REG_B] & B_24_HOURS) == 0) {
        hours = hours % 12 + ((cmos->memory[REG_HOURS] & 0x80) != 0 ? 12 : 0);
    }
    const struct civil civil = {
        .year = (int64_t)from_form(cmos, cmos->memory[REG_CENTURY]) * 100 +
                from_form(cmos, cmos->memory[REG_YEAR]),
        .month = from_form(cmos, cmos->memory[REG_MONTH]),
        .day = from_form(cmos, cmos->memory[REG_DAY]),
    };
    int64_t now = days_from_civil(&civil) * SECONDS_PER_DAY + (int64_t)hours * 3600 +
                  (int64_t)from_form(cmos, cmos->memory[REG_MINUTES]) * 60 +
                  from_form(cmos, cmos->memory[REG_SECONDS]);
    cmos->offset_s = now - (int64_t)(cmos->options.now_ns(cmos->options.ctx) / NS_PER_SECOND);
}

static uint8_t register_read(struct cmos *cmos, uint8_t index)
{
    const uint64_t now_ns = cmos->options.now_ns(cmos->options.ctx);

    if (is_clock(index) && (cmos->memory[REG_B] & B_SET) == 0) {
        clock_load(cmos);
    }
    switch (index) {
    case REG_A:
        return (uint8_t)((cmos->memory[REG_A] & 0x7f) |
                         (now_ns % NS_PER_SECOND >= NS_PER_SECOND - UPDATE_WARNING_NS ? A_UPDATING
                                                                                      : 0));
    case REG_C: {
        bool is_updated = now_ns / NS_PER_SECOND != cmos->update_seen_s;
        cmos->update_seen_s = now_ns / NS_PER_SECOND;
        return is_updated ? C_UPDATE : 0;
    }
    case REG_D:
        return D_VALID;
    default:
        return cmos->memory[index];
    }
}

static void register_write(struct cmos *cmos, uint8_t index, uint8_t value)
{
    if (index == REG_C || index == REG_D) {
        return;
    }
    if (is_clock(index)) {
        if ((cmos->memory[REG_B] & B_SET) == 0) {
            clock_load(cmos);
        }
        cmos->memory[index] = value;
        if ((cmos->memory[REG_B] & B_SET) == 0) {
            clock_store(cmos);
        }
        return;
    }
    if (index == REG_B) {
        uint8_t old = cmos->memory[REG_B];
        if ((value & ~old & B_SET) != 0) {
            clock_load(cmos);
        }
        cmos->memory[REG_B] = value;
        if ((old & ~value & B_SET) != 0) {
            clock_store(cmos);
        }
        return;
    }
    cmos->memory[index] = value;
}

static uint64_t port_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct cmos *cmos = ctx;

    if (size != 1 || offset == 0) {
        return ~0ull; /* the index register is write-only */
    }
    pthread_mutex_lock(&cmos->lock);
    uint8_t value = register_read(cmos, cmos->index);
    pthread_mutex_unlock(&cmos->lock);
    return value;
}

static void port_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct cmos *cmos = ctx;

    if (size != 1) {
        return;
    }
    pthread_mutex_lock(&cmos->lock);
    if (offset == 0) {
        cmos->index = value & 0x7f; /* bit 7 masks NMIs on old boards */
    } else {
        register_write(cmos, cmos->index, (uint8_t)value);
    }
    pthread_mutex_unlock(&cmos->lock);
}

static void put16(struct cmos *cmos, unsigned at, uint64_t value)
{
    uint16_t capped = value > 0xffff ? 0xffff : (uint16_t)value;
    cmos->memory[at] = (uint8_t)capped;
    cmos->memory[at + 1] = (uint8_t)(capped >> 8);
}

static void cmos_reset(struct device *device)
{
    struct cmos *cmos = cmos_from_device(device);
    const uint64_t low = cmos->options.memory_below_4g;

    pthread_mutex_lock(&cmos->lock);
    cmos->index = 0;
    memset(cmos->memory, 0, SIZE);
    cmos->memory[REG_A] = 0x26; /* 32768 Hz, 1024 Hz */
    cmos->memory[REG_B] = B_24_HOURS;
    put16(cmos, 0x15, 640);
    put16(cmos, 0x17, low > (1u << 20) ? (low >> 10) - 1024 : 0);
    put16(cmos, 0x30, low > (1u << 20) ? (low >> 10) - 1024 : 0);
    put16(cmos, 0x34, low > (16u << 20) ? (low >> 16) - 256 : 0);
    put16(cmos, 0x5b, (cmos->options.memory_above_4g >> 16) & 0xffff);
    cmos->memory[0x5d] = (uint8_t)(cmos->options.memory_above_4g >> 32);
    pthread_mutex_unlock(&cmos->lock);
}

static void cmos_save(struct device *device, struct archive_writer *writer)
{
    struct cmos *cmos = cmos_from_device(device);

    archive_put_u8(writer, cmos->index);
    archive_put(writer, cmos->memory, SIZE);
    archive_put_u64(writer, (uint64_t)cmos->offset_s);
}

static int cmos_restore(struct device *device, struct archive_reader *reader, uint32_t version,
                        struct error *err)
{
    struct cmos *cmos = cmos_from_device(device);

    cmos->index = archive_get_u8(reader) & 0x7f;
    archive_get(reader, cmos->memory, SIZE);
    cmos->offset_s = (int64_t)archive_get_u64(reader);
    /* A million years: far from any overflow. */
    if (cmos->offset_s > 31556952000000 || cmos->offset_s < -31556952000000) {
        return error_set(err, EINVAL, "%s: the clock is out of range", device->name);
    }
    return reader->status < 0 ? error_set(err, EBADMSG, "%s: the state is cut short", device->name)
                              : 0;
}

static void cmos_destroy(struct device *device)
{
    struct cmos *cmos = cmos_from_device(device);
    pthread_mutex_destroy(&cmos->lock);
    free(cmos);
}

static const struct bus_region_ops port_ops = {.read = port_read, .write = port_write};

static const struct device_ops cmos_ops = {
    .type = "cmos",
    .version = 1,
    .reset = cmos_reset,
    .save = cmos_save,
    .restore = cmos_restore,
    .destroy = cmos_destroy,
};

int cmos_create(const struct cmos_options *options, struct device **out_device, struct error *err)
{
    struct cmos *cmos = calloc(1, sizeof(*cmos));
    if (cmos == NULL) {
        return error_set(err, ENOMEM, "allocating the clock");
    }
    cmos->device.ops = &cmos_ops;
    snprintf(cmos->device.name, sizeof(cmos->device.name), "cmos.0");
    cmos->options = *options;
    pthread_mutex_init(&cmos->lock, NULL);
    int rc = bus_add(options->pio, "cmos", 0x70, 2, &port_ops, cmos, NULL, err);
    if (rc < 0) {
        cmos_destroy(&cmos->device);
        return rc;
    }
    cmos_reset(&cmos->device);
    *out_device = &cmos->device;
    return 0;
}
