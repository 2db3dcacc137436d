/* Random states of a case. */
#include "state.h"

#include <string.h>

#include "base/core/compiler.h"
#include "base/core/endian.h"
#include "cpu/x86/state.h"

static const uint64_t edge_integers[] = {
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xffffffffffffffff,
    0xfffffffffffffffe,
    0xffffffff80000000,
    0xffffffff7fffffff,
    0xffffffffffff8000,
    0xffffffffffffff80,
    0xffff800000000000,
    0x0000800000000000,
    0x5555555555555555,
    0xaaaaaaaaaaaaaaaa,
    0x0101010101010101,
    0x00000000ffff0000,
    0x9999999999999999,
};

uint64_t state_random_gpr(struct random *random)
{
    switch (random_below(random, 10)) {
    case 0:
    case 1:
    case 2:
        return random_next(random);
    case 3:
        return (uint32_t)random_next(random);
    case 4:
        return (uint64_t)(int64_t)(int32_t)random_next(random);
    case 5:
        return random_below(random, 256);
    case 6:
        return CASE_DATA_BASE + random_below(random, CASE_DATA_SIZE);
    default:
        return edge_integers[random_below(random, ARRAY_COUNT(edge_integers))];
    }
}

static const uint32_t edge_floats[] = {
    0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
    0xffc00000, 0x7f800001, 0xffa00000, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff,
    0x4f000000, 0xcf000000, 0x5f000000, 0x4effffff, 0x40490fdb, 0x3f000000, 0x3fc00000,
};

static const uint64_t edge_doubles[] = {
    0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
    0x7ff0000000000000, 0xfff0000000000000, 0x7ff8000000000000, 0xfff8000000000000,
    0x7ff0000000000001, 0xfff4000000000000, 0x0000000000000001, 0x800fffffffffffff,
    0x0010000000000000, 0x7fefffffffffffff, 0x41e0000000000000, 0xc1e0000000000000,
    0x43e0000000000000, 0x41dfffffffc00000, 0x400921fb54442d18, 0x3fe0000000000000,
    0x36a0000000000000, 0x47efffffe0000000, 0x3ff8000000000000, 0xb690000000000000,
};

/* 80-bit: significand, then sign and exponent. Pseudo-denormals, unnormals and other invalid forms included. */
static const struct {
    uint64_t significand;
    uint16_t exponent;
} edge_extended[] = {
    {0, 0},
    {0, 0x8000},
    {0x8000000000000000, 0x3fff},
    {0x8000000000000000, 0xbfff},
    {0x8000000000000000, 0x7fff},
    {0x8000000000000000, 0xffff},
    {0xc000000000000000, 0x7fff},
    {0xc000000000000000, 0xffff},
    {0xa000000000000000, 0x7fff},
    {0x0000000000000000, 0x7fff},
    {1, 0},
    {0x8000000000000000, 0},
    {0x4000000000000000, 0x3fff},
    {0, 0x3fff},
    {0xffffffffffffffff, 0x7ffe},
    {0x8000000000000000, 1},
    {0xc90fdaa22168c235, 0x4000},
    {0x8000000000000000, 0x403e},
    {0x8000000000000000, 0xc03e},
    {0xde0b6b3a763fffff, 0x403a},
    {0x8000000000000000, 0x3ffe},
    {0xc000000000000000, 0xbffe},
};

void state_random_vector(struct random *random, void *out_bytes, size_t size)
{
    uint8_t *bytes = out_bytes;
    uint32_t kind = random_below(random, 4);
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t value = random_next(random);
        if (kind == 1) {
            if (random_percent(random, 70)) {
                value = edge_doubles[value % ARRAY_COUNT(edge_doubles)];
            } else {
                /* Exponents near each other, so that sums and products are not all trivial. */
                value = (value & 0x800fffffffffffff) |
                        ((uint64_t)(0x3f0 + random_below(random, 0x20)) << 52);
            }
        } else if (kind == 2) {
            uint32_t low = edge_floats[(uint32_t)value % ARRAY_COUNT(edge_floats)];
            uint32_t high = edge_floats[(value >> 32) % ARRAY_COUNT(edge_floats)];
            if (random_percent(random, 30)) {
                low = ((uint32_t)value & 0x807fffff) | ((0x70 + random_below(random, 0x20)) << 23);
            }
            value = low | ((uint64_t)high << 32);
        } else if (kind == 3) {
            value = edge_integers[value % ARRAY_COUNT(edge_integers)];
        }
        le64_put(bytes + i, value);
    }
}

