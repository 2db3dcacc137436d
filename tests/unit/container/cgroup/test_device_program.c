/* Covers container/cgroup/device_program.c: the programs are run here by a small interpreter; that the kernel takes them is a matter of
 * test_cgroup.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container/cgroup/device_program.h"

#define R BPF_DEVCG_ACC_READ
#define W BPF_DEVCG_ACC_WRITE
#define M BPF_DEVCG_ACC_MKNOD

static uint64_t interpret(const struct bpf_insn *program, size_t count,
                          const struct bpf_cgroup_dev_ctx *ctx)
{
    uint64_t reg[11] = {[1] = (uintptr_t)ctx};
    for (size_t at = 0; at < count; at++) {
        const struct bpf_insn *insn = &program[at];
        uint64_t *dst = &reg[insn->dst_reg];
        uint64_t src = reg[insn->src_reg];
        uint32_t value = (uint32_t)insn->imm;
        switch (insn->code) {
        case BPF_LDX | BPF_MEM | BPF_W:
            *dst = *(const uint32_t *)(uintptr_t)(src + (uint64_t)insn->off);
            break;
        case BPF_ALU | BPF_MOV | BPF_X:
            *dst = (uint32_t)src;
            break;
        case BPF_ALU64 | BPF_MOV | BPF_K:
            *dst = (uint64_t)(int64_t)insn->imm;
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            *dst = (uint32_t)*dst & value;
            break;
        case BPF_ALU | BPF_RSH | BPF_K:
            *dst = (uint32_t)*dst >> value;
            break;
        case BPF_ALU | BPF_MOV | BPF_K:
            *dst = value;
            break;
        case BPF_ALU | BPF_RSH | BPF_X:
            assert_true(src < 32);
            *dst = (uint32_t)*dst >> src;
            break;
        case BPF_JMP32 | BPF_JGT | BPF_K:
            at += (uint32_t)*dst > value ? (size_t)insn->off : 0;
            break;
        case BPF_JMP32 | BPF_JEQ | BPF_K:
            at += (uint32_t)*dst == value ? (size_t)insn->off : 0;
            break;
        case BPF_JMP32 | BPF_JNE | BPF_K:
            at += (uint32_t)*dst != value ? (size_t)insn->off : 0;
            break;
        case BPF_JMP32 | BPF_JSET | BPF_K:
            at += ((uint32_t)*dst & value) != 0 ? (size_t)insn->off : 0;
            break;
        case BPF_JMP | BPF_JA:
            at += (size_t)insn->off;
            break;
        case BPF_JMP | BPF_EXIT:
            return reg[0];
        default:
            fail_msg("instruction %zu has code %#x", at, insn->code);
        }
    }
    fail_msg("the program has no end");
    return 0;
}

static bool is_allowed(const struct spec_device_rule *rules, size_t count, char type,
                       uint32_t access, uint32_t major, uint32_t minor)
{
    struct bpf_insn *program = NULL;
    size_t size;
    assert_int_equal(device_program_create(rules, count, &program, &size, NULL), 0);
    uint32_t kind = type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
    struct bpf_cgroup_dev_ctx ctx = {access << 16 | kind, major, minor};
    uint64_t result = interpret(program, size, &ctx);
    free(program);
    assert_true(result <= 1);
    return result == 1;
}

static const struct spec_device_rule deny_all = {false, 'a', -1, -1, true, true, true};
static const struct spec_device_rule allow_all = {true, 'a', -1, -1, true, true, true};

static void test_defaults(void **state)
{
    static const uint32_t devices[][2] = {{1, 3}, {1, 5}, {1, 7}, {1, 8},   {1, 9},
                                          {5, 0}, {5, 1}, {5, 2}, {136, 0}, {136, 77}};
    for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++) {
        assert_true(is_allowed(NULL, 0, 'c', R | W | M, devices[i][0], devices[i][1]));
        assert_true(is_allowed(&deny_all, 1, 'c', R | W, devices[i][0], devices[i][1]));
        assert_false(is_allowed(NULL, 0, 'b', R, devices[i][0], devices[i][1]));
    }
    assert_true(is_allowed(NULL, 0, 'b', M, 8, 0));
    assert_true(is_allowed(NULL, 0, 'c', M, 1, 1));
    assert_false(is_allowed(NULL, 0, 'b', M | R, 8, 0));
    assert_false(is_allowed(NULL, 0, 'c', R, 1, 1));
    assert_false(is_allowed(NULL, 0, 'c', R, 10, 200));
    /* Numbers beyond the masks, and those between. */
    assert_false(is_allowed(NULL, 0, 'c', R, 1, 3 + 32));
    assert_false(is_allowed(NULL, 0, 'c', R, 1, 4));
    assert_false(is_allowed(NULL, 0, 'c', R, 5, 3));
    assert_false(is_allowed(NULL, 0, 'c', R, 1, UINT32_MAX));
}

