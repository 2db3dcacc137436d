/* Which template an instruction takes, and the liveness of the status flags.
 *
 * Flags are live where something may read them before they are written. What follows a block is looked at for a few
 * instructions if it is in the same page, as the block dies with the page's bytes. Flags that are dead may have any value
 * when a fault or an interrupt comes between; the code that they belong to writes them before it reads them. */
#include "engine/soft/translate/analyze.h"

#include <pthread.h>
#include <string.h>

#include "base/core/bits.h"
#include "cpu/x86/encoding.h"
#include "cpu/x86/tables.h"
#include "engine/soft/mmu.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/translate/code_cache.h"

#define STATUS    X86_FLAGS_STATUS
#define MAX_ROWS  4096
#define LOOKAHEAD 9

static struct native_row rows[MAX_ROWS];
static pthread_once_t rows_once = PTHREAD_ONCE_INIT;

static bool is_between(unsigned value, unsigned first, unsigned last)
{
    return value - first <= last - first;
}

/* General-purpose instructions with ModRM that may run as they are. */
static bool is_plain_id(const struct x86_row_encoding *encoding, unsigned id)
{
    if (encoding->map == 1 && !encoding->is_vex &&
        (is_between(encoding->opcode, 0x40, 0x4f) || is_between(encoding->opcode, 0x90, 0x9f))) {
        return true; /* CMOVcc, SETcc */
    }
    switch (id) {
    case X86_ID_ADD:
    case X86_ID_OR:
    case X86_ID_ADC:
    case X86_ID_SBB:
    case X86_ID_AND:
    case X86_ID_SUB:
    case X86_ID_XOR:
    case X86_ID_CMP:
    case X86_ID_INC:
    case X86_ID_DEC:
    case X86_ID_TEST:
    case X86_ID_NOT:
    case X86_ID_NEG:
    case X86_ID_MUL:
    case X86_ID_IMUL:
    case X86_ID_ROL:
    case X86_ID_ROR:
    case X86_ID_RCL:
    case X86_ID_RCR:
    case X86_ID_SHL:
    case X86_ID_SHR:
    case X86_ID_SAR:
    case X86_ID_SHLD:
    case X86_ID_SHRD:
    case X86_ID_BT:
    case X86_ID_BTS:
    case X86_ID_BTR:
    case X86_ID_BTC:
    case X86_ID_BSF:
    case X86_ID_BSR:
    case X86_ID_TZCNT:
    case X86_ID_LZCNT:
    case X86_ID_POPCNT:
    case X86_ID_CRC32:
    case X86_ID_ADCX:
    case X86_ID_ADOX:
    case X86_ID_MOV:
    case X86_ID_MOVBE:
    case X86_ID_MOVNTI:
    case X86_ID_MOVZX:
    case X86_ID_MOVSX:
    case X86_ID_MOVSXD:
    case X86_ID_XCHG:
    case X86_ID_XADD:
    case X86_ID_CMPXCHG:
    case X86_ID_CMPXCHG8B:
    case X86_ID_CMPXCHG16B:
    case X86_ID_ANDN:
    case X86_ID_BEXTR:
    case X86_ID_BLSI:
    case X86_ID_BLSMSK:
    case X86_ID_BLSR:
    case X86_ID_BZHI:
    case X86_ID_MULX:
    case X86_ID_PDEP:
    case X86_ID_PEXT:
    case X86_ID_RORX:
    case X86_ID_SARX:
    case X86_ID_SHLX:
    case X86_ID_SHRX:
        return true;
    default:
        return false;
    }
}

/* SIMD instructions that a template must not run: they suppress faults, touch MXCSR itself, or memory that ModRM does not
 * name. */
static bool is_special_vector(unsigned id)
{
    switch (id) {
    case X86_ID_LDMXCSR:
    case X86_ID_STMXCSR:
    case X86_ID_VLDMXCSR:
    case X86_ID_VSTMXCSR:
    case X86_ID_MASKMOVDQU:
    case X86_ID_VMASKMOVDQU:
    case X86_ID_VMASKMOVPS:
    case X86_ID_VMASKMOVPD:
    case X86_ID_VPMASKMOVD:
    case X86_ID_VPMASKMOVQ:
        return true;
    default:
        return false;
    }
}

