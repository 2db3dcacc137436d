/* The decoder: prefixes, then opcode and ModRM pick a row of the table, then the row's form says which operands there are
 * and where their bytes stand. See tables.h for the lookup.
 *
 * Sources: Intel SDM 2 chapter 2, AMD APM 3 chapter 1. */
#include "cpu/x86/decode.h"

#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/tables.h"

struct decoder {
    const uint8_t *bytes;
    uint32_t limit; /* bytes that may be read: at most 15 */
    uint32_t at;
    bool is_cut;       /* the limit is what was available, not 15 */
    uint8_t mandatory; /* index: none, 66, F3, F2; before a row says whether it is one */
    bool is_intel;     /* enum x86_code_size */
    bool has_66, has_67;
    uint8_t repeat;   /* last of F2, F3 */
    uint8_t override; /* enum x86_segment_id or X86_SEGMENT_COUNT */
    uint8_t table_map;
    const struct x86_form *form;
    struct x86_insn *insn;
};

static const uint8_t mandatory_bytes[4] = {0, 0x66, 0xf3, 0xf2};

static const uint8_t fixed_sizes[X86_SIZE_FX] = {
    [X86_SIZE_B] = 1,  [X86_SIZE_W] = 2,   [X86_SIZE_D] = 4,   [X86_SIZE_Q] = 8,
    [X86_SIZE_T] = 10, [X86_SIZE_DQ] = 16, [X86_SIZE_QQ] = 32,
};

static enum x86_decode_status out_of_bytes(const struct decoder *d)
{
    return d->is_cut ? X86_DECODE_MORE : X86_DECODE_TOO_LONG;
}

/* 'size' is 1, 2, 4 or 8. */
static always_inline bool read_unsigned(struct decoder *d, uint32_t size, uint64_t *out_value)
{
    if (d->limit - d->at < size) {
        return false;
    }
    const uint8_t *from = d->bytes + d->at;
    d->at += size;
    uint16_t value_16;
    uint32_t value_32;
    switch (size) { /* the host is little-endian as well */
    case 1:
        *out_value = *from;
        return true;
    case 2:
        memcpy(&value_16, from, sizeof(value_16));
        *out_value = value_16;
        return true;
    case 4:
        memcpy(&value_32, from, sizeof(value_32));
        *out_value = value_32;
        return true;
    default:
        memcpy(out_value, from, sizeof(*out_value));
        return true;
    }
}

static uint64_t sign_extend(uint64_t value, uint32_t size)
{
    uint32_t shift = 64 - 8 * size;
    return (uint64_t)((int64_t)(value << shift) >> shift);
}

static uint16_t varying_size(const struct x86_insn *insn, uint8_t size)
{
    uint16_t vector = insn->vex_l ? 32 : 16;
    switch (size) {
    case X86_SIZE_FX:
        return 512;
    case X86_SIZE_Z:
        return MIN(insn->operand_bytes, 4);
    case X86_SIZE_Y:
        return insn->rex & 8 && insn->code_size == X86_CODE_64 ? 8 : 4;
    case X86_SIZE_N:
        return insn->code_size == X86_CODE_64 ? 8 : 4;
    case X86_SIZE_P:
        return insn->operand_bytes + 2;
    case X86_SIZE_PT:
        return insn->code_size == X86_CODE_64 ? 10 : 6;
    case X86_SIZE_A:
        return insn->address_bytes;
    case X86_SIZE_BOUND:
        return 2 * insn->operand_bytes;
    case X86_SIZE_X:
        return vector;
    case X86_SIZE_XH:
        return vector / 2;
    case X86_SIZE_XQ:
        return vector / 4;
    case X86_SIZE_XE:
        return vector / 8;
    case X86_SIZE_ENV:
        return insn->operand_bytes == 2 ? 14 : 28;
    case X86_SIZE_FSAVE:
        return insn->operand_bytes == 2 ? 94 : 108;
    default:
        return 0;
    }
}

static always_inline uint16_t size_of(const struct x86_insn *insn, uint8_t size)
{
    if (size < X86_SIZE_FX) {
        return fixed_sizes[size];
    }
    return size == X86_SIZE_V ? insn->operand_bytes : varying_size(insn, size);
}

