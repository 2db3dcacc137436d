/* Blocks that go on behind conditional branches: a branch that is taken leaves in the middle, with the flags, faults and memory
 * of what has run until there and of no more. */
#include <pthread.h>
#include <time.h>

#include "base/core/bits.h"
#include "soft_guest.h"

static const char *const variants[] = {"translate=off", NULL, "flags=exact,verify=on",
                                       "lockstep=on", "icount=on,verify=on"};

#define FOR_EACH_VARIANT(options)                                                                  \
    for (size_t variant_ = 0; variant_ < ARRAY_COUNT(variants); variant_++)                        \
        for (const char *options = variants[variant_], *once_ = ""; once_; once_ = NULL)

static void begin(struct soft_guest *g, const char *options, const uint8_t *code, size_t size,
                  struct x86_state *state)
{
    guest_start_with(g, 1, options);
    guest_long_mode(g, 0, code, size, state);
    guest_gate(g, X86_PF, GUEST_CODE + 0x100, 0, 0);
}

static uint64_t pte_gpa(uint64_t gva)
{
    return GUEST_PML4 + 0x3000 + (gva >> 12) * 8;
}

/* The second access is behind the branch, in a page that is not there: it faults when it is reached, in the third round. */
GUEST_CODE_BLOCK(missing, ".code64",
                 "mov $0x300ff8, %esi\n xor %ebx, %ebx\n"
                 "1: mov (%rsi), %rax\n cmp $2, %ebx\n jb 2f\n mov 8(%rsi), %rdx\n"
                 "2: inc %ebx\n jmp 1b\n"
                 ".org missing + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");

static void test_missing_page(void **state)
{
    (void)state;
    FOR_EACH_VARIANT(options)
    {
        struct soft_guest g;
        struct x86_state s, after;
        begin(&g, options, missing, GUEST_CODE_SIZE(missing), &s);
        guest_put64(&g, pte_gpa(0x301000), 0);
        assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
        assert_int_equal(after.gpr[X86_RCX], 0x301000);
        assert_int_equal(after.gpr[X86_RBX], 2);
        guest_end(&g);
    }
}

/* The write behind the branch, next to the read before it, is done in the third round. Its page is read-only, or its dirty bit
 * says when. */
GUEST_CODE_BLOCK(
    written, ".code64",
    "mov $0x302000, %esi\n xor %ebx, %ebx\n xor %r12d, %r12d\n"
    "1: mov (%rsi), %rax\n cmp $2, %ebx\n jne 2f\n mov %rbx, 8(%rsi)\n mov (%rsi), %rdx\n"
    "2: mov 0x8810, %rdi\n and $0x40, %edi\n shl $1, %r12\n or %rdi, %r12\n"
    "inc %ebx\n cmp $4, %ebx\n jne 1b\n out %al, $0xf4\n hlt\n"
    ".org written + 0x100\n mov %cr2, %rcx\n out %al, $0xf4\n hlt\n");

static void test_writes(void **state)
{
    (void)state;
    FOR_EACH_VARIANT(options)
    {
        struct soft_guest g;
        struct x86_state s, after;
        assert_int_equal(pte_gpa(0x302000), 0x8810);
        begin(&g, options, written, GUEST_CODE_SIZE(written), &s);
        assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
        assert_int_equal(after.gpr[X86_RBX], 4);
        assert_int_equal(after.gpr[X86_R12], 0x40 << 1 | 0x40);
        assert_int_equal(guest_get64(&g, 0x302008), 2);
        guest_end(&g);

        begin(&g, options, written, GUEST_CODE_SIZE(written), &s);
        guest_put64(&g, pte_gpa(0x302000), 0x302000 | 5);
        assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
        assert_int_equal(after.gpr[X86_RBX], 2);
        assert_int_equal(after.gpr[X86_RCX], 0x302008);
        guest_end(&g);
    }
}

/* Each round changes an instruction behind the branch, in the same block. */
GUEST_CODE_BLOCK(patched, ".code64",
                 "mov $200, %ecx\n xor %eax, %eax\n"
                 "1: test %ecx, %ecx\n js 3f\n mov %cl, 2f+1(%rip)\n jz 3f\n"
                 "2: mov $0, %edx\n add %edx, %eax\n dec %ecx\n jnz 1b\n"
                 "3: out %al, $0xf4\n hlt\n");

