/* The names that a configuration may use. hull-oci features is made of the same tables. */
#ifndef CONTAINER_SPEC_NAMES_H
#define CONTAINER_SPEC_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct name {
    const char *name;
    uint64_t value;
};
struct names {
    const struct name *item;
    size_t count;
};

extern const struct names spec_namespace_names;        /* CLONE_NEW* */
extern const struct names spec_capability_names;       /* CAP_* */
extern const struct names spec_rlimit_names;           /* RLIMIT_* */
extern const struct names spec_scheduler_policy_names; /* SCHED_* */
extern const struct names spec_scheduler_flag_names;   /* SCHED_FLAG_* */
extern const struct names spec_io_class_names;         /* IOPRIO_CLASS_* */
extern const struct names spec_propagation_names;      /* MS_* */
extern const struct names spec_personality_names;      /* PER_* */
extern const struct names spec_memory_mode_names;      /* MPOL_* */
extern const struct names spec_memory_flag_names;      /* MPOL_F_* */
extern const struct names spec_seccomp_action_names;   /* SCMP_ACT_*, errno 0 */
extern const struct names spec_seccomp_arch_names;     /* SCMP_ARCH_* */
extern const struct names spec_seccomp_operator_names; /* enum scmp_compare */
extern const struct names spec_seccomp_flag_names;     /* SECCOMP_FILTER_FLAG_* */

#endif