static uint8_t kind_of_simple(const struct x86_row_encoding *encoding, unsigned id)
{
    switch (id) {
    case X86_ID_CBW:
    case X86_ID_CWDE:
    case X86_ID_CDQE:
    case X86_ID_CWD:
    case X86_ID_CDQ:
    case X86_ID_CQO:
    case X86_ID_CLC:
    case X86_ID_STC:
    case X86_ID_CMC:
    case X86_ID_LAHF:
    case X86_ID_SAHF:
    case X86_ID_LFENCE:
    case X86_ID_MFENCE:
    case X86_ID_SFENCE:
        return NATIVE_RAW;
    case X86_ID_NOP:
    case X86_ID_ENDBR32:
    case X86_ID_ENDBR64:
    case X86_ID_PREFETCH:
    case X86_ID_PREFETCHW:
    case X86_ID_PREFETCHNTA:
    case X86_ID_PREFETCHT0:
    case X86_ID_PREFETCHT1:
    case X86_ID_PREFETCHT2:
        return NATIVE_NOTHING;
    case X86_ID_MOVS:
    case X86_ID_STOS:
    case X86_ID_LODS:
    case X86_ID_CMPS:
    case X86_ID_SCAS:
        return NATIVE_STRING;
    case X86_ID_CPUID:
        return NATIVE_CPUID;
    case X86_ID_CLI:
    case X86_ID_STI:
    case X86_ID_CLD:
    case X86_ID_STD:
    case X86_ID_STAC:
    case X86_ID_CLAC:
    case X86_ID_SWAPGS:
    case X86_ID_RDTSC:
    case X86_ID_RDTSCP:
    case X86_ID_RDFSBASE:
    case X86_ID_RDGSBASE:
    case X86_ID_WRFSBASE:
    case X86_ID_WRGSBASE:
        return NATIVE_SMALL;
    case X86_ID_SYSCALL:
    case X86_ID_SYSRET:
    case X86_ID_IRET:
    case X86_ID_INVLPG:
        return NATIVE_ENTRY;
    case X86_ID_MOV_CR:
        return encoding->opcode == 0x20 ? NATIVE_READ_CR : NATIVE_INTERPRET;
    case X86_ID_PUSHF:
        return NATIVE_PUSHF;
    case X86_ID_POPF:
        return NATIVE_POPF;
    case X86_ID_PUSH_SREG:
        return NATIVE_PUSH_SELECTOR;
    case X86_ID_PAUSE:
        return NATIVE_PAUSE;
    case X86_ID_MOV_SREG:
        return encoding->opcode == 0x8c ? NATIVE_SELECTOR : NATIVE_INTERPRET;
    case X86_ID_LEA:
        return NATIVE_LEA;
    case X86_ID_BSWAP:
        return NATIVE_BSWAP;
    case X86_ID_LEAVE:
        return NATIVE_LEAVE;
    case X86_ID_RET:
        return NATIVE_RET;
    case X86_ID_DIV:
    case X86_ID_IDIV:
        return NATIVE_DIVIDE;
    case X86_ID_CALL:
        return encoding->opcode == 0xe8 ? NATIVE_CALL : NATIVE_CALL_INDIRECT;
    case X86_ID_JMP:
        return encoding->opcode == 0xff ? NATIVE_JMP_INDIRECT : NATIVE_JMP;
    case X86_ID_PUSH:
        return encoding->opcode == 0xff                               ? NATIVE_PUSH_MEM
               : encoding->opcode == 0x68 || encoding->opcode == 0x6a ? NATIVE_PUSH_IMM
                                                                      : NATIVE_PUSH_REG;
    case X86_ID_POP:
        return encoding->opcode == 0x8f ? NATIVE_POP_MEM : NATIVE_POP_REG;
    default:
        return NATIVE_INTERPRET;
    }
}

static void set_field(struct native_row *out, const struct x86_operand_form *form)
{
    struct native_field *field;
    uint8_t access = form->access & (X86_OPERAND_READ | X86_OPERAND_WRITE);
    switch (form->source) {
    case X86_SOURCE_REG:
        field = &out->reg;
        break;
    case X86_SOURCE_RM:
        field = &out->rm;
        out->memory_access = access;
        break;
    case X86_SOURCE_VVVV:
        field = &out->vvvv;
        break;
    default:
        return;
    }
    *field = (struct native_field){.reg_class = form->reg_class, .is_used = true, .access = access};
}

