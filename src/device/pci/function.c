/* One PCI function: configuration space under write masks, base address registers, capabilities, the interrupt line. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "device/pci/internal.h"

#define FIRST_CAPABILITY 0x40
#define MEMORY_BAR_MIN   4096u

static uint32_t config_load(const uint8_t *from, uint32_t offset, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint32_t)from[offset + i] << (i * 8);
    }
    return value;
}

/* At setup: the value is also the one after reset. */
static void config_define(struct pci_function *function, uint32_t offset, unsigned size,
                          uint32_t value, uint32_t write_mask)
{
    for (unsigned i = 0; i < size; i++) {
        function->config[offset + i] = function->initial[offset + i] = (uint8_t)(value >> (i * 8));
        function->write_mask[offset + i] = (uint8_t)(write_mask >> (i * 8));
    }
}

/* What only a reset puts there. */
static void config_clear(struct pci_function *function, uint32_t offset, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        function->config[offset + i] &= (uint8_t)~function->write_mask[offset + i];
    }
}

static int choose_slot(const struct pci_bus *bus, const char *name, unsigned wanted,
                       unsigned *out_slot, struct error *err)
{
    unsigned slot = wanted != 0 || bus->function[0] == NULL ? wanted : pci_bus_free_slot(bus);
    if (slot >= PCI_MAX_DEVICES || (slot == 0 && bus->function[0] != NULL)) {
        return error_set(err, ENOSPC, "adding %s: the PCI bus takes at most %u devices", name,
                         PCI_MAX_DEVICES);
    }
    if (bus->function[slot] != NULL) {
        return error_set(err, EBUSY, "adding %s: PCI slot %u is %s's", name, slot,
                         bus->function[slot]->name);
    }
    *out_slot = slot;
    return 0;
}

int pci_function_create(struct pci_bus *bus, const char *name, const struct pci_identity *identity,
                        const struct pci_function_ops *ops, void *ctx,
                        struct pci_function **out_function, struct error *err)
{
    unsigned number = 0;
    int rc = choose_slot(bus, name, identity->slot, &number, err);
    if (rc < 0) {
        return rc;
    }
    struct pci_function *function = calloc(1, sizeof(*function));
    if (function == NULL) {
        return error_set(err, ENOMEM, "allocating PCI function %s", name);
    }
    function->bus = bus;
    function->device_number = number;
    function->name = name;
    function->is_plugged = identity->is_plugged;
    function->ops = ops;
    function->ctx = ctx;
    function->next_capability = FIRST_CAPABILITY;
    pthread_mutex_init(&function->lock, NULL);

    config_define(function, 0x00, 2, identity->vendor, 0);
    config_define(function, 0x02, 2, identity->device, 0);
    config_define(function, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY,
                  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    config_define(function, 0x08, 1, identity->revision, 0);
    config_define(function, 0x09, 3, identity->class_code, 0);
    config_define(function, 0x0c, 1, 0, 0xff); /* cache line size: plain storage */
    config_define(function, 0x2c, 2, identity->subsystem_vendor, 0);
    config_define(function, 0x2e, 2, identity->subsystem, 0);
    if (identity->has_intx) {
        config_define(function, PCI_INTERRUPT_LINE, 1, bus->config.intx_line[number % 4], 0xff);
        config_define(function, PCI_INTERRUPT_PIN, 1, 1, 0);
    }
    if (function->is_plugged) {
        config_clear(function, PCI_COMMAND, 2);
    }
    bus->function[number] = function;
    *out_function = function;
    return 0;
}

/* The level that the input should have now; true if it must be told. Lock held. */
static bool intx_update(struct pci_function *function)
{
    uint32_t command = config_load(function->config, PCI_COMMAND, 2);
    bool level = function->intx_level && (command & PCI_COMMAND_INTX_OFF) == 0;

    if (function->intx_level) {
        function->config[PCI_STATUS] |= PCI_STATUS_INTX;
    } else {
        function->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
    }
    if (level == function->intx_sent || function->config[PCI_INTERRUPT_PIN] == 0) {
        return false;
    }
    function->intx_sent = level;
    return true;
}

/* Under the lock, so that two threads cannot swap their levels on the way. */
static void intx_apply(struct pci_function *function)
{
    if (intx_update(function)) {
        irq_line_set(&function->bus->config.intx[function->device_number % 4], function->intx_sent);
    }
}

void pci_function_destroy(struct pci_function *function)
{
    if (function == NULL) {
        return;
    }
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        bus_remove(function->bar[i].region);
    }
    function->intx_level = false;
    intx_apply(function);
    function->bus->function[function->device_number] = NULL;
    pci_hotplug_forget(function->bus, function->device_number);
    pthread_mutex_destroy(&function->lock);
    free(function);
}

