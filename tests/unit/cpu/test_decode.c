/* Covers cpu/x86/decode.c: the hard cases of the encoding, in all three modes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode.h"

struct expected {
    enum x86_code_size code_size;
    uint8_t size;
    uint8_t bytes[16];
    enum x86_decode_status status;
    uint8_t length;
    uint16_t id;
    uint8_t operand_bytes;
};

#define OK(mode, id, operand, length, ...)                                                         \
    {                                                                                              \
        X86_CODE_##mode, sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}, X86_DECODE_OK, length,   \
            X86_ID_##id, operand                                                                   \
    }
#define BAD(mode, status, ...)                                                                     \
    {                                                                                              \
        X86_CODE_##mode, sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}, X86_DECODE_##status, 0,  \
            0, 0                                                                                   \
    }

static void check(const struct expected *expected, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct expected *e = &expected[i];
        struct x86_insn insn;
        enum x86_decode_status status = x86_decode(e->bytes, e->size, e->code_size, &insn);
        if (status != e->status) {
            fail_msg("case %zu: status %d, expected %d", i, status, e->status);
        }
        if (status != X86_DECODE_OK) {
            continue;
        }
        if (insn.id != e->id || insn.length != e->length ||
            insn.operand_bytes != e->operand_bytes) {
            fail_msg("case %zu: %s, length %d, operand size %d", i, x86_rows[insn.row].mnemonic,
                     insn.length, insn.operand_bytes);
        }
    }
}

static void integer_instructions(void **state)
{
    static const struct expected expected[] = {
        OK(64, ADD, 8, 3, 0x48, 0x01, 0xd8),
        OK(32, ADD, 2, 3, 0x66, 0x01, 0xd8),
        OK(16, ADD, 4, 3, 0x66, 0x01, 0xd8),
        OK(64, MOV, 8, 10, 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8),
        OK(64, PUSH, 8, 1, 0x50),
        OK(64, PUSH, 2, 2, 0x66, 0x50),
        OK(64, CALL, 8, 5, 0xe8, 0, 0, 0, 0),
        OK(64, CALL, 2, 4, 0x66, 0xe8, 0, 0),
        OK(32, CALL_FAR, 4, 7, 0x9a, 1, 2, 3, 4, 5, 6),
        BAD(64, UNDEFINED, 0x9a, 1, 2, 3, 4, 5, 6),
        OK(64, MOVS, 8, 3, 0xf3, 0x48, 0xa5),
        OK(64, ADD, 2, 4, 0x48, 0x66, 0x01, 0xd8),
        OK(64, NOP, 4, 1, 0x90),
        OK(64, XCHG, 4, 2, 0x41, 0x90),
        OK(64, PAUSE, 4, 2, 0xf3, 0x90),
        OK(64, POPCNT, 2, 5, 0x66, 0xf3, 0x0f, 0xb8, 0xc0),
        BAD(64, UNDEFINED, 0xf0, 0x01, 0xd8),
        OK(64, ADD, 4, 3, 0xf0, 0x01, 0x18),
        BAD(64, UNDEFINED, 0xf0, 0x3b, 0x18),
        BAD(64, UNDEFINED, 0x06),
        OK(64, MOV_CR, 4, 3, 0x0f, 0x20, 0x00),
        BAD(64, MORE, 0x0f),
        BAD(64, MORE, 0x81, 0xc0, 0, 0, 0),
        BAD(64, TOO_LONG, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
            0x66, 0x66, 0x66, 0x90),
    };
    check(expected, ARRAY_COUNT(expected));
}

static void prefixes(void **state)
{
    static const struct expected expected[] = {
        /* REX: only right before the opcode; W beats 66. */
        OK(64, MOV, 8, 4, 0x66, 0x48, 0x89, 0xd8),
        OK(64, MOV, 2, 4, 0x48, 0x66, 0x89, 0xd8),
        OK(64, MOV, 4, 4, 0x48, 0x40, 0x89, 0xd8),
        OK(32, DEC, 4, 1, 0x48),
        /* The last of F2, F3 is the mandatory one. */
        OK(64, MOVSS, 4, 5, 0xf2, 0xf3, 0x0f, 0x10, 0xc1),
        OK(64, MOVSD, 4, 5, 0xf3, 0xf2, 0x0f, 0x10, 0xc1),
        OK(64, MOVSD, 2, 5, 0x66, 0xf2, 0x0f, 0x10, 0xc1),
        OK(64, MOVUPD, 4, 4, 0x66, 0x0f, 0x10, 0xc1),
        BAD(64, UNDEFINED, 0xf3, 0x0f, 0x28, 0xc1),
        OK(64, BSF, 4, 4, 0xf2, 0x0f, 0xbc, 0xc1),
        OK(64, TZCNT, 4, 4, 0xf3, 0x0f, 0xbc, 0xc1),
        OK(64, CRC32, 2, 6, 0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xc1),
        OK(64, MOVBE, 2, 5, 0x66, 0x0f, 0x38, 0xf0, 0x01),
        BAD(64, UNDEFINED, 0xf3, 0x0f, 0x38, 0xf0, 0x01),
        /* LOCK. */
        OK(64, XCHG, 4, 3, 0xf0, 0x87, 0x01),
        OK(64, CMPXCHG16B, 8, 5, 0xf0, 0x48, 0x0f, 0xc7, 0x0e),
        OK(64, BTS, 4, 5, 0xf0, 0x0f, 0xba, 0x28, 0x03),
        BAD(64, UNDEFINED, 0xf0, 0x0f, 0xba, 0x20, 0x03),
        BAD(64, UNDEFINED, 0xf0, 0x90),
        BAD(64, UNDEFINED, 0xf0, 0x83, 0x38, 0x00),
        BAD(64, UNDEFINED, 0xf0, 0x0f, 0x0b),
        /* Length. */
        OK(64, NOP, 2, 15, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
           0x66, 0x66, 0x90),
        BAD(64, TOO_LONG, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
            0x81, 0xc0, 0x01, 0x02),
        BAD(64, MORE, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66),
    };
    check(expected, ARRAY_COUNT(expected));
}

