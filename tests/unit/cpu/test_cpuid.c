/* Covers cpu/x86/cpuid.c and cpuid_check.c: what each model holds and requires, topology, XSAVE sizes, the dynamic bits,
 * which tables a guest can go on with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"

/* An engine that can do everything, of the vendor with leaf 0's 'ebx'. */
static struct x86_cpuid generous(uint32_t ebx)
{
    return (struct x86_cpuid){
        .entry = {{.leaf = 0, .eax = 0x20, .ebx = ebx, .ecx = 0x444d4163, .edx = 0x69746e65},
                  {.leaf = 1, .eax = 0xa20f10, .ecx = ~0u, .edx = ~0u},
                  {.leaf = 6, .eax = ~0u, .ecx = 1},
                  {.leaf = 7, .has_subleaf = true, .ebx = ~0u, .ecx = ~0u, .edx = ~0u},
                  {.leaf = 0xa, .eax = 0x7300402},
                  {.leaf = 0xd, .has_subleaf = true, .eax = 0x602e7, .ebx = 576, .ecx = 11008},
                  {.leaf = 0xd, .subleaf = 1, .has_subleaf = true, .eax = 0x1f, .ecx = 0x1800},
                  {.leaf = 0xd, .subleaf = 2, .has_subleaf = true, .eax = 256, .ebx = 576},
                  {.leaf = 0xd, .subleaf = 5, .has_subleaf = true, .eax = 64, .ebx = 1088},
                  {.leaf = 0xd, .subleaf = 6, .has_subleaf = true, .eax = 512, .ebx = 1152},
                  {.leaf = 0xd, .subleaf = 7, .has_subleaf = true, .eax = 1024, .ebx = 1664},
                  {.leaf = 0xd, .subleaf = 9, .has_subleaf = true, .eax = 8, .ebx = 2688},
                  {.leaf = 0xd, .subleaf = 17, .has_subleaf = true, .eax = 64, .ebx = 2752},
                  {.leaf = 0xd, .subleaf = 18, .has_subleaf = true, .eax = 8192, .ebx = 2816},
                  {.leaf = 0x80000000, .eax = 0x80000021, .ebx = ebx},
                  {.leaf = 0x80000001, .eax = 0xa20f10, .ecx = ~0u, .edx = ~0u},
                  {.leaf = 0x80000002, .eax = 0x41414141},
                  {.leaf = 0x80000007, .edx = ~0u},
                  {.leaf = 0x80000008, .eax = 0x3039, .ebx = ~0u},
                  {.leaf = 0x8000000a, .eax = 1}},
        .count = 20,
    };
}

#define AMD   0x68747541u
#define INTEL 0x756e6547u

static struct x86_cpuid must_build(const char *name, const struct x86_cpuid *supported,
                                   uint32_t count, uint32_t index)
{
    struct x86_cpuid cpuid;
    struct x86_cpuid_topology topology = {.vcpu_count = count, .vcpu_index = index};
    struct x86_cpuid hypervisor = {
        .entry = {{.leaf = 0x40000000,
                   .eax = 0x40000001,
                   .ebx = 0x4b4d564b,
                   .ecx = 0x564b4d56,
                   .edx = 0x4d},
                  {.leaf = 0x40000001, .eax = 8}},
        .count = 2,
    };
    assert_int_equal(x86_cpuid_build(name, supported, &hypervisor, &topology, &cpuid, NULL), 0);
    return cpuid;
}

struct regs {
    uint32_t v[4]; /* eax, ebx, ecx, edx */
};

static struct regs query(const struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
    struct regs regs;
    x86_cpuid_query(cpuid, leaf, subleaf, 0, X86_XCR0_X87, X86_APIC_BASE_ENABLE, regs.v);
    return regs;
}