unsigned pci_function_device_number(const struct pci_function *function)
{
    return function->device_number;
}

int pci_function_add_bar(struct pci_function *function, unsigned bar, enum pci_bar_kind kind,
                         bool is_prefetchable, uint64_t size, const struct bus_region_ops *ops,
                         void *ctx, struct error *err)
{
    const unsigned slots = kind == PCI_BAR_MEMORY64 ? 2 : 1;
    invariant(bar + slots <= PCI_BAR_COUNT && !function->bar[bar].is_used);
    invariant(is_power_of_two(size) && size >= (kind == PCI_BAR_IO ? 4 : MEMORY_BAR_MIN));

    struct bus *space = kind == PCI_BAR_IO ? function->bus->config.pio : function->bus->config.mmio;
    uint64_t address;
    if (!pci_bus_allocate(function->bus, kind, size, &address)) {
        return error_set(err, ENOSPC, "placing BAR %u of %s: the PCI window is full", bar,
                         function->name);
    }
    struct pci_bar *entry = &function->bar[bar];
    int rc =
        function->is_plugged
            ? bus_add_disabled(space, function->name, address, size, ops, ctx, &entry->region, err)
            : bus_add(space, function->name, address, size, ops, ctx, &entry->region, err);
    if (rc < 0) {
        return rc;
    }
    entry->is_used = true;
    entry->kind = kind;
    entry->size = size;
    entry->home = address;
    entry->is_mapped = !function->is_plugged;
    entry->address = address;

    uint32_t type = kind == PCI_BAR_IO ? 1 : (kind == PCI_BAR_MEMORY64 ? 4 : 0);
    if (is_prefetchable) {
        type |= 8;
    }
    config_define(function, PCI_BAR0 + 4 * bar, 4, (uint32_t)address | type,
                  (uint32_t) ~(size - 1));
    if (kind == PCI_BAR_MEMORY64) {
        config_define(function, PCI_BAR0 + 4 * bar + 4, 4, (uint32_t)(address >> 32),
                      (uint32_t)(~(size - 1) >> 32));
    }
    if (function->is_plugged) {
        config_clear(function, PCI_BAR0 + 4 * bar, 4 * slots);
    }
    return 0;
}

/* The address that the registers ask for; false: not decoded. Lock held. */
static bool bar_wanted(const struct pci_function *function, unsigned bar, uint64_t *out_address)
{
    const struct pci_bar *entry = &function->bar[bar];
    const uint32_t command = config_load(function->config, PCI_COMMAND, 2);
    uint64_t address = config_load(function->config, PCI_BAR0 + 4 * bar, 4);

    if (entry->kind == PCI_BAR_MEMORY64) {
        address |= (uint64_t)config_load(function->config, PCI_BAR0 + 4 * bar + 4, 4) << 32;
    }
    address &= ~(entry->size - 1);
    *out_address = address;
    if (entry->kind == PCI_BAR_IO) {
        return (command & PCI_COMMAND_IO) != 0 && address != 0 && address + entry->size <= 0x10000;
    }
    return (command & PCI_COMMAND_MEMORY) != 0 && address != 0;
}

/* Makes the bus follow the registers. Returns the BARs that changed, one bit each. Lock held. */
static unsigned bars_update(struct pci_function *function)
{
    unsigned changed = 0;

    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        struct pci_bar *entry = &function->bar[i];
        if (!entry->is_used) {
            continue;
        }
        uint64_t address;
        bool is_wanted = bar_wanted(function, i, &address);
        if (is_wanted == entry->is_mapped && (!is_wanted || address == entry->address)) {
            continue;
        }
        if (is_wanted) {
            bus_region_move(entry->region, address);
        } else {
            bus_region_set_enabled(entry->region, false);
        }
        entry->is_mapped = is_wanted;
        entry->address = address;
        changed |= 1u << i;
    }
    return changed;
}