static void init_row(size_t number)
{
    const struct x86_row *row = &x86_rows[number];
    const struct x86_form *form = &x86_forms[number];
    const struct x86_row_encoding *encoding = &x86_row_encodings[number];
    struct native_row *out = &rows[number];
    out->feature = row->feature;
    out->attributes = row->attributes;
    out->flags_read = row->flags_read & STATUS;
    out->flags_written = (row->flags_written | row->flags_undefined) & STATUS;
    bool has_other_class = false, has_odd_source = false;
    for (size_t i = 0; i < form->operand_count; i++) {
        const struct x86_operand_form *operand = &form->operand[i];
        set_field(out, operand);
        bool is_register = operand->source == X86_SOURCE_REG || operand->source == X86_SOURCE_RM ||
                           operand->source == X86_SOURCE_VVVV ||
                           operand->source == X86_SOURCE_IS4 || operand->source == X86_SOURCE_FIXED;
        has_other_class |= is_register && operand->reg_class != X86_REG_GPR &&
                           operand->reg_class != X86_REG_VECTOR;
        has_odd_source |= operand->source >= X86_SOURCE_FAR;
        out->is_vector |= is_register && operand->reg_class == X86_REG_VECTOR;
    }
    unsigned id = row->id;
    uint8_t kind = kind_of_simple(encoding, id);
    bool is_simd = row->attributes & (X86_ROW_SSE | X86_ROW_VEX);
    if (kind != NATIVE_INTERPRET) {
        /* As it is. */
    } else if (row->attributes & X86_ROW_X87) {
        bool is_escape = encoding->map == 0 && is_between(encoding->opcode, 0xd8, 0xdf);
        kind = is_escape && native_x87_is_plain(row->id) ? NATIVE_X87 : NATIVE_INTERPRET;
    } else if (row->attributes &
               (X86_ROW_BRANCH | X86_ROW_STRING | X86_ROW_IO | X86_ROW_SYSTEM | X86_ROW_PRIVILEGED |
                X86_ROW_SERIALIZES | X86_ROW_X87 | X86_ROW_MMX)) {
        if (encoding->map == (encoding->opcode >= 0x80 ? 1 : 0) &&
            (encoding->opcode & 0xf0) == (encoding->map ? 0x80 : 0x70) &&
            (row->attributes & X86_ROW_BRANCH)) {
            kind = NATIVE_JCC;
        }
    } else if (id == X86_ID_VZEROUPPER || id == X86_ID_VZEROALL) {
        kind = NATIVE_RAW;
        out->is_vector = true;
    } else if (id == X86_ID_MOV && encoding->has_opcode_register) {
        kind = NATIVE_MOV_IMM;
    } else if (id == X86_ID_XCHG && encoding->has_opcode_register) {
        kind = NATIVE_XCHG_RAX;
    } else if ((id == X86_ID_INC || id == X86_ID_DEC) && encoding->has_opcode_register) {
        kind = NATIVE_STEP;
    } else if (id == X86_ID_MOV && !encoding->is_vex && encoding->map == 0 &&
               is_between(encoding->opcode, 0xa0, 0xa3)) {
        kind = NATIVE_MOFFS;
    } else if (has_other_class || has_odd_source || (form->flags & X86_FORM_VSIB)) {
        kind = NATIVE_INTERPRET;
    } else if (is_simd && out->is_vector) {
        kind = encoding->modrm != X86_MODRM_NONE && !is_special_vector(id) ? NATIVE_PLAIN
                                                                           : NATIVE_INTERPRET;
    } else if (is_plain_id(encoding, id)) {
        kind = encoding->modrm != X86_MODRM_NONE ? NATIVE_PLAIN : NATIVE_RAW;
    }
    out->kind = kind;
    out->is_shift = id == X86_ID_ROL || id == X86_ID_ROR || id == X86_ID_RCL || id == X86_ID_RCR ||
                    id == X86_ID_SHL || id == X86_ID_SHR || id == X86_ID_SAR || id == X86_ID_SHLD ||
                    id == X86_ID_SHRD;
    out->is_bit_test = id == X86_ID_BT || id == X86_ID_BTS || id == X86_ID_BTR || id == X86_ID_BTC;
}

static void init_rows(void)
{
    for (size_t i = 0; i < x86_row_count && i < MAX_ROWS; i++) {
        init_row(i);
    }
}

void native_rows_init(void)
{
    pthread_once(&rows_once, init_rows);
}

static uint8_t reg_number(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
}

static uint8_t rm_number(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
}

