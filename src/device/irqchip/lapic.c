/* The local APIC's registers, by memory and by MSR. */
#include "device/irqchip/lapic.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "device/irqchip/internal.h"

#define BASE_MODES     ((uint64_t)(X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC))
#define BASE_PERMITTED (BITS(51, 12) | BASE_MODES | X86_APIC_BASE_BSP)

int lapic_set_create(const struct lapic_host *host, uint32_t count, struct lapic_set **out_set,
                     struct error *err)
{
    struct lapic_set *set = calloc(1, sizeof(*set) + count * sizeof(struct lapic));
    if (set == NULL) {
        return error_set(err, ENOMEM, "allocating %u local APICs", count);
    }
    set->host = *host;
    set->count = count;
    for (uint32_t i = 0; i < count; i++) {
        set->lapic[i].set = set;
        set->lapic[i].index = i;
        set->lapic[i].timer_deadline_ns = UINT64_MAX;
        pthread_mutex_init(&set->lapic[i].timer_lock, NULL);
        lapic_reset(set, i, false);
    }
    *out_set = set;
    return 0;
}

void lapic_set_destroy(struct lapic_set *set)
{
    if (set == NULL) {
        return;
    }
    for (uint32_t i = 0; i < set->count; i++) {
        pthread_mutex_destroy(&set->lapic[i].timer_lock);
    }
    free(set);
}

/* ID and LDR follow from the mode (SDM 3A 10.12.10.2). */
static void set_identity(struct lapic *lapic)
{
    if (lapic_is_x2(lapic)) {
        reg_set(lapic, REG_ID, lapic->index);
        reg_set(lapic, REG_LDR, (lapic->index >> 4) << 16 | 1u << (lapic->index & 15));
    } else {
        reg_set(lapic, REG_ID, lapic->index << 24);
    }
}

static void registers_reset(struct lapic *lapic)
{
    timer_stop(lapic);
    for (unsigned i = 0; i < REG_COUNT; i++) {
        reg_set(lapic, i, 0);
    }
    reg_set(lapic, REG_VERSION, LAPIC_VERSION);
    reg_set(lapic, REG_DFR, ~0u);
    reg_set(lapic, REG_SVR, 0xff);
    for (unsigned i = REG_LVT_TIMER; i <= REG_LVT_ERROR; i++) {
        reg_set(lapic, i, LVT_MASKED);
    }
    atomic_store(&lapic->errors, 0);
    set_identity(lapic);
}

void lapic_reset(struct lapic_set *set, uint32_t vcpu, bool is_init)
{
    struct lapic *lapic = &set->lapic[vcpu];

    if (!is_init) {
        uint64_t bsp = vcpu == 0 ? X86_APIC_BASE_BSP : 0;
        atomic_store(&lapic->base, X86_APIC_DEFAULT_GPA | X86_APIC_BASE_ENABLE | bsp);
    }
    registers_reset(lapic);
}

/* The highest vector of a 256-bit set, or -1. */
static int highest(const struct lapic *lapic, unsigned reg)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = atomic_load_explicit(&lapic->reg[reg + (unsigned)i], memory_order_acquire);
        if (word != 0) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

uint32_t lapic_ppr(const struct lapic *lapic)
{
    uint32_t tpr = reg_get(lapic, REG_TPR);
    int in_service = highest(lapic, REG_ISR);
    uint32_t isr_class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

    return (tpr & 0xf0) >= isr_class ? tpr : isr_class;
}

/* The vector that may be delivered now, or -1. */
static int deliverable(const struct lapic *lapic)
{
    int vector = highest(lapic, REG_IRR);

    if (vector < 0 || !lapic_is_on(lapic) ||
        ((uint32_t)vector & 0xf0) <= (lapic_ppr(lapic) & 0xf0)) {
        return -1;
    }
    return vector;
}

bool lapic_has_interrupt(const struct lapic_set *set, uint32_t vcpu)
{
    return deliverable(&set->lapic[vcpu]) >= 0;
}

int lapic_acknowledge(struct lapic_set *set, uint32_t vcpu)
{
    struct lapic *lapic = &set->lapic[vcpu];
    int vector = deliverable(lapic);

    if (vector >= 0) {
        uint32_t bit = 1u << (vector % 32);
        atomic_fetch_and(&lapic->reg[REG_IRR + vector / 32], ~bit);
        atomic_fetch_or(&lapic->reg[REG_ISR + vector / 32], bit);
    }
    return vector;
}

/* Priority fell: there may be one to deliver that had to wait. */
static void priority_fell(struct lapic *lapic)
{
    const struct lapic_host *host = &lapic->set->host;

    if (deliverable(lapic) >= 0) {
        host->signal(host->ctx, lapic->index, VCPU_SIGNAL_INTERRUPT, 0);
    }
}

