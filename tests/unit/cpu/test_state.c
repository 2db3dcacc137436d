/* Covers cpu/x86/state.c: the values of SDM 3A table 9-1, and what INIT keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/x86/state.h"

static void reset(void **state)
{
    static struct x86_state cpu;
    memset(&cpu, 0xa5, sizeof(cpu));
    x86_state_reset(&cpu, true, false);
    assert_true(cpu.rip == 0xfff0 && cpu.rflags == 2 && cpu.cr0 == 0x60000010);
    assert_true(cpu.segment[X86_CS].selector == 0xf000 && cpu.segment[X86_CS].base == 0xffff0000 &&
                cpu.segment[X86_CS].limit == 0xffff && cpu.segment[X86_CS].attributes == 0x9b);
    assert_true(cpu.segment[X86_SS].base == 0 && cpu.segment[X86_SS].attributes == 0x93);
    assert_true(cpu.ldtr.attributes == 0x82 && cpu.tr.attributes == 0x8b);
    assert_true(cpu.gdtr.base == 0 && cpu.gdtr.limit == 0xffff && cpu.idtr.limit == 0xffff);
    assert_true(cpu.dr6 == 0xffff0ff0 && cpu.dr7 == 0x400);
    assert_true(cpu.xcr0 == 1 && cpu.pat == 0x0007040600070406);
    assert_true(cpu.xsave[0] == 0x40 && cpu.xsave[24] == 0x80 && cpu.xsave[25] == 0x1f);
    assert_true(cpu.apic_base == 0xfee00900);
    assert_int_equal(cpu.activity, X86_ACTIVITY_RUNNING);

    x86_state_reset(&cpu, false, false);
    assert_true(cpu.apic_base == 0xfee00800);
    assert_int_equal(cpu.activity, X86_ACTIVITY_WAIT_FOR_INIT);
}

static void init_keeps(void **state)
{
    static struct x86_state cpu;
    x86_state_reset(&cpu, false, false);
    cpu.cr0 = 0x80000011; /* caching was switched on: CD, NW are clear */
    cpu.cr4 = 0x20;
    cpu.efer = X86_EFER_LME | X86_EFER_LMA;
    cpu.xsave[160] = 0x77;
    cpu.tsc = 1000;
    cpu.lstar = 0x1234;
    cpu.gpr[X86_RBX] = 1;
    cpu.exception_pending = true;
    x86_state_reset(&cpu, false, true);
    assert_true(cpu.cr0 == 0x10 && cpu.cr4 == 0 && cpu.efer == 0);
    assert_true(cpu.xsave[160] == 0x77 && cpu.tsc == 1000 && cpu.lstar == 0x1234);
    assert_true(cpu.gpr[X86_RBX] == 0 && cpu.rip == 0xfff0 && !cpu.exception_pending);
    assert_int_equal(cpu.activity, X86_ACTIVITY_WAIT_FOR_SIPI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset),
        cmocka_unit_test(init_keeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
