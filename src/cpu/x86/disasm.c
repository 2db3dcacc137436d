/* The disassembler: a decoded instruction as text in Intel's syntax. For traces and error messages, so it favours one plain
 * form ("rep movsb", "mov eax, dword ptr [rbx+rcx*4-0x10]") over an assembler's many. */
#include <string.h>

#include "base/core/compiler.h"
#include "cpu/x86/decode.h"

struct text {
    char *out;
    size_t size, length;
};

static void put_char(struct text *text, char c)
{
    if (text->length + 1 < text->size) {
        text->out[text->length++] = c;
    }
}

static void put(struct text *text, const char *string)
{
    while (*string) {
        put_char(text, *string++);
    }
}

static void put_hex(struct text *text, uint64_t value)
{
    int shift = 60;
    while (shift > 0 && !(value >> shift)) {
        shift -= 4;
    }
    put(text, "0x");
    for (; shift >= 0; shift -= 4) {
        put_char(text, "0123456789abcdef"[value >> shift & 15]);
    }
}

static void put_number(struct text *text, uint8_t number)
{
    if (number >= 10) {
        put_char(text, (char)('0' + number / 10));
    }
    put_char(text, (char)('0' + number % 10));
}

static void put_gpr(struct text *text, uint8_t number, uint32_t size_bytes, bool is_high)
{
    static const char names[8][3] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char high[4][3] = {"ah", "ch", "dh", "bh"};
    static const char low[4][3] = {"al", "cl", "dl", "bl"};
    if (is_high) {
        put(text, high[number & 3]);
    } else if (number >= 8) {
        put_char(text, 'r');
        put_number(text, number);
        put(text, size_bytes == 1 ? "b" : size_bytes == 2 ? "w" : size_bytes == 4 ? "d" : "");
    } else if (size_bytes == 1) {
        put(text, number < 4 ? low[number] : names[number]);
        put(text, number < 4 ? "" : "l");
    } else {
        put(text, size_bytes == 8 ? "r" : size_bytes == 4 ? "e" : "");
        put(text, names[number]);
    }
}

static void put_segment(struct text *text, uint8_t number)
{
    static const char names[X86_SEGMENT_COUNT][3] = {"es", "cs", "ss", "ds", "fs", "gs"};
    put(text, names[number % X86_SEGMENT_COUNT]);
}

static void put_register(struct text *text, const struct x86_operand *operand)
{
    switch (operand->reg_class) {
    case X86_REG_GPR:
        put_gpr(text, operand->reg, operand->size_bytes, operand->is_high);
        return;
    case X86_REG_SEGMENT:
        put_segment(text, operand->reg);
        return;
    case X86_REG_X87:
        put(text, "st(");
        put_number(text, operand->reg);
        put_char(text, ')');
        return;
    case X86_REG_CONTROL:
        put(text, "cr");
        break;
    case X86_REG_DEBUG:
        put(text, "dr");
        break;
    case X86_REG_MMX:
        put(text, "mm");
        break;
    default:
        put(text, operand->size_bytes == 32 ? "ymm" : "xmm");
        break;
    }
    put_number(text, operand->reg);
}

static const char *size_name(uint32_t size_bytes)
{
    switch (size_bytes) {
    case 1:
        return "byte ptr ";
    case 2:
        return "word ptr ";
    case 4:
        return "dword ptr ";
    case 6:
        return "fword ptr ";
    case 8:
        return "qword ptr ";
    case 10:
        return "tbyte ptr ";
    case 16:
        return "xmmword ptr ";
    case 32:
        return "ymmword ptr ";
    default:
        return "";
    }
}

static void put_memory(struct text *text, const struct x86_insn *insn,
                       const struct x86_operand *operand)
{
    bool has_register = false;
    uint64_t disp = (uint64_t)insn->disp;
    put(text, operand->access ? size_name(operand->size_bytes) : "");
    if ((insn->prefixes & X86_PREFIX_SEGMENT) &&
        (insn->code_size != X86_CODE_64 || insn->segment >= X86_FS)) {
        put_segment(text, insn->segment);
        put_char(text, ':');
    }
    put_char(text, '[');
    if (insn->base == X86_BASE_RIP) {
        put(text, insn->address_bytes == 4 ? "eip" : "rip");
        has_register = true;
    } else if (insn->base != X86_BASE_NONE) {
        put_gpr(text, insn->base, insn->address_bytes, false);
        has_register = true;
    }
    if (insn->index != X86_BASE_NONE) {
        put(text, has_register ? "+" : "");
        if (insn->is_vsib) {
            put(text, "v");
            put_number(text, insn->index);
        } else {
            put_gpr(text, insn->index, insn->address_bytes, false);
        }
        if (insn->scale > 1) {
            put_char(text, '*');
            put_number(text, insn->scale);
        }
        has_register = true;
    }
    if (!has_register) {
        put_hex(text,
                insn->address_bytes == 8 ? disp : disp & ((1ull << 8 * insn->address_bytes) - 1));
    } else if (insn->disp < 0) {
        put_char(text, '-');
        put_hex(text, 0 - disp);
    } else if (insn->disp > 0) {
        put_char(text, '+');
        put_hex(text, disp);
    }
    put_char(text, ']');
}

