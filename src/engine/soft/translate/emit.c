/* The encoder of host instructions (SDM 2, chapter 2). */
#include "engine/soft/translate/emit.h"

#include "base/core/compiler.h"

/* The places of the functions below are variables of their own: the compiler must take it that a byte written changes any other. */
static inline uint8_t *put8(uint8_t *at, uint8_t value)
{
    *at = value;
    return at + 1;
}

static inline uint8_t *put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static uint8_t *put_address(uint8_t *at, const struct host_insn *insn)
{
    uint8_t reg = (uint8_t)((insn->reg & 7) << 3);
    if (!insn->is_memory) {
        return put8(at, (uint8_t)(0xc0 | reg | (insn->rm & 7)));
    }
    uint8_t index = insn->index == HOST_NONE ? 4 : insn->index & 7;
    if (insn->base == HOST_NONE) {
        /* SIB without base: an absolute displacement. */
        at = put8(at, (uint8_t)(reg | 4));
        at = put8(at, (uint8_t)(insn->shift << 6 | index << 3 | 5));
        return put32(at, (uint32_t)insn->disp);
    }
    uint8_t mod = insn->disp == 0 && (insn->base & 7) != 5 ? 0
                  : insn->disp == (int8_t)insn->disp       ? 0x40
                                                           : 0x80;
    if (insn->index == HOST_NONE && (insn->base & 7) != 4) {
        at = put8(at, (uint8_t)(mod | reg | (insn->base & 7)));
    } else {
        at = put8(at, (uint8_t)(mod | reg | 4));
        at = put8(at, (uint8_t)(insn->shift << 6 | index << 3 | (insn->base & 7)));
    }
    return mod == 0x40   ? put8(at, (uint8_t)insn->disp)
           : mod == 0x80 ? put32(at, (uint32_t)insn->disp)
                         : at;
}

static void emit_address(struct emitter *e, const struct host_insn *insn)
{
    e->at = put_address(e->at, insn);
}

