/* The software engine's cache of decoded code, with more code than it holds. */
#include "soft_guest.h"

/* A chain of blocks "add $1 << (n % 20), %rax; jmp to the next", of which the last leads back to the program: more than the
 * cache holds, as each takes over 200 bytes there. After each round the program makes block 7 add one more. */
#define BLOCKS      60000u
#define STRIDE      16u
#define BLOCKS_BASE 0x100000u
#define ROUNDS      3u

GUEST_CODE_BLOCK(rounds, ".code64",
                 "xor %eax, %eax\n mov $3, %ecx\n"
                 "mov $0x100000, %rsi\n"
                 "1: jmp *%rsi\n"
                 ".org rounds + 0x100\n"
                 "call 3f\n"
                 "addl $1, 0x100072\n"
                 "dec %ecx\n jnz 2f\n out %al, $0xf4\n hlt\n"
                 "2: jmp 1b\n"
                 "3: inc %rdi\n ret\n");

static void put_blocks(struct soft_guest *g)
{
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint8_t bytes[STRIDE] = {0x48, 0x05, [6] = 0xe9};
        uint32_t addend = 1u << (i % 20);
        uint32_t here = BLOCKS_BASE + i * STRIDE;
        uint32_t next = i + 1 < BLOCKS ? here + STRIDE : GUEST_CODE + 0x100;
        uint32_t distance = next - (here + 11);
        memcpy(bytes + 2, &addend, sizeof(addend));
        memcpy(bytes + 7, &distance, sizeof(distance));
        guest_put(g, here, bytes, sizeof(bytes));
    }
}

static void take_decoded(void *ctx, const char *name, uint64_t value)
{
    if (strcmp(name, "blocks_decoded") == 0) {
        *(uint64_t *)ctx = value;
    }
}

static void test_more_than_fits(void **state)
{
    struct soft_guest g;
    struct x86_state s, after;
    uint64_t once = 0, decoded = 0;
    guest_start_with(&g, 1, "translate=off");
    guest_long_mode(&g, 0, rounds, GUEST_CODE_SIZE(rounds), &s);
    put_blocks(&g);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        once += 1u << (i % 20);
    }
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    assert_int_equal(after.gpr[X86_RAX], ROUNDS * once + 1 + 2);
    assert_int_equal(after.gpr[X86_RDI], ROUNDS);
    /* Or else the test would not test what it says. */
    soft_engine_ops.vcpu_stats(g.vcpu[0], take_decoded, &decoded);
    assert_true(decoded >= ROUNDS * BLOCKS);
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_more_than_fits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
