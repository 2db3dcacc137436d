/* Which window an access will find its address in: where it would be now. Registers are followed from what they hold as the
 * block is translated, loads included. What comes of it is a guess, which the code compares with each address. */
#include "engine/soft/translate/window_guess.h"

#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/windows.h"

/* Smaller ones are indices and counts rather than addresses. */
#define LOWEST_ADDRESS 0x10000u

static bool knows(const struct native_guess *g, uint8_t reg)
{
    return g->known >> reg & 1;
}

static void set(struct native_guess *g, uint8_t reg, uint64_t value)
{
    g->value[reg] = value;
    g->known |= (uint16_t)BIT(reg);
}

static void forget(struct native_guess *g, uint8_t reg)
{
    g->known &= (uint16_t)~BIT(reg);
}

static uint8_t field_reg(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm >> 3 & 7) | (insn->rex & 4) << 1);
}

static uint8_t field_rm(const struct x86_insn *insn)
{
    return (uint8_t)((insn->modrm & 7) | (insn->rex & 1) << 3);
}

/* ADD or SUB of a constant, INC or DEC; *out_reg is a register that it moves. */
static bool is_step(const struct x86_insn *insn, uint8_t *out_reg)
{
    bool is_sum = (insn->id == X86_ID_ADD || insn->id == X86_ID_SUB) &&
                  (insn->opcode == 0x81 || insn->opcode == 0x83);
    *out_reg = field_rm(insn);
    return !insn->map && !insn->has_memory &&
           (is_sum || insn->id == X86_ID_INC || insn->id == X86_ID_DEC);
}

void native_guess_begin(struct native_guess *g, struct soft_vcpu *v,
                        const struct native_source *source)
{
    uint16_t made = 0;
    g->v = v;
    memcpy(g->value, v->gpr, sizeof(g->value));
    g->known = UINT16_MAX;
    g->stepping = 0;
    for (uint32_t i = 0; i < source->count; i++) {
        uint8_t reg;
        if (source->insn[i].kind == NATIVE_PLAIN && is_step(&source->insn[i].insn, &reg)) {
            g->stepping |= (uint16_t)BIT(reg);
        } else {
            made |= native_written_gprs(&source->insn[i].insn);
        }
    }
    /* One that is made anew each time is no pointer that moves. */
    g->stepping &= (uint16_t)~made;
}

static bool find_address(const struct native_guess *g, const struct x86_insn *insn,
                         uint64_t *out_address)
{
    bool has_base = insn->base != X86_BASE_NONE, has_index = insn->index != X86_BASE_NONE;
    if (insn->base == X86_BASE_RIP || insn->address_bytes != 8 || insn->is_vsib) {
        return false;
    }
    uint64_t address = (uint64_t)insn->disp;
    if (insn->segment == X86_FS || insn->segment == X86_GS) {
        address += g->v->segment_base[insn->segment];
    }
    if (has_base && knows(g, insn->base)) {
        address += g->value[insn->base];
    }
    if (has_index && knows(g, insn->index)) {
        address += g->value[insn->index] * insn->scale;
    }
    /* What is not known may be the smaller part. */
    bool is_whole = (!has_base || knows(g, insn->base)) && (!has_index || knows(g, insn->index));
    *out_address = address;
    return is_whole || address >= LOWEST_ADDRESS;
}

/* Pointers that move by constants are known long before memory is, so that nobody waits for their windows: looking them up is less
 * work then. */
bool native_guess_window(const struct native_guess *g, const struct native_insn *n,
                         uint8_t *out_role)
{
    const struct x86_insn *insn = &n->insn;
    uint64_t address = g->value[n->kind == NATIVE_LEAVE ? X86_RBP : X86_RSP];
    if (insn->has_memory) {
        bool is_stepping =
            insn->base < X86_GPR_COUNT && insn->base != X86_RSP && g->stepping >> insn->base & 1;
        if (is_stepping || !find_address(g, insn, &address)) {
            return false;
        }
    }
    return soft_windows_find_role(g->v, address, out_role);
}