uint16_t native_written_gprs(const struct x86_insn *insn)
{
    uint16_t written = 0;
    if (insn->id == X86_ID_PCMPESTRI || insn->id == X86_ID_VPCMPESTRI) {
        written = BIT(X86_RCX); /* an operand more than struct x86_insn has room for */
    }
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
            operand->access & X86_OPERAND_WRITE && operand->reg < X86_GPR_COUNT) {
            written |= (uint16_t)BIT(operand->reg);
        }
    }
    return written;
}

bool native_high_needs_rex(const struct x86_insn *insn)
{
    bool other_is_rsp = false;
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        other_is_rsp |= operand->kind == X86_OPERAND_REG && !operand->is_high &&
                        operand->reg == X86_RSP && operand->reg_class == X86_REG_GPR;
    }
    return insn->has_memory || other_is_rsp;
}

/* Can a plain template hold the instruction's registers? Those without a host register need one of two scratch registers,
 * or the one that memory leaves; AH to BH go with no REX prefix, which both scratch registers and most others need: those are
 * turned to where their low byte is, if nothing else is in the same register. */
static bool fits_plain(const struct soft_vcpu *v, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    const struct native_row *row = n->row;
    uint32_t spilled = 0, available = insn->has_memory ? 1 : 2;
    uint32_t seen = 0;
    const struct {
        const struct native_field *field;
        uint8_t number;
        bool is_there;
    } fields[] = {
        {&row->reg, reg_number(insn), true},
        {&row->rm, rm_number(insn), !insn->has_memory},
        {&row->vvvv, insn->vex_vvvv, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        if (!fields[i].is_there || !fields[i].field->is_used ||
            fields[i].field->reg_class != X86_REG_GPR) {
            continue;
        }
        uint8_t number = fields[i].number;
        if (native_is_spilled(number) && !(seen >> number & 1)) {
            seen |= 1u << number;
            spilled++;
        }
    }
    if (native_has_high_byte(insn) && native_high_needs_rex(insn)) {
        return v->native->has_bmi2 && insn->id != X86_ID_CMPXCHG;
    }
    return spilled <= available;
}

/* Of 32-bit code: may the instruction's template be used? The segments CS, SS, DS and ES are flat. */
static bool fits_32(const struct native_insn *n, uint32_t mode)
{
    const struct x86_insn *insn = &n->insn;
    bool is_written = n->row->memory_access & X86_OPERAND_WRITE || n->kind == NATIVE_MOFFS;
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        /* The number in an immediate has a bit more in 64-bit mode, where 32-bit mode ignores that. */
        bool is_vector = insn->operand[i].kind == X86_OPERAND_REG &&
                         insn->operand[i].reg_class == X86_REG_VECTOR;
        if (i == 3 && is_vector && insn->imm & 0x80) {
            return false;
        }
    }
    if (!insn->has_memory || n->kind == NATIVE_LEA || n->kind == NATIVE_NOTHING) {
        return true;
    }
    switch (insn->segment) {
    case X86_CS:
        return !is_written;
    case X86_FS:
    case X86_GS: {
        /* Templates that check an offset against the limit. */
        bool is_checked = n->kind == NATIVE_PLAIN || n->kind == NATIVE_DIVIDE ||
                          n->kind == NATIVE_MOFFS || n->kind == NATIVE_PUSH_MEM ||
                          n->kind == NATIVE_CALL_INDIRECT || n->kind == NATIVE_JMP_INDIRECT;
        return is_checked && !(n->row->is_bit_test && !insn->imm_bytes) &&
               mode & (insn->segment == X86_FS ? NATIVE_MODE_FS : NATIVE_MODE_GS);
    }
    default:
        return true;
    }
}