static uint8_t *put_vex(uint8_t *at, const struct host_insn *insn, uint8_t r, uint8_t x, uint8_t b)
{
    uint8_t pp = insn->prefix == 0x66 ? 1 : insn->prefix == 0xf3 ? 2 : insn->prefix == 0xf2 ? 3 : 0;
    uint8_t last = (uint8_t)((uint8_t)(~insn->vvvv & 15) << 3 | insn->vex_l << 2 | pp);
    if (insn->map == 1 && !x && !b && !insn->w) {
        at = put8(at, 0xc5);
        return put8(at, (uint8_t)((r ? 0 : 0x80) | last));
    }
    at = put8(at, 0xc4);
    at = put8(at, (uint8_t)((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | insn->map));
    return put8(at, (uint8_t)((insn->w ? 0x80 : 0) | last));
}

void emit_insn(struct emitter *e, const struct host_insn *insn)
{
    uint8_t *at = e->at;
    bool has_index = insn->is_memory && insn->index != HOST_NONE;
    bool has_base = insn->is_memory && insn->base != HOST_NONE;
    uint8_t r = (insn->reg >> 3) & 1;
    uint8_t x = has_index ? (insn->index >> 3) & 1 : 0;
    uint8_t b = insn->is_memory ? (has_base ? (insn->base >> 3) & 1 : 0) : (insn->rm >> 3) & 1;
    if (insn->is_vex) {
        at = put_vex(at, insn, r, x, b);
    } else {
        if (insn->is_locked) {
            at = put8(at, 0xf0);
        }
        if (insn->is_address_32) {
            at = put8(at, 0x67);
        }
        if (insn->is_16) {
            at = put8(at, 0x66);
        }
        if (insn->prefix && !(insn->is_16 && insn->prefix == 0x66)) {
            at = put8(at, insn->prefix);
        }
        uint8_t rex = (uint8_t)(insn->w << 3 | r << 2 | x << 1 | b);
        if (rex || insn->needs_rex) {
            at = put8(at, 0x40 | rex);
        }
        if (insn->map) {
            at = put8(at, 0x0f);
        }
        if (insn->map > 1) {
            at = put8(at, insn->map == 2 ? 0x38 : 0x3a);
        }
    }
    at = put_address(put8(at, insn->opcode), insn);
    if (insn->imm_bytes) {
        memcpy(at, insn->imm, insn->imm_bytes);
        at += insn->imm_bytes;
    }
    e->at = at;
}

void emit_op_index(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t base, uint8_t index,
                   int32_t disp)
{
    emit8(e, (uint8_t)(0x48 | (reg >> 3) << 2 | (index != HOST_NONE && index >= HOST_R8 ? 2 : 0) |
                       base >> 3));
    emit8(e, opcode);
    struct host_insn insn = {
        .reg = reg, .is_memory = true, .base = base, .index = index, .disp = disp};
    emit_address(e, &insn);
}

void emit_op_base(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t base, int32_t disp)
{
    emit_op_index(e, opcode, reg, base, HOST_NONE, disp);
}

void emit_op_table(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t index, int32_t disp)
{
    emit8(e, (uint8_t)(0x48 | (reg >> 3) << 2 | (index >> 3) << 1));
    emit8(e, opcode);
    struct host_insn insn = {
        .reg = reg, .is_memory = true, .base = HOST_RSP, .index = index, .shift = 3, .disp = disp};
    emit_address(e, &insn);
}

void emit_op_reg(struct emitter *e, uint8_t opcode, uint8_t reg, uint8_t rm)
{
    emit8(e, (uint8_t)(0x48 | (reg >> 3) << 2 | rm >> 3));
    emit8(e, opcode);
    emit8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_rorx(struct emitter *e, bool is_64, uint8_t reg, uint8_t rm, uint8_t count)
{
    emit_insn(e, &(struct host_insn){.prefix = 0xf2,
                                     .is_vex = true,
                                     .map = 3,
                                     .opcode = 0xf0,
                                     .w = is_64,
                                     .reg = reg,
                                     .rm = rm,
                                     .imm_bytes = 1,
                                     .imm = &count});
}

void emit_bextr(struct emitter *e, bool is_64, uint8_t reg, uint8_t rm, uint8_t control)
{
    emit_insn(e, &(struct host_insn){.is_vex = true,
                                     .map = 2,
                                     .opcode = 0xf7,
                                     .w = is_64,
                                     .reg = reg,
                                     .vvvv = control,
                                     .rm = rm});
}

void emit_low_word(struct emitter *e, uint8_t reg)
{
    emit_insn(e, &(struct host_insn){.map = 1, .opcode = 0xb7, .reg = reg, .rm = reg});
}

void emit_shift(struct emitter *e, uint8_t operation, bool is_64, uint8_t reg, uint8_t count)
{
    emit_insn(e, &(struct host_insn){.opcode = 0xc1, .w = is_64, .reg = operation, .rm = reg});
    emit8(e, count);
}

/* An instruction whose opcode holds the register, of 64 bits without REX.W. */
static void emit_short(struct emitter *e, uint8_t opcode, uint8_t reg)
{
    if (reg >= HOST_R8) {
        emit8(e, 0x41);
    }
    emit8(e, opcode | (reg & 7));
}

void emit_push(struct emitter *e, uint8_t reg)
{
    emit_short(e, 0x50, reg);
}

void emit_pop(struct emitter *e, uint8_t reg)
{
    emit_short(e, 0x58, reg);
}

#define GROUP_JMP 4 /* of opcode ff */

void emit_jmp_reg(struct emitter *e, uint8_t reg)
{
    emit_fit(e, 3);
    emit_insn(e, &(struct host_insn){.opcode = 0xff, .reg = GROUP_JMP, .rm = reg});
}

void emit_jmp_table(struct emitter *e, uint8_t index, int32_t disp)
{
    emit_fit(e, 8);
    emit_insn(e, &(struct host_insn){.opcode = 0xff,
                                     .reg = GROUP_JMP,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = index,
                                     .shift = 3,
                                     .disp = disp});
}

void emit_mov_imm(struct emitter *e, uint8_t reg, uint64_t value)
{
    if (value <= UINT32_MAX) {
        if (reg >= HOST_R8) {
            emit8(e, 0x41);
        }
        emit8(e, (uint8_t)(0xb8 | (reg & 7)));
        emit32(e, (uint32_t)value);
    } else if ((int64_t)value == (int32_t)value) {
        emit8(e, (uint8_t)(0x48 | reg >> 3));
        emit8(e, 0xc7);
        emit8(e, (uint8_t)(0xc0 | (reg & 7)));
        emit32(e, (uint32_t)value);
    } else {
        emit8(e, (uint8_t)(0x48 | reg >> 3));
        emit8(e, (uint8_t)(0xb8 | (reg & 7)));
        emit64(e, value);
    }
}

uint8_t *emit_cmp_field(struct emitter *e, int32_t disp, uint32_t value)
{
    emit8(e, 0x81);
    struct host_insn insn = {
        .reg = 7, .is_memory = true, .base = HOST_RSP, .index = HOST_NONE, .disp = disp};
    emit_address(e, &insn);
    uint8_t *place = e->at;
    emit32(e, value);
    return place;
}

void emit_store_imm32(struct emitter *e, uint8_t base, int32_t disp, int32_t value)
{
    emit8(e, (uint8_t)(0x48 | base >> 3));
    emit8(e, 0xc7);
    struct host_insn insn = {.is_memory = true, .base = base, .index = HOST_NONE, .disp = disp};
    emit_address(e, &insn);
    emit32(e, (uint32_t)value);
}

/* How many bytes further 'size' bytes from 'at' on are in one piece, and not at its end. */
static uint32_t bytes_to_fit(const struct emitter *e, const uint8_t *at, uint32_t size)
{
    uint32_t offset = (uintptr_t)at % EMIT_PIECE;
    return e->fits_jumps && offset + size >= EMIT_PIECE ? EMIT_PIECE - offset : 0;
}

/* NOPs, as few as can be: prefixes cost nothing on these cores. */
static uint8_t *put_nothing(uint8_t *at, uint32_t count)
{
    while (count) {
        uint32_t size = MIN(count, X86_INSN_MAX_LENGTH);
        memset(at, 0x66, size - 1);
        at[size - 1] = 0x90;
        at += size;
        count -= size;
    }
    return at;
}

void emit_fit(struct emitter *e, uint32_t size)
{
    e->at = put_nothing(e->at, bytes_to_fit(e, e->at, size));
}

void emit_move_to_fit(struct emitter *e, uint8_t *start, uint32_t size)
{
    uint32_t length = (uint32_t)(e->at - start), count = bytes_to_fit(e, start, length + size);
    if (count) {
        memmove(start + count, start, length);
        e->at = put_nothing(start, count) + length;
    }
}

uint8_t *emit_jcc(struct emitter *e, uint8_t condition)
{
    emit_fit(e, EMIT_JCC_SIZE);
    emit8(e, 0x0f);
    emit8(e, 0x80 | condition);
    e->at += 4;
    return e->at - 4;
}

uint8_t *emit_jmp(struct emitter *e)
{
    emit_fit(e, EMIT_JMP_SIZE);
    emit8(e, 0xe9);
    e->at += 4;
    return e->at - 4;
}

uint8_t *emit_call(struct emitter *e)
{
    emit8(e, 0xe8);
    e->at += 4;
    return e->at - 4;
}
