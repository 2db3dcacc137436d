/* What this engine can run, as CPUID: instruction sets that the host has and this engine passes through, system features that it
 * models itself. */
#include <cpuid.h>
#include <linux/kvm_para.h>
#include <stddef.h>
#include <string.h>

#include "base/core/bits.h"
#include "cpu/x86/hypervisor.h"
#include "engine/soft/icount.h"
#include "engine/soft/system.h"

#define LEAF_1_ECX                                                                                 \
    (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |        \
     BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30))
/* FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 */
#define LEAF_1_EDX 0x078bfbffu
/* FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB SHA */
#define LEAF_7_EBX                                                                                 \
    (BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(7) | BIT(8) | BIT(9) | BIT(10) | BIT(18) | BIT(19) |  \
     BIT(20) | BIT(23) | BIT(24) | BIT(29))
/* What the host must have, as its own units execute it. */
#define LEAF_7_EBX_FROM_HOST                                                                       \
    (BIT(3) | BIT(5) | BIT(8) | BIT(9) | BIT(18) | BIT(19) | BIT(23) | BIT(24) | BIT(29))
/* FDP is noted at unmasked exceptions only; FCS and FDS are 0. Only CPUs of Intel announce them. */
#define LEAF_7_EBX_FDP_EXCPTN_ONLY BIT(6)
#define LEAF_7_EBX_NO_FCS_FDS      BIT(13)
#define LEAF_7_ECX_UMIP            BIT(2)
#define LEAF_7_ECX_RDPID           BIT(22)
/* VAES VPCLMULQDQ */
#define LEAF_7_ECX_FROM_HOST (BIT(9) | BIT(10))
#define LEAF_7_EDX_FSRM      BIT(4)
#define LEAF_7_EDX_SPEC_CTRL BIT(26)
#define LEAF_7_EDX_ARCH_CAP  BIT(29)
/* Linux takes this bit of SPEC_CTRL, else it clears a history of branches in each system call. */
#define LEAF_7_2_EDX_BHI_CTRL BIT(4)
/* LAHF LZCNT SSE4A PREFETCHW; SYSCALL NX 1-GiB pages RDTSCP LM */
#define LEAF_81_ECX (BIT(0) | BIT(5) | BIT(6) | BIT(8))
#define LEAF_81_EDX (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
/* AMD's repeat leaf 1, and have fast FXSAVE and FXRSTOR. */
#define LEAF_81_EDX_AMD ((LEAF_1_EDX & 0x0183f3ffu) | (uint32_t)BIT(25))

/* What a guest is to leave away, for it would only cost here: docs/soft-engine-security.md, Side channels. */
#define LFENCE_SERIALIZES BIT(2)
#define AUTOMATIC_IBRS    BIT(8)
#define SRSO_NO           BIT(29)
#define SSB_NO            BIT(26)
/* FXRSTOR, XRSTOR and their like leave nothing of the x87 pointers from before: where the host's do not, ours do not. Else Linux
 * clears them by x87 instructions in each switch of threads. */
#define XSAVEERPTR BIT(2)

#define PHYSICAL_BITS 40u

#define LEAF_KVM        0x40000000u
#define LEAF_KVM_TIMING 0x40000010u
#define LEAF_TSC        0x15u /* TSC = crystal (ECX) * EBX / EAX */
#define LEAF_FREQUENCY  0x16u
#define KVM_EBX         0x4b4d564bu /* "KVMK" */

struct registers {
    uint32_t eax, ebx, ecx, edx;
};

static struct registers host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct registers r = {0};
    if ((uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL) >= leaf) {
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    }
    return r;
}

bool soft_host_is_intel(void)
{
    return x86_vendor_is_intel(host_cpuid(0, 0).ebx);
}

bool soft_cpuid_is_intel(const struct x86_cpuid *cpuid)
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(cpuid, 0, 0);
    return entry != NULL && x86_vendor_is_intel(entry->ebx);
}

/* Signatures (SDM 2A CPUID, leaf 1: stepping 3:0, model 7:4 and 19:16, family 11:8). */
#define BROADWELL_X 0x000406f1u
#define HASWELL_X   0x000306f2u

/* Programs built with GCC's target_clones take what a model has from its number alone, and so would run AVX-512 on a Cascade
 * Lake that shows none. An Intel guest gets the number of a server that has what it sees and no more; later ones would also be
 * suspected by kernels of predicting the targets of returns (Retbleed), which nothing here does. */