static void levels_are_those_of_the_psabi(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    struct x86_cpuid v2 = must_build("x86-64-v2", &supported, 1, 0);
    uint32_t ecx = query(&v2, 1, 0).v[2];
    assert_int_equal(ecx & (1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23),
                     1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23);
    assert_int_equal(ecx & (1 << 12 | 1 << 22 | 1 << 26 | 1 << 28 | 1 << 29), 0);
    assert_int_equal(ecx >> 31, 1);
    assert_int_equal(ecx & (1 << 5), 0); /* VMX */
    assert_int_equal(query(&v2, 7, 0).v[1] & (1 << 3 | 1 << 5 | 1 << 8 | 1 << 16), 0);
    assert_null(x86_cpuid_find(&v2, 0xd, 0));
    assert_int_equal(query(&v2, 0x80000001, 0).v[2] & 1, 1);
    assert_int_equal(query(&v2, 0x80000001, 0).v[3] & (1 << 29), 1 << 29);

    struct x86_cpuid v3 = must_build("x86-64-v3", &supported, 1, 0);
    ecx = query(&v3, 1, 0).v[2];
    assert_int_equal(ecx & (1 << 12 | 1 << 22 | 1 << 26 | 1 << 28 | 1 << 29),
                     1 << 12 | 1 << 22 | 1 << 26 | 1 << 28 | 1 << 29);
    assert_int_equal(query(&v3, 7, 0).v[1] & (1 << 3 | 1 << 5 | 1 << 8 | 1 << 16),
                     1 << 3 | 1 << 5 | 1 << 8);
    assert_int_equal(query(&v3, 0x80000001, 0).v[2] & (1 << 5), 1 << 5);
    assert_int_equal(query(&v3, 0xd, 0).v[0], 7);
    assert_int_equal(query(&v3, 0xd, 0).v[2], 832);
}

static void models_name_what_the_engine_lacks(void **state)
{
    struct x86_cpuid supported = generous(INTEL);
    struct x86_cpuid_topology topology = {.vcpu_count = 1};
    struct x86_cpuid cpuid = {.count = 99};
    struct error err;
    supported.entry[3].ebx &= ~(1u << 5);
    assert_int_equal(x86_cpuid_build("x86-64-v3", &supported, NULL, &topology, &cpuid, &err),
                     -EINVAL);
    assert_string_equal(err.text, "the CPU model x86-64-v3 needs 'avx2', which this engine lacks");
    assert_int_equal(cpuid.count, 99);
    assert_int_equal(x86_cpuid_build("x86-64-v2", &supported, NULL, &topology, &cpuid, &err), 0);
    assert_int_equal(x86_cpuid_build("x86-64-v9", &supported, NULL, &topology, &cpuid, &err),
                     -EINVAL);
    for (size_t i = 0; x86_cpuid_models[i] != NULL; i++) {
        assert_non_null(strstr("host x86-64-v2 x86-64-v3", x86_cpuid_models[i]));
    }
    /* An optional feature that the engine lacks is left out. */
    supported.entry[1].ecx &= ~(1u << 21);
    assert_int_equal(x86_cpuid_build("x86-64-v2", &supported, NULL, &topology, &cpuid, &err), 0);
    assert_int_equal(query(&cpuid, 1, 0).v[2] & (1 << 21), 0);
}

static void host_passes_on_what_can_be_saved(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    struct x86_cpuid host = must_build("host", &supported, 1, 0);
    assert_int_equal(query(&host, 0, 0).v[1], AMD);
    assert_int_equal(query(&host, 1, 0).v[0], 0xa20f10);
    assert_int_equal(query(&host, 1, 0).v[2] & (1 << 5 | 1 << 3), 0);
    assert_int_equal(query(&host, 0x80000001, 0).v[2] & (1 << 2), 0); /* SVM */
    assert_int_equal(query(&host, 7, 0).v[1] & (1 << 16), 1 << 16);   /* AVX-512 */
    assert_int_equal(query(&host, 7, 0).v[3] & (1 << 24 | 1 << 20), 0);
    assert_int_equal(query(&host, 0xa, 0).v[0], 0);
    assert_int_equal(query(&host, 0x8000000a, 0).v[0], 0);
    assert_int_equal(query(&host, 0x80000002, 0).v[0], 0x41414141);
    assert_int_equal(query(&host, 0x80000008, 0).v[0] & 0xffff, 0x3039);
    /* No AMX tiles: they do not fit into the area. */
    assert_int_equal(query(&host, 0xd, 0).v[0], 0x2e7);
    assert_int_equal(query(&host, 0xd, 0).v[2], 2696);
    assert_int_equal(query(&host, 0xd, 18).v[0], 0);
    assert_int_equal(query(&host, 0xd, 1).v[0], 7);
    assert_int_equal(query(&host, 0xd, 1).v[2], 0);
    assert_int_equal(query(&host, 0x40000000, 0).v[1], 0x4b4d564b);
}

static struct x86_cpuid_entry *entry_of(struct x86_cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
    struct x86_cpuid_entry *entry =
        (struct x86_cpuid_entry *)(uintptr_t)x86_cpuid_find(cpuid, leaf, subleaf);
    assert_non_null(entry);
    return entry;
}

