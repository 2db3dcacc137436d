/* KVM's and Hyper-V's interfaces of the software engine, from the side of who saves and restores: what stands in the state and in the
 * guest's memory while a vCPU does not run, addresses that are none, the dirty log. */
#include "soft_guest.h"

#include <errno.h>

#include "cpu/x86/hypervisor.h"

#define STEAL          0x200000u
#define STEAL_VERSION  (STEAL + 8)
#define PREEMPTED_WORD (STEAL + 16)
#define FLUSH_TLB      2u
#define NOWHERE        0x7fff0000000ull
#define TSC_PAGE       0x210000u
#define CALL_PAGE      0x211000u

GUEST_CODE_BLOCK(leave, ".code64", "out %al, $0xf4\n 1: jmp 1b\n");
GUEST_CODE_BLOCK(halt, ".code64", "cli\n hlt\n mov $7, %al\n out %al, $0xf4\n 1: jmp 1b\n");
/* VMCALL with the registers that it is given. */
GUEST_CODE_BLOCK(call, ".code64", "vmcall\n out %al, $0xf4\n 1: jmp 1b\n");
/* Reads through 0x300000, whose translation is known then. */
GUEST_CODE_BLOCK(look, ".code64",
                 "mov 0x300000, %rbx\n out %al, $0xf4\n mov 0x300000, %rbx\n"
                 "out %al, $0xf4\n 1: jmp 1b\n");

static void announce(struct soft_guest *g, uint32_t count, bool has_hyperv)
{
    struct error err = {0};
    struct x86_cpuid supported, kvm, leaves, cpuid;
    const struct x86_cpu_choice choice = {.has_kvm = true, .has_hyperv = has_hyperv};
    assert_int_equal(soft_engine_ops.supported_cpuid(&supported, &err), 0);
    soft_engine_ops.hypervisor_cpuid(&kvm);
    x86_hypervisor_build(&choice, count, &kvm, &leaves);
    for (uint32_t i = 0; i < count; i++) {
        const struct x86_cpuid_topology topology = {.vcpu_count = count, .vcpu_index = i};
        assert_int_equal(x86_cpuid_build("host", &supported, &leaves, &topology, &cpuid, &err), 0);
        assert_int_equal(soft_engine_ops.vcpu_set_cpuid(g->vcpu[i], &cpuid, &err), 0);
    }
}

static uint8_t preempted(struct soft_guest *g)
{
    return (uint8_t)guest_get64(g, PREEMPTED_WORD);
}

static void test_paused_is_preempted(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    guest_start(&g, 1);
    announce(&g, 1, false);
    guest_long_mode(&g, 0, look, GUEST_CODE_SIZE(look), &s);
    guest_put64(&g, 0x300000, 1);
    guest_put64(&g, 0x301000, 2);
    s.kvm_steal_time = STEAL | 1;
    assert_int_equal(guest_run(&g, 0, &s, &s), VCPU_EXIT_KICKED);
    assert_int_equal(s.gpr[X86_RBX], 1);
    assert_int_equal(s.kvm_steal_time, STEAL | 1);
    assert_int_equal(preempted(&g), 1);
    assert_int_equal(guest_get64(&g, STEAL_VERSION) & 1, 0);
    /* Another vCPU changes the page table, and leaves the flush to this one. */
    guest_put64(&g, GUEST_PML4 + 0x3000 + 0x1000 + 0x100 * 8, 0x301000 | 7);
    guest_put64(&g, PREEMPTED_WORD, 1 | FLUSH_TLB);
    assert_int_equal(soft_engine_ops.vcpu_run(g.vcpu[0]), VCPU_EXIT_KICKED);
    assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[0], &s, &err), 0);
    assert_int_equal(s.gpr[X86_RBX], 2);
    assert_int_equal(preempted(&g), 1);
    guest_end(&g);
}

/* Each write of the engine's own is in the log of written pages. */
static void test_writes_are_logged(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    struct error err = {0};
    static uint64_t bitmap[GUEST_SIZE / 4096 / 64];
    guest_start(&g, 1);
    announce(&g, 1, true);
    guest_long_mode(&g, 0, leave, GUEST_CODE_SIZE(leave), &s);
    s.kvm_steal_time = STEAL | 1;
    s.hyperv_guest_os_id = 1;
    s.hyperv_reference_tsc = TSC_PAGE | 1;
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(soft_engine_ops.vm_log_start(g.vm, &err), 0);
    soft_engine_ops.vm_set_clock(g.vm, 1000000000);
    assert_int_equal(guest_run(&g, 0, &s, &s), VCPU_EXIT_KICKED);
    assert_int_equal(soft_engine_ops.vm_log_fetch(g.vm, 0, bitmap, &err), 0);
    assert_true(bitmap[(STEAL >> 12) / 64] >> (STEAL >> 12) % 64 & 1);
    assert_true(bitmap[(TSC_PAGE >> 12) / 64] >> (TSC_PAGE >> 12) % 64 & 1);
    assert_int_not_equal((uint32_t)guest_get64(&g, TSC_PAGE), 0);
    assert_int_equal(s.hyperv_guest_os_id, 1);
    assert_int_equal(s.hyperv_reference_tsc, TSC_PAGE | 1);
    soft_engine_ops.vm_log_stop(g.vm);
    guest_end(&g);
}

