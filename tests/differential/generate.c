/* Cases from the instruction table: at start every encoding that the decoder knows is found by trying opcodes; a case
 * then takes a row at random, one of its encodings, and random registers, displacements and immediates. Registers that
 * form addresses are set so that most accesses hit the data pages, often near their borders. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/endian.h"
#include "exclude.h"
#include "random.h"
#include "state.h"

/* What an encoding is apart from its random parts. */
struct template
{
    uint8_t map, opcode, prefix, modrm;
    bool is_vex, w, l, has_modrm, is_exact;
};

#define TEMPLATES_PER_ROW 48

struct row_templates {
    struct template *item;
    uint32_t count;
};

struct generator_mode {
    struct row_templates *rows; /* one each row of x86_rows */
    uint32_t *drawn;            /* rows that have templates */
    uint32_t drawn_count;
};

struct generator {
    struct generator_mode mode[2]; /* 64-bit, 32-bit */
    const char *only;
};

static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};

static size_t encode_opcode(const struct template *t, uint8_t rex_rxb, uint8_t vvvv, bool is_32bit,
                            uint8_t *out)
{
    size_t n = 0;
    if (t->is_vex) {
        uint8_t pp = t->prefix == 0x66 ? 1 : t->prefix == 0xf3 ? 2 : t->prefix == 0xf2 ? 3 : 0;
        uint8_t third = (uint8_t)((t->w ? 0x80 : 0) | ((vvvv ^ 0xf) << 3) | (t->l ? 4 : 0) | pp);
        if (is_32bit) {
            rex_rxb = 0;
            third |= 0x40;
        }
        if (t->map == 1 && !t->w && (rex_rxb & 3) == 0 && (vvvv & 1) == 0) {
            out[n++] = 0xc5;
            out[n++] = (uint8_t)((third & 0x7f) | ((rex_rxb & 4) != 0 ? 0 : 0x80));
        } else {
            out[n++] = 0xc4;
            out[n++] = (uint8_t)((((rex_rxb ^ 7) & 7) << 5) | t->map);
            out[n++] = third;
        }
    } else {
        if (t->prefix != 0) {
            out[n++] = t->prefix;
        }
        if (!is_32bit && (t->w || rex_rxb != 0)) {
            out[n++] = (uint8_t)(0x40 | (t->w ? 8 : 0) | (rex_rxb & 7));
        }
        if (t->map != 0) {
            out[n++] = 0x0f;
        }
        if (t->map >= 2) {
            out[n++] = t->map == 2 ? 0x38 : 0x3a;
        }
    }
    out[n++] = t->opcode;
    return n;
}

static int template_add(struct generator *generator, bool is_32bit, const struct template *t)
{
    uint8_t bytes[40] = {0};
    size_t n = encode_opcode(t, 0, 0, is_32bit, bytes);
    bytes[n] = t->modrm;
    struct x86_insn insn;
    enum x86_code_size code_size = is_32bit ? X86_CODE_32 : X86_CODE_64;
    if (x86_decode(bytes, X86_INSN_MAX_LENGTH, code_size, &insn) != X86_DECODE_OK ||
        exclude_reason(insn.row) != NULL) {
        return 0;
    }
    if (insn.map != t->map || insn.opcode != t->opcode ||
        ((insn.prefixes & X86_PREFIX_VEX) != 0) != t->is_vex) {
        return 0; /* a prefix or an escape, and the rest is something else */
    }
    if (generator->only != NULL && strcmp(generator->only, x86_rows[insn.row].mnemonic) != 0) {
        return 0;
    }
    if (!insn.has_modrm && t->modrm != 0) {
        return 0;
    }
    struct row_templates *row = &generator->mode[is_32bit].rows[insn.row];
    if (row->count == TEMPLATES_PER_ROW) {
        return 0;
    }
    if (row->item == NULL) {
        row->item = calloc(TEMPLATES_PER_ROW, sizeof(*row->item));
        if (row->item == NULL) {
            return -ENOMEM;
        }
    }
    row->item[row->count] = *t;
    row->item[row->count++].has_modrm = insn.has_modrm;
    return 0;
}

