/* The decoder: from bytes to one instruction with its operands. It and the disassembler, the enums below and the test
 * generator's data are made by tools/x86_table.py from one table, instructions.def.
 *
 * Total: every byte string gives an instruction or one of the failures, never anything else. */
#ifndef CPU_X86_DECODE_H
#define CPU_X86_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/x86/state.h"
#include "generated/x86_instructions.h" /* enum x86_id (X86_ID_ADD ...), enum x86_feature (X86_FEATURE_AVX2 ...) */

#define X86_INSN_MAX_LENGTH   15
#define X86_INSN_MAX_OPERANDS 6

/* What the code segment says: CS.L, else CS.D. 64-bit code is read as CPUs of AMD do, or as those of Intel: to these 66 on a near
 * branch means nothing (SDM 2 appendix A, f64; AMD APM 3, 1.2.2), and F3 REX.B 90 is PAUSE. */
enum x86_code_size {
    X86_CODE_16,
    X86_CODE_32,
    X86_CODE_64,
    X86_CODE_64_INTEL, /* for the decoder; in what it gives X86_CODE_64 */
};

enum x86_operand_kind {
    X86_OPERAND_NONE,
    X86_OPERAND_REG,
    X86_OPERAND_MEM, /* the instruction's one ModRM, moffs or string address: fields base.. of struct x86_insn. MOVS and CMPS
                      * have two: the fields are the source's, DS:[rSI]; the other one is always ES:[rDI] */
    X86_OPERAND_IMM, /* value in imm (the second one of ENTER, EXTRQ ... in imm2); signed ones are sign-extended to 64 bits:
                      * cut to the operand's size */
    X86_OPERAND_REL, /* branch: imm is the displacement from the next instruction */
    X86_OPERAND_FAR, /* ptr16:16/32: imm2 is the selector, imm the offset */
};

enum x86_reg_class {
    X86_REG_GPR, /* number 0..15; with size 1 and is_high: AH, CH, DH, BH for number 0..3 */
    X86_REG_SEGMENT,
    X86_REG_CONTROL,
    X86_REG_DEBUG,
    X86_REG_X87, /* ST(i) */
    X86_REG_MMX,
    X86_REG_VECTOR, /* XMM or YMM by size */
};

#define X86_OPERAND_READ  1u
#define X86_OPERAND_WRITE 2u /* a write of a 32-bit GPR clears the upper half, as ever */

struct x86_operand {
    uint8_t kind;      /* enum x86_operand_kind */
    uint8_t reg_class; /* enum x86_reg_class, kind REG */
    uint8_t reg;       /* number, kind REG */
    bool is_high;
    uint8_t
        access; /* X86_OPERAND_READ | X86_OPERAND_WRITE; 0 for LEA's, NOP's and prefetch's address */
    bool is_implicit; /* not in the assembly text (RDX:RAX of MUL, the stack ...) */
    uint16_t
        size_bytes; /* as executed; far pointers in memory, FXSAVE: the bytes in memory; XSAVE: 0, it depends */
};

#define X86_PREFIX_LOCK    0x01u
#define X86_PREFIX_REP     0x02u /* F3, where it is a prefix and not part of the opcode */
#define X86_PREFIX_REPNE   0x04u
#define X86_PREFIX_DATA    0x08u /* 66, same */
#define X86_PREFIX_ADDR    0x10u
#define X86_PREFIX_SEGMENT 0x20u
#define X86_PREFIX_REX     0x40u
#define X86_PREFIX_VEX     0x80u

#define X86_BASE_NONE 0xff
#define X86_BASE_RIP  0xfe /* displacement counts from the next instruction */

struct x86_insn {
    uint16_t id;  /* enum x86_id: the mnemonic */
    uint16_t row; /* x86_rows[row]: what is the same for every use of this encoding */
    uint8_t length;
    uint8_t code_size;     /* enum x86_code_size */
    uint8_t operand_bytes; /* 2, 4, 8: effective operand size (1-byte forms: look at the operand) */
    uint8_t address_bytes; /* 2, 4, 8 */
    uint8_t prefixes;      /* X86_PREFIX_* */

