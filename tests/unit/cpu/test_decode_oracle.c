/* Compares cpu/x86/decode.c with Zydis, an independent decoder: the code of programs installed here, and millions of seeded
 * random byte strings in all three modes. Exits 77 where Zydis is not installed.
 *
 * Usage: test_cpu_decode_oracle [random strings per mode] [seed] */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode.h"

#ifndef HAVE_ZYDIS

int main(void)
{
    puts("built without Zydis (libzydis-dev): nothing to compare with");
    return 77;
}

#else

#include <Zydis/Zydis.h>
#include <elf.h>

#define MAX_KINDS 4096

/* One kind of difference, with the first bytes that showed it. */
struct kind {
    char text[96];
    uint64_t count;
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    enum x86_code_size code_size;
};

struct comparison {
    ZydisDecoder decoder[3];
    struct kind kind[MAX_KINDS];
    size_t kind_count;
    uint64_t compared;
};

static void report(struct comparison *c, const uint8_t *bytes, enum x86_code_size code_size,
                   const char *what, const char *name)
{
    char text[sizeof(c->kind[0].text)];
    snprintf(text, sizeof(text), "%s %s", name, what);
    size_t i = 0;
    while (i < c->kind_count && strcmp(c->kind[i].text, text) != 0) {
        i++;
    }
    if (i == MAX_KINDS) {
        return;
    }
    struct kind *kind = &c->kind[i];
    if (i == c->kind_count) {
        c->kind_count++;
        snprintf(kind->text, sizeof(kind->text), "%s", text);
        memcpy(kind->bytes, bytes, sizeof(kind->bytes));
        kind->code_size = code_size;
    }
    kind->count++;
}

/* Register as class and number, in the words of decode.h; class 0xff for what it does not have. */
static void translate_register(ZydisRegister reg, uint8_t *out_class, uint8_t *out_number,
                               bool *out_is_high)
{
    static const struct {
        ZydisRegister first, last;
        uint8_t reg_class;
    } ranges[] = {
        {ZYDIS_REGISTER_AX, ZYDIS_REGISTER_R15W, X86_REG_GPR},
        {ZYDIS_REGISTER_EAX, ZYDIS_REGISTER_R15D, X86_REG_GPR},
        {ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_R15, X86_REG_GPR},
        {ZYDIS_REGISTER_ES, ZYDIS_REGISTER_GS, X86_REG_SEGMENT},
        {ZYDIS_REGISTER_CR0, ZYDIS_REGISTER_CR15, X86_REG_CONTROL},
        {ZYDIS_REGISTER_DR0, ZYDIS_REGISTER_DR15, X86_REG_DEBUG},
        {ZYDIS_REGISTER_ST0, ZYDIS_REGISTER_ST7, X86_REG_X87},
        {ZYDIS_REGISTER_MM0, ZYDIS_REGISTER_MM7, X86_REG_MMX},
        {ZYDIS_REGISTER_XMM0, ZYDIS_REGISTER_XMM15, X86_REG_VECTOR},
        {ZYDIS_REGISTER_YMM0, ZYDIS_REGISTER_YMM15, X86_REG_VECTOR},
    };
    *out_class = 0xff;
    *out_number = X86_BASE_NONE;
    *out_is_high = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15B) {
        /* AL CL DL BL AH CH DH BH SPL ... */
        uint8_t number = (uint8_t)(reg - ZYDIS_REGISTER_AL);
        *out_class = X86_REG_GPR;
        *out_number = number < 4 ? number : number - 4;
        return;
    }
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP) {
        *out_number = X86_BASE_RIP;
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(ranges); i++) {
        if (reg >= ranges[i].first && reg <= ranges[i].last) {
            *out_class = ranges[i].reg_class;
            *out_number = (uint8_t)(reg - ranges[i].first);
        }
    }
}

static uint64_t cut(uint64_t value, uint32_t size_bytes)
{
    return size_bytes >= 8 ? value : value & ((1ull << (8 * size_bytes)) - 1);
}

