/* From analyzed guest instructions to host code.
 *
 * Registers: guest RAX..RDI without RSP and R8..R12 are the host's of the same name; guest RSP is R13; guest R13..R15 stay
 * in the vCPU. R14 and R15 are scratch, RSP points into the vCPU.
 *
 * Status flags are in the host's flags, or in the vCPU's 'status', or do not matter, or can be made again (flags_again.c); 'flags'
 * below says which, for the place that is emitted. A check of a memory operand spoils the host's.
 *
 * 32-bit code: the same with operands of 32 bits. Upper halves of registers stay what they are until something writes the
 * lower half; addresses are cut to 32 bits. FS and GS have a base and a limit of 4 GiB, or the interpreter serves them.
 *
 * Memory: R14 becomes the offset in the page that the soft TLB's entry is for; more than fits there and the slow path has
 * the interpreter run the instruction. Each such place goes on behind the instruction afterwards. */
#include "engine/soft/translate/translate.h"

#include <stddef.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/translate/code_cache.h"
#include "engine/soft/windows.h"

#define ADDRESS HOST_R14
#define SCRATCH HOST_R15

void native_emit_count(struct translation *t, int32_t change)
{
    if (!t->counts || !change) {
        return;
    }
    bool is_add = change > 0;
    uint8_t by = (uint8_t)(is_add ? change : -change);
    _Static_assert(NATIVE_MAX_INSNS < 128, "the immediate is a signed byte");
    emit_insn(&t->e, &(struct host_insn){.opcode = 0x83, /* add or sub dword [native_budget], by */
                                         .reg = is_add ? 0 : 5,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(native_budget),
                                         .imm_bytes = 1,
                                         .imm = &by});
}

void native_save_flags(struct translation *t)
{
    struct emitter *e = &t->e;
    emit_op_reg(e, HOST_OP_MOV_REG_RM, SCRATCH, HOST_RAX);
    emit8(e, 0x9f); /* lahf */
    emit8(e, 0x0f); /* seto al */
    emit8(e, 0x90);
    emit8(e, 0xc0);
    emit_insn(e, &(struct host_insn){.opcode = HOST_OP_MOV_RM_REG, /* mov [status], ax */
                                     .is_16 = true,
                                     .reg = HOST_RAX,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(status)});
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RAX, SCRATCH);
    t->scratch_group = t->kept_group = NATIVE_NO_GROUP;
    t->flags |= FLAGS_SAVED;
}

void native_load_flags(struct emitter *e)
{
    emit_insn(e, &(struct host_insn){.map = 1, /* movzx eax, word [status] */
                                     .opcode = 0xb7,
                                     .reg = HOST_RAX,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(status)});
    emit8(e, 0x04); /* add al, 127: overflows if AL is 1 */
    emit8(e, 0x7f);
    emit8(e, 0x9e); /* sahf */
}

void native_restore_flags(struct emitter *e, uint8_t scratch)
{
    emit_op_reg(e, HOST_OP_MOV_REG_RM, scratch, HOST_RAX);
    native_load_flags(e);
    emit_op_reg(e, HOST_OP_MOV_REG_RM, HOST_RAX, scratch);
}

/* Before code that spoils the host's flags. */
void native_give_up_flags(struct translation *t, uint32_t live)
{
    if (live && !(t->flags & FLAGS_SAVED) && !native_find_flags_again(t)) {
        native_save_flags(t);
    }
    t->flags &= ~FLAGS_HOST;
}

void native_want_flags(struct translation *t, uint8_t scratch)
{
    if (!(t->flags & FLAGS_HOST)) {
        native_restore_flags(&t->e, scratch);
        t->flags |= FLAGS_HOST;
    }
}

struct slow_path *native_add_slow(struct translation *t, enum slow_kind kind)
{
    struct slow_path *slow = &t->slow[t->slow_count++];
    *slow =
        (struct slow_path){.kind = kind, .index = t->index, .makes_flags = native_makes_flags(t)};
    return slow;
}

