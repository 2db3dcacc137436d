/* Addresses of memory operands: in the data pages, often near their borders, sometimes outside. */
#include "aim.h"

#include "base/core/endian.h"

/* An address that an access should have: in the data pages, often at a border, rarely outside. */
static uint64_t target_address(struct random *random, unsigned size)
{
    if (size == 0) {
        size = 1;
    }
    switch (random_below(random, 16)) {
    case 0: /* across the two data pages */
        return CASE_DATA_BASE + 4096 - random_below(random, size + 1);
    case 1: /* across to the read-only page */
        return CASE_DATA_BASE + CASE_DATA_SIZE - random_below(random, size + 1);
    case 2: /* across the end, or wholly behind it */
        return CASE_DATA_BASE + CASE_DATA_SIZE + CASE_CONST_SIZE - random_below(random, size + 1);
    case 3: /* across the start */
        return CASE_DATA_BASE - random_below(random, size + 1);
    case 4: /* read only */
        return CASE_DATA_BASE + CASE_DATA_SIZE + random_below(random, CASE_CONST_SIZE - 64);
    case 5:
    case 6:
    case 7: /* any alignment */
        return CASE_DATA_BASE + random_below(random, CASE_DATA_SIZE - 64);
    default:
        return CASE_DATA_BASE + random_below(random, (CASE_DATA_SIZE - 512) / 64) * 64;
    }
}

static uint64_t insn_address_mask(const struct x86_insn *insn)
{
    return insn->address_bytes == 8 ? ~0ull : insn->address_bytes == 4 ? 0xffffffffull : 0xffff;
}

static uint64_t segment_base(const struct case_input *in, uint8_t segment)
{
    if (in->code_size == X86_CODE_64) {
        return segment == X86_FS ? CASE_FS_BASE : segment == X86_GS ? CASE_GS_BASE : 0;
    }
    switch (segment) {
    case X86_CS:
        return case_segment_base(in->cs);
    case X86_SS:
        return case_segment_base(in->ss);
    case X86_DS:
        return case_segment_base(in->ds);
    case X86_ES:
        return case_segment_base(in->es);
    default:
        return 0; /* null selectors */
    }
}

/* Makes the address of 'insn' be near what is mapped, as far as registers not yet spoken for allow it. */
void aim_memory(struct builder *b, const struct x86_insn *insn, uint8_t *bytes)
{
    struct case_input *out = b->out;
    struct random *random = b->random;
    unsigned size = 1;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_MEM) {
            size = insn->operand[i].size_bytes;
        }
    }
    uint64_t target = target_address(random, size) - segment_base(out, insn->segment);
    if (aim_is_xsave(insn) && random_percent(random, 70)) {
        target = CASE_DATA_BASE + CASE_XSAVE_OFFSET - segment_base(out, insn->segment);
    }
    uint64_t mask = insn_address_mask(insn);
    uint64_t index_part = 0;
    if (insn->index != X86_BASE_NONE && !insn->is_vsib) {
        uint32_t bit = 1u << insn->index;
        if ((b->used & bit) == 0 && insn->index != insn->base && random_percent(random, 90)) {
            uint64_t value = random_percent(random, 50)
                                 ? random_below(random, 64)
                                 : (uint64_t) - (int64_t)random_below(random, 64);
            out->state.gpr[insn->index] = out->code_size != X86_CODE_64 ? (uint32_t)value : value;
            b->used |= bit;
            b->pointers |= bit;
        }
        index_part = out->state.gpr[insn->index] * insn->scale;
    } else if (insn->is_vsib && random_percent(random, 85)) {
        /* small offsets, in elements of 4 or 8 bytes */
        uint8_t *low = out->state.xsave + 160 + insn->index * 16;
        uint8_t *high = out->state.xsave + X86_XSAVE_AVX_OFFSET + insn->index * 16;
        bool is_qword = (insn->opcode & 1) != 0;
        for (int i = 0; i < 32; i += is_qword ? 8 : 4) {
            uint8_t *at = i < 16 ? low + i : high + i - 16;
            int32_t offset = (int32_t)random_below(random, 256) - 128;
            if (is_qword) {
                le64_put(at, (uint64_t)(int64_t)offset);
            } else {
                le32_put(at, (uint32_t)offset);
            }
        }
    }
    if (insn->base == X86_BASE_RIP || (insn->base == X86_BASE_NONE && insn->disp_bytes >= 2)) {
        uint64_t disp = target - index_part;
        if (insn->base == X86_BASE_RIP) {
            disp = target - (b->next_rip + insn->length);
        }
        if (insn->disp_bytes == 8) {
            le64_put(bytes + insn->disp_offset, disp);
        } else if (insn->disp_bytes == 4) {
            le32_put(bytes + insn->disp_offset, (uint32_t)disp);
        } else if (insn->disp_bytes == 2) {
            le16_put(bytes + insn->disp_offset, (uint16_t)disp);
        }
        return;
    }
    if (insn->base >= 16 || (b->used & (1u << insn->base)) != 0) {
        return;
    }
    uint64_t base = target - (uint64_t)insn->disp - index_part;
    if (insn->base == insn->index) {
        base = (target - (uint64_t)insn->disp) / (1u + insn->scale);
    }
    base &= mask;
    out->state.gpr[insn->base] = out->code_size != X86_CODE_64 ? (uint32_t)base : base;
    b->used |= 1u << insn->base;
    b->pointers |= 1u << insn->base;
}