static void operand_sizes(void **state)
{
    static const struct expected expected[] = {
        OK(64, POP, 8, 2, 0x8f, 0xc0),
        OK(64, RET, 8, 1, 0xc3),
        OK(64, RET_FAR, 4, 1, 0xcb),
        OK(64, IRET, 8, 2, 0x48, 0xcf),
        OK(64, JMP, 8, 2, 0xff, 0xe0),
        OK(64, JMP, 2, 3, 0x66, 0xff, 0xe0),
        OK(64, JZ, 2, 5, 0x66, 0x0f, 0x84, 0, 0),
        OK(16, JZ, 4, 7, 0x66, 0x0f, 0x84, 0, 0, 0, 0),
        OK(64, PUSHF, 8, 1, 0x9c),
        OK(64, ENTER, 8, 4, 0xc8, 0, 0, 0),
        OK(64, JMP_FAR, 8, 3, 0x48, 0xff, 0x28),
        OK(64, CDQE, 8, 2, 0x48, 0x98),
        OK(16, CBW, 2, 1, 0x98),
        OK(16, CWDE, 4, 2, 0x66, 0x98),
        OK(64, MOV, 4, 9, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8),
        OK(64, MOV, 4, 6, 0x67, 0xa1, 1, 2, 3, 4),
        OK(16, MOV, 2, 3, 0xa1, 1, 2),
        OK(16, CALL_FAR, 2, 5, 0x9a, 1, 2, 3, 4),
    };
    check(expected, ARRAY_COUNT(expected));
}

static void groups(void **state)
{
    static const struct expected expected[] = {
        OK(64, TEST, 4, 3, 0xf6, 0xc8, 0x01),
        OK(64, SHL, 4, 2, 0xd0, 0xf0),
        OK(32, ADD, 4, 3, 0x82, 0xc0, 0x01),
        BAD(64, UNDEFINED, 0x82, 0xc0, 0x01),
        OK(32, SALC, 4, 1, 0xd6),
        BAD(64, UNDEFINED, 0xfe, 0xd0),
        BAD(64, UNDEFINED, 0xff, 0xf8),
        BAD(64, UNDEFINED, 0xff, 0xd8),
        BAD(64, UNDEFINED, 0x8d, 0xc0),
        BAD(64, UNDEFINED, 0x8e, 0xc8),
        BAD(64, UNDEFINED, 0x8e, 0xf0),
        BAD(64, UNDEFINED, 0x0f, 0x20, 0xc8),
        BAD(64, UNDEFINED, 0xc6, 0xc8, 0x00),
        BAD(64, UNDEFINED, 0x8f, 0xe8, 0x78, 0xc2, 0xc0, 0x00),
        OK(64, SWAPGS, 4, 3, 0x0f, 0x01, 0xf8),
        BAD(32, UNDEFINED, 0x0f, 0x01, 0xf8),
        OK(64, INVLPG, 4, 3, 0x0f, 0x01, 0x38),
        OK(64, XGETBV, 4, 3, 0x0f, 0x01, 0xd0),
        OK(64, LFENCE, 4, 3, 0x0f, 0xae, 0xe8),
        OK(64, XRSTOR, 4, 3, 0x0f, 0xae, 0x28),
        OK(64, CLWB, 4, 4, 0x66, 0x0f, 0xae, 0x30),
        OK(64, RDFSBASE, 8, 5, 0xf3, 0x48, 0x0f, 0xae, 0xc0),
        OK(64, RDRAND, 4, 3, 0x0f, 0xc7, 0xf0),
        OK(64, CMPXCHG8B, 4, 3, 0x0f, 0xc7, 0x08),
        OK(64, ENDBR64, 4, 4, 0xf3, 0x0f, 0x1e, 0xfa),
        OK(64, NOP, 4, 4, 0x0f, 0x1f, 0x40, 0x00),
        OK(64, UD2, 4, 2, 0x0f, 0x0b),
        BAD(64, UNDEFINED, 0x0f, 0x0f, 0xc0, 0x9e),
        OK(64, FFREEP, 4, 2, 0xdf, 0xc0),
        OK(64, FSTP, 4, 2, 0xd9, 0xd8),
        BAD(64, UNDEFINED, 0xd9, 0xd1),
        OK(16, FNSTSW, 2, 2, 0xdf, 0xe0),
    };
    check(expected, ARRAY_COUNT(expected));
}

