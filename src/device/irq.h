/* Interrupts from the device's side: a line to pull, a message to send, a doorbell to short-cut. The board fills them in. */
#ifndef DEVICE_IRQ_H
#define DEVICE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"

/* One input of an interrupt controller. Copied by value. Any thread. */
struct irq_line {
    void (*set)(void *ctx, uint32_t line, bool level);
    void *ctx;
    uint32_t line;
};

static inline void irq_line_set(const struct irq_line *irq, bool level)
{
    if (irq->set != 0) {
        irq->set(irq->ctx, irq->line, level);
    }
}

/* Where message-signalled interrupts go. Any thread; takes no device lock. */
struct msi_sink {
    void (*send)(void *ctx, uint64_t address, uint32_t data);
    void *ctx;
};

/* Lets the engine turn a guest's write at 'gpa' into a signal of 'fd' (KVM's ioeventfd). attach returns -EOPNOTSUPP where
 * the engine cannot: the write then comes through the bus, and the device signals its notifier itself. */
struct doorbell {
    int (*attach)(void *ctx, uint64_t gpa, unsigned size, int fd, bool attach);
    void *ctx;
};

#endif