static int templates_of_opcode(struct generator *generator, bool is_32bit, bool is_vex, uint8_t map,
                               uint8_t opcode)
{
    bool is_exact = !is_vex && ((map == 0 && opcode >= 0xd8 && opcode <= 0xdf) ||
                                (map == 1 && (opcode == 0x01 || opcode == 0x1e)));
    for (unsigned prefix = 0; prefix < 4; prefix++) {
        for (unsigned wl = 0; wl < (is_vex ? 4u : is_32bit ? 1u : 2u); wl++) {
            for (unsigned modrm = 0; modrm < 256; modrm++) {
                bool is_register = modrm >= 0xc0;
                if ((modrm & 7) != 0 && !(is_exact && is_register)) {
                    continue;
                }
                if (!is_register && modrm >= 0x40) {
                    continue;
                }
                struct template t = {
                    .map = map,
                    .opcode = opcode,
                    .prefix = mandatory[prefix],
                    .modrm = (uint8_t)modrm,
                    .is_vex = is_vex,
                    .w = (wl & 1) != 0,
                    .l = (wl & 2) != 0,
                    .is_exact = is_exact && is_register,
                };
                int rc = template_add(generator, is_32bit, &t);
                if (rc < 0) {
                    return rc;
                }
            }
        }
    }
    return 0;
}

int generator_create(const char *only, struct generator **out_generator, struct error *err)
{
    struct generator *generator = calloc(1, sizeof(*generator));
    int rc = generator == NULL ? -ENOMEM : 0;
    for (int mode = 0; mode < 2 && rc == 0; mode++) {
        generator->only = only;
        generator->mode[mode].rows = calloc(x86_row_count, sizeof(struct row_templates));
        generator->mode[mode].drawn = calloc(x86_row_count, sizeof(uint32_t));
        if (generator->mode[mode].rows == NULL || generator->mode[mode].drawn == NULL) {
            rc = -ENOMEM;
            break;
        }
        for (unsigned opcode = 0; opcode < 256 && rc == 0; opcode++) {
            for (uint8_t map = 0; map < 4 && rc == 0; map++) {
                rc = templates_of_opcode(generator, mode, false, map, (uint8_t)opcode);
                if (map > 0 && rc == 0) {
                    rc = templates_of_opcode(generator, mode, true, map, (uint8_t)opcode);
                }
            }
        }
        struct generator_mode *m = &generator->mode[mode];
        for (size_t row = 0; row < x86_row_count; row++) {
            if (m->rows[row].count != 0) {
                m->drawn[m->drawn_count++] = (uint32_t)row;
            }
        }
    }
    if (rc == 0 && generator->mode[0].drawn_count == 0 && generator->mode[1].drawn_count == 0) {
        rc = -ENOENT;
    }
    if (rc < 0) {
        generator_destroy(generator);
        return error_set(err, -rc,
                         rc == -ENOMEM ? "no memory for the generator"
                                       : "no such instruction to test: %s",
                         only != NULL ? only : "");
    }
    *out_generator = generator;
    return 0;
}

void generator_destroy(struct generator *generator)
{
    if (generator == NULL) {
        return;
    }
    for (int mode = 0; mode < 2; mode++) {
        for (size_t row = 0; generator->mode[mode].rows != NULL && row < x86_row_count; row++) {
            free(generator->mode[mode].rows[row].item);
        }
        free(generator->mode[mode].rows);
        free(generator->mode[mode].drawn);
    }
    free(generator);
}

size_t generator_row_count(const struct generator *generator, bool is_32bit)
{
    return generator->mode[is_32bit].drawn_count;
}

const char *generator_why_not(const struct generator *generator, size_t row)
{
    if (generator->mode[0].rows[row].count != 0 || generator->mode[1].rows[row].count != 0) {
        return NULL;
    }
    const char *reason = exclude_reason(row);
    return reason != NULL ? reason : "no encoding found";
}