static uint32_t signature(void)
{
    uint32_t sets = host_cpuid(7, 0).ebx;
    uint32_t broadwell = (uint32_t)(BIT(5) | BIT(18) | BIT(19)); /* AVX2 RDSEED ADX */
    if (!soft_host_is_intel() || !(sets & BIT(5))) {
        return host_cpuid(1, 0).eax;
    }
    return (sets & broadwell) == broadwell ? BROADWELL_X : HASWELL_X;
}

struct soft_x87_model soft_host_x87(void)
{
    uint32_t leaf_7 = host_cpuid(7, 0).ebx, sizes = host_cpuid(0x80000008u, 0).eax;
    bool is_intel = soft_host_is_intel();
    return (struct soft_x87_model){
        .has_fop = !is_intel,
        .has_fdp = !is_intel || !(leaf_7 & LEAF_7_EBX_FDP_EXCPTN_ONLY),
        .has_selectors = !is_intel || !(leaf_7 & LEAF_7_EBX_NO_FCS_FDS),
        .hides_pointers = !is_intel,
        .pointer_bits = (sizes >> 8 & 0xff) > 48 ? 57 : 48,
    };
}

static void add(struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, bool has_subleaf,
                struct registers r)
{
    if (cpuid->count < X86_CPUID_MAX_ENTRIES) {
        cpuid->entry[cpuid->count++] = (struct x86_cpuid_entry){
            .leaf = leaf,
            .subleaf = subleaf,
            .has_subleaf = has_subleaf,
            .eax = r.eax,
            .ebx = r.ebx,
            .ecx = r.ecx,
            .edx = r.edx,
        };
    }
}

static void add_basic(struct x86_cpuid *cpuid)
{
    struct registers r = host_cpuid(0, 0);
    r.eax = 0x16;
    add(cpuid, 0, 0, false, r);
    r = host_cpuid(1, 0);
    r.eax = signature();
    uint32_t own = (uint32_t)(BIT(17) | BIT(21) | BIT(24)); /* PCID, x2APIC, TSC deadline */
    r.ecx = (r.ecx & (uint32_t)LEAF_1_ECX) | own;
    /* XSAVE comes from us, AVX from the host. */
    r.ecx |= (uint32_t)BIT(26);
    r.edx = LEAF_1_EDX;
    r.ebx &= 0xff00;
    add(cpuid, 1, 0, false, r);
    /* ARAT: the APIC's timer never stops. */
    add(cpuid, 6, 0, false, (struct registers){.eax = 4});
    struct registers host = host_cpuid(7, 0);
    uint32_t wanted = (uint32_t)LEAF_7_EBX;
    uint32_t from_host = (uint32_t)LEAF_7_EBX_FROM_HOST;
    if (soft_host_is_intel()) {
        wanted |= (uint32_t)(LEAF_7_EBX_FDP_EXCPTN_ONLY | LEAF_7_EBX_NO_FCS_FDS);
        from_host |= (uint32_t)(LEAF_7_EBX_FDP_EXCPTN_ONLY | LEAF_7_EBX_NO_FCS_FDS);
    }
    r = (struct registers){
        .ebx = wanted & (host.ebx | ~from_host),
        .ecx = (uint32_t)(LEAF_7_ECX_UMIP | LEAF_7_ECX_RDPID | (host.ecx & LEAF_7_ECX_FROM_HOST)),
        .edx = (uint32_t)LEAF_7_EDX_FSRM,
    };
    if (soft_host_is_intel()) {
        r.eax = 2;
        r.edx |= (uint32_t)(LEAF_7_EDX_SPEC_CTRL | LEAF_7_EDX_ARCH_CAP);
        add(cpuid, 7, 2, true, (struct registers){.edx = (uint32_t)LEAF_7_2_EDX_BHI_CTRL});
    }
    add(cpuid, 7, 0, true, r);
}

static void add_xsave(struct x86_cpuid *cpuid)
{
    add(cpuid, 0xd, 0, true, (struct registers){.eax = 7, .ebx = 832, .ecx = 832});
    add(cpuid, 0xd, 1, true, (struct registers){.eax = 7}); /* XSAVEOPT XSAVEC XGETBV1 */
    add(cpuid, 0xd, 2, true, (struct registers){.eax = 256, .ebx = 576});
}

