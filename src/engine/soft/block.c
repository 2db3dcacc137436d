/* The block cache: from CS:RIP to a block, by way of a jump cache keyed by linear address, then a hash keyed by guest
 * physical address, then the decoder. Who may write to pages that blocks come from: mmu.c. */
#include "engine/soft/block.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"

/* Blocks lie in a ring of segments, one after the other; when all are full, those of the oldest go. What the guest uses
 * still is soon decoded again; what it ran once, as most of its start, does not keep memory. */
#define SEGMENT_SIZE ((size_t)768 << 10)
/* Beside a translator, which leaves the interpreter few blocks. */
#define SMALL_SEGMENT_SIZE ((size_t)128 << 10)
/* The most that one block takes: its ops and what their handlers keep. */
#define BLOCK_RESERVE ((size_t)64 << 10)

/* Code at addresses without memory: all ones, for ever. */
static const _Atomic uint32_t generation_never;
static uint8_t unbacked_bytes[2 * X86_INSN_MAX_LENGTH] = {[0 ... 2 * X86_INSN_MAX_LENGTH - 1] =
                                                              0xff};

static size_t segment_size(const struct soft_vcpu *v)
{
    bool runs_all = v->vm->interprets || v->vm->is_lockstep;
    return runs_all ? SEGMENT_SIZE : SMALL_SEGMENT_SIZE;
}

static size_t arena_size(const struct soft_vcpu *v)
{
    return SOFT_ARENA_SEGMENTS * segment_size(v);
}