void generator_fill(uint64_t seed, uint64_t index, uint8_t *out_data, size_t size)
{
    struct random random = random_for(~seed, index);
    for (size_t i = 0; i + 32 <= size; i += 32) {
        state_random_vector(&random, out_data + i, 32);
    }
}

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

static size_t put_random_tail(struct random *random, uint8_t *bytes, size_t n)
{
    static const uint8_t edges[] = {0,    1,    2,    4,    7,    8,    0x0f,
                                    0x10, 0x1f, 0x20, 0x3f, 0x7f, 0x80, 0xff};
    for (int i = 0; i < 14; i++) {
        bytes[n++] = random_percent(random, 40) ? edges[random_below(random, sizeof(edges))]
                                                : (uint8_t)random_next(random);
    }
    return n;
}

/* Bytes for template 't' with random parts; they may decode to nothing. */
static void build_bytes(struct random *random, const struct template *t, bool is_32bit,
                        uint8_t bytes[64])
{
    size_t n = 0;
    if (random_percent(random, 4)) {
        bytes[n++] = is_32bit ? 0x3e : random_percent(random, 50) ? 0x64 : 0x65;
    }
    if (random_percent(random, 3)) {
        bytes[n++] = 0x67;
    }
    if (!t->is_vex && t->prefix != 0x66 && random_percent(random, 2)) {
        bytes[n++] = 0x66;
    }
    if (!t->is_vex && random_percent(random, 2)) {
        bytes[n++] = random_percent(random, 50) ? 0xf0 : random_percent(random, 50) ? 0xf2 : 0xf3;
    }
    uint8_t rxb = random_percent(random, 50) ? (uint8_t)random_below(random, 8) : 0;
    uint8_t vvvv = t->is_vex && random_percent(random, 70)
                       ? (uint8_t)random_below(random, is_32bit ? 8 : 16)
                       : 0;
    n += encode_opcode(t, rxb, vvvv, is_32bit, bytes + n);
    if (t->has_modrm) {
        uint8_t modrm = t->modrm;
        if (t->is_exact) {
            /* the register is part of the opcode */
        } else if (modrm >= 0xc0) {
            modrm |= (uint8_t)random_below(random, 8);
        } else {
            modrm |= (uint8_t)((random_below(random, 3) << 6) | random_below(random, 8));
        }
        bytes[n++] = modrm;
    }
    (void)put_random_tail(random, bytes, n);
}

struct branch {
    uint8_t offset, size; /* of the displacement within the instruction; size 0: no branch */
};

struct builder {
    struct random *random;
    struct case_input *out;
    uint32_t used;     /* registers that an earlier instruction wrote or addressed with */
    uint32_t pointers; /* registers set to form an address */
    uint64_t next_rip;
    struct branch branch[CASE_MAX_INSNS];
    uint32_t undefined; /* flags that nobody may read now */
};

static uint64_t insn_address_mask(const struct x86_insn *insn)
{
    return insn->address_bytes == 8 ? ~0ull : insn->address_bytes == 4 ? 0xffffffffull : 0xffff;
}

static uint64_t segment_base(const struct x86_insn *insn, bool is_32bit)
{
    if (is_32bit) {
        return 0;
    }
    return insn->segment == X86_FS ? CASE_FS_BASE : insn->segment == X86_GS ? CASE_GS_BASE : 0;
}

