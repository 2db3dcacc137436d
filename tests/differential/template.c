/* The encodings of the instruction table, and bytes made from them. */
#include "template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exclude.h"

#define TEMPLATES_PER_ROW 48

static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};

static size_t encode_opcode(const struct template *t, uint8_t rex_rxb, uint8_t vvvv, bool is_64bit,
                            uint8_t *out)
{
    size_t n = 0;
    if (t->is_vex) {
        uint8_t pp = t->prefix == 0x66 ? 1 : t->prefix == 0xf3 ? 2 : t->prefix == 0xf2 ? 3 : 0;
        uint8_t third = (uint8_t)((t->w ? 0x80 : 0) | ((vvvv ^ 0xf) << 3) | (t->l ? 4 : 0) | pp);
        if (!is_64bit) {
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
        if (is_64bit && (t->w || rex_rxb != 0)) {
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

/* Decodes the encoding with any registers. Gathers want three different ones and a SIB byte. */
static bool template_decode(enum x86_code_size code_size, struct template *t,
                            struct x86_insn *out_insn)
{
    bool is_64bit = code_size == X86_CODE_64;
    uint8_t bytes[40] = {0};
    size_t n = encode_opcode(t, 0, 0, is_64bit, bytes);
    bytes[n] = t->modrm;
    if (case_decode(bytes, X86_INSN_MAX_LENGTH, code_size, out_insn) == X86_DECODE_OK) {
        return true;
    }
    if (!t->is_vex || t->modrm >= 0xc0) {
        return false;
    }
    bytes[0] = 0x67; /* 16-bit addresses have no SIB byte */
    n = code_size == X86_CODE_16;
    n += encode_opcode(t, 0, 3 ^ ((t->modrm >> 3) & 7), is_64bit, bytes + n);
    t->modrm |= 4;
    bytes[n++] = t->modrm;
    bytes[n] = (uint8_t)((5 ^ ((t->modrm >> 3) & 7)) << 3); /* index */
    return case_decode(bytes, X86_INSN_MAX_LENGTH, code_size, out_insn) == X86_DECODE_OK &&
           out_insn->is_vsib;
}

static int template_add(struct generator *generator, enum x86_code_size code_size,
                        const struct template *candidate)
{
    struct template found = *candidate, *t = &found;
    struct x86_insn insn;
    if (!template_decode(code_size, t, &insn) || exclude_reason(insn.row) != NULL) {
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
    struct row_templates *row = &generator->mode[code_size].rows[insn.row];
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

static int templates_of_opcode(struct generator *generator, enum x86_code_size code_size,
                               bool is_vex, uint8_t map, uint8_t opcode)
{
    bool is_exact = !is_vex && ((map == 0 && opcode >= 0xd8 && opcode <= 0xdf) ||
                                (map == 1 && (opcode == 0x01 || opcode == 0x1e)));
    for (unsigned prefix = 0; prefix < 4; prefix++) {
        for (unsigned wl = 0; wl < (is_vex ? 4u : code_size != X86_CODE_64 ? 1u : 2u); wl++) {
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
                int rc = template_add(generator, code_size, &t);
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
    for (int mode = 0; mode < 3 && rc == 0; mode++) {
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
    if (rc == 0 && generator->mode[X86_CODE_64].drawn_count == 0 &&
        generator->mode[X86_CODE_32].drawn_count == 0) {
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
    for (int mode = 0; mode < 3; mode++) {
        for (size_t row = 0; generator->mode[mode].rows != NULL && row < x86_row_count; row++) {
            free(generator->mode[mode].rows[row].item);
        }
        free(generator->mode[mode].rows);
        free(generator->mode[mode].drawn);
    }
    free(generator);
}

const char *generator_why_not(const struct generator *generator, size_t row)
{
    if (generator->mode[X86_CODE_64].rows[row].count != 0 ||
        generator->mode[X86_CODE_32].rows[row].count != 0) {
        return NULL;
    }
    const char *reason = exclude_reason(row);
    return reason != NULL ? reason : "no encoding found";
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

void template_bytes(struct random *random, const struct template *t, enum x86_code_size code_size,
                    uint8_t bytes[TEMPLATE_BYTES])
{
    size_t n = 0;
    bool is_64bit = code_size == X86_CODE_64;
    if (random_percent(random, is_64bit ? 4 : 12)) {
        static const uint8_t overrides[] = {0x64, 0x65, 0x3e, 0x3e, 0x36, 0x36, 0x26, 0x26, 0x2e};
        bytes[n++] = overrides[random_below(random, is_64bit ? 2 : sizeof(overrides))];
    }
    if (random_percent(random, code_size == X86_CODE_16 ? 30 : 3)) {
        bytes[n++] = 0x67;
    }
    if (!t->is_vex && t->prefix != 0x66 &&
        random_percent(random, code_size == X86_CODE_16 ? 30 : 2)) {
        bytes[n++] = 0x66;
    }
    if (!t->is_vex && random_percent(random, 2)) {
        bytes[n++] = random_percent(random, 50) ? 0xf0 : random_percent(random, 50) ? 0xf2 : 0xf3;
    }
    uint8_t rxb = random_percent(random, 50) ? (uint8_t)random_below(random, 8) : 0;
    uint8_t vvvv = t->is_vex && random_percent(random, 70)
                       ? (uint8_t)random_below(random, is_64bit ? 16 : 8)
                       : 0;
    n += encode_opcode(t, rxb, vvvv, is_64bit, bytes + n);
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

static size_t put_random_escape(struct random *random, uint8_t *bytes)
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e};
    size_t n = 0;
    while (random_percent(random, 30) && n < 4) {
        bytes[n++] = prefixes[random_below(random, sizeof(prefixes))];
    }
    if (random_percent(random, 20)) {
        bytes[n++] = (uint8_t)(0x40 | random_below(random, 16));
    }
    switch (random_below(random, 8)) {
    case 0:
        bytes[n++] = 0xc5;
        bytes[n++] = (uint8_t)random_next(random);
        break;
    case 1:
    case 2:
        bytes[n++] = 0xc4;
        bytes[n++] = (uint8_t)((random_next(random) & 0xe0) | random_below(random, 5));
        bytes[n++] = (uint8_t)random_next(random);
        break;
    case 3:
    case 4:
        bytes[n++] = 0x0f;
        break;
    case 5:
        bytes[n++] = 0x0f;
        bytes[n++] = random_percent(random, 50) ? 0x38 : 0x3a;
        break;
    default:
        break;
    }
    return n;
}

void template_spoil(struct random *random, const struct template *t, enum x86_code_size code_size,
                    uint8_t bytes[TEMPLATE_BYTES])
{
    switch (random_below(random, 4)) {
    case 0: {
        size_t n = put_random_escape(random, bytes);
        (void)put_random_tail(random, bytes, n);
        bytes[n] = (uint8_t)random_next(random);
        bytes[n + 1] = (uint8_t)random_next(random);
        break;
    }
    case 1: { /* a prefix too many, up to more than an instruction may have */
        static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x40, 0x48};
        uint8_t prefix = prefixes[random_below(random, sizeof(prefixes))];
        uint32_t count = random_percent(random, 70) ? 1 : 1 + random_below(random, 14);
        uint8_t rest[TEMPLATE_BYTES];
        template_bytes(random, t, code_size, rest);
        memset(bytes, prefix, count);
        memcpy(bytes + count, rest, TEMPLATE_BYTES - count);
        break;
    }
    default:
        template_bytes(random, t, code_size, bytes);
        for (uint32_t i = 1 + random_below(random, 2); i != 0; i--) {
            bytes[random_below(random, 5)] ^= (uint8_t)(1u << random_below(random, 8));
        }
        break;
    }
}
