/* Cases from the instruction table: a row at random, one of its encodings, and random registers, displacements and
 * immediates; some cases have bytes that are no instruction. Registers that form addresses are set so that most accesses hit
 * the data pages. */
#include "generate.h"

#include <stddef.h>
#include <string.h>

#include "aim.h"
#include "base/core/endian.h"
#include "exclude.h"
#include "state.h"
#include "template.h"

void generator_fill(uint64_t seed, uint64_t index, uint8_t *out_data, size_t size)
{
    struct random random = random_for(~seed, index);
    for (size_t i = 0; i + 32 <= size; i += 32) {
        state_random_vector(&random, out_data + i, 32);
    }
    if (size < CASE_XSAVE_OFFSET + CASE_XSAVE_SIZE) {
        return;
    }
    uint8_t *area = out_data + CASE_XSAVE_OFFSET;
    uint64_t present = random_below(&random, 8);
    memset(area + X86_XSAVE_HEADER, 0, 64);
    le64_put(area + X86_XSAVE_HEADER, present);
    if (random_percent(&random, 40)) {
        le64_put(area + X86_XSAVE_HEADER + 8, 1ull << 63 | present | random_below(&random, 8));
    }
    le32_put(area + 24, (uint32_t)random_next(&random) & 0xffff);
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
    uint32_t mask = insn->id == X86_ID_POPA ? 0xff : 0;
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
    /* Repeated string instructions with 32-bit addresses: upper halves of registers before the first element is done */
    if ((x86_rows[insn->row].attributes & X86_ROW_STRING) && insn->address_bytes == 4 &&
        code_size == X86_CODE_64 && (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) &&
        case_host_is_intel()) {
        return true;
    }
    /* SSE4A, which CPUs of Intel do not have: whether its immediates are fetched before #UD */
    if (x86_rows[insn->row].feature == X86_FEATURE_SSE4A && case_host_is_intel()) {
        return true;
    }
    /* MOVSXD to 16 bits: 16 bits are read or 32 */
    if (insn->id == X86_ID_MOVSXD && insn->operand_bytes == 2 && insn->has_memory &&
        case_host_is_intel()) {
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

/* With that many prefixes bytes may be undefined and too long at once: which comes first is the model's choice. */
#define MAX_PREFIXES 3

static unsigned prefix_count(const uint8_t *bytes)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26,
                                       0x2e, 0x36, 0x3e, 0x64, 0x65};
    unsigned n = 0;
    while (n < X86_INSN_MAX_LENGTH &&
           (memchr(prefixes, bytes[n], sizeof(prefixes)) != NULL || (bytes[n] & 0xf0) == 0x40)) {
        n++;
    }
    return n;
}

/* What the host's CPU may take for an instruction though the decoder does not: it ends the case, if anything does. */
static bool add_undefined(struct builder *b, const uint8_t *bytes, enum x86_decode_status status)
{
    struct case_input *out = b->out;
    if (status == X86_DECODE_UNDEFINED &&
        (prefix_count(bytes) > MAX_PREFIXES || exclude_undefined(bytes, out->code_size) != NULL)) {
        return false;
    }
    /* To CPUs of Intel what is too long may be undefined before that, as they do not have it. */
    if (status == X86_DECODE_TOO_LONG && case_host_is_intel() &&
        prefix_count(bytes) > MAX_PREFIXES) {
        return false;
    }
    out->insn_offset[out->insn_count++] = (uint8_t)out->code_bytes;
    memcpy(out->code + out->code_bytes, bytes, X86_INSN_MAX_LENGTH);
    out->code_bytes += X86_INSN_MAX_LENGTH;
    b->is_over = true;
    return true;
}

static bool add_decoded(struct builder *b, struct x86_insn *insn, uint8_t *bytes)
{
    struct case_input *out = b->out;
    const struct x86_row *entry = &x86_rows[insn->row];
    if (exclude_reason(insn->row) != NULL ||
        differs_by_vendor(insn, out->code_size, (out->state.rflags & X86_FLAG_AC) != 0) ||
        (entry->flags_read & b->undefined) != 0) {
        return false;
    }
    uint32_t written = written_registers(insn);
    if (out->insn_count > 0 && (written & b->pointers) != 0 && random_percent(b->random, 70)) {
        return false;
    }
    if (aim_is_xsave(insn)) {
        /* The host may have more components than guests: none of them is asked for. */
        const uint32_t mask_registers = 1u << X86_RAX | 1u << X86_RDX;
        if ((b->used & mask_registers) != 0) {
            return false;
        }
        out->state.gpr[X86_RAX] = random_below(b->random, 8);
        out->state.gpr[X86_RDX] = 0;
        b->used |= mask_registers;
    }
    if (insn->has_memory) {
        aim_memory(b, insn, bytes);
    }
    aim_implicit(b, insn);
    note_branch(b, insn);
    b->used |= written;
    b->undefined |= entry->flags_undefined & X86_FLAGS_STATUS;
    out->insn_offset[out->insn_count++] = (uint8_t)out->code_bytes;
    memcpy(out->code + out->code_bytes, bytes, insn->length);
    out->code_bytes = (uint16_t)(out->code_bytes + insn->length);
    b->next_rip += insn->length;
    /* Which bits MXCSR has differs: nobody reads the image afterwards. */
    b->is_over = insn->id == X86_ID_FXSAVE || (aim_is_xsave(insn) && insn->id != X86_ID_XRSTOR);
    return true;
}

