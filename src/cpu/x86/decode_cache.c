/* See decode_cache.h. Two instructions with the same prefixes, opcode, ModRM and SIB differ in the values of displacement and
 * immediate alone. */
#include "cpu/x86/decode_cache.h"

#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/tables.h"

#define KEY_BYTES  7u /* of an instruction, at most */
#define MODE_SHIFT 56

static bool is_rex(uint8_t byte)
{
    return (byte & 0xf0) == 0x40;
}

/* Prefixes that the cache leaves to the decoder, as the first byte behind those that it knows. */
static bool is_other_prefix(uint8_t byte)
{
    return byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e ||
           (byte >= 0x64 && byte <= 0x67) || byte == 0xf0 || byte == 0xf2 || byte == 0xf3;
}

/* The bytes up to displacement and immediate, or 0: not for the cache. Looks at no more than 8 bytes. */
static uint32_t key_length(const uint8_t *bytes, enum x86_code_size code_size)
{
    uint32_t at = 0, map = 0;
    bool is_64 = code_size >= X86_CODE_64, has_prefix = false;
    if (bytes[0] == 0x66 || bytes[0] == 0xf2 || bytes[0] == 0xf3) {
        has_prefix = true;
        at++;
    }
    if (is_64 && is_rex(bytes[at])) {
        has_prefix = true;
        at++;
    }
    uint8_t opcode = bytes[at++];
    if (opcode == 0x0f) {
        map = 1;
        opcode = bytes[at++];
        if (opcode == 0x38 || opcode == 0x3a) {
            map = opcode == 0x38 ? 2 : 3;
            opcode = bytes[at++];
        }
    } else if (opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62) {
        if (!is_64 || has_prefix || opcode == 0x62) {
            return 0;
        }
        map = opcode == 0xc5 ? 4 : 3 + (bytes[at] & 0x1f);
        if (map < 4 || map >= X86_TABLE_MAPS) {
            return 0;
        }
        at += opcode == 0xc5 ? 1 : 2;
        opcode = bytes[at++];
    } else if (is_other_prefix(opcode) || (is_64 && is_rex(opcode))) {
        return 0;
    }
    if (x86_opcodes[map][opcode].flags & X86_HAS_MODRM) {
        uint8_t modrm = bytes[at++];
        at += modrm < 0xc0 && (modrm & 7) == 4;
    }
    return at <= KEY_BYTES ? at : 0;
}

/* May 'insn' be kept by its first 'length' bytes? If so, *out_signed says how its immediate is extended. */
static bool is_regular(const struct x86_insn *insn, uint32_t length, bool *out_signed)
{
    const struct x86_form *form = &x86_forms[insn->row];
    uint32_t fixed = insn->disp_bytes  ? insn->disp_offset
                     : insn->imm_bytes ? insn->imm_offset
                                       : insn->length;
    uint32_t values = 0;
    *out_signed = false;
    for (uint32_t i = 0; i < form->operand_count; i++) {
        switch (form->operand[i].source) {
        case X86_SOURCE_IMM_SIGN:
        case X86_SOURCE_REL:
            *out_signed = true;
            values++;
            break;
        case X86_SOURCE_IMM:
            values++;
            break;
        case X86_SOURCE_IS4:
        case X86_SOURCE_FAR:
        case X86_SOURCE_MOFFS:
            return false;
        default:
            break;
        }
    }
    return fixed == length && values <= 1 && insn->disp_bytes <= 4;
}

static always_inline uint64_t read_value(const uint8_t *bytes, uint32_t size, bool is_signed)
{
    uint64_t value = 0;
    switch (size) { /* the host is little-endian as well */
    case 1:
        return is_signed ? (uint64_t)(int64_t)(int8_t)*bytes : *bytes;
    case 2:
        memcpy(&value, bytes, 2);
        return is_signed ? (uint64_t)(int64_t)(int16_t)value : value;
    case 4:
        memcpy(&value, bytes, 4);
        return is_signed ? (uint64_t)(int64_t)(int32_t)value : value;
    default:
        memcpy(&value, bytes, 8);
        return value;
    }
}

enum x86_decode_status x86_decode_cached(struct x86_decode_cache *cache, const uint8_t *bytes,
                                         size_t available, enum x86_code_size code_size,
                                         struct x86_insn *out_insn)
{
    union {
        uint64_t key;
        uint8_t bytes[8];
    } first = {0};
    if (likely(available >= sizeof(first))) {
        memcpy(first.bytes, bytes, sizeof(first));
    } else {
        memcpy(first.bytes, bytes, available);
    }
    uint32_t length = code_size != X86_CODE_16 ? key_length(first.bytes, code_size) : 0;
    if (!length || length > available) {
        return x86_decode(bytes, available, code_size, out_insn);
    }
    uint64_t key = first.key;
    key = (key & ((1ull << 8 * length) - 1)) | (uint64_t)code_size << MODE_SHIFT;
    struct x86_decode_cache_entry *entry =
        &cache->entry[(key * 0x9e3779b97f4a7c15ull) >> (64 - X86_DECODE_CACHE_BITS)];
    if (likely(entry->key == key && entry->insn.length <= available)) {
        const struct x86_insn *known = &entry->insn;
        *out_insn = *known;
        if (known->disp_bytes) {
            out_insn->disp =
                (int64_t)read_value(bytes + known->disp_offset, known->disp_bytes, true);
        }
        if (known->imm_bytes) {
            out_insn->imm =
                read_value(bytes + known->imm_offset, known->imm_bytes, entry->is_signed);
        }
        return X86_DECODE_OK;
    }
    bool is_signed;
    enum x86_decode_status status = x86_decode(bytes, available, code_size, out_insn);
    if (status == X86_DECODE_OK && is_regular(out_insn, length, &is_signed)) {
        *entry = (struct x86_decode_cache_entry){key, is_signed, *out_insn};
    }
    return status;
}
