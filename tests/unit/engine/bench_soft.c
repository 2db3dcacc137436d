/* Measures how many guest instructions a second the software engine interprets: a loop of integer code with loads, stores, a
 * call and a branch that goes either way. Not a test: run it by hand. */
#include "soft_guest.h"

#include <stdio.h>
#include <time.h>

GUEST_CODE_BLOCK(mixed, ".code64",
                 "mov $3000000, %ecx\n mov $0x20000, %edi\n mov $12345, %eax\n"
                 "1: imul $1103515245, %eax, %eax\n add $12345, %eax\n mov %eax, %edx\n"
                 "shr $16, %edx\n and $0xff8, %edx\n mov (%rdi,%rdx), %rbx\n add %rax, %rbx\n"
                 "mov %rbx, (%rdi,%rdx)\n addl $1, 0x1000(%rdi)\n test $1, %bl\n jz 2f\n"
                 "xor %rbx, %rsi\n 2: push %rsi\n call 3f\n pop %rsi\n dec %ecx\n jnz 1b\n"
                 "out %al, $0xf4\n hlt\n 3: lea 1(%rsi), %r8\n cmp %r8, %rsi\n ret\n");

static void print_counter(void *ctx, const char *name, uint64_t value)
{
    if (strcmp(name, "instructions") == 0) {
        *(uint64_t *)ctx = value;
    }
}

static void measure(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    struct timespec from, to;
    uint64_t instructions = 0;
    guest_start_with(&g, 1, "translate=off");
    guest_long_mode(&g, 0, mixed, GUEST_CODE_SIZE(mixed), &s);
    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    clock_gettime(CLOCK_MONOTONIC, &to);
    soft_engine_ops.vcpu_stats(g.vcpu[0], print_counter, &instructions);
    double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    printf("%llu instructions in %.3f s: %.0f million a second\n", (unsigned long long)instructions,
           seconds, (double)instructions / seconds / 1e6);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(measure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
