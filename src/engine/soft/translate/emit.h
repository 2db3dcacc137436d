/* Host instructions as bytes, for the translator. No checks of space: callers reserve enough. */
#ifndef ENGINE_SOFT_TRANSLATE_EMIT_H
#define ENGINE_SOFT_TRANSLATE_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "cpu/x86/decode.h"

enum host_reg {
    HOST_RAX,
    HOST_RCX,
    HOST_RDX,
    HOST_RBX,
    HOST_RSP,
    HOST_RBP,
    HOST_RSI,
    HOST_RDI,
    HOST_R8,
    HOST_R9,
    HOST_R10,
    HOST_R11,
    HOST_R12,
    HOST_R13,
    HOST_R14,
    HOST_R15,
    HOST_NONE = 0xff,
};

/* Condition codes as in the low bits of Jcc. */
#define HOST_IF_ABOVE          0x7
#define HOST_IF_BELOW_OR_EQUAL 0x6
#define HOST_IF_EQUAL          0x4
#define HOST_IF_NOT_EQUAL      0x5
#define HOST_IF_SIGN           0x8

struct emitter {
    uint8_t *at;
    bool fits_jumps; /* see emit_fit */
};

static inline void emit8(struct emitter *e, uint8_t value)
{
    *e->at++ = value;
}

static inline void emit32(struct emitter *e, uint32_t value)
{
    memcpy(e->at, &value, sizeof(value));
    e->at += sizeof(value);
}

static inline void emit64(struct emitter *e, uint64_t value)
{
    memcpy(e->at, &value, sizeof(value));
    e->at += sizeof(value);
}

/* One instruction with ModRM in the fields that the encoding has. */
struct host_insn {
    uint8_t prefix;     /* 0, 0x66, 0xf3, 0xf2: part of the opcode */
    bool is_16;         /* operand size 66 */
    bool is_address_32; /* 67, LEA only */
    bool is_locked;
    bool w;         /* REX.W, VEX.W */
    bool needs_rex; /* SPL, BPL, SIL, DIL */
    bool is_vex;
    uint8_t vex_l, vvvv;
    uint8_t map, opcode;
    uint8_t reg;
    bool is_memory;
    uint8_t rm;          /* register, if not memory */
    uint8_t base, index; /* HOST_NONE: none */
    uint8_t shift;
    int32_t disp;
    uint8_t imm_bytes;
    const uint8_t *imm;
};

void emit_insn(struct emitter *e, const struct host_insn *insn);

/* Opcode bytes below are those of the 64-bit forms with ModRM. */
#define HOST_OP_ADD_REG_RM 0x03
#define HOST_OP_OR_REG_RM  0x0b
#define HOST_OP_SUB_REG_RM 0x2b
#define HOST_OP_CMP_REG_RM 0x3b
#define HOST_OP_MOV_RM_REG 0x89
#define HOST_OP_MOV_REG_RM 0x8b
#define HOST_OP_LEA        0x8d

/* op reg, [base + disp] and op reg, [base + index + disp] with 64-bit operands; base may be RSP. */
void emit_op_base(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t base, int32_t disp);
void emit_op_index(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t base, uint8_t index,
                   int32_t disp);
/* op reg, [rsp + index * 8 + disp] */
void emit_op_table(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t index, int32_t disp);
void emit_op_reg(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t rm);
/* rorx reg, rm, count and bextr reg, rm, control, of 64 bits or 32. */
void emit_rorx(struct emitter *e, bool is_64, uint8_t reg, uint8_t rm, uint8_t count);
void emit_bextr(struct emitter *e, bool is_64, uint8_t reg, uint8_t rm, uint8_t control);
/* movzx reg, its low 16 bits */
void emit_low_word(struct emitter *e, uint8_t reg);
/* shl, shr or sar reg, count, of 64 bits or 32. */
#define HOST_SHL 4
#define HOST_SHR 5
#define HOST_SAR 7
void emit_shift(struct emitter *e, uint8_t operation, bool is_64, uint8_t reg, uint8_t count);
void emit_push(struct emitter *e, uint8_t reg);
void emit_pop(struct emitter *e, uint8_t reg);
void emit_jmp_reg(struct emitter *e, uint8_t reg);
/* jmp [rsp + index * 8 + disp] */
void emit_jmp_table(struct emitter *e, uint8_t index, int32_t disp);
/* mov reg, value in the shortest form. */
void emit_mov_imm(struct emitter *e, uint8_t reg, uint64_t value);
/* cmp dword [rsp + disp], imm32; returns where the immediate stands. */
uint8_t *emit_cmp_field(struct emitter *e, int32_t disp, uint32_t value);
/* mov qword [rsp + disp], imm32 sign-extended. */
void emit_store_imm32(struct emitter *e, uint8_t base, int32_t disp, int32_t value);

/* Intel's cores from Skylake to Comet Lake do not keep a 32-byte piece of code as decoded, if a jump in it ends at the piece's end or
 * beyond: all of the piece is decoded each time it runs (Intel, Mitigations for Jump Conditional Code Erratum, 2019, section 2). A
 * comparison and the jump that is fused with it count as one. What the emitter has not to care for without such a core:
 * has the next 'size' bytes, which are a jump or end with one, lie in one piece. */
#define EMIT_PIECE 32u
void emit_fit(struct emitter *e, uint32_t size);
/* The same for an instruction from 'start' on that has been emitted, and 'size' bytes behind it. */
void emit_move_to_fit(struct emitter *e, uint8_t *start, uint32_t size);
#define EMIT_JCC_SIZE 6u
#define EMIT_JMP_SIZE 5u

/* Jumps with a 32-bit displacement: the returned place of it is given to emit_bind, when the target is known. */
uint8_t *emit_jcc(struct emitter *e, uint8_t condition);
uint8_t *emit_jmp(struct emitter *e);
uint8_t *emit_call(struct emitter *e);
static inline void emit_bind(uint8_t *place, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (place + 4));
    memcpy(place, &rel, sizeof(rel));
}

#endif