static void check_refuses(const struct x86_cpuid *seen, const struct x86_cpuid *offered,
                          const char *words)
{
    struct error err = {0};
    assert_int_equal(x86_cpuid_check(seen, offered, false, &err), -EINVAL);
    if (strstr(err.text, words) == NULL) {
        fail_msg("'%s' is not in: %s", words, err.text);
    }
}

static void guest_keeps_its_features(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    const struct x86_cpuid rich = must_build("host", &supported, 2, 0);
    struct x86_cpuid poor = rich;
    assert_int_equal(x86_cpuid_check(&rich, &rich, false, NULL), 0);
    entry_of(&poor, 7, 0)->ebx &= ~(1u << 5 | 1u << 8 | 1u << 16);
    assert_int_equal(x86_cpuid_check(&poor, &rich, false, NULL), 0);
    check_refuses(&rich, &poor, "not here: avx2, bmi2, CPUID 0x7.0 ebx bit 16");
    poor = rich;
    entry_of(&poor, 0, 0)->ebx = 0x756e6547;
    check_refuses(&rich, &poor, "vendor");
    assert_int_equal(x86_cpuid_check(&rich, &poor, true, NULL), 0);
    struct x86_cpuid strange = rich;
    entry_of(&strange, 0, 0)->ebx = 1;
    struct error err = {0};
    assert_int_equal(x86_cpuid_check(&strange, &rich, true, &err), -EINVAL);
    poor = rich;
    entry_of(&poor, 0x80000008, 0)->eax -= 1;
    check_refuses(&rich, &poor, "physical addresses of 57 bits, here are 56");
    poor = rich;
    entry_of(&poor, 0xd, 2)->ebx += 64;
    check_refuses(&rich, &poor, "extended state");
    /* No leaves at all: every feature is missing, and the message ends in time. */
    poor.count = 0;
    check_refuses(&rich, &poor, "sse3");
}

