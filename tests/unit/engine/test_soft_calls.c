/* Calls and returns, which translated code leaves to the host's CPU to predict: wherever a RET goes, and whatever has happened
 * since the CALL, the guest does what the interpreter says. */
#include "soft_guest.h"

#include "base/core/bits.h"
#include "engine/soft/vcpu.h"

#define RESULT 0x200000u
#define UPPER  0xffffff8000000000u /* where the lower 512 GiB are seen, too */

/* R8 sums up what comes of each. */
GUEST_CODE_BLOCK(
    calls, ".code64",
    "xor %r8d, %r8d\n mov $0x90000, %r13d\n mov $12345, %esi\n mov $54321, %edi\n"
    /* Returns to address 0, where 'jmp *%rbx' is: no call has been at these places of the stack. */
    "lea 1f(%rip), %rbx\n push $0\n cmp %rdi, %rsi\n ret\n"
    "1: adc $1, %r8\n sub $264, %rsp\n mov $-1, %rdx\n lea 1f(%rip), %rbx\n push $0\n"
    "add %rdx, %rdx\n ret\n 1: adc $0x100, %r8\n add $264, %rsp\n"
    "lea co(%rip), %rax\n sub $8, %r13\n mov %rax, (%r13)\n"
    "mov $120, %ebp\n"
    "round: mov $9, %edi\n call fib\n add %rax, %r8\n"
    "mov $1200, %edi\n call deep\n add %rax, %r8\n"
    /* Other addresses than the caller's. */
    "call skip\n add $1, %r8\n imul $31, %r8, %r8\n"
    "lea 2f(%rip), %rbx\n mov %rsp, %r12\n mov $5, %edi\n call jumper\n add $77, %r8\n"
    "2: lea 3f(%rip), %rax\n push %rax\n ret\n add $78, %r8\n"
    "3: push %rbp\n push %rbp\n call popper\n add %rax, %r8\n"
    /* One CALL in two blocks. */
    "test $1, %ebp\n jz 4f\n add $5, %r8\n 4: call leaf\n imul $31, %r8, %r8\n"
    /* Flags behind returns: made again, saved, and passed on. */
    "mov %rbp, %rsi\n mov $60, %edi\n call compare\n adc $3, %r8\n"
    "call compare_and_step\n adc $5, %r8\n call pass\n adc $7, %r8\n"
    "call pass_saved\n adc $9, %r8\n lea compare(%rip), %rax\n call *%rax\n adc $1, %r8\n"
    "lea pass(%rip), %rax\n call *%rax\n setz %al\n movzbl %al, %eax\n add %rax, %r8\n"
    /* Another stack. */
    "call switch\n add $13, %r8\n call switch\n imul $31, %r8, %r8\n"
    /* A call at the end of a page. */
    "call page_end\n add %rax, %r8\n"
    /* Code that changes while the call is under way: behind it, and itself. */
    "lea 5f+1(%rip), %rdi\n call patch\n 5: mov $0, %eax\n add %rax, %r8\n"
    "lea 6f+1(%rip), %rdi\n 6: call toggle\n imul $31, %r8, %r8\n"
    "dec %ebp\n jnz round\n mov %r8, 0x200000\n out %al, $0xf4\n hlt\n"
    "fib: cmp $2, %edi\n jb 1f\n push %rdi\n dec %edi\n call fib\n mov (%rsp), %rdi\n"
    "mov %rax, (%rsp)\n sub $2, %edi\n call fib\n pop %rdi\n add %rdi, %rax\n ret\n"
    "1: mov %edi, %eax\n ret\n"
    "deep: xor %eax, %eax\n dec %edi\n js 1f\n call deep\n add $3, %rax\n 1: ret\n"
    "skip: addq $4, (%rsp)\n ret\n"
    "jumper: dec %edi\n jz 1f\n call jumper\n add $79, %r8\n ret\n"
    "1: mov %r12, %rsp\n jmp *%rbx\n"
    "popper: mov 8(%rsp), %rax\n ret $16\n"
    "leaf: add $2, %r8\n ret\n"
    "compare: cmp %rdi, %rsi\n ret\n"
    "compare_and_step: cmp %rdi, %rsi\n inc %rdx\n ret\n"
    "pass: push %rbx\n call compare\n mov %rsi, %rbx\n pop %rbx\n ret\n"
    "pass_saved: push %rbx\n call compare_and_step\n mov %rsi, %rbx\n pop %rbx\n ret\n"
    "switch: xchg %rsp, %r13\n ret\n"
    "co: add %rbp, %r8\n call switch\n add $17, %r8\n call switch\n jmp co\n"
    "patch: mov %ebp, (%rdi)\n ret\n"
    "toggle: lea toggled(%rip), %rax\n sub %rdi, %rax\n sub $4, %rax\n mov %eax, (%rdi)\n"
    "add $3, %r8\n ret\n"
    "toggled: lea toggle(%rip), %rax\n sub %rdi, %rax\n sub $4, %rax\n mov %eax, (%rdi)\n"
    "add $11, %r8\n ret\n"
    "page_end: jmp 1f\n .org calls + 4091\n 1: call leaf\n mov %rbp, %rax\n ret\n");