static void add_clocks(struct x86_cpuid *cpuid)
{
    uint32_t mhz = (uint32_t)(soft_host_tsc_hz() / 1000000);
    uint64_t crystal = 25000000;
    struct registers r = {.eax = 25000,
                          .ebx = (uint32_t)(soft_host_tsc_hz() * 25000 / crystal),
                          .ecx = (uint32_t)crystal};
    if (soft_host_is_intel()) {
        add(cpuid, LEAF_TSC, 0, false, r);
    }
    add(cpuid, LEAF_FREQUENCY, 0, false, (struct registers){.eax = mhz, .ebx = mhz, .ecx = 100});
}

static void add_extended(struct x86_cpuid *cpuid)
{
    struct registers r = host_cpuid(0x80000000u, 0);
    r.eax = 0x80000021u;
    add(cpuid, 0x80000000u, 0, false, r);
    struct registers host = host_cpuid(0x80000001u, 0);
    r = (struct registers){
        .eax = host.eax,
        .ecx = host.ecx & (uint32_t)LEAF_81_ECX,
        .edx = (uint32_t)LEAF_81_EDX | (soft_host_is_intel() ? 0 : LEAF_81_EDX_AMD),
    };
    add(cpuid, 0x80000001u, 0, false, r);
    for (uint32_t leaf = 0x80000002u; leaf <= 0x80000006u; leaf++) {
        add(cpuid, leaf, 0, false, host_cpuid(leaf, 0));
    }
    /* An invariant TSC, as the host's own. */
    add(cpuid, 0x80000007u, 0, false, (struct registers){.edx = BIT(8)});
    r = (struct registers){.eax = PHYSICAL_BITS | 48u << 8};
    if (!soft_host_is_intel()) {
        r.ebx = (uint32_t)SSB_NO | (host_cpuid(0x80000008u, 0).ebx & (uint32_t)XSAVEERPTR);
    }
    add(cpuid, 0x80000008u, 0, false, r);
    if (!soft_host_is_intel()) {
        uint32_t bits = (uint32_t)(LFENCE_SERIALIZES | AUTOMATIC_IBRS | SRSO_NO);
        add(cpuid, 0x80000021u, 0, false, (struct registers){.eax = bits});
    }
}

int soft_supported_cpuid(struct x86_cpuid *out_cpuid, struct error *err)
{
    memset(out_cpuid, 0, sizeof(*out_cpuid));
    add_basic(out_cpuid);
    add_xsave(out_cpuid);
    add_clocks(out_cpuid);
    add_extended(out_cpuid);
    return 0;
}

/* The leaves that Linux knows as KVM's (Documentation/virt/kvm/x86/cpuid.rst). Not there: asynchronous page faults, which
 * let a guest run something else while the host fetches a page. A load of translated code waits for its page in the host's own
 * page fault, and this process learns of none before. */
void soft_hypervisor_cpuid(struct x86_cpuid *out_cpuid)
{
    static const unsigned features[] = {
        KVM_FEATURE_NOP_IO_DELAY,   KVM_FEATURE_CLOCKSOURCE2,
        KVM_FEATURE_STEAL_TIME,     KVM_FEATURE_PV_EOI,
        KVM_FEATURE_PV_UNHALT,      KVM_FEATURE_PV_TLB_FLUSH,
        KVM_FEATURE_PV_SEND_IPI,    KVM_FEATURE_POLL_CONTROL,
        KVM_FEATURE_PV_SCHED_YIELD, KVM_FEATURE_CLOCKSOURCE_STABLE_BIT,
    };
    struct registers signature = {.eax = LEAF_KVM_TIMING, .ebx = KVM_EBX};
    memcpy(&signature.ecx, "VMKV", 4);
    memcpy(&signature.edx, "M\0\0\0", 4);
    struct registers kvm = {0};
    for (size_t i = 0; i < ARRAY_COUNT(features); i++) {
        kvm.eax |= 1u << features[i];
    }
    memset(out_cpuid, 0, sizeof(*out_cpuid));
    add(out_cpuid, LEAF_KVM, 0, false, signature);
    add(out_cpuid, X86_CPUID_KVM_FEATURES, 0, false, kvm);
    uint32_t khz = (uint32_t)(soft_host_tsc_hz() / 1000);
    add(out_cpuid, LEAF_KVM_TIMING, 0, false, (struct registers){.eax = khz, .ebx = 1000000});
}