/* Takes the prefixes; the opcode byte follows. False: out of bytes. */
static bool read_prefixes(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    bool is_64 = insn->code_size == X86_CODE_64;
    for (;; d->at++) {
        if (d->at == d->limit) {
            return false;
        }
        uint8_t byte = d->bytes[d->at];
        uint8_t override;
        switch (byte) {
        case 0x66:
            d->has_66 = true;
            break;
        case 0x67:
            d->has_67 = true;
            break;
        case 0xf0:
            insn->prefixes |= X86_PREFIX_LOCK;
            break;
        case 0xf2:
        case 0xf3:
            d->repeat = byte;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            override = byte >> 3 & 3;
            /* These four are ignored in 64-bit mode and leave an earlier FS or GS in force. */
            if (!is_64) {
                d->override = override;
            }
            insn->prefixes |= X86_PREFIX_SEGMENT;
            break;
        case 0x64:
        case 0x65:
            d->override = byte == 0x64 ? X86_FS : X86_GS;
            insn->prefixes |= X86_PREFIX_SEGMENT;
            break;
        default:
            if (!is_64 || (byte & 0xf0) != 0x40) {
                return true;
            }
            insn->rex = byte;
            continue;
        }
        insn->rex = 0; /* counts only right before the opcode */
    }
}

/* C4, C5: VEX. 'at' is behind the first byte. */
static enum x86_decode_status read_vex(struct decoder *d, uint8_t first)
{
    struct x86_insn *insn = d->insn;
    bool is_64 = insn->code_size == X86_CODE_64;
    uint64_t payload;
    if (d->has_66 || d->repeat || insn->rex || (insn->prefixes & X86_PREFIX_LOCK)) {
        return X86_DECODE_UNDEFINED;
    }
    uint8_t last;
    uint8_t rex = 0x40;
    uint8_t map = 1;
    if (first == 0xc5) {
        if (!read_unsigned(d, 1, &payload)) {
            return out_of_bytes(d);
        }
        last = (uint8_t)payload;
        rex |= last & 0x80 ? 0 : 4;
    } else {
        if (!read_unsigned(d, 2, &payload)) {
            return out_of_bytes(d);
        }
        uint8_t middle = (uint8_t)payload;
        last = (uint8_t)(payload >> 8);
        rex |= (uint8_t)(~middle >> 5 & 7) | (last & 0x80 ? 8 : 0);
        map = middle & 0x1f;
        if (map < 1 || map > 3) {
            return X86_DECODE_UNDEFINED;
        }
    }
    d->mandatory = last & 3; /* VEX.pp counts as mandatory_bytes does */
    /* Outside 64-bit mode there are eight registers: R and X are 1 by the choice of the opcode, B is ignored, and
     * the top bit of vvvv as well. */
    insn->rex = is_64 ? rex : (rex & 0x48);
    insn->vex_vvvv = ~last >> 3 & 15;
    insn->vex_l = last >> 2 & 1;
    insn->map = map;
    d->table_map = map + 3;
    insn->prefixes |= X86_PREFIX_VEX;
    return X86_DECODE_OK;
}

/* The opcode with its map. */
static enum x86_decode_status read_opcode(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    uint8_t byte = d->bytes[d->at++];
    d->mandatory = d->repeat == 0xf2 ? 3 : d->repeat == 0xf3 ? 2 : d->has_66;
    if (byte == 0x0f) {
        if (d->at == d->limit) {
            return out_of_bytes(d);
        }
        byte = d->bytes[d->at++];
        insn->map = 1;
        if (byte == 0x38 || byte == 0x3a) {
            insn->map = byte == 0x38 ? 2 : 3;
            if (d->at == d->limit) {
                return out_of_bytes(d);
            }
            byte = d->bytes[d->at++];
        }
        d->table_map = insn->map;
    } else if (byte == 0xc4 || byte == 0xc5 || byte == 0x62) {
        /* Outside 64-bit mode these are LES, LDS and BOUND if a memory operand follows. */
        if (d->at == d->limit) {
            return out_of_bytes(d);
        }
        if (insn->code_size == X86_CODE_64 || d->bytes[d->at] >= 0xc0) {
            if (byte == 0x62) {
                return X86_DECODE_UNDEFINED; /* EVEX */
            }
            enum x86_decode_status status = read_vex(d, byte);
            if (status != X86_DECODE_OK) {
                return status;
            }
            if (d->at == d->limit) {
                return out_of_bytes(d);
            }
            byte = d->bytes[d->at++];
        }
    }
    insn->opcode = byte;
    return X86_DECODE_OK;
}

