/* The forms of code that blocks may consist of. All that is allowed is allowed here.
 *
 * To let blocks use one more field of the vCPU: a row in 'fields'. One more table in the vCPU that is indexed by a masked
 * register: a row in 'tables', and in check_table() what its members mean. A further stub: a row in verify_find_stub. A
 * further instruction: is_allowed. A new sequence that makes a host address: values that say what is known half way (enum
 * verify_kind), made in transfer() and refined by comparisons in transfer_flags() and verify_edge(); at its end stands a
 * VERIFY_HOST with the bytes that it is good for. Add a sequence that must be refused to tests/unit/engine/test_soft_verify.c
 * as well.
 *
 * Registers: RSP is the vCPU and never written, nor read but as a base; all others hold what the state says. */
#include "engine/soft/translate/verify_forms.h"

#include <stddef.h>
#include <string.h>

#include "base/core/bits.h"
#include "cpu/x86/tables.h"
#include "engine/soft/translate/native_system.h"

#define READ  X86_OPERAND_READ
#define WRITE X86_OPERAND_WRITE

#define MEMBER(type, member) ((uint32_t)offsetof(struct type, member))

struct field {
    uint32_t offset, size;
    uint8_t access;
};

#define VCPU_RIGHTS(member, rights)                                                                \
    {                                                                                              \
        offsetof(struct soft_vcpu, member), sizeof(((struct soft_vcpu *)0)->member), rights        \
    }

/* What blocks may read and write at [rsp + displacement]. */
static const struct field fields[] = {
    {offsetof(struct soft_vcpu, gpr), 8 * X86_GPR_COUNT, READ | WRITE},
    VCPU_RIGHTS(status, READ | WRITE),
    VCPU_RIGHTS(segment_base, READ),
    VCPU_RIGHTS(segment, READ),
    VCPU_RIGHTS(requests, READ),
    VCPU_RIGHTS(native_epoch[0], READ),
    VCPU_RIGHTS(native_epoch[1], READ),
    VCPU_RIGHTS(native_tag, READ),
    VCPU_RIGHTS(native_page, READ | WRITE),
    VCPU_RIGHTS(native_target, READ | WRITE),
    VCPU_RIGHTS(native_x87_live, READ),
    VCPU_RIGHTS(native_x87, READ | WRITE),
    VCPU_RIGHTS(native_fault_rip, READ | WRITE),
    VCPU_RIGHTS(native_fault_unrun, READ | WRITE),
    VCPU_RIGHTS(native_budget, READ | WRITE),
    VCPU_RIGHTS(native_vectors_live, READ),
    VCPU_RIGHTS(interrupt_waiting, READ),
    VCPU_RIGHTS(flags, READ),
    VCPU_RIGHTS(pauses, READ | WRITE),
    VCPU_RIGHTS(cr0, READ),
    VCPU_RIGHTS(cr2, READ),
    VCPU_RIGHTS(cr3, READ),
    VCPU_RIGHTS(cr4, READ),
};

/* Whole elements of native_group are like registers: they keep what is known about a value. */
_Static_assert(sizeof(((struct soft_vcpu *)0)->native_group) == 8 * VERIFY_SLOTS,
               "each element of native_group has its place in struct verify_state");

/* What a memory operand is. */
enum form {
    FORM_NONE, /* no memory */
    FORM_FIELD,
    FORM_SLOT,
    FORM_TLB,
    FORM_JUMP,
    FORM_GUEST,
};

struct memory {
    uint8_t form;    /* enum form */
    uint8_t index;   /* register, of tables; element, of SLOT */
    uint32_t offset; /* of FIELD: in the vCPU; of tables: in the entry */
    uint32_t size;
    uint8_t access;
};

enum verify_stub verify_find_stub(const struct soft_native *n, const uint8_t *target)
{
    const struct {
        const uint8_t *code;
        enum verify_stub stub;
    } stubs[] = {
        {n->load_vectors, VERIFY_STUB_RETURNS},
        {n->load_x87, VERIFY_STUB_RETURNS},
        {n->fill, VERIFY_STUB_FILL},
        {n->interpret, VERIFY_STUB_SITE},
        {n->string, VERIFY_STUB_SITE},
        {n->syscall, VERIFY_STUB_SITE},
        {n->sysret, VERIFY_STUB_SITE},
        {n->iret, VERIFY_STUB_SITE},
        {n->invlpg, VERIFY_STUB_SITE},
        {n->page_fault, VERIFY_STUB_SITE},
        {n->exit_at, VERIFY_STUB_SITE_LAST},
        {n->indirect, VERIFY_STUB_SITE_LAST},
        {n->make_link, VERIFY_STUB_LINK},
    };
    for (size_t i = 0; i < ARRAY_COUNT(stubs); i++) {
        if (stubs[i].code == target) {
            return stubs[i].stub;
        }
    }
    for (unsigned i = 0; i < NATIVE_SMALL_COUNT; i++) {
        if (n->small[i] == target) {
            return i == NATIVE_SMALL_STAC   ? VERIFY_STUB_STAC
                   : i == NATIVE_SMALL_CLAC ? VERIFY_STUB_CLAC
                                            : VERIFY_STUB_SMALL;
        }
    }
    return VERIFY_NO_STUB;
}