static struct x86_cpuid_entry find(const struct soft_vcpu *v, uint32_t leaf, uint32_t subleaf)
{
    const struct x86_cpuid_entry *entry = x86_cpuid_find(&v->cpuid, leaf, subleaf);
    return entry ? *entry : (struct x86_cpuid_entry){0};
}

/* Where CPUID announces what rows of the instruction table depend on. */
#define ANNOUNCED(name, leaf_number, subleaf_number, reg, bit_number)                              \
    {                                                                                              \
        X86_FEATURE_##name, bit_number, offsetof(struct x86_cpuid_entry, reg), leaf_number,        \
            subleaf_number                                                                         \
    }
static const struct {
    uint8_t feature, bit;
    uint16_t reg; /* where in the entry */
    uint32_t leaf, subleaf;
} announced[] = {
    ANNOUNCED(X87, 1, 0, edx, 0),
    ANNOUNCED(CLFLUSH, 1, 0, edx, 19),
    ANNOUNCED(MMX, 1, 0, edx, 23),
    ANNOUNCED(FXSR, 1, 0, edx, 24),
    ANNOUNCED(SSE, 1, 0, edx, 25),
    ANNOUNCED(SSE2, 1, 0, edx, 26),
    ANNOUNCED(SSE3, 1, 0, ecx, 0),
    ANNOUNCED(PCLMULQDQ, 1, 0, ecx, 1),
    ANNOUNCED(MONITOR, 1, 0, ecx, 3),
    ANNOUNCED(SSSE3, 1, 0, ecx, 9),
    ANNOUNCED(FMA, 1, 0, ecx, 12),
    ANNOUNCED(CX16, 1, 0, ecx, 13),
    ANNOUNCED(SSE4_1, 1, 0, ecx, 19),
    ANNOUNCED(SSE4_2, 1, 0, ecx, 20),
    ANNOUNCED(MOVBE, 1, 0, ecx, 22),
    ANNOUNCED(POPCNT, 1, 0, ecx, 23),
    ANNOUNCED(AES, 1, 0, ecx, 25),
    ANNOUNCED(XSAVE, 1, 0, ecx, 26),
    ANNOUNCED(AVX, 1, 0, ecx, 28),
    ANNOUNCED(F16C, 1, 0, ecx, 29),
    ANNOUNCED(RDRAND, 1, 0, ecx, 30),
    ANNOUNCED(FSGSBASE, 7, 0, ebx, 0),
    ANNOUNCED(BMI1, 7, 0, ebx, 3),
    ANNOUNCED(AVX2, 7, 0, ebx, 5),
    ANNOUNCED(BMI2, 7, 0, ebx, 8),
    ANNOUNCED(INVPCID, 7, 0, ebx, 10),
    ANNOUNCED(RDSEED, 7, 0, ebx, 18),
    ANNOUNCED(ADX, 7, 0, ebx, 19),
    ANNOUNCED(SMAP, 7, 0, ebx, 20),
    ANNOUNCED(CLFLUSHOPT, 7, 0, ebx, 23),
    ANNOUNCED(CLWB, 7, 0, ebx, 24),
    ANNOUNCED(SHA, 7, 0, ebx, 29),
    ANNOUNCED(VAES, 7, 0, ecx, 9),
    ANNOUNCED(VPCLMULQDQ, 7, 0, ecx, 10),
    ANNOUNCED(RDPID, 7, 0, ecx, 22),
    ANNOUNCED(XSAVEOPT, 0xd, 1, eax, 0),
    ANNOUNCED(XSAVEC, 0xd, 1, eax, 1),
    ANNOUNCED(XSAVES, 0xd, 1, eax, 3),
    ANNOUNCED(LAHF, 0x80000001u, 0, ecx, 0),
    ANNOUNCED(LZCNT, 0x80000001u, 0, ecx, 5),
    ANNOUNCED(SSE4A, 0x80000001u, 0, ecx, 6),
    ANNOUNCED(RDTSCP, 0x80000001u, 0, edx, 27),
    ANNOUNCED(WBNOINVD, 0x80000008u, 0, ebx, 9),
};

_Static_assert(X86_FEATURE_COUNT <= 64, "a bit for each in one word");

static uint64_t instruction_sets(const struct soft_vcpu *v)
{
    /* CET: what it has outside of the shadow stacks are no-operations everywhere. */
    uint64_t sets = BIT(X86_FEATURE_NONE) | BIT(X86_FEATURE_CET);
    for (size_t i = 0; i < ARRAY_COUNT(announced); i++) {
        struct x86_cpuid_entry entry = find(v, announced[i].leaf, announced[i].subleaf);
        uint32_t value;
        memcpy(&value, (const uint8_t *)&entry + announced[i].reg, sizeof(value));
        if (value & BIT(announced[i].bit)) {
            sets |= BIT(announced[i].feature);
        }
    }
    return sets;
}

