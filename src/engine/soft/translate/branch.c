/* Branches, and the exits of blocks. */
#include <stddef.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/translate/native_stub.h"
#include "engine/soft/translate/translate.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

bool native_is_same_page(const struct translation *t, uint64_t rip)
{
    return rip >> GUEST_PAGE_SHIFT == t->source->rip >> GUEST_PAGE_SHIFT &&
           (rip & (GUEST_PAGE_SIZE - 1)) <= GUEST_PAGE_SIZE - X86_INSN_MAX_LENGTH;
}

void native_fit_next(struct translation *t, const struct native_insn *n, uint8_t *start)
{
    bool has_next = t->index + 1 < t->source->count;
    if (!has_next || t->source->insn[t->index + 1].kind != NATIVE_JCC ||
        (n->insn.has_memory && n->insn.imm_bytes)) {
        return;
    }
    switch (n->insn.id) {
    case X86_ID_ADD:
    case X86_ID_AND:
    case X86_ID_CMP:
    case X86_ID_DEC:
    case X86_ID_INC:
    case X86_ID_SUB:
    case X86_ID_TEST:
        emit_move_to_fit(&t->e, start, EMIT_JCC_SIZE);
        break;
    default:
        break;
    }
}

/* A new exit of the block; its stub comes at the end. */
static struct block_exit *new_exit(struct translation *t, uint64_t rip, uint32_t live)
{
    struct block_exit *out = &t->exit[t->exit_count++];
    bool is_saved = t->flags & FLAGS_SAVED, is_host = t->flags & FLAGS_HOST;
    *out = (struct block_exit){
        .rip = rip, .with_flags = !live || is_host, .is_saved = !live || is_saved};
    return out;
}

struct block_exit *native_new_landing(struct translation *t, uint64_t rip)
{
    struct block_exit *out = &t->exit[t->exit_count++];
    *out = (struct block_exit){.rip = rip, .is_saved = true, .is_landing = true};
    return out;
}

void native_emit_exit(struct translation *t, uint64_t rip, uint32_t live)
{
    struct emitter *e = &t->e;
    int64_t distance = (int64_t)rip >> GUEST_PAGE_SHIFT;
    bool is_too_far = t->is_shared && distance != (int32_t)distance;
    if (native_is_same_page(t, rip) || is_too_far) { /* the latter is never linked */
        if (t->counts) {
            native_give_up_flags(t, live);
        }
        struct block_exit *exit = new_exit(t, rip, live);
        exit->place = emit_jmp(e);
        return;
    }
    native_give_up_flags(t, live);
    struct block_exit *exit = new_exit(t, rip, live);
    int32_t half = t->is_shared ? 0 : (int32_t)(rip >> 63);
    exit->epoch = emit_cmp_field(e, VCPU_FIELD(native_epoch) + 4 * half, 0);
    if (t->is_shared) {
        emit_fit(e, 2);
        emit8(e, 0x70 | HOST_IF_NOT_EQUAL); /* to the jump behind the next comparison */
        uint8_t *over = e->at++;
        exit->base = emit_cmp_field(e, VCPU_FIELD(native_page), 0);
        *over = (uint8_t)(e->at - (over + 1));
    }
    exit->to_stub = emit_jcc(e, HOST_IF_NOT_EQUAL);
    if (t->is_shared) {
        bool is_near = distance == (int8_t)distance;
        int32_t imm = (int32_t)distance;
        emit_insn(e,
                  &(struct host_insn){.opcode = is_near ? 0x83 : 0x81, /* add qword [native_page] */
                                      .w = true,
                                      .is_memory = true,
                                      .base = HOST_RSP,
                                      .index = HOST_NONE,
                                      .disp = VCPU_FIELD(native_page),
                                      .imm_bytes = is_near ? 1 : 4,
                                      .imm = (const uint8_t *)&imm});
    }
    exit->place = emit_jmp(e);
}

/* How far 'at' is before the exit's place; 0: nowhere. */
static uint8_t before_place(const struct block_exit *exit, const uint8_t *at)
{
    return at ? (uint8_t)(exit->place - at) : 0;
}