static void set_sizes(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    uint8_t code_size = insn->code_size;
    if (code_size == X86_CODE_64) {
        insn->operand_bytes = insn->rex & 8 ? 8 : d->has_66 ? 2 : 4;
        insn->address_bytes = d->has_67 ? 4 : 8;
    } else {
        bool is_32 = code_size == X86_CODE_32;
        insn->operand_bytes = is_32 != d->has_66 ? 4 : 2;
        insn->address_bytes = is_32 != d->has_67 ? 4 : 2;
    }
}

/* Finds the row; its index or -1. */
static always_inline int find_row(const struct decoder *d, const struct x86_opcode_entry *entry)
{
    const struct x86_insn *insn = d->insn;
    uint32_t index = 0;
    if (entry->flags & X86_SPLIT_PREFIX) {
        index = d->mandatory;
    }
    if (entry->flags & X86_SPLIT_REG) {
        index = index * 8 + (insn->modrm >> 3 & 7);
    }
    if (entry->flags & X86_SPLIT_MOD) {
        index = index * 2 + (insn->modrm >= 0xc0);
    }
    uint16_t first = x86_lists[entry->base + index];
    if (first == X86_LIST_EMPTY) {
        return -1;
    }
    uint32_t facts = (X86_WHEN_MODE_16 << insn->code_size) |
                     (insn->rex & 8 ? X86_WHEN_W1 : X86_WHEN_W0) |
                     (insn->vex_l ? X86_WHEN_L1 : X86_WHEN_L0) |
                     ((uint32_t)insn->operand_bytes >> 1) * X86_WHEN_OPERAND_2 |
                     (insn->rex & 1 ? X86_WHEN_B1 : X86_WHEN_B0);
    for (const struct x86_candidate *candidate = &x86_candidates[first];; candidate++) {
        if (!(candidate->refused & facts) &&
            (insn->modrm & candidate->modrm_mask) == candidate->modrm_value) {
            return candidate->row;
        }
        if (candidate->is_last) {
            return -1;
        }
    }
}

