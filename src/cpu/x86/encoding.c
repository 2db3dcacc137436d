/* Building instructions from rows of the table. It writes everything up to the immediates by the choice, lets the decoder say
 * where the immediates stand, and puts them there; so it cannot disagree with the decoder about a row's shape. */
#include "cpu/x86/encoding.h"

#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/tables.h"

struct writer {
    uint8_t bytes[40]; /* more than an instruction may have; too long ones are refused at the end */
    size_t length;
};

static void put(struct writer *w, uint8_t byte)
{
    w->bytes[w->length++] = byte;
}

static void put_value(struct writer *w, uint64_t value, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        put(w, (uint8_t)(value >> (8 * i)));
    }
}

static uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool is_register(uint8_t number)
{
    return number < X86_GPR_COUNT;
}

/* ModRM's mod and rm, and the displacement, of a 16-bit address. */
static bool put_address_16(struct writer *w, const struct x86_encode_choice *choice, uint8_t reg)
{
    static const uint8_t forms[8][2] = {
        {X86_RBX, X86_RSI},       {X86_RBX, X86_RDI},       {X86_RBP, X86_RSI},
        {X86_RBP, X86_RDI},       {X86_RSI, X86_BASE_NONE}, {X86_RDI, X86_BASE_NONE},
        {X86_RBP, X86_BASE_NONE}, {X86_RBX, X86_BASE_NONE},
    };
    if (choice->base == X86_BASE_NONE && choice->index == X86_BASE_NONE) {
        put(w, reg | 6);
        put_value(w, (uint64_t)choice->disp, 2);
        return true;
    }
    for (uint8_t rm = 0; rm < 8; rm++) {
        if (forms[rm][0] != choice->base || forms[rm][1] != choice->index) {
            continue;
        }
        if (choice->disp == 0 && rm != 6) {
            put(w, reg | rm);
        } else if (choice->disp == (int8_t)choice->disp) {
            put(w, 0x40 | reg | rm);
            put_value(w, (uint64_t)choice->disp, 1);
        } else {
            put(w, 0x80 | reg | rm);
            put_value(w, (uint64_t)choice->disp, 2);
        }
        return choice->scale <= 1 || choice->index == X86_BASE_NONE;
    }
    return false;
}

/* The same for 32- and 64-bit addresses, with SIB. 'reg' is in its place in ModRM. */
static bool put_address(struct writer *w, const struct x86_encode_choice *choice, uint8_t reg,
                        bool is_vsib)
{
    bool is_64 = choice->code_size == X86_CODE_64;
    uint8_t mod = choice->disp == 0 ? 0 : choice->disp == (int8_t)choice->disp ? 0x40 : 0x80;
    if (choice->base == X86_BASE_RIP) {
        put(w, reg | 5);
        put_value(w, (uint64_t)choice->disp, 4);
        return is_64 && choice->index == X86_BASE_NONE && !is_vsib;
    }
    bool has_index = choice->index != X86_BASE_NONE;
    if (has_index && (!is_register(choice->index) || (choice->index == X86_RSP && !is_vsib))) {
        return false;
    }
    if (choice->base != X86_BASE_NONE && !is_register(choice->base)) {
        return false;
    }
    if (is_vsib && !has_index) {
        return false;
    }
    bool has_base = choice->base != X86_BASE_NONE;
    if (!has_base) {
        mod = 0;
    } else if (mod == 0 && (choice->base & 7) == X86_RBP) {
        mod = 0x40;
    }
    if (has_index || !has_base || (choice->base & 7) == X86_RSP) {
        uint8_t scale = choice->scale >= 8   ? 0xc0
                        : choice->scale == 4 ? 0x80
                        : choice->scale == 2 ? 0x40
                                             : 0;
        put(w, mod | reg | 4);
        put(w, (uint8_t)((has_index ? scale | (choice->index & 7) << 3 : 4 << 3) |
                         (has_base ? choice->base & 7 : 5)));
    } else {
        put(w, mod | reg | (choice->base & 7));
    }
    put_value(w, (uint64_t)choice->disp, !has_base || mod == 0x80 ? 4 : mod == 0x40 ? 1 : 0);
    return true;
}

