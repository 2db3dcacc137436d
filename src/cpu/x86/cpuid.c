/* CPUID tables: filtering what the engine can run down to a model, and what no filter gives: topology, caches, sizes of
 * the XSAVE area, names. Leaf numbers and layouts: Intel SDM 2A CPUID, AMD APM 3 appendix E. */
#include "cpu/x86/cpuid.h"

#include "base/core/bits.h"
#include "cpu/x86/hypervisor.h"
#include "cpu/x86/state.h"

enum cpuid_register {
    EAX,
    EBX,
    ECX,
    EDX,
};

enum feature_level {
    BASE = 1,
    V2,
    V3,
    SYSTEM,
    HOST,
};

struct feature {
    uint32_t leaf, subleaf;
    enum cpuid_register reg;
    unsigned bit;
    enum feature_level level;
    const char *name;
};

static const struct feature features[] = {
#define FEATURE(leaf, subleaf, reg, bit, level, name) {leaf, subleaf, reg, bit, level, name},
#include "cpu/x86/features.def"
#undef FEATURE
};

/* What "host" must not pass on: state of these features is in no x86_state (or behind its XSAVE area), so a save would
 * lose it; or the feature is about hardware that a guest does not have. Bits are those to clear. */
static const struct {
    uint32_t leaf, subleaf;
    uint32_t clear[4];
} host_masks[] = {
    /* VMX, SMX, monitor and mwait, thermal control, debug store, perfmon capabilities; MCA: its banks are not saved */
    {1,
     0,
     {0, 0, BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(15),
      BIT(14) | BIT(21) | BIT(22) | BIT(29) | BIT(31)}},
    {6, 0, {~(uint32_t)BIT(2), ~0u, ~0u, ~0u}},
    /* SGX, resource monitoring and allocation, processor trace; WAITPKG, CET, key locker, PKS, ENQCMD; AMX, IBT */
    {7,
     0,
     {0, BIT(2) | BIT(12) | BIT(15) | BIT(25),
      BIT(5) | BIT(7) | BIT(23) | BIT(29) | BIT(30) | BIT(31),
      BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25)}},
    /* FRED, LKGS, HRESET, LAM */
    {7, 1, {BIT(17) | BIT(18) | BIT(21) | BIT(22) | BIT(26), ~0u, ~0u, ~0u}},
    /* XSAVES without supervisor components is XSAVEC; extended feature disable */
    {0xd, 1, {BIT(3) | BIT(4), 0, ~0u, ~0u}},
    /* SVM, extended APIC space, OS visible workaround, IBS, SKINIT, watchdog, LWP, performance counters, data breakpoints */
    {0x80000001,
     0,
     {0, 0,
      BIT(2) | BIT(3) | BIT(9) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(23) | BIT(24) |
          BIT(26) | BIT(27) | BIT(28),
      0}},
    {0x80000007, 0, {~0u, ~0u, ~0u, ~(uint32_t)BIT(8)}},
};

/* Leaves that "host" takes over as they are (but for the masks and what is written over them below). */
static const uint32_t host_leaves[] = {
    0,          1,          2,          6,          7,          0xd,        0x15,
    0x16,       0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005,
    0x80000006, 0x80000007, 0x80000008, 0x80000019, 0x8000001a, 0x80000021,
};

/* x87, SSE, AVX, MPX, AVX-512 and PKRU: what fits into x86_state's area at the architectural offsets. */
#define XCR0_KEPT      0x2ffu
#define XSAVE_LEGACY   576 /* legacy region and header */
#define CACHE_LINE     64
#define MAX_BASIC_LEAF 0x16u
#define LEAF_TOPOLOGY  0xbu
#define LEAF_EXTENDED  0x80000000u
#define LEAF_BRAND     0x80000002u

/* What of KVM's paravirtual features every engine has (KVM since Linux 5.4): no I/O delay, clock, steal time, end of interrupt,
 * unhalt, TLB flush, IPIs, poll control, yield, stable clock. */
#define PORTABLE_KVM_FEATURES                                                                      \
    (BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(24))

/* Family 15, model 107, stepping 1: in no list of CPU errata that today's kernels work around. */
#define MODEL_SIGNATURE 0x00060fb1u

const char *const x86_cpuid_models[] = {"host", "x86-64-v2", "x86-64-v3", NULL};

