/* How many CPUs and how much memory a VM has, and may have while it runs. */
#ifndef MANAGER_INSTANCE_VM_LIMITS_H
#define MANAGER_INSTANCE_VM_LIMITS_H

#include "manager/instance/vm/vm.h"

struct vm_limits {
    uint32_t cpus, cpus_max;
    uint64_t memory_bytes, memory_max_bytes; /* the difference is one that virtio-mem can make */
};

/* What the configuration says, and what holds where it says nothing. */
int must_check vm_limits_read(const struct vm *vm, struct vm_limits *out_limits, struct error *err);
/* A running VM gets what its configuration says as far as it was made for that, and waits a few seconds for its guest; '*out_waits' is
 * set if something is left for the next start. */
int must_check vm_limits_change(const struct vm *vm, bool *out_waits, struct error *err);

#endif
