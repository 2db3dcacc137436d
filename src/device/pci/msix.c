/* MSI-X: the table and the pending bits of a function (PCI Local Bus 3.0, section 6.8.2). */
#include <string.h>

#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "device/pci/internal.h"

static uint16_t msix_control(const struct pci_function *function)
{
    return le16_get(&function->config[function->msix_capability + 2]);
}

static bool is_enabled(const struct pci_function *function)
{
    return function->msix_capability != 0 && (msix_control(function) & MSIX_CONTROL_ENABLE) != 0;
}

static bool is_masked(const struct pci_function *function, unsigned vector)
{
    return (msix_control(function) & MSIX_CONTROL_MASKALL) != 0 ||
           (function->msix[vector].control & MSIX_VECTOR_MASKED) != 0;
}

bool msix_take_pending(struct pci_function *function, uint64_t *out_address, uint32_t *out_data)
{
    if (!is_enabled(function)) {
        return false;
    }
    for (uint64_t rest = function->msix_pending; rest != 0; rest &= rest - 1) {
        unsigned vector = (unsigned)__builtin_ctzll(rest);
        if (!is_masked(function, vector)) {
            function->msix_pending &= ~(1ull << vector);
            *out_address = function->msix[vector].address;
            *out_data = function->msix[vector].data;
            return true;
        }
    }
    return false;
}

void msix_flush(struct pci_function *function)
{
    const struct msi_sink *sink = &function->bus->config.msi;

    for (;;) {
        uint64_t address;
        uint32_t data;
        pthread_mutex_lock(&function->lock);
        bool has_one = msix_take_pending(function, &address, &data);
        pthread_mutex_unlock(&function->lock);
        if (!has_one) {
            return;
        }
        sink->send(sink->ctx, address, data);
    }
}

static uint64_t msix_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct pci_function *function = ctx;
    uint64_t value = 0;

    if ((size != 4 && size != 8) || offset % size != 0) {
        return ~0ull;
    }
    pthread_mutex_lock(&function->lock);
    if (offset < function->msix_count * 16u) {
        const struct msix_vector *vector = &function->msix[offset / 16];
        uint8_t bytes[16];
        le64_put(bytes, vector->address);
        le32_put(bytes + 8, vector->data);
        le32_put(bytes + 12, vector->control);
        memcpy(&value, bytes + offset % 16, size);
    } else if (offset >= MSIX_PENDING_OFFSET && offset < MSIX_PENDING_OFFSET + 8) {
        value = function->msix_pending >> ((offset - MSIX_PENDING_OFFSET) * 8);
    }
    pthread_mutex_unlock(&function->lock);
    return value;
}

static void msix_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_function *function = ctx;

    if ((size != 4 && size != 8) || offset % size != 0 || offset >= function->msix_count * 16u) {
        return;
    }
    pthread_mutex_lock(&function->lock);
    struct msix_vector *vector = &function->msix[offset / 16];
    uint8_t bytes[16];
    le64_put(bytes, vector->address);
    le32_put(bytes + 8, vector->data);
    le32_put(bytes + 12, vector->control);
    memcpy(bytes + offset % 16, &value, size);
    vector->address = le64_get(bytes) & ~3ull;
    vector->data = le32_get(bytes + 8);
    bool was_masked = (vector->control & MSIX_VECTOR_MASKED) != 0;
    vector->control = le32_get(bytes + 12) & MSIX_VECTOR_MASKED;
    bool is_now_masked = vector->control != 0;
    pthread_mutex_unlock(&function->lock);

    if (was_masked != is_now_masked) {
        msix_flush(function);
        if (function->ops != NULL && function->ops->msix_changed != NULL) {
            function->ops->msix_changed(function->ctx);
        }
    }
}

static const struct bus_region_ops msix_region_ops = {.read = msix_read, .write = msix_write};

int pci_function_add_msix(struct pci_function *function, unsigned bar, uint16_t vector_count,
                          struct error *err)
{
    invariant(vector_count >= 1 && vector_count <= PCI_MSIX_MAX && function->msix_capability == 0);
    int rc = pci_function_add_bar(function, bar, PCI_BAR_MEMORY32, false, MSIX_BAR_SIZE,
                                  &msix_region_ops, function, err);
    if (rc < 0) {
        return rc;
    }
    uint8_t body[12] = {0};
    uint8_t mask[12] = {0};
    le16_put(body + 2, (uint16_t)(vector_count - 1));
    le16_put(mask + 2, MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASKALL);
    le32_put(body + 4, bar);
    le32_put(body + 8, MSIX_PENDING_OFFSET | bar);
    uint8_t offset;
    rc = pci_function_add_capability(function, PCI_CAPABILITY_MSIX, body, mask, sizeof(body),
                                     &offset, err);
    if (rc < 0) {
        return rc;
    }
    function->msix_capability = offset;
    function->msix_count = vector_count;
    msix_reset(function);
    return 0;
}

void msix_reset(struct pci_function *function)
{
    for (unsigned i = 0; i < PCI_MSIX_MAX; i++) {
        function->msix[i] = (struct msix_vector){.control = MSIX_VECTOR_MASKED};
    }
    function->msix_pending = 0;
}

bool pci_function_msix_enabled(struct pci_function *function)
{
    pthread_mutex_lock(&function->lock);
    bool result = is_enabled(function);
    pthread_mutex_unlock(&function->lock);
    return result;
}

void pci_function_msix_send(struct pci_function *function, uint16_t vector)
{
    const struct msi_sink *sink = &function->bus->config.msi;
    uint64_t address = 0;
    uint32_t data = 0;
    bool is_due = false;

    pthread_mutex_lock(&function->lock);
    if (is_enabled(function) && vector < function->msix_count) {
        if (is_masked(function, vector)) {
            function->msix_pending |= 1ull << vector;
        } else {
            address = function->msix[vector].address;
            data = function->msix[vector].data;
            is_due = true;
        }
    }
    pthread_mutex_unlock(&function->lock);
    if (is_due) {
        sink->send(sink->ctx, address, data);
    }
}

void msix_save(struct pci_function *function, struct archive_writer *writer)
{
    archive_put_u16(writer, function->msix_count);
    for (unsigned i = 0; i < function->msix_count; i++) {
        archive_put_u64(writer, function->msix[i].address);
        archive_put_u32(writer, function->msix[i].data);
        archive_put_u32(writer, function->msix[i].control);
    }
    archive_put_u64(writer, function->msix_pending);
}

int msix_restore(struct pci_function *function, struct archive_reader *reader, struct error *err)
{
    if (archive_get_u16(reader) != function->msix_count) {
        return error_set(err, EINVAL, "%s: the saved MSI-X table has another size", function->name);
    }
    for (unsigned i = 0; i < function->msix_count; i++) {
        function->msix[i].address = archive_get_u64(reader) & ~3ull;
        function->msix[i].data = archive_get_u32(reader);
        function->msix[i].control = archive_get_u32(reader) & MSIX_VECTOR_MASKED;
    }
    uint64_t all = function->msix_count == 64 ? ~0ull : (1ull << function->msix_count) - 1;
    function->msix_pending = archive_get_u64(reader) & all;
    return reader->status < 0
               ? error_set(err, EBADMSG, "%s: the MSI-X state is cut short", function->name)
               : 0;
}