static void random_x87(struct random *random, uint8_t *legacy)
{
    static const uint16_t precisions[] = {0x000, 0x200, 0x300, 0x300};
    uint16_t control = 0x37f;
    uint16_t status = 0;
    uint8_t tags = 0;
    if (random_percent(random, 50)) {
        control = (uint16_t)(0x40 | precisions[random_below(random, 4)] |
                             (random_below(random, 4) << 10) |
                             (random_percent(random, 25) ? random_below(random, 64) : 0x3f));
    }
    if (random_percent(random, 70)) {
        status = (uint16_t)((random_below(random, 8) << 11) |
                            (random_next(random) & 0x4700)); /* TOP and condition codes */
        tags = random_percent(random, 50) ? 0xff : (uint8_t)random_next(random);
    }
    if (random_percent(random, 15)) {
        status |= (uint16_t)random_below(random, 128);
        /* ES and B follow from the flags and masks. */
        if ((status & ~control & 0x3f) != 0) {
            status |= 0x8080;
        }
    }
    le16_put(legacy, control);
    le16_put(legacy + 2, status);
    legacy[4] = tags;
    for (int i = 0; i < 8; i++) {
        uint8_t *st = legacy + 32 + i * 16;
        uint64_t significand = random_next(random);
        uint16_t exponent = (uint16_t)random_next(random);
        switch (random_below(random, 4)) {
        case 0: {
            uint32_t edge = random_below(random, ARRAY_COUNT(edge_extended));
            significand = edge_extended[edge].significand;
            exponent = edge_extended[edge].exponent;
            break;
        }
        case 1:
            significand |= 0x8000000000000000;
            exponent = (uint16_t)((exponent & 0x8000) | (0x3fe0 + random_below(random, 0x60)));
            break;
        case 2: /* small integers and their like */
            significand = (random_next(random) << 48) | 0x8000000000000000;
            exponent = (uint16_t)((exponent & 0x8000) | (0x3fff + random_below(random, 16)));
            break;
        default: /* as after MMX */
            exponent = random_percent(random, 50) ? 0xffff : exponent;
            break;
        }
        le64_put(st, significand);
        le16_put(st + 8, exponent);
    }
}

void state_random(struct random *random, bool is_32bit, struct case_state *out_state)
{
    memset(out_state, 0, sizeof(*out_state));
    for (int i = 0; i < 16; i++) {
        uint64_t value = state_random_gpr(random);
        out_state->gpr[i] = is_32bit ? (i < 8 ? (uint32_t)value : 0) : value;
    }
    /* A stack in the middle of the data pages. */
    out_state->gpr[X86_RSP] = CASE_DATA_BASE + 0x1000 + random_below(random, 512) * 8 - 2048 +
                              (random_percent(random, 5) ? random_below(random, 8) : 0);
    out_state->rflags = X86_FLAG_ONE | X86_FLAG_IF | (random_next(random) & X86_FLAGS_STATUS) |
                        (random_percent(random, 20) ? X86_FLAG_DF : 0) |
                        (random_percent(random, 2) ? X86_FLAG_AC : 0) |
                        (random_percent(random, 1) ? X86_FLAG_TF : 0);

    uint8_t *legacy = out_state->xsave;
    random_x87(random, legacy);
    uint32_t mxcsr = 0x1f80;
    if (random_percent(random, 40)) {
        mxcsr = (uint32_t)random_next(random) & 0xe07f;
        mxcsr |= random_percent(random, 30) ? (uint32_t)random_next(random) & 0x1f80 : 0x1f80;
    }
    le32_put(legacy + 24, mxcsr);
    le32_put(legacy + 28, 0xffff);
    for (int i = 0; i < 16; i++) {
        state_random_vector(random, legacy + 160 + i * 16, 16);
        state_random_vector(random, legacy + X86_XSAVE_AVX_OFFSET + i * 16, 16);
    }
    if (is_32bit) {
        /* Registers 8..15 are out of reach. */
        memset(legacy + 160 + 128, 0, 128);
        memset(legacy + X86_XSAVE_AVX_OFFSET + 128, 0, 128);
    }
    le64_put(legacy + X86_XSAVE_HEADER, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}
