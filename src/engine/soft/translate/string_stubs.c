/* Stubs of REP MOVS and REP STOS upwards: the host's own instruction on the host's addresses.
 *
 * In windows it goes over as many pages as it takes. Where a page is not mapped yet, the signal's handler maps it, and the
 * instruction goes on; else it ends there, and the rest is done the usual way.
 *
 * Elsewhere it stays within one page on each side, and the TLB has both; all else is done the usual way. */
#include <stddef.h>

#include "engine/soft/string_run.h"
#include "engine/soft/translate/native_string.h"
#include "engine/soft/translate/native_stub.h"
#include "engine/soft/windows.h"

/* Elements are at most so many bytes in all: requests wait for them, and the guard behind a window is larger. */
#define MOST_BYTES_SHIFT 18
_Static_assert(1ull << MOST_BYTES_SHIFT < SOFT_WINDOW_GUARD, "what runs out of a window faults");

/* What is to be added to an address in 'reg', to 'out'. */
static void find_window(struct emitter *e, uint8_t out, uint8_t reg)
{
    emit_op_reg(e, HOST_OP_MOV_REG_RM, out, reg);
    emit_shift(e, HOST_SHR, true, out, SOFT_WINDOW_SHIFT);
    emit_low_word(e, out);
    emit_op_table(e, HOST_OP_MOV_REG_RM, out, out, VCPU_FIELD(window_table) + NATIVE_PUSHED);
}

/* add or sub of the windows. */
static void move_pointers(struct emitter *e, bool has_source, uint8_t opcode)
{
    if (has_source) {
        emit_op_reg(e, opcode, HOST_RSI, HOST_R14);
    }
    emit_op_reg(e, opcode, HOST_RDI, HOST_R15);
}

/* Leaves for the C function if the direction is down. */
static uint8_t *leave_if_down(struct emitter *e)
{
    emit_insn(e, &(struct host_insn){.opcode = 0xf7, /* test dword [flags], DF */
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(flags) + NATIVE_PUSHED});
    emit32(e, X86_FLAG_DF);
    return emit_jcc(e, HOST_IF_NOT_EQUAL);
}

static void emit_repeated(struct emitter *e, uint8_t kind, uint8_t size_bits)
{
    static const uint8_t opcodes[] = {[SOFT_STRING_MOVS] = 0xa4, [SOFT_STRING_STOS] = 0xaa};
    emit8(e, 0xf3);
    if (size_bits == 1) {
        emit8(e, 0x66);
    } else if (size_bits == 3) {
        emit8(e, 0x48);
    }
    emit8(e, opcodes[kind] | (size_bits != 0));
}

/* The usual way. */
static void call_function(const struct soft_native *n, struct emitter *e, uint8_t kind,
                          uint8_t size_bits)
{
    emit_mov_imm(e, HOST_R15,
                 kind | (uint32_t)size_bits << NATIVE_STRING_SIZE_SHIFT | NATIVE_STRING_REP |
                     X86_DS << NATIVE_STRING_SEGMENT_SHIFT);
    emit_bind(emit_jmp(e), n->string);
}

static void make_in_windows(struct soft_native *n, struct emitter *e, uint8_t kind,
                            uint8_t size_bits)
{
    bool has_source = kind == SOFT_STRING_MOVS;
    struct native_window_string *made = &n->window_string[native_string_number(kind, size_bits)];
    made->code = e->at;
    uint8_t *goes_down = leave_if_down(e);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RCX);
    emit_shift(e, HOST_SHR, true, HOST_R14, (uint8_t)(MOST_BYTES_SHIFT - size_bits));
    uint8_t *is_long = emit_jcc(e, HOST_IF_NOT_EQUAL);
    if (has_source) {
        find_window(e, HOST_R14, HOST_RSI);
    }
    find_window(e, HOST_R15, HOST_RDI);
    move_pointers(e, has_source, HOST_OP_ADD_REG_RM);
    made->site.code = (uint32_t)(e->at - n->writable);
    emit_repeated(e, kind, size_bits);
    move_pointers(e, has_source, HOST_OP_SUB_REG_RM);
    native_emit_done(e);

    made->site.cold = (uint32_t)(e->at - n->writable) & BITS(30, 0);
    move_pointers(e, has_source, HOST_OP_SUB_REG_RM);
    emit_bind(goes_down, e->at);
    emit_bind(is_long, e->at);
    call_function(n, e, kind, size_bits);
}

/* R14 = what the page of the address in 'reg' adds to it, if RCX elements from there are in one page that may be accessed; the
 * places of the jumps where it is not so follow in 'out_fails'. */