static bool text_equal(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static uint32_t *entry_register(struct x86_cpuid_entry *entry, enum cpuid_register reg)
{
    uint32_t *const registers[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    return registers[reg];
}

const struct x86_cpuid_entry *x86_cpuid_find(const struct x86_cpuid *cpuid, uint32_t leaf,
                                             uint32_t subleaf)
{
    for (size_t i = 0; i < cpuid->count; i++) {
        const struct x86_cpuid_entry *entry = &cpuid->entry[i];
        if (entry->leaf == leaf && (!entry->has_subleaf || entry->subleaf == subleaf)) {
            return entry;
        }
    }
    return NULL;
}

/* A value of the table, 0 where there is no such entry. */
static uint32_t table_get(const struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf,
                          enum cpuid_register reg)
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, leaf, subleaf);
    if (entry == NULL) {
        return 0;
    }
    struct x86_cpuid_entry copy = *entry;
    return *entry_register(&copy, reg);
}

/* The entry, new and zero if it is not there yet; NULL when the table is full. */
static struct x86_cpuid_entry *table_entry(struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf,
                                           bool has_subleaf)
{
    for (size_t i = 0; i < cpuid->count; i++) {
        struct x86_cpuid_entry *entry = &cpuid->entry[i];
        if (entry->leaf == leaf && entry->subleaf == subleaf && entry->has_subleaf == has_subleaf) {
            return entry;
        }
    }
    if (cpuid->count == X86_CPUID_MAX_ENTRIES) {
        return NULL;
    }
    struct x86_cpuid_entry *entry = &cpuid->entry[cpuid->count++];
    *entry = (struct x86_cpuid_entry){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaf};
    return entry;
}

/* Writes a whole leaf. False when the table is full. */
static bool table_put(struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, bool has_subleaf,
                      const uint32_t regs[4])
{
    struct x86_cpuid_entry *entry = table_entry(cpuid, leaf, subleaf, has_subleaf);
    if (entry == NULL) {
        return false;
    }
    entry->eax = regs[EAX];
    entry->ebx = regs[EBX];
    entry->ecx = regs[ECX];
    entry->edx = regs[EDX];
    return true;
}

static bool leaf_has_subleaves(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == LEAF_TOPOLOGY || leaf == 0xd || leaf == 0x8000001d;
}

static bool vendor_is_amd(const struct x86_cpuid *supported)
{
    return x86_vendor_is_amd(table_get(supported, 0, 0, EBX));
}

/* --- features --- */

static void build_host(const struct x86_cpuid *supported, struct x86_cpuid *cpuid)
{
    for (size_t i = 0; i < supported->count; i++) {
        const struct x86_cpuid_entry *entry = &supported->entry[i];
        bool is_known = false;
        for (size_t j = 0; j < ARRAY_COUNT(host_leaves); j++) {
            is_known |= entry->leaf == host_leaves[j];
        }
        if (!is_known || cpuid->count == X86_CPUID_MAX_ENTRIES) {
            continue;
        }
        struct x86_cpuid_entry *copy = &cpuid->entry[cpuid->count++];
        *copy = *entry;
        for (size_t j = 0; j < ARRAY_COUNT(host_masks); j++) {
            if (host_masks[j].leaf == entry->leaf && host_masks[j].subleaf == entry->subleaf) {
                for (unsigned reg = EAX; reg <= EDX; reg++) {
                    *entry_register(copy, reg) &= ~host_masks[j].clear[reg];
                }
            }
        }
    }
}

static int build_named(enum feature_level level, const char *name,
                       const struct x86_cpuid *supported, struct x86_cpuid *cpuid,
                       struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        const struct feature *feature = &features[i];
        bool is_required = feature->level <= level;
        if (!is_required && feature->level != SYSTEM) {
            continue;
        }
        uint32_t bit = 1u << feature->bit;
        if (table_get(supported, feature->leaf, feature->subleaf, feature->reg) & bit) {
            *entry_register(table_entry(cpuid, feature->leaf, feature->subleaf,
                                        leaf_has_subleaves(feature->leaf)),
                            feature->reg) |= bit;
        } else if (is_required) {
            return error_set(err, EINVAL, "the CPU model %s needs '%s', which this engine lacks",
                             name, feature->name);
        }
    }
    struct x86_cpuid_entry *first = table_entry(cpuid, 0, 0, false);
    first->ebx = table_get(supported, 0, 0, EBX);
    first->ecx = table_get(supported, 0, 0, ECX);
    first->edx = table_get(supported, 0, 0, EDX);
    table_entry(cpuid, 1, 0, false)->eax = MODEL_SIGNATURE;
    struct x86_cpuid_entry *extended = table_entry(cpuid, LEAF_EXTENDED, 0, false);
    if (vendor_is_amd(supported)) {
        table_entry(cpuid, 0x80000001, 0, false)->eax = MODEL_SIGNATURE;
        extended->ebx = first->ebx;
        extended->ecx = first->ecx;
        extended->edx = first->edx;
    }
    /* No more linear bits than 4-level paging has; all physical bits, for reserved bits are where the host has them. */
    table_entry(cpuid, 0x80000008, 0, false)->eax =
        (table_get(supported, 0x80000008, 0, EAX) & 0xff) | 48 << 8;
    return 0;
}