static const char *compare_memory(const struct x86_insn *ours, const ZydisDecodedOperand *theirs)
{
    uint8_t reg_class, base, index, segment;
    bool is_high;
    translate_register(theirs->mem.base, &reg_class, &base, &is_high);
    translate_register(theirs->mem.index, &reg_class, &index, &is_high);
    translate_register(theirs->mem.segment, &reg_class, &segment, &is_high);
    /* Zydis 4.0 reads R13D where a SIB byte without a base stands behind 67 and REX.B. */
    bool is_slip = ours->base == X86_BASE_NONE && base == X86_R13 &&
                   (ours->prefixes & X86_PREFIX_ADDR) && (ours->rex & 1);
    if (ours->base != base && !is_slip) {
        return "base";
    }
    if (ours->index != index) {
        return "index";
    }
    if (index != X86_BASE_NONE && ours->scale != MAX(theirs->mem.scale, 1)) {
        return "scale";
    }
    if (theirs->mem.type != ZYDIS_MEMOP_TYPE_AGEN && ours->segment != segment &&
        (ours->code_size != X86_CODE_64 || segment >= X86_FS || ours->segment >= X86_FS)) {
        return "segment";
    }
    /* An absolute address is not sign-extended by us; only its low part counts. */
    if (theirs->mem.disp.has_displacement &&
        cut((uint64_t)ours->disp, ours->address_bytes) !=
            cut((uint64_t)theirs->mem.disp.value, ours->address_bytes)) {
        return "displacement";
    }
    return NULL;
}

static const char *compare_operand(const struct x86_insn *ours, const struct x86_operand *operand,
                                   const ZydisDecodedOperand *theirs, bool is_second_immediate)
{
    uint8_t reg_class, number;
    bool is_high;
    uint32_t size = theirs->size / 8;
    uint8_t access = (theirs->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? X86_OPERAND_READ : 0) |
                     (theirs->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? X86_OPERAND_WRITE : 0);
    if (theirs->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) {
        access |= X86_OPERAND_READ; /* for us: what is kept was read */
    }
    switch (theirs->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        translate_register(theirs->reg.value, &reg_class, &number, &is_high);
        if (operand->kind != X86_OPERAND_REG) {
            return "kind, theirs a register";
        }
        if (operand->reg_class != reg_class || operand->reg != number ||
            operand->is_high != is_high) {
            return "register";
        }
        if (operand->size_bytes != size && reg_class == X86_REG_GPR) {
            return "register size";
        }
        if (reg_class == X86_REG_VECTOR && (size == 32) != (operand->size_bytes == 32)) {
            return "vector size";
        }
        return operand->access != access ? "register access" : NULL;
    case ZYDIS_OPERAND_TYPE_MEMORY: {
        if (operand->kind != X86_OPERAND_MEM) {
            return "kind, theirs memory";
        }
        const char *difference = compare_memory(ours, theirs);
        if (difference) {
            return difference;
        }
        if (theirs->mem.type == ZYDIS_MEMOP_TYPE_AGEN) {
            return NULL;
        }
        if (operand->size_bytes != size && operand->size_bytes != 0 && operand->access) {
            return "memory size";
        }
        return operand->access && operand->access != access ? "memory access" : NULL;
    }
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: {
        uint64_t value = is_second_immediate ? ours->imm2 : ours->imm;
        if (theirs->imm.is_relative) {
            if (operand->kind != X86_OPERAND_REL) {
                return "kind, theirs a branch";
            }
            return ours->imm != theirs->imm.value.u ? "branch displacement" : NULL;
        }
        if (operand->kind != X86_OPERAND_IMM) {
            return "kind, theirs an immediate";
        }
        return cut(value, operand->size_bytes) != cut(theirs->imm.value.u, operand->size_bytes)
                   ? "immediate"
                   : NULL;
    }
    case ZYDIS_OPERAND_TYPE_POINTER:
        if (operand->kind != X86_OPERAND_FAR || ours->imm2 != theirs->ptr.segment ||
            ours->imm != theirs->ptr.offset) {
            return "far pointer";
        }
        return NULL;
    default:
        return NULL;
    }
}

