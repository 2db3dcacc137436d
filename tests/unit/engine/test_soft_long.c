/* The software engine in long mode: integer code, faults with their codes, stacks of the TSS, self-modifying code, strings. */
#include "soft_guest.h"

#include <pthread.h>

GUEST_CODE_BLOCK(sum, ".code64",
                 "xor %eax, %eax\n mov $1000, %ecx\n"
                 "1: add %rcx, %rax\n dec %ecx\n jnz 1b\n"
                 "push %rax\n pop %rbx\n call 2f\n out %al, $0xf4\n hlt\n"
                 "2: lea 5(%rbx,%rbx,2), %rdx\n mov $-7, %rsi\n imul $3, %rsi, %rdi\n"
                 "mov %rdx, 0x20000\n addl $1, 0x20000\n ret");

static void test_integer(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, sum, GUEST_CODE_SIZE(sum), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], 500500);
    assert_int_equal(after.gpr[X86_RBX], 500500);
    assert_int_equal(after.gpr[X86_RDX], 500500 * 3 + 5);
    assert_int_equal(after.gpr[X86_RDI], (uint64_t)-21);
    assert_int_equal(after.gpr[X86_RSP], GUEST_STACK);
    assert_int_equal(guest_get64(&g, 0x20000), 500500 * 3 + 6);
    guest_end(&g);
}

/* A register that the long form of POP writes is another base for what follows. */
GUEST_CODE_BLOCK(popped_base, ".code64",
                 "mov $0x20000, %ebx\n movq $1, (%rbx)\n movq $2, 0x80(%rbx)\n"
                 "pushq $0x20080\n mov (%rbx), %rax\n .byte 0x8f, 0xc3\n mov (%rbx), %rcx\n"
                 "out %al, $0xf4\n hlt\n");

static void test_popped_base(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, popped_base, GUEST_CODE_SIZE(popped_base), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], 1);
    assert_int_equal(after.gpr[X86_RCX], 2);
    guest_end(&g);
}

/* Upper halves that come into being in translated code live on when it leaves to have blocks linked or found. */
GUEST_CODE_BLOCK(upper_halves, ".code64",
                 "xor %eax, %eax\n xorps %xmm1, %xmm1\n"
                 "vpcmpeqd %ymm0, %ymm0, %ymm0\n jmp 1f\n"
                 "1: vextractf128 $1, %ymm0, %xmm2\n vmovq %xmm2, %rax\n"
                 "vpcmpeqd %ymm3, %ymm3, %ymm3\n lea 2f(%rip), %rcx\n jmp *%rcx\n"
                 "2: vextractf128 $1, %ymm3, %xmm2\n vmovq %xmm2, %rbx\n"
                 "out %al, $0xf4\n hlt\n");

static void test_upper_halves(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, upper_halves, GUEST_CODE_SIZE(upper_halves), &s);
    s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
    s.xcr0 = 7;
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_true(after.gpr[X86_RAX] == UINT64_MAX);
    assert_true(after.gpr[X86_RBX] == UINT64_MAX);
    guest_end(&g);
}

/* The handler keeps error code and RIP, CR2, and the stack that it runs on. */
GUEST_CODE_BLOCK(fault_code, ".code64",
                 "mov $0x300123, %esi\n"
                 "1: movq $1, (%rsi)\n"
                 ".org fault_code + 0x100\n"
                 "pop %rax\n pop %rbx\n mov %cr2, %rcx\n mov %rsp, %rdx\n"
                 "out %al, $0xf4\n hlt\n");

static void check_fault(uint64_t pte, unsigned ist, uint64_t expected_error)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, fault_code, GUEST_CODE_SIZE(fault_code), &s);
    guest_put64(&g, GUEST_PML4 + 0x4000 + 0x100 * 8, pte);
    guest_gate(&g, X86_PF, GUEST_CODE + 0x100, ist, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], expected_error);
    assert_int_equal(after.gpr[X86_RBX], GUEST_CODE + 5);
    assert_int_equal(after.gpr[X86_RCX], 0x300123);
    assert_int_equal(after.gpr[X86_RDX], (ist ? GUEST_STACK - 0x4000 : GUEST_STACK) - 32);
    guest_end(&g);
}

static void test_page_faults(void **state)
{
    check_fault(0, 0, X86_PF_WRITE);
    check_fault(0, 1, X86_PF_WRITE);
    check_fault(0x300000 | 5, 0, X86_PF_WRITE | X86_PF_PRESENT);
    check_fault(0x300000 | 7 | 1ull << 51, 0, X86_PF_WRITE | X86_PF_PRESENT | X86_PF_RSVD);
}

