/* Where jumps lie in translated code, for CPUs that are slow at some places. */
#include "base/core/bits.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/translate/emit.h"
#include "engine/soft/translate/host_cpu.h"
#include "soft_guest.h"

/* Branches of all kinds, with and without a comparison to be fused with, and accesses to memory with their checks. */
GUEST_CODE_BLOCK(
    branches, ".code64",
    "mov $300, %ecx\n mov $0x200000, %esi\n xor %eax, %eax\n lea 5f(%rip), %rbx\n"
    "1: mov (%rsi), %rdx\n add %rdx, %rax\n mov %rax, 8(%rsi)\n test $1, %cl\n jz 2f\n"
    "add $3, %rax\n cmp %rax, 8(%rsi)\n je 2f\n cmp 16(%rsi), %r9\n jne 2f\n inc %r8d\n"
    "2: call 4f\n push %rax\n pop %rax\n cmp $77, %ecx\n jb 3f\n sub $1, %r10\n js 3f\n nop\n"
    "3: call *%rbx\n bt $3, %ecx\n jc 6f\n and %ecx, %r11d\n jz 6f\n mov 24(%rsi), %dx\n"
    "6: dec %ecx\n jnz 1b\n out %al, $0xf4\n hlt\n"
    ".org branches + 0x200\n 4: add %rcx, (%rsi)\n ret\n 5: xor $1, %rax\n jmp 4b\n");

static bool is_jump(const struct x86_insn *insn)
{
    bool is_jcc =
        insn->map ? insn->map == 1 && (insn->opcode & 0xf0) == 0x80 : (insn->opcode & 0xf0) == 0x70;
    return is_jcc || insn->id == X86_ID_JMP;
}

static bool is_fused(const struct x86_insn *insn)
{
    return (insn->id == X86_ID_CMP || insn->id == X86_ID_TEST || insn->id == X86_ID_ADD ||
            insn->id == X86_ID_SUB || insn->id == X86_ID_AND) &&
           !(insn->has_memory && insn->imm_bytes);
}

/* How many jumps of a block lie badly. */
static size_t count_bad(const struct soft_native *n, const struct native_block *block,
                        size_t *jumps)
{
    const uint8_t *at = native_code(n, block), *end = at + block->code_size, *before = NULL;
    size_t bad = 0;
    while (at < end) {
        struct x86_insn insn;
        assert_int_equal(x86_decode(at, (size_t)(end - at), X86_CODE_64, &insn), X86_DECODE_OK);
        const uint8_t *start = is_jump(&insn) && insn.id != X86_ID_JMP && before ? before : at;
        if (is_jump(&insn)) {
            (*jumps)++;
            bad += (uintptr_t)start / EMIT_PIECE != (uintptr_t)(at + insn.length) / EMIT_PIECE;
        }
        before = is_fused(&insn) ? at : NULL;
        at += insn.length;
        if (insn.id == X86_ID_CALL) {
            at += 16; /* what the stub reads */
        }
    }
    return bad;
}

static size_t run_and_count(const char *options, uint64_t *out_rax, size_t *out_jumps)
{
    struct soft_guest g;
    struct x86_state s, after;
    size_t bad = 0;
    guest_start_with(&g, 1, options);
    guest_long_mode(&g, 0, branches, GUEST_CODE_SIZE(branches), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    *out_rax = after.gpr[X86_RAX];
    *out_jumps = 0;
    const struct soft_native *n = soft_from_vcpu(g.vcpu[0])->native;
    for (size_t i = 0; i < BIT(n->hash_bits); i++) {
        for (native_ref ref = n->hash[i]; ref;) {
            const struct native_block *block = native_at(n, ref);
            bad += count_bad(n, block, out_jumps);
            ref = block->hash_next;
        }
    }
    guest_end(&g);
    return bad;
}

static void test_jumps_fit(void **state)
{
    uint64_t expected, rax;
    size_t jumps;
    (void)state;
    assert_true(run_and_count("flags=exact,verify=on,jumps=free", &expected, &jumps) > 0);
    assert_true(jumps > 30);
    assert_int_equal(run_and_count("flags=exact,verify=on,jumps=fit", &rax, &jumps), 0);
    assert_true(jumps > 30);
    assert_int_equal(rax, expected);
    assert_int_equal(run_and_count("flags=exact,verify=on,jumps=fit,windows=always", &rax, &jumps),
                     0);
    assert_int_equal(rax, expected);
}

/* From each place, and for each length. */
static void test_padding(void **state)
{
    _Alignas(64) uint8_t code[128];
    (void)state;
    for (uint32_t offset = 0; offset < EMIT_PIECE; offset++) {
        for (uint32_t size = 1; size < EMIT_PIECE - 8; size++) {
            struct emitter e = {.at = code + offset, .fits_jumps = true};
            emit_fit(&e, size);
            uint32_t at = (uint32_t)(e.at - code);
            assert_true(at / EMIT_PIECE == (at + size) / EMIT_PIECE);
            assert_true(at == offset || at == EMIT_PIECE);
            for (uint32_t i = offset; i < at;) {
                struct x86_insn insn;
                assert_int_equal(x86_decode(code + i, at - i, X86_CODE_64, &insn), X86_DECODE_OK);
                assert_int_equal(insn.id, X86_ID_NOP);
                i += insn.length;
                assert_true(i <= at);
            }
            e = (struct emitter){.at = code + offset};
            emit_fit(&e, size);
            assert_ptr_equal(e.at, code + offset);
        }
    }
    struct emitter e = {.at = code + 27, .fits_jumps = true};
    emit_op_reg(&e, HOST_OP_CMP_REG_RM, HOST_RAX, HOST_RCX);
    emit_move_to_fit(&e, code + 27, EMIT_JCC_SIZE);
    assert_ptr_equal(e.at, code + EMIT_PIECE + 3);
    assert_memory_equal(code + EMIT_PIECE, "\x48\x3b\xc1", 3);
}

static void test_hosts(void **state)
{
    (void)state;
    assert_true(native_has_jump_erratum(0x50657));  /* Cascade Lake */
    assert_true(native_has_jump_erratum(0x506e3));  /* Skylake */
    assert_true(native_has_jump_erratum(0x806ea));  /* Kaby Lake Refresh */
    assert_true(native_has_jump_erratum(0xa0652));  /* Comet Lake */
    assert_false(native_has_jump_erratum(0x5065b)); /* Cooper Lake */
    assert_false(native_has_jump_erratum(0x606a6)); /* Ice Lake */
    assert_false(native_has_jump_erratum(0x306c3)); /* Haswell */
    assert_false(native_has_jump_erratum(0x800f12));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_jumps_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