void verify_state_unknown(struct verify_state *out, uint8_t tlb)
{
    memset(out, 0, sizeof(*out));
    out->tlb = tlb;
}

static bool is_bounded(const struct verify_value *value)
{
    return value->kind == VERIFY_MASKED || value->kind == VERIFY_INDEX;
}

static void join_value(struct verify_value *into, const struct verify_value *from)
{
    if (is_bounded(into) && is_bounded(from)) {
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
    if (memcmp(&into->flags, &from->flags, sizeof(into->flags)) != 0) {
        memset(&into->flags, 0, sizeof(into->flags));
    }
    into->epochs &= from->epochs;
    into->tlb = into->tlb == from->tlb ? into->tlb : VERIFY_NO_TLB;
    return memcmp(&before, into, sizeof(before)) != 0;
}

/* Instructions of which nothing but registers, flags and the memory operand matters. */
static bool is_allowed(const struct x86_insn *insn)
{
    uint32_t attributes = x86_rows[insn->row].attributes;
    if (attributes & (X86_ROW_PRIVILEGED | X86_ROW_IO | X86_ROW_BRANCH | X86_ROW_STRING |
                      X86_ROW_SYSTEM | X86_ROW_SERIALIZES)) {
        return false;
    }
    switch (insn->id) {
    case X86_ID_LDMXCSR:
    case X86_ID_VLDMXCSR:
        return false; /* would let SIMD exceptions reach the host */
    default:
        break;
    }
    if (attributes & (X86_ROW_SSE | X86_ROW_VEX | X86_ROW_X87 | X86_ROW_MMX)) {
        return true;
    }
    if (insn->map == 1 && ((insn->opcode & 0xf0) == 0x40 || (insn->opcode & 0xf0) == 0x90)) {
        return true; /* CMOVcc, SETcc */
    }
    switch (insn->id) {
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
    case X86_ID_DIV:
    case X86_ID_IDIV:
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
    case X86_ID_BSWAP:
    case X86_ID_LEA:
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
    case X86_ID_NOP:
        return true;
    default:
        return false;
    }
}

static bool is_rsp(const struct x86_operand *operand)
{
    return operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
           operand->reg == X86_RSP && !operand->is_high;
}

static const char *check_registers(const struct x86_insn *insn)
{
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (is_rsp(operand)) {
            return operand->access & WRITE ? "it writes RSP" : "it reads RSP, a host address";
        }
        if (operand->kind == X86_OPERAND_MEM && operand->is_implicit) {
            return "it has implicit memory operands";
        }
        if (operand->kind == X86_OPERAND_REG && operand->reg_class != X86_REG_GPR &&
            operand->reg_class != X86_REG_VECTOR && operand->reg_class != X86_REG_MMX &&
            operand->reg_class != X86_REG_X87) {
            return "it uses registers of the system";
        }
    }
    return NULL;
}

static bool is_slot(const struct memory *memory)
{
    uint32_t offset = memory->offset - (uint32_t)offsetof(struct soft_vcpu, native_group);
    return offset < 8 * VERIFY_SLOTS && offset % 8 == 0 && memory->size == 8 &&
           (memory->access == READ || memory->access == WRITE);
}

static const char *check_field(uint32_t size, struct memory *out)
{
    if (is_slot(out)) {
        out->form = FORM_SLOT;
        out->index = (uint8_t)(16 + (out->offset - offsetof(struct soft_vcpu, native_group)) / 8);
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++) {
        const struct field *field = &fields[i];
        if (out->offset >= field->offset && out->offset - field->offset < field->size) {
            if (out->offset - field->offset + size > field->size) {
                return "it goes beyond a field of the vCPU";
            }
            return out->access & ~field->access ? "it writes a field of the vCPU that it must not"
                                                : NULL;
        }
    }
    return "it uses a part of the vCPU that is not for blocks";
}

