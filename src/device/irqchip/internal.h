/* Shared by the files of the local APIC. */
#ifndef DEVICE_IRQCHIP_INTERNAL_H
#define DEVICE_IRQCHIP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/irqchip/lapic.h"

/* Registers by their number: offset / 16, which is also the MSR's minus 0x800. */
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_THERMAL = 0x33,
    REG_LVT_PERFORMANCE = 0x34,
    REG_LVT_LINT0 = 0x35,
    REG_LVT_LINT1 = 0x36,
    REG_LVT_ERROR = 0x37,
    REG_TIMER_INITIAL = 0x38,
    REG_TIMER_CURRENT = 0x39,
    REG_TIMER_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
    REG_COUNT = 0x40,
};

#define LAPIC_VERSION   0x00050014u /* 6 LVT entries, no directed EOI */
#define SVR_ENABLED     0x100u
#define LVT_MASKED      0x10000u
#define TIMER_PERIODIC  1u
#define TIMER_DEADLINE  2u
#define ESR_SEND_VECTOR 0x20u
#define ESR_RECV_VECTOR 0x40u
#define ESR_REGISTER    0x80u

struct lapic {
    struct lapic_set *set;
    uint32_t index;
    _Atomic uint64_t base;
    _Atomic uint32_t reg[REG_COUNT]; /* ISR, TMR and IRR are 8 registers each */
    _Atomic uint32_t errors;         /* found since ESR was last written */

    pthread_mutex_t timer_lock;
    uint64_t timer_deadline_ns; /* UINT64_MAX: not armed */
    uint64_t timer_period_ns;
    uint64_t timer_tsc_deadline; /* 0: none */
};

struct lapic_set {
    struct lapic_host host;
    uint32_t count;
    atomic_uint next_lowest; /* where the search for the lowest priority begins */
    struct lapic lapic[];
};

static inline uint32_t reg_get(const struct lapic *lapic, unsigned reg)
{
    return atomic_load_explicit(&lapic->reg[reg], memory_order_relaxed);
}

static inline void reg_set(struct lapic *lapic, unsigned reg, uint32_t value)
{
    atomic_store_explicit(&lapic->reg[reg], value, memory_order_relaxed);
}

static inline bool lapic_is_on(const struct lapic *lapic)
{
    return (atomic_load_explicit(&lapic->base, memory_order_relaxed) & X86_APIC_BASE_ENABLE) != 0;
}

static inline bool lapic_is_x2(const struct lapic *lapic)
{
    return (atomic_load_explicit(&lapic->base, memory_order_relaxed) & X86_APIC_BASE_X2APIC) != 0;
}

/* Processor priority: the higher class of task priority and what is in service. */
uint32_t lapic_ppr(const struct lapic *lapic);
/* Accepts a fixed interrupt. */
void lapic_accept(struct lapic *lapic, uint8_t vector, bool is_level);
void lapic_error(struct lapic *lapic, uint32_t bit);
/* A local source (timer, error): by its LVT entry. */
void lapic_local(struct lapic *lapic, unsigned lvt_reg);
void lapic_send_ipi(struct lapic *lapic, uint32_t icr, uint32_t destination);

void timer_start_count(struct lapic *lapic, uint32_t count);
uint32_t timer_current_count(struct lapic *lapic);
void timer_set_tsc_deadline(struct lapic *lapic, uint64_t tsc);
uint64_t timer_get_tsc_deadline(struct lapic *lapic);
void timer_stop(struct lapic *lapic);
/* The divide register changes, maybe while a count runs. */
void timer_set_divide(struct lapic *lapic, uint32_t divide);
void timer_restore(struct lapic *lapic, uint32_t current_count, uint64_t tsc_deadline);

#endif