/* What the row fixes of W: 0, 1, or the choice's. */
static uint8_t choose_w(const struct x86_row_encoding *row, const struct x86_encode_choice *choice)
{
    uint8_t w = row->is_vex ? choice->vex_w : choice->operand_bytes == 8;
    w = row->refused & X86_WHEN_W1 ? 0 : row->refused & X86_WHEN_W0 ? 1 : w;
    uint16_t others = X86_WHEN_OPERAND_2 | X86_WHEN_OPERAND_4;
    return (row->refused & others) == others ? 1 : w;
}

/* R, X and B in their places, from the registers that the instruction uses. */
static uint8_t extension_bits(const struct x86_row_encoding *row,
                              const struct x86_encode_choice *choice, bool is_memory)
{
    uint8_t rex = 0;
    if (row->has_opcode_register) {
        return choice->register_number & 8 ? 1 : 0;
    }
    if (row->modrm == X86_MODRM_NONE) {
        return 0;
    }
    if (row->reg == 0xff && (choice->register_number & 8)) {
        rex |= 4;
    }
    if (!is_memory) {
        return rex | (row->rm == 0xff && (choice->rm_register & 8) ? 1 : 0);
    }
    if (is_register(choice->base) && (choice->base & 8)) {
        rex |= 1;
    }
    if (is_register(choice->index) && (choice->index & 8)) {
        rex |= 2;
    }
    return rex;
}

static void put_vex(struct writer *w, const struct x86_row_encoding *row,
                    const struct x86_encode_choice *choice, uint8_t rex)
{
    uint8_t prefix = row->mandatory_prefix;
    uint8_t pp = prefix == 0x66 ? 1 : prefix == 0xf3 ? 2 : prefix == 0xf2 ? 3 : 0;
    uint8_t l = row->refused & X86_WHEN_L1 ? 0 : row->refused & X86_WHEN_L0 ? 1 : choice->vex_l & 1;
    uint8_t vvvv = x86_forms[row->row].flags & X86_FORM_NO_VVVV ? 0 : choice->vvvv & 15;
    if (choice->code_size != X86_CODE_64) {
        rex &= 8;
        vvvv &= 7;
    }
    uint8_t last = (uint8_t)((~vvvv & 15) << 3 | l << 2 | pp);
    if (!(rex & 11) && row->map == 1) {
        put(w, 0xc5);
        put(w, last | (rex & 4 ? 0 : 0x80));
    } else {
        put(w, 0xc4);
        put(w, (uint8_t)((~rex & 7) << 5 | row->map));
        put(w, last | (rex & 8 ? 0x80 : 0));
    }
}

static void put_prefixes(struct writer *w, const struct x86_row_encoding *row,
                         const struct x86_encode_choice *choice, bool has_w)
{
    static const uint8_t overrides[X86_SEGMENT_COUNT] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    uint8_t plain_operand = choice->code_size == X86_CODE_16 ? 2 : 4;
    uint8_t plain_address = choice->code_size == X86_CODE_16   ? 2
                            : choice->code_size == X86_CODE_32 ? 4
                                                               : 8;
    if (choice->is_locked) {
        put(w, 0xf0);
    }
    if (choice->segment < X86_SEGMENT_COUNT) {
        put(w, overrides[choice->segment]);
    }
    if (choice->address_bytes != plain_address) {
        put(w, 0x67);
    }
    if (row->is_vex) {
        return;
    }
    if (row->mandatory_prefix == 0x66 ||
        (!has_w && choice->operand_bytes != plain_operand && choice->operand_bytes != 8)) {
        put(w, 0x66);
    }
    if (row->mandatory_prefix && row->mandatory_prefix != 0x66) {
        put(w, row->mandatory_prefix);
    } else if (choice->repeat) {
        put(w, choice->repeat);
    }
}

