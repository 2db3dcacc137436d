/* Whether a guest that saw one CPUID table can go on where another one is offered: no feature may vanish under it. */
#include "base/core/bits.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/hypervisor.h"

#include <stdio.h>
#include <string.h>

enum cpuid_register {
    EAX,
    EBX,
    ECX,
    EDX,
};

struct named_feature {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    const char *name;
};

static const struct named_feature names[] = {
#define FEATURE(leaf, subleaf, reg, bit, level, name) {leaf, subleaf, reg, bit, name},
#include "cpu/x86/features.def"
#undef FEATURE
    {X86_CPUID_KVM_FEATURES, 0, EAX, 0, "kvm clock (old)"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 1, "kvm no I/O delay"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 3, "kvm clock"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 4, "kvm async page faults"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 5, "kvm steal time"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 6, "kvm pv eoi"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 7, "kvm pv unhalt"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 9, "kvm pv tlb flush"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 11, "kvm pv ipi"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 12, "kvm poll control"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 13, "kvm pv sched yield"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 14, "kvm async page faults by interrupt"},
    {X86_CPUID_KVM_FEATURES, 0, EAX, 24, "kvm stable clock"},
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, 1, "hyper-v reference counter"},
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, 5, "hyper-v hypercalls"},
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, 6, "hyper-v processor index"},
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, 9, "hyper-v reference TSC"},
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, 11, "hyper-v frequencies"},
};

/* Registers that consist of feature bits, and which bits of them; in the order in which they are named. */
static const struct {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    uint32_t mask;
} feature_registers[] = {
    {X86_CPUID_KVM_FEATURES, 0, EAX, ~0u}, /* wherever that is, see table_get */
    {X86_HYPERV_LEAF_FEATURES, 0, EAX, ~0u},
    {X86_HYPERV_LEAF_FEATURES, 0, EDX, ~0u},
    {1, 0, ECX, ~(uint32_t)BIT(27)}, /* OSXSAVE follows CR4 */
    {1, 0, EDX, ~(uint32_t)BIT(28)}, /* a matter of topology */
    {6, 0, EAX, ~0u},
    {7, 0, EBX, ~0u},
    {7, 0, ECX, ~0u},
    {7, 0, EDX, ~0u},
    {7, 1, EAX, ~0u},
    {7, 2, EDX, ~0u},
    {0xd, 0, EAX, ~0u},
    {0xd, 0, EDX, ~0u},
    {0xd, 1, EAX, ~0u},
    {0x80000001, 0, ECX, ~(uint32_t)BIT(1)}, /* topology */
    {0x80000001, 0, EDX, ~0u},
    {0x80000007, 0, EDX, ~0u},
    {0x80000008, 0, EBX, ~0u},
    {0x80000021, 0, EAX, ~0u},
};

/* A list of words for a message; those that no longer fit are counted. */
struct list {
    char text[ERROR_TEXT_SIZE - 120];
    size_t used;
    unsigned more;
};

static void list_add(struct list *list, const char *word)
{
    size_t length = strlen(word);
    size_t room = sizeof(list->text) - list->used;
    if (length + 3 > room || list->more != 0) {
        list->more++;
        return;
    }
    list->used += (size_t)snprintf(list->text + list->used, room, "%s%s",
                                   list->used != 0 ? ", " : "", word); /* fits */
}

static uint32_t table_get(const struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf,
                          enum cpuid_register reg)
{
    if (leaf == X86_CPUID_KVM_FEATURES) {
        uint32_t kvm_base = x86_cpuid_kvm_base(cpuid);
        if (kvm_base == 0) {
            return 0;
        }
        leaf = kvm_base + 1;
    }
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, leaf, subleaf);
    if (entry == NULL) {
        return 0;
    }
    const uint32_t values[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};
    return values[reg];
}

static void list_feature(struct list *list, uint32_t leaf, uint32_t subleaf,
                         enum cpuid_register reg, unsigned bit)
{
    static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};
    char word[48];
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const struct named_feature *named = &names[i];
        if (named->leaf == leaf && named->subleaf == subleaf && named->reg == reg &&
            named->bit == bit) {
            list_add(list, named->name);
            return;
        }
    }
    (void)snprintf(word, sizeof(word), "CPUID 0x%x.%u %s bit %u", leaf, subleaf, registers[reg],
                   bit); /* fits */
    list_add(list, word);
}

/* The places of extended state in memory are part of the guest's data. */
static bool same_xsave_layout(const struct x86_cpuid *seen, const struct x86_cpuid *offered)
{
    uint32_t components = table_get(seen, 0xd, 0, EAX);
    for (unsigned bit = 2; bit < 32; bit++) {
        if ((components & BIT(bit)) &&
            (table_get(seen, 0xd, bit, EAX) != table_get(offered, 0xd, bit, EAX) ||
             table_get(seen, 0xd, bit, EBX) != table_get(offered, 0xd, bit, EBX))) {
            return false;
        }
    }
    return true;
}

int x86_cpuid_check(const struct x86_cpuid *seen, const struct x86_cpuid *offered, bool any_vendor,
                    struct error *err)
{
    struct list missing = {.used = 0};
    for (size_t i = 0; i < ARRAY_COUNT(feature_registers); i++) {
        uint32_t leaf = feature_registers[i].leaf, subleaf = feature_registers[i].subleaf;
        enum cpuid_register reg = feature_registers[i].reg;
        uint32_t lost = table_get(seen, leaf, subleaf, reg) &
                        ~table_get(offered, leaf, subleaf, reg) & feature_registers[i].mask;
        for (unsigned bit = 0; bit < 32; bit++) {
            if (lost & BIT(bit)) {
                list_feature(&missing, leaf, subleaf, reg, bit);
            }
        }
    }
    if (missing.more != 0) {
        return error_set(err, EINVAL, "its guest uses CPU features that are not here: %s, %u more",
                         missing.text, missing.more);
    }
    if (missing.used != 0) {
        return error_set(err, EINVAL, "its guest uses CPU features that are not here: %s",
                         missing.text);
    }
    uint32_t vendor = table_get(seen, 0, 0, EBX);
    bool is_known = x86_vendor_is_intel(vendor) || x86_vendor_is_amd(vendor);
    if (vendor != table_get(offered, 0, 0, EBX) && !(any_vendor && is_known)) {
        return error_set(err, EINVAL, "its guest runs on a CPU of another vendor");
    }
    uint32_t seen_bits = table_get(seen, 0x80000008, 0, EAX) & 0xff;
    uint32_t offered_bits = table_get(offered, 0x80000008, 0, EAX) & 0xff;
    if (seen_bits > offered_bits) {
        return error_set(err, EINVAL, "its guest has physical addresses of %u bits, here are %u",
                         seen_bits, offered_bits);
    }
    if (!same_xsave_layout(seen, offered)) {
        return error_set(err, EINVAL, "its guest has its extended state at other places");
    }
    return 0;
}
