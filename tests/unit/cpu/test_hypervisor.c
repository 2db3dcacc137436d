/* What --cpu says of the hypervisor's interfaces, and the leaves that follow from it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cpu/x86/hypervisor.h"

#define KVM_EBX    0x4b4d564bu
#define HYPERV_EBX 0x7263694du

static const struct x86_cpuid kvm = {
    .entry =
        {{.leaf = 0x40000000, .eax = 0x40000010, .ebx = KVM_EBX, .ecx = 0x564b4d56, .edx = 0x4d},
         {.leaf = 0x40000001, .eax = 0x3f},
         {.leaf = 0x40000010, .eax = 2000000}},
    .count = 3,
};

static void test_choices(void **state)
{
    const struct {
        const char *text, *model;
        bool has_hyperv, has_kvm;
    } right[] = {
        {"host", "host", false, true},
        {"x86-64-v2,hyperv=on", "x86-64-v2", true, true},
        {"x86-64-v3,hyperv=on,kvm=off", "x86-64-v3", true, false},
        {"host,kvm=off,kvm=on,hyperv=off", "host", false, true},
    };
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        struct x86_cpu_choice choice;
        assert_int_equal(x86_cpu_choice_parse(right[i].text, &choice, NULL), 0);
        assert_string_equal(choice.model, right[i].model);
        assert_int_equal(choice.has_hyperv, right[i].has_hyperv);
        assert_int_equal(choice.has_kvm, right[i].has_kvm);
    }
    static const char *const wrong[] = {"host,",           "host,hyperv",     "host,hyperv=",
                                        "host,hyperv=yes", "host,hypervx=on", "host,,kvm=on"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct x86_cpu_choice choice;
        struct error err = {0};
        assert_int_equal(x86_cpu_choice_parse(wrong[i], &choice, &err), -EINVAL);
        assert_non_null(strstr(err.text, "hyperv=on|off"));
    }
    /* Too long to be the name of a model: cut, so that it is none. */
    struct x86_cpu_choice choice;
    assert_int_equal(
        x86_cpu_choice_parse("hosthosthosthosthosthosthosthosthosthosthosthost", &choice, NULL), 0);
    assert_int_equal(strlen(choice.model), sizeof(choice.model) - 1);
}

static void test_leaves(void **state)
{
    struct x86_cpu_choice choice = {.has_kvm = true};
    struct x86_cpuid leaves;
    x86_hypervisor_build(&choice, 2, &kvm, &leaves);
    assert_int_equal(leaves.count, kvm.count);
    assert_int_equal(x86_cpuid_kvm_base(&leaves), 0x40000000);
    assert_false(x86_cpuid_has_hyperv(&leaves));

    choice.has_hyperv = true;
    x86_hypervisor_build(&choice, 2, &kvm, &leaves);
    assert_int_equal(x86_cpuid_find(&leaves, 0x40000000, 0)->ebx, HYPERV_EBX);
    assert_true(x86_cpuid_has_hyperv(&leaves));
    assert_int_equal(x86_cpuid_kvm_base(&leaves), 0x40000100);
    assert_int_equal(x86_cpuid_find(&leaves, 0x40000100, 0)->eax, 0x40000110);
    assert_int_equal(x86_cpuid_find(&leaves, 0x40000101, 0)->eax, 0x3f);
    assert_int_equal(x86_cpuid_find(&leaves, 0x40000110, 0)->eax, 2000000);
    /* No signature's maximum lies below what there is. */
    for (size_t i = 0; i < leaves.count; i++) {
        uint32_t leaf = leaves.entry[i].leaf, base = leaf & ~0xffu;
        assert_true(leaf <= x86_cpuid_find(&leaves, base, 0)->eax);
    }

    choice.has_kvm = false;
    x86_hypervisor_build(&choice, 2, &kvm, &leaves);
    assert_int_equal(x86_cpuid_kvm_base(&leaves), 0);
    choice.has_hyperv = false;
    x86_hypervisor_build(&choice, 2, &kvm, &leaves);
    assert_int_equal(leaves.count, 0);
}

/* Both interfaces are the guest's to keep, KVM's wherever it is. */
static void test_guest_keeps_them(void **state)
{
    struct x86_cpu_choice choice = {.has_kvm = true, .has_hyperv = true};
    struct x86_cpuid seen, offered;
    struct x86_cpuid poor = kvm;
    struct error err = {0};
    poor.entry[1].eax &= ~(1u << 5);
    x86_hypervisor_build(&choice, 2, &kvm, &seen);
    x86_hypervisor_build(&choice, 2, &kvm, &offered);
    assert_int_equal(x86_cpuid_check(&seen, &offered, false, &err), 0);
    x86_hypervisor_build(&choice, 2, &poor, &offered);
    assert_int_equal(x86_cpuid_check(&seen, &offered, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "kvm steal time"));
    choice.has_hyperv = false;
    x86_hypervisor_build(&choice, 2, &kvm, &offered);
    assert_int_equal(x86_cpuid_check(&seen, &offered, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "hyper-v hypercalls"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_guest_keeps_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