static void end_of_interrupt(struct lapic *lapic)
{
    const struct lapic_host *host = &lapic->set->host;
    int vector = highest(lapic, REG_ISR);

    if (vector < 0) {
        return;
    }
    uint32_t bit = 1u << (vector % 32);
    atomic_fetch_and(&lapic->reg[REG_ISR + vector / 32], ~bit);
    if ((reg_get(lapic, REG_TMR + (unsigned)vector / 32) & bit) != 0 &&
        host->end_of_interrupt != NULL) {
        host->end_of_interrupt(host->ctx, (uint8_t)vector);
    }
    priority_fell(lapic);
}

/* Edge-triggered ones have no line that somebody might lower after their end, and what else waits in IRR is looked at with
 * every change of IF. */
bool lapic_can_end_late(const struct lapic_set *set, uint32_t vcpu, uint8_t vector)
{
    return (reg_get(&set->lapic[vcpu], REG_TMR + vector / 32u) & 1u << (vector % 32)) == 0;
}

void lapic_end(struct lapic_set *set, uint32_t vcpu)
{
    end_of_interrupt(&set->lapic[vcpu]);
}

uint8_t lapic_get_cr8(const struct lapic_set *set, uint32_t vcpu)
{
    return (uint8_t)(reg_get(&set->lapic[vcpu], REG_TPR) >> 4);
}

void lapic_set_cr8(struct lapic_set *set, uint32_t vcpu, uint8_t value)
{
    struct lapic *lapic = &set->lapic[vcpu];

    reg_set(lapic, REG_TPR, (uint32_t)(value & 0xf) << 4);
    priority_fell(lapic);
}

static void lvt_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    static const uint32_t writable[] = {
        [REG_LVT_TIMER - REG_LVT_TIMER] = 0x700ff,
        [REG_LVT_THERMAL - REG_LVT_TIMER] = 0x107ff,
        [REG_LVT_PERFORMANCE - REG_LVT_TIMER] = 0x107ff,
        [REG_LVT_LINT0 - REG_LVT_TIMER] = 0x1a7ff,
        [REG_LVT_LINT1 - REG_LVT_TIMER] = 0x1a7ff,
        [REG_LVT_ERROR - REG_LVT_TIMER] = 0x100ff,
    };
    value &= writable[reg - REG_LVT_TIMER];
    if ((reg_get(lapic, REG_SVR) & SVR_ENABLED) == 0) {
        value |= LVT_MASKED;
    }
    if (reg == REG_LVT_TIMER) {
        bool was_deadline = ((reg_get(lapic, reg) >> 17) & 3) == TIMER_DEADLINE;
        bool is_deadline = ((value >> 17) & 3) == TIMER_DEADLINE;
        if (was_deadline != is_deadline) {
            timer_stop(lapic);
            reg_set(lapic, REG_TIMER_INITIAL, 0);
        }
    }
    reg_set(lapic, reg, value);
}

static void svr_write(struct lapic *lapic, uint32_t value)
{
    reg_set(lapic, REG_SVR, value & 0x3ff);
    if ((value & SVR_ENABLED) == 0) {
        for (unsigned i = REG_LVT_TIMER; i <= REG_LVT_ERROR; i++) {
            reg_set(lapic, i, reg_get(lapic, i) | LVT_MASKED);
        }
    }
}

/* What both ways of access share. False: there is no such register to write. */
static bool register_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_TPR:
        reg_set(lapic, REG_TPR, value & 0xff);
        priority_fell(lapic);
        return true;
    case REG_EOI:
        end_of_interrupt(lapic);
        return true;
    case REG_SVR:
        svr_write(lapic, value);
        return true;
    case REG_ESR:
        reg_set(lapic, REG_ESR, atomic_exchange(&lapic->errors, 0));
        return true;
    case REG_TIMER_INITIAL:
        timer_start_count(lapic, value);
        return true;
    case REG_TIMER_DIVIDE:
        timer_set_divide(lapic, value & 0xb);
        return true;
    default:
        if (reg < REG_LVT_TIMER || reg > REG_LVT_ERROR) {
            return false;
        }
        lvt_write(lapic, reg, value);
        return true;
    }
}

/* Can it be read? */
static bool is_register(unsigned reg)
{
    switch (reg) {
    case REG_ID:
    case REG_VERSION:
    case REG_TPR:
    case REG_APR:
    case REG_PPR:
    case REG_RRD:
    case REG_LDR:
    case REG_DFR:
    case REG_SVR:
    case REG_ESR:
    case REG_TIMER_INITIAL:
    case REG_TIMER_CURRENT:
    case REG_TIMER_DIVIDE:
        return true;
    default:
        return (reg >= REG_ISR && reg < REG_ESR) || (reg >= REG_ICR && reg <= REG_LVT_ERROR);
    }
}