/* The flags as the instruction proper needs and leaves them. */
bool native_needs_host_flags(const struct native_insn *n)
{
    return n->reads || (n->writes && (n->live_after & ~n->writes));
}

void native_flags_written(struct translation *t, const struct native_insn *n)
{
    if (n->writes) {
        t->flags = FLAGS_HOST;
    }
}

/* Loads the guest's vectors into the host's registers, unless they are there. */
static void emit_vectors(struct translation *t, const struct native_insn *n)
{
    if (t->has_vectors) {
        return;
    }
    static const uint8_t none = 0;
    native_give_up_flags(t, n->live_before);
    struct emitter *e = &t->e;
    emit_insn(e, &(struct host_insn){.opcode = 0x80, /* cmp byte [native_vectors_live], 0 */
                                     .reg = 7,
                                     .is_memory = true,
                                     .base = HOST_RSP,
                                     .index = HOST_NONE,
                                     .disp = VCPU_FIELD(native_vectors_live),
                                     .imm_bytes = 1,
                                     .imm = &none});
    struct slow_path *slow = native_add_slow(t, SLOW_VECTORS);
    slow->jump = emit_jcc(e, HOST_IF_EQUAL);
    slow->after = e->at;
    t->kept_group = NATIVE_NO_GROUP; /* the stub uses R15 */
    t->has_vectors = true;
}

/* The interpreter runs it, then the code goes on behind. */
static void emit_interpret(struct translation *t, const struct native_insn *n, bool is_last)
{
    native_give_up_flags(t, n->live_before);
    native_emit_count(t, native_left(t, t->index));
    emit_bind(emit_call(&t->e), t->native->interpret);
    emit64(&t->e, native_rip(t->source, t->index));
    emit64(&t->e, is_last ? 0 : native_next_rip(t->source, t->index));
    if (!is_last) {
        native_emit_count(t, 1 - native_left(t, t->index));
    }
    t->flags = FLAGS_SAVED;
    t->has_vectors = false;
    t->has_x87 = false;
    t->address_group = NATIVE_NO_GROUP;
}

/* Looks whether somebody wants something of the vCPU, where the flags do not matter or are saved. */
void native_emit_poll(struct translation *t)
{
    static const uint8_t none = 0;
    emit_insn(&t->e, &(struct host_insn){.opcode = 0x83, /* cmp dword [requests], 0 */
                                         .reg = 7,
                                         .is_memory = true,
                                         .base = HOST_RSP,
                                         .index = HOST_NONE,
                                         .disp = VCPU_FIELD(requests),
                                         .imm_bytes = 1,
                                         .imm = &none});
    native_add_slow(t, SLOW_EXIT)->jump = emit_jcc(&t->e, HOST_IF_NOT_EQUAL);
    t->flags &= ~FLAGS_HOST;
    t->needs_poll = false;
}

/* Does a later instruction use a check that comes before this one or belongs to it? The interpreter may let others take
 * translations away, so after its turn such code is not to be gone on with. */
static bool is_within_group(const struct translation *t)
{
    return t->source->within_groups >> t->index & 1;
}

/* An interrupt must not come between STI and the next instruction, so this one has to be here and nobody may look between them. */
static bool is_sti(const struct native_insn *n)
{
    return n->kind == NATIVE_SMALL && n->insn.id == X86_ID_STI;
}