bool pci_function_bar_address(struct pci_function *function, unsigned bar, uint64_t *out_address)
{
    if (bar >= PCI_BAR_COUNT) {
        return false;
    }
    pthread_mutex_lock(&function->lock);
    const struct pci_bar *entry = &function->bar[bar];
    bool is_mapped = entry->is_used && entry->is_mapped;
    if (is_mapped) {
        *out_address = entry->address;
    }
    pthread_mutex_unlock(&function->lock);
    return is_mapped;
}

int pci_function_add_capability(struct pci_function *function, uint8_t id, const void *data,
                                const void *write_mask, uint8_t size, uint8_t *out_offset,
                                struct error *err)
{
    const unsigned offset = function->next_capability;
    invariant(size >= 2);
    if (offset + size > PCI_CONFIG_SIZE) {
        return error_set(err, ENOSPC, "adding a capability to %s: configuration space is full",
                         function->name);
    }
    const uint8_t *bytes = data;
    const uint8_t *masks = write_mask;
    for (unsigned i = 2; i < size; i++) {
        config_define(function, offset + i, 1, bytes[i], masks != NULL ? masks[i] : 0);
    }
    config_define(function, offset, 1, id, 0);
    config_define(function, offset + 1, 1, 0, 0);
    unsigned link =
        function->last_capability != 0 ? function->last_capability + 1u : PCI_CAPABILITIES;
    config_define(function, link, 1, offset, 0);
    config_define(function, PCI_STATUS, 1, PCI_STATUS_CAPABILITIES, 0);
    function->last_capability = (uint8_t)offset;
    function->next_capability = (uint8_t)MIN(align_up(offset + size, 4), 0xfcu);
    if (out_offset != NULL) {
        *out_offset = (uint8_t)offset;
    }
    return 0;
}

uint32_t pci_function_config_get(struct pci_function *function, uint32_t offset, unsigned size)
{
    if (size > 4 || offset > PCI_CONFIG_SIZE - size) {
        return 0;
    }
    pthread_mutex_lock(&function->lock);
    uint32_t value = config_load(function->config, offset, size);
    pthread_mutex_unlock(&function->lock);
    return value;
}

void pci_function_config_set(struct pci_function *function, uint32_t offset, unsigned size,
                             uint32_t value, uint32_t write_mask)
{
    invariant(size <= 4 && offset <= PCI_CONFIG_SIZE - size);
    pthread_mutex_lock(&function->lock);
    config_define(function, offset, size, value, write_mask);
    pthread_mutex_unlock(&function->lock);
}

void pci_function_set_intx(struct pci_function *function, bool level)
{
    pthread_mutex_lock(&function->lock);
    function->intx_level = level;
    intx_apply(function);
    pthread_mutex_unlock(&function->lock);
}

bool pci_function_is_master(struct pci_function *function)
{
    return (pci_function_config_get(function, PCI_COMMAND, 2) & PCI_COMMAND_MASTER) != 0;
}

uint32_t pci_function_config_read(struct pci_function *function, uint32_t vcpu, uint32_t offset,
                                  unsigned size)
{
    uint32_t value;

    if (function->ops != NULL && function->ops->config_read != NULL &&
        function->ops->config_read(function->ctx, vcpu, offset, size, &value)) {
        return value;
    }
    return pci_function_config_get(function, offset, size);
}

static void tell_bars(struct pci_function *function, unsigned changed)
{
    if (function->ops == NULL || function->ops->bar_changed == NULL) {
        return;
    }
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if ((changed & (1u << i)) != 0) {
            function->ops->bar_changed(function->ctx, i);
        }
    }
}

static void tell_msix(struct pci_function *function)
{
    if (function->msix_capability != 0) {
        msix_flush(function);
        if (function->ops != NULL && function->ops->msix_changed != NULL) {
            function->ops->msix_changed(function->ctx);
        }
    }
}

