#include "cpu/x86/hypervisor.h"

#include "base/core/bits.h"
#include "base/core/compiler.h"

#include <stdio.h>
#include <string.h>

#define LEAF_BASE   0x40000000u
#define LEAF_BEHIND 0x40000100u
#define KVM_EBX     0x4b4d564bu /* "KVMKVMKVM" */
#define KVM_ECX     0x564b4d56u
#define KVM_EDX     0x0000004du

/* Leaf 4: how the guest had better do things. Remote TLB flushes and IPIs by hypercall, with processor sets of any size; timers
 * may come late; no automatic EOI. */
#define USE_REMOTE_FLUSH BIT(2)
#define RELAXED_TIMING   BIT(5)
#define NO_AUTO_EOI      BIT(9)
#define USE_CLUSTER_IPI  BIT(10)
#define USE_WIDE_SETS    BIT(11)
/* How often to try for a spin lock before the hypervisor is told of it. */
#define SPIN_RETRIES 4096u

static bool word_is(const char *word, size_t length, const char *text)
{
    return strlen(text) == length && memcmp(word, text, length) == 0;
}

static bool switch_parse(const char *word, size_t length, const char *name, bool *out_value)
{
    size_t name_length = strlen(name);
    if (length <= name_length || memcmp(word, name, name_length) != 0 || word[name_length] != '=') {
        return false;
    }
    const char *value = word + name_length + 1;
    size_t value_length = length - name_length - 1;
    if (!word_is(value, value_length, "on") && !word_is(value, value_length, "off")) {
        return false;
    }
    *out_value = word_is(value, value_length, "on");
    return true;
}

int x86_cpu_choice_parse(const char *text, struct x86_cpu_choice *out_choice, struct error *err)
{
    struct x86_cpu_choice choice = {.has_kvm = true};
    size_t length = strcspn(text, ",");
    (void)snprintf(choice.model, sizeof(choice.model), "%.*s", (int)length,
                   text); /* cut: unknown */
    for (text += length; *text == ','; text += length) {
        text++;
        length = strcspn(text, ",");
        if (!switch_parse(text, length, "hyperv", &choice.has_hyperv) &&
            !switch_parse(text, length, "kvm", &choice.has_kvm)) {
            return error_set(err, EINVAL,
                             "'%.*s' is no option of a CPU model: hyperv=on|off and kvm=on|off are",
                             (int)MIN(length, (size_t)60), text);
        }
    }
    *out_choice = choice;
    return 0;
}

static void add(struct x86_cpuid *leaves, const struct x86_cpuid_entry *entry)
{
    if (leaves->count < X86_CPUID_MAX_ENTRIES) {
        leaves->entry[leaves->count++] = *entry;
    }
}

static void add_hyperv(uint32_t vcpu_count, struct x86_cpuid *leaves)
{
    const struct x86_cpuid_entry hyperv[] = {
        /* "Microsoft Hv" */
        {.leaf = X86_HYPERV_LEAF_MAX,
         .eax = 0x40000006u,
         .ebx = 0x7263694d,
         .ecx = 0x666f736f,
         .edx = 0x76482074},
        {.leaf = X86_HYPERV_LEAF_INTERFACE, .eax = X86_HYPERV_INTERFACE},
        /* Build and version of the first one with all of these interfaces. */
        {.leaf = 0x40000002u, .eax = 14393, .ebx = 10u << 16},
        {.leaf = X86_HYPERV_LEAF_FEATURES,
         .eax = X86_HYPERV_ACCESS_REF_COUNT | X86_HYPERV_ACCESS_HYPERCALL |
                X86_HYPERV_ACCESS_VP_INDEX | X86_HYPERV_ACCESS_REF_TSC |
                X86_HYPERV_ACCESS_FREQUENCY,
         .edx = X86_HYPERV_HAS_FREQUENCY},
        {.leaf = 0x40000004u,
         .eax =
             (uint32_t)(RELAXED_TIMING | NO_AUTO_EOI) |
             (vcpu_count > 1 ? (uint32_t)(USE_REMOTE_FLUSH | USE_CLUSTER_IPI | USE_WIDE_SETS) : 0),
         .ebx = vcpu_count > 1 ? SPIN_RETRIES : UINT32_MAX},
        {.leaf = 0x40000005u, .eax = vcpu_count, .ebx = vcpu_count},
        {.leaf = 0x40000006u},
    };
    for (size_t i = 0; i < ARRAY_COUNT(hyperv); i++) {
        add(leaves, &hyperv[i]);
    }
}

void x86_hypervisor_build(const struct x86_cpu_choice *choice, uint32_t vcpu_count,
                          const struct x86_cpuid *kvm, struct x86_cpuid *out_leaves)
{
    out_leaves->count = 0;
    uint32_t moved_by = 0;
    if (choice->has_hyperv) {
        add_hyperv(vcpu_count, out_leaves);
        moved_by = LEAF_BEHIND - LEAF_BASE;
    }
    for (size_t i = 0; choice->has_kvm && i < kvm->count; i++) {
        struct x86_cpuid_entry entry = kvm->entry[i];
        if (entry.leaf == LEAF_BASE) {
            entry.eax += moved_by; /* the highest leaf */
        }
        entry.leaf += moved_by;
        add(out_leaves, &entry);
    }
}

uint32_t x86_cpuid_kvm_base(const struct x86_cpuid *cpuid)
{
    for (uint32_t leaf = LEAF_BASE; leaf <= LEAF_BEHIND; leaf += LEAF_BEHIND - LEAF_BASE) {
        const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, leaf, 0);
        if (entry != NULL && entry->ebx == KVM_EBX && entry->ecx == KVM_ECX &&
            entry->edx == KVM_EDX) {
            return leaf;
        }
    }
    return 0;
}

bool x86_cpuid_has_hyperv(const struct x86_cpuid *cpuid)
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, X86_HYPERV_LEAF_INTERFACE, 0);
    return entry != NULL && entry->eax == X86_HYPERV_INTERFACE;
}
