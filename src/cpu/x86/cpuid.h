/* CPUID as a table, and the models that --cpu names. */
#ifndef CPU_X86_CPUID_H
#define CPU_X86_CPUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define X86_CPUID_MAX_ENTRIES 128

/* Paravirtual features (Linux Documentation/virt/kvm/x86/cpuid.rst). */
#define X86_CPUID_KVM_FEATURES 0x40000001u

struct x86_cpuid_entry {
    uint32_t leaf, subleaf;
    bool has_subleaf; /* 'subleaf' matters */
    uint32_t eax, ebx, ecx, edx;
};

struct x86_cpuid {
    struct x86_cpuid_entry entry[X86_CPUID_MAX_ENTRIES];
    size_t count;
};

/* What a model is built for. */
struct x86_cpuid_topology {
    uint32_t vcpu_count;
    uint32_t vcpu_index; /* also the APIC ID */
};

/* Builds the table of vCPU 'topology->vcpu_index': model 'name' ("host", "x86-64-v2", "x86-64-v3"), each feature only
 * if 'supported' (what the engine can run, leaf by leaf) has it; with APIC ID, topology leaves, XSAVE sizes, and the
 * hypervisor leaves of 'hypervisor' (0x40000000.., may be NULL). A named model has nothing that only some engines have, so
 * that its guests can go on under another one.
 * Errors: -EINVAL for a name that is none, or for a model whose required features 'supported' lacks (named). */
int must_check x86_cpuid_build(const char *name, const struct x86_cpuid *supported,
                               const struct x86_cpuid *hypervisor,
                               const struct x86_cpuid_topology *topology,
                               struct x86_cpuid *out_cpuid, struct error *err);

/* Can a guest that saw the table 'seen' go on with what 'offered' stands for, which was built for it here? 'any_vendor': this
 * engine does what CPUs of Intel and those of AMD do, whichever the guest saw.
 * Errors: -EINVAL, naming the features that it would miss. */
int must_check x86_cpuid_check(const struct x86_cpuid *seen, const struct x86_cpuid *offered,
                               bool any_vendor, struct error *err);

/* The names that x86_cpuid_build takes, NULL at the end. */
extern const char *const x86_cpuid_models[];

/* The entry, or NULL where there is none. */
const struct x86_cpuid_entry *x86_cpuid_find(const struct x86_cpuid *cpuid, uint32_t leaf,
                                             uint32_t subleaf);

/* Whose CPU is it, by leaf 0's EBX, the first letters of its name? Hygon's are AMD's. */
static inline bool x86_vendor_is_intel(uint32_t ebx)
{
    return ebx == 0x756e6547; /* "Genu" of GenuineIntel */
}

static inline bool x86_vendor_is_amd(uint32_t ebx)
{
    return ebx == 0x68747541 || ebx == 0x6f677948; /* AuthenticAMD, HygonGenuine */
}

/* What the CPUID instruction answers for this table: unknown basic leaves above the highest give what Intel's
 * manual says (here: zeros, as AMD's), the dynamic bits (OSXSAVE, APIC, the XSAVE size of XCR0) are put in. */
void x86_cpuid_query(const struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, uint64_t cr4,
                     uint64_t xcr0, uint64_t apic_base, uint32_t out_regs[4]);

#endif