/* An element of the TLB of the mode here or of the jump cache, at [rsp + number * 8 + displacement]. */
static const char *check_table(const struct verify_state *state, const struct verify_value *index,
                               struct memory *out)
{
    if (state->tlb >= SOFT_TLB_MODES) {
        return "it may run in more than one mode";
    }
    uint32_t tlb =
        (uint32_t)(offsetof(struct soft_vcpu, tlbs) + state->tlb * sizeof(struct soft_tlb));
    uint32_t jump = (uint32_t)offsetof(struct soft_vcpu, native_jump);
    const struct {
        uint32_t start, member, count;
        enum form form;
    } arrays[] = {
        {tlb, MEMBER(soft_tlb, read_tag), SOFT_TLB_SIZE, FORM_TLB},
        {tlb, MEMBER(soft_tlb, write_tag), SOFT_TLB_SIZE, FORM_TLB},
        {tlb, MEMBER(soft_tlb, hva), SOFT_TLB_SIZE, FORM_TLB},
        {jump, MEMBER(soft_native_jump, rip), NATIVE_JUMP_SIZE, FORM_JUMP},
        {jump, MEMBER(soft_native_jump, tag), NATIVE_JUMP_SIZE, FORM_JUMP},
        {jump, MEMBER(soft_native_jump, code), NATIVE_JUMP_SIZE, FORM_JUMP},
    };
    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++) {
        if (out->offset != arrays[i].start + arrays[i].member) {
            continue;
        }
        if (!is_bounded(index) || index->bits >= arrays[i].count) {
            return "its index is not bound to the table";
        }
        out->offset = arrays[i].member;
        out->form = (uint8_t)arrays[i].form;
        return out->size != 8 || out->access != READ ? "it does not just read an element of a table"
                                                     : NULL;
    }
    return "it is at no table for blocks of this mode";
}

static const char *check_guest(const struct x86_insn *insn, const struct verify_value *base,
                               const struct memory *memory)
{
    int64_t first = insn->disp, end = first + memory->size;
    if (memory->access & ~base->rights) {
        return "the address was checked for reading only";
    }
    if (first < base->low || end > base->high) {
        return "it is larger than what was checked";
    }
    if ((x86_rows[insn->row].attributes & X86_ROW_ALIGNED) && memory->size > 1 &&
        (~base->zero_bits & (memory->size - 1) || first % memory->size)) {
        return "the address was not checked for alignment";
    }
    return NULL;
}

