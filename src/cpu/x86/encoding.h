/* Building instructions from rows of the table: for tests that run every instruction there is, with operands of their
 * choice, on one engine and on another.
 *
 *   for (size_t row = 0; row < x86_row_count; row++) {
 *       struct x86_encode_choice choice;
 *       x86_encode_choose(&x86_row_encodings[row], X86_CODE_64, &seed, &choice);
 *       choice.is_memory = true, choice.base = X86_RSI, ...   // what the test insists on
 *       size_t length = x86_encode_row(&x86_row_encodings[row], &choice, bytes);
 *   }
 */
#ifndef CPU_X86_ENCODING_H
#define CPU_X86_ENCODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/x86/decode.h"

enum x86_modrm_rule {
    X86_MODRM_NONE,
    X86_MODRM_ANY,
    X86_MODRM_MEMORY,
    X86_MODRM_REGISTER,
};

/* The fixed part of a row's encoding. x86_rows[row] has the rest: name, feature, attributes, flags. */
struct x86_row_encoding {
    uint16_t row;
    uint8_t map; /* as in struct x86_insn */
    uint8_t opcode;
    bool has_opcode_register; /* the opcode's low three bits are a register */
    bool is_vex;
    uint8_t mandatory_prefix; /* 0, 0x66, 0xf3, 0xf2 */
    uint8_t modrm;            /* enum x86_modrm_rule */
    uint8_t reg, rm;          /* fixed values of the ModRM fields, 0xff: free */
    uint16_t refused; /* X86_WHEN_* of tables.h: modes, W, L, operand sizes that are another row */
};

extern const struct x86_row_encoding x86_row_encodings[]; /* beside x86_rows */

/* The free part. What a row has no place for is ignored; what it fixes (its /digit, W, L, mod) wins. */
struct x86_encode_choice {
    uint8_t code_size;     /* enum x86_code_size */
    uint8_t operand_bytes; /* 2, 4, 8: makes 66 and REX.W */
    uint8_t address_bytes; /* 2, 4, 8: makes 67 */
    bool is_locked;
    uint8_t repeat;          /* 0, 0xf2, 0xf3: where it is not the row's own */
    uint8_t segment;         /* enum x86_segment_id: an override; X86_SEGMENT_COUNT: none */
    bool has_rex;            /* an empty REX as well: SPL.. instead of AH.. */
    uint8_t register_number; /* ModRM.reg or the opcode's register; AH..BH are 4..7 without REX */
    uint8_t rm_register;     /* ModRM.rm if it is a register */
    uint8_t vvvv;
    uint8_t vex_l, vex_w;
    bool is_memory; /* ModRM.rm is memory: */
    uint8_t base,
        index; /* GPR numbers, X86_BASE_NONE; base X86_BASE_RIP. The index of a gather is a vector's number */
    uint8_t scale; /* 1, 2, 4, 8 */
    int32_t disp;  /* takes as many bytes as it needs */
    uint64_t imm,
        imm2; /* cut to what the row takes; absolute addresses (MOV AL, moffs) are in imm */
};

/* Fills 'out_choice' with random values that are valid in 'code_size', for as many rows as possible; advances 'seed'. */
void x86_encode_choose(const struct x86_row_encoding *row, enum x86_code_size code_size,
                       uint64_t *seed, struct x86_encode_choice *out_choice);

/* Builds the instruction. Returns its length, or 0 if there is none for this row and choice: wrong mode, registers or an
 * address that cannot be encoded, LOCK where it may not be, more than 15 bytes. Whatever is returned was decoded once
 * and is of this row. */
size_t x86_encode_row(const struct x86_row_encoding *row, const struct x86_encode_choice *choice,
                      uint8_t out_bytes[X86_INSN_MAX_LENGTH]);

#endif