enum where {
    LOWER,
    USER,
    UPPER_HALF,
};

static void begin(struct soft_guest *guest, const char *options, enum where where,
                  const uint8_t *code, size_t size, struct x86_state *out)
{
    static const uint8_t jmp_rbx[] = {0xff, 0xe3};
    guest_start_with(guest, 1, options);
    guest_long_mode(guest, 0, code, size, out);
    guest_put(guest, 0, jmp_rbx, sizeof(jmp_rbx));
    guest_put64(guest, GUEST_PML4 + 511 * 8, (GUEST_PML4 + 0x1000) | 7);
    if (where == USER) {
        out->rflags |= X86_FLAG_IOPL; /* for OUT */
        out->segment[X86_CS].selector = GUEST_CS_USER;
        out->segment[X86_CS].attributes = 0xa0fb;
        out->segment[X86_SS].selector = GUEST_DS_USER;
        out->segment[X86_SS].attributes = 0xc0f3;
    } else if (where == UPPER_HALF) {
        out->rip |= UPPER;
    }
}

static uint64_t run(const char *options, enum where where)
{
    struct soft_guest guest;
    struct x86_state initial, after;
    begin(&guest, options, where, calls, GUEST_CODE_SIZE(calls), &initial);
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RSP], GUEST_STACK);
    uint64_t sum = guest_get64(&guest, RESULT);
    guest_end(&guest);
    return sum;
}

static void returns_go_where_they_should(void **state)
{
    uint64_t expected = run("translate=off", LOWER);
    assert_int_not_equal(expected, 0);
    static const char *const options[] = {"verify=on", "flags=exact,verify=on",
                                          "verify=on,jumps=fit", "verify=on,icount=on",
                                          "verify=on,lockstep=on"};
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        for (int where = LOWER; where <= UPPER_HALF; where++) {
            assert_int_equal(run(options[i], (enum where)where), expected);
        }
    }
    assert_int_equal(run("verify=on,windows=always", USER), expected);
    assert_int_equal(run("flags=exact,verify=on,windows=always", USER), expected);
}

#define SITE       0x400000u
#define OTHER_SITE 0x600000u
#define OTHER_PML4 0x500000u

/* Calls what is at SITE, which comes back at once, and then in the other address space. */
GUEST_CODE_BLOCK(spaces, ".code64",
                 "xor %r8d, %r8d\n mov $50, %ebp\n mov %cr3, %rbx\n mov $0x500000, %edx\n"
                 "lea spaces(%rip), %rcx\n add $0x3f0000, %rcx\n"
                 "1: mov %rdx, %rsi\n xor %edx, %edx\n call *%rcx\n imul $31, %r8, %r8\n"
                 "add %rax, %r8\n mov %rsi, %rdx\n"
                 "call *%rcx\n imul $31, %r8, %r8\n add %rax, %r8\n xchg %rbx, %rdx\n"
                 "test $3, %ebp\n jnz 2f\n mov %rdx, %cr3\n xchg %rbx, %rdx\n"
                 "2: dec %ebp\n jnz 1b\n mov %r8, 0x200000\n out %al, $0xf4\n hlt\n");
