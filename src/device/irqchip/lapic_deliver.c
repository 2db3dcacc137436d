/* Interrupts on their way to local APICs: who is meant, IPIs, messages, acceptance into IRR (Intel SDM 3A 10.6, 10.8, 10.11). */
#include "device/irqchip/internal.h"

#define BROADCAST_NARROW 0xffu
#define BROADCAST_WIDE   0xffffffffu

static bool is_meant(const struct lapic *lapic, const struct apic_message *message)
{
    uint32_t destination = message->destination;

    if (!lapic_is_on(lapic)) {
        return false;
    }
    if (destination == (message->is_wide ? BROADCAST_WIDE : BROADCAST_NARROW)) {
        return true;
    }
    if (lapic_is_x2(lapic)) {
        if (!message->is_logical) {
            return destination == lapic->index;
        }
        uint32_t ldr = reg_get(lapic, REG_LDR);
        return destination >> 16 == ldr >> 16 && (destination & ldr & 0xffff) != 0;
    }
    if (!message->is_logical) {
        return destination == reg_get(lapic, REG_ID) >> 24;
    }
    uint32_t ldr = reg_get(lapic, REG_LDR) >> 24;
    if (reg_get(lapic, REG_DFR) >> 28 == 0xf) { /* flat */
        return (destination & ldr) != 0;
    }
    return (destination >> 4) == (ldr >> 4) && (destination & ldr & 0xf) != 0; /* cluster */
}

void lapic_accept(struct lapic *lapic, uint8_t vector, bool is_level)
{
    const struct lapic_host *host = &lapic->set->host;
    const uint32_t bit = 1u << (vector % 32);

    if ((reg_get(lapic, REG_SVR) & SVR_ENABLED) == 0) {
        return;
    }
    if (vector < 16) {
        lapic_error(lapic, ESR_RECV_VECTOR);
        return;
    }
    /* The trigger mode must stand before the interrupt can be seen. */
    if (is_level) {
        atomic_fetch_or(&lapic->reg[REG_TMR + vector / 32], bit);
    } else {
        atomic_fetch_and(&lapic->reg[REG_TMR + vector / 32], ~bit);
    }
    atomic_fetch_or(&lapic->reg[REG_IRR + vector / 32], bit);
    host->signal(host->ctx, lapic->index, VCPU_SIGNAL_INTERRUPT, 0);
}

static void deliver_to(struct lapic *lapic, const struct apic_message *message)
{
    const struct lapic_host *host = &lapic->set->host;

    switch (message->delivery) {
    case APIC_DELIVER_FIXED:
    case APIC_DELIVER_LOWEST:
        lapic_accept(lapic, message->vector, message->is_level);
        break;
    case APIC_DELIVER_SMI:
        host->signal(host->ctx, lapic->index, VCPU_SIGNAL_SMI, 0);
        break;
    case APIC_DELIVER_NMI:
        host->signal(host->ctx, lapic->index, VCPU_SIGNAL_NMI, 0);
        break;
    case APIC_DELIVER_INIT:
        lapic_reset(lapic->set, lapic->index, true);
        host->signal(host->ctx, lapic->index, VCPU_SIGNAL_INIT, 0);
        break;
    case APIC_DELIVER_SIPI:
        host->signal(host->ctx, lapic->index, VCPU_SIGNAL_SIPI, message->vector);
        break;
    case APIC_DELIVER_EXTINT: /* there is no 8259 to ask for the vector */
        break;
    }
}

/* Of those meant, the one that does the least important work; in turn where several do. */
static void deliver_lowest(struct lapic_set *set, const struct apic_message *message)
{
    struct lapic *best = NULL;
    uint32_t best_class = 0;
    uint32_t start = atomic_fetch_add(&set->next_lowest, 1) % set->count;

    for (uint32_t i = 0; i < set->count; i++) {
        struct lapic *lapic = &set->lapic[(start + i) % set->count];
        if (!is_meant(lapic, message) || (reg_get(lapic, REG_SVR) & SVR_ENABLED) == 0) {
            continue;
        }
        uint32_t class = lapic_ppr(lapic) >> 4;
        if (best == NULL || class < best_class) {
            best = lapic;
            best_class = class;
        }
    }
    if (best != NULL) {
        deliver_to(best, message);
    }
}