static void test_patched(void **state)
{
    (void)state;
    FOR_EACH_VARIANT(options)
    {
        struct soft_guest g;
        struct x86_state s, after;
        begin(&g, options, patched, GUEST_CODE_SIZE(patched), &s);
        assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
        assert_int_equal(after.gpr[X86_RAX], 200 * 201 / 2);
        guest_end(&g);
    }
}

/* Flags at and behind branches of all conditions, forward and back, to the same page and the next, and to the next instruction;
 * each round notes where it has been and with which flags. */
GUEST_CODE_BLOCK(
    flags, ".code64",
    "mov $0x9e3779b97f4a7c15, %r8\n mov $1, %r9d\n mov $0x200000, %edi\n"
    "jmp round\n"
    "back: mov $20, %dl\n"
    "note: lahf\n seto %al\n mov %dl, (%rdi)\n mov %ax, 1(%rdi)\n mov 1(%rdi), %bl\n"
    "add $4, %rdi\n cmp $0x201000, %rdi\n jb round\n out %al, $0xf4\n hlt\n"
    "round: imul %r8, %r9\n add $1, %r9\n mov %r9, %rsi\n mov %r9, %rcx\n shr $60, %rcx\n"
    "sar %cl, %rsi\n mov $1, %dl\n cmp %r9d, %esi\n"
    "jo note\n mov $2, %dl\n jp far\n mov $3, %dl\n js note\n mov $4, %dl\n jbe far\n"
    "mov $5, %dl\n cmp %r9b, %sil\n jg back\n mov $6, %dl\n je 1f\n"
    "1: mov $7, %dl\n add %r9b, %sil\n jc 2f\n mov $8, %dl\n jle note\n mov $9, %dl\n"
    "2: jnp 3f\n adc $1, %dl\n jns back\n lea 1(%rdx), %rdx\n inc %esi\n jc note\n"
    "3: jmp far\n"
    ".org flags + 0x1010\n far: lea 64(%rdx), %rdx\n jmp note\n");

static void run_flags(const char *options, uint8_t *out_notes, size_t size)
{
    struct soft_guest g;
    struct x86_state s, after;
    begin(&g, options, flags, GUEST_CODE_SIZE(flags), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RDI], 0x201000);
    assert_true(guest_memory_read(g.memory, 0x200000, out_notes, size));
    guest_end(&g);
}

static void test_flags(void **state)
{
    static uint8_t expected[4096], notes[4096];
    uint64_t seen = 0;
    (void)state;
    run_flags("translate=off", expected, sizeof(expected));
    for (size_t i = 0; i < sizeof(expected); i += 4) {
        seen |= BIT(expected[i] & 63);
    }
    assert_true(__builtin_popcountll(seen) >= 6); /* of the ways */
    FOR_EACH_VARIANT(options)
    {
        run_flags(options, notes, sizeof(notes));
        assert_memory_equal(notes, expected, sizeof(notes));
    }
}

/* Without end, by a branch back in the middle of the block. */
GUEST_CODE_BLOCK(endless, ".code64",
                 "xor %ebx, %ebx\n"
                 "1: add $1, %rax\n test %ebx, %ebx\n jz 1b\n mov %rax, 0x20000\n jmp 1b\n");

static void *kick(void *argument)
{
    struct timespec time = {.tv_nsec = 20000000};
    nanosleep(&time, NULL);
    soft_engine_ops.vcpu_kick(argument);
    return NULL;
}

static void test_request(void **state)
{
    (void)state;
    FOR_EACH_VARIANT(options)
    {
        struct soft_guest g;
        struct x86_state s, after;
        pthread_t thread;
        begin(&g, options, endless, GUEST_CODE_SIZE(endless), &s);
        assert_int_equal(pthread_create(&thread, NULL, kick, g.vcpu[0]), 0);
        assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(after.gpr[X86_RAX] > 0);
        guest_end(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_page), cmocka_unit_test(test_writes),
        cmocka_unit_test(test_patched),      cmocka_unit_test(test_flags),
        cmocka_unit_test(test_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
