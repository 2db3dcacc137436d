/* The encodings that cases are made of, found by trying all opcodes on the decoder. */
#ifndef DIFFERENTIAL_TEMPLATE_H
#define DIFFERENTIAL_TEMPLATE_H

#include "generate.h"
#include "random.h"

/* What an encoding is apart from its random parts. */
struct template
{
    uint8_t map, opcode, prefix, modrm;
    bool is_vex, w, l, has_modrm, is_exact;
};

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
    struct generator_mode mode[3]; /* by enum x86_code_size */
    const char *only;
};

/* Enough for any instruction and what follows it. */
#define TEMPLATE_BYTES 64

/* Bytes for 't' with random parts; they may decode to nothing. */
void template_bytes(struct random *random, const struct template *t, enum x86_code_size code_size,
                    uint8_t out_bytes[TEMPLATE_BYTES]);

/* Bytes that are likely to be no instruction: those of 't' with a few changes, or an escape and anything. */
void template_spoil(struct random *random, const struct template *t, enum x86_code_size code_size,
                    uint8_t out_bytes[TEMPLATE_BYTES]);

#endif