static void make_link(const struct translation *t, uint32_t number)
{
    const struct block_exit *exit = &t->exit[number];
    const uint8_t *code = native_code(t->native, t->block);
    const uint8_t *cold = native_cold(t->native, t->block);
    uint64_t end = t->source->rip + t->source->size_bytes;
    struct native_link *link = &t->block->link[number];
    bool is_cold = exit->place >= cold;
    *link = (struct native_link){.distance = (int32_t)(exit->rip - end),
                                 .place = (uint16_t)(exit->place - (is_cold ? cold : code)),
                                 .is_cold = is_cold,
                                 .stub = (uint16_t)(t->e.at - cold),
                                 .epoch_before = before_place(exit, exit->epoch),
                                 .base_before = before_place(exit, exit->base),
                                 .number = (uint8_t)number,
                                 .with_flags = exit->with_flags,
                                 .is_saved = exit->is_saved,
                                 .is_landing = exit->is_landing};
    invariant(native_cut_rip(t->source, end + (uint64_t)link->distance) == exit->rip);
}

void native_emit_link_stubs(struct translation *t)
{
    struct emitter *e = &t->e;
    _Static_assert(NATIVE_MAX_LINKS == NATIVE_MAX_SIDE_EXITS + 3 && NATIVE_MAX_LINKS < 16,
                   "each has its exit, and their number fits the field");
    t->block->link_count = t->exit_count & 15;
    for (uint32_t i = 0; i < t->exit_count; i++) {
        const struct block_exit *exit = &t->exit[i];
        make_link(t, i);
        emit_bind(exit->place, e->at);
        if (exit->to_stub) {
            emit_bind(exit->to_stub, e->at);
        }
        if (!exit->is_saved) {
            native_save_flags(t);
        }
        emit_mov_imm(e, ADDRESS, native_ref_of(t->native, &t->block->link[i]));
        emit_bind(emit_jmp(e), t->native->make_link);
    }
}

void native_emit_taken(struct translation *t)
{
    const struct native_insn *n = &t->source->insn[t->index];
    if (t->counts) {
        native_give_up_flags(t, n->live_taken);
        native_emit_count(t, native_left(t, t->index + 1));
    }
    native_emit_exit(t, native_target(t->source, t->index), n->live_taken);
}

/* The block may go on behind the branch. */
static void emit_jcc_exits(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    uint64_t taken = native_target(t->source, t->index);
    native_want_flags(t, SCRATCH);
    uint8_t condition = n->insn.opcode & 15;
    bool is_last = t->index + 1 == t->source->count;
    bool is_back = (int64_t)n->insn.imm < 0;
    if (native_is_same_page(t, taken) && !t->counts) {
        struct block_exit *exit = new_exit(t, taken, n->live_taken);
        exit->place = emit_jcc(e, condition);
    } else if (is_back) {
        uint8_t *over = emit_jcc(e, condition ^ 1);
        uint32_t flags = t->flags;
        native_emit_taken(t);
        emit_bind(over, e->at);
        t->flags = flags;
    } else {
        struct slow_path *slow = native_add_slow(t, SLOW_TAKEN);
        slow->jump = emit_jcc(e, condition);
        slow->flags = (uint8_t)t->flags;
    }
    if (is_last) {
        native_emit_exit(t, native_next_rip(t->source, t->index), t->source->live_next);
    }
}

/* Target in R14, flags saved: through the jump cache. */
static void emit_indirect(struct translation *t, int32_t stack_change)
{
    struct emitter *e = &t->e;
    int32_t jump = VCPU_FIELD(native_jump);
    int32_t rip = jump + (int32_t)offsetof(struct soft_native_jump, rip);
    _Static_assert(NATIVE_JUMP_SHIFT == 2, "entries are found without a shift");
    native_emit_jump_place(e);
    emit_fit(e, 8 + EMIT_JCC_SIZE);
    emit_op_table(e, HOST_OP_CMP_REG_RM, ADDRESS, SCRATCH, rip);
    struct slow_path *slow = native_add_slow(t, SLOW_INDIRECT);
    slow->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    slow->stack_change = stack_change;
    if (t->is_shared) {
        native_emit_jump_page(e, 0);
    }
    emit_op_table(e, HOST_OP_MOV_REG_RM, ADDRESS, SCRATCH,
                  jump + (int32_t)offsetof(struct soft_native_jump, tag));
    emit_fit(e, 8 + EMIT_JCC_SIZE);
    emit_op_base(e, HOST_OP_CMP_REG_RM, ADDRESS, HOST_RSP, VCPU_FIELD(native_tag));
    slow = native_add_slow(t, SLOW_INDIRECT);
    slow->jump = emit_jcc(e, HOST_IF_NOT_EQUAL);
    slow->stack_change = stack_change;
    slow->tag = rip; /* where the target is to be had again */
    int32_t code = (int32_t)offsetof(struct soft_native_jump, code);
    if (native_makes_flags(t)) {
        native_emit_flags_again(t, t->index, stack_change, ADDRESS);
        code = (int32_t)offsetof(struct soft_native_jump, flags_code);
    }
    emit_jmp_table(e, SCRATCH, jump + code);
}