/* Makes the address of 'insn' be near what is mapped, as far as registers not yet spoken for allow it. */
static void aim_memory(struct builder *b, struct x86_insn *insn, uint8_t *bytes)
{
    struct case_input *out = b->out;
    struct random *random = b->random;
    unsigned size = 1;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_MEM) {
            size = insn->operand[i].size_bytes;
        }
    }
    uint64_t target = target_address(random, size) - segment_base(insn, out->is_32bit);
    uint64_t mask = insn_address_mask(insn);
    uint64_t index_part = 0;
    if (insn->index != X86_BASE_NONE && !insn->is_vsib) {
        uint32_t bit = 1u << insn->index;
        if ((b->used & bit) == 0 && insn->index != insn->base && random_percent(random, 90)) {
            uint64_t value = random_percent(random, 50)
                                 ? random_below(random, 64)
                                 : (uint64_t) - (int64_t)random_below(random, 64);
            out->state.gpr[insn->index] = out->is_32bit ? (uint32_t)value : value;
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
    if (insn->base == X86_BASE_RIP || (insn->base == X86_BASE_NONE && insn->disp_bytes >= 4)) {
        uint64_t disp = target - index_part;
        if (insn->base == X86_BASE_RIP) {
            disp = target - (b->next_rip + insn->length);
        }
        if (insn->disp_bytes == 8) {
            le64_put(bytes + insn->disp_offset, disp);
        } else if (insn->disp_bytes == 4) {
            le32_put(bytes + insn->disp_offset, (uint32_t)disp);
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
    out->state.gpr[insn->base] = out->is_32bit ? (uint32_t)base : base;
    b->used |= 1u << insn->base;
    b->pointers |= 1u << insn->base;
}

/* String instructions and others with implicit addresses and counts. */
static void aim_implicit(struct builder *b, const struct x86_insn *insn)
{
    struct case_input *out = b->out;
    if ((x86_rows[insn->row].attributes & X86_ROW_STRING) == 0) {
        return;
    }
    static const uint8_t pointers[] = {X86_RSI, X86_RDI};
    for (int i = 0; i < 2; i++) {
        uint32_t bit = 1u << pointers[i];
        if ((b->used & bit) == 0) {
            out->state.gpr[pointers[i]] = target_address(b->random, 16);
            b->used |= bit;
        }
    }
    if ((insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) != 0 &&
        (b->used & (1u << X86_RCX)) == 0 && random_percent(b->random, 90)) {
        out->state.gpr[X86_RCX] = random_below(b->random, 80);
        b->used |= 1u << X86_RCX;
    }
}

/* Where the displacement of a relative branch stands, for when the others are known. */
static void note_branch(struct builder *b, const struct x86_insn *insn)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_REL && insn->imm_bytes != 0) {
            b->branch[b->out->insn_count] = (struct branch){insn->imm_offset, insn->imm_bytes};
        }
    }
}

/* Relative branches go forward to another instruction of the case, or its end: nothing loops. */
static void aim_branches(struct builder *b)
{
    struct case_input *out = b->out;
    for (unsigned i = 0; i < out->insn_count; i++) {
        if (b->branch[i].size == 0) {
            continue;
        }
        unsigned to = i + 1 + random_below(b->random, out->insn_count - i);
        uint8_t *imm = out->code + out->insn_offset[i] + b->branch[i].offset;
        memset(imm, 0, b->branch[i].size);
        imm[0] = (uint8_t)(out->insn_offset[to] - out->insn_offset[i + 1]);
    }
}

static uint32_t written_registers(const struct x86_insn *insn)
{
    uint32_t mask = 0;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
            (operand->access & X86_OPERAND_WRITE) != 0) {
            mask |= 1u << (operand->reg & 15);
        }
    }
    return mask;
}

/* Single forms that CPUs of different vendors run differently. */
static bool differs_by_vendor(const struct x86_insn *insn, enum x86_code_size code_size,
                              bool has_alignment_check)
{
    /* LOOPE and LOOPNE with a repeat prefix: it may replace their own condition */
    if ((insn->id == X86_ID_LOOPE || insn->id == X86_ID_LOOPNE) &&
        (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) != 0) {
        return true;
    }
    /* ENTER with #AC in force: which of its accesses are checked */
    if (insn->id == X86_ID_ENTER && has_alignment_check) {
        return true;
    }
    /* SHA with unaligned memory: #GP or not */
    if (x86_rows[insn->row].feature == X86_FEATURE_SHA && insn->has_memory) {
        return true;
    }
    /* VPINSRD and VPEXTRD with VEX.W outside of 64-bit mode: ignored or #UD */
    return (insn->id == X86_ID_VPINSRD || insn->id == X86_ID_VPEXTRD) && code_size != X86_CODE_64 &&
           (insn->rex & 8) != 0;
}