static bool put_modrm(struct writer *w, const struct x86_row_encoding *row,
                      const struct x86_encode_choice *choice, bool is_memory)
{
    uint8_t reg = (uint8_t)((row->reg != 0xff ? row->reg : choice->register_number & 7) << 3);
    if (!is_memory) {
        put(w, 0xc0 | reg | (row->rm != 0xff ? row->rm : choice->rm_register & 7));
        return true;
    }
    if (choice->address_bytes == 2) {
        return put_address_16(w, choice, reg);
    }
    return put_address(w, choice, reg, x86_forms[row->row].flags & X86_FORM_VSIB);
}

/* Immediates into their places; how large the second one is follows from its operand. */
static void patch_immediates(uint8_t *bytes, const struct x86_insn *insn,
                             const struct x86_encode_choice *choice)
{
    uint32_t second = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        count += insn->operand[i].kind == X86_OPERAND_IMM;
        if (insn->operand[i].kind == X86_OPERAND_FAR) {
            second = 2;
        }
    }
    if (count == 2) {
        second = 1; /* ENTER, EXTRQ, INSERTQ */
    }
    uint32_t first = insn->imm_bytes - MIN(second, insn->imm_bytes);
    for (uint32_t i = 0; i < first; i++) {
        bytes[insn->imm_offset + i] = (uint8_t)(choice->imm >> (8 * i));
    }
    for (uint32_t i = 0; first && i < second; i++) {
        bytes[insn->imm_offset + first + i] = (uint8_t)(choice->imm2 >> (8 * i));
    }
}

size_t x86_encode_row(const struct x86_row_encoding *row, const struct x86_encode_choice *choice,
                      uint8_t out_bytes[X86_INSN_MAX_LENGTH])
{
    struct writer w = {.length = 0};
    bool is_64 = choice->code_size == X86_CODE_64;
    bool is_memory =
        row->modrm == X86_MODRM_MEMORY || (row->modrm == X86_MODRM_ANY && choice->is_memory);
    uint8_t has_w = choose_w(row, choice);
    uint8_t rex = extension_bits(row, choice, is_memory);
    if (row->refused & (X86_WHEN_MODE_16 << choice->code_size)) {
        return 0;
    }
    if (!is_64 && (rex || (has_w && !row->is_vex) || choice->address_bytes == 8)) {
        return 0;
    }
    if (is_64 && choice->address_bytes == 2) {
        return 0;
    }
    put_prefixes(&w, row, choice, has_w);
    rex |= has_w ? 8 : 0;
    if (row->is_vex) {
        put_vex(&w, row, choice, rex);
    } else {
        if (is_64 && (rex || choice->has_rex)) {
            put(&w, 0x40 | rex);
        }
        if (row->map > 0) {
            put(&w, 0x0f);
        }
        if (row->map > 1) {
            put(&w, row->map == 2 ? 0x38 : 0x3a);
        }
    }
    put(&w, row->has_opcode_register ? row->opcode | (choice->register_number & 7) : row->opcode);
    if (row->modrm != X86_MODRM_NONE && !put_modrm(&w, row, choice, is_memory)) {
        return 0;
    }
    put_value(&w, choice->imm, 8); /* an absolute address, or room for immediates */
    struct x86_insn insn;
    if (x86_decode(w.bytes, sizeof(w.bytes), choice->code_size, &insn) != X86_DECODE_OK) {
        return 0;
    }
    patch_immediates(w.bytes, &insn, choice);
    if (x86_decode(w.bytes, insn.length, choice->code_size, &insn) != X86_DECODE_OK ||
        insn.row != row->row) {
        return 0;
    }
    memcpy(out_bytes, w.bytes, insn.length);
    return insn.length;
}