static void test_the_last_rule_decides(void **state)
{
    const struct spec_device_rule rules[] = {
        allow_all,
        {false, 'c', 1, -1, false, true, false},
        {true, 'c', 1, 4, false, true, false},
        {false, 'b', -1, -1, true, true, true},
        {true, 'b', 8, -1, true, false, false},
    };
    size_t count = sizeof(rules) / sizeof(*rules);
    assert_true(is_allowed(rules, count, 'c', R | W | M, 10, 229));
    assert_true(is_allowed(rules, count, 'c', R, 1, 2));
    assert_false(is_allowed(rules, count, 'c', W, 1, 2));
    assert_false(is_allowed(rules, count, 'c', R | W, 1, 2));
    assert_true(is_allowed(rules, count, 'c', R | W, 1, 4));
    assert_true(is_allowed(rules, count, 'b', R, 8, 5));
    assert_false(is_allowed(rules, count, 'b', R | W, 8, 5));
    assert_false(is_allowed(rules, count, 'b', R, 9, 5));
}

static void test_rights_of_several_rules(void **state)
{
    const struct spec_device_rule rules[] = {
        deny_all,
        {true, 'c', 1, 4, true, false, false},
        {true, 'c', 1, 4, false, true, false},
        {true, 'a', -1, -1, false, false, true},
    };
    assert_true(is_allowed(rules, 4, 'c', R | W | M, 1, 4));
    assert_false(is_allowed(rules, 4, 'c', R, 1, 6));
    assert_true(is_allowed(rules, 4, 'b', M, 1, 6));
}

/* Any rules against the definition: for each right the last rule that speaks of it. */
static bool is_right_allowed(const struct spec_device_rule *rules, size_t count, char type,
                             uint32_t right, uint32_t major, uint32_t minor)
{
    for (size_t i = count + device_default_rule_count; i-- > 0;) {
        const struct spec_device_rule *rule =
            i < count ? &rules[i] : &device_default_rules[i - count];
        bool is_any = rule->type == 'a';
        if ((is_any || rule->type == type) && (is_any || rule->major < 0 || rule->major == major) &&
            (is_any || rule->minor < 0 || rule->minor == minor) &&
            (right == R   ? rule->can_read
             : right == W ? rule->can_write
                          : rule->can_mknod)) {
            return rule->is_allowed;
        }
    }
    return false;
}

static void test_random_rules(void **state)
{
    uint64_t seed = 1;
    for (int round = 0; round < 3000; round++) {
        struct spec_device_rule rules[12];
        size_t count = 12;
        for (size_t i = 0; i < count; i++) {
            seed = seed * 6364136223846793005U + 1442695040888963407U;
            uint32_t bits = (uint32_t)(seed >> 32);
            bool has_all = (bits & 3) != 0;
            rules[i] = (struct spec_device_rule){
                .is_allowed = (bits >> 2 & 3) != 0,
                .type = "ccbcbcca"[bits >> 4 & 7],
                .major = (int64_t)(bits >> 7 & 3) - 1,
                .minor = (int64_t)(bits >> 9 & 7) * 5 - 1,
                .can_read = has_all || (bits >> 12 & 1) != 0,
                .can_write = has_all || (bits >> 13 & 1) != 0,
                .can_mknod = has_all || (bits >> 14 & 1) != 0,
            };
        }
        struct bpf_insn *program = NULL;
        size_t size;
        assert_int_equal(device_program_create(rules, count, &program, &size, NULL), 0);
        for (uint32_t minor = 0; minor < 40; minor++) {
            uint32_t access = 1 + (uint32_t)(seed >> 40) % 7, major = minor % 3;
            char type = minor % 2 != 0 ? 'b' : 'c';
            bool wanted = true;
            for (uint32_t right = M; right <= W; right <<= 1) {
                wanted = wanted && ((access & right) == 0 ||
                                    is_right_allowed(rules, count, type, right, major, minor));
            }
            struct bpf_cgroup_dev_ctx ctx = {
                access << 16 | (type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR), major,
                minor};
            assert_int_equal(interpret(program, size, &ctx), wanted);
        }
        free(program);
    }
}

static void test_everything(void **state)
{
    assert_true(is_allowed(&allow_all, 1, 'b', R | W | M, 8, 0));
    const struct spec_device_rule rules[] = {{true, 'c', 1, 4, true, true, true}, deny_all};
    assert_false(is_allowed(rules, 2, 'c', R, 1, 4));
    /* As v1 has it, numbers beside 'a' mean nothing. */
    const struct spec_device_rule numbered = {true, 'a', 8, 0, true, true, true};
    assert_true(is_allowed(&numbered, 1, 'c', R, 1, 4));
}

static void test_too_many(void **state)
{
    struct spec_device_rule *rules = calloc(9000, sizeof(*rules));
    struct bpf_insn *program = NULL;
    size_t count;
    struct error err = {0};
    assert_int_equal(device_program_create(rules, 9000, &program, &count, &err), -E2BIG);
    assert_non_null(strstr(err.text, "linux.resources.devices"));
    assert_null(program);
    free(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_the_last_rule_decides),
        cmocka_unit_test(test_rights_of_several_rules),
        cmocka_unit_test(test_random_rules),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
