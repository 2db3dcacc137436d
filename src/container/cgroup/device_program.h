/* Device rules as a program for the kernel (BPF_PROG_TYPE_CGROUP_DEVICE), assembled by hand. */
#ifndef CONTAINER_CGROUP_DEVICE_PROGRAM_H
#define CONTAINER_CGROUP_DEVICE_PROGRAM_H

#include <linux/bpf.h>

#include "container/spec/spec.h"

/* What each container may use, whatever its rules are: the devices that the specification has it supply, and making nodes. */
extern const struct spec_device_rule device_default_rules[];
extern const size_t device_default_rule_count;

/* The program for rules in their order, which ends with the defaults: for each right (read, write, mknod) that is asked for the last
 * rule that speaks of it decides; none does: no. New memory.
 * Errors: -E2BIG for more rules than a program has room for, -ENOMEM. */
int must_check device_program_create(const struct spec_device_rule *rules, size_t count,
                                     struct bpf_insn **out_program, size_t *out_count,
                                     struct error *err);

#endif