/* --- what a model is made of besides features --- */

static void put_brand(const char *name, struct x86_cpuid *cpuid)
{
    char brand[48] = "Hull virtual CPU ";
    size_t length = 17;
    for (; *name != '\0' && length < sizeof(brand) - 1; name++) {
        brand[length++] = *name;
    }
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t regs[4];
        __builtin_memcpy(regs, brand + i * sizeof(regs), sizeof(regs));
        (void)table_put(cpuid, LEAF_BRAND + i, 0, false,
                        regs); /* x86_cpuid_build checks the room */
    }
}

static uint32_t log2_up(uint32_t count)
{
    uint32_t bits = 0;
    while ((1u << bits) < count) {
        bits++;
    }
    return bits;
}

/* One of four caches that every model has; the sizes are ordinary ones of servers. */
struct cache {
    uint32_t type; /* 1: data, 2: instructions, 3: both */
    uint32_t level, ways, sets;
    bool is_shared; /* by all vCPUs */
};

static const struct cache caches[] = {
    {1, 1, 8, 64, false},
    {2, 1, 8, 64, false},
    {3, 2, 8, 1024, false},
    {3, 3, 16, 16384, true},
};

/* Leaves 4 (Intel) and 0x8000001d (AMD) have one layout, but for the count of cores. */
static void put_caches(uint32_t leaf, uint32_t id_bits, struct x86_cpuid *cpuid)
{
    for (uint32_t i = 0; i <= ARRAY_COUNT(caches); i++) {
        uint32_t regs[4] = {0};
        if (i < ARRAY_COUNT(caches)) {
            const struct cache *cache = &caches[i];
            uint32_t sharing = cache->is_shared ? (1u << id_bits) - 1 : 0;
            uint32_t cores = leaf == 4 ? (1u << id_bits) - 1 : 0;
            regs[EAX] =
                cache->type | cache->level << 5 | BIT(8) | sharing << 14 | MIN(cores, 63u) << 26;
            regs[EBX] = (CACHE_LINE - 1) | (cache->ways - 1) << 22;
            regs[ECX] = cache->sets - 1;
        }
        (void)table_put(cpuid, leaf, i, true, regs);
    }
}

/* AMD's older cache leaves: size in KiB 31:24 (L1), 31:16 (L2), in 512 KiB units 31:18 (L3). */
static void put_amd_caches(struct x86_cpuid *cpuid)
{
    const uint32_t l1[4] = {0, 0, 32u << 24 | 8 << 16 | 1 << 8 | CACHE_LINE,
                            32u << 24 | 8 << 16 | 1 << 8 | CACHE_LINE};
    /* Associativity: 6 stands for 8 ways, 8 for 16. */
    const uint32_t l2[4] = {0, 0, 512u << 16 | 6 << 12 | 1 << 8 | CACHE_LINE,
                            32u << 18 | 8 << 12 | 1 << 8 | CACHE_LINE};
    (void)table_put(cpuid, 0x80000005, 0, false, l1);
    (void)table_put(cpuid, 0x80000006, 0, false, l2);
}

/* Every vCPU is a core of one package, with one thread. */
static void put_topology(const struct x86_cpuid_topology *topology, bool is_amd,
                         struct x86_cpuid *cpuid)
{
    uint32_t count = topology->vcpu_count, id = topology->vcpu_index;
    uint32_t id_bits = log2_up(count);
    struct x86_cpuid_entry *first = table_entry(cpuid, 1, 0, false);
    first->ebx = id << 24 | MIN(1u << id_bits, 255u) << 16 | CACHE_LINE / 8 << 8;
    first->edx = count > 1 ? first->edx | BIT(28) : first->edx & ~(uint32_t)BIT(28);