static void emit_one(struct translation *t, const struct native_insn *n, bool is_last)
{
    if (is_last && is_sti(n)) {
        emit_interpret(t, n, is_last);
        return;
    }
    uint32_t first_slow = t->slow_count;
    t->kept_group = t->scratch_group;
    t->scratch_group = NATIVE_NO_GROUP;
    t->has_guess = t->guesses_windows && native_guess_window(&t->guess, n, &t->guessed_role);
    if (n->row->is_vector && n->kind != NATIVE_INTERPRET) {
        emit_vectors(t, n);
        first_slow = t->slow_count;
    }
    switch (n->kind) {
    case NATIVE_PLAIN:
        native_emit_plain(t, n);
        break;
    case NATIVE_DIVIDE:
        native_emit_divide(t, n);
        break;
    case NATIVE_RAW:
        native_emit_raw(t, n);
        break;
    case NATIVE_NOTHING:
        t->scratch_group = t->kept_group;
        break;
    case NATIVE_LEA:
        native_emit_lea(t, n);
        break;
    case NATIVE_X87:
        native_emit_x87(t, n);
        break;
    case NATIVE_MOV_IMM:
        native_emit_mov_immediate(t, n);
        break;
    case NATIVE_BSWAP:
        native_emit_bswap(t, n);
        break;
    case NATIVE_XCHG_RAX:
        native_emit_xchg_rax(t, n);
        break;
    case NATIVE_STEP:
        native_emit_step(t, n);
        break;
    case NATIVE_MOFFS:
        native_emit_moffs(t, n);
        break;
    case NATIVE_PUSH_REG:
    case NATIVE_PUSH_IMM:
    case NATIVE_PUSH_MEM:
        native_emit_push(t, n);
        break;
    case NATIVE_PUSHF:
        native_emit_pushf(t, n);
        break;
    case NATIVE_POPF:
        native_emit_popf(t, n);
        break;
    case NATIVE_PUSH_SELECTOR:
        native_emit_push_selector(t, n);
        break;
    case NATIVE_POP_MEM:
        native_emit_pop_memory(t, n);
        break;
    case NATIVE_PAUSE:
        native_emit_pause(t, n);
        break;
    case NATIVE_SMALL:
        native_emit_small(t, n);
        break;
    case NATIVE_READ_CR:
        native_emit_read_cr(t, n);
        break;
    case NATIVE_ENTRY:
        native_emit_entry(t, n);
        break;
    case NATIVE_POP_REG:
        native_emit_pop(t, n);
        break;
    case NATIVE_LEAVE:
        native_emit_leave(t, n);
        break;
    case NATIVE_STRING:
        native_emit_string(t, n);
        break;
    case NATIVE_CPUID:
        native_emit_cpuid(t, n);
        break;
    case NATIVE_BIT_STRING:
        native_emit_bit_string(t, n);
        break;
    case NATIVE_SELECTOR:
        native_emit_selector(t, n);
        break;
    case NATIVE_CALL:
    case NATIVE_CALL_INDIRECT:
    case NATIVE_JMP:
    case NATIVE_JMP_INDIRECT:
    case NATIVE_JCC:
    case NATIVE_RET:
        native_emit_branch(t, n);
        break;
    default:
        emit_interpret(t, n, is_last);
        break;
    }
    for (uint32_t i = first_slow; i < t->slow_count; i++) {
        if (t->slow[i].kind == SLOW_INTERPRET || t->slow[i].kind == SLOW_WINDOW) {
            t->slow[i].is_in_group = is_within_group(t);
            t->slow[i].may_fault =
                (t->slow[i].retry || t->slow[i].window) && native_faults_by_one_access(n);
            bool is_end = is_last && t->source->ends_by_itself;
            t->slow[i].after = is_end || t->slow[i].is_in_group ? NULL : t->e.at;
            t->slow[i].wants_flags = (t->flags & FLAGS_HOST) && n->live_after;
            t->slow[i].wants_vectors = t->has_vectors;
            t->slow[i].wants_x87 = t->has_x87;
        }
    }
}

static void make_flags(struct translation *t, const struct slow_path *slow)
{
    if (slow->makes_flags) {
        native_emit_flags_again(t, slow->index, slow->stack_change, SCRATCH);
        native_save_flags(t);
    }
}