static void classify(const struct soft_vcpu *v, struct native_insn *n, uint32_t mode)
{
    const struct x86_insn *insn = &n->insn;
    const struct native_row *row = n->row = &rows[insn->row];
    n->kind = row->kind;
    n->reads = row->flags_read;
    n->writes = row->flags_written;
    n->keeps = 0;
    uint32_t attributes = row->attributes;
    bool is_announced = v->instruction_sets >> row->feature & 1;
    bool is_vector_off =
        row->is_vector && !(mode & (attributes & X86_ROW_VEX ? NATIVE_MODE_AVX : NATIVE_MODE_SSE));
    if (!is_announced || is_vector_off || (insn->has_memory && insn->address_bytes == 2) ||
        (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE) && row->is_vector) ||
        (mode & NATIVE_MODE_32 && !fits_32(n, mode))) {
        n->kind = NATIVE_INTERPRET;
    }
    uint8_t word = mode & NATIVE_MODE_32 ? 4 : 8;
    switch (n->kind) {
    case NATIVE_X87:
        if (!(mode & NATIVE_MODE_X87) || insn->segment == X86_FS || insn->segment == X86_GS) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_PLAIN:
    case NATIVE_DIVIDE:
        if (!fits_plain(v, n)) {
            n->kind = NATIVE_INTERPRET;
        } else if (row->is_bit_test && insn->has_memory && !insn->imm_bytes) {
            n->kind = insn->address_bytes == word && insn->operand_bytes != 2 ? NATIVE_BIT_STRING
                                                                              : NATIVE_INTERPRET;
        }
        break;
    case NATIVE_STRING:
        if (insn->address_bytes != word) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_CPUID:
    case NATIVE_SMALL:
    case NATIVE_READ_CR:
    case NATIVE_ENTRY:
    case NATIVE_PUSHF:
    case NATIVE_POPF:
        if (!native_system_is_allowed(v, insn, mode)) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_SELECTOR:
        if (insn->has_memory) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_XCHG_RAX:
        if (native_is_spilled((uint8_t)((insn->opcode & 7) | (insn->rex & 1) << 3))) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_RAW:
        if (insn->rex & 7) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSH_MEM:
    case NATIVE_POP_REG:
    case NATIVE_POP_MEM:
    case NATIVE_PUSH_SELECTOR:
    case NATIVE_LEAVE:
    case NATIVE_CALL:
    case NATIVE_CALL_INDIRECT:
    case NATIVE_JMP:
    case NATIVE_JMP_INDIRECT:
    case NATIVE_JCC:
    case NATIVE_RET:
        if (insn->operand_bytes != word) {
            n->kind = NATIVE_INTERPRET;
        }
        break;
    default:
        break;
    }
    if (row->is_shift && !(insn->opcode == 0xd0 || insn->opcode == 0xd1)) {
        bool is_constant = insn->imm_bytes == 1;
        bool is_64 = insn->operand_bytes == 8 && (insn->map || insn->opcode & 1);
        uint8_t count = (uint8_t)(insn->imm & (is_64 ? 63 : 31));
        bool is_simple = insn->id == X86_ID_SHL || insn->id == X86_ID_SHR || insn->id == X86_ID_SAR;
        if (is_constant && count == 0) {
            n->writes = 0;
        }
        if (!is_constant || count == 0 || !is_simple) {
            n->keeps = row->flags_written;
        }
    }
    bool may_fault = insn->has_memory || n->kind >= NATIVE_PUSH_REG;
    if (n->kind == NATIVE_INTERPRET || n->kind == NATIVE_DIVIDE || n->kind == NATIVE_STRING ||
        n->kind == NATIVE_CPUID || n->kind == NATIVE_ENTRY || n->kind == NATIVE_PUSHF ||
        (may_fault && v->vm->has_exact_flags)) {
        n->reads = STATUS; /* whatever it does, the flags are whole before it */
    }
}

bool native_has_template(const struct soft_vcpu *v, const struct x86_insn *insn)
{
    struct native_insn n = {.insn = *insn};
    classify(v, &n, v->native_mode);
    return n.kind != NATIVE_INTERPRET;
}

/* The instruction leaves the block, or must be its last for what it changes. */
static bool ends_block(const struct native_insn *n)
{
    return n->row->attributes & (X86_ROW_BRANCH | X86_ROW_SERIALIZES);
}

/* Which of the pages of its block is 'rip' in: 0, 1, or -1 for others? */
static int page_of(const struct native_source *source, uint64_t rip)
{
    uint64_t distance = (rip >> GUEST_PAGE_SHIFT) - (source->rip >> GUEST_PAGE_SHIFT);
    return distance <= source->is_crossing ? (int)distance : -1;
}

/* Reads bytes of a page up to the end of a granule, which is marked before: whoever writes there later tells. */
static uint32_t read_granule(struct native_source *source, int page, uint32_t offset, uint8_t *out)
{
    uint32_t size = SOFT_GRANULE_SIZE - offset % SOFT_GRANULE_SIZE;
    uint64_t mask = soft_granules(offset, 1);
    soft_mark_granules(page ? source->second_marks : source->marks, mask);
    *(page ? &source->second_granules : &source->granules) |= mask;
    memcpy(out, (page ? source->second_page : source->page) + offset, size);
    return size;
}