static void find_page(struct emitter *e, uint8_t reg, int32_t tag, int32_t hva, uint8_t size_bits,
                      uint8_t *out_fails[2])
{
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R15, reg);
    emit_shift(e, HOST_SHR, false, HOST_R15, GUEST_PAGE_SHIFT);
    emit_insn(e, &(struct host_insn){.opcode = 0x81, .reg = 4, .rm = HOST_R15}); /* and */
    emit32(e, SOFT_TLB_SIZE - 1);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, reg);
    emit_op_table(e, HOST_OP_SUB_REG_RM, HOST_R14, HOST_R15, tag + NATIVE_PUSHED);
    emit_insn(e,
              &(struct host_insn){.opcode = 0x81, .w = true, .reg = 7, .rm = HOST_R14}); /* cmp */
    emit32(e, GUEST_PAGE_SIZE - 1);
    out_fails[0] = emit_jcc(e, HOST_IF_ABOVE);
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_LEA, /* where the elements end */
                                     .w = true,
                                     .reg = HOST_R14,
                                     .is_memory = true,
                                     .base = HOST_R14,
                                     .index = HOST_RCX,
                                     .shift = size_bits});
    emit_insn(e, &(struct host_insn){.opcode = 0x81, .w = true, .reg = 7, .rm = HOST_R14});
    emit32(e, GUEST_PAGE_SIZE);
    out_fails[1] = emit_jcc(e, HOST_IF_ABOVE);
    emit_op_table(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_R15, hva + NATIVE_PUSHED);
    emit_op_table(e, HOST_OP_SUB_REG_RM, HOST_R14, HOST_R15, tag + NATIVE_PUSHED);
}

static void make_by_tlb(struct soft_native *n, struct emitter *e, enum soft_tlb_mode mode,
                        uint8_t kind, uint8_t size_bits)
{
    bool has_source = kind == SOFT_STRING_MOVS;
    int32_t tlb = VCPU_FIELD(tlbs) + (int32_t)(mode * sizeof(struct soft_tlb));
    int32_t hva = tlb + (int32_t)offsetof(struct soft_tlb, hva);
    int32_t kept = VCPU_FIELD(native_group) + NATIVE_PUSHED; /* no group goes on behind this */
    uint8_t *fails[6];
    n->tlb_string[mode][native_string_number(kind, size_bits)] = e->at;
    fails[0] = leave_if_down(e);
    emit_insn(e,
              &(struct host_insn){.opcode = 0x81, .w = true, .reg = 7, .rm = HOST_RCX}); /* cmp */
    emit32(e, GUEST_PAGE_SIZE >> size_bits);
    fails[1] = emit_jcc(e, HOST_IF_ABOVE);
    find_page(e, HOST_RDI, tlb + (int32_t)offsetof(struct soft_tlb, write_tag), hva, size_bits,
              &fails[2]);
    if (has_source) {
        emit_op_base(e, HOST_OP_MOV_RM_REG, HOST_R14, HOST_RSP, kept);
        find_page(e, HOST_RSI, tlb + (int32_t)offsetof(struct soft_tlb, read_tag), hva, size_bits,
                  &fails[4]);
        emit_op_base(e, HOST_OP_MOV_REG_RM, HOST_R15, HOST_RSP, kept);
    } else {
        emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R15, HOST_R14);
    }
    move_pointers(e, has_source, HOST_OP_ADD_REG_RM);
    emit_repeated(e, kind, size_bits);
    move_pointers(e, has_source, HOST_OP_SUB_REG_RM);
    native_emit_done(e);
    for (size_t i = 0; i < (has_source ? 6u : 4u); i++) {
        emit_bind(fails[i], e->at);
    }
    call_function(n, e, kind, size_bits);
}

void native_make_string_stubs(struct soft_native *n, struct emitter *e)
{
    for (uint8_t kind = SOFT_STRING_MOVS; kind <= SOFT_STRING_STOS; kind++) {
        for (uint8_t size_bits = 0; size_bits < NATIVE_STRING_SIZES; size_bits++) {
            make_in_windows(n, e, kind, size_bits);
            for (int mode = 0; mode < SOFT_TLB_MODES; mode++) {
                make_by_tlb(n, e, (enum soft_tlb_mode)mode, kind, size_bits);
            }
        }
    }
}

bool native_is_string_stub(const struct soft_native *n, const uint8_t *code)
{
    return code >= n->window_string[0].code &&
           code <= n->tlb_string[SOFT_TLB_MODES - 1][NATIVE_STRING_STUBS - 1];
}

bool native_is_string_stub_of(const struct soft_native *n, const uint8_t *code, bool has_windows,
                              uint32_t tlb)
{
    for (size_t i = 0; i < NATIVE_STRING_STUBS; i++) {
        if (has_windows ? n->window_string[i].code == code
                        : tlb < SOFT_TLB_MODES && n->tlb_string[tlb][i] == code) {
            return true;
        }
    }
    return false;
}

const struct native_window_site *native_find_window_string(const struct soft_native *n,
                                                           uint32_t place)
{
    for (size_t i = 0; i < ARRAY_COUNT(n->window_string); i++) {
        if (n->window_string[i].site.code == place) {
            return &n->window_string[i].site;
        }
    }
    return NULL;
}