/* Adds one instruction; false: the bytes were none, or would spoil the case. */
static bool add_insn(const struct generator *generator, struct builder *b)
{
    struct case_input *out = b->out;
    const struct generator_mode *mode = &generator->mode[out->is_32bit];
    uint32_t row = mode->drawn[random_below(b->random, mode->drawn_count)];
    const struct row_templates *templates = &mode->rows[row];
    const struct template *t = &templates->item[random_below(b->random, templates->count)];
    uint8_t bytes[64];
    build_bytes(b->random, t, out->is_32bit, bytes);
    enum x86_code_size code_size = out->is_32bit ? X86_CODE_32 : X86_CODE_64;
    struct x86_insn insn;
    if (x86_decode(bytes, X86_INSN_MAX_LENGTH, code_size, &insn) != X86_DECODE_OK ||
        exclude_reason(insn.row) != NULL) {
        return false;
    }
    if (out->is_32bit && insn.has_memory && (insn.segment == X86_FS || insn.segment == X86_GS)) {
        return false; /* null selectors */
    }
    const struct x86_row *entry = &x86_rows[insn.row];
    if (differs_by_vendor(&insn, code_size, (out->state.rflags & X86_FLAG_AC) != 0)) {
        return false;
    }
    if ((entry->flags_read & b->undefined) != 0) {
        return false;
    }
    uint32_t written = written_registers(&insn);
    if (out->insn_count > 0 && (written & b->pointers) != 0 && random_percent(b->random, 70)) {
        return false;
    }
    if (insn.has_memory) {
        aim_memory(b, &insn, bytes);
    }
    aim_implicit(b, &insn);
    note_branch(b, &insn);
    b->used |= written;
    b->undefined |= entry->flags_undefined & X86_FLAGS_STATUS;
    out->insn_offset[out->insn_count++] = (uint8_t)out->code_size;
    memcpy(out->code + out->code_size, bytes, insn.length);
    out->code_size = (uint16_t)(out->code_size + insn.length);
    b->next_rip += insn.length;
    return true;
}

void generator_make(const struct generator *generator, uint64_t seed, uint64_t index,
                    struct case_input *out_case)
{
    struct random random = random_for(seed, index);
    memset(out_case, 0, offsetof(struct case_input, code));
    out_case->is_32bit = generator->mode[1].drawn_count != 0 &&
                         (generator->mode[0].drawn_count == 0 || random_percent(&random, 20));
    state_random(&random, out_case->is_32bit, &out_case->state);

    uint32_t wanted = random_percent(&random, 50) ? 1 : 1 + random_below(&random, CASE_MAX_INSNS);
    uint64_t rip = CASE_CODE_BASE + random_below(&random, CASE_CODE_SIZE - 2 * CASE_MAX_CODE);
    struct builder b = {
        .random = &random,
        .out = out_case,
        .used = 1u << X86_RSP,
        .next_rip = rip,
    };
    for (uint32_t tries = 0; out_case->insn_count < wanted && tries < 200; tries++) {
        (void)add_insn(generator, &b);
    }
    out_case->insn_offset[out_case->insn_count] = (uint8_t)out_case->code_size;
    aim_branches(&b);
    out_case->code[out_case->code_size++] = 0x0f; /* ud2: the end marker */
    out_case->code[out_case->code_size++] = 0x0b;
    if (random_percent(&random, 2)) {
        /* The code runs into the end of its page. RIP-relative operands move along, which is as good. */
        uint32_t inside = 1 + random_below(&random, out_case->code_size - 1);
        rip = CASE_CODE_BASE + CASE_CODE_SIZE - inside;
        out_case->code_size = (uint16_t)inside;
    }
    out_case->state.rip = rip;
}