static uint32_t register_read(struct lapic *lapic, unsigned reg)
{
    switch (reg) {
    case REG_PPR:
        return lapic_ppr(lapic);
    case REG_TIMER_CURRENT:
        return timer_current_count(lapic);
    default:
        return reg_get(lapic, reg);
    }
}

bool lapic_claims(const struct lapic_set *set, uint32_t vcpu, uint64_t gpa, uint32_t *out_offset)
{
    uint64_t base = atomic_load_explicit(&set->lapic[vcpu].base, memory_order_relaxed);

    if ((base & BASE_MODES) != X86_APIC_BASE_ENABLE || (gpa ^ base) >> GUEST_PAGE_SHIFT != 0) {
        return false;
    }
    *out_offset = (uint32_t)(gpa & (GUEST_PAGE_SIZE - 1));
    return true;
}

uint32_t lapic_read(struct lapic_set *set, uint32_t vcpu, uint32_t offset, unsigned size)
{
    struct lapic *lapic = &set->lapic[vcpu];
    unsigned reg = offset / 16;
    /* Only aligned 32-bit reads are defined; parts of the register are what processors answer. */
    unsigned shift = offset % 16 * 8;

    if (reg >= REG_COUNT || !is_register(reg)) {
        lapic_error(lapic, ESR_REGISTER);
        return 0;
    }
    return shift < 32 ? register_read(lapic, reg) >> shift : 0;
}

void lapic_write(struct lapic_set *set, uint32_t vcpu, uint32_t offset, unsigned size,
                 uint32_t value)
{
    struct lapic *lapic = &set->lapic[vcpu];
    unsigned reg = offset / 16;

    if (offset % 16 != 0) {
        return;
    }
    switch (reg) {
    case REG_ID:
    case REG_LDR:
        reg_set(lapic, reg, value & 0xff000000u);
        break;
    case REG_DFR:
        reg_set(lapic, REG_DFR, value | 0x0fffffffu);
        break;
    case REG_ICR:
        reg_set(lapic, REG_ICR, value & 0x000ccfffu);
        lapic_send_ipi(lapic, value, reg_get(lapic, REG_ICR_HIGH));
        break;
    case REG_ICR_HIGH:
        reg_set(lapic, REG_ICR_HIGH, value & 0xff000000u);
        break;
    default:
        if (reg >= REG_COUNT || (!register_write(lapic, reg, value) && !is_register(reg))) {
            lapic_error(lapic, ESR_REGISTER);
        }
        break;
    }
}

/* APIC_BASE: which changes of mode there are (SDM 3A figure 10-27). */
static bool base_write(struct lapic *lapic, uint64_t value)
{
    const uint64_t old_mode = atomic_load(&lapic->base) & BASE_MODES;
    const uint64_t mode = value & BASE_MODES;

    if ((value & ~BASE_PERMITTED) != 0 || mode == X86_APIC_BASE_X2APIC ||
        (mode == BASE_MODES && old_mode == 0) ||
        (mode == X86_APIC_BASE_ENABLE && old_mode == BASE_MODES)) {
        return false;
    }
    atomic_store(&lapic->base, value);
    if (mode != old_mode) {
        if (mode == 0 || old_mode == 0) {
            registers_reset(lapic);
        }
        set_identity(lapic);
    }
    return true;
}

bool lapic_msr_read(struct lapic_set *set, uint32_t vcpu, uint32_t msr, uint64_t *out_value)
{
    struct lapic *lapic = &set->lapic[vcpu];
    unsigned reg = msr - X86_MSR_X2APIC;

    if (msr == X86_MSR_APIC_BASE) {
        *out_value = atomic_load(&lapic->base);
        return true;
    }
    if (msr == X86_MSR_TSC_DEADLINE) {
        *out_value = timer_get_tsc_deadline(lapic);
        return true;
    }
    if (reg >= REG_COUNT || !lapic_is_x2(lapic) || !is_register(reg) || reg == REG_DFR ||
        reg == REG_ICR_HIGH || reg == REG_APR || reg == REG_RRD) {
        return false;
    }
    *out_value = register_read(lapic, reg);
    if (reg == REG_ICR) {
        *out_value |= (uint64_t)reg_get(lapic, REG_ICR_HIGH) << 32;
    }
    return true;
}

