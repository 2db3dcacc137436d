/* Groups of memory accesses that one check covers: those of a block whose addresses differ by a constant. The first of a group
 * translates the whole span; the others use the host's address that it has left.
 *
 * Registers are followed as 'what it was at some point plus a constant', so that pushes, pops and pointers that advance
 * stay in their group. A group never goes on behind an instruction of the interpreter, which may let others take
 * translations away; nor, when its slow path is taken, behind any other: see translate.c. It does go on behind conditional branches,
 * which may leave the block: the pages' ends and faults that its check meets for an access that is not reached are no matter, as
 * the block's rest then runs without groups. */
#include "base/core/bits.h"
#include "engine/soft/translate/analyze.h"

/* A longer span meets the end of a page too often. */
#define MAX_SPAN 512

struct followed {
    struct {
        uint32_t version;
        int64_t offset;
    } reg[X86_GPR_COUNT];
    uint32_t next_version;
};

struct access {
    union {
        struct {
            uint8_t base, index, scale, segment;
            uint32_t base_version;
        };
        uint64_t place; /* all of these */
    };
    uint32_t index_version;
    int64_t disp;
    uint32_t size;
    bool is_write;
};

struct open_group {
    struct access first;
    int64_t low, high;
    uint32_t part; /* of the block, as conditional branches divide it, that it begins in */
};

static void forget(struct followed *f, uint8_t reg)
{
    f->reg[reg].version = f->next_version++;
    f->reg[reg].offset = 0;
}

/* The one memory access of 'n' that may be in a group. */
static bool find_access(const struct followed *f, const struct native_source *source,
                        const struct native_insn *n, struct access *out)
{
    const struct x86_insn *insn = &n->insn;
    uint8_t word = native_word(source);
    if (n->kind == NATIVE_PLAIN && !insn->has_memory) {
        return false;
    }
    *out =
        (struct access){.base = X86_RSP, .index = X86_BASE_NONE, .segment = X86_DS, .size = word};
    switch (n->kind) {
    case NATIVE_PLAIN:
    case NATIVE_DIVIDE:
        if (!insn->has_memory || insn->address_bytes != word ||
            n->row->attributes & X86_ROW_ALIGNED) {
            return false;
        }
        out->base = insn->base;
        out->index = insn->index;
        out->scale = insn->index != X86_BASE_NONE ? insn->scale : 0;
        out->disp = insn->disp;
        out->size = native_memory_size(insn);
        out->is_write = n->row->memory_access & X86_OPERAND_WRITE;
        if (insn->segment == X86_FS || insn->segment == X86_GS) {
            if (source->is_32) {
                return false; /* each offset has a limit */
            }
            out->segment = insn->segment;
        }
        if (insn->base == X86_BASE_RIP) {
            out->disp += (int64_t)(source->rip + n->offset + insn->length);
        }
        break;
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSHF:
    case NATIVE_PUSH_SELECTOR:
    case NATIVE_CALL:
        out->disp = -(int64_t)word;
        out->is_write = true;
        break;
    case NATIVE_POP_REG:
    case NATIVE_RET:
        break;
    case NATIVE_LEAVE:
        out->base = X86_RBP;
        break;
    default:
        return false;
    }
    if (out->base < X86_GPR_COUNT) {
        out->base_version = f->reg[out->base].version;
        out->disp += f->reg[out->base].offset;
    }
    if (out->index != X86_BASE_NONE) {
        out->index_version = f->reg[out->index].version;
        out->disp += f->reg[out->index].offset * out->scale;
    }
    return true;
}

