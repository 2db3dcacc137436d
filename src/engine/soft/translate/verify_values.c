/* What is known about the values in registers and in native_group: how instructions and comparisons change it, and what holds where
 * paths meet. See verify_forms.c for what is allowed. */
#include "engine/soft/translate/verify_values.h"

#include <string.h>

#include "base/core/bits.h"
#include "cpu/x86/tables.h"
#include "engine/soft/windows.h"

#define MEMBER VERIFY_MEMBER

/* A host address in a window may be moved and accessed so far away: less than its guards are large. */
#define WINDOW_REACH (1u << 30)

void verify_state_unknown(struct verify_state *out, uint8_t tlb)
{
    memset(out, 0, sizeof(*out));
    out->tlb = tlb;
}

static void join_value(struct verify_value *into, const struct verify_value *from)
{
    if (verify_is_bounded(into) && verify_is_bounded(from)) {
        bool is_same = into->kind == from->kind && into->of == from->of &&
                       into->shift == from->shift && into->bits == from->bits;
        into->bits |= from->bits;
        into->rights &= from->rights;
        if (!is_same) {
            into->kind = VERIFY_MASKED;
            into->of = into->shift = 0;
        }
    } else if (into->kind == VERIFY_HOST && from->kind == VERIFY_HOST) {
        into->low = MAX(into->low, from->low);
        into->high = MIN(into->high, from->high);
        into->rights &= from->rights;
        into->zero_bits &= from->zero_bits;
    } else if (into->kind == VERIFY_DIFFERENCE && from->kind == VERIFY_DIFFERENCE &&
               into->of == from->of) {
        into->bits = MAX(into->bits, from->bits);
        into->rights &= from->rights;
        into->zero_bits &= from->zero_bits;
    } else if (memcmp(into, from, sizeof(*into)) != 0) {
        memset(into, 0, sizeof(*into));
    }
}

bool verify_state_join(struct verify_state *into, const struct verify_state *from)
{
    struct verify_state before = *into;
    for (size_t i = 0; i < ARRAY_COUNT(into->reg); i++) {
        join_value(&into->reg[i], &from->reg[i]);
    }
    if (into->flags.kind == VERIFY_FLAGS_EXIT && from->flags.kind == VERIFY_FLAGS_EXIT) {
        into->flags.bits &= from->flags.bits;
    } else if (memcmp(&into->flags, &from->flags, sizeof(into->flags)) != 0) {
        memset(&into->flags, 0, sizeof(into->flags));
    }
    into->epochs &= from->epochs;
    into->tlb = into->tlb == from->tlb ? into->tlb : VERIFY_NO_TLB;
    return memcmp(&before, into, sizeof(before)) != 0;
}

/* Does it say something of register 'of' as it is? */
static bool is_of_register(const struct verify_value *value)
{
    switch (value->kind) {
    case VERIFY_INDEX:
    case VERIFY_DIFFERENCE:
    case VERIFY_JUMP_TAG:
    case VERIFY_WINDOW_BITS:
    case VERIFY_WINDOW_INDEX:
    case VERIFY_WINDOW_GUESSED:
    case VERIFY_WINDOW:
        return true;
    default:
        return false;
    }
}

/* The register has a new value that nothing is known about. */
void verify_forget(struct verify_state *state, uint8_t reg)
{
    for (size_t i = 0; i < ARRAY_COUNT(state->reg); i++) {
        struct verify_value *value = &state->reg[i];
        if (value->of != reg) {
            continue;
        }
        if (value->kind == VERIFY_INDEX) {
            value->kind = VERIFY_MASKED;
            value->of = value->shift = 0;
        } else if (is_of_register(value)) {
            memset(value, 0, sizeof(*value));
        }
    }
    if (state->flags.kind != VERIFY_FLAGS_EXIT && state->flags.reg == reg) {
        memset(&state->flags, 0, sizeof(state->flags));
    }
    memset(&state->reg[reg], 0, sizeof(state->reg[reg]));
}