static const char *check_memory(const struct verify_insn *at, const struct verify_state *state,
                                struct memory *out)
{
    const struct x86_insn *insn = &at->insn;
    *out = (struct memory){.form = FORM_NONE};
    if (!insn->has_memory) {
        return NULL;
    }
    if (insn->is_vsib) {
        return "it addresses memory by a vector";
    }
    if (insn->base == X86_BASE_RIP) {
        return "it is relative to RIP";
    }
    const struct x86_operand *operand = NULL;
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        if (insn->operand[i].kind == X86_OPERAND_MEM) {
            operand = &insn->operand[i];
        }
    }
    if (insn->id == X86_ID_LEA) {
        return insn->base == X86_RSP ? "it reads RSP, a host address" : NULL;
    }
    if (!operand || !operand->size_bytes || !(operand->access & (READ | WRITE))) {
        return "the size of its memory operand is not known";
    }
    if (insn->segment == X86_FS || insn->segment == X86_GS) {
        return "it uses the host's FS or GS";
    }
    if (insn->address_bytes != 8) {
        return "its address is cut";
    }
    bool is_bit_test = insn->id == X86_ID_BT || insn->id == X86_ID_BTS || insn->id == X86_ID_BTR ||
                       insn->id == X86_ID_BTC;
    if (is_bit_test && insn->imm_bytes == 0) {
        const struct verify_value *bit = &state->reg[insn->operand[1].reg];
        if (!is_bounded(bit) || bit->bits >= 8u * operand->size_bytes) {
            return "a register moves its address";
        }
    }
    out->size = operand->size_bytes;
    out->access = operand->access & (READ | WRITE);
    if (insn->base == X86_RSP) {
        if (insn->disp < 0 || insn->disp >= (int64_t)sizeof(struct soft_vcpu)) {
            return "it is outside of the vCPU";
        }
        out->offset = (uint32_t)insn->disp;
        out->form = FORM_FIELD;
        if (insn->index == X86_BASE_NONE) {
            return check_field(out->size, out);
        }
        out->index = insn->index;
        return insn->scale == 8 ? check_table(state, &state->reg[insn->index], out)
                                : "its index is not scaled by 8";
    }
    if (insn->base == X86_BASE_NONE || insn->index != X86_BASE_NONE ||
        state->reg[insn->base].kind != VERIFY_HOST) {
        return "its address is not checked";
    }
    out->form = FORM_GUEST;
    return check_guest(insn, &state->reg[insn->base], out);
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
        } else if (value->kind == VERIFY_DIFFERENCE || value->kind == VERIFY_JUMP_TAG) {
            memset(value, 0, sizeof(*value));
        }
    }
    bool is_of_register =
        state->flags.kind != VERIFY_FLAGS_EPOCH && state->flags.kind != VERIFY_FLAGS_BASE;
    if (is_of_register && state->flags.reg == reg) {
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
static void subtract_tag(const struct verify_state *state, uint8_t reg, const struct memory *memory,
                         struct verify_value *out)
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
static void add_page(const struct verify_value *offset, const struct memory *memory,
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
                          const struct memory *memory, struct verify_value *out)
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
    } else if (memory->form == FORM_SLOT) {
        *out = state->reg[memory->index];
    } else if (memory->form == FORM_JUMP && memory->offset == MEMBER(soft_native_jump, tag)) {
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
    if (is_bounded(before)) {
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

static void transfer_lea(const struct verify_insn *at, const struct verify_state *state,
                         struct verify_value *out)
{
    const struct x86_insn *insn = &at->insn;
    if (insn->address_bytes != 8 || insn->operand_bytes != 8 || insn->index != X86_BASE_NONE ||
        insn->base == X86_BASE_NONE || state->reg[insn->base].kind != VERIFY_HOST ||
        insn->disp < -(int64_t)GUEST_PAGE_SIZE || insn->disp > (int64_t)GUEST_PAGE_SIZE) {
        return;
    }
    *out = state->reg[insn->base];
    out->low -= (int32_t)insn->disp;
    out->high -= (int32_t)insn->disp;
    out->zero_bits = 0;
    if (out->low < -(int32_t)GUEST_PAGE_SIZE || out->high > 2 * (int32_t)GUEST_PAGE_SIZE) {
        memset(out, 0, sizeof(*out));
    }
}

/* What the first operand, a register, becomes; *out is VERIFY_ANY before. */
static void transfer(const struct verify_insn *at, const struct verify_state *state,
                     const struct memory *memory, struct verify_value *out)
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
        if (memory->form == FORM_TLB && target->size_bytes == 8) {
            subtract_tag(state, target->reg, memory, out);
        }
        break;
    case X86_ID_ADD:
        if (memory->form == FORM_TLB && target->size_bytes == 8) {
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
        }
        break;
    case X86_ID_BEXTR:
        if (target->size_bytes == 4 && insn->operand[1].kind == X86_OPERAND_REG &&
            is_constant(&state->reg[insn->operand[2].reg], NATIVE_TLB_BITS)) {
            out->kind = VERIFY_INDEX;
            out->of = insn->operand[1].reg;
            out->shift = GUEST_PAGE_SHIFT;
            out->bits = SOFT_TLB_SIZE - 1;
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
                           const struct memory *memory, struct verify_flags *out)
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
    if (is_gpr(first, 8) && memory->form == FORM_JUMP &&
        memory->offset == MEMBER(soft_native_jump, rip)) {
        *out = (struct verify_flags){VERIFY_FLAGS_JUMP_RIP, .reg = memory->index};
        return true;
    }
    if (is_gpr(first, 8) && memory->form == FORM_FIELD &&
        memory->offset == offsetof(struct soft_vcpu, native_tag) &&
        state->reg[first->reg].kind == VERIFY_JUMP_TAG) {
        *out = (struct verify_flags){VERIFY_FLAGS_JUMP_TAG, .reg = state->reg[first->reg].of};
        return true;
    }
    if (memory->form == FORM_FIELD && memory->size == 4 && second->kind == X86_OPERAND_IMM &&
        insn->imm_bytes == 4) {
        for (uint8_t half = 0; half < 2; half++) {
            if (memory->offset == offsetof(struct soft_vcpu, native_epoch) + 4u * half) {
                *out = (struct verify_flags){VERIFY_FLAGS_EPOCH, .reg = half};
                return true;
            }
        }
        if (memory->offset == offsetof(struct soft_vcpu, native_page)) {
            out->kind = VERIFY_FLAGS_BASE;
            return true;
        }
    }
    return false;
}

const char *verify_step(const struct verify_insn *at, struct verify_state *state)
{
    const struct x86_insn *insn = &at->insn;
    struct memory memory;
    if (!is_allowed(insn)) {
        return "blocks must not have this instruction";
    }
    if (insn->has_memory && (insn->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE))) {
        return "it has a prefix that means nothing";
    }
    const char *fault = check_registers(insn);
    fault = fault ? fault : check_memory(at, state, &memory);
    if (fault) {
        return fault;
    }
    struct verify_value result = {0};
    const struct x86_operand *target = &insn->operand[0];
    bool has_target = insn->operand_count && target->kind == X86_OPERAND_REG &&
                      target->reg_class == X86_REG_GPR && target->access & WRITE &&
                      !target->is_high && target->size_bytes >= 4;
    if (has_target) {
        transfer(at, state, &memory, &result);
    }
    struct verify_flags flags = {0};
    bool has_flags = transfer_flags(at, state, &memory, &flags);
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *operand = &insn->operand[i];
        if (operand->kind == X86_OPERAND_REG && operand->reg_class == X86_REG_GPR &&
            operand->access & WRITE) {
            /* The instruction before may have left knowledge about the very register that it read. */
            if ((result.kind == VERIFY_INDEX || result.kind == VERIFY_DIFFERENCE) &&
                result.of == operand->reg) {
                memset(&result, 0, sizeof(result));
            }
            verify_forget(state, operand->reg);
        }
    }
    if (has_target) {
        state->reg[target->reg] = result;
    }
    if (memory.form == FORM_SLOT && memory.access & WRITE) {
        bool is_store = insn->id == X86_ID_MOV && is_gpr(&insn->operand[1], 8);
        verify_forget(state, memory.index);
        if (is_store && state->reg[insn->operand[1].reg].kind == VERIFY_HOST) {
            state->reg[memory.index] = state->reg[insn->operand[1].reg];
        }
    }
    const struct x86_row *row = &x86_rows[insn->row];
    if (has_flags) {
        state->flags = flags;
    } else if ((row->flags_written | row->flags_undefined) & X86_FLAGS_STATUS) {
        memset(&state->flags, 0, sizeof(state->flags));
    }
    return NULL;
}