void native_emit_return_lookup(struct translation *t, const struct slow_path *slow)
{
    t->index = slow->index;
    t->flags = slow->flags;
    emit_indirect(t, slow->stack_change);
}

/* The operand of an indirect branch into R14. */
static void emit_target(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    native_give_up_flags(t, n->live_before);
    if (n->insn.has_memory) {
        native_emit_operand(t, n, native_word(t->source), false, false);
        native_emit_word(t, HOST_OP_MOV_REG_RM, ADDRESS, ADDRESS, t->operand_disp);
        return;
    }
    uint8_t guest = (uint8_t)((n->insn.modrm & 7) | (n->insn.rex & 1) << 3);
    if (native_is_spilled(guest)) {
        emit_op_base(e, HOST_OP_MOV_REG_RM, ADDRESS, HOST_RSP, VCPU_FIELD(gpr) + 8 * guest);
    } else {
        emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_REG_RM,
                                         .w = !t->source->is_32,
                                         .reg = ADDRESS,
                                         .rm = native_home(guest)});
    }
}

/* A call to an address that is not canonical faults before it has pushed anything. */
void native_emit_canonical_check(struct translation *t)
{
    struct emitter *e = &t->e;
    if (t->source->is_32) {
        return;
    }
    emit_op_reg(e, HOST_OP_MOV_REG_RM, SCRATCH, ADDRESS);
    emit_shift(e, HOST_SAR, true, SCRATCH, 47); /* 0 or -1 */
    emit8(e, 0x41);                             /* inc r15d: 1 or 0 */
    emit8(e, 0xff);
    emit8(e, 0xc7);
    emit_fit(e, 4 + EMIT_JCC_SIZE);
    emit8(e, 0x41); /* cmp r15d, 1 */
    emit8(e, 0x83);
    emit8(e, 0xff);
    emit8(e, 1);
    native_add_slow(t, SLOW_INTERPRET)->jump = emit_jcc(e, HOST_IF_ABOVE);
}

/* Pushes the return address; R14 and R15 are spoiled. */
static void emit_push_return(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    uint64_t next = native_next_rip(t->source, t->index);
    uint8_t word = native_word(t->source);
    bool has_next = false;
    native_emit_stack(t, n, -word, true);
    if (word == 4) {
        native_emit_word(t, 0xc7, 0, ADDRESS, t->operand_disp); /* mov dword, next */
        emit32(e, (uint32_t)next);
    } else if (!t->is_shared && (int64_t)next == (int32_t)next) {
        emit_store_imm32(e, ADDRESS, t->operand_disp, (int32_t)next);
    } else {
        native_emit_rip(t, SCRATCH, next);
        emit_op_base(e, HOST_OP_MOV_RM_REG, SCRATCH, ADDRESS, t->operand_disp);
        has_next = true;
    }
    native_emit_move_stack(t, -word);
    native_emit_landing(t, next, has_next);
}

void native_emit_branch(struct translation *t, const struct native_insn *n)
{
    struct emitter *e = &t->e;
    int32_t word = native_word(t->source);
    uint64_t target = native_target(t->source, t->index);
    switch (n->kind) {
    case NATIVE_JCC:
        emit_jcc_exits(t, n);
        break;
    case NATIVE_JMP:
        native_emit_exit(t, target, n->live_taken);
        break;
    case NATIVE_CALL:
        if (t->has_landings) {
            native_give_up_flags(t, n->live_before);
        }
        emit_push_return(t, n);
        native_emit_exit(t, target, n->live_taken);
        break;
    case NATIVE_JMP_INDIRECT:
        emit_target(t, n);
        emit_indirect(t, 0);
        break;
    case NATIVE_CALL_INDIRECT:
        emit_target(t, n);
        native_emit_canonical_check(t);
        emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
        emit_push_return(t, n);
        emit_op_base(e, HOST_OP_MOV_REG_RM, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
        emit_indirect(t, -word);
        break;
    case NATIVE_RET: {
        int32_t pops = word + (n->insn.imm_bytes ? (int32_t)(uint16_t)n->insn.imm : 0);
        /* The search for the target spoils the flags, even where a group has spared the check of the stack. */
        native_give_up_flags(t, n->live_before);
        native_emit_stack(t, n, 0, false);
        native_emit_word(t, HOST_OP_MOV_REG_RM, ADDRESS, ADDRESS, t->operand_disp);
        if (t->has_landings) {
            native_emit_return(t, pops);
            break;
        }
        native_emit_move_stack(t, pops);
        emit_indirect(t, pops);
        break;
    }
    default:
        break;
    }
}
