/* The forms of code that blocks may consist of. All that is allowed is allowed here.
 *
 * To let blocks use one more field of the vCPU: a row in 'fields'. One more table in the vCPU that is indexed by a masked
 * register: a row in 'tables', and in check_table() what its members mean. A further stub: a row in verify_find_stub. A
 * further instruction: is_allowed. A new sequence that makes a host address: values that say what is known half way (enum
 * verify_kind), made in verify_values.c's transfer() and refined by comparisons in its transfer_flags() and verify_edge(); at
 * its end stands a VERIFY_HOST with the bytes that it is good for. Add a sequence that must be refused to
 * tests/unit/engine/test_soft_verify.c as well.
 *
 * Registers: RSP points into the vCPU and is never written, nor read but as a base; all others hold what the state says. */
#include "engine/soft/translate/verify_forms.h"

#include <stddef.h>

#include "base/core/bits.h"
#include "cpu/x86/tables.h"
#include "engine/soft/translate/native_string.h"
#include "engine/soft/translate/native_system.h"
#include "engine/soft/translate/verify_values.h"

#define READ  X86_OPERAND_READ
#define WRITE X86_OPERAND_WRITE

#define MEMBER VERIFY_MEMBER

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
    VCPU_RIGHTS(window_role_slot, READ),
    VCPU_RIGHTS(window_role_add, READ),
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
        {n->cpuid, VERIFY_STUB_SITE},
        {n->syscall, VERIFY_STUB_SITE},
        {n->sysret, VERIFY_STUB_SITE},
        {n->iret, VERIFY_STUB_SITE},
        {n->invlpg, VERIFY_STUB_SITE},
        {n->page_fault, VERIFY_STUB_SITE},
        {n->exit_at, VERIFY_STUB_SITE_LAST},
        {n->indirect, VERIFY_STUB_SITE_LAST},
        {n->indirect_shared, VERIFY_STUB_SITE_LAST},
        {n->make_link, VERIFY_STUB_LINK},
    };
    for (size_t i = 0; i < ARRAY_COUNT(stubs); i++) {
        if (stubs[i].code == target) {
            return stubs[i].stub;
        }
    }
    if (native_is_string_stub(n, target)) {
        return VERIFY_STUB_STRING;
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

static bool is_slot(const struct verify_memory *memory)
{
    uint32_t offset = memory->offset - (uint32_t)offsetof(struct soft_vcpu, native_group);
    return offset < 8 * VERIFY_SLOTS && offset % 8 == 0 && memory->size == 8 &&
           (memory->access == READ || memory->access == WRITE);
}

static const char *check_field(uint32_t size, struct verify_memory *out)
{
    uint32_t in_windows = out->offset - (uint32_t)offsetof(struct soft_vcpu, window_table);
    if (in_windows < sizeof(((struct soft_vcpu *)0)->window_table)) {
        out->form = VERIFY_FORM_FIXED_WINDOW;
        out->offset = in_windows;
        return size != 8 || in_windows % 8 || out->access != READ
                   ? "it does not just read one of the windows"
                   : NULL;
    }
    if (is_slot(out)) {
        out->form = VERIFY_FORM_SLOT;
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

/* An element of the TLB of the mode here or of the jump cache, at [rsp + number * 8 + displacement]; the number is of
 * 8 bytes, be the element larger. */
static const char *check_table(const struct verify_state *state, const struct verify_value *index,
                               struct verify_memory *out)
{
    if (state->tlb >= SOFT_TLB_MODES) {
        return "it may run in more than one mode";
    }
    uint32_t tlb =
        (uint32_t)(offsetof(struct soft_vcpu, tlbs) + state->tlb * sizeof(struct soft_tlb));
    uint32_t jump = (uint32_t)offsetof(struct soft_vcpu, native_jump);
    const struct {
        uint32_t start, member, count;
        enum verify_form form;
    } arrays[] = {
        {tlb, MEMBER(soft_tlb, read_tag), SOFT_TLB_SIZE, VERIFY_FORM_TLB},
        {tlb, MEMBER(soft_tlb, write_tag), SOFT_TLB_SIZE, VERIFY_FORM_TLB},
        {tlb, MEMBER(soft_tlb, hva), SOFT_TLB_SIZE, VERIFY_FORM_TLB},
        {jump, MEMBER(soft_native_jump, rip), NATIVE_JUMP_MASK + 1, VERIFY_FORM_JUMP},
        {jump, MEMBER(soft_native_jump, tag), NATIVE_JUMP_MASK + 1, VERIFY_FORM_JUMP},
        {jump, MEMBER(soft_native_jump, code), NATIVE_JUMP_MASK + 1, VERIFY_FORM_JUMP},
        {jump, MEMBER(soft_native_jump, flags_code), NATIVE_JUMP_MASK + 1, VERIFY_FORM_JUMP},
    };
    if (out->offset == offsetof(struct soft_vcpu, window_table)) {
        out->form = VERIFY_FORM_WINDOW;
        return index->kind != VERIFY_WINDOW_INDEX || state->tlb != SOFT_TLB_USER ||
                       out->size != 8 || out->access != READ
                   ? "it does not just read the window of an address"
                   : NULL;
    }
    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++) {
        if (out->offset != arrays[i].start + arrays[i].member) {
            continue;
        }
        if (!verify_is_bounded(index) || index->bits >= arrays[i].count) {
            return "its index is not bound to the table";
        }
        if (arrays[i].form == VERIFY_FORM_JUMP && index->bits & ~(uint64_t)NATIVE_JUMP_MASK) {
            return "its index is within an entry of the table";
        }
        out->offset = arrays[i].member;
        out->form = (uint8_t)arrays[i].form;
        return out->size != 8 || out->access != READ ? "it does not just read an element of a table"
                                                     : NULL;
    }
    return "it is at no table for blocks of this mode";
}

/* An entry of the mode here of what calls leave for returns, at [rsp + place * 2 + displacement]. */
static const char *check_call_entry(const struct x86_insn *insn, const struct verify_state *state,
                                    struct verify_memory *out)
{
    const struct verify_value *index = &state->reg[insn->index];
    if (state->tlb >= SOFT_TLB_MODES) {
        return "it may run in more than one mode";
    }
    if (!verify_is_bounded(index) || index->bits & ~(uint64_t)NATIVE_CALL_MASK) {
        return "its index is not bound to the calls";
    }
    out->offset -= (uint32_t)(offsetof(struct soft_vcpu, native_call) +
                              state->tlb * sizeof(((struct soft_vcpu *)0)->native_call[0]));
    out->form = VERIFY_FORM_CALL;
    if (out->size != 8) {
        return "it does not use a whole member of a call";
    }
    switch (out->offset) {
    case MEMBER(soft_native_call, rip):
        return out->access == READ || out->access == WRITE ? NULL
                                                           : "it changes a call's return address";
    case MEMBER(soft_native_call, code):
        return insn->id == X86_ID_MOV && out->access == WRITE &&
                       insn->operand[1].kind == X86_OPERAND_REG &&
                       state->reg[insn->operand[1].reg].kind == VERIFY_LANDING
                   ? NULL
                   : "a call's code is no landing";
    default:
        return "it is at no calls of this mode";
    }
}

static const char *check_guest(const struct x86_insn *insn, const struct verify_value *base,
                               const struct verify_memory *memory)
{
    int64_t first = insn->disp, end = first + memory->size;
    if (memory->access & ~base->rights) {
        return "the address was checked for reading only";
    }
    if (first < base->low || end > base->high) {
        return "it is larger than what was checked";
    }
    if (!(base->rights & VERIFY_WINDOWED) && (x86_rows[insn->row].attributes & X86_ROW_ALIGNED) &&
        memory->size > 1 && (~base->zero_bits & (memory->size - 1) || first % memory->size)) {
        return "the address was not checked for alignment";
    }
    return NULL;
}

static const char *check_memory(const struct verify_insn *at, const struct verify_state *state,
                                struct verify_memory *out)
{
    const struct x86_insn *insn = &at->insn;
    *out = (struct verify_memory){.form = VERIFY_FORM_NONE};
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
        if (!verify_is_bounded(bit) || bit->bits >= 8u * operand->size_bytes) {
            return "a register moves its address";
        }
    }
    out->size = operand->size_bytes;
    out->access = operand->access & (READ | WRITE);
    if (insn->base == X86_RSP) {
        int64_t offset = insn->disp + NATIVE_ANCHOR;
        if (offset < 0 || offset >= (int64_t)sizeof(struct soft_vcpu)) {
            return "it is outside of the vCPU";
        }
        out->offset = (uint32_t)offset;
        out->form = VERIFY_FORM_FIELD;
        if (insn->index == X86_BASE_NONE) {
            bool is_aligned =
                !(x86_rows[insn->row].attributes & X86_ROW_ALIGNED) || out->offset % out->size == 0;
            return is_aligned ? check_field(out->size, out) : "it is not aligned";
        }
        out->index = insn->index;
        return insn->scale == 8 ? check_table(state, &state->reg[insn->index], out)
               : insn->scale == 1u << NATIVE_CALL_SHIFT ? check_call_entry(insn, state, out)
                                                        : "its index is not scaled by 8";
    }
    if (verify_is_windowed(insn, state)) {
        out->form = VERIFY_FORM_GUEST;
        return NULL;
    }
    if (insn->base == X86_BASE_NONE || insn->index != X86_BASE_NONE ||
        state->reg[insn->base].kind != VERIFY_HOST) {
        return "its address is not checked";
    }
    out->form = VERIFY_FORM_GUEST;
    return check_guest(insn, &state->reg[insn->base], out);
}

const char *verify_step(const struct verify_insn *at, struct verify_state *state)
{
    const struct x86_insn *insn = &at->insn;
    struct verify_memory memory;
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
    verify_apply(at, &memory, state);
    return NULL;
}

/* JMP to the code of an entry of 'native_call', whose return address has been found right. */
static const char *check_return(const struct x86_insn *insn, const struct verify_state *state)
{
    struct verify_memory memory = {
        .offset = (uint32_t)(insn->disp + NATIVE_ANCHOR), .size = 8, .access = READ};
    memory.offset += MEMBER(soft_native_call, rip) - MEMBER(soft_native_call, code);
    const char *fault = check_call_entry(insn, state, &memory);
    if (fault || memory.offset != MEMBER(soft_native_call, rip)) {
        return fault ? fault : "it jumps to something else than a call's code";
    }
    return state->reg[insn->index].rights & VERIFY_CALL_RIP_IS_RIGHT
               ? NULL
               : "the call's return address was not compared";
}

const char *verify_indirect_jump(const struct verify_insn *at, const struct verify_state *state)
{
    const uint8_t both = VERIFY_JUMP_RIP_IS_RIGHT | VERIFY_JUMP_TAG_IS_RIGHT;
    struct verify_memory memory;
    if (at->insn.base == X86_RSP && at->insn.index != X86_BASE_NONE &&
        at->insn.scale == 1u << NATIVE_CALL_SHIFT) {
        return check_return(&at->insn, state);
    }
    const char *fault = check_memory(at, state, &memory);
    if (fault) {
        return fault;
    }
    if (memory.form != VERIFY_FORM_JUMP ||
        (memory.offset != MEMBER(soft_native_jump, code) &&
         memory.offset != MEMBER(soft_native_jump, flags_code))) {
        return "it jumps elsewhere than through the jump cache";
    }
    if ((state->reg[memory.index].rights & both) != both) {
        return "the jump cache's entry was not compared";
    }
    return NULL;
}