static bool is_gpr(const struct x86_operand *operand, uint32_t size)
{
    return operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
           operand->size_bytes == size && !operand->is_high;
}

static bool is_constant(const struct verify_value *value, uint64_t bits)
{
    return value->kind == VERIFY_CONSTANT && value->bits == bits;
}

/* SUB address, [TLB entry's tag]: the entry must be that of the address. */
static void subtract_tag(const struct verify_state *state, uint8_t reg,
                         const struct verify_memory *memory, struct verify_value *out)
{
    const struct verify_value *index = &state->reg[memory->index];
    bool is_own_entry = index->kind == VERIFY_INDEX && index->of == reg &&
                        index->shift == GUEST_PAGE_SHIFT && index->bits == SOFT_TLB_SIZE - 1;
    uint8_t rights = memory->offset == MEMBER(soft_tlb, read_tag)    ? VERIFY_READ
                     : memory->offset == MEMBER(soft_tlb, write_tag) ? VERIFY_READ | VERIFY_WRITE
                                                                     : 0;
    if (is_own_entry && rights) {
        out->kind = VERIFY_DIFFERENCE;
        out->of = memory->index;
        out->rights = rights;
        out->bits = UINT64_MAX;
    }
}

/* ADD offset, [the same entry's page]. */
static void add_page(const struct verify_value *offset, const struct verify_memory *memory,
                     struct verify_value *out)
{
    if (offset->kind == VERIFY_DIFFERENCE && offset->of == memory->index &&
        memory->offset == MEMBER(soft_tlb, hva) && offset->bits < GUEST_PAGE_SIZE) {
        out->kind = VERIFY_HOST;
        out->rights = offset->rights;
        out->zero_bits = offset->zero_bits;
        out->low = 0;
        out->high = (int32_t)(GUEST_PAGE_SIZE - offset->bits);
    }
}

static void transfer_move(const struct verify_insn *at, const struct verify_state *state,
                          const struct verify_memory *memory, struct verify_value *out)
{
    const struct x86_operand *source = &at->insn.operand[1];
    uint8_t size = (uint8_t)at->insn.operand[0].size_bytes;
    if (source->kind == X86_OPERAND_IMM && size >= 4) {
        out->kind = VERIFY_CONSTANT;
        out->bits = size == 4 ? (uint32_t)at->insn.imm : at->insn.imm;
    } else if (source->kind == X86_OPERAND_REG && size == 4) {
        out->kind = VERIFY_INDEX;
        out->of = source->reg;
        out->bits = UINT32_MAX;
    } else if (source->kind == X86_OPERAND_REG && size == 8) {
        *out = state->reg[source->reg];
    } else if (memory->form == VERIFY_FORM_SLOT) {
        *out = state->reg[memory->index];
    } else if (memory->form == VERIFY_FORM_FIELD && size == 8 &&
               memory->offset - offsetof(struct soft_vcpu, window_role_add) <
                   8 * SOFT_WINDOW_ROLES) {
        /* What another role's window adds leads out of the host's user space: see windows.h. */
        const struct verify_value *before = &state->reg[at->insn.operand[0].reg];
        bool is_it =
            before->kind == VERIFY_WINDOW_GUESSED &&
            memory->offset == offsetof(struct soft_vcpu, window_role_add) + 8 * before->bits;
        out->kind = is_it ? VERIFY_WINDOW : VERIFY_ANY;
        out->of = is_it ? before->of : 0;
    } else if (memory->form == VERIFY_FORM_FIXED_WINDOW) {
        /* The one of the address in R14, if that is known; see memory_operand.c. */
        const struct verify_value *address = &state->reg[HOST_R14];
        uint64_t slot = address->bits >> SOFT_WINDOW_SHIFT & (SOFT_WINDOW_SLOTS - 1);
        bool is_it = address->kind == VERIFY_CONSTANT && memory->offset == 8 * slot &&
                     state->tlb == SOFT_TLB_USER && at->insn.operand[0].reg != HOST_R14;
        out->kind = is_it ? VERIFY_WINDOW : VERIFY_ANY;
        out->of = is_it ? HOST_R14 : 0;
    } else if (memory->form == VERIFY_FORM_WINDOW) {
        out->kind = VERIFY_WINDOW;
        out->of = state->reg[memory->index].of;
    } else if (memory->form == VERIFY_FORM_JUMP &&
               memory->offset == MEMBER(soft_native_jump, tag)) {
        out->kind = VERIFY_JUMP_TAG;
        out->of = memory->index;
    } else if (size == 4) {
        out->kind = VERIFY_MASKED;
        out->bits = UINT32_MAX;
    }
}

