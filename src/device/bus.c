/* Address spaces. Writers flatten the enabled regions into one sorted table of pieces that do not overlap; readers search it
 * under a sequence lock, so that a lookup takes no lock and is never kept waiting by a device. Tables live until the bus is
 * destroyed (one is replaced only when regions are added), and regions are removed only while nobody reads, so whatever a reader
 * found stays valid. */
#include "device/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/invariant.h"

struct bus_region {
    struct bus *bus;
    const char *name;
    uint64_t base;
    uint64_t size;
    const struct bus_region_ops *ops;
    void *ctx;
    bool is_enabled;
};

/* Addresses first..last belong to 'region', of which 'base' is the start at that time. */
struct piece {
    _Atomic uint64_t first;
    _Atomic uint64_t last;
    _Atomic uint64_t base;
    struct bus_region *_Atomic region;
};

struct table {
    struct table *older;
    size_t capacity;
    atomic_size_t count;
    struct piece piece[];
};

struct bus {
    pthread_mutex_t lock; /* of writers */
    struct bus_region **region;
    size_t region_count;
    atomic_uint sequence; /* odd while the table changes */
    struct table *_Atomic table;
};

int bus_create(struct bus **out_bus, struct error *err)
{
    struct bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL) {
        return error_set(err, ENOMEM, "allocating a bus");
    }
    pthread_mutex_init(&bus->lock, NULL);
    *out_bus = bus;
    return 0;
}