/* Addresses that do not fit the 32 bits of a decoded instruction's displacement: they fault where they point. */
GUEST_CODE_BLOCK(absolute_load, ".code64",
                 "movabs 0x123456789a, %rax\n"
                 ".org absolute_load + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");
GUEST_CODE_BLOCK(absolute_store, ".code64",
                 "nop\n movabs %al, 0x7fff12345678\n"
                 ".org absolute_store + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");
GUEST_CODE_BLOCK(far_relative, ".code64",
                 "nop\n 1: mov 0x7fffffff(%rip), %rax\n"
                 ".org far_relative + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");
GUEST_CODE_BLOCK(near_relative, ".code64",
                 "nop\n mov -0x8000(%rip), %rax\n mov -0x80000000(%rip), %rax\n"
                 ".org near_relative + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");

static void check_fault_address(const uint8_t *code, size_t size, uint64_t expected)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, code, size, &s);
    guest_gate(&g, X86_PF, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RCX], expected);
    guest_end(&g);
}

static void test_wide_displacements(void **state)
{
    check_fault_address(absolute_load, GUEST_CODE_SIZE(absolute_load), 0x123456789a);
    check_fault_address(absolute_store, GUEST_CODE_SIZE(absolute_store), 0x7fff12345678);
    check_fault_address(far_relative, GUEST_CODE_SIZE(far_relative),
                        GUEST_CODE + 8 + 0x7fffffffull);
    check_fault_address(near_relative, GUEST_CODE_SIZE(near_relative),
                        GUEST_CODE + 15 - 0x80000000ull);
}

/* A store across two pages, the second missing: nothing of the first is written. */
GUEST_CODE_BLOCK(crossing, ".code64",
                 "mov $0x300ffd, %esi\n movq $-1, (%rsi)\n"
                 ".org crossing + 0x100\n"
                 "mov %cr2, %rcx\n mov 0x300ff8, %rax\n out %al, $0xf4\n hlt\n");

static void test_page_crossing(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, crossing, GUEST_CODE_SIZE(crossing), &s);
    guest_put64(&g, GUEST_PML4 + 0x4000 + 0x101 * 8, 0);
    guest_gate(&g, X86_PF, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RCX], 0x301000);
    assert_int_equal(after.gpr[X86_RAX], 0);
    guest_end(&g);
}

/* The index that PCMPESTRI leaves in ECX is an address behind it. */
GUEST_CODE_BLOCK(implicit_result, ".code64",
                 "mov $10000, %edi\n 1: mov $0x200000, %ecx\n mov (%rcx), %rsi\n"
                 "xor %eax, %eax\n xor %edx, %edx\n pcmpestri $0, %xmm1, %xmm0\n"
                 "mov 8(%rcx), %rbx\n dec %edi\n jnz 1b\n out %al, $0xf4\n hlt\n");

static void test_implicit_result(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, implicit_result, GUEST_CODE_SIZE(implicit_result), &s);
    guest_put64(&g, 16 + 8, 0x1234);
    guest_put64(&g, 0x200008, 0x5678);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RCX], 16);
    assert_int_equal(after.gpr[X86_RBX], 0x1234);
    guest_end(&g);
}

/* Patches the immediate of the very next instruction, in the same block, and of a function called before and after. */
GUEST_CODE_BLOCK(patching, ".code64",
                 "call 3f\n mov %eax, %ebx\n"
                 "movb $42, 1f+1(%rip)\n"
                 "1: mov $1, %ecx\n"
                 "movl $77, 3f+1(%rip)\n call 3f\n out %al, $0xf4\n hlt\n"
                 "3: mov $5, %eax\n ret");

static void test_self_modifying(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, patching, GUEST_CODE_SIZE(patching), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RBX], 5);
    assert_int_equal(after.gpr[X86_RCX], 42);
    assert_int_equal(after.gpr[X86_RAX], 77);
    guest_end(&g);
}

/* REP MOVSB runs into a missing page: the registers say how far it came. */
GUEST_CODE_BLOCK(rep_fault, ".code64",
                 "cld\n mov $0x200000, %esi\n mov $0x300100, %edi\n mov $0x2000, %ecx\n rep movsb\n"
                 ".org rep_fault + 0x100\n out %al, $0xf4\n hlt\n");

static void test_rep_fault(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, rep_fault, GUEST_CODE_SIZE(rep_fault), &s);
    guest_put64(&g, 0x200ef8, 0x1122334455667788);
    guest_put64(&g, GUEST_PML4 + 0x4000 + 0x101 * 8, 0);
    guest_gate(&g, X86_PF, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RDI], 0x301000);
    assert_int_equal(after.gpr[X86_RSI], 0x200f00);
    assert_int_equal(after.gpr[X86_RCX], 0x2000 - 0xf00);
    assert_int_equal(guest_get64(&g, 0x300ff8), 0x1122334455667788);
    guest_end(&g);
}