/* A look ahead, and the bytes that it has read last. */
struct ahead {
    struct native_source *source;
    int left; /* so many instructions may be looked at */
    int page;
    uint32_t start, end; /* in the page */
    uint8_t bytes[2 * SOFT_GRANULE_SIZE];
};

static bool decode_ahead(struct ahead *a, int page, uint32_t offset, struct x86_insn *out)
{
    struct native_source *source = a->source;
    if (page != a->page || offset < a->start || offset >= a->end) {
        a->page = page;
        a->start = offset;
        a->end = offset + read_granule(source, page, offset, a->bytes);
    }
    uint8_t *bytes = a->bytes + (offset - a->start);
    uint32_t size = a->end - offset;
    enum x86_decode_status status =
        x86_decode_cached(source->decode_cache, bytes, size, source->code_size, out);
    if (status == X86_DECODE_MORE && a->end < GUEST_PAGE_SIZE) {
        bytes = memmove(a->bytes, bytes, size);
        a->start = offset;
        a->end += read_granule(source, page, a->end, bytes + size);
        status =
            x86_decode_cached(source->decode_cache, bytes, a->end - offset, source->code_size, out);
    }
    return status == X86_DECODE_OK;
}

/* Those of the 'unknown' flags that code at 'rip' may read before it writes them. */
static uint16_t live_ahead(struct ahead *a, uint64_t rip, uint16_t unknown)
{
    const struct native_source *source = a->source;
    uint16_t live = 0;
    while (unknown && a->left-- > 0) {
        int page = page_of(source, rip);
        struct native_insn n;
        if (page < 0 || !decode_ahead(a, page, (uint32_t)(rip & (GUEST_PAGE_SIZE - 1)), &n.insn)) {
            return live | unknown;
        }
        const struct native_row *row = &rows[n.insn.row];
        uint32_t attributes = row->attributes;
        uint64_t next = native_cut_rip(source, rip + n.insn.length);
        uint64_t target = native_cut_rip(source, next + n.insn.imm);
        if ((row->kind == NATIVE_JMP || row->kind == NATIVE_CALL) &&
            n.insn.operand_bytes == native_word(source)) {
            rip = target;
            continue;
        }
        live |= row->flags_read & unknown;
        if (row->kind == NATIVE_JCC && n.insn.operand_bytes == native_word(source)) {
            live |= live_ahead(a, target, unknown);
            unknown &= (uint16_t)~live;
            rip = next;
            continue;
        }
        if ((attributes & (X86_ROW_BRANCH | X86_ROW_SYSTEM | X86_ROW_SERIALIZES | X86_ROW_IO |
                           X86_ROW_STRING)) ||
            row->kind == NATIVE_INTERPRET || row->kind == NATIVE_DIVIDE) {
            return live | unknown;
        }
        if (!row->is_shift) {
            unknown &= (uint16_t)~row->flags_written;
        }
        rip = next;
    }
    return live | unknown;
}

static uint16_t live_at(struct native_source *source, uint64_t rip)
{
    struct ahead a; /* but for its bytes */
    a.source = source;
    a.left = LOOKAHEAD;
    a.page = -1;
    return source->has_exact_flags ? STATUS : live_ahead(&a, rip, STATUS);
}

static void find_live_flags(struct native_source *source)
{
    const struct native_insn *last = &source->insn[source->count - 1];
    source->live_next = STATUS;
    if (last->kind == NATIVE_JCC || !source->ends_by_itself) {
        source->live_next = live_at(source, native_next_rip(source, source->count - 1));
    }
    uint16_t live = source->live_next;
    for (uint32_t i = source->count; i-- > 0;) {
        struct native_insn *n = &source->insn[i];
        if (n->kind == NATIVE_JCC) {
            n->live_taken = live_at(source, native_target(source, i));
            live |= n->live_taken;
        } else if (n->kind == NATIVE_JMP || n->kind == NATIVE_CALL) {
            live = n->live_taken = live_at(source, native_target(source, i));
        }
        n->live_after = live;
        n->reads |= n->keeps & live;
        live = (uint16_t)((live & ~n->writes) | n->reads);
        n->live_before = live;
    }
}

