/* The local APICs of a machine whose engine has none: xAPIC and x2APIC (Intel SDM 3A chapter 10).
 *
 * Threads: interrupts and IPIs come from any thread and take no lock (IRR and TMR are atomic words); a vCPU's own registers
 * are read and written on its own thread (lapic_read .. lapic_set_cr8); the timer has a small lock. lapic_reset, lapic_save
 * and lapic_restore need stopped vCPUs. */
#ifndef DEVICE_IRQCHIP_LAPIC_H
#define DEVICE_IRQCHIP_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "cpu/x86/state.h"
#include "engine/engine.h"

struct lapic_set;

/* What the board does for the APICs. Any thread, without a lock but (maybe) the IOAPIC's and that APIC's timer's. */
struct lapic_host {
    void *ctx;
    /* Something for a vCPU: engine_ops.vcpu_signal. */
    void (*signal)(void *ctx, uint32_t vcpu, enum vcpu_signal signal, uint8_t value);
    /* Nanoseconds of the clock that the timer runs on. */
    uint64_t (*now_ns)(void *ctx);
    /* Calls lapic_timer_expired(vcpu) at 'deadline_ns' of that clock; replaces what was armed; UINT64_MAX: disarms. */
    void (*arm_timer)(void *ctx, uint32_t vcpu, uint64_t deadline_ns);
    uint64_t (*tsc)(void *ctx, uint32_t vcpu);
    uint64_t (*tsc_hz)(void *ctx, uint32_t vcpu);
    /* A level-triggered interrupt was completed: tell the IOAPIC. */
    void (*end_of_interrupt)(void *ctx, uint8_t vector);
};

/* Delivery modes of ICR, redirection entries and messages. */
enum apic_delivery {
    APIC_DELIVER_FIXED = 0,
    APIC_DELIVER_LOWEST = 1,
    APIC_DELIVER_SMI = 2,
    APIC_DELIVER_NMI = 4,
    APIC_DELIVER_INIT = 5,
    APIC_DELIVER_SIPI = 6,
    APIC_DELIVER_EXTINT = 7,
};

struct apic_message {
    uint32_t destination;
    bool is_wide; /* 'destination' is one of 32 bits (x2APIC), else of 8 */
    bool is_logical;
    enum apic_delivery delivery;
    uint8_t vector;
    bool is_level;
};

int must_check lapic_set_create(const struct lapic_host *host, uint32_t count,
                                struct lapic_set **out_set, struct error *err);
void lapic_set_destroy(struct lapic_set *set);

/* After RESET (also the APIC base) or INIT. */
void lapic_reset(struct lapic_set *set, uint32_t vcpu, bool is_init);

/* Does 'gpa' hit this vCPU's memory-mapped registers, and where? */
bool lapic_claims(const struct lapic_set *set, uint32_t vcpu, uint64_t gpa, uint32_t *out_offset);
uint32_t lapic_read(struct lapic_set *set, uint32_t vcpu, uint32_t offset, unsigned size);
void lapic_write(struct lapic_set *set, uint32_t vcpu, uint32_t offset, unsigned size,
                 uint32_t value);

/* As in struct vm_callbacks. */
int lapic_acknowledge(struct lapic_set *set, uint32_t vcpu);
bool lapic_has_interrupt(const struct lapic_set *set, uint32_t vcpu);
bool lapic_msr_read(struct lapic_set *set, uint32_t vcpu, uint32_t msr, uint64_t *out_value);
bool lapic_msr_write(struct lapic_set *set, uint32_t vcpu, uint32_t msr, uint64_t value);
uint8_t lapic_get_cr8(const struct lapic_set *set, uint32_t vcpu);
void lapic_set_cr8(struct lapic_set *set, uint32_t vcpu, uint8_t value);
bool lapic_can_end_late(const struct lapic_set *set, uint32_t vcpu, uint8_t vector);
void lapic_end(struct lapic_set *set, uint32_t vcpu);
bool lapic_send(struct lapic_set *set, uint32_t target, uint32_t icr);

/* Any thread. */
void lapic_deliver(struct lapic_set *set, const struct apic_message *message);
/* A write into the message address range 0xfeexxxxx (SDM 3A 10.11). Others are ignored. */
void lapic_send_msi(struct lapic_set *set, uint64_t address, uint32_t data);
void lapic_timer_expired(struct lapic_set *set, uint32_t vcpu);

/* Fills in and takes 'lapic', 'apic_base', 'tsc_deadline' and 'cr8'. Restore refuses what no APIC can be. */
void lapic_save(struct lapic_set *set, uint32_t vcpu, struct x86_state *out_state);
int must_check lapic_restore(struct lapic_set *set, uint32_t vcpu, const struct x86_state *state,
                             struct error *err);

#endif