/* AND and SHR by a constant. */
static void transfer_bits(const struct verify_insn *at, const struct verify_value *before,
                          struct verify_value *out)
{
    bool is_32 = at->insn.operand[0].size_bytes == 4;
    uint64_t constant = at->insn.imm;
    if (verify_is_bounded(before)) {
        *out = *before;
        out->rights = 0;
    } else {
        out->kind = VERIFY_MASKED;
        out->bits = UINT64_MAX;
    }
    if (is_32) {
        /* A value that is cut is not what the comparison with its source says, unless it had no more bits. */
        if (out->bits > UINT32_MAX) {
            out->kind = VERIFY_MASKED;
            out->of = out->shift = 0;
            out->bits = UINT32_MAX;
        }
        constant = (uint32_t)constant;
    }
    if (at->insn.id == X86_ID_AND) {
        out->bits &= constant;
        return;
    }
    constant &= is_32 ? 31 : 63;
    out->bits >>= constant;
    out->shift = (uint8_t)(out->shift + constant);
    if (out->kind == VERIFY_MASKED) {
        out->shift = 0;
    }
}

/* LEA of an address and what its window adds. */
static void add_window(const struct x86_insn *insn, const struct verify_state *state,
                       struct verify_value *out)
{
    if (verify_is_windowed(insn, state) && insn->disp > -(int64_t)WINDOW_REACH &&
        insn->disp < (int64_t)WINDOW_REACH) {
        out->kind = VERIFY_HOST;
        out->rights = VERIFY_READ | VERIFY_WRITE | VERIFY_WINDOWED;
        out->low = -(int32_t)WINDOW_REACH;
        out->high = (int32_t)WINDOW_REACH;
    }
}

static void transfer_lea(const struct verify_insn *at, const struct verify_state *state,
                         struct verify_value *out)
{
    const struct x86_insn *insn = &at->insn;
    if (insn->address_bytes == 8 && insn->operand_bytes == 8 && insn->base != X86_BASE_NONE &&
        insn->base != X86_BASE_RIP && insn->index != X86_BASE_NONE) {
        add_window(insn, state, out);
        return;
    }
    if (insn->address_bytes != 8 || insn->operand_bytes != 8 || insn->index != X86_BASE_NONE ||
        insn->base == X86_BASE_NONE || state->reg[insn->base].kind != VERIFY_HOST ||
        insn->disp < -(int64_t)GUEST_PAGE_SIZE || insn->disp > (int64_t)GUEST_PAGE_SIZE) {
        return;
    }
    *out = state->reg[insn->base];
    out->low -= (int32_t)insn->disp;
    out->high -= (int32_t)insn->disp;
    out->zero_bits = 0;
    int32_t beyond = out->rights & VERIFY_WINDOWED ? (int32_t)(2 * WINDOW_REACH - (1u << 20)) : 0;
    if (out->low < -(int32_t)GUEST_PAGE_SIZE - beyond ||
        out->high > 2 * (int32_t)GUEST_PAGE_SIZE + beyond) {
        memset(out, 0, sizeof(*out));
    }
}