/* Bits that must be zero in x2APIC mode raise #GP where xAPIC ignores them (SDM 3A 10.12.1.2). */
static bool x2_is_valid(unsigned reg, uint64_t value)
{
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return value <= 0xff;
    case REG_EOI:
    case REG_ESR:
        return value == 0;
    case REG_SVR:
        return value <= 0x3ff;
    case REG_TIMER_DIVIDE:
        return (value & ~0xbull) == 0;
    case REG_LVT_TIMER:
        return (value & ~0x710ffull) == 0;
    case REG_LVT_THERMAL:
    case REG_LVT_PERFORMANCE:
        return (value & ~0x117ffull) == 0;
    case REG_LVT_LINT0:
    case REG_LVT_LINT1:
        return (value & ~0x1f7ffull) == 0;
    case REG_LVT_ERROR:
        return (value & ~0x110ffull) == 0;
    case REG_ICR:
        return (value & 0xfff32000ull) == 0;
    default:
        return value <= UINT32_MAX;
    }
}

bool lapic_msr_write(struct lapic_set *set, uint32_t vcpu, uint32_t msr, uint64_t value)
{
    struct lapic *lapic = &set->lapic[vcpu];
    unsigned reg = msr - X86_MSR_X2APIC;

    if (msr == X86_MSR_APIC_BASE) {
        return base_write(lapic, value);
    }
    if (msr == X86_MSR_TSC_DEADLINE) {
        timer_set_tsc_deadline(lapic, value);
        return true;
    }
    if (reg >= REG_COUNT || !lapic_is_x2(lapic) || !x2_is_valid(reg, value)) {
        return false;
    }
    if (reg == REG_SELF_IPI) {
        if (value < 16) {
            lapic_error(lapic, ESR_SEND_VECTOR);
        } else {
            lapic_accept(lapic, (uint8_t)value, false);
        }
        return true;
    }
    if (reg == REG_ICR) {
        reg_set(lapic, REG_ICR, (uint32_t)value);
        reg_set(lapic, REG_ICR_HIGH, (uint32_t)(value >> 32));
        lapic_send_ipi(lapic, (uint32_t)value, (uint32_t)(value >> 32));
        return true;
    }
    return register_write(lapic, reg, (uint32_t)value);
}

void lapic_save(struct lapic_set *set, uint32_t vcpu, struct x86_state *out_state)
{
    struct lapic *lapic = &set->lapic[vcpu];

    memset(out_state->lapic, 0, sizeof(out_state->lapic));
    for (unsigned i = 0; i < REG_COUNT; i++) {
        if (is_register(i)) {
            le32_put(&out_state->lapic[i * 16], register_read(lapic, i));
        }
    }
    out_state->apic_base = atomic_load(&lapic->base);
    out_state->tsc_deadline = timer_get_tsc_deadline(lapic);
    out_state->cr8 = lapic_get_cr8(set, vcpu);
}

int lapic_restore(struct lapic_set *set, uint32_t vcpu, const struct x86_state *state,
                  struct error *err)
{
    struct lapic *lapic = &set->lapic[vcpu];

    if ((state->apic_base & ~BASE_PERMITTED) != 0 ||
        (state->apic_base & BASE_MODES) == X86_APIC_BASE_X2APIC) {
        return error_set(err, EINVAL, "vcpu %u: no APIC can have the base register 0x%llx", vcpu,
                         (unsigned long long)state->apic_base);
    }
    timer_stop(lapic);
    atomic_store(&lapic->base, state->apic_base);
    for (unsigned i = 0; i < REG_COUNT; i++) {
        if (is_register(i)) {
            reg_set(lapic, i, le32_get(&state->lapic[i * 16]));
        }
    }
    /* Through the masks that a guest's writes go through. */
    reg_set(lapic, REG_VERSION, LAPIC_VERSION);
    reg_set(lapic, REG_TPR, reg_get(lapic, REG_TPR) & 0xff);
    reg_set(lapic, REG_SVR, reg_get(lapic, REG_SVR) & 0x3ff);
    reg_set(lapic, REG_TIMER_DIVIDE, reg_get(lapic, REG_TIMER_DIVIDE) & 0xb);
    for (unsigned i = REG_LVT_TIMER; i <= REG_LVT_ERROR; i++) {
        lvt_write(lapic, i, le32_get(&state->lapic[i * 16]));
    }
    reg_set(lapic, REG_TIMER_INITIAL, le32_get(&state->lapic[REG_TIMER_INITIAL * 16]));
    for (unsigned i = REG_ISR; i <= REG_IRR; i += 8) {
        reg_set(lapic, i, reg_get(lapic, i) & 0xffff0000u); /* no vector below 16 */
    }
    atomic_store(&lapic->errors, 0);
    if (lapic_is_x2(lapic)) {
        set_identity(lapic);
    }
    timer_restore(lapic, le32_get(&state->lapic[REG_TIMER_CURRENT * 16]), state->tsc_deadline);
    priority_fell(lapic);
    return 0;
}
