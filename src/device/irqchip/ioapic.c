/* The I/O APIC. */
#include "device/irqchip/ioapic.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"

#define WINDOW_SELECT 0x00
#define WINDOW_DATA   0x10

#define REG_ID          0x00
#define REG_VERSION     0x01
#define REG_ARBITRATION 0x02
#define REG_REDIRECTION 0x10

#define IOAPIC_VERSION (0x11u | (IOAPIC_PIN_COUNT - 1) << 16)

/* 63:56 destination, 16 mask, 15 level, 14 remote IRR, 13 low active, 12 pending, 11 logical, 10:8 mode, 7:0 vector */
#define ENTRY_MASKED     BIT(16)
#define ENTRY_LEVEL      BIT(15)
#define ENTRY_REMOTE_IRR BIT(14)
#define ENTRY_WRITABLE   (BITS(63, 56) | ENTRY_MASKED | ENTRY_LEVEL | BIT(13) | BIT(11) | 0x7ffull)

struct ioapic {
    pthread_mutex_t lock;
    void (*deliver)(void *ctx, const struct apic_message *message);
    void *ctx;
    uint32_t select;
    uint32_t id;
    uint32_t level; /* of each input */
    uint64_t entry[IOAPIC_PIN_COUNT];
};

int ioapic_create(void (*deliver)(void *ctx, const struct apic_message *message), void *ctx,
                  struct ioapic **out_ioapic, struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
    if (ioapic == NULL) {
        return error_set(err, ENOMEM, "allocating the IOAPIC");
    }
    pthread_mutex_init(&ioapic->lock, NULL);
    ioapic->deliver = deliver;
    ioapic->ctx = ctx;
    ioapic_reset(ioapic);
    *out_ioapic = ioapic;
    return 0;
}

void ioapic_destroy(struct ioapic *ioapic)
{
    if (ioapic == NULL) {
        return;
    }
    pthread_mutex_destroy(&ioapic->lock);
    free(ioapic);
}

void ioapic_reset(struct ioapic *ioapic)
{
    pthread_mutex_lock(&ioapic->lock);
    ioapic->select = 0;
    ioapic->id = 0;
    ioapic->level = 0;
    for (unsigned i = 0; i < IOAPIC_PIN_COUNT; i++) {
        ioapic->entry[i] = ENTRY_MASKED;
    }
    pthread_mutex_unlock(&ioapic->lock);
}

static void send(struct ioapic *ioapic, unsigned pin)
{
    const uint64_t entry = ioapic->entry[pin];
    const struct apic_message message = {
        .destination = (uint32_t)(entry >> 56),
        .is_logical = (entry & BIT(11)) != 0,
        .delivery = (enum apic_delivery)((entry >> 8) & 7),
        .vector = (uint8_t)entry,
        .is_level = (entry & ENTRY_LEVEL) != 0,
    };
    ioapic->deliver(ioapic->ctx, &message);
}

/* A level-triggered input that is asserted and not in service goes out. Lock held. */
static void service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->entry[pin];

    if ((*entry & (ENTRY_LEVEL | ENTRY_MASKED | ENTRY_REMOTE_IRR)) == ENTRY_LEVEL &&
        (ioapic->level & (1u << pin)) != 0) {
        *entry |= ENTRY_REMOTE_IRR;
        send(ioapic, pin);
    }
}

void ioapic_set_pin(struct ioapic *ioapic, uint32_t pin, bool level)
{
    if (pin >= IOAPIC_PIN_COUNT) {
        return;
    }
    pthread_mutex_lock(&ioapic->lock);
    const uint32_t bit = 1u << pin;
    const bool was_high = (ioapic->level & bit) != 0;
    ioapic->level = level ? ioapic->level | bit : ioapic->level & ~bit;
    if ((ioapic->entry[pin] & ENTRY_LEVEL) != 0) {
        service_level(ioapic, pin);
    } else if (level && !was_high && (ioapic->entry[pin] & ENTRY_MASKED) == 0) {
        send(ioapic, pin);
    }
    pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector)
{
    pthread_mutex_lock(&ioapic->lock);
    for (unsigned pin = 0; pin < IOAPIC_PIN_COUNT; pin++) {
        uint64_t *entry = &ioapic->entry[pin];
        if ((uint8_t)*entry == vector && (*entry & ENTRY_REMOTE_IRR) != 0) {
            *entry &= ~ENTRY_REMOTE_IRR;
            service_level(ioapic, pin);
        }
    }
    pthread_mutex_unlock(&ioapic->lock);
}