/* What the first operand, a register, becomes; *out is VERIFY_ANY before. */
static void transfer(const struct verify_insn *at, const struct verify_state *state,
                     const struct verify_memory *memory, struct verify_value *out)
{
    const struct x86_insn *insn = &at->insn;
    const struct x86_operand *target = &insn->operand[0];
    bool is_immediate = insn->operand_count > 1 && insn->operand[1].kind == X86_OPERAND_IMM;
    switch (insn->id) {
    case X86_ID_MOV:
        transfer_move(at, state, memory, out);
        break;
    case X86_ID_LEA:
        transfer_lea(at, state, out);
        break;
    case X86_ID_AND:
    case X86_ID_SHR:
        if (is_immediate) {
            transfer_bits(at, &state->reg[target->reg], out);
        }
        break;
    case X86_ID_SUB:
        if (memory->form == VERIFY_FORM_TLB && target->size_bytes == 8) {
            subtract_tag(state, target->reg, memory, out);
        }
        break;
    case X86_ID_ADD:
        if (memory->form == VERIFY_FORM_TLB && target->size_bytes == 8) {
            add_page(&state->reg[target->reg], memory, out);
        }
        break;
    case X86_ID_RORX:
        /* The low 32 - n bits are those of a shift; a mask for fewer of them follows. */
        if (target->size_bytes == 4 && insn->operand[1].kind == X86_OPERAND_REG &&
            (insn->imm & 31) == GUEST_PAGE_SHIFT) {
            out->kind = VERIFY_INDEX;
            out->of = insn->operand[1].reg;
            out->shift = GUEST_PAGE_SHIFT;
            out->bits = UINT32_MAX;
        } else if (target->size_bytes == 8 && insn->operand[1].kind == X86_OPERAND_REG &&
                   (insn->imm & 63) == SOFT_WINDOW_SHIFT) {
            out->kind = VERIFY_WINDOW_BITS;
            out->of = insn->operand[1].reg;
        }
        break;
    case X86_ID_MOVZX:
        if (target->size_bytes == 4 && insn->operand[1].kind == X86_OPERAND_REG &&
            insn->operand[1].size_bytes == 2 &&
            state->reg[insn->operand[1].reg].kind == VERIFY_WINDOW_BITS) {
            out->kind = VERIFY_WINDOW_INDEX;
            out->of = state->reg[insn->operand[1].reg].of;
        }
        break;
    case X86_ID_BEXTR:
        if (target->size_bytes == 4 && insn->operand[1].kind == X86_OPERAND_REG &&
            is_constant(&state->reg[insn->operand[2].reg], NATIVE_TLB_BITS)) {
            out->kind = VERIFY_INDEX;
            out->of = insn->operand[1].reg;
            out->shift = GUEST_PAGE_SHIFT;
            out->bits = SOFT_TLB_SIZE - 1;
        } else if (target->size_bytes == 8 && insn->operand[1].kind == X86_OPERAND_REG &&
                   is_constant(&state->reg[insn->operand[2].reg], NATIVE_WINDOW_BITS)) {
            out->kind = VERIFY_WINDOW_INDEX;
            out->of = insn->operand[1].reg;
        }
        break;
    case X86_ID_IMUL:
        if (target->size_bytes == 4) {
            out->kind = VERIFY_MASKED;
            out->bits = UINT32_MAX;
        }
        break;
    default:
        break;
    }
}

