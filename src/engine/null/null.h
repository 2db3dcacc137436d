/* The engine of tests: vCPUs that follow a script instead of code. With "irqchip" in the options a VM claims an interrupt
 * controller of its own, with ioeventfd and irqfd, and records what it is told. */
#ifndef ENGINE_NULL_NULL_H
#define ENGINE_NULL_NULL_H

#include "engine/engine.h"

#define NULL_MAX_MESSAGES 64

extern const struct engine_ops null_engine_ops;

/* One access of a script. A read leaves its result in 'value'. */
struct null_access {
    bool is_write;
    bool is_pio;
    unsigned size;
    uint64_t address;
    uint64_t value;
};

/* The vCPU's next runs make these accesses in order; at the end vcpu_run returns 'end', or waits for a kick if that is
 * VCPU_EXIT_KICKED. The list is borrowed until then. Not while the vCPU runs. */
void null_vcpu_script(struct vcpu *vcpu, struct null_access *list, size_t count,
                      enum vcpu_exit end);
/* How often 'signal' was raised, and the last value with it. Any thread. */
uint32_t null_vcpu_signals(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t *out_value);

/* What an irqchip of this engine was told: the level of a line, and the messages so far (at most NULL_MAX_MESSAGES). */
bool null_vm_line(struct vm *vm, uint32_t gsi);
size_t null_vm_messages(struct vm *vm, uint64_t out_address[NULL_MAX_MESSAGES],
                        uint32_t out_data[NULL_MAX_MESSAGES]);

#endif