static uint32_t kvm_features(const struct soft_vcpu *v)
{
    uint32_t base = x86_cpuid_kvm_base(&v->cpuid);
    return base ? find(v, base + 1, 0).eax : 0;
}

/* With icount: the TSC's rate is another, and nothing may depend on when the vCPU's thread runs on the host. */
static void own_time_in_cpuid(struct soft_vcpu *v)
{
    uint32_t base = x86_cpuid_kvm_base(&v->cpuid), khz = SOFT_ICOUNT_HZ / 1000;
    for (size_t i = 0; i < v->cpuid.count; i++) {
        struct x86_cpuid_entry *entry = &v->cpuid.entry[i];
        if (entry->leaf == LEAF_TSC && entry->ecx) {
            entry->ebx = (uint32_t)((uint64_t)SOFT_ICOUNT_HZ * entry->eax / entry->ecx);
        } else if (entry->leaf == LEAF_FREQUENCY) {
            entry->eax = entry->ebx = khz / 1000;
        } else if (base && entry->leaf == base + 1) {
            entry->eax &= ~(1u << KVM_FEATURE_STEAL_TIME | 1u << KVM_FEATURE_PV_EOI);
        } else if (base && entry->leaf == base + (LEAF_KVM_TIMING - LEAF_KVM)) {
            entry->eax = khz;
        }
    }
}

void soft_cpuid_forget(struct soft_vcpu *v)
{
    for (uint32_t i = 0; i < SOFT_CPUID_KNOWN; i++) {
        v->cpuid_known[i] = (struct soft_cpuid_known){.leaf = i + 1};
    }
}

void soft_features_set(struct soft_vcpu *v)
{
    soft_cpuid_forget(v);
    if (v->vm->icount.is_on) {
        own_time_in_cpuid(v);
    }
    struct x86_cpuid_entry leaf1 = find(v, 1, 0), leaf7 = find(v, 7, 0);
    struct x86_cpuid_entry leaf81 = find(v, 0x80000001u, 0), leaf88 = find(v, 0x80000008u, 0);
    struct x86_cpuid_entry leaf8_21 = find(v, 0x80000021u, 0);
    v->features = (struct soft_features){
        .vme = leaf1.edx & BIT(1),
        .pge = leaf1.edx & BIT(13),
        .pcid = leaf1.ecx & BIT(17),
        .x2apic = leaf1.ecx & BIT(21),
        .tsc_deadline = leaf1.ecx & BIT(24),
        .xsave = leaf1.ecx & BIT(26),
        .avx = leaf1.ecx & BIT(28),
        .fsgsbase = leaf7.ebx & BIT(0),
        .smep = leaf7.ebx & BIT(7),
        .invpcid = leaf7.ebx & BIT(10),
        .smap = leaf7.ebx & BIT(20),
        .umip = leaf7.ecx & BIT(2),
        .rdpid = leaf7.ecx & BIT(22),
        .arch_capabilities = leaf7.edx & LEAF_7_EDX_ARCH_CAP,
        .spec_ctrl = leaf7.edx & LEAF_7_EDX_SPEC_CTRL,
        .bhi_ctrl = find(v, 7, 2).edx & LEAF_7_2_EDX_BHI_CTRL,
        .automatic_ibrs = leaf8_21.eax & AUTOMATIC_IBRS,
        .nx = leaf81.edx & BIT(20),
        .ffxsr = leaf81.edx & BIT(25),
        .gbpages = leaf81.edx & BIT(26),
        .rdtscp = leaf81.edx & BIT(27),
    };
    v->paravirt.features = kvm_features(v);
    v->paravirt.has_hyperv = x86_cpuid_has_hyperv(&v->cpuid);
    v->instruction_sets =
        instruction_sets(v) |
        (v->paravirt.features || v->paravirt.has_hyperv ? BIT(X86_FEATURE_HYPERCALL) : 0);
    v->physical_bits = leaf88.eax & 0xff ? (uint8_t)(leaf88.eax & 0xff) : 36;
    if (v->physical_bits > 52) {
        v->physical_bits = 52;
    }
}
