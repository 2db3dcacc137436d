/* The shape of the tables that tools/x86_table.py makes from instructions.def for decode.c, disasm.c and encoding.c.
 * Private to this folder.
 *
 * Lookup: x86_opcodes[map][opcode] says by which parts of the encoding the opcode splits; base plus these parts selects a
 * list in x86_lists, and the first candidate of the list whose conditions hold is the row. */
#ifndef CPU_X86_TABLES_H
#define CPU_X86_TABLES_H

#include <stdint.h>

#include "cpu/x86/decode.h"

/* Maps 0..3 as in struct x86_insn; VEX's maps 1..3 follow at 4..6. */
#define X86_TABLE_MAPS 7

#define X86_SPLIT_PREFIX 0x01u /* none, 66, F3, F2: 4 ways */
#define X86_SPLIT_REG    0x02u /* ModRM.reg: 8 ways */
#define X86_SPLIT_MOD    0x04u /* memory, register: 2 ways */
#define X86_HAS_MODRM    0x08u

struct x86_opcode_entry {
    uint16_t base; /* into x86_lists */
    uint8_t flags; /* X86_SPLIT_*, X86_HAS_MODRM */
};

#define X86_LIST_EMPTY 0xffffu

/* Conditions of a candidate: the low bits are modes, the others hold if the matching bit of what was decoded is set. */
#define X86_WHEN_MODE_16   0x0001u
#define X86_WHEN_MODE_32   0x0002u
#define X86_WHEN_MODE_64   0x0004u
#define X86_WHEN_W0        0x0008u
#define X86_WHEN_W1        0x0010u
#define X86_WHEN_L0        0x0020u
#define X86_WHEN_L1        0x0040u
#define X86_WHEN_OPERAND_2 0x0080u
#define X86_WHEN_OPERAND_4 0x0100u
#define X86_WHEN_OPERAND_8 0x0200u
#define X86_WHEN_B0        0x0400u
#define X86_WHEN_B1        0x0800u

struct x86_candidate {
    uint16_t row;
    uint16_t refused; /* X86_WHEN_* bits that rule this row out */
    uint8_t modrm_mask, modrm_value;
    bool is_last;
};

/* Where an operand comes from. */
enum x86_source {
    X86_SOURCE_NONE,
    X86_SOURCE_RM,        /* ModRM.rm: register or memory */
    X86_SOURCE_REG,       /* ModRM.reg */
    X86_SOURCE_OPCODE,    /* low three bits of the opcode */
    X86_SOURCE_VVVV,      /* VEX.vvvv */
    X86_SOURCE_IS4,       /* bits 7:4 of the immediate byte */
    X86_SOURCE_FIXED,     /* register number in 'number' */
    X86_SOURCE_IMM,       /* zero-extended */
    X86_SOURCE_IMM_SIGN,  /* a byte (number 1) or 2..4 bytes, sign-extended to 64 bits */
    X86_SOURCE_CONSTANT,  /* immediate value 'number', not in the bytes */
    X86_SOURCE_REL,       /* branch displacement */
    X86_SOURCE_FAR,       /* offset, then selector */
    X86_SOURCE_MOFFS,     /* address-sized absolute address */
    X86_SOURCE_STRING_SI, /* DS:[rSI], segment can be overridden */
    X86_SOURCE_STRING_DI, /* ES:[rDI] */
    X86_SOURCE_BASE,      /* DS:[register 'number'], segment can be overridden */
};

/* Sizes that depend on the encoding; X86_SIZE_n are fixed. */
enum x86_size {
    X86_SIZE_0,
    X86_SIZE_B,
    X86_SIZE_W,
    X86_SIZE_D,
    X86_SIZE_Q,
    X86_SIZE_T,     /* 10 */
    X86_SIZE_DQ,    /* 16 */
    X86_SIZE_QQ,    /* 32 */
    X86_SIZE_FX,    /* 512: FXSAVE */
    X86_SIZE_V,     /* operand size */
    X86_SIZE_Z,     /* operand size, at most 4 */
    X86_SIZE_Y,     /* 4, or 8 with W */
    X86_SIZE_N,     /* 4, in 64-bit mode 8: control registers */
    X86_SIZE_P,     /* far pointer: operand size and 2 */
    X86_SIZE_PT,    /* table register in memory: 6, in 64-bit mode 10 */
    X86_SIZE_A,     /* address size */
    X86_SIZE_BOUND, /* two of operand size */
    X86_SIZE_X,     /* vector: 16 or 32 */
    X86_SIZE_XH,    /* half, quarter, eighth of that */
    X86_SIZE_XQ,
    X86_SIZE_XE,
    X86_SIZE_ENV,   /* x87 environment: 14 or 28 */
    X86_SIZE_FSAVE, /* FSAVE: 94 or 108 */
    X86_SIZE_COUNT,
};

#define X86_ACCESS_IMPLICIT 0x80u /* beside X86_OPERAND_READ and X86_OPERAND_WRITE */

struct x86_operand_form {
    uint8_t source;    /* enum x86_source */
    uint8_t reg_class; /* enum x86_reg_class */
    uint8_t number;
    uint8_t access;
    uint8_t size;     /* enum x86_size: of a register, immediate */
    uint8_t size_mem; /* of memory */
};

#define X86_FORM_DEFAULT_64 0x01u /* operand size 8 in 64-bit mode, 2 with 66 */
#define X86_FORM_NO_VVVV    0x02u /* VEX.vvvv must be 1111 */
#define X86_FORM_VSIB       0x04u
#define X86_FORM_MOD_IS_REG 0x08u /* ModRM.mod is ignored: MOV to and from CR, DR */
#define X86_FORM_PREFIX_66  0x10u /* mandatory prefixes */
#define X86_FORM_PREFIX_F3  0x20u
#define X86_FORM_PREFIX_F2  0x40u
#define X86_FORM_DISTINCT   0x80u /* gathers: destination, index and mask must differ */

struct x86_form {
    uint8_t flags;
    uint8_t vsib_size; /* enum x86_size of the index register */
    uint8_t operand_count;
    struct x86_operand_form operand[X86_INSN_MAX_OPERANDS];
};

extern const struct x86_opcode_entry x86_opcodes[X86_TABLE_MAPS][256];
extern const uint16_t x86_lists[];
extern const struct x86_candidate x86_candidates[];
extern const struct x86_form x86_forms[]; /* beside x86_rows */

#endif