/* What makers read differently: 66 on near branches of 64-bit code, and F3 REX.B 90. */
static void makers(void **state)
{
    static const struct expected expected[] = {
        OK(64, JMP, 2, 4, 0x66, 0xe9, 1, 2),
        OK(64_INTEL, JMP, 8, 6, 0x66, 0xe9, 1, 2, 3, 4),
        OK(64, CALL, 2, 4, 0x66, 0xe8, 1, 2),
        OK(64_INTEL, CALL, 8, 6, 0x66, 0xe8, 1, 2, 3, 4),
        OK(64, JNZ, 2, 5, 0x66, 0x0f, 0x85, 1, 2),
        OK(64_INTEL, JNZ, 8, 7, 0x66, 0x0f, 0x85, 1, 2, 3, 4),
        OK(64_INTEL, JNZ, 8, 3, 0x66, 0x75, 1),
        OK(64_INTEL, LOOP, 8, 3, 0x66, 0xe2, 1),
        OK(64, CALL, 2, 3, 0x66, 0xff, 0xd0),
        OK(64_INTEL, CALL, 8, 3, 0x66, 0xff, 0xd0),
        OK(64, RET, 2, 2, 0x66, 0xc3),
        OK(64_INTEL, RET, 8, 2, 0x66, 0xc3),
        /* padded as linkers do: the same to both */
        OK(64, CALL, 8, 7, 0x66, 0x48, 0xe8, 1, 2, 3, 4),
        OK(64_INTEL, CALL, 8, 7, 0x66, 0x48, 0xe8, 1, 2, 3, 4),
        OK(64, CALL, 8, 8, 0x66, 0x66, 0x48, 0xe8, 1, 2, 3, 4),
        OK(64_INTEL, CALL, 8, 8, 0x66, 0x66, 0x48, 0xe8, 1, 2, 3, 4),
        /* no branches, and far ones */
        OK(64_INTEL, PUSH, 2, 2, 0x66, 0x50),
        OK(64_INTEL, IRET, 2, 2, 0x66, 0xcf),
        /* other code sizes have no makers */
        OK(32, JMP, 2, 4, 0x66, 0xe9, 1, 2),
        OK(64, XCHG, 4, 3, 0xf3, 0x41, 0x90),
        OK(64_INTEL, PAUSE, 4, 3, 0xf3, 0x41, 0x90),
        OK(64_INTEL, XCHG, 4, 2, 0x41, 0x90),
    };
    check(expected, ARRAY_COUNT(expected));
    struct x86_insn insn;
    assert_int_equal(x86_decode((const uint8_t[]){0x90}, 1, X86_CODE_64_INTEL, &insn),
                     X86_DECODE_OK);
    assert_int_equal(insn.code_size, X86_CODE_64);
}