void bus_destroy(struct bus *bus)
{
    if (bus == NULL) {
        return;
    }
    for (size_t i = 0; i < bus->region_count; i++) {
        free(bus->region[i]);
    }
    free(bus->region);
    struct table *table = atomic_load(&bus->table);
    while (table != NULL) {
        struct table *older = table->older;
        free(table);
        table = older;
    }
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

static uint64_t region_last(const struct bus_region *region)
{
    return region->base + (region->size - 1);
}

static void piece_set(struct piece *piece, uint64_t first, uint64_t last, uint64_t base,
                      struct bus_region *region)
{
    atomic_store_explicit(&piece->first, first, memory_order_relaxed);
    atomic_store_explicit(&piece->last, last, memory_order_relaxed);
    atomic_store_explicit(&piece->base, base, memory_order_relaxed);
    atomic_store_explicit(&piece->region, region, memory_order_relaxed);
}

static size_t table_insert(struct table *table, size_t count, size_t at, uint64_t first,
                           uint64_t last, struct bus_region *region)
{
    invariant(count < table->capacity);
    for (size_t i = count; i > at; i--) {
        const struct piece *from = &table->piece[i - 1];
        piece_set(&table->piece[i], from->first, from->last, from->base, from->region);
    }
    piece_set(&table->piece[at], first, last, region->base, region);
    return count + 1;
}

/* Adds those parts of 'region' that no older region holds. Returns the new count. */
static size_t table_add_region(struct table *table, size_t count, struct bus_region *region)
{
    uint64_t next = region->base;
    const uint64_t end = region_last(region);
    size_t i = 0;

    while (i < count && table->piece[i].last < next) {
        i++;
    }
    for (; i < count && table->piece[i].first <= end; i++) {
        if (table->piece[i].first > next) {
            count = table_insert(table, count, i, next, table->piece[i].first - 1, region);
            i++;
        }
        if (table->piece[i].last >= end) {
            return count;
        }
        next = table->piece[i].last + 1;
    }
    return table_insert(table, count, i, next, end, region);
}

static void bus_flatten(struct bus *bus)
{
    struct table *table = atomic_load(&bus->table);

    atomic_fetch_add_explicit(&bus->sequence, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    size_t count = 0;
    for (size_t i = 0; i < bus->region_count; i++) {
        if (bus->region[i]->is_enabled) {
            count = table_add_region(table, count, bus->region[i]);
        }
    }
    atomic_store_explicit(&table->count, count, memory_order_relaxed);
    atomic_fetch_add_explicit(&bus->sequence, 1, memory_order_release);
}

/* Room for one more region: n intervals cut the line into at most 2n - 1 pieces. */
static int bus_grow(struct bus *bus, struct error *err)
{
    struct bus_region **grown =
        realloc(bus->region, (bus->region_count + 1) * sizeof(struct bus_region *));
    if (grown == NULL) {
        return error_set(err, ENOMEM, "allocating a bus region");
    }
    bus->region = grown;
    struct table *old = atomic_load(&bus->table);
    size_t needed = 2 * (bus->region_count + 1);
    if (old != NULL && old->capacity >= needed) {
        return 0;
    }
    size_t capacity = needed < 32 ? 32 : 2 * needed;
    struct table *table = calloc(1, sizeof(*table) + capacity * sizeof(struct piece));
    if (table == NULL) {
        return error_set(err, ENOMEM, "allocating a bus table");
    }
    table->capacity = capacity;
    table->older = old;
    atomic_fetch_add(&bus->sequence, 1);
    atomic_store(&bus->table, table);
    atomic_fetch_add(&bus->sequence, 1);
    return 0;
}

/* -EEXIST: an enabled region is there. */
static int check_overlap(const struct bus *bus, const char *name, uint64_t base, uint64_t size,
                         struct error *err)
{
    for (size_t i = 0; i < bus->region_count; i++) {
        const struct bus_region *other = bus->region[i];
        if (other->is_enabled && ranges_overlap(base, size, other->base, other->size)) {
            return error_set(err, EEXIST, "adding bus region %s: overlaps %s", name, other->name);
        }
    }
    return 0;
}

static int add_region(struct bus *bus, const struct bus_region *wanted,
                      struct bus_region **out_region, struct error *err)
{
    if (wanted->size == 0 || wanted->base + (wanted->size - 1) < wanted->base) {
        return error_set(err, EINVAL, "adding bus region %s: no valid range", wanted->name);
    }
    struct bus_region *region = calloc(1, sizeof(*region));
    if (region == NULL) {
        return error_set(err, ENOMEM, "allocating a bus region");
    }
    *region = *wanted;

    pthread_mutex_lock(&bus->lock);
    int rc =
        wanted->is_enabled ? check_overlap(bus, wanted->name, wanted->base, wanted->size, err) : 0;
    if (rc == 0) {
        rc = bus_grow(bus, err);
    }
    if (rc == 0) {
        bus->region[bus->region_count++] = region;
        bus_flatten(bus);
        if (out_region != NULL) {
            *out_region = region;
        }
    } else {
        free(region);
    }
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

int bus_add(struct bus *bus, const char *name, uint64_t base, uint64_t size,
            const struct bus_region_ops *ops, void *ctx, struct bus_region **out_region,
            struct error *err)
{
    const struct bus_region region = {bus, name, base, size, ops, ctx, true};
    return add_region(bus, &region, out_region, err);
}

int bus_add_disabled(struct bus *bus, const char *name, uint64_t base, uint64_t size,
                     const struct bus_region_ops *ops, void *ctx, struct bus_region **out_region,
                     struct error *err)
{
    const struct bus_region region = {bus, name, base, size, ops, ctx, false};
    return add_region(bus, &region, out_region, err);
}

void bus_remove(struct bus_region *region)
{
    if (region == NULL) {
        return;
    }
    struct bus *bus = region->bus;
    pthread_mutex_lock(&bus->lock);
    size_t at = 0;
    while (bus->region[at] != region) {
        at++;
    }
    bus->region_count--;
    memmove(&bus->region[at], &bus->region[at + 1],
            (bus->region_count - at) * sizeof(struct bus_region *));
    bus_flatten(bus);
    pthread_mutex_unlock(&bus->lock);
    free(region);
}

void bus_region_move(struct bus_region *region, uint64_t base)
{
    struct bus *bus = region->bus;

    pthread_mutex_lock(&bus->lock);
    if (!region->is_enabled || region->base != base) {
        /* A BAR that wraps around the end of the address space decodes nothing. */
        bool fits = base + (region->size - 1) >= base;
        region->base = fits ? base : 0;
        region->is_enabled = fits;
        bus_flatten(bus);
    }
    pthread_mutex_unlock(&bus->lock);
}

void bus_region_set_enabled(struct bus_region *region, bool is_enabled)
{
    struct bus *bus = region->bus;

    pthread_mutex_lock(&bus->lock);
    if (region->is_enabled != is_enabled) {
        region->is_enabled = is_enabled;
        bus_flatten(bus);
    }
    pthread_mutex_unlock(&bus->lock);
}

struct found {
    struct bus_region *region;
    uint64_t base;
    uint64_t last;
};

static bool bus_search(const struct table *table, uint64_t address, struct found *out)
{
    size_t low = 0;
    size_t high = atomic_load_explicit(&table->count, memory_order_relaxed);

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct piece *piece = &table->piece[middle];
        if (address < atomic_load_explicit(&piece->first, memory_order_relaxed)) {
            high = middle;
        } else if (address > atomic_load_explicit(&piece->last, memory_order_relaxed)) {
            low = middle + 1;
        } else {
            out->region = atomic_load_explicit(&piece->region, memory_order_relaxed);
            out->base = atomic_load_explicit(&piece->base, memory_order_relaxed);
            out->last = atomic_load_explicit(&piece->last, memory_order_relaxed);
            return true;
        }
    }
    return false;
}

static bool bus_find(struct bus *bus, uint64_t address, struct found *out)
{
    for (;;) {
        unsigned before = atomic_load_explicit(&bus->sequence, memory_order_acquire);
        const struct table *table = atomic_load_explicit(&bus->table, memory_order_acquire);
        bool is_found = table != NULL && bus_search(table, address, out);
        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) == 0 &&
            before == atomic_load_explicit(&bus->sequence, memory_order_relaxed)) {
            return is_found;
        }
    }
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

uint64_t bus_read(struct bus *bus, uint32_t vcpu, uint64_t address, unsigned size)
{
    struct found found;

    if (bus_find(bus, address, &found)) {
        if (found.last - address >= size - 1) {
            return found.region->ops->read(found.region->ctx, vcpu, address - found.base, size) &
                   size_mask(size);
        }
    } else if (size == 1) {
        return 0xff;
    }
    /* Here and there: each byte goes where it belongs. */
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= bus_read(bus, vcpu, address + i, 1) << (i * 8);
    }
    return value;
}

void bus_write(struct bus *bus, uint32_t vcpu, uint64_t address, unsigned size, uint64_t value)
{
    struct found found;

    if (bus_find(bus, address, &found)) {
        if (found.last - address >= size - 1) {
            found.region->ops->write(found.region->ctx, vcpu, address - found.base, size,
                                     value & size_mask(size));
            return;
        }
    } else if (size == 1) {
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        bus_write(bus, vcpu, address + i, 1, (value >> (i * 8)) & 0xff);
    }
}
