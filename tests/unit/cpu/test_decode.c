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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