static void vex(void **state)
{
    static const struct expected expected[] = {
        OK(64, VADDPS, 4, 4, 0xc5, 0xf8, 0x58, 0xc1),
        OK(32, VADDPS, 4, 4, 0xc5, 0xf8, 0x58, 0xc1),
        OK(32, LDS, 4, 2, 0xc5, 0x38),
        OK(16, LES, 2, 2, 0xc4, 0x00),
        OK(32, BOUND, 4, 2, 0x62, 0x00),
        BAD(64, UNDEFINED, 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1),
        BAD(32, UNDEFINED, 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1),
        BAD(64, UNDEFINED, 0xf0, 0xc5, 0xf8, 0x58, 0x01),
        BAD(64, UNDEFINED, 0x66, 0xc5, 0xf8, 0x58, 0xc1),
        BAD(64, UNDEFINED, 0xf3, 0xc5, 0xf8, 0x58, 0xc1),
        BAD(64, UNDEFINED, 0x48, 0xc5, 0xf8, 0x58, 0xc1),
        OK(64, VADDPS, 4, 5, 0x67, 0xc5, 0xf8, 0x58, 0x01),
        OK(64, VMOVAPS, 4, 4, 0xc5, 0xf8, 0x28, 0xc1),
        BAD(64, UNDEFINED, 0xc5, 0xf0, 0x28, 0xc1),
        BAD(64, UNDEFINED, 0xc4, 0xe2, 0x7c, 0xf2, 0xc1),
        OK(64, ANDN, 4, 5, 0xc4, 0xe2, 0x78, 0xf2, 0xc1),
        OK(64, VFMADD231SD, 8, 5, 0xc4, 0xe2, 0xf9, 0xb9, 0xc1),
        OK(64, VFMADD231SS, 4, 5, 0xc4, 0xe2, 0x79, 0xb9, 0xc1),
        BAD(64, UNDEFINED, 0xc4, 0xe2, 0x79, 0x16, 0xc1),
        BAD(64, UNDEFINED, 0xc4, 0xe4, 0x79, 0x16, 0xc1),
        OK(64, VZEROUPPER, 4, 3, 0xc5, 0xf8, 0x77),
        OK(64, VZEROALL, 4, 3, 0xc5, 0xfc, 0x77),
        OK(64, VPGATHERDD, 4, 6, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0f),
        BAD(64, UNDEFINED, 0xc4, 0xe2, 0x79, 0x90, 0x04, 0x0f),
        BAD(64, UNDEFINED, 0xc4, 0xe2, 0x69, 0x90, 0xc1),
        BAD(64, UNDEFINED, 0xc4, 0xe2, 0x69, 0x90, 0x07),
        OK(64, VMOVQ, 8, 5, 0xc4, 0xe1, 0xf9, 0x6e, 0xc0),
        OK(32, VMOVD, 4, 5, 0xc4, 0xe1, 0xf9, 0x6e, 0xc0),
    };
    check(expected, ARRAY_COUNT(expected));
}

static const struct {
    enum x86_code_size code_size;
    uint8_t bytes[16];
    uint8_t segment, base, index, scale;
    int64_t disp;
} addresses[] = {
    /* 64-bit: RIP-relative, SIB without base, R13 and R12 as base, R12 as index */
    {X86_CODE_64, {0x8b, 0x05, 0xfc, 0xff, 0xff, 0xff}, X86_DS, X86_BASE_RIP, X86_BASE_NONE, 1, -4},
    {X86_CODE_64,
     {0x8b, 0x04, 0x25, 1, 0, 0, 0x80},
     X86_DS,
     X86_BASE_NONE,
     X86_BASE_NONE,
     1,
     -0x7fffffff},
    {X86_CODE_64, {0x41, 0x8b, 0x04, 0x25, 1, 0, 0, 0}, X86_DS, X86_BASE_NONE, X86_BASE_NONE, 1, 1},
    {X86_CODE_64, {0x41, 0x8b, 0x45, 0x00}, X86_DS, X86_R13, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0x41, 0x8b, 0x04, 0x24}, X86_DS, X86_R12, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0x42, 0x8b, 0x04, 0x60}, X86_DS, X86_RAX, X86_R12, 2, 0},
    {X86_CODE_64, {0x8b, 0x44, 0xe4, 0x08}, X86_SS, X86_RSP, X86_BASE_NONE, 1, 8},
    {X86_CODE_64, {0x8b, 0x45, 0xf8}, X86_SS, X86_RBP, X86_BASE_NONE, 1, -8},
    /* 64-bit: FS stays in force whatever ignored override follows */
    {X86_CODE_64, {0x64, 0x2e, 0x8b, 0x00}, X86_FS, X86_RAX, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0x2e, 0x8b, 0x00}, X86_DS, X86_RAX, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0x64, 0x65, 0x8b, 0x00}, X86_GS, X86_RAX, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0xa4}, X86_DS, X86_RSI, X86_BASE_NONE, 1, 0},
    {X86_CODE_64, {0x65, 0xaa}, X86_ES, X86_RDI, X86_BASE_NONE, 1, 0},
    /* 32-bit: absolute, last override wins */
    {X86_CODE_32, {0x8b, 0x05, 1, 0, 0, 0}, X86_DS, X86_BASE_NONE, X86_BASE_NONE, 1, 1},
    {X86_CODE_32, {0x64, 0x2e, 0x8b, 0x00}, X86_CS, X86_RAX, X86_BASE_NONE, 1, 0},
    {X86_CODE_32, {0x26, 0xa7}, X86_ES, X86_RSI, X86_BASE_NONE, 1, 0},
    /* 16-bit forms */
    {X86_CODE_16, {0x8b, 0x00}, X86_DS, X86_RBX, X86_RSI, 1, 0},
    {X86_CODE_16, {0x8b, 0x02}, X86_SS, X86_RBP, X86_RSI, 1, 0},
    {X86_CODE_16, {0x8b, 0x06, 0x34, 0x12}, X86_DS, X86_BASE_NONE, X86_BASE_NONE, 1, 0x1234},
    {X86_CODE_16, {0x8b, 0x46, 0xfe}, X86_SS, X86_RBP, X86_BASE_NONE, 1, -2},
    {X86_CODE_16, {0x8b, 0x85, 0x00, 0x80}, X86_DS, X86_RDI, X86_BASE_NONE, 1, -0x8000},
    {X86_CODE_16, {0x67, 0x8b, 0x04, 0x8b}, X86_DS, X86_RBX, X86_RCX, 4, 0},
    {X86_CODE_32, {0x67, 0x8b, 0x07}, X86_DS, X86_RBX, X86_BASE_NONE, 1, 0},
};