/* Adds one instruction; false: the bytes were none, or would spoil the case. */
static bool add_insn(const struct generator *generator, struct builder *b, bool is_spoiled)
{
    struct case_input *out = b->out;
    const struct generator_mode *mode = &generator->mode[out->code_size];
    uint32_t row = mode->drawn[random_below(b->random, mode->drawn_count)];
    const struct row_templates *templates = &mode->rows[row];
    const struct template *t = &templates->item[random_below(b->random, templates->count)];
    uint8_t bytes[TEMPLATE_BYTES];
    if (is_spoiled) {
        template_spoil(b->random, t, out->code_size, bytes);
    } else {
        template_bytes(b->random, t, out->code_size, bytes);
    }
    struct x86_insn insn;
    enum x86_decode_status status = case_decode(bytes, sizeof(bytes), out->code_size, &insn);
    if (status != X86_DECODE_OK) {
        return is_spoiled && add_undefined(b, bytes, status);
    }
    return add_decoded(b, &insn, bytes);
}

/* 64-bit code four times of six; then flat 32-bit code as of ordinary programs, and code of either size in segments. */
static void choose_mode(const struct generator *generator, struct random *random,
                        struct case_input *out)
{
    uint32_t choice = random_below(random, 100);
    if (generator->mode[X86_CODE_64].drawn_count == 0) {
        choice = 66 + random_below(random, 34);
    } else if (generator->mode[X86_CODE_32].drawn_count == 0) {
        choice = 0;
    }
    out->code_size = choice < 66 ? X86_CODE_64 : choice < 83 ? X86_CODE_32 : X86_CODE_16;
    out->cs = choice < 66 ? CASE_SELECTOR_CODE64 : CASE_SELECTOR_CODE32;
    out->ss = out->ds = out->es = CASE_SELECTOR_DATA;
    if (choice < 76) {
        return;
    }
    out->cs = CASE_LDT_SELECTOR(choice < 83 ? CASE_LDT_CODE32 : CASE_LDT_CODE16);
    uint16_t *const data[] = {&out->ss, &out->ds, &out->es};
    for (size_t i = 0; i < 3; i++) {
        uint32_t entry = random_below(random, 2 * CASE_LDT_COUNT);
        if (entry == CASE_LDT_READ16 && i == 0) {
            continue; /* cannot be a stack */
        }
        if (entry < 2 && i == 0) {
            continue;
        }
        *data[i] = CASE_LDT_SELECTOR(entry < CASE_LDT_COUNT ? entry : CASE_LDT_DATA16);
    }
}

void generator_make(const struct generator *generator, uint64_t seed, uint64_t index,
                    struct case_input *out_case)
{
    struct random random = random_for(seed, index);
    memset(out_case, 0, offsetof(struct case_input, code));
    choose_mode(generator, &random, out_case);
    state_random(&random, out_case->code_size != X86_CODE_64, &out_case->state);
    out_case->state.gpr[X86_RSP] -= case_segment_base(out_case->ss);

    uint32_t wanted = random_percent(&random, 50) ? 1 : 1 + random_below(&random, CASE_MAX_INSNS);
    uint64_t base = case_segment_base(out_case->cs) != 0 ? 0 : CASE_CODE_BASE;
    out_case->code_offset = (uint16_t)random_below(&random, CASE_CODE_SIZE - 2 * CASE_MAX_CODE);
    if (random_percent(&random, 8)) {
        /* Some instruction is on both pages. */
        out_case->code_offset = (uint16_t)(4096 - 1 - random_below(&random, CASE_MAX_CODE / 3));
    }
    struct builder b = {
        .random = &random,
        .out = out_case,
        .used = 1u << X86_RSP,
        .next_rip = base + out_case->code_offset,
    };
    bool is_spoiled = generator->only == NULL && random_percent(&random, 8);
    for (uint32_t tries = 0; out_case->insn_count < wanted && !b.is_over && tries < 200; tries++) {
        (void)add_insn(generator, &b, is_spoiled);
    }
    out_case->insn_offset[out_case->insn_count] = (uint8_t)out_case->code_bytes;
    aim_branches(&b);
    out_case->code[out_case->code_bytes++] = 0x0f; /* ud2: the end marker */
    out_case->code[out_case->code_bytes++] = 0x0b;
    if (!b.is_over && random_percent(&random, 2)) {
        /* The code runs into the end of its page. RIP-relative operands move along, which is as good. */
        uint32_t inside = 1 + random_below(&random, out_case->code_bytes - 1u);
        out_case->code_offset = (uint16_t)(CASE_CODE_SIZE - inside);
        out_case->code_bytes = (uint16_t)inside;
    }
    out_case->state.rip = base + out_case->code_offset;
}