GUEST_CODE_BLOCK(user, ".code64",
                 "push $0x1b\n push $0x70000\n push $2\n push $0x23\n push $0x10080\n iretq\n"
                 ".org user + 0x80\n cli\n"
                 ".org user + 0x100\n pop %rax\n mov 8(%rsp), %rbx\n mov %rsp, %rdx\n"
                 "out %al, $0xf4\n hlt\n");

static void test_user_mode(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, user, GUEST_CODE_SIZE(user), &s);
    guest_gate(&g, X86_GP, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], 0);
    assert_int_equal(after.gpr[X86_RBX], GUEST_CS_USER);
    assert_int_equal(after.gpr[X86_RDX], GUEST_STACK - 0x8000 - 40);
    guest_end(&g);
}

GUEST_CODE_BLOCK(triple, ".code64", "ud2\n");

static void test_triple_fault(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, triple, GUEST_CODE_SIZE(triple), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_SHUTDOWN);
    assert_int_equal(after.activity, X86_ACTIVITY_SHUTDOWN);
    guest_end(&g);
}

GUEST_CODE_BLOCK(counting, ".code64",
                 "mov $100000, %ecx\n 1: lock incq 0x20000\n mov $1, %eax\n"
                 "lock xadd %rax, 0x20008\n"
                 "2: mov 0x20010, %rax\n lea 1(%rax), %rbx\n lock cmpxchg %rbx, 0x20010\n jnz 2b\n"
                 "dec %ecx\n jnz 1b\n out %al, $0xf4\n hlt\n");

struct runner {
    struct soft_guest *guest;
    uint32_t index;
    struct x86_state state;
};

static void *run_vcpu(void *argument)
{
    struct runner *runner = argument;
    soft_engine_ops.vcpu_run(runner->guest->vcpu[runner->index]);
    return NULL;
}

static void test_atomics(void **state)
{
    struct soft_guest g;
    struct runner runner[2];
    pthread_t thread[2];
    struct error err;
    guest_start(&g, 2);
    for (uint32_t i = 0; i < 2; i++) {
        runner[i] = (struct runner){.guest = &g, .index = i};
        guest_long_mode(&g, i, counting, GUEST_CODE_SIZE(counting), &runner[i].state);
        assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[i], &runner[i].state, &err), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, run_vcpu, &runner[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_int_equal(guest_get64(&g, 0x20000), 200000);
    assert_int_equal(guest_get64(&g, 0x20008), 200000);
    assert_int_equal(guest_get64(&g, 0x20010), 200000);
    guest_end(&g);
}

GUEST_CODE_BLOCK(halting, ".code64",
                 "sti\n hlt\n mov $1, %ebx\n out %al, $0xf4\n hlt\n"
                 ".org halting + 0x100\n mov $7, %eax\n iretq\n");

static void test_halt(void **state)
{
    struct soft_guest g;
    struct runner runner = {.guest = &g};
    struct x86_state after;
    pthread_t thread;
    struct error err;
    guest_start(&g, 1);
    guest_long_mode(&g, 0, halting, GUEST_CODE_SIZE(halting), &runner.state);
    guest_gate(&g, 0x40, GUEST_CODE + 0x100, 0, 0);
    assert_int_equal(soft_engine_ops.vcpu_set_state(g.vcpu[0], &runner.state, &err), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_vcpu, &runner), 0);
    g.interrupt = 0x40;
    soft_engine_ops.vcpu_signal(g.vcpu[0], VCPU_SIGNAL_INTERRUPT, 0);
    pthread_join(thread, NULL);
    assert_int_equal(soft_engine_ops.vcpu_get_state(g.vcpu[0], &after, &err), 0);
    assert_int_equal(after.gpr[X86_RAX], 7);
    assert_int_equal(after.gpr[X86_RBX], 1);
    assert_int_equal(after.gpr[X86_RSP], GUEST_STACK);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wide_displacements),
        cmocka_unit_test(test_integer),
        cmocka_unit_test(test_popped_base),
        cmocka_unit_test(test_upper_halves),
        cmocka_unit_test(test_implicit_result),
        cmocka_unit_test(test_page_faults),
        cmocka_unit_test(test_page_crossing),
        cmocka_unit_test(test_self_modifying),
        cmocka_unit_test(test_rep_fault),
        cmocka_unit_test(test_user_mode),
        cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_halt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