/* The size of an address's displacement, and base and index, for 16-bit addressing (SDM 2A table 2-1). */
static uint32_t address_16(struct x86_insn *insn, uint8_t mod, uint8_t rm)
{
    static const uint8_t bases[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                     X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t indices[4] = {X86_RSI, X86_RDI, X86_RSI, X86_RDI};
    if (mod == 0 && rm == 6) {
        return 2;
    }
    insn->base = bases[rm];
    insn->index = rm < 4 ? indices[rm] : X86_BASE_NONE;
    return mod; /* 0, 1 or 2 bytes */
}

/* Reads SIB and displacement of a memory operand. */
static enum x86_decode_status read_address(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    uint8_t mod = insn->modrm >> 6;
    uint8_t rm = insn->modrm & 7;
    uint32_t disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    insn->has_memory = true;
    if (insn->address_bytes == 2) {
        disp_bytes = address_16(insn, mod, rm);
    } else if (rm == 4) {
        if (d->at == d->limit) {
            return out_of_bytes(d);
        }
        uint8_t sib = d->bytes[d->at++];
        uint8_t index = (sib >> 3 & 7) | (insn->rex << 2 & 8);
        if (index != 4 || insn->is_vsib) {
            insn->index = index;
            insn->scale = (uint8_t)(1u << (sib >> 6));
        }
        if ((sib & 7) == 5 && mod == 0) {
            disp_bytes = 4;
        } else {
            insn->base = (sib & 7) | (insn->rex << 3 & 8);
        }
    } else if (rm == 5 && mod == 0) {
        disp_bytes = 4;
        insn->base = insn->code_size == X86_CODE_64 ? X86_BASE_RIP : X86_BASE_NONE;
    } else {
        insn->base = rm | (insn->rex << 3 & 8);
    }
    if (disp_bytes) {
        uint64_t disp;
        insn->disp_offset = (uint8_t)d->at;
        insn->disp_bytes = (uint8_t)disp_bytes;
        if (!read_unsigned(d, disp_bytes, &disp)) {
            return out_of_bytes(d);
        }
        insn->disp = (int64_t)sign_extend(disp, disp_bytes);
    }
    bool is_stack = insn->base == X86_RSP || insn->base == X86_RBP;
    insn->segment = d->override != X86_SEGMENT_COUNT ? d->override : is_stack ? X86_SS : X86_DS;
    return X86_DECODE_OK;
}

static void set_plain_address(struct decoder *d, uint8_t base, bool can_override)
{
    struct x86_insn *insn = d->insn;
    insn->has_memory = true;
    insn->base = base;
    if (can_override) {
        insn->segment = d->override != X86_SEGMENT_COUNT ? d->override : X86_DS;
    } else {
        insn->segment = X86_ES;
    }
}

static bool read_immediate(struct decoder *d, uint32_t size, bool is_signed)
{
    struct x86_insn *insn = d->insn;
    uint64_t value;
    bool is_second = insn->imm_bytes != 0;
    if (!is_second) {
        insn->imm_offset = (uint8_t)d->at;
    }
    if (!read_unsigned(d, size, &value)) {
        return false;
    }
    value = is_signed ? sign_extend(value, size) : value;
    insn->imm_bytes += (uint8_t)size;
    if (is_second) {
        insn->imm2 = value;
    } else {
        insn->imm = value;
    }
    return true;
}

static always_inline bool is_valid_register(const struct x86_insn *insn,
                                            const struct x86_operand *operand)
{
    switch (operand->reg_class) {
    case X86_REG_SEGMENT: /* MOV to CS is undefined */
        return operand->reg < X86_SEGMENT_COUNT &&
               !(operand->reg == X86_CS && (operand->access & X86_OPERAND_WRITE));
    case X86_REG_CONTROL:
        return (0x11du >> operand->reg) & 1; /* 0, 2, 3, 4, 8 */
    case X86_REG_DEBUG:
        return operand->reg < 8;
    default:
        return true;
    }
}

/* Number and AH..BH of a general register as ModRM or the opcode encode it. */
static always_inline void set_register(const struct x86_insn *insn, struct x86_operand *operand,
                                       uint8_t number, uint8_t extension)
{
    operand->kind = X86_OPERAND_REG;
    switch (operand->reg_class) {
    case X86_REG_GPR:
        if (operand->size_bytes == 1 && !insn->rex && number >= 4) {
            operand->reg = number - 4;
            operand->is_high = true;
            return;
        }
        operand->reg = number | extension;
        return;
    case X86_REG_VECTOR:
    case X86_REG_CONTROL:
    case X86_REG_DEBUG:
        operand->reg = number | extension;
        return;
    default: /* REX does not reach the others */
        operand->reg = number;
        return;
    }
}

static always_inline enum x86_decode_status
read_operand(struct decoder *d, const struct x86_operand_form *form, struct x86_operand *operand)
{
    struct x86_insn *insn = d->insn;
    operand->access = form->access & (X86_OPERAND_READ | X86_OPERAND_WRITE);
    operand->is_implicit = form->access & X86_ACCESS_IMPLICIT;
    operand->reg_class = form->reg_class;
    operand->size_bytes = size_of(insn, form->size);
    uint32_t size = operand->size_bytes;
    switch (form->source) {
    case X86_SOURCE_RM:
        if (insn->has_memory) {
            operand->kind = X86_OPERAND_MEM;
            operand->reg_class = 0;
            operand->size_bytes = size_of(insn, form->size_mem);
        } else {
            set_register(insn, operand, insn->modrm & 7, insn->rex << 3 & 8);
        }
        break;
    case X86_SOURCE_REG:
        set_register(insn, operand, insn->modrm >> 3 & 7, insn->rex << 1 & 8);
        break;
    case X86_SOURCE_OPCODE:
        set_register(insn, operand, insn->opcode & 7, insn->rex << 3 & 8);
        break;
    case X86_SOURCE_VVVV:
        operand->kind = X86_OPERAND_REG;
        operand->reg = insn->vex_vvvv & (insn->code_size == X86_CODE_64 ? 15 : 7);
        break;
    case X86_SOURCE_IS4:
        if (!insn->imm_bytes && !read_immediate(d, 1, false)) {
            return out_of_bytes(d);
        }
        operand->kind = X86_OPERAND_REG;
        operand->reg = insn->imm >> 4 & (insn->code_size == X86_CODE_64 ? 15 : 7);
        break;
    case X86_SOURCE_FIXED:
        operand->kind = X86_OPERAND_REG;
        operand->reg = form->number;
        if (form->reg_class == X86_REG_GPR && size == 1 && form->number >= 4) {
            operand->reg -= 4;
            operand->is_high = true;
        }
        break;
    case X86_SOURCE_IMM:
    case X86_SOURCE_IMM_SIGN:
        operand->kind = X86_OPERAND_IMM;
        operand->reg_class = 0;
        if (!read_immediate(d, form->number == 1 ? 1 : size, form->source == X86_SOURCE_IMM_SIGN)) {
            return out_of_bytes(d);
        }
        break;
    case X86_SOURCE_CONSTANT:
        operand->kind = X86_OPERAND_IMM;
        insn->imm = form->number;
        break;
    case X86_SOURCE_REL:
        operand->kind = X86_OPERAND_REL;
        if (!read_immediate(d, size, true)) {
            return out_of_bytes(d);
        }
        break;
    case X86_SOURCE_FAR:
        operand->kind = X86_OPERAND_FAR;
        operand->size_bytes = (uint16_t)(size + 2);
        if (!read_immediate(d, size, false) || !read_immediate(d, 2, false)) {
            return out_of_bytes(d);
        }
        break;
    case X86_SOURCE_MOFFS: {
        uint64_t address;
        operand->kind = X86_OPERAND_MEM;
        set_plain_address(d, X86_BASE_NONE, true);
        insn->disp_offset = (uint8_t)d->at;
        insn->disp_bytes = insn->address_bytes;
        if (!read_unsigned(d, insn->address_bytes, &address)) {
            return out_of_bytes(d);
        }
        insn->disp = (int64_t)address;
        break;
    }
    case X86_SOURCE_STRING_SI:
        operand->kind = X86_OPERAND_MEM;
        set_plain_address(d, X86_RSI, true);
        break;
    case X86_SOURCE_STRING_DI:
        operand->kind = X86_OPERAND_MEM;
        if (insn->base != X86_RSI) {
            set_plain_address(d, X86_RDI, false);
        }
        break;
    case X86_SOURCE_BASE:
        operand->kind = X86_OPERAND_MEM;
        set_plain_address(d, form->number, true);
        break;
    default:
        break;
    }
    if (operand->kind == X86_OPERAND_REG && !is_valid_register(insn, operand)) {
        return X86_DECODE_UNDEFINED;
    }
    return X86_DECODE_OK;
}

/* Gathers: the index, the mask and the destination must be three registers (SDM 2B, VPGATHERDD). */
static bool are_distinct(const struct x86_insn *insn)
{
    uint8_t destination = insn->operand[0].reg;
    uint8_t mask = insn->operand[2].reg;
    return destination != mask && destination != insn->index && mask != insn->index;
}

static enum x86_decode_status read_operands(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    const struct x86_form *form = d->form;
    if ((form->flags & X86_FORM_NO_VVVV) && insn->vex_vvvv != 0) {
        return X86_DECODE_UNDEFINED;
    }
    if (insn->has_modrm && insn->modrm < 0xc0 && !(form->flags & X86_FORM_MOD_IS_REG)) {
        if (form->flags & X86_FORM_VSIB) {
            insn->is_vsib = true;
            /* A vector of indices needs the SIB byte, which 16-bit addresses do not have. */
            if (insn->address_bytes == 2 || (insn->modrm & 7) != 4) {
                return X86_DECODE_UNDEFINED;
            }
        }
        enum x86_decode_status status = read_address(d);
        if (status != X86_DECODE_OK) {
            return status;
        }
    }
    insn->operand_count = form->operand_count;
    for (uint32_t i = 0; i < form->operand_count; i++) {
        struct x86_operand operand = {0};
        enum x86_decode_status status = read_operand(d, &form->operand[i], &operand);
        insn->operand[i] = operand; /* one store: small ones would stall the reader */
        if (status != X86_DECODE_OK) {
            return status;
        }
    }
    if ((form->flags & X86_FORM_DISTINCT) && !are_distinct(insn)) {
        return X86_DECODE_UNDEFINED;
    }
    return X86_DECODE_OK;
}

/* What the row leaves of the prefixes. */
static void apply_row(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    uint8_t flags = d->form->flags;
    uint8_t repeat = d->repeat;
    bool has_66 = d->has_66;
    insn->mandatory_prefix = insn->prefixes & X86_PREFIX_VEX ? mandatory_bytes[d->mandatory] : 0;
    if ((flags & X86_FORM_PREFIX_66) && has_66) {
        has_66 = false;
        insn->mandatory_prefix = 0x66;
        d->has_66 = false;
        set_sizes(d);
    }
    if ((flags & (X86_FORM_PREFIX_F3 | X86_FORM_PREFIX_F2)) && repeat) {
        insn->mandatory_prefix = repeat;
        repeat = 0;
    }
    insn->prefixes |= (repeat == 0xf3 ? X86_PREFIX_REP
                       : repeat       ? X86_PREFIX_REPNE
                                      : 0) |
                      (has_66 ? X86_PREFIX_DATA : 0) | (d->has_67 ? X86_PREFIX_ADDR : 0);
    if (insn->rex && !(insn->prefixes & X86_PREFIX_VEX)) {
        insn->prefixes |= X86_PREFIX_REX;
    }
    if ((flags & X86_FORM_DEFAULT_64) && insn->code_size == X86_CODE_64) {
        bool ignores_66 = d->is_intel && (x86_rows[insn->row].attributes & X86_ROW_BRANCH);
        insn->operand_bytes = insn->operand_bytes == 2 && !ignores_66 ? 2 : 8;
    }
}

static enum x86_decode_status decode(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    if (!read_prefixes(d)) {
        return out_of_bytes(d);
    }
    enum x86_decode_status status = read_opcode(d);
    if (status != X86_DECODE_OK) {
        return status;
    }
    const struct x86_opcode_entry *entry = &x86_opcodes[d->table_map][insn->opcode];
    set_sizes(d);
    if (entry->flags & X86_HAS_MODRM) {
        if (d->at == d->limit) {
            return out_of_bytes(d);
        }
        insn->has_modrm = true;
        insn->modrm = d->bytes[d->at++];
    }
    if (unlikely(insn->opcode == 0x90) && d->is_intel && d->table_map == 0 && d->repeat == 0xf3) {
        insn->rex &= 0xfe;
    }
    int row = find_row(d, entry);
    if (row < 0) {
        return X86_DECODE_UNDEFINED;
    }
    insn->row = (uint16_t)row;
    insn->id = x86_rows[row].id;
    d->form = &x86_forms[row];
    apply_row(d);
    status = read_operands(d);
    if (status != X86_DECODE_OK) {
        return status;
    }
    if ((insn->prefixes & X86_PREFIX_LOCK) && (!(x86_rows[row].attributes & X86_ROW_LOCKABLE) ||
                                               insn->operand[0].kind != X86_OPERAND_MEM)) {
        return X86_DECODE_UNDEFINED;
    }
    return X86_DECODE_OK;
}

enum x86_decode_status x86_decode(const uint8_t *bytes, size_t available,
                                  enum x86_code_size code_size, struct x86_insn *out_insn)
{
    memset(out_insn, 0, sizeof(*out_insn));
    bool is_intel = code_size == X86_CODE_64_INTEL;
    out_insn->code_size = is_intel ? X86_CODE_64 : (uint8_t)code_size;
    out_insn->base = X86_BASE_NONE;
    out_insn->index = X86_BASE_NONE;
    out_insn->scale = 1;
    out_insn->segment = X86_DS;
    struct decoder d = {
        .bytes = bytes,
        .limit = (uint32_t)MIN(available, X86_INSN_MAX_LENGTH),
        .is_cut = available < X86_INSN_MAX_LENGTH,
        .is_intel = is_intel,
        .override = X86_SEGMENT_COUNT,
        .insn = out_insn,
    };
    enum x86_decode_status status = decode(&d);
    out_insn->length = (uint8_t)d.at;
    return status;
}
