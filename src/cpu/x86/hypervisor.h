/* What a guest sees of the hypervisor in CPUID leaves 0x40000000..: KVM's interface, or Hyper-V's with KVM's behind it. */
#ifndef CPU_X86_HYPERVISOR_H
#define CPU_X86_HYPERVISOR_H

#include "cpu/x86/cpuid.h"

/* Hyper-V's leaves and their bits (Hypervisor Top Level Functional Specification, "Feature and interface discovery"). */
#define X86_HYPERV_LEAF_MAX         0x40000000u
#define X86_HYPERV_LEAF_INTERFACE   0x40000001u
#define X86_HYPERV_LEAF_FEATURES    0x40000003u
#define X86_HYPERV_INTERFACE        0x31237648u /* "Hv#1" */
#define X86_HYPERV_ACCESS_REF_COUNT (1u << 1)   /* EAX: partition reference counter */
#define X86_HYPERV_ACCESS_HYPERCALL (1u << 5)   /* EAX: guest OS ID, hypercall page */
#define X86_HYPERV_ACCESS_VP_INDEX  (1u << 6)   /* EAX */
#define X86_HYPERV_ACCESS_REF_TSC   (1u << 9)   /* EAX: reference TSC page */
#define X86_HYPERV_ACCESS_FREQUENCY (1u << 11)  /* EAX */
#define X86_HYPERV_HAS_FREQUENCY    (1u << 8)   /* EDX */

/* What --cpu says: "MODEL[,hyperv=on|off][,kvm=on|off]". */
struct x86_cpu_choice {
    char model[32];
    bool has_hyperv; /* Hyper-V's interface, for Windows. Off unless asked for */
    bool has_kvm;    /* KVM's, on unless it is not wanted */
};

/* Errors: -EINVAL for an option that is none; the model is x86_cpuid_build's to judge. */
int must_check x86_cpu_choice_parse(const char *text, struct x86_cpu_choice *out_choice,
                                    struct error *err);

/* The hypervisor's leaves for a VM with 'vcpu_count' vCPUs: 'kvm' is the engine's KVM interface at 0x40000000, which moves to
 * 0x40000100 behind Hyper-V's. No leaves at all if neither is chosen. */
void x86_hypervisor_build(const struct x86_cpu_choice *choice, uint32_t vcpu_count,
                          const struct x86_cpuid *kvm, struct x86_cpuid *out_leaves);

/* The leaf at which KVM's interface begins, 0: there is none. Its features are one leaf on. */
uint32_t x86_cpuid_kvm_base(const struct x86_cpuid *cpuid);
bool x86_cpuid_has_hyperv(const struct x86_cpuid *cpuid);

#endif