static void memory_operands(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        struct x86_insn insn;
        assert_int_equal(x86_decode(addresses[i].bytes, sizeof(addresses[i].bytes),
                                    addresses[i].code_size, &insn),
                         X86_DECODE_OK);
        assert_true(insn.has_memory);
        if (insn.segment != addresses[i].segment || insn.base != addresses[i].base ||
            insn.index != addresses[i].index || insn.scale != addresses[i].scale ||
            insn.disp != addresses[i].disp) {
            fail_msg("address %zu: segment %d base %d index %d scale %d disp %lld", i, insn.segment,
                     insn.base, insn.index, insn.scale, (long long)insn.disp);
        }
    }
}

static void byte_registers(void **state)
{
    static const uint8_t high[] = {0x88, 0xe5}, low[] = {0x40, 0x88, 0xe5};
    struct x86_insn insn;
    assert_int_equal(x86_decode(high, sizeof(high), X86_CODE_64, &insn), X86_DECODE_OK);
    assert_true(insn.operand[0].is_high && insn.operand[0].reg == X86_RCX);
    assert_true(insn.operand[1].is_high && insn.operand[1].reg == X86_RAX);
    assert_int_equal(x86_decode(low, sizeof(low), X86_CODE_64, &insn), X86_DECODE_OK);
    assert_true(!insn.operand[0].is_high && insn.operand[0].reg == X86_RBP);
    assert_true(!insn.operand[1].is_high && insn.operand[1].reg == X86_RSP);
}

static void immediates(void **state)
{
    static const uint8_t enter[] = {0xc8, 0x34, 0x12, 0x05}, add[] = {0x66, 0x83, 0xc0, 0xff},
                         far[] = {0x9a, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00};
    struct x86_insn insn;
    assert_int_equal(x86_decode(enter, sizeof(enter), X86_CODE_64, &insn), X86_DECODE_OK);
    assert_true(insn.imm == 0x1234 && insn.imm2 == 5 && insn.imm_offset == 1 &&
                insn.imm_bytes == 3);
    assert_int_equal(x86_decode(add, sizeof(add), X86_CODE_32, &insn), X86_DECODE_OK);
    assert_true(insn.imm == ~0ull && insn.operand[1].size_bytes == 2);
    assert_int_equal(x86_decode(far, sizeof(far), X86_CODE_32, &insn), X86_DECODE_OK);
    assert_true(insn.imm == 0x12345678 && insn.imm2 == 8 &&
                insn.operand[0].kind == X86_OPERAND_FAR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_instructions),
        cmocka_unit_test(prefixes),
        cmocka_unit_test(operand_sizes),
        cmocka_unit_test(groups),
        cmocka_unit_test(makers),
        cmocka_unit_test(vex),
        cmocka_unit_test(memory_operands),
        cmocka_unit_test(byte_registers),
        cmocka_unit_test(immediates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
