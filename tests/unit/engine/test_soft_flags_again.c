/* Status flags behind returns and other indirect branches, which translated code makes again rather than save: what functions of all
 * kinds leave in them is what the interpreter says. */
#include "soft_guest.h"

#include "base/core/bits.h"
#include "engine/soft/vcpu.h"

/* R8 sums up the flags behind calls of all functions, with operands that change from round to round; each one in RSI and RDI. The last
 * is one that goes on by an indirect jump, and one that calls by a register; their targets look at flags. */
GUEST_CODE_BLOCK(
    functions, ".code64",
    "mov $300, %ebp\n mov $12345, %r9d\n mov $1, %r10d\n xor %r8d, %r8d\n"
    "1: xor %r11d, %r11d\n"
    "2: imul $0x19660d, %r9, %r9\n add $0x3c6ef35f, %r9\n mov %r9, %rsi\n rol $29, %r9\n"
    "mov %r9, %rdi\n test $3, %r10b\n jnz 5f\n mov %rsi, %rdi\n 5: inc %r10\n"
    "lea table(%rip), %rax\n movslq (%rax,%r11,4), %rcx\n add %rax, %rcx\n"
    "mov %rsi, %rdx\n stc\n call *%rcx\n"
    "pushfq\n pop %rax\n and $0x8d5, %eax\n xor %rdx, %rax\n imul $31, %r8, %r8\n add %rax, %r8\n"
    "inc %r11d\n cmp $(table_end - table) / 4, %r11d\n jne 2b\n"
    "dec %ebp\n jnz 1b\n mov %r8, 0x200000\n out %al, $0xf4\n hlt\n"
    "table: .long f1 - table, f2 - table, f3 - table, f4 - table, f5 - table, f6 - table\n"
    ".long f7 - table, f8 - table, f9 - table, f10 - table, f11 - table, f12 - table\n"
    ".long f13 - table, f14 - table, f15 - table, f16 - table, f17 - table, f18 - table\n"
    ".long f19 - table, f20 - table, f21 - table, f22 - table, f23 - table, f24 - table\n"
    ".long f25 - table, f26 - table, f27 - table, f28 - table\n table_end:\n"
    "f1: cmp %rdi, %rsi\n ret\n"
    "f2: cmp $0x1234567, %esi\n mov %rdi, %rdx\n ret\n"
    "f3: test %edi, %esi\n lea 5(%rsi,%rdi), %rdx\n ret\n"
    "f4: testl $0x80000001, %esi\n ret $0\n"
    "f5: and %rsi, %rdx\n ret\n"
    "f6: or $-5, %edx\n ret\n"
    "f7: xor %edx, %edx\n ret\n"
    "f8: add %rdi, %rdx\n ret\n"
    "f9: sub %edi, %edx\n ret\n"
    "f10: add $0x7fffff00, %edx\n ret\n"
    "f11: sub $-128, %rdx\n ret\n"
    /* The stack pointer's own sum, and what comes behind it. */
    "f12: push %rbx\n push %rbp\n sub $24, %rsp\n mov %rsi, 8(%rsp)\n add $24, %rsp\n"
    "pop %rbp\n pop %rbx\n ret\n"
    "f13: push %rbx\n push %rsi\n pop %rdx\n cmp %rdx, %rdi\n pop %rbx\n ret\n"
    /* Operands that are gone, or that are no more than a part of what has written. */
    "f14: cmp %rdi, %rdx\n mov %rdi, %rdx\n ret\n"
    "f15: add %rdi, %rdx\n mov %rsi, %rdi\n ret\n"
    "f16: add %rdx, %rdx\n ret\n"
    "f17: cmp %rdi, %rsi\n inc %rdx\n ret\n"
    "f18: sub %r13, %rdx\n ret\n"
    "f19: cmp %dil, %sil\n ret\n"
    "f20: cmp %rdi, %rsi\n jb 3f\n lea 1(%rdx), %rdx\n ret\n 3: lea 2(%rdx), %rdx\n ret\n"
    /* Targets that look at them. */
    "f21: lea 4f(%rip), %rax\n sub %rdi, %rdx\n jmp *%rax\n 4: adc $0, %rdx\n ret\n"
    "f22: push %rbx\n lea 6f(%rip), %rbx\n sub $16, %rsp\n add $16, %rsp\n cmp %edi, %esi\n"
    "call *%rbx\n pop %rbx\n ret\n 6: seto %dl\n sbb %rax, %rax\n xor %rax, %rdx\n ret\n"
    /* A branch to another page, which needs them as well, before the return. */
    "f23: cmp %rdi, %rsi\n jle 7f\n mov %rdi, %rdx\n ret\n .balign 4096\n 7: ret\n"
    /* Bytes, and what ends functions that use vectors (R12: the host has them). */
    "f24: testb $0x40, %sil\n ret\n"
    "f25: test %dil, %dl\n mov %rdi, %rax\n ret\n"
    "f26: and %dil, %dl\n ret\n"
    "f27: cmp $-3, %dl\n ret\n"
    "f28: test %r12d, %r12d\n jz 8f\n add %rdi, %rdx\n vzeroupper\n ret\n 8: ret\n");

static uint64_t run(const char *options, bool is_user)
{
    struct soft_guest guest;
    struct x86_state initial, after;
    guest_start_with(&guest, 1, options);
    guest_long_mode(&guest, 0, functions, GUEST_CODE_SIZE(functions), &initial);
    if (is_user) {
        initial.rflags |= X86_FLAG_IOPL; /* for OUT */
        initial.segment[X86_CS].selector = GUEST_CS_USER;
        initial.segment[X86_CS].attributes = 0xa0fb;
        initial.segment[X86_SS].selector = GUEST_DS_USER;
        initial.segment[X86_SS].attributes = 0xc0f3;
    }
    bool has_avx = __builtin_cpu_supports("avx");
    initial.cr4 |= X86_CR4_OSXSAVE;
    initial.xcr0 = has_avx ? 7 : 3;
    initial.gpr[X86_R12] = has_avx;
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    uint64_t sum = guest_get64(&guest, 0x200000);
    guest_end(&guest);
    return sum;
}

static void flags_behind_returns(void **state)
{
    uint64_t expected = run("translate=off", false);
    assert_int_not_equal(expected, 0);
    assert_int_equal(run("verify=on", false), expected);
    assert_int_equal(run("flags=exact,verify=on", false), expected);
    assert_int_equal(run("verify=on,windows=always", true), expected);
    assert_int_equal(run("verify=on,windows=always,jumps=fit", true), expected);
    assert_int_equal(run("verify=on,lockstep=on", false), expected);
    assert_int_equal(run("verify=on,icount=on", false), expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(flags_behind_returns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