/* Is it 'reg += constant' in as many bits as addresses have? */
static bool is_step(const struct native_insn *n, uint8_t word, uint8_t *out_reg, int64_t *out_step)
{
    const struct x86_insn *insn = &n->insn;
    if (insn->operand_bytes != word || insn->map ||
        (insn->id != X86_ID_ADD && insn->id != X86_ID_SUB && insn->id != X86_ID_INC &&
         insn->id != X86_ID_DEC && insn->id != X86_ID_LEA)) {
        return false;
    }
    if (n->kind == NATIVE_STEP) {
        *out_reg = insn->opcode & 7;
        *out_step = insn->id == X86_ID_INC ? 1 : -1;
        return true;
    }
    uint8_t rm = (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
    uint8_t reg = (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
    *out_reg = rm;
    if (insn->id == X86_ID_LEA) {
        *out_reg = reg;
        *out_step = insn->disp;
        return insn->base == reg && insn->index == X86_BASE_NONE && insn->address_bytes == word;
    }
    if (insn->has_memory || n->kind != NATIVE_PLAIN) {
        return false;
    }
    bool has_imm = insn->opcode == 0x81 || insn->opcode == 0x83;
    *out_step = word == 4 ? (int32_t)insn->imm : (int64_t)insn->imm;
    if (insn->id == X86_ID_ADD && has_imm) {
        return true;
    }
    if (insn->id == X86_ID_SUB && has_imm) {
        *out_step = -*out_step;
        return true;
    }
    *out_step = insn->id == X86_ID_INC ? 1 : -1;
    return insn->opcode == 0xff && (insn->id == X86_ID_INC || insn->id == X86_ID_DEC);
}

static void follow(struct followed *f, const struct native_insn *n, uint8_t word)
{
    uint8_t reg;
    int64_t step;
    if (is_step(n, word, &reg, &step)) {
        f->reg[reg].offset += step;
        return;
    }
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSH_MEM:
    case NATIVE_PUSHF:
    case NATIVE_PUSH_SELECTOR:
        f->reg[X86_RSP].offset -= word;
        return;
    case NATIVE_POPF:
        f->reg[X86_RSP].offset += word;
        return;
    case NATIVE_POP_MEM:
        f->reg[X86_RSP].offset += word;
        if (!n->insn.has_memory) {
            forget(f, (uint8_t)((n->insn.modrm & 7) | (n->insn.rex & 1) << 3));
        }
        return;
    case NATIVE_POP_REG:
        f->reg[X86_RSP].offset += word;
        forget(f, (uint8_t)((n->insn.opcode & 7) | (n->insn.rex & 1) << 3));
        return;
    case NATIVE_LEAVE:
        forget(f, X86_RSP);
        forget(f, X86_RBP);
        return;
    default:
        break;
    }
    uint16_t written = native_written_gprs(&n->insn);
    for (uint8_t i = 0; i < X86_GPR_COUNT; i++) {
        if (written >> i & 1) {
            forget(f, i);
        }
    }
}

/* A write behind a conditional branch may not be done: only a group that begins behind that, or writes before it, asks whether the
 * page may be written, and sets its dirty bit. */
static bool fits(const struct open_group *group, bool is_written, const struct access *a,
                 uint32_t part)
{
    const struct access *first = &group->first;
    if (first->place != a->place || first->index_version != a->index_version ||
        (a->is_write && !is_written && group->part != part)) {
        return false;
    }
    int64_t low = MIN(group->low, a->disp), high = MAX(group->high, a->disp + a->size);
    return high - low <= MAX_SPAN;
}

void native_find_groups(struct native_source *source)
{
    struct followed followed = {.next_version = 1};
    struct open_group open[NATIVE_MAX_GROUPS];
    uint32_t first_open = 0; /* those before it are closed */
    uint32_t part = 0;
    source->group_count = 0;
    for (uint32_t i = 0; i < source->count; i++) {
        struct native_insn *n = &source->insn[i];
        struct access a;
        n->group = NATIVE_NO_GROUP;
        if (n->kind == NATIVE_INTERPRET || n->kind == NATIVE_STRING || n->kind == NATIVE_CPUID ||
            n->kind == NATIVE_SMALL) {
            /* Of the last, some change how memory is seen, some change registers. */
            first_open = source->group_count;
            for (uint8_t reg = 0; reg < X86_GPR_COUNT; reg++) {
                forget(&followed, reg);
            }
            continue;
        }
        if (find_access(&followed, source, n, &a)) {
            uint32_t number = first_open;
            while (number < source->group_count &&
                   !fits(&open[number], source->group[number].is_written, &a, part)) {
                number++;
            }
            if (number == source->group_count && number < NATIVE_MAX_GROUPS) {
                open[number] = (struct open_group){a, a.disp, a.disp + a.size, part};
                source->group[number] = (struct native_group){.first = i};
                source->group_count++;
            }
            if (number < source->group_count) {
                struct native_group *group = &source->group[number];
                open[number].low = MIN(open[number].low, a.disp);
                open[number].high = MAX(open[number].high, a.disp + a.size);
                group->last = i;
                group->is_written |= a.is_write;
                n->group = (uint8_t)number;
                n->group_disp = (int32_t)(a.disp - open[number].first.disp);
            }
        }
        follow(&followed, n, native_word(source));
        part += n->kind == NATIVE_JCC;
    }
    _Static_assert(NATIVE_MAX_INSNS <= 64, "a bit for each");
    for (uint32_t i = 0; i < source->group_count; i++) {
        source->within_groups |= BIT(source->group[i].last) - BIT(source->group[i].first);
        source->group[i].low = (int32_t)(open[i].low - open[i].first.disp);
        source->group[i].span = (uint32_t)(open[i].high - open[i].low);
    }
}
