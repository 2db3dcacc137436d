/* Guest registers that translated code keeps in the vCPU, R13 to R15: chains of instructions on them give what the interpreter
 * says, whether the last value is still in a scratch register, has not been stored for another that follows, or comes back from an
 * instruction that the interpreter has run in between. */
#include "soft_guest.h"

#include "base/core/bits.h"
#include "engine/soft/vcpu.h"

/* Sums them up in R8, round by round, with other operands. RBX is an address at which words lie in two pages: accesses there go to the
 * interpreter, and the code behind goes on. */
GUEST_CODE_BLOCK(
    chains, ".code64",
    "mov $2000, %ebp\n mov $12345, %r9d\n xor %r8d, %r8d\n mov $0x300ffd, %ebx\n mov $0x300100, %edi\n"
    "mov $0x123456789abcdef, %rax\n mov %rax, %r13\n not %rax\n mov %rax, %r14\n bswap %rax\n mov %rax, %r15\n"
    "1: imul $0x19660d, %r9, %r9\n add $0x3c6ef35f, %r9\n mov %r9, %rdx\n rol $29, %r9\n mov %r9, %rcx\n"
    /* One after the other. */
    "mov %edx, %r13d\n ror $7, %r13d\n xor %ecx, %r13d\n and %edx, %r13d\n add %r9d, %r13d\n"
    "mov %rdx, %r14\n rol $14, %r14\n sub %rcx, %r14\n neg %r14\n lea 5(%r14,%rdx,2), %r14\n"
    /* Two of them, in both directions; what is overwritten at once; halves. */
    "mov %r13d, %r15d\n ror $3, %r15d\n xor %r14d, %r15d\n add %r15, %r13\n mov %r15, %r14\n or %r13d, %r14d\n"
    "mov %r14d, %r15d\n mov %r15d, %r13d\n shr $5, %r13d\n mov %r13, %r14\n add %r13, %r8\n"
    "mov $7, %r13d\n mov $-9, %r13\n add %rdx, %r13\n xchg %r13, %r14\n xchg %r14d, %r15d\n"
    /* Other registers in between, some of which look at it. */
    "imul %rcx, %r13\n mov %r13, %rax\n inc %edx\n add %r13d, %eax\n cmp %r13, %rdx\n sbb %r8, %rax\n add %rax, %r8\n"
    "mov %r13d, %r13d\n test %r13, %r13\n setz %r13b\n mov %r13b, %r14b\n mov %dx, %r15w\n adc %r15w, %r14w\n"
    "mov %ah, %al\n movzx %r14b, %r15d\n movsbq %r15b, %r13\n cmovs %rdx, %r13\n cmovc %r13d, %r14d\n"
    "bsf %r13, %r14\n bt %r13d, %r15d\n adc %r14, %r8\n shl %cl, %r15d\n sar %cl, %r13\n add %r15, %r8\n add %r13, %r8\n"
    /* Memory: what was loaded goes on, is an address, and comes from words in two pages. */
    "mov %rdx, (%rdi)\n mov (%rdi), %r13\n add (%rdi), %r13\n rol $9, %r13\n mov %r13, 8(%rdi)\n"
    "mov %rdi, %r14\n mov 8(%r14), %r15\n lea 8(%rdi), %r14\n mov (%r14), %r13\n mov $1, %r15d\n add -1(%r14,%r15), %r13\n"
    "mov %rcx, (%rbx)\n mov (%rbx), %r13\n rol $5, %r13\n add (%rbx), %r13d\n xor %r9d, %r13d\n add %r13, %r8\n"
    "mov (%rbx), %r14d\n mov %edx, %eax\n mov %r14d, %r15d\n add %eax, %r15d\n mov %ebx, %r14d\n mov (%r14), %r13d\n"
    "mov %r13d, %r14d\n mov %r15, %r13\n add %r13, (%rbx)\n add %r14, (%rbx)\n mov (%rbx), %r15\n mov %r14, %r15\n"
    "push %r13\n pop %r14\n push %r14\n add $1, %r14\n pop %r15\n sub %r15, %r14\n"
    /* LEA in all forms, and the branch behind. */
    "lea (%r13,%rdx), %rax\n lea 3(%r13,%r13,4), %r14d\n lea (%r14,%r15), %r13\n lea 9(,%r13,8), %ecx\n lea (%rdx,%rcx), %r15d\n"
    "lea chain_end(%rip), %r14\n lea (%r15), %r13w\n add %r15, %r13\n xor %rcx, %rax\n add %rax, %r8\n"
    "add %r13, %r8\n jc 2f\n mov %r8, %r14\n 2: rol $11, %r8\n xor %r14, %r8\n xor %r15, %r8\n"
    "dec %ebp\n jnz 1b\n mov %r8, 0x200000\n out %al, $0xf4\n hlt\n chain_end:\n");

static uint64_t run(const char *options, bool is_user)
{
    struct soft_guest guest;
    struct x86_state initial, after;
    guest_start_with(&guest, 1, options);
    guest_long_mode(&guest, 0, chains, GUEST_CODE_SIZE(chains), &initial);
    if (is_user) {
        initial.rflags |= X86_FLAG_IOPL; /* for OUT */
        initial.segment[X86_CS].selector = GUEST_CS_USER;
        initial.segment[X86_CS].attributes = 0xa0fb;
        initial.segment[X86_SS].selector = GUEST_DS_USER;
        initial.segment[X86_SS].attributes = 0xc0f3;
    }
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    uint64_t sum = guest_get64(&guest, 0x200000);
    guest_end(&guest);
    return sum;
}

static void chains_of_kept_registers(void **state)
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(chains_of_kept_registers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
