/* Covers cpu/x86/encoding.c: every row of the table can be built in every mode that it has, with random choices, and what is
 * built is of that row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/x86/encoding.h"
#include "cpu/x86/tables.h"

static void every_row_can_be_built(void **state)
{
    uint64_t seed = 1;
    for (size_t i = 0; i < x86_row_count; i++) {
        const struct x86_row_encoding *row = &x86_row_encodings[i];
        assert_int_equal(row->row, i);
        for (int mode = X86_CODE_16; mode <= X86_CODE_64; mode++) {
            if (row->refused & (X86_WHEN_MODE_16 << mode)) {
                continue;
            }
            /* Rows that are only for W1 or operand size 8 without being VEX need 64-bit mode. */
            if (mode != X86_CODE_64 && !row->is_vex &&
                (row->refused & (X86_WHEN_W0 | X86_WHEN_OPERAND_4)) &&
                (row->refused & (X86_WHEN_W0 | X86_WHEN_OPERAND_2))) {
                continue;
            }
            uint32_t built = 0;
            for (uint32_t try = 0; try < 200; try++) {
                struct x86_encode_choice choice;
                uint8_t bytes[X86_INSN_MAX_LENGTH];
                struct x86_insn insn;
                x86_encode_choose(row, mode, &seed, &choice);
                size_t length = x86_encode_row(row, &choice, bytes);
                if (length == 0) {
                    continue;
                }
                built++;
                assert_int_equal(x86_decode(bytes, length, mode, &insn), X86_DECODE_OK);
                assert_int_equal(insn.length, length);
                assert_int_equal(insn.row, i);
            }
            if (built < 10) {
                print_error("row %zu, %s, mode %d: built %u of 200\n", i, x86_rows[i].mnemonic,
                            mode, built);
            }
            assert_true(built > 0);
        }
    }
}

static void choices_come_out(void **state)
{
    const struct x86_row_encoding *row = NULL;
    for (size_t i = 0; i < x86_row_count; i++) {
        if (x86_rows[i].id == X86_ID_ADD && x86_row_encodings[i].opcode == 0x81) {
            row = &x86_row_encodings[i];
        }
    }
    assert_non_null(row);
    const struct x86_encode_choice choice = {
        .code_size = X86_CODE_64,
        .operand_bytes = 8,
        .address_bytes = 8,
        .is_locked = true,
        .segment = X86_FS,
        .is_memory = true,
        .base = X86_R13,
        .index = X86_R12,
        .scale = 4,
        .disp = -16,
        .imm = 0x12345678,
    };
    static const uint8_t expected[] = {0xf0, 0x64, 0x4b, 0x81, 0x44, 0xa5,
                                       0xf0, 0x78, 0x56, 0x34, 0x12};
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    assert_int_equal(x86_encode_row(row, &choice, bytes), sizeof(expected));
    assert_memory_equal(bytes, expected, sizeof(expected));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_can_be_built),
        cmocka_unit_test(choices_come_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