int soft_block_init(struct soft_vcpu *v, struct error *err)
{
    v->arena = mmap(NULL, arena_size(v), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (v->arena == MAP_FAILED) {
        v->arena = NULL;
        return error_set_errno(err, errno, "reserving memory for decoded code");
    }
    v->block_epoch[0] = v->block_epoch[1] = 1;
    v->chain_tag[0] = v->chain_tag[1] = SOFT_NO_CHAIN;
    v->gpr[SOFT_REG_FAR] = SOFT_FAR;
    return 0;
}

void soft_block_fini(struct soft_vcpu *v)
{
    if (v->arena) {
        munmap(v->arena, arena_size(v));
    }
}

static size_t hash_of(uint64_t gpa, uint32_t key)
{
    uint64_t mixed = (gpa ^ ((uint64_t)key << 40)) * 0x9e3779b97f4a7c15ull;
    return mixed >> (64 - SOFT_BLOCK_HASH_BITS);
}

/* Out of the hash; it may have left before, when its code changed. */
static void unlink_block(struct soft_vcpu *v, const struct soft_block *block)
{
    struct soft_block **link = &v->block_hash[hash_of(block->gpa, block->key)];
    while (*link && *link != block) {
        link = &(*link)->hash_next;
    }
    if (*link) {
        *link = block->hash_next;
    }
}

/* Goes on in the next segment and forgets the blocks there. */
static void begin_segment(struct soft_vcpu *v)
{
    v->arena_segment = (v->arena_segment + 1) % SOFT_ARENA_SEGMENTS;
    v->arena_used = v->arena_kept = 0;
    struct soft_block *block = v->segment_blocks[v->arena_segment];
    if (!block) {
        return;
    }
    while (block) {
        unlink_block(v, block);
        block = block->segment_next;
    }
    v->segment_blocks[v->arena_segment] = NULL;
    /* The jump cache may know them. */
    soft_new_block_epoch(v, false);
    soft_new_block_epoch(v, true);
}

/* Blocks are made at the lower end of a segment, as their size is known last, and what their handlers keep at the upper end. */
void *soft_block_alloc(struct soft_vcpu *v, uint32_t size)
{
    v->arena_kept += align_up(size, 64);
    invariant(v->arena_used + v->arena_kept <= segment_size(v));
    return memset(v->arena + (v->arena_segment + 1) * segment_size(v) - v->arena_kept, 0, size);
}

const struct x86_insn *soft_keep_insn(struct soft_vcpu *v, const struct x86_insn *insn)
{
    struct x86_insn *copy = soft_block_alloc(v, sizeof(*copy));
    *copy = *insn;
    return copy;
}

/* Makes the page one whose writers raise its generation; see mmu.c. */
static void mark_code(struct soft_vcpu *v, const struct soft_page *page)
{
    _Atomic uint8_t *flags = &page->slot->page_flags[page->index];
    if (page->slot->is_readonly) {
        return;
    }
    /* Whoever holds the lock waits until this vCPU has dropped its write entries. */
    while (pthread_mutex_trylock(&v->vm->code_lock)) {
        if (atomic_load(&v->requests) & SOFT_REQUEST_FLUSH_WRITES) {
            soft_tlb_flush_writes(v);
        }
        sched_yield();
    }
    uint8_t before = atomic_fetch_or(flags, GUEST_PAGE_CODE);
    if (before & SOFT_PAGE_WRITABLE) {
        atomic_fetch_and(flags, (uint8_t)~SOFT_PAGE_WRITABLE);
        soft_vm_flush_page_writes(v->vm, v, page->hva - (uintptr_t)page->hva % GUEST_PAGE_SIZE);
    }
    /* Not if a writer has taken the mark away meanwhile: later ones would find a page that nobody decodes. */
    uint8_t seen = atomic_load(flags);
    while ((seen & GUEST_PAGE_CODE) &&
           !atomic_compare_exchange_weak(flags, &seen, seen | SOFT_PAGE_CODE_READY)) {
    }
    pthread_mutex_unlock(&v->vm->code_lock);
}

uint32_t soft_begin_decode(struct soft_vcpu *v, const struct soft_page *page,
                           const _Atomic uint32_t **out_generation)
{
    if (!page->slot) {
        *out_generation = &generation_never;
        return 0;
    }
    _Atomic uint8_t *flags = &page->slot->page_flags[page->index];
    const _Atomic uint32_t *generation = &page->slot->code_generation[page->index];
    *out_generation = generation;
    /* Its writers are counted anew. */
    _Atomic uint32_t *writes = &page->slot->code_writes[page->index];
    uint32_t count = atomic_load_explicit(writes, memory_order_relaxed);
    if (count & 0xffff) {
        atomic_store_explicit(writes, count & ~0xffffu, memory_order_relaxed);
    }
    for (;;) {
        uint32_t seen = atomic_load(generation);
        if (page->slot->is_readonly || (atomic_load(flags) & SOFT_PAGE_CODE_READY)) {
            return seen;
        }
        mark_code(v, page);
    }
}

static void mark_bytes(const struct soft_page *page, uint32_t size)
{
    if (page->slot) {
        soft_mark_granules(soft_page_granules(page), soft_granules((uintptr_t)page->hva, size));
    }
}

static void op_undefined(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_raise(v, op, X86_UD);
}

static void op_too_long(struct soft_vcpu *v, const struct soft_op *op)
{
    soft_raise_error(v, op, X86_GP, 0);
}

/* Behind the last instruction. */
static void op_leave(struct soft_vcpu *v, const struct soft_op *op)
{
    v->rip = soft_op_rip(v, op);
    soft_chain(v);
}

/* In place of instructions that have been overwritten. */
static void op_cut(struct soft_vcpu *v, const struct soft_op *op)
{
    v->stats.instructions -= v->block->count - (uint64_t)(op - v->block->op);
    v->rip = soft_op_rip(v, op);
}

void soft_block_cut(struct soft_vcpu *v)
{
    struct soft_block *block = v->block;
    if (!block || !v->op || soft_block_is_current(block)) {
        return;
    }
    for (size_t i = (size_t)(v->op - block->op) + 1; i <= block->count; i++) {
        block->op[i].fn = op_cut;
    }
}

/* What every handler's operation has in common. */
static void prepare_common(const struct x86_insn *insn, struct soft_op *op, uint32_t offset)
{
    op->offset = (uint16_t)offset;
    op->length = insn->length;
    op->size = insn->operand_bytes;
    op->imm = insn->imm;
    op->segment = insn->segment;
    op->disp = (int32_t)insn->disp; /* wider ones: RIP below; absolute addresses, move.c */
    op->base = insn->base == X86_BASE_NONE  ? SOFT_REG_ZERO
               : insn->base == X86_BASE_RIP ? SOFT_REG_RIP
                                            : insn->base;
    op->index = insn->index == X86_BASE_NONE || insn->is_vsib ? SOFT_REG_ZERO : insn->index;
    op->shift = (uint8_t)__builtin_ctz(insn->scale | 16u);
    if (insn->base == X86_BASE_RIP) {
        int64_t disp = insn->disp + (int64_t)offset + insn->length;
        if (disp > INT32_MAX) {
            disp -= SOFT_FAR;
            op->index = SOFT_REG_FAR;
            op->shift = 0;
        }
        op->disp = (int32_t)disp;
    }
    op->flags = (insn->has_memory ? SOFT_OP_HAS_MEMORY : 0) |
                (insn->code_size != X86_CODE_64 ? SOFT_OP_LEGACY : 0) |
                (insn->prefixes & X86_PREFIX_LOCK ? SOFT_OP_LOCK : 0) |
                (insn->address_bytes == 2 ? SOFT_OP_ADDRESS_16 : 0) |
                (insn->address_bytes == 4 ? SOFT_OP_ADDRESS_32 : 0);
}

/* Does the CPU that the guest sees have 'insn'? To one that does not, some look like others, as their prefix means nothing. */
static bool is_announced(const struct soft_vcpu *v, struct x86_insn *insn)
{
    unsigned feature = x86_rows[insn->row].feature;
    if (likely(v->instruction_sets >> feature & 1)) {
        return true;
    }
    switch (insn->id) {
    case X86_ID_TZCNT:
        insn->id = X86_ID_BSF;
        return true;
    case X86_ID_LZCNT:
        insn->id = X86_ID_BSR;
        return true;
    case X86_ID_WBNOINVD:
        insn->id = X86_ID_WBINVD;
        return true;
    case X86_ID_LAHF:
    case X86_ID_SAHF:
        return insn->code_size != X86_CODE_64;
    default:
        return false;
    }
}

static void prepare(struct soft_vcpu *v, struct x86_insn *insn, struct soft_op *op)
{
    uint32_t attributes = x86_rows[insn->row].attributes;
    if (!is_announced(v, insn)) {
        op->fn = op_undefined;
        return;
    }
    if (attributes & (X86_ROW_X87 | X86_ROW_MMX | X86_ROW_SSE | X86_ROW_VEX)) {
        if (!soft_simd_prepare(v, insn, op)) {
            op->fn = op_undefined;
        }
        return;
    }
    bool is_known = soft_locked_prepare(v, insn, op) || soft_integer_prepare(v, insn, op) ||
                    soft_move_prepare(v, insn, op) || soft_branch_prepare(v, insn, op) ||
                    soft_stack_prepare(v, insn, op) || soft_shift_prepare(v, insn, op) ||
                    soft_bit_prepare(v, insn, op) || soft_muldiv_prepare(v, insn, op) ||
                    soft_string_prepare(v, insn, op) || soft_flags_prepare(v, insn, op) ||
                    soft_segment_move_prepare(v, insn, op) || soft_far_prepare(v, insn, op) ||
                    soft_fast_call_prepare(v, insn, op) || soft_control_prepare(v, insn, op) ||
                    soft_system_prepare(v, insn, op) || soft_simd_prepare(v, insn, op);
    if (!is_known) {
        op->fn = op_undefined;
    }
}

static bool ends_block(const struct x86_insn *insn)
{
    return x86_rows[insn->row].attributes & (X86_ROW_BRANCH | X86_ROW_SERIALIZES | X86_ROW_SYSTEM |
                                             X86_ROW_IO | X86_ROW_STRING | X86_ROW_PRIVILEGED);
}

static void add_leave_op(struct soft_block *block)
{
    block->op[block->count] = (struct soft_op){
        .fn = op_leave,
        .offset = block->size_bytes,
    };
}

/* Decodes the one instruction that begins in 'first' at 'gpa' and goes on in the next page. */
static void decode_crossing(struct soft_vcpu *v, struct soft_block *block,
                            const struct soft_page *first, uint64_t linear,
                            struct x86_insn *out_insn, enum x86_decode_status *out_status)
{
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    uint32_t here = GUEST_PAGE_SIZE - (uint32_t)(block->gpa & (GUEST_PAGE_SIZE - 1));
    uint64_t next = align_down(linear, GUEST_PAGE_SIZE) + GUEST_PAGE_SIZE;
    if (!soft_is_long(v)) {
        next = (uint32_t)next;
    }
    /* Beyond the segment's limit nothing is fetched, so the page is not looked at. */
    if (v->code_size != X86_CODE_64 && v->rip + here > v->segment[X86_CS].limit) {
        soft_raise_error(v, NULL, X86_GP, 0);
    }
    block->second_gpa = soft_fetch_translate(v, next);
    block->has_second_page = true;
    struct soft_page second = soft_page_find(v->vm, block->second_gpa);
    block->generation_seen[1] = soft_begin_decode(v, &second, &block->generation[1]);
    mark_bytes(&second, X86_INSN_MAX_LENGTH);
    memcpy(bytes, first->slot ? first->hva : unbacked_bytes, here);
    memcpy(bytes + here, second.slot ? second.hva : unbacked_bytes, sizeof(bytes) - here);
    *out_status = x86_decode(bytes, sizeof(bytes), soft_decode_as(v->vm, v->code_size), out_insn);
}

static struct soft_block *decode_block(struct soft_vcpu *v, uint64_t gpa, uint64_t linear,
                                       uint32_t key)
{
    if (v->arena_used + v->arena_kept + BLOCK_RESERVE > segment_size(v)) {
        begin_segment(v);
    }
    /* Made where it stays: a copy would wait for the stores before it. */
    struct soft_block *block =
        (struct soft_block *)(v->arena + v->arena_segment * segment_size(v) + v->arena_used);
    *block = (struct soft_block){0};
    struct soft_page page = soft_page_find(v->vm, gpa);
    uint32_t left = GUEST_PAGE_SIZE - (uint32_t)(gpa & (GUEST_PAGE_SIZE - 1));
    enum x86_code_size code_size = soft_decode_as(v->vm, v->code_size);
    uint32_t max_ops = key & SOFT_KEY_SINGLE ? 1 : SOFT_BLOCK_MAX_OPS;
    block->gpa = gpa;
    block->key = key;
    block->generation_seen[0] = soft_begin_decode(v, &page, &block->generation[0]);
    mark_bytes(&page, MIN(left, max_ops * X86_INSN_MAX_LENGTH));
    uint32_t offset = 0;
    while (block->count < max_ops && offset < left) {
        struct x86_insn insn;
        const uint8_t *bytes = page.slot ? page.hva + offset : unbacked_bytes;
        uint32_t available = page.slot ? left - offset : MIN(left - offset, X86_INSN_MAX_LENGTH);
        enum x86_decode_status status =
            x86_decode_cached(&v->decode_cache, bytes, available, code_size, &insn);
        if (status == X86_DECODE_MORE) {
            if (block->count) {
                break;
            }
            decode_crossing(v, block, &page, linear, &insn, &status);
        }
        struct soft_op *op = &block->op[block->count];
        *op = (struct soft_op){0};
        prepare_common(&insn, op, offset);
        if (status == X86_DECODE_OK) {
            prepare(v, &insn, op);
        } else {
            op->fn = status == X86_DECODE_TOO_LONG ? op_too_long : op_undefined;
        }
        block->count++;
        offset += insn.length;
        if (status != X86_DECODE_OK || block->has_second_page || ends_block(&insn)) {
            break;
        }
    }
    block->size_bytes = (uint16_t)offset;
    add_leave_op(block);
    v->stats.blocks_decoded++;
    size_t size = sizeof(*block) + (block->count + 1u) * sizeof(struct soft_op);
    v->arena_used += align_up(size, 64);
    block->segment_next = v->segment_blocks[v->arena_segment];
    v->segment_blocks[v->arena_segment] = block;
    return block;
}

/* Does the block's second page still stand behind the first? */
static bool second_page_matches(struct soft_vcpu *v, const struct soft_block *block,
                                uint64_t linear)
{
    if (!block->has_second_page) {
        return true;
    }
    uint64_t next = align_down(linear, GUEST_PAGE_SIZE) + GUEST_PAGE_SIZE;
    if (!soft_is_long(v)) {
        next = (uint32_t)next;
    }
    return soft_fetch_translate(v, next) == block->second_gpa;
}

static struct soft_block *find_by_gpa(struct soft_vcpu *v, uint64_t linear, uint32_t key)
{
    uint64_t gpa = soft_fetch_translate(v, linear);
    size_t hash = hash_of(gpa, key);
    struct soft_block **link = &v->block_hash[hash];
    while (*link) {
        struct soft_block *block = *link;
        if (block->gpa == gpa && block->key == key) {
            if (soft_block_is_current(block) && second_page_matches(v, block, linear)) {
                return block;
            }
            *link = block->hash_next;
            continue;
        }
        link = &block->hash_next;
    }
    struct soft_block *block = decode_block(v, gpa, linear, key);
    block->hash_next = v->block_hash[hash];
    v->block_hash[hash] = block;
    return block;
}

/* Legacy modes: the whole block must lie within CS's limit. */
static bool is_within_limit(const struct soft_vcpu *v, const struct soft_block *block)
{
    return v->code_size == X86_CODE_64 ||
           v->rip + block->size_bytes - 1 <= v->segment[X86_CS].limit;
}

struct soft_block *soft_block_find(struct soft_vcpu *v, bool is_single)
{
    uint64_t linear = v->rip + v->segment_base[X86_CS];
    uint32_t key = v->code_size | (is_single ? SOFT_KEY_SINGLE : 0);
    if (v->code_size != X86_CODE_64) {
        linear = (uint32_t)linear;
    }
    struct soft_jump_entry *entry = soft_jump_slot(v, linear);
    struct soft_block *block;
    if (likely(entry->linear == linear && entry->tag == soft_block_tag(v, linear, key) &&
               soft_block_is_current(entry->block))) {
        block = entry->block;
    } else {
        v->op = NULL;
        if (v->code_size != X86_CODE_64 && v->rip > v->segment[X86_CS].limit) {
            soft_raise_error(v, NULL, X86_GP, 0);
        }
        block = find_by_gpa(v, linear, key);
        size_t bit = soft_block_page_bit(linear);
        v->block_pages[bit / 64] |= BIT(bit % 64);
        bit = soft_block_page_bit(linear + block->size_bytes - 1);
        v->block_pages[bit / 64] |= BIT(bit % 64);
        *entry = (struct soft_jump_entry){
            .linear = linear,
            .tag = soft_block_tag(v, linear, key),
            .block = block,
        };
    }
    if (unlikely(!is_within_limit(v, block))) {
        if (!is_single) {
            return soft_block_find(v, true);
        }
        soft_raise_error(v, NULL, X86_GP, 0);
    }
    return block;
}