    const uint32_t thread[4] = {0, 1, 1 << 8 | 0, id};
    const uint32_t core[4] = {id_bits, count, 2 << 8 | 1, id};
    const uint32_t end[4] = {0, 0, 2, id};
    (void)table_put(cpuid, LEAF_TOPOLOGY, 0, true, thread);
    (void)table_put(cpuid, LEAF_TOPOLOGY, 1, true, core);
    (void)table_put(cpuid, LEAF_TOPOLOGY, 2, true, end);
    if (!is_amd) {
        put_caches(4, id_bits, cpuid);
        return;
    }
    put_amd_caches(cpuid);
    struct x86_cpuid_entry *extended = table_entry(cpuid, 0x80000001, 0, false);
    extended->ecx = count > 1 ? extended->ecx | BIT(1) : extended->ecx & ~(uint32_t)BIT(1);
    table_entry(cpuid, 0x80000008, 0, false)->ecx = (count - 1) | id_bits << 12;
    if (extended->ecx & BIT(22)) {
        const uint32_t place[4] = {id, id, 0, 0}; /* one thread a core, node 0 of 1 */
        put_caches(0x8000001d, id_bits, cpuid);
        (void)table_put(cpuid, 0x8000001e, 0, false, place);
    }
}

/* Offset and size of component 'bit' in the standard format; false: the table has none. */
static bool component_place(const struct x86_cpuid *cpuid, unsigned bit, uint32_t *out_offset,
                            uint32_t *out_size)
{
    *out_size = table_get(cpuid, 0xd, bit, EAX);
    *out_offset = table_get(cpuid, 0xd, bit, EBX);
    return *out_size != 0;
}

static uint32_t xsave_size(const struct x86_cpuid *cpuid, uint64_t xcr0, bool is_compact)
{
    uint32_t end = XSAVE_LEGACY;
    for (unsigned bit = 2; bit < 63; bit++) {
        uint32_t offset, size;
        if ((xcr0 & BIT(bit)) && component_place(cpuid, bit, &offset, &size)) {
            if (is_compact) {
                bool is_aligned = table_get(cpuid, 0xd, bit, ECX) & BIT(1);
                end = (is_aligned ? (uint32_t)align_up(end, 64) : end) + size;
            } else {
                end = MAX(end, offset + size);
            }
        }
    }
    return end;
}

/* Leaf 0xd: the components that both the engine and 'wanted' have. */
static void put_xsave(const struct x86_cpuid *supported, uint32_t wanted, struct x86_cpuid *cpuid)
{
    uint32_t features1 = table_get(cpuid, 0xd, 1, EAX);
    size_t kept = 0;
    for (size_t i = 0; i < cpuid->count; i++) {
        if (cpuid->entry[i].leaf != 0xd) {
            cpuid->entry[kept++] = cpuid->entry[i];
        }
    }
    cpuid->count = kept;
    if (!(table_get(cpuid, 1, 0, ECX) & BIT(26))) {
        return;
    }
    uint32_t xcr0 = table_get(supported, 0xd, 0, EAX) & wanted & XCR0_KEPT;
    for (unsigned bit = 2; bit < 10; bit++) {
        uint32_t offset, size;
        if (!(xcr0 & BIT(bit))) {
            continue;
        }
        if (!component_place(supported, bit, &offset, &size) ||
            (uint64_t)offset + size > X86_XSAVE_SIZE) {
            xcr0 &= ~(uint32_t)BIT(bit);
            continue;
        }
        const uint32_t regs[4] = {size, offset, table_get(supported, 0xd, bit, ECX), 0};
        (void)table_put(cpuid, 0xd, bit, true, regs);
    }
    uint32_t size = xsave_size(cpuid, xcr0, false);
    const uint32_t first[4] = {xcr0, size, size, 0};
    const uint32_t second[4] = {features1, features1 & BIT(1) ? xsave_size(cpuid, xcr0, true) : 0,
                                0, 0};
    (void)table_put(cpuid, 0xd, 0, true, first);
    (void)table_put(cpuid, 0xd, 1, true, second);
}

static void put_maxima(struct x86_cpuid *cpuid)
{
    uint32_t basic = 0, extended = LEAF_EXTENDED;
    for (size_t i = 0; i < cpuid->count; i++) {
        uint32_t leaf = cpuid->entry[i].leaf;
        if (leaf <= MAX_BASIC_LEAF) {
            basic = MAX(basic, leaf);
        } else if (leaf >= LEAF_EXTENDED) {
            extended = MAX(extended, leaf);
        }
    }
    table_entry(cpuid, 0, 0, false)->eax = basic;
    table_entry(cpuid, LEAF_EXTENDED, 0, false)->eax = extended;
}