static uint32_t register_read(const struct ioapic *ioapic)
{
    const uint32_t reg = ioapic->select;

    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return ioapic->id << 24;
    case REG_VERSION:
        return IOAPIC_VERSION;
    default:
        if (reg < REG_REDIRECTION || reg >= REG_REDIRECTION + 2 * IOAPIC_PIN_COUNT) {
            return ~0u;
        }
        uint64_t entry = ioapic->entry[(reg - REG_REDIRECTION) / 2];
        return (uint32_t)(reg % 2 != 0 ? entry >> 32 : entry);
    }
}

static void register_write(struct ioapic *ioapic, uint32_t value)
{
    const uint32_t reg = ioapic->select;

    if (reg == REG_ID) {
        ioapic->id = (value >> 24) & 0xf;
    } else if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * IOAPIC_PIN_COUNT) {
        unsigned pin = (reg - REG_REDIRECTION) / 2;
        uint64_t *entry = &ioapic->entry[pin];
        uint64_t wanted = reg % 2 != 0 ? (*entry & UINT32_MAX) | (uint64_t)value << 32
                                       : (*entry & ~(uint64_t)UINT32_MAX) | value;
        *entry = (*entry & ~ENTRY_WRITABLE) | (wanted & ENTRY_WRITABLE);
        if ((*entry & ENTRY_LEVEL) == 0) {
            /* How software clears a stuck remote IRR on this version: to edge and back. */
            *entry &= ~ENTRY_REMOTE_IRR;
        }
        service_level(ioapic, pin);
    }
}

static uint64_t region_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = ctx;
    uint32_t value = ~0u;

    pthread_mutex_lock(&ioapic->lock);
    if (offset == WINDOW_SELECT) {
        value = ioapic->select;
    } else if (offset == WINDOW_DATA) {
        value = register_read(ioapic);
    }
    pthread_mutex_unlock(&ioapic->lock);
    return value;
}

static void region_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = ctx;

    pthread_mutex_lock(&ioapic->lock);
    if (offset == WINDOW_SELECT) {
        ioapic->select = value & 0xff;
    } else if (offset == WINDOW_DATA && size >= 4) {
        register_write(ioapic, (uint32_t)value);
    }
    pthread_mutex_unlock(&ioapic->lock);
}

const struct bus_region_ops ioapic_region_ops = {.read = region_read, .write = region_write};

void ioapic_save(struct ioapic *ioapic, struct x86_ioapic_state *out_state)
{
    pthread_mutex_lock(&ioapic->lock);
    memset(out_state, 0, sizeof(*out_state));
    out_state->base_gpa = IOAPIC_DEFAULT_GPA;
    out_state->select = ioapic->select;
    out_state->id = ioapic->id;
    out_state->irr = ioapic->level;
    memcpy(out_state->redirection, ioapic->entry, sizeof(ioapic->entry));
    pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_restore(struct ioapic *ioapic, const struct x86_ioapic_state *state)
{
    pthread_mutex_lock(&ioapic->lock);
    ioapic->select = state->select & 0xff;
    ioapic->id = state->id & 0xf;
    ioapic->level = state->irr & (uint32_t)BITS(IOAPIC_PIN_COUNT - 1, 0);
    for (unsigned i = 0; i < IOAPIC_PIN_COUNT; i++) {
        uint64_t entry = state->redirection[i] & (ENTRY_WRITABLE | ENTRY_REMOTE_IRR);
        ioapic->entry[i] = (entry & ENTRY_LEVEL) != 0 ? entry : entry & ~ENTRY_REMOTE_IRR;
    }
    pthread_mutex_unlock(&ioapic->lock);
}