/* The two operands of a string instruction: anywhere, or so near each other that they overlap. */
static void aim_string(struct builder *b, const struct x86_insn *insn)
{
    struct case_input *out = b->out;
    static const uint8_t pointers[] = {X86_RSI, X86_RDI};
    static const uint8_t segments[] = {X86_DS, X86_ES};
    uint32_t extent = random_percent(b->random, 50) ? 16 : 256;
    uint64_t first = target_address(b->random, extent);
    uint64_t second = random_percent(b->random, 30) ? first + random_below(b->random, 32) - 16
                                                    : target_address(b->random, extent);
    uint64_t mask = insn_address_mask(insn);
    for (int i = 0; i < 2; i++) {
        uint32_t bit = 1u << pointers[i];
        uint64_t target = i == 0 ? first : second;
        if ((b->used & bit) == 0) {
            uint8_t segment = i == 0 ? insn->segment : segments[i];
            out->state.gpr[pointers[i]] = (target - segment_base(out, segment)) & mask;
            b->used |= bit;
        }
    }
    if ((insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) != 0 &&
        (b->used & (1u << X86_RCX)) == 0 && random_percent(b->random, 90)) {
        out->state.gpr[X86_RCX] = random_below(b->random, 80);
        b->used |= 1u << X86_RCX;
    }
}

/* BT and its like with memory and a register: the register's high bits are part of the address. */
static void aim_bit_offset(struct builder *b, const struct x86_insn *insn)
{
    bool is_bit_test = insn->id == X86_ID_BT || insn->id == X86_ID_BTS || insn->id == X86_ID_BTR ||
                       insn->id == X86_ID_BTC;
    if (!is_bit_test || !insn->has_memory || insn->imm_bytes != 0) {
        return;
    }
    uint8_t reg = insn->operand[1].reg;
    if ((b->used & (1u << reg)) == 0 && random_percent(b->random, 90)) {
        int64_t offset = (int64_t)random_below(b->random, 8192) - 4096;
        b->out->state.gpr[reg] =
            b->out->code_size != X86_CODE_64 ? (uint32_t)offset : (uint64_t)offset;
        b->used |= 1u << reg;
    }
}

bool aim_is_xsave(const struct x86_insn *insn)
{
    return insn->id == X86_ID_XSAVE || insn->id == X86_ID_XSAVEC || insn->id == X86_ID_XSAVEOPT ||
           insn->id == X86_ID_XRSTOR;
}

void aim_implicit(struct builder *b, const struct x86_insn *insn)
{
    if ((x86_rows[insn->row].attributes & X86_ROW_STRING) != 0) {
        aim_string(b, insn);
    }
    aim_bit_offset(b, insn);
}
