/* The I/O APIC of a machine whose engine has none: 24 inputs (82093AA data sheet; version 0x11, so the end of a
 * level-triggered interrupt comes by broadcast).
 *
 * Threads: any; a lock of its own, the last one before the local APICs. */
#ifndef DEVICE_IRQCHIP_IOAPIC_H
#define DEVICE_IRQCHIP_IOAPIC_H

#include "base/core/error.h"
#include "device/bus.h"
#include "device/irqchip/lapic.h"

#define IOAPIC_PIN_COUNT   24
#define IOAPIC_DEFAULT_GPA 0xfec00000u
#define IOAPIC_SIZE        0x1000u

struct ioapic;

/* 'deliver' gets the messages; called with the IOAPIC's lock held. */
int must_check ioapic_create(void (*deliver)(void *ctx, const struct apic_message *message),
                             void *ctx, struct ioapic **out_ioapic, struct error *err);
void ioapic_destroy(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);

/* The registers, for a region of IOAPIC_SIZE with the IOAPIC as its ctx. */
extern const struct bus_region_ops ioapic_region_ops;

/* Input 'pin' to 'level' (true: asserted, whatever its polarity). */
void ioapic_set_pin(struct ioapic *ioapic, uint32_t pin, bool level);
/* A local APIC completed level-triggered 'vector'. */
void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector);

void ioapic_save(struct ioapic *ioapic, struct x86_ioapic_state *out_state);
/* Takes only the bits that a guest could have written. */
void ioapic_restore(struct ioapic *ioapic, const struct x86_ioapic_state *state);

#endif