/* A base and an index that have an encoding. */
static void choose_address(uint64_t *seed, struct x86_encode_choice *choice, uint32_t registers,
                           bool is_vsib)
{
    uint64_t random = random_next(seed);
    if (choice->address_bytes == 2) {
        choice->base = random & 1 ? X86_RBX : X86_RBP;
        choice->index = random & 2 ? X86_RSI : X86_RDI;
        choice->scale = 1;
        choice->disp = (int16_t)(random >> 8);
        return;
    }
    choice->base = (random >> 8 & 255) % registers;
    choice->index = (random >> 16 & 255) % registers;
    if (!is_vsib && (choice->index == X86_RSP || (random & 1))) {
        choice->index = X86_BASE_NONE;
    }
    choice->scale = (uint8_t)(1u << (random >> 1 & 3));
    choice->disp = random & 8 ? (int32_t)(random >> 32) : random & 16 ? (int8_t)(random >> 32) : 0;
}

void x86_encode_choose(const struct x86_row_encoding *row, enum x86_code_size code_size,
                       uint64_t *seed, struct x86_encode_choice *out_choice)
{
    bool is_64 = code_size == X86_CODE_64;
    uint32_t registers = is_64 ? 16 : 8;
    const struct x86_form *form = &x86_forms[row->row];
    uint64_t random = random_next(seed);
    *out_choice = (struct x86_encode_choice){
        .code_size = (uint8_t)code_size,
        .operand_bytes = (uint8_t)(2u << (random & 0xff) % (is_64 ? 3 : 2)),
        .address_bytes = is_64                      ? 8
                         : code_size == X86_CODE_32 ? 4
                                                    : 2,
        .segment = X86_SEGMENT_COUNT,
        .has_rex = random >> 8 & 1,
        .register_number = (random >> 16 & 255) % registers,
        .rm_register = (random >> 24 & 255) % registers,
        .vvvv = (random >> 32 & 255) % registers,
        .vex_l = random >> 40 & 1,
        .vex_w = random >> 41 & 1,
        .is_memory = random >> 42 & 1,
        .imm = random_next(seed),
        .imm2 = random_next(seed),
    };
    if ((form->flags & X86_FORM_VSIB) && code_size == X86_CODE_16) {
        out_choice->address_bytes = 4; /* 16-bit addresses have no SIB byte */
    }
    uint16_t sizes = X86_WHEN_OPERAND_2 | X86_WHEN_OPERAND_4 | X86_WHEN_OPERAND_8;
    if (row->refused & sizes) {
        uint16_t wanted = sizes & ~row->refused;
        out_choice->operand_bytes = wanted & X86_WHEN_OPERAND_2   ? 2
                                    : wanted & X86_WHEN_OPERAND_4 ? 4
                                                                  : 8;
    }
    if ((form->flags & (X86_FORM_PREFIX_66 | X86_FORM_PREFIX_F2 | X86_FORM_PREFIX_F3)) == 0 &&
        x86_opcodes[row->map][row->opcode].flags & X86_SPLIT_PREFIX &&
        out_choice->operand_bytes != 8) {
        /* A 66 could select another row: mostly leave it out. */
        out_choice->operand_bytes = code_size == X86_CODE_16 ? 2 : 4;
    }
    for (uint32_t i = 0; i < form->operand_count; i++) {
        /* Registers that do not all exist. */
        if (form->operand[i].reg_class == X86_REG_SEGMENT &&
            form->operand[i].source == X86_SOURCE_REG) {
            static const uint8_t loadable[5] = {X86_ES, X86_SS, X86_DS, X86_FS, X86_GS};
            out_choice->register_number = loadable[(random >> 16 & 255) % 5];
        } else if (form->operand[i].reg_class == X86_REG_CONTROL) {
            static const uint8_t controls[5] = {0, 2, 3, 4, 8};
            out_choice->register_number = controls[(random >> 16 & 255) % (is_64 ? 5 : 4)];
        } else if (form->operand[i].reg_class == X86_REG_DEBUG) {
            out_choice->register_number &= 7;
        }
    }
    choose_address(seed, out_choice, registers, form->flags & X86_FORM_VSIB);
}