static bool touches(uint32_t offset, unsigned size, uint32_t start, uint32_t length)
{
    return offset < start + length && start < offset + size;
}

void pci_function_config_write(struct pci_function *function, uint32_t vcpu, uint32_t offset,
                               unsigned size, uint32_t value)
{
    unsigned changed = 0;

    pthread_mutex_lock(&function->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = function->write_mask[offset + i];
        uint8_t byte = (uint8_t)(value >> (i * 8));
        function->config[offset + i] =
            (uint8_t)((function->config[offset + i] & ~mask) | (byte & mask));
    }
    if (touches(offset, size, PCI_COMMAND, 2) ||
        touches(offset, size, PCI_BAR0, 4 * PCI_BAR_COUNT)) {
        changed = bars_update(function);
        intx_apply(function);
    }
    bool is_msix =
        function->msix_capability != 0 && touches(offset, size, function->msix_capability + 2u, 2);
    pthread_mutex_unlock(&function->lock);

    tell_bars(function, changed);
    if (is_msix) {
        tell_msix(function);
    }
    if (function->ops != NULL && function->ops->config_written != NULL) {
        function->ops->config_written(function->ctx, vcpu, offset, size);
    }
}

void pci_function_reset(struct pci_function *function)
{
    pthread_mutex_lock(&function->lock);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t mask = function->write_mask[i];
        function->config[i] =
            (uint8_t)((function->config[i] & ~mask) | (function->initial[i] & mask));
    }
    unsigned changed = bars_update(function);
    msix_reset(function);
    function->intx_level = false;
    intx_apply(function);
    pthread_mutex_unlock(&function->lock);
    tell_bars(function, changed);
    tell_msix(function);
}

void pci_function_save(struct pci_function *function, struct archive_writer *writer)
{
    pthread_mutex_lock(&function->lock);
    archive_put_u8(writer, (uint8_t)function->device_number);
    archive_put(writer, function->config, PCI_CONFIG_SIZE);
    archive_put_bool(writer, function->intx_level);
    msix_save(function, writer);
    pthread_mutex_unlock(&function->lock);
}

/* To the slot that it was saved in, where who has come before it may stand now: the two change places. */
static int move_to_slot(struct pci_function *function, unsigned number, struct error *err)
{
    struct pci_bus *bus = function->bus;
    unsigned from = function->device_number;
    if (number == from) {
        return 0;
    }
    struct pci_function *other = number < PCI_MAX_DEVICES ? bus->function[number] : NULL;
    if (from == 0 || number == 0 || number >= PCI_MAX_DEVICES ||
        (other != NULL && other->is_restored)) {
        return error_set(err, EINVAL, "%s: saved in PCI slot %u, which another device has",
                         function->name, number);
    }
    bus->function[from] = other;
    bus->function[number] = function;
    function->device_number = number;
    if (other != NULL) {
        other->device_number = from;
    }
    return 0;
}

int pci_function_restore(struct pci_function *function, struct archive_reader *reader,
                         struct error *err)
{
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t number = archive_get_u8(reader);
    archive_get(reader, config, sizeof(config));
    bool intx_level = archive_get_bool(reader);
    if (reader->status < 0) {
        return error_set(err, EBADMSG, "%s: the PCI state is cut short", function->name);
    }
    if (memcmp(config, function->config, 4) != 0) { /* vendor and device */
        return error_set(err, EINVAL, "%s: the saved PCI function is another one", function->name);
    }
    int rc = move_to_slot(function, number, err);
    if (rc < 0) {
        return rc;
    }
    function->is_restored = true;
    pthread_mutex_lock(&function->lock);
    /* Only what the guest could have written: the rest is what this program offers. */
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t mask = function->write_mask[i];
        function->config[i] = (uint8_t)((function->config[i] & ~mask) | (config[i] & mask));
    }
    unsigned changed = bars_update(function);
    function->intx_level = intx_level;
    intx_apply(function);
    rc = msix_restore(function, reader, err);
    pthread_mutex_unlock(&function->lock);
    tell_bars(function, changed);
    if (rc == 0) {
        tell_msix(function);
    }
    return rc;
}