static void test_addresses_without_memory(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    guest_start(&g, 1);
    announce(&g, 1, true);
    guest_long_mode(&g, 0, leave, GUEST_CODE_SIZE(leave), &s);
    s.kvm_steal_time = NOWHERE | 1;
    s.kvm_pv_eoi = NOWHERE | 1;
    s.hyperv_guest_os_id = 1;
    s.hyperv_reference_tsc = NOWHERE | 1;
    s.hyperv_hypercall = NOWHERE | 1;
    soft_engine_ops.vm_set_clock(g.vm, 1);
    assert_int_equal(guest_run(&g, 0, &s, &s), VCPU_EXIT_KICKED);
    guest_end(&g);
}

/* A kick that came before the HLT moves with the VM. */
static void test_kick_is_saved(void **state)
{
    struct soft_guest g;
    struct x86_state s;
    guest_start(&g, 2);
    announce(&g, 2, false);
    guest_long_mode(&g, 0, call, GUEST_CODE_SIZE(call), &s);
    s.gpr[X86_RAX] = 5; /* KVM_HC_KICK_CPU */
    s.gpr[X86_RCX] = 1;
    assert_int_equal(guest_run(&g, 0, &s, &s), VCPU_EXIT_KICKED);
    assert_int_equal(s.gpr[X86_RAX], 0);
    struct x86_state other;
    struct error err = {0};
    assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[1], &other, &err), 0);
    assert_true(other.pv_unhalted);
    guest_long_mode(&g, 1, halt, GUEST_CODE_SIZE(halt), &other);
    other.pv_unhalted = true;
    assert_int_equal(guest_run(&g, 1, &other, &other), VCPU_EXIT_KICKED);
    assert_int_equal(g.exit_value, 7);
    assert_false(other.pv_unhalted);
    guest_end(&g);
}

static int64_t hypercall(struct soft_guest *g, uint64_t number, const uint64_t argument[4])
{
    struct x86_state s;
    guest_long_mode(g, 0, call, GUEST_CODE_SIZE(call), &s);
    s.gpr[X86_RAX] = number;
    s.gpr[X86_RBX] = argument[0];
    s.gpr[X86_RCX] = argument[1];
    s.gpr[X86_RDX] = argument[2];
    s.gpr[X86_RSI] = argument[3];
    assert_int_equal(guest_run(g, 0, &s, &s), VCPU_EXIT_KICKED);
    return (int64_t)s.gpr[X86_RAX];
}

static void test_hypercalls(void **state)
{
    struct soft_guest g;
    guest_start(&g, 1);
    announce(&g, 1, false);
    assert_int_equal(hypercall(&g, 4711, (uint64_t[4]){0}), -1000);
    /* Nobody delivers interrupts here. */
    assert_int_equal(hypercall(&g, 10, (uint64_t[4]){1, 0, 0, 0x40}), -95);
    assert_int_equal(hypercall(&g, 5, (uint64_t[4]){0, ~0ull}), 0);
    assert_int_equal(hypercall(&g, 11, (uint64_t[4]){~0ull}), 0);
    /* A clock pairing across two pages, nowhere, and half nowhere. */
    assert_int_equal(hypercall(&g, 9, (uint64_t[4]){STEAL - 8}), 0);
    assert_true(guest_get64(&g, STEAL - 8) > 1600000000);
    assert_true(guest_get64(&g, STEAL) < 1000000000);
    assert_int_equal(hypercall(&g, 9, (uint64_t[4]){NOWHERE}), -EFAULT);
    assert_int_equal(hypercall(&g, 9, (uint64_t[4]){GUEST_SIZE - 8}), -EFAULT);
    assert_int_equal(hypercall(&g, 9, (uint64_t[4]){~0ull - 7}), -EFAULT);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paused_is_preempted),
        cmocka_unit_test(test_writes_are_logged),
        cmocka_unit_test(test_addresses_without_memory),
        cmocka_unit_test(test_kick_is_saved),
        cmocka_unit_test(test_hypercalls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