const char *verify_indirect_jump(const struct verify_insn *at, const struct verify_state *state)
{
    const uint8_t both = VERIFY_JUMP_RIP_IS_RIGHT | VERIFY_JUMP_TAG_IS_RIGHT;
    struct memory memory;
    const char *fault = check_memory(at, state, &memory);
    if (fault) {
        return fault;
    }
    if (memory.form != FORM_JUMP || memory.offset != MEMBER(soft_native_jump, code)) {
        return "it jumps elsewhere than through the jump cache";
    }
    if ((state->reg[memory.index].rights & both) != both) {
        return "the jump cache's entry was not compared";
    }
    return NULL;
}

#define IF_BELOW_OR_EQUAL 0x6
#define IF_ABOVE          0x7
#define IF_EQUAL          0x4
#define IF_NOT_EQUAL      0x5

void verify_edge(uint8_t condition, bool is_taken, struct verify_state *state)
{
    uint8_t holds = is_taken ? condition : condition ^ 1;
    const struct verify_flags *flags = &state->flags;
    struct verify_value *value = &state->reg[flags->reg];
    switch (flags->kind) {
    case VERIFY_FLAGS_LIMIT:
        if (holds == IF_BELOW_OR_EQUAL && value->kind == VERIFY_DIFFERENCE) {
            value->bits = MIN(value->bits, flags->bits);
        }
        break;
    case VERIFY_FLAGS_BITS:
        /* Bits up to the lowest that was not tested. */
        if (holds == IF_EQUAL && (value->kind == VERIFY_DIFFERENCE || value->kind == VERIFY_HOST)) {
            value->zero_bits |= (uint8_t)flags->bits;
        }
        break;
    case VERIFY_FLAGS_JUMP_RIP:
        if (holds == IF_EQUAL && is_bounded(value)) {
            value->rights |= VERIFY_JUMP_RIP_IS_RIGHT;
        }
        break;
    case VERIFY_FLAGS_JUMP_TAG:
        if (holds == IF_EQUAL && is_bounded(value)) {
            value->rights |= VERIFY_JUMP_TAG_IS_RIGHT;
        }
        break;
    case VERIFY_FLAGS_EPOCH:
        if (holds == IF_EQUAL) {
            state->epochs |= (uint8_t)(1u << flags->reg);
        }
        break;
    case VERIFY_FLAGS_BASE:
        if (holds == IF_EQUAL) {
            state->epochs |= VERIFY_BASE;
        }
        break;
    default:
        break;
    }
}