/* Conditional branches within the block: how far from its beginning they lead. */
struct side_exits {
    uint32_t count;
    uint64_t distance[NATIVE_MAX_SIDE_EXITS];
};

/* Does the block go on behind its last instruction, though that may leave it? */
static bool goes_on_behind(const struct native_insn *n, struct side_exits *exits, uint32_t mode)
{
    /* To leave for what comes next anyway would be hard to tell from not to leave. A block without groups is for what must not go
     * by that of the groups, and no more. */
    if (n->kind != NATIVE_JCC || exits->count == NATIVE_MAX_SIDE_EXITS || !n->insn.imm ||
        mode & NATIVE_MODE_UNGROUPED) {
        return false;
    }
    exits->distance[exits->count++] = n->offset + n->insn.length + n->insn.imm;
    return true;
}

/* Does a block begin 'offset' bytes from the beginning of this one, or will it when a side exit is taken? Then its code is not made
 * once more. */
static bool is_met(const struct soft_vcpu *v, const struct native_block *block,
                   const struct side_exits *exits, uint32_t offset)
{
    for (uint32_t i = 0; i < exits->count; i++) {
        if (exits->distance[i] == offset) {
            return true;
        }
    }
    uint64_t gpa = block->gpa + offset;
    return native_may_begin(v->native, gpa) &&
           native_cache_find(v->native, gpa, block->address + offset, block->mode,
                             NATIVE_SECOND_ANY);
}

void native_analyze(struct soft_vcpu *v, const struct native_block *block, uint64_t rip,
                    const uint8_t *page, struct native_source *out)
{
    uint32_t mode = block->mode;
    out->decode_cache = &v->decode_cache;
    out->rip = rip;
    out->page = page;
    out->is_32 = mode & NATIVE_MODE_32;
    out->code_size = soft_decode_as(v->vm, out->is_32 ? X86_CODE_32 : X86_CODE_64);
    uint32_t start = (uint32_t)(rip & (GUEST_PAGE_SIZE - 1));
    uint32_t left = MIN(GUEST_PAGE_SIZE - start, NATIVE_MAX_BYTES);
    out->granules = out->second_granules = 0;
    out->is_crossing = false;
    out->count = 0;
    out->group_count = 0;
    out->within_groups = 0;
    out->uses_vectors = false;
    out->has_exact_flags = v->vm->has_exact_flags;
    out->is_alone = v->vm->vm.config.vcpu_count == 1 && !v->vm->keeps_locks;
    uint32_t offset = 0, read = 0;
    struct side_exits side_exits = {0};
    while (out->count < NATIVE_MAX_INSNS && offset < left) {
        struct native_insn *n = &out->insn[out->count];
        n->group = NATIVE_NO_GROUP;
        enum x86_decode_status status =
            read > offset ? x86_decode_cached(out->decode_cache, out->copy + offset,
                                              MIN(read, left) - offset, out->code_size, &n->insn)
                          : X86_DECODE_MORE;
        if (status == X86_DECODE_MORE && read < left) {
            read += read_granule(out, 0, start + read, out->copy + read);
            continue;
        }
        if (status == X86_DECODE_MORE && !out->count && out->second_page && !out->is_crossing) {
            out->is_crossing = true;
            left = read += read_granule(out, 1, 0, out->copy + read);
            continue;
        }
        if (status != X86_DECODE_OK) {
            /* The interpreter raises what is to be raised. */
            break;
        }
        n->offset = offset;
        classify(v, n, mode);
        offset += n->insn.length;
        out->count++;
        out->uses_vectors |= n->row->is_vector && n->kind != NATIVE_INTERPRET;
        if (out->is_crossing || (ends_block(n) && !goes_on_behind(n, &side_exits, mode))) {
            break;
        }
        if (side_exits.count && is_met(v, block, &side_exits, offset)) {
            break;
        }
    }
    out->size_bytes = offset;
    out->ends_by_itself = out->count && ends_block(&out->insn[out->count - 1]);
    if (!out->count) {
        /* None, or the page ends within it: a block that calls the interpreter is found sooner than none. */
        static const struct native_row no_row = {.kind = NATIVE_INTERPRET};
        out->insn[0] = (struct native_insn){
            .row = &no_row, .kind = NATIVE_INTERPRET, .reads = STATUS, .group = NATIVE_NO_GROUP};
        out->count = 1;
        out->ends_by_itself = true;
    }
    find_live_flags(out);
}