static uint64_t cut(uint64_t value, uint32_t size_bytes)
{
    return size_bytes >= 8 ? value : value & ((1ull << 8 * size_bytes) - 1);
}

static void put_operand(struct text *text, const struct x86_insn *insn,
                        const struct x86_operand *operand, uint64_t rip, bool is_second_immediate)
{
    switch (operand->kind) {
    case X86_OPERAND_REG:
        put_register(text, operand);
        return;
    case X86_OPERAND_MEM:
        put_memory(text, insn, operand);
        return;
    case X86_OPERAND_IMM:
        put_hex(text, cut(is_second_immediate ? insn->imm2 : insn->imm, operand->size_bytes));
        return;
    case X86_OPERAND_REL:
        put_hex(text, cut(rip + insn->length + insn->imm, insn->operand_bytes));
        return;
    case X86_OPERAND_FAR:
        put_hex(text, insn->imm2);
        put_char(text, ':');
        put_hex(text, insn->imm);
        return;
    default:
        return;
    }
}

/* The letter that says the size where no operand does. */
static char size_letter(uint32_t size_bytes)
{
    return size_bytes == 1 ? 'b' : size_bytes == 2 ? 'w' : size_bytes == 4 ? 'd' : 'q';
}

static void put_mnemonic(struct text *text, const struct x86_insn *insn)
{
    const struct x86_row *row = &x86_rows[insn->row];
    const char *name = row->mnemonic;
    if (insn->id == X86_ID_JCXZ) {
        put(text, insn->address_bytes == 2 ? "jcxz" : insn->address_bytes == 4 ? "jecxz" : "jrcxz");
        return;
    }
    while (*name && *name != '.') { /* what follows a dot tells rows apart, no assembler knows it */
        put_char(text, *name++);
    }
    if (strcmp(name, ".far") == 0) {
        put(text, " far");
    }
    if (row->attributes & X86_ROW_STRING) {
        bool is_memory = insn->operand[0].kind == X86_OPERAND_MEM;
        put_char(text, size_letter(insn->operand[is_memory ? 0 : 1].size_bytes));
    } else if (insn->id == X86_ID_IRET || insn->id == X86_ID_PUSHF || insn->id == X86_ID_POPF ||
               insn->id == X86_ID_PUSHA || insn->id == X86_ID_POPA) {
        put_char(text, size_letter(insn->operand_bytes));
    }
}

static void put_prefixes(struct text *text, const struct x86_insn *insn)
{
    if (insn->prefixes & X86_PREFIX_LOCK) {
        put(text, "lock ");
    }
    if (!(x86_rows[insn->row].attributes & X86_ROW_STRING)) {
        return;
    }
    if (insn->prefixes & X86_PREFIX_REPNE) {
        put(text, "repne ");
    } else if (insn->prefixes & X86_PREFIX_REP) {
        put(text, insn->id == X86_ID_CMPS || insn->id == X86_ID_SCAS ? "repe " : "rep ");
    }
}

size_t x86_disassemble(const struct x86_insn *insn, uint64_t rip, char *out_text, size_t size)
{
    struct text text = {.out = out_text, .size = size};
    if (size == 0) {
        return 0;
    }
    put_prefixes(&text, insn);
    put_mnemonic(&text, insn);
    uint32_t immediates = 0;
    const char *separator = " ";
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->is_implicit || operand->kind == X86_OPERAND_NONE) {
            continue;
        }
        put(&text, separator);
        separator = ", ";
        put_operand(&text, insn, operand, rip, immediates > 0);
        immediates += operand->kind == X86_OPERAND_IMM;
    }
    text.out[text.length] = 0;
    return text.length;
}
