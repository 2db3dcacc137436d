/* Calls and returns. A CALL leaves where it comes back to, the landing, with the return address in the vCPU, at a place that the guest's
 * stack pointer says. RET looks there: if its target is that return address, it goes to the landing. What has been changed since is
 * looked up as any indirect branch is, in the jump cache, whose entries for a big program's returns are more than the host's caches hold.
 *
 *           mov   [entry's rip], return address          cmp   target, [entry's rip]
 *           lea   r15, [landing]                         jne   to the jump cache
 *           mov   [entry's code], r15                    jmp   [entry's code]
 *
 * The landing is the block at the return address, or the stub of the link until there is one. It is in the page of the CALL, so it needs
 * no comparison: an entry is good for the tag (mode and epoch) that has been the vCPU's when it was made, and native_use_tag has
 * all of them go when that changes. When a block goes that may be in an entry, all of its mode go; and when code is taken away.
 *
 * RET leaves the status flags in 'status', and goes to the landing's entry for that. */
#include <stddef.h>

#include "base/core/bits.h"
#include "engine/soft/translate/native_stub.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

#define GROUP_JMP 4 /* of opcode ff */

/* An instruction with a member of the entry whose place is in 'index'. */
static void emit_entry(struct translation *t, uint8_t opcode, bool w, uint8_t reg, uint8_t index,
                       size_t member)
{
    size_t start = offsetof(struct soft_vcpu, native_call) +
                   t->tlb * sizeof(((struct soft_vcpu *)0)->native_call[0]);
    _Static_assert(sizeof(struct soft_native_call) == 8u << NATIVE_CALL_SHIFT,
                   "for each word of the stack one");
    emit_insn(&t->e, &(struct host_insn){.opcode = opcode,
                                         .w = w,
                                         .reg = reg,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = index,
                                         .shift = NATIVE_CALL_SHIFT,
                                         .disp = (int32_t)(start + member) - NATIVE_ANCHOR});
}

#define MEMBER(member) offsetof(struct soft_native_call, member)

/* 'reg' = the place of the entry for the word at the guest's stack pointer. */
static void emit_place(struct translation *t, uint8_t reg)
{
    struct emitter *e = &t->e;
    bool is_moved = t->stack_pending;
    emit_insn(e, &(struct host_insn){.opcode = is_moved ? HOST_OP_LEA : HOST_OP_MOV_REG_RM,
                                     .reg = reg,
                                     .is_memory = is_moved,
                                     .rm = HOST_R13,
                                     .base = HOST_R13,
                                     .index = HOST_NONE,
                                     .disp = t->stack_pending});
    emit8(e, 0x41); /* and reg, mask */
    emit8(e, 0x81);
    emit8(e, 0xe0 | (reg & 7));
    emit32(e, NATIVE_CALL_MASK);
}

void native_emit_landing(struct translation *t, uint64_t next, bool has_next)
{
    struct emitter *e = &t->e;
    bool is_mode = t->tlb == (t->block->mode & NATIVE_MODE_TLB);
    if (!t->has_landings || !is_mode || !native_is_same_page(t, next)) {
        return;
    }
    emit_place(t, ADDRESS);
    if (has_next) {
        emit_entry(t, HOST_OP_MOV_RM_REG, true, SCRATCH, ADDRESS, MEMBER(rip));
    } else {
        emit_entry(t, 0xc7, true, 0, ADDRESS, MEMBER(rip));
        emit32(e, (uint32_t)next);
    }
    emit8(e, 0x4c); /* lea r15, [rip + landing] */
    emit8(e, 0x8d);
    emit8(e, 0x3d);
    native_new_landing(t, next)->place = e->at;
    e->at += 4;
    emit_entry(t, HOST_OP_MOV_RM_REG, true, SCRATCH, ADDRESS, MEMBER(code));
}

void native_emit_return(struct translation *t, int32_t pops)
{
    struct emitter *e = &t->e;
    emit_place(t, SCRATCH);
    native_emit_move_stack(t, pops);
    emit_fit(e, 8 + EMIT_JCC_SIZE);
    emit_entry(t, HOST_OP_CMP_REG_RM, true, ADDRESS, SCRATCH, MEMBER(rip));
    struct slow_path *slow = native_add_slow(t, SLOW_RETURN);
    slow->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    slow->stack_change = pops;
    slow->flags = (uint8_t)t->flags;
    if (t->is_shared) {
        native_emit_jump_page(e, 0);
    }
    emit_fit(e, 8);
    emit_entry(t, 0xff, false, GROUP_JMP, SCRATCH, MEMBER(code));
}