static const char *compare_flags(const struct x86_insn *ours, const ZydisDecodedInstruction *theirs)
{
    const struct x86_row *row = &x86_rows[ours->row];
    const ZydisAccessedFlags *flags = theirs->cpu_flags;
    uint32_t tested = flags ? flags->tested : 0;
    uint32_t undefined = flags ? flags->undefined : 0;
    uint32_t written = flags ? flags->modified | flags->set_0 | flags->set_1 : 0;
    if ((row->flags_written ^ written) & X86_FLAGS_STATUS) {
        return "flags written";
    }
    if ((row->flags_undefined ^ undefined) & X86_FLAGS_STATUS) {
        return "flags undefined";
    }
    return (row->flags_read ^ tested) & X86_FLAGS_STATUS ? "flags read" : NULL;
}

/* The first difference, or NULL. */
static const char *compare_instructions(const struct x86_insn *ours,
                                        const ZydisDecodedInstruction *theirs,
                                        const ZydisDecodedOperand *operands)
{
    uint8_t next = 0;
    uint32_t immediates = 0;
    if (ours->length != theirs->length) {
        return "length";
    }
    if (ours->id == X86_ID_NOP || ours->id == X86_ID_UD0 || ours->id == X86_ID_UD1) {
        return NULL; /* operands without effect; Zydis has other views of what they are */
    }
    for (uint8_t i = 0; i < theirs->operand_count; i++) {
        if (operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            continue;
        }
        while (next < ours->operand_count && ours->operand[next].is_implicit) {
            next++;
        }
        if (next == ours->operand_count) {
            return "operand count, theirs more";
        }
        const char *difference =
            compare_operand(ours, &ours->operand[next], &operands[i], immediates > 0);
        if (difference) {
            return difference;
        }
        immediates += operands[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
        next++;
    }
    while (next < ours->operand_count && ours->operand[next].is_implicit) {
        next++;
    }
    if (next != ours->operand_count) {
        return "operand count, ours more";
    }
    return compare_flags(ours, theirs);
}

/* Extensions that the table leaves out on purpose: no CPU model of Hull announces them. */
static bool is_beyond_table(const ZydisDecodedInstruction *theirs)
{
    static const char *const extensions[] = {
        "AMD3DNOW",
        "AMD3DNOW_PREFETCH",
        "AMD_INVLPGB",
        "AMX_BF16",
        "AMX_INT8",
        "AMX_TILE",
        "AVX_VNNI",
        "AVX512VEX",
        "MCOMMIT",
        "CET",
        "CLZERO",
        "ENQCMD",
        "FMA4",
        "GFNI",
        "HRESET",
        "KEYLOCKER",
        "KEYLOCKER_WIDE",
        "KNC",
        "KNCE",
        "KNCV",
        "MONITORX",
        "MOVDIR",
        "PADLOCK",
        "PCONFIG",
        "PT",
        "PTWRITE",
        "RDPRU",
        "SERIALIZE",
        "SGX",
        "SGX_ENCLV",
        "SNP",
        "TDX",
        "TSX_LDTRK",
        "UINTR",
        "WAITPKG",
        "XOP",
    };
    switch (theirs->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
        return true;
    default:
        break;
    }
    const char *name = ZydisISAExtGetString(theirs->meta.isa_ext);
    for (size_t i = 0; i < ARRAY_COUNT(extensions); i++) {
        if (strcmp(extensions[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Compares one instruction; returns its length, at least 1. */
static size_t compare_one(struct comparison *c, const uint8_t *bytes, size_t available,
                          enum x86_code_size code_size)
{
    struct x86_insn ours;
    ZydisDecodedInstruction theirs;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t shown[X86_INSN_MAX_LENGTH] = {0};
    memcpy(shown, bytes, MIN(available, sizeof(shown)));
    enum x86_decode_status status = x86_decode(bytes, available, code_size, &ours);
    ZyanStatus zydis =
        ZydisDecoderDecodeFull(&c->decoder[code_size], bytes, available, &theirs, operands);
    bool is_theirs = ZYAN_SUCCESS(zydis);
    c->compared++;
    if (status == X86_DECODE_OK && is_theirs) {
        const char *difference = compare_instructions(&ours, &theirs, operands);
        if (difference) {
            report(c, shown, code_size, difference, x86_rows[ours.row].mnemonic);
        }
        return ours.length;
    }
    if (status == X86_DECODE_OK) {
        report(c, shown, code_size, "only ours", x86_rows[ours.row].mnemonic);
        return ours.length;
    }
    if (is_theirs && !is_beyond_table(&theirs)) {
        char what[64];
        snprintf(what, sizeof(what), "only theirs, of %s",
                 ZydisISAExtGetString(theirs.meta.isa_ext));
        report(c, shown, code_size, what, ZydisMnemonicGetString(theirs.mnemonic));
    }
    return is_theirs ? theirs.length : 1;
}

static uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Random bytes behind a random choice of prefixes and map, so that every corner is met often. */
static void random_string(uint64_t *state, uint8_t bytes[32])
{
    static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x2e, 0x64, 0x65, 0x36,
                                       0x48, 0x41, 0x44, 0x4f, 0x40, 0x66, 0xf3, 0xf2};
    for (size_t i = 0; i < 32; i += 8) {
        uint64_t value = random_next(state);
        memcpy(bytes + i, &value, sizeof(value));
    }
    uint64_t choice = random_next(state);
    size_t at = 0;
    for (uint32_t n = choice & 3; n > 0 && (choice & 0x100); n--) {
        bytes[at++] = prefixes[random_next(state) % sizeof(prefixes)];
    }
    switch (choice >> 16 & 15) {
    case 0:
    case 1:
    case 2:
        bytes[at++] = 0x0f;
        break;
    case 3:
        bytes[at++] = 0x0f;
        bytes[at++] = 0x38;
        break;
    case 4:
        bytes[at++] = 0x0f;
        bytes[at++] = 0x3a;
        break;
    case 5:
    case 6:
        bytes[at++] = 0xc5;
        break;
    case 7:
    case 8:
    case 9:
        bytes[at++] = 0xc4;
        bytes[at] = (bytes[at] & 0xe0) | (1 + (choice >> 32) % 3);
        break;
    default:
        break;
    }
}

/* Runs through the executable sections of an ELF file. */
static bool compare_program(struct comparison *c, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        return false;
    }
    Elf64_Ehdr header;
    bool is_elf = fread(&header, sizeof(header), 1, file) == 1 &&
                  memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
                  header.e_shentsize == sizeof(Elf64_Shdr);
    for (uint32_t i = 0; is_elf && i < header.e_shnum; i++) {
        Elf64_Shdr section;
        if (fseek(file, (long)(header.e_shoff + i * sizeof(section)), SEEK_SET) != 0 ||
            fread(&section, sizeof(section), 1, file) != 1) {
            break;
        }
        if (section.sh_type != SHT_PROGBITS || !(section.sh_flags & SHF_EXECINSTR) ||
            section.sh_size == 0 || section.sh_size > 64u << 20) {
            continue;
        }
        uint8_t *text = malloc(section.sh_size);
        if (text && fseek(file, (long)section.sh_offset, SEEK_SET) == 0 &&
            fread(text, section.sh_size, 1, file) == 1) {
            for (size_t at = 0; at < section.sh_size;) {
                at += compare_one(c, text + at, section.sh_size - at, X86_CODE_64);
            }
        }
        free(text);
    }
    fclose(file);
    return is_elf;
}

static void init_decoders(struct comparison *c)
{
    static const ZydisMachineMode modes[] = {
        ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth widths[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                             ZYDIS_STACK_WIDTH_64};
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        ZydisDecoderInit(&c->decoder[i], modes[i], widths[i]);
        ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
        ZydisDecoderEnableMode(&c->decoder[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    }
}

/* Differences that are meant: what differs, in which instructions, and why. */
static const struct {
    const char *what, *mnemonics, *reason;
} meant[] = {
    {"register access",
     " movhps movlps movhpd movlpd movhlps movlhps cvtss2sd cvtsd2ss cvtpi2ps sqrtss sqrtsd rsqrtss "
     "rcpss roundss roundsd movss movsd extrq insertq ",
     "these keep a part of the destination: it is read and written"},
    {"register access", " bsf bsr ", "a source of zero keeps the destination"},
    {"register access", " ffree ffreep rdsspd rdsspq ", "the register's value is not touched"},
    {"flags written", " sbb ", "Zydis leaves out AF"},
    {"flags written", " rol ror rcl rcr shl shr sar ", "a shift by the constant 1 defines OF"},
    {"flags written", " bextr vptest vtestps vtestpd ", "the manual clears the other flags"},
    {"flags written", " vmcall ", "the hypervisor's answer, not the instruction's"},
    {"flags read", " syscall ", "R11 = RFLAGS reads them all"},
    {"flags read", " cmps scas ", "with REP Zydis counts ZF, which the instruction itself makes"},
    {"memory size", " jmp call ", "AMD: 66 makes indirect near branches 16-bit as well"},
    {"register size", " jmp call ", "AMD: 66 makes indirect near branches 16-bit as well"},
    {"register size", " movsxd ",
     "66 does not change what is read (AMD; Zydis: as the manual of Intel)"},
    {"only theirs, of BASE", " nop ", "0F 0D with a register is undefined on AMD's"},
    {"vector size", " vextractf128 ", "Zydis takes the source for an XMM register"},
    {"segment", " jmp call ", "Zydis takes 3E for NOTRACK and keeps the earlier prefix"},
    {"operand count, ours more", " xchg ",
     "F3 41 90 exchanges R8 and RAX on CPUs, Zydis says PAUSE"},
    {"operand count, theirs more", " vmrun vmload vmsave skinit invlpga ",
     "their fixed registers are not operands for us"},
};

static bool is_meant(const struct kind *kind)
{
    for (size_t i = 0; i < ARRAY_COUNT(meant); i++) {
        char mnemonic[64];
        snprintf(mnemonic, sizeof(mnemonic), " %.*s ", (int)strcspn(kind->text, " "), kind->text);
        if (strstr(meant[i].mnemonics, mnemonic) &&
            strcmp(kind->text + strcspn(kind->text, " ") + 1, meant[i].what) == 0) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    static const char *const programs[] = {
        "/bin/bash",
        "/usr/bin/python3",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    };
    static const char *const mode_names[] = {"16", "32", "64"};
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    static struct comparison c;
    init_decoders(&c);
    size_t program_count = 0;
    for (size_t i = 0; i < ARRAY_COUNT(programs); i++) {
        program_count += compare_program(&c, programs[i]);
    }
    uint64_t in_programs = c.compared;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t bytes[32];
        random_string(&seed, bytes);
        for (int mode = X86_CODE_16; mode <= X86_CODE_64; mode++) {
            compare_one(&c, bytes, sizeof(bytes), mode);
        }
    }
    size_t bad = 0;
    for (size_t i = 0; i < c.kind_count; i++) {
        const struct kind *kind = &c.kind[i];
        if (is_meant(kind)) {
            continue;
        }
        bad++;
        printf("%s: %llu times, first in mode %s:", kind->text, (unsigned long long)kind->count,
               mode_names[kind->code_size]);
        for (size_t k = 0; k < sizeof(kind->bytes); k++) {
            printf(" %02x", kind->bytes[k]);
        }
        printf("\n");
    }
    printf("%llu instructions of %zu programs and %llu random strings in 3 modes: %zu kinds of "
           "difference, %zu of them meant\n",
           (unsigned long long)in_programs, program_count, (unsigned long long)count, c.kind_count,
           c.kind_count - bad);
    return bad ? 1 : 0;
}

#endif