/* A miss of the TLB: has it filled and tries again. */
static void emit_fill(struct translation *t, const struct slow_path *slow)
{
    struct emitter *e = &t->e;
    emit_op_table(e, HOST_OP_ADD_REG_RM, ADDRESS, SCRATCH, slow->tag);
    emit_mov_imm(e, SCRATCH,
                 slow->size | (slow->is_write ? NATIVE_FILL_WRITE : 0) |
                     (slow->checked ? NATIVE_FILL_ONCE : 0) |
                     (slow->may_fault ? NATIVE_FILL_FAULT : 0) |
                     (slow->is_fault_read ? NATIVE_FILL_FAULT_READ : 0) |
                     slow->fault_disp << NATIVE_FILL_FAULT_SHIFT);
    emit_bind(emit_call(e), t->native->fill);
    emit_bind(emit_jcc(e, HOST_IF_EQUAL), slow->retry);
    if (slow->checked) {
        emit_bind(emit_jcc(e, HOST_IF_ABOVE), slow->checked);
    }
}

static void emit_slow_paths(struct translation *t)
{
    struct emitter *e = &t->e;
    for (uint32_t i = 0; i < t->slow_count; i++) {
        struct slow_path *slow = &t->slow[i];
        if (slow->kind == SLOW_INDIRECT && !slow->tag) {
            /* The second one, which has to have the target again, goes on with the first. */
            const struct slow_path *second = &t->slow[++i];
            emit_bind(second->jump, e->at);
            emit_op_table(e, HOST_OP_MOV_REG_RM, ADDRESS, SCRATCH, second->tag);
        }
        if (slow->kind != SLOW_WINDOW) {
            emit_bind(slow->jump, e->at);
        }
        switch (slow->kind) {
        case SLOW_WINDOW:
            native_add_window_site(
                t->native, &(struct native_window_site){
                               .code = (uint32_t)(slow->window - t->native->writable),
                               .cold = (uint32_t)(e->at - t->native->writable) & BITS(30, 0),
                               .may_fault = slow->may_fault});
            if (slow->stack_pending) {
                native_emit_word(t, HOST_OP_LEA, HOST_R13, HOST_R13, slow->stack_pending);
            }
            if (slow->saves_flags) {
                native_save_flags(t);
            }
            /* fallthrough */
        case SLOW_INTERPRET:
            if (slow->retry) {
                emit_fill(t, slow);
            }
            make_flags(t, slow);
            native_emit_count(t, native_left(t, slow->index));
            emit_bind(emit_call(e), slow->may_fault || slow->is_in_group ? t->native->page_fault
                                                                         : t->native->interpret);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, slow->after                          ? native_next_rip(t->source, slow->index)
                      : slow->is_in_group && !slow->window ? NATIVE_SITE_UNGROUPED
                                                           : 0);
            if (!slow->after) {
                break;
            }
            native_emit_count(t, 1 - native_left(t, slow->index));
            if (slow->wants_vectors) {
                emit_bind(emit_call(e), t->native->load_vectors);
            }
            if (slow->wants_x87) {
                emit_bind(emit_call(e), t->native->load_x87);
            }
            if (slow->wants_flags) {
                native_restore_flags(e, ADDRESS);
            }
            if (slow->is_held) {
                native_load_gpr(t, slow->held_host, slow->held_guest);
            }
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_VECTORS:
            emit_bind(emit_call(e), t->native->load_vectors);
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_GUESS:
            emit_low_word(e, SCRATCH);
            emit_op_table(e, HOST_OP_MOV_REG_RM, SCRATCH, SCRATCH, VCPU_FIELD(window_table));
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_X87:
            emit_bind(emit_call(e), t->native->load_x87);
            emit_bind(emit_jmp(e), slow->after);
            break;
        case SLOW_BUDGET:
        case SLOW_EXIT:
            make_flags(t, slow);
            native_emit_count(t, native_left(t, slow->index));
            emit_bind(emit_call(e), t->native->exit_at);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, 0);
            break;
        case SLOW_TAKEN:
            t->index = slow->index;
            t->flags = slow->flags;
            e->fits_jumps = t->native->fits_jumps;
            native_emit_taken(t);
            e->fits_jumps = false;
            break;
        case SLOW_RETURN:
            native_emit_return_lookup(t, slow);
            break;
        case SLOW_INDIRECT:
            make_flags(t, slow);
            emit_op_base(e, HOST_OP_MOV_RM_REG, ADDRESS, HOST_RSP, VCPU_FIELD(native_target));
            emit_bind(emit_call(e),
                      t->is_shared ? t->native->indirect_shared : t->native->indirect);
            emit64(e, native_rip(t->source, slow->index));
            emit64(e, (uint64_t)(int64_t)slow->stack_change);
            break;
        }
    }
    native_emit_link_stubs(t);
}