/* The pointer that is at 'gva' now. */
static bool load(const struct native_guess *g, uint64_t gva, uint64_t *out_value)
{
    if (gva % GUEST_PAGE_SIZE > GUEST_PAGE_SIZE - sizeof(*out_value)) {
        return false;
    }
    const uint8_t *hva = soft_windows_peek(g->v, gva);
    if (hva) {
        memcpy(out_value, hva, sizeof(*out_value));
    }
    return hva;
}

/* MOV of 64 bits to a register. */
static void follow_move(struct native_guess *g, const struct x86_insn *insn)
{
    uint8_t to = field_reg(insn), from = field_rm(insn);
    uint64_t address, value;
    if (insn->opcode == 0x89) {
        to = field_rm(insn);
        from = field_reg(insn);
    }
    if (!insn->has_memory && knows(g, from)) {
        set(g, to, g->value[from]);
    } else if (insn->has_memory && find_address(g, insn, &address) && load(g, address, &value)) {
        set(g, to, value);
    } else {
        forget(g, to);
    }
}

/* ADD and SUB of 64 bits to a register; false: something else. The sum of a pointer and what is not known is near the pointer. */
static bool follow_sum(struct native_guess *g, const struct x86_insn *insn)
{
    bool is_sub = insn->id == X86_ID_SUB;
    uint8_t to, from;
    if (insn->map || insn->has_memory) {
        return false;
    }
    switch (insn->opcode) {
    case 0x81:
    case 0x83:
        to = field_rm(insn);
        g->value[to] += is_sub ? -insn->imm : insn->imm;
        return true;
    case 0x01:
    case 0x29:
        to = field_rm(insn);
        from = field_reg(insn);
        break;
    case 0x03:
    case 0x2b:
        to = field_reg(insn);
        from = field_rm(insn);
        break;
    default:
        return false;
    }
    if (knows(g, from) && knows(g, to)) {
        g->value[to] += is_sub ? -g->value[from] : g->value[from];
    } else if (knows(g, from) && !is_sub && g->value[from] >= LOWEST_ADDRESS) {
        set(g, to, g->value[from]);
    }
    return true;
}

/* Instructions whose result is known, or near enough; false: what it writes is not known any more. */
static bool follow_known(struct native_guess *g, const struct native_insn *n)
{
    const struct x86_insn *insn = &n->insn;
    uint64_t address;
    bool is_64 = insn->operand_bytes == 8;
    switch (n->kind) {
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSH_MEM:
    case NATIVE_PUSHF:
        return true;
    case NATIVE_MOV_IMM:
        set(g, (uint8_t)((insn->opcode & 7) | (insn->rex & 1) << 3), insn->imm);
        return is_64 || insn->operand_bytes == 4;
    case NATIVE_LEA:
        if (is_64 && find_address(g, insn, &address)) {
            set(g, field_reg(insn), address);
            return true;
        }
        return false;
    case NATIVE_STEP:
        return is_64;
    case NATIVE_PLAIN:
        break;
    default:
        return false;
    }
    if (!is_64) {
        return false;
    }
    switch (insn->id) {
    case X86_ID_MOV:
        if (insn->map || (insn->opcode != 0x8b && (insn->opcode != 0x89 || insn->has_memory))) {
            return false;
        }
        follow_move(g, insn);
        return true;
    case X86_ID_ADD:
    case X86_ID_SUB:
        return follow_sum(g, insn);
    case X86_ID_INC:
    case X86_ID_DEC:
        return true;
    default:
        return false;
    }
}

void native_guess_follow(struct native_guess *g, const struct native_insn *n)
{
    if (follow_known(g, n)) {
        return;
    }
    switch (n->kind) {
    case NATIVE_INTERPRET:
    case NATIVE_STRING:
    case NATIVE_SMALL:
    case NATIVE_CPUID:
        g->known = (uint16_t)BIT(X86_RSP);
        return;
    case NATIVE_POP_REG:
        forget(g, (uint8_t)((n->insn.opcode & 7) | (n->insn.rex & 1) << 3));
        return;
    case NATIVE_LEAVE:
        forget(g, X86_RBP);
        return;
    default:
        break;
    }
    g->known &= (uint16_t)~native_written_gprs(&n->insn);
}