GUEST_CODE_BLOCK(site, ".code64",
                 "call 1f\n mov $0x1111, %eax\n ret\n .org site + 64\n"
                 "1: test %rdx, %rdx\n jz 2f\n mov %rdx, %cr3\n 2: ret\n");

static uint64_t run_spaces(const char *options, enum where where)
{
    struct soft_guest guest;
    struct x86_state initial, after;
    begin(&guest, options, where, spaces, GUEST_CODE_SIZE(spaces), &initial);
    guest_put(&guest, SITE, site, GUEST_CODE_SIZE(site));
    guest_put(&guest, OTHER_SITE, site, GUEST_CODE_SIZE(site));
    guest_put(&guest, OTHER_SITE + 6, &(uint8_t){0x22}, 1); /* another constant */
    /* The same tables but for the page of SITE. */
    guest_put64(&guest, OTHER_PML4, (OTHER_PML4 + 0x1000) | 7);
    guest_put64(&guest, OTHER_PML4 + 511 * 8, (OTHER_PML4 + 0x1000) | 7);
    guest_put64(&guest, OTHER_PML4 + 0x1000, (OTHER_PML4 + 0x2000) | 7);
    for (uint64_t i = 0; i < 8; i++) {
        uint64_t table = i == SITE >> 21 ? OTHER_PML4 + 0x3000 : GUEST_PML4 + 0x3000 + i * 0x1000;
        guest_put64(&guest, OTHER_PML4 + 0x2000 + i * 8, table | 7);
    }
    guest_put64(&guest, OTHER_PML4 + 0x3000, OTHER_SITE | 7);
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    uint64_t sum = guest_get64(&guest, RESULT);
    guest_end(&guest);
    return sum;
}

static void returns_into_another_address_space(void **state)
{
    uint64_t expected = run_spaces("translate=off", LOWER);
    assert_int_not_equal(expected, 0);
    assert_int_equal(run_spaces("verify=on", LOWER), expected);
    assert_int_equal(run_spaces("verify=on", UPPER_HALF), expected);
    assert_int_equal(run_spaces("verify=on,flags=exact", UPPER_HALF), expected);
}

/* A RET of user code to where the kernel has called from, with the stack where it was then: code of the kernel's mode is not
 * for it. It reads CR0, so #GP comes. */
GUEST_CODE_BLOCK(privileges, ".code64",
                 "xor %r8d, %r8d\n mov $40, %ebp\n lea 3f(%rip), %r12\n mov %rsp, %r13\n"
                 "1: call 2f\n back: mov %cr0, %rax\n mov %r13, %rsp\n inc %r8\n jmp 4f\n"
                 /* The first half of the time it returns. */
                 "2: test $1, %ebp\n jz 5f\n ret\n"
                 "5: lea -8(%r13), %rbx\n push $0x1b\n push %rbx\n push $2\n push $0x23\n"
                 "lea 6f(%rip), %rax\n push %rax\n iretq\n"
                 "6: ret\n"
                 "3: mov %r13, %rsp\n add $0x100, %r8\n"
                 "4: dec %ebp\n jnz 1b\n mov %r8, 0x200000\n out %al, $0xf4\n hlt\n");

static uint64_t run_privileges(const char *options)
{
    static const uint8_t jmp_r12[] = {0x41, 0xff, 0xe4};
    struct soft_guest guest;
    struct x86_state initial, after;
    begin(&guest, options, UPPER_HALF, privileges, GUEST_CODE_SIZE(privileges), &initial);
    guest_put(&guest, 0x100, jmp_r12, sizeof(jmp_r12));
    guest_gate(&guest, 13, 0x100, 0, 0);
    assert_int_equal(guest_run(&guest, 0, &initial, &after), VCPU_EXIT_KICKED);
    uint64_t sum = guest_get64(&guest, RESULT);
    guest_end(&guest);
    return sum;
}

static void landings_are_of_one_mode(void **state)
{
    assert_int_equal(run_privileges("translate=off"), 20 * 0x101);
    assert_int_equal(run_privileges("verify=on"), 20 * 0x101);
    assert_int_equal(run_privileges("flags=exact,verify=on"), 20 * 0x101);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(returns_go_where_they_should),
        cmocka_unit_test(returns_into_another_address_space),
        cmocka_unit_test(landings_are_of_one_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