int x86_cpuid_build(const char *name, const struct x86_cpuid *supported,
                    const struct x86_cpuid *hypervisor, const struct x86_cpuid_topology *topology,
                    struct x86_cpuid *out_cpuid, struct error *err)
{
    struct x86_cpuid cpuid;
    cpuid.count = 0;
    uint32_t components = ~0u;
    bool is_host = text_equal(name, "host");
    if (is_host) {
        build_host(supported, &cpuid);
    } else {
        bool is_v2 = text_equal(name, "x86-64-v2");
        if (!is_v2 && !text_equal(name, "x86-64-v3")) {
            return error_set(err, EINVAL,
                             "there is no CPU model '%.40s': use one of host, x86-64-v2, x86-64-v3",
                             name);
        }
        int rc = build_named(is_v2 ? V2 : V3, name, supported, &cpuid, err);
        if (rc < 0) {
            return rc;
        }
        components = X86_XCR0_X87 | X86_XCR0_SSE | (is_v2 ? 0 : X86_XCR0_AVX);
    }
    if (table_get(&cpuid, LEAF_BRAND, 0, EAX) == 0) {
        put_brand(name, &cpuid);
    }
    bool is_amd = vendor_is_amd(supported);
    put_xsave(supported, components, &cpuid);
    put_topology(topology, is_amd, &cpuid);
    put_maxima(&cpuid);
    struct x86_cpuid_entry *first = table_entry(&cpuid, 1, 0, false);
    first->ecx &= ~(uint32_t)(BIT(27) | BIT(31)); /* OSXSAVE follows CR4 */
    if (hypervisor != NULL && hypervisor->count != 0) {
        const uint32_t kvm_base = x86_cpuid_kvm_base(hypervisor);
        first->ecx |= BIT(31);
        for (size_t i = 0; i < hypervisor->count; i++) {
            if (cpuid.count == X86_CPUID_MAX_ENTRIES) {
                break;
            }
            struct x86_cpuid_entry *entry = &cpuid.entry[cpuid.count++];
            *entry = hypervisor->entry[i];
            if (kvm_base != 0 && entry->leaf == kvm_base + 1 && !is_host) {
                entry->eax &= (uint32_t)PORTABLE_KVM_FEATURES;
            }
        }
    }
    if (cpuid.count == X86_CPUID_MAX_ENTRIES) {
        return error_set(err, E2BIG, "building CPU model %s: more than %d leaves", name,
                         X86_CPUID_MAX_ENTRIES - 1);
    }
    *out_cpuid = cpuid;
    return 0;
}

static void put_bit(uint32_t *value, unsigned bit, bool is_set)
{
    *value = (*value & ~(1u << bit)) | (uint32_t)is_set << bit;
}

void x86_cpuid_query(const struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, uint64_t cr4,
                     uint64_t xcr0, uint64_t apic_base, uint32_t out_regs[4])
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, leaf, subleaf);
    for (unsigned reg = EAX; reg <= EDX; reg++) {
        out_regs[reg] = table_get(cpuid, leaf, subleaf, reg);
    }
    if (entry == NULL) {
        if (leaf == LEAF_TOPOLOGY && x86_cpuid_find(cpuid, leaf, 0) != NULL) {
            /* An invalid level: only its number and the APIC ID come back. */
            out_regs[ECX] = subleaf & 0xff;
            out_regs[EDX] = table_get(cpuid, leaf, 0, EDX);
        }
        return;
    }
    bool apic_is_on = apic_base & X86_APIC_BASE_ENABLE;
    switch (leaf) {
    case 1:
        put_bit(&out_regs[ECX], 27, cr4 & X86_CR4_OSXSAVE);
        if (!apic_is_on) {
            put_bit(&out_regs[EDX], 9, false);
        }
        break;
    case 7:
        if (subleaf == 0) {
            put_bit(&out_regs[ECX], 4, cr4 & X86_CR4_PKE);
        }
        break;
    case 0xd:
        if (subleaf == 0) {
            out_regs[EBX] = xsave_size(cpuid, xcr0, false);
        } else if (subleaf == 1 && (out_regs[EAX] & BIT(1))) {
            out_regs[EBX] = xsave_size(cpuid, xcr0, true);
        }
        break;
    case 0x80000001:
        /* AMD repeats the APIC bit here. */
        if (!apic_is_on) {
            put_bit(&out_regs[EDX], 9, false);
        }
        break;
    default:
        break;
    }
}