/* What only some engines have is not in a named model: neither CPU features nor paravirtual ones. */
static void named_models_are_portable(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    struct x86_cpuid cpuid = must_build("x86-64-v2", &supported, 2, 0);
    assert_int_equal(query(&cpuid, 1, 0).v[2] & (1 << 17), 0);         /* PCID */
    assert_int_equal(query(&cpuid, 7, 0).v[1] & (1 << 10), 0);         /* INVPCID */
    assert_int_equal(query(&cpuid, 0x80000007, 0).v[3] & (1 << 8), 0); /* invariant TSC */
    struct x86_cpuid hypervisor = {
        .entry = {{.leaf = 0x40000000, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
                  {.leaf = X86_CPUID_KVM_FEATURES, .eax = ~0u}},
        .count = 2,
    };
    const struct x86_cpuid_topology topology = {1, 0};
    struct error err;
    const struct {
        const char *model;
        uint32_t features;
    } cases[] = {{"x86-64-v2", 0x01003aea}, {"x86-64-v3", 0x01003aea}, {"host", ~0u}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(
            x86_cpuid_build(cases[i].model, &supported, &hypervisor, &topology, &cpuid, &err), 0);
        assert_int_equal(x86_cpuid_find(&cpuid, X86_CPUID_KVM_FEATURES, 0)->eax, cases[i].features);
    }
}

static void topology_of_amd(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    struct x86_cpuid cpuid = must_build("host", &supported, 6, 5);
    assert_int_equal(query(&cpuid, 1, 0).v[1], 5 << 24 | 8 << 16 | 8 << 8);
    assert_int_equal(query(&cpuid, 1, 0).v[3] & (1 << 28), 1 << 28);
    assert_int_equal(query(&cpuid, 0x80000001, 0).v[2] & 2, 2);
    assert_int_equal(query(&cpuid, 0x80000008, 0).v[2], 3 << 12 | 5);
    assert_int_equal(query(&cpuid, 0x8000001e, 0).v[0], 5);
    assert_int_equal(query(&cpuid, 0x8000001e, 0).v[1], 5);
    assert_int_equal(query(&cpuid, 0x8000001d, 3).v[0], 3 | 3 << 5 | 1 << 8 | 7 << 14);
    assert_int_equal(query(&cpuid, 0x8000001d, 4).v[0], 0);
    assert_int_equal(query(&cpuid, 0xb, 1).v[0], 3);
    assert_int_equal(query(&cpuid, 0xb, 1).v[1], 6);
    assert_int_equal(query(&cpuid, 0xb, 1).v[2], 0x201);
    assert_int_equal(query(&cpuid, 0xb, 9).v[2], 9);
    assert_int_equal(query(&cpuid, 0xb, 9).v[3], 5);
    assert_int_equal(query(&cpuid, 0x80000000, 0).v[0], 0x8000001e);

    struct x86_cpuid alone = must_build("x86-64-v3", &supported, 1, 0);
    assert_int_equal(query(&alone, 1, 0).v[1], 1 << 16 | 8 << 8);
    assert_int_equal(query(&alone, 1, 0).v[3] & (1 << 28), 0);
    assert_int_equal(query(&alone, 0x80000001, 0).v[2] & 2, 0);
}

static void topology_of_intel(void **state)
{
    struct x86_cpuid supported = generous(INTEL);
    struct x86_cpuid cpuid = must_build("host", &supported, 64, 63);
    assert_int_equal(query(&cpuid, 1, 0).v[1], (63u << 24 | 64 << 16 | 8 << 8));
    assert_int_equal(query(&cpuid, 4, 0).v[0], (1 | 1 << 5 | 1 << 8 | 63u << 26));
    assert_int_equal(query(&cpuid, 4, 3).v[0], (3 | 3 << 5 | 1 << 8 | 63 << 14 | 63u << 26));
    assert_int_equal(query(&cpuid, 4, 4).v[0], 0);
    assert_int_equal(query(&cpuid, 0xb, 0).v[1], 1);
    assert_int_equal(query(&cpuid, 0xb, 1).v[0], 6);
    assert_int_equal(query(&cpuid, 0xb, 1).v[3], 63);
    assert_int_equal(query(&cpuid, 0x8000001d, 0).v[0], 0);
}

static void queries_follow_control_registers(void **state)
{
    struct x86_cpuid supported = generous(AMD);
    struct x86_cpuid cpuid = must_build("host", &supported, 1, 0);
    uint32_t regs[4];
    x86_cpuid_query(&cpuid, 1, 0, 0, 1, 0, regs);
    assert_int_equal(regs[2] & (1 << 27), 0);
    assert_int_equal(regs[3] & (1 << 9), 0);
    x86_cpuid_query(&cpuid, 1, 7, X86_CR4_OSXSAVE, 1, X86_APIC_BASE_ENABLE, regs);
    assert_int_equal(regs[2] & (1 << 27), 1 << 27);
    assert_int_equal(regs[3] & (1 << 9), 1 << 9);
    x86_cpuid_query(&cpuid, 7, 0, X86_CR4_PKE, 1, 0, regs);
    assert_int_equal(regs[2] & (1 << 4), 1 << 4);
    x86_cpuid_query(&cpuid, 7, 0, 0, 1, 0, regs);
    assert_int_equal(regs[2] & (1 << 4), 0);
    x86_cpuid_query(&cpuid, 0xd, 0, 0, 1, 0, regs);
    assert_int_equal(regs[1], 576);
    x86_cpuid_query(&cpuid, 0xd, 0, 0, 0x207, 0, regs);
    assert_int_equal(regs[1], 2696);
    x86_cpuid_query(&cpuid, 0xd, 1, 0, 0x207, 0, regs);
    assert_int_equal(regs[1], 576 + 256 + 8);
    x86_cpuid_query(&cpuid, 0x1234, 0, 0, 1, 0, regs);
    assert_int_equal(regs[0] | regs[1] | regs[2] | regs[3], 0);
}

/* The smallest table that makes sense is still one that can be built from. */
static void host_can_be_poor(void **state)
{
    struct x86_cpuid supported = {.entry = {{.leaf = 0, .eax = 1}}, .count = 1};
    struct x86_cpuid cpuid = must_build("host", &supported, 2, 1);
    assert_int_equal(query(&cpuid, 0, 0).v[0], 0xb);
    uint32_t brand = query(&cpuid, 0x80000002, 0).v[0];
    assert_memory_equal(&brand, "Hull", 4);
    assert_null(x86_cpuid_find(&cpuid, 0xd, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_are_those_of_the_psabi),
        cmocka_unit_test(models_name_what_the_engine_lacks),
        cmocka_unit_test(host_passes_on_what_can_be_saved),
        cmocka_unit_test(guest_keeps_its_features),
        cmocka_unit_test(named_models_are_portable),
        cmocka_unit_test(topology_of_amd),
        cmocka_unit_test(topology_of_intel),
        cmocka_unit_test(queries_follow_control_registers),
        cmocka_unit_test(host_can_be_poor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