/* May the instruction lead back, so that a loop needs somebody who looks at requests before it? */
static bool goes_back(const struct native_insn *n)
{
    switch (n->kind) {
    case NATIVE_JMP:
    case NATIVE_JCC:
    case NATIVE_CALL:
        return (int64_t)n->insn.imm < 0;
    case NATIVE_JMP_INDIRECT:
    case NATIVE_CALL_INDIRECT:
    case NATIVE_RET:
        return true;
    default:
        return false;
    }
}

static bool needs_poll(const struct native_source *source)
{
    for (uint32_t i = 0; i < source->count; i++) {
        if (goes_back(&source->insn[i])) {
            return true;
        }
    }
    return false;
}

#define LOOP_BYTES     512
#define LOOP_LOOKAHEAD 192u

/* Does 'insn', which ends 'offset' bytes behind the block's beginning, lead there or to a little before? */
static bool leads_to_loop(const struct x86_insn *insn, uint32_t offset)
{
    bool is_jcc =
        insn->map ? insn->map == 1 && (insn->opcode & 0xf0) == 0x80 : (insn->opcode & 0xf0) == 0x70;
    bool is_jmp = !insn->map && (insn->opcode == 0xeb || insn->opcode == 0xe9);
    /* The immediate of another instruction may be anything. */
    int64_t target = (int64_t)(offset + insn->imm);
    return (is_jcc || is_jmp) && target <= 0 && target > -LOOP_BYTES;
}

/* Is the block part of a short loop, as far as can be seen: do branches in it or soon behind it lead back? */
static bool is_in_loop(const struct native_source *source, const uint8_t *page)
{
    for (uint32_t i = 0; i < source->count; i++) {
        const struct native_insn *n = &source->insn[i];
        if (leads_to_loop(&n->insn, n->offset + n->insn.length)) {
            return true;
        }
        if (n->insn.id == X86_ID_RET) {
            return false;
        }
    }
    uint32_t start = (uint32_t)(source->rip & (GUEST_PAGE_SIZE - 1)) + source->size_bytes;
    if (start >= GUEST_PAGE_SIZE) {
        return false;
    }
    uint8_t bytes[LOOP_LOOKAHEAD]; /* others may write to the page */
    uint32_t size = MIN(LOOP_LOOKAHEAD, GUEST_PAGE_SIZE - start), at = 0;
    memcpy(bytes, page + start, size);
    while (at < size) {
        struct x86_insn insn;
        if (x86_decode_cached(source->decode_cache, bytes + at, size - at, source->code_size,
                              &insn) != X86_DECODE_OK) {
            return false;
        }
        at += insn.length;
        if (leads_to_loop(&insn, source->size_bytes + at)) {
            return true;
        }
        if (insn.id == X86_ID_RET) {
            return false;
        }
    }
    return false;
}

/* Does the block have a use for flags in the host's before something spoils them there? */
static bool uses_host_flags_first(const struct native_source *source)
{
    for (uint32_t i = 0; i < source->count; i++) {
        const struct native_insn *n = &source->insn[i];
        switch (n->kind) {
        case NATIVE_LEA:
        case NATIVE_NOTHING:
        case NATIVE_MOV_IMM:
        case NATIVE_BSWAP:
            break;
        case NATIVE_JCC:
            return true;
        case NATIVE_PLAIN:
        case NATIVE_RAW:
        case NATIVE_XCHG_RAX:
        case NATIVE_STEP:
            if (n->insn.has_memory || n->row->is_vector) {
                return false;
            }
            if (native_needs_host_flags(n)) {
                return true;
            }
            break;
        default:
            return false;
        }
    }
    return false;
}

