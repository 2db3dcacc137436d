/* Stubs of REP MOVS and REP STOS in windows: the host's own instruction on the addresses there, over as many pages as it
 * takes. Where a page is not mapped yet, the signal's handler maps it, and the instruction goes on; else it ends there, and
 * the rest is done the usual way. */
#include <stddef.h>

#include "engine/soft/string_run.h"
#include "engine/soft/translate/native_string.h"
#include "engine/soft/windows.h"

/* Elements are at most so many bytes in all: requests wait for them, and the guard behind a window is larger. */
#define MOST_BYTES_SHIFT 18
_Static_assert(1ull << MOST_BYTES_SHIFT < SOFT_WINDOW_GUARD, "what runs out of a window faults");

#define RETURN_ADDRESS 8 /* RSP is so much lower in a stub */

static void shift_right(struct emitter *e, uint8_t reg, uint8_t count)
{
    emit_insn(e, &(struct host_insn){.opcode = 0xc1, .w = true, .reg = 5, .rm = reg});
    emit8(e, count);
}

/* What is to be added to an address in 'reg', to 'out'. */
static void find_window(struct emitter *e, uint8_t out, uint8_t reg)
{
    emit_op_reg(e, HOST_OP_MOV_REG_RM, out, reg);
    shift_right(e, out, SOFT_WINDOW_SHIFT);
    emit_low_word(e, out);
    emit_op_table(e, HOST_OP_MOV_REG_RM, out, out, VCPU_FIELD(window_table) + RETURN_ADDRESS);
}

/* add or sub of the windows. */
static void move_pointers(struct emitter *e, bool has_source, uint8_t opcode)
{
    if (has_source) {
        emit_op_reg(e, opcode, HOST_RSI, HOST_R14);
    }
    emit_op_reg(e, opcode, HOST_RDI, HOST_R15);
}

static void make_one(struct soft_native *n, struct emitter *e, uint8_t kind, uint8_t size_bits)
{
    static const uint8_t opcodes[] = {[SOFT_STRING_MOVS] = 0xa4, [SOFT_STRING_STOS] = 0xaa};
    bool has_source = kind == SOFT_STRING_MOVS;
    n->window_string[kind][size_bits] = e->at;
    emit_insn(e, &(struct host_insn){.opcode = 0xf7, /* test dword [flags], DF */
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(flags) + RETURN_ADDRESS});
    emit32(e, X86_FLAG_DF);
    uint8_t *goes_down = emit_jcc(e, HOST_IF_NOT_EQUAL);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_R14, HOST_RCX);
    shift_right(e, HOST_R14, (uint8_t)(MOST_BYTES_SHIFT - size_bits));
    uint8_t *is_long = emit_jcc(e, HOST_IF_NOT_EQUAL);
    if (has_source) {
        find_window(e, HOST_R14, HOST_RSI);
    }
    find_window(e, HOST_R15, HOST_RDI);
    move_pointers(e, has_source, HOST_OP_ADD_REG_RM);
    struct native_window_site *site = &n->window_string_site[kind][size_bits];
    site->code = (uint32_t)(e->at - n->writable);
    emit8(e, 0xf3); /* rep */
    if (size_bits == 1) {
        emit8(e, 0x66);
    } else if (size_bits == 3) {
        emit8(e, 0x48);
    }
    emit8(e, opcodes[kind] | (size_bits != 0));
    move_pointers(e, has_source, HOST_OP_SUB_REG_RM);
    emit8(e, 0x41); /* pop r14 */
    emit8(e, 0x5e);
    emit_op_base(e, HOST_OP_LEA, HOST_R14, HOST_R14, sizeof(struct native_site));
    emit8(e, 0x41); /* jmp r14 */
    emit8(e, 0xff);
    emit8(e, 0xe6);

    site->cold = (uint32_t)(e->at - n->writable) & BITS(30, 0);
    move_pointers(e, has_source, HOST_OP_SUB_REG_RM);
    emit_bind(goes_down, e->at);
    emit_bind(is_long, e->at);
    emit_mov_imm(e, HOST_R15,
                 kind | (uint32_t)size_bits << NATIVE_STRING_SIZE_SHIFT | NATIVE_STRING_REP |
                     X86_DS << NATIVE_STRING_SEGMENT_SHIFT);
    emit_bind(emit_jmp(e), n->string);
}

void native_make_window_strings(struct soft_native *n, struct emitter *e)
{
    for (uint8_t kind = SOFT_STRING_MOVS; kind <= SOFT_STRING_STOS; kind++) {
        for (uint8_t size_bits = 0; size_bits < 4; size_bits++) {
            make_one(n, e, kind, size_bits);
        }
    }
}

const struct native_window_site *native_find_window_string(const struct soft_native *n,
                                                           uint32_t place)
{
    for (size_t i = 0; i < ARRAY_COUNT(n->window_string_site) * NATIVE_STRING_SIZES; i++) {
        const struct native_window_site *site = &n->window_string_site[0][0] + i;
        if (site->code == place) {
            return site;
        }
    }
    return NULL;
}