/* Comparisons; false: the flags say nothing. */
static bool transfer_flags(const struct verify_insn *at, const struct verify_state *state,
                           const struct verify_memory *memory, struct verify_flags *out)
{
    const struct x86_insn *insn = &at->insn;
    const struct x86_operand *first = &insn->operand[0], *second = &insn->operand[1];
    if (insn->id == X86_ID_TEST && is_gpr(first, 1) && second->kind == X86_OPERAND_IMM) {
        *out =
            (struct verify_flags){VERIFY_FLAGS_BITS, .reg = first->reg, .bits = (uint8_t)insn->imm};
        return true;
    }
    if (insn->id != X86_ID_CMP) {
        return false;
    }
    if (is_gpr(first, 8) && second->kind == X86_OPERAND_IMM) {
        *out = (struct verify_flags){VERIFY_FLAGS_LIMIT, .reg = first->reg, .bits = insn->imm};
        return true;
    }
    uint64_t role = memory->offset - offsetof(struct soft_vcpu, window_role_slot);
    if (is_gpr(first, 1) && memory->form == VERIFY_FORM_FIELD && role < SOFT_WINDOW_ROLES) {
        *out = (struct verify_flags){VERIFY_FLAGS_GUESS, .reg = first->reg, .bits = role};
        return true;
    }
    if (is_gpr(first, 8) && memory->form == VERIFY_FORM_JUMP &&
        memory->offset == MEMBER(soft_native_jump, rip)) {
        *out = (struct verify_flags){VERIFY_FLAGS_JUMP_RIP, .reg = memory->index};
        return true;
    }
    if (is_gpr(first, 8) && memory->form == VERIFY_FORM_CALL) {
        *out = (struct verify_flags){VERIFY_FLAGS_CALL_RIP, .reg = memory->index};
        return true;
    }
    if (is_gpr(first, 8) && memory->form == VERIFY_FORM_FIELD &&
        memory->offset == offsetof(struct soft_vcpu, native_tag) &&
        state->reg[first->reg].kind == VERIFY_JUMP_TAG) {
        *out = (struct verify_flags){VERIFY_FLAGS_JUMP_TAG, .reg = state->reg[first->reg].of};
        return true;
    }
    if (memory->form == VERIFY_FORM_FIELD && memory->size == 4 && second->kind == X86_OPERAND_IMM &&
        insn->imm_bytes == 4) {
        for (uint8_t half = 0; half < 2; half++) {
            if (memory->offset == offsetof(struct soft_vcpu, native_epoch) + 4u * half) {
                *out = (struct verify_flags){VERIFY_FLAGS_EXIT,
                                             .bits = state->epochs | (uint64_t)(1u << half)};
                return true;
            }
        }
        if (memory->offset == offsetof(struct soft_vcpu, native_page)) {
            *out = (struct verify_flags){VERIFY_FLAGS_EXIT, .bits = state->epochs | VERIFY_BASE};
            return true;
        }
    }
    return false;
}

void verify_fill(struct verify_state *state)
{
    const struct verify_value *access = &state->reg[HOST_R15];
    uint64_t once = NATIVE_FILL_WRITE | NATIVE_FILL_ONCE;
    bool is_known = access->kind == VERIFY_CONSTANT;
    struct verify_flags flags = {0};
    if (!is_known || access->bits & NATIVE_FILL_ONCE) {
        uint64_t size = access->bits & (NATIVE_FILL_ONCE - 1);
        if (is_known && (access->bits & once) == once && size <= GUEST_PAGE_SIZE) {
            flags = (struct verify_flags){VERIFY_FLAGS_FILLED, .reg = HOST_R14, .bits = size};
        }
        verify_forget(state, HOST_R14);
    }
    verify_forget(state, HOST_R15);
    state->flags = flags;
}

