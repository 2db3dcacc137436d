/* Explicit cases: instructions and the registers that matter. Titles with an order of things tell that of CPUs of AMD. */
#include "known.h"

#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode.h"
#include "state.h"

#define FLAT32 X86_CODE_32, CASE_SELECTOR_CODE32, CASE_SELECTOR_DATA, CASE_SELECTOR_DATA
#define FLAT64 X86_CODE_64, CASE_SELECTOR_CODE64, CASE_SELECTOR_DATA, CASE_SELECTOR_DATA
/* By the LDT entries of the stack and of DS and ES. */
#define SEGMENT16(stack, data)                                                                     \
    X86_CODE_16, CASE_LDT_SELECTOR(CASE_LDT_CODE16), CASE_LDT_SELECTOR(CASE_LDT_##stack),          \
        CASE_LDT_SELECTOR(CASE_LDT_##data)
#define SEGMENT32(stack, data)                                                                     \
    X86_CODE_32, CASE_LDT_SELECTOR(CASE_LDT_CODE32), CASE_LDT_SELECTOR(CASE_LDT_##stack),          \
        CASE_LDT_SELECTOR(CASE_LDT_##data)
#define BYTES(...) .size = sizeof((const uint8_t[]){__VA_ARGS__}), .code = {__VA_ARGS__}

struct known_register {
    uint8_t number;
    uint64_t value;
    bool is_set;
};

#define SET(register, content)                                                                     \
    {                                                                                              \
        X86_##register, (content), true                                                            \
    }

static const struct {
    const char *title;
    uint8_t code_size;
    uint16_t cs, ss, data;
    uint8_t size;
    uint8_t code[15];
    struct known_register reg[4];
    uint64_t flags;       /* set beside the random ones */
    uint16_t code_offset; /* 0: any */
} known[] = {
    {"maskmovdqu: the first half faults before the second leaves the segment", FLAT32,
     BYTES(0x66, 0x0f, 0xf7, 0xfa), .reg = {SET(RDI, 0xfffffff4)}},
    {"maskmovdqu beyond the limit with its first half", FLAT32, BYTES(0x66, 0x0f, 0xf7, 0xfa),
     .reg = {SET(RDI, 0xfffffff9)}},
    {"maskmovq", FLAT32, BYTES(0x0f, 0xf7, 0xfa), .reg = {SET(RDI, 0xfffffff8)}},
    {"vmaskmovdqu at the end of the canonical addresses", FLAT64, BYTES(0xc5, 0xf9, 0xf7, 0xfa),
     .reg = {SET(RDI, 0x7ffffffffff8)}},
    {"bound: the lower bound faults before the upper one leaves the segment", FLAT32,
     BYTES(0x62, 0x30), .reg = {SET(RAX, 0xfffffff9)}},
    {"bound of 16 bits", FLAT32, BYTES(0x66, 0x62, 0x30), .reg = {SET(RAX, 0xfffffffe)}},
    {"fbld in two parts", FLAT32, BYTES(0xdf, 0x20), .reg = {SET(RAX, 0xfffffff8)}},
    {"fbstp in two parts", FLAT32, BYTES(0xdf, 0x30), .reg = {SET(RAX, 0xfffffff8)}},
    {"fstp of 80 bits in two parts", SEGMENT16(DATA16, DATA16), BYTES(0xdb, 0x38, 0x90, 0x90),
     .reg = {SET(RBX, 0xfff8), SET(RSI, 0)}},
    {"fld of 80 bits in two parts", SEGMENT16(DATA16, CODE16), BYTES(0xdb, 0x28),
     .reg = {SET(RBX, 0xfff8), SET(RSI, 0)}},
    {"comiss across the end of the canonical addresses, which comes before alignment", FLAT64,
     BYTES(0x0f, 0x2f, 0x01), .reg = {SET(RCX, 0x7fffffffffff)}, .flags = X86_FLAG_AC},
    {"mov across the end of the canonical addresses, which comes before alignment", FLAT64,
     BYTES(0x48, 0x8b, 0x01), .reg = {SET(RCX, 0x7ffffffffffd)}, .flags = X86_FLAG_AC},
    {"mov to across the end of the canonical addresses, which comes before alignment", FLAT64,
     BYTES(0x66, 0x89, 0x01), .reg = {SET(RCX, 0x7fffffffffff)}, .flags = X86_FLAG_AC},
    {"gather: an offset that is not canonical, with GS", FLAT64,
     BYTES(0x65, 0xc4, 0x02, 0x7d, 0x91, 0x84, 0x0f, 0, 0, 0, 0),
     .reg = {SET(R15, 0x8000000000000000)}},
    {"fst across the end of the canonical addresses", FLAT64, BYTES(0xd9, 0x11),
     .reg = {SET(RCX, 0x7fffffffffff)}},
    {"code across the segment's limit", SEGMENT32(DATA16, DATA16), BYTES(0x0f, 0x64, 0xc0),
     .code_offset = 0xffe},
    {"a step to behind the segment's limit", SEGMENT32(DATA16, DATA16), BYTES(0x66, 0x90),
     .flags = X86_FLAG_TF, .code_offset = 0xffe},
    {"code ends at the segment's limit", SEGMENT32(DATA16, DATA16), BYTES(0x66, 0x9d),
     .code_offset = 0xffe},
    {"movmskps in 16-bit code", SEGMENT16(DATA16, DATA16), BYTES(0x0f, 0x50, 0xc3)},
    {"pextrw in 16-bit code", SEGMENT16(DATA16, DATA16), BYTES(0x0f, 0xc5, 0xc0, 0x01)},
    {"movd in 16-bit code", SEGMENT16(DATA16, DATA16), BYTES(0x0f, 0x6e, 0xf9)},
    {"pinsrw in 16-bit code", SEGMENT16(DATA16, DATA16), BYTES(0x0f, 0xc4, 0xfc, 0x88)},
    {"arpl that changes nothing writes nothing", FLAT32, BYTES(0x2e, 0x63, 0x18),
     .reg = {SET(RAX, CASE_CODE_BASE), SET(RBX, 0)}},
    {"arpl reads before it writes", SEGMENT16(DATA16, CODE16), BYTES(0x63, 0x1e, 0xa0, 0x1c)},
    {"rep movsb: the source faults before the destination leaves its segment",
     SEGMENT16(DATA16, DOWN32), BYTES(0x2e, 0xf3, 0xa4),
     .reg = {SET(RSI, 0xffe4), SET(RDI, 0x10), SET(RCX, 5)}},
    {"enter keeps the upper half of ESP", SEGMENT16(DATA16, DATA16),
     BYTES(0x66, 0xc8, 0x1f, 0x08, 0x03), .reg = {SET(RSP, 0x601c00), SET(RBP, 0x1701c00)}},
    {"vpmaskmovq: the top bit of VEX.vvvv is ignored", FLAT32, BYTES(0xc4, 0xe2, 0xb5, 0x8e, 0x08),
     .reg = {SET(RAX, CASE_DATA_BASE + 0x100)}},
    {"gather: a fault has cleared the mask before it", FLAT64,
     BYTES(0xc4, 0x82, 0xed, 0x92, 0x64, 0x40, 0xb8), .reg = {SET(R8, 0x10000017)}},
    {"fxrstor: alignment before the limit of the rest", SEGMENT16(DATA16, CODE32),
     BYTES(0x0f, 0xae, 0x0f), .reg = {SET(RBX, 0xfce)}, .flags = X86_FLAG_AC},
    {"fxrstor: the limit of its start before alignment", SEGMENT32(DATA16, CODE32),
     BYTES(0x0f, 0xae, 0x08), .reg = {SET(RAX, 0x10ce)}, .flags = X86_FLAG_AC},
    {"fxsave: alignment before the segment's type", FLAT32, BYTES(0x2e, 0x0f, 0xae, 0x00),
     .reg = {SET(RAX, CASE_DATA_BASE + 2)}, .flags = X86_FLAG_AC},
    {"xsave: the AVX component leaves the segment", SEGMENT32(DATA16, CODE32),
     BYTES(0x36, 0x0f, 0xae, 0x20), .reg = {SET(RAX, 0xfd00), SET(RDX, 0)}},
    {"pushes: the second one faults, and RSP is that behind the first", FLAT64,
     BYTES(0x50, 0x51, 0x52, 0x41, 0x55), .reg = {SET(RSP, CASE_DATA_BASE + 8)}},
    {"pushes with moves between them: the third one faults", FLAT64,
     BYTES(0x50, 0x89, 0xf1, 0x41, 0x54, 0x8d, 0x47, 0x07, 0x53),
     .reg = {SET(RSP, CASE_DATA_BASE + 16)}},
    {"pops: the third one faults, and RSP is that behind the second", FLAT64,
     BYTES(0x58, 0x41, 0x5d, 0x59, 0x5a), .reg = {SET(RSP, CASE_DATA_BASE + CASE_DATA_SIZE - 16)}},
    {"pops: the return faults", FLAT64, BYTES(0x58, 0x59, 0xc3),
     .reg = {SET(RSP, CASE_DATA_BASE + CASE_DATA_SIZE - 16)}},
    {"fld that faults leaves FIP at the instruction before", FLAT64,
     BYTES(0xd9, 0xe8, 0xd9, 0x00, 0x90), .reg = {SET(RAX, CASE_DATA_BASE + 2 * CASE_DATA_SIZE)}},
    {"rep cmpsb: the flags when its second page faults", FLAT64, BYTES(0x31, 0xd2, 0xf3, 0xa6),
     .reg = {SET(RSI, CASE_DATA_BASE - 2 + CASE_DATA_SIZE + CASE_CONST_SIZE),
             SET(RDI, CASE_DATA_BASE - 2 + CASE_DATA_SIZE + CASE_CONST_SIZE), SET(RCX, 8)}},
    {"call: the target is not canonical", FLAT64, BYTES(0xff, 0xd0), .reg = {SET(RAX, 1ull << 47)}},
    {"call with 66", FLAT64, BYTES(0x66, 0xe8, 0, 0, 0, 0)},
    {"an unmasked exception stores nothing, not even to a page that is not there", FLAT64,
     BYTES(0xdb, 0xe3, 0xd9, 0x2c, 0x24, 0xd9, 0x18),
     .reg = {SET(RSP, CASE_DATA_BASE + 0x800), SET(RAX, CASE_DATA_BASE + 2 * CASE_DATA_SIZE)}},
    {"ldmxcsr with the bit for unaligned operands", FLAT64, BYTES(0x0f, 0xae, 0x10),
     .reg = {SET(RAX, CASE_DATA_BASE + CASE_DATA_SIZE)}},
};

const size_t known_count = ARRAY_COUNT(known);

const char *known_make(size_t index, uint64_t seed, struct case_input *out_case)
{
    struct random random = random_for(seed, index);
    memset(out_case, 0, sizeof(*out_case));
    out_case->code_size = known[index].code_size;
    out_case->cs = known[index].cs;
    out_case->ss = known[index].ss;
    out_case->ds = out_case->es = known[index].data;
    state_random(&random, out_case->code_size != X86_CODE_64, &out_case->state);
    struct case_state *state = &out_case->state;
    state->gpr[X86_RSP] -= case_segment_base(out_case->ss);
    for (size_t i = 0; i < ARRAY_COUNT(known[index].reg); i++) {
        const struct known_register *reg = &known[index].reg[i];
        if (reg->is_set) {
            state->gpr[reg->number] = reg->value;
        }
    }
    state->rflags = (state->rflags & ~(uint64_t)X86_FLAG_AC) | known[index].flags;
    out_case->code_offset = known[index].code_offset != 0 ? known[index].code_offset : 0x100;
    uint64_t base = (out_case->cs & 4) != 0 ? 0 : CASE_CODE_BASE;
    state->rip = base + out_case->code_offset;
    out_case->insn_count = 1;
    out_case->insn_offset[1] = known[index].size;
    memcpy(out_case->code, known[index].code, known[index].size);
    memcpy(out_case->code + known[index].size, "\x0f\x0b", 2);
    uint32_t room = CASE_CODE_SIZE - out_case->code_offset;
    uint32_t wanted = known[index].size + 2u;
    out_case->code_bytes = (uint16_t)(wanted < room ? wanted : room);
    return known[index].title;
}
