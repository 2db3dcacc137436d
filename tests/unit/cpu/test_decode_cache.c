/* Covers cpu/x86/decode_cache.c: whatever the cache holds, its answers are the decoder's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode_cache.h"

static struct x86_decode_cache cache;

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33) % limit;
}

static bool is_hit(const uint8_t *bytes, enum x86_code_size code_size)
{
    for (size_t i = 0; i < ARRAY_COUNT(cache.entry); i++) {
        const struct x86_decode_cache_entry *entry = &cache.entry[i];
        uint64_t key;
        memcpy(&key, bytes, sizeof(key));
        uint64_t differs = entry->key ^ key;
        if (entry->key && entry->insn.code_size == code_size && (differs & 0xff) == 0) {
            return true;
        }
    }
    return false;
}

static void check(const uint8_t *bytes, size_t available, enum x86_code_size code_size)
{
    struct x86_insn expected, got;
    memset(&got, 0xee, sizeof(got));
    enum x86_decode_status status = x86_decode(bytes, available, code_size, &expected);
    assert_int_equal(x86_decode_cached(&cache, bytes, available, code_size, &got), status);
    if (status == X86_DECODE_OK) {
        assert_memory_equal(&got, &expected, sizeof(got));
    } else if (status == X86_DECODE_UNDEFINED) {
        assert_int_equal(got.length, expected.length);
    }
}

/* The same instruction with other values, in another mode, and with fewer bytes. */
static void check_variants(uint8_t bytes[32])
{
    static const enum x86_code_size modes[] = {X86_CODE_64, X86_CODE_64_INTEL, X86_CODE_32,
                                               X86_CODE_16};
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        struct x86_insn insn;
        check(bytes, 32, modes[i]);
        check(bytes, 32, modes[i]);
        if (x86_decode(bytes, 32, modes[i], &insn) != X86_DECODE_OK) {
            continue;
        }
        for (uint32_t missing = 0; missing < 3 && missing <= insn.length; missing++) {
            check(bytes, insn.length - missing, modes[i]);
        }
        uint32_t values = insn.disp_bytes ? insn.disp_offset : insn.imm_offset;
        for (uint32_t n = values; n < insn.length && values; n++) {
            bytes[n] = (uint8_t)random_below(256);
        }
        check(bytes, 32, modes[i]);
    }
}

static void test_random(void **state)
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0x48, 0x41, 0x4c, 0x40, 0x64,
                                       0xf0, 0x67, 0xc5, 0xc4, 0x0f, 0x2e, 0x49, 0x62};
    for (uint32_t round = 0; round < 300000; round++) {
        uint8_t bytes[32];
        for (size_t i = 0; i < sizeof(bytes); i++) {
            bytes[i] = (uint8_t)random_below(256);
        }
        uint32_t known = random_below(4);
        for (uint32_t i = 0; i < known; i++) {
            bytes[i] = prefixes[random_below(ARRAY_COUNT(prefixes))];
        }
        check_variants(bytes);
    }
}

/* What compilers write goes through the cache, or it would be of no use. */
static void test_kept(void **state)
{
    static const uint8_t common[][12] = {
        {0x53},                               /* push rbx */
        {0x41, 0x54},                         /* push r12 */
        {0xc3},                               /* ret */
        {0xe8, 1, 2, 3, 4},                   /* call */
        {0x74, 5},                            /* je */
        {0x0f, 0x84, 1, 2, 3, 4},             /* je */
        {0x48, 0x8b, 0x45, 0xf8},             /* mov rax, [rbp-8] */
        {0x48, 0x8b, 0x44, 0x24, 8},          /* mov rax, [rsp+8] */
        {0x48, 0x8d, 0x05, 1, 2, 3, 4},       /* lea rax, [rip+x] */
        {0x83, 0xf8, 7},                      /* cmp eax, 7 */
        {0xb8, 1, 2, 3, 4},                   /* mov eax, x */
        {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8}, /* mov rax, x */
        {0x66, 0x0f, 0x6f, 0x00},             /* movdqa xmm0, [rax] */
        {0xc5, 0xfd, 0x6f, 0x40, 0x20},       /* vmovdqa ymm0, [rax+32] */
        {0xc4, 0xe2, 0xf8, 0xf2, 0xc1},       /* andn */
        {0xf3, 0x0f, 0x1e, 0xfa},             /* endbr64 */
    };
    for (size_t i = 0; i < ARRAY_COUNT(common); i++) {
        uint8_t bytes[32] = {0};
        memcpy(bytes, common[i], sizeof(common[i]));
        memset(&cache, 0, sizeof(cache));
        assert_false(is_hit(bytes, X86_CODE_64));
        check(bytes, sizeof(bytes), X86_CODE_64);
        assert_true(is_hit(bytes, X86_CODE_64));
        check_variants(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