struct native_block *native_translate(struct soft_vcpu *v, uint64_t rip, uint64_t gpa,
                                      uint32_t mode, const uint8_t *page)
{
    struct soft_native *native = v->native;
    bool is_shared = native_is_shared(v, mode);
    uint64_t address = native_address(v, rip, mode);
    rip = is_shared ? rip & ~NATIVE_BASE_MASK : rip;
    struct native_source *source = native->source;
    struct native_block *block = native_cache_new_block(native);
    block->gpa = gpa;
    block->mode = mode;
    block->address = address;
    native_analyze(v, block, rip, page, source);
    if (!(mode & NATIVE_MODE_UNGROUPED)) {
        native_find_groups(source);
    }
    block->is_crossing = source->is_crossing;
    block->size_bytes = source->size_bytes & BITS(11, 0);
    block->last_offset = source->insn[source->count - 1].offset & BITS(11, 0);
    struct translation t; /* the array at its end is large */
    memset(&t, 0, offsetof(struct translation, slow));
    t.native = native;
    t.source = source;
    t.block = block;
    t.e.at = native_code(native, block);
    t.e.fits_jumps = native->fits_jumps;
    t.tlb = mode & NATIVE_MODE_TLB;
    t.is_intel = v->vm->is_intel;
    t.x87 = v->vm->x87;
    t.is_shared = is_shared;
    t.needs_poll = needs_poll(source);
    bool is_test = v->vm->windows == SOFT_WINDOWS_ALWAYS;
    t.guesses_windows = native_has_windows(&t) && soft_windows_count_block(v) &&
                        (is_test || is_in_loop(source, page));
    if (t.guesses_windows) {
        native_guess_begin(&t.guess, v, source);
    }
    t.counts = v->vm->icount.is_on;
    t.has_landings = native_has_landings(mode) && !t.counts && !v->lockstep;
    t.address_group = t.scratch_group = t.kept_group = NATIVE_NO_GROUP;
    if (t.counts) {
        native_emit_count(&t, -native_left(&t, 0));
        native_add_slow(&t, SLOW_BUDGET)->jump = emit_jcc(&t.e, HOST_IF_SIGN);
        t.flags = FLAGS_SAVED;
    }
    /* Counting spoils the flags: then there is but one entry. */
    block->saves_first = !t.counts && source->insn[0].live_before && !uses_host_flags_first(source);
    if (block->saves_first) {
        native_save_flags(&t);
        t.flags = FLAGS_SAVED;
    } else if (!t.counts && source->insn[0].live_before) {
        native_restore_flags(&t.e, ADDRESS);
        t.flags |= FLAGS_HOST;
    }
    block->second_entry = t.counts ? 0 : (uint16_t)(t.e.at - native_code(native, block));
    for (t.index = 0; t.index < source->count; t.index++) {
        const struct native_insn *n = &source->insn[t.index];
        bool is_last = t.index + 1 == source->count;
        bool flags_are_free =
            (!n->live_before && !source->has_exact_flags) || (t.flags & FLAGS_SAVED);
        if (t.needs_poll && (flags_are_free || goes_back(n) || is_sti(n))) {
            native_give_up_flags(&t, n->live_before);
            native_emit_poll(&t);
        }
        emit_one(&t, n, is_last);
        if (t.guesses_windows) {
            native_guess_follow(&t.guess, n);
        }
    }
    t.index = source->count - 1;
    if (!source->ends_by_itself) {
        native_emit_exit(&t, native_cut_rip(source, source->rip + source->size_bytes),
                         source->live_next);
    }
    const uint8_t *end = t.e.at;
    t.e.at = native_cold(native, block);
    t.e.fits_jumps = false; /* most of it never runs */
    emit_slow_paths(&t);
    native_cache_keep_block(native, block, end, t.e.at);
    return block;
}