void verify_apply(const struct verify_insn *at, const struct verify_memory *memory,
                  struct verify_state *state)
{
    const struct x86_insn *insn = &at->insn;
    struct verify_value result = {0};
    const struct x86_operand *target = &insn->operand[0];
    bool has_target = insn->operand_count && target->kind == X86_OPERAND_REG &&
                      target->reg_class == X86_REG_GPR && target->access & X86_OPERAND_WRITE &&
                      !target->is_high && target->size_bytes >= 4;
    if (has_target) {
        transfer(at, state, memory, &result);
    }
    struct verify_flags flags = {0};
    bool has_flags = transfer_flags(at, state, memory, &flags);
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
            operand->access & X86_OPERAND_WRITE) {
            /* The instruction before may have left knowledge about the very register that it read. */
            if (is_of_register(&result) && result.of == operand->reg) {
                memset(&result, 0, sizeof(result));
            }
            verify_forget(state, operand->reg);
        }
    }
    if (has_target) {
        state->reg[target->reg] = result;
    }
    if (memory->form == VERIFY_FORM_SLOT && memory->access & X86_OPERAND_WRITE) {
        bool is_store = insn->id == X86_ID_MOV && is_gpr(&insn->operand[1], 8);
        verify_forget(state, memory->index);
        if (is_store && state->reg[insn->operand[1].reg].kind == VERIFY_HOST) {
            state->reg[memory->index] = state->reg[insn->operand[1].reg];
        }
    }
    const struct x86_row *row = &x86_rows[insn->row];
    if (has_flags) {
        state->flags = flags;
    } else if ((row->flags_written | row->flags_undefined) & X86_FLAGS_STATUS) {
        memset(&state->flags, 0, sizeof(state->flags));
    }
}

void verify_edge(uint8_t condition, bool is_taken, struct verify_state *state)
{
    uint8_t holds = is_taken ? condition : condition ^ 1;
    const struct verify_flags *flags = &state->flags;
    struct verify_value *value = &state->reg[flags->reg];
    switch (flags->kind) {
    case VERIFY_FLAGS_LIMIT:
        if (holds == HOST_IF_BELOW_OR_EQUAL && value->kind == VERIFY_DIFFERENCE) {
            value->bits = MIN(value->bits, flags->bits);
        }
        break;
    case VERIFY_FLAGS_GUESS:
        if (holds == HOST_IF_EQUAL && value->kind == VERIFY_WINDOW_BITS) {
            value->kind = VERIFY_WINDOW_GUESSED;
            value->bits = flags->bits;
        }
        break;
    case VERIFY_FLAGS_BITS:
        /* Bits up to the lowest that was not tested. */
        if (holds == HOST_IF_EQUAL &&
            (value->kind == VERIFY_DIFFERENCE || value->kind == VERIFY_HOST)) {
            value->zero_bits |= (uint8_t)flags->bits;
        }
        break;
    case VERIFY_FLAGS_JUMP_RIP:
        if (holds == HOST_IF_EQUAL && verify_is_bounded(value)) {
            value->rights |= VERIFY_JUMP_RIP_IS_RIGHT;
        }
        break;
    case VERIFY_FLAGS_JUMP_TAG:
        if (holds == HOST_IF_EQUAL && verify_is_bounded(value)) {
            value->rights |= VERIFY_JUMP_TAG_IS_RIGHT;
        }
        break;
    case VERIFY_FLAGS_CALL_RIP:
        if (holds == HOST_IF_EQUAL && verify_is_bounded(value)) {
            value->rights |= VERIFY_CALL_RIP_IS_RIGHT;
        }
        break;
    case VERIFY_FLAGS_FILLED:
        if (holds == HOST_IF_ABOVE) {
            uint64_t size = flags->bits;
            verify_forget(state, HOST_R14);
            state->reg[HOST_R14] = (struct verify_value){
                .kind = VERIFY_HOST, .rights = VERIFY_READ | VERIFY_WRITE, .high = (int32_t)size};
        }
        break;
    case VERIFY_FLAGS_EXIT:
        if (holds == HOST_IF_EQUAL) {
            state->epochs |= (uint8_t)flags->bits;
        } else if (holds == HOST_IF_NOT_EQUAL) {
            state->flags.bits = UINT8_MAX; /* 'equal' has been ruled out, and says anything */
        }
        break;
    default:
        break;
    }
}