    /* The memory operand, if there is one. */
    bool has_memory;
    uint8_t
        segment; /* enum x86_segment_id, default or overridden (64-bit mode: only FS and GS matter) */
    uint8_t base;  /* GPR number, X86_BASE_NONE or X86_BASE_RIP */
    uint8_t index; /* GPR number (vector number with VSIB) or X86_BASE_NONE */
    uint8_t scale; /* 1, 2, 4, 8 */
    bool is_vsib;
    int64_t disp;

    uint64_t imm, imm2;
    uint8_t operand_count;
    struct x86_operand operand[X86_INSN_MAX_OPERANDS];

    /* The encoding, for those who emit it again. */
    uint8_t map; /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
    uint8_t opcode;
    uint8_t mandatory_prefix; /* 0, 0x66, 0xf3, 0xf2 */
    uint8_t rex;              /* 0x40..0x4f or 0; for VEX the same bits W R X B, not inverted */
    uint8_t vex_vvvv, vex_l;
    bool has_modrm;
    uint8_t modrm;
    uint8_t disp_offset, disp_bytes; /* where in the bytes; 0 bytes: none */
    uint8_t imm_offset, imm_bytes;
};

/* Row attributes. */
#define X86_ROW_LOCKABLE   0x0001u /* LOCK allowed if the destination is memory */
#define X86_ROW_PRIVILEGED 0x0002u /* CPL 0 only */
#define X86_ROW_IO         0x0004u /* IOPL or the TSS's bitmap decide */
#define X86_ROW_BRANCH     0x0008u /* changes RIP other than to the next instruction */
#define X86_ROW_STRING     0x0010u /* takes REP */
#define X86_ROW_X87        0x0020u
#define X86_ROW_MMX        0x0040u
#define X86_ROW_SSE        0x0080u /* legacy SSE: CR4.OSFXSR, CR0.TS */
#define X86_ROW_VEX        0x0100u /* AVX state: XCR0, CR4.OSXSAVE */
#define X86_ROW_ALIGNED    0x0200u /* the memory operand must be aligned to its size (#GP) */
#define X86_ROW_SYSTEM                                                                             \
    0x0400u /* touches more than user-level state: not for a native run in a child */
#define X86_ROW_SERIALIZES                                                                         \
    0x0800u                /* ends a decoded block for other reasons: CR writes, INVLPG, IRET ... */
#define X86_ROW_FP 0x1000u /* may raise a SIMD floating-point exception (#XM) */

struct x86_row {
    const char *mnemonic; /* "add" */
    uint16_t id;
    uint16_t feature;       /* enum x86_feature; X86_FEATURE_NONE: every x86-64 has it */
    uint32_t attributes;    /* X86_ROW_* */
    uint32_t flags_read;    /* X86_FLAG_* */
    uint32_t flags_written; /* to a defined value */
    uint32_t flags_undefined;
};

extern const struct x86_row x86_rows[];
extern const size_t x86_row_count;

enum x86_decode_status {
    X86_DECODE_OK,
    X86_DECODE_UNDEFINED, /* #UD: no such instruction in this mode, or LOCK where it may not be */
    X86_DECODE_TOO_LONG,  /* #GP(0): more than 15 bytes */
    X86_DECODE_MORE,      /* 'available' bytes are not enough to tell */
};

/* Decodes the instruction at 'bytes'. On OK all of *out_insn is set; on UNDEFINED out_insn->length is how many bytes were
 * looked at. Never reads beyond 'available'. Whether the CPU model has row.feature is for the caller. */
enum x86_decode_status x86_decode(const uint8_t *bytes, size_t available,
                                  enum x86_code_size code_size, struct x86_insn *out_insn);

/* Intel syntax into 'out_text', for traces. 'rip' is the instruction's own, for branch targets. Returns the length. */
size_t x86_disassemble(const struct x86_insn *insn, uint64_t rip, char *out_text, size_t size);

#endif
