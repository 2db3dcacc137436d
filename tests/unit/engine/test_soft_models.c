/* Instructions that the CPU model of the guest lacks do not exist for it, whatever the host has. */
#include "soft_guest.h"

/* #UD ends it; else the end of the code does. */
#define MODEL_CODE(name, text)                                                                     \
    GUEST_CODE_BLOCK(name, ".code64",                                                              \
                     text "\n mov $1, %al\n out %al, $0xf4\n hlt\n.org " #name                     \
                          " + 0x100\n mov $6, %al\n out %al, $0xf4\n hlt\n")

MODEL_CODE(avx, "vxorps %ymm1, %ymm1, %ymm1");
MODEL_CODE(bmi2, "pdep %rax, %rbx, %rcx");
MODEL_CODE(fused, "vfmadd132ps %xmm1, %xmm2, %xmm3");
MODEL_CODE(movbe, "movbe %eax, 0x20000");
MODEL_CODE(rdrand, "rdrand %rbx");
MODEL_CODE(sha, "sha1nexte %xmm1, %xmm2");
MODEL_CODE(rdpid, "rdpid %rbx");
MODEL_CODE(sse42, "crc32 %rax, %rbx");
MODEL_CODE(popcnt, "popcnt %rax, %rbx");
MODEL_CODE(cx16, "lock cmpxchg16b 0x20000");
MODEL_CODE(vmcall, "vmcall");
MODEL_CODE(rdsspq, "rdsspq %rbx\n endbr64\n wbnoinvd");
/* Of 0: ZF, and BSF leaves the destination while TZCNT sets it to 64; of 0x18000: 15, and 16 or 47 from above. */
MODEL_CODE(count_zeros, "mov $0x18000, %eax\n xor %edx, %edx\n mov $0x55, %esi\n"
                        "tzcnt %rax, %rbx\n lzcnt %rax, %rcx\n tzcnt %rdx, %rsi");

static uint8_t run_model(const char *model, const uint8_t *code, size_t size,
                         struct x86_state *out_after)
{
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    struct x86_cpuid supported, cpuid;
    const struct x86_cpuid_topology topology = {.vcpu_count = 1};
    guest_start(&g, 1);
    assert_int_equal(soft_engine_ops.supported_cpuid(&supported, &err), 0);
    assert_int_equal(x86_cpuid_build(model, &supported, NULL, &topology, &cpuid, &err), 0);
    assert_int_equal(soft_engine_ops.vcpu_set_cpuid(g.vcpu[0], &cpuid, &err), 0);
    guest_long_mode(&g, 0, code, size, &s);
    const struct x86_cpuid_entry *xsave = x86_cpuid_find(&cpuid, 0xd, 0);
    if (xsave != NULL && xsave->eax != 0) {
        s.cr4 |= X86_CR4_OSXSAVE;
        s.xcr0 = xsave->eax & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
    }
    guest_gate(&g, X86_UD, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, out_after), VCPU_EXIT_KICKED);
    uint8_t value = g.exit_value;
    guest_end(&g);
    return value;
}

#define RUN_MODEL(model, name, out_after) run_model(model, name, GUEST_CODE_SIZE(name), out_after)

static void test_not_announced(void **state)
{
    struct x86_state after;
    assert_int_equal(RUN_MODEL("x86-64-v2", avx, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", bmi2, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", fused, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", movbe, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", rdrand, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", sha, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", rdpid, &after), X86_UD);
    assert_int_equal(RUN_MODEL("x86-64-v2", vmcall, &after), X86_UD);
}

static void test_announced(void **state)
{
    struct x86_state after;
    assert_int_equal(RUN_MODEL("x86-64-v2", sse42, &after), 1);
    assert_int_equal(RUN_MODEL("x86-64-v2", popcnt, &after), 1);
    assert_int_equal(RUN_MODEL("x86-64-v2", cx16, &after), 1);
    assert_int_equal(RUN_MODEL("x86-64-v2", rdsspq, &after), 1);
    assert_int_equal(RUN_MODEL("host", rdpid, &after), 1);
}

static void test_older_meaning(void **state)
{
    struct error err = {0};
    struct x86_cpuid supported, cpuid;
    const struct x86_cpuid_topology topology = {.vcpu_count = 1};
    struct x86_state after;
    assert_int_equal(RUN_MODEL("x86-64-v2", count_zeros, &after), 1);
    assert_int_equal(after.gpr[X86_RBX], 15);
    assert_int_equal(after.gpr[X86_RCX], 16);
    assert_int_equal(after.gpr[X86_RSI], 0x55);
    assert_int_equal(soft_engine_ops.supported_cpuid(&supported, &err), 0);
    if (x86_cpuid_build("x86-64-v3", &supported, NULL, &topology, &cpuid, &err) < 0) {
        return; /* this host has no such CPU */
    }
    assert_int_equal(RUN_MODEL("x86-64-v3", count_zeros, &after), 1);
    assert_int_equal(after.gpr[X86_RBX], 15);
    assert_int_equal(after.gpr[X86_RCX], 47);
    assert_int_equal(after.gpr[X86_RSI], 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_announced),
        cmocka_unit_test(test_announced),
        cmocka_unit_test(test_older_meaning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