void lapic_deliver(struct lapic_set *set, const struct apic_message *message)
{
    if (message->delivery == APIC_DELIVER_LOWEST) {
        deliver_lowest(set, message);
        return;
    }
    for (uint32_t i = 0; i < set->count; i++) {
        if (is_meant(&set->lapic[i], message)) {
            deliver_to(&set->lapic[i], message);
        }
    }
}

bool lapic_send(struct lapic_set *set, uint32_t target, uint32_t icr)
{
    if (target >= set->count || !lapic_is_on(&set->lapic[target])) {
        return false;
    }
    const struct apic_message message = {
        .delivery = (enum apic_delivery)((icr >> 8) & 7),
        .vector = (uint8_t)icr,
    };
    deliver_to(&set->lapic[target], &message);
    return true;
}

void lapic_send_msi(struct lapic_set *set, uint64_t address, uint32_t data)
{
    if (address >> 20 != 0xfee) {
        return;
    }
    /* address: 31:20 0xfee, 19:12 destination, 3 redirection hint, 2 logical
     * data: 15 trigger, 14 level, 10:8 delivery mode, 7:0 vector */
    const struct apic_message message = {
        .destination = (address >> 12) & 0xff,
        .is_logical = (address & 4) != 0,
        .delivery = (enum apic_delivery)((data >> 8) & 7),
        .vector = (uint8_t)data,
        .is_level = (data & 0x8000) != 0,
    };
    lapic_deliver(set, &message);
}

void lapic_send_ipi(struct lapic *lapic, uint32_t icr, uint32_t destination)
{
    struct lapic_set *set = lapic->set;
    const bool is_x2 = lapic_is_x2(lapic);
    const uint32_t shorthand = (icr >> 18) & 3; /* 0 none, 1 self, 2 all, 3 all others */
    const struct apic_message message = {
        .destination = is_x2 ? destination : destination >> 24,
        .is_wide = is_x2,
        .is_logical = (icr & 0x800) != 0,
        .delivery = (enum apic_delivery)((icr >> 8) & 7),
        .vector = (uint8_t)icr,
    };

    /* INIT with level 0 and trigger "level" only sets arbitration IDs on old processors. */
    if (message.delivery == APIC_DELIVER_INIT && (icr & 0xc000) == 0x8000) {
        return;
    }
    if (message.vector < 16 && message.delivery <= APIC_DELIVER_LOWEST) {
        lapic_error(lapic, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand == 0) {
        lapic_deliver(set, &message);
    } else if (shorthand == 1) {
        if (message.delivery == APIC_DELIVER_FIXED || message.delivery == APIC_DELIVER_NMI) {
            deliver_to(lapic, &message); /* the others are not defined for self */
        }
    } else {
        for (uint32_t i = 0; i < set->count; i++) {
            bool is_self = &set->lapic[i] == lapic;
            if (lapic_is_on(&set->lapic[i]) && !(is_self && shorthand == 3)) {
                deliver_to(&set->lapic[i], &message);
            }
        }
    }
}

void lapic_error(struct lapic *lapic, uint32_t bit)
{
    atomic_fetch_or(&lapic->errors, bit);
    /* An error interrupt whose own vector is an error must not come back here for ever. */
    if ((reg_get(lapic, REG_LVT_ERROR) & 0xff) >= 16) {
        lapic_local(lapic, REG_LVT_ERROR);
    }
}

/* Timer and error entries have no delivery mode: they are fixed. */
void lapic_local(struct lapic *lapic, unsigned lvt_reg)
{
    uint32_t entry = reg_get(lapic, lvt_reg);

    if ((entry & LVT_MASKED) == 0 && lapic_is_on(lapic)) {
        lapic_accept(lapic, (uint8_t)entry, false);
    }
}
