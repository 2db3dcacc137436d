/* Blocks: straight runs of decoded instructions, kept per vCPU by guest physical address and code size. */
#ifndef ENGINE_SOFT_BLOCK_H
#define ENGINE_SOFT_BLOCK_H

#include "engine/soft/vcpu.h"

#define SOFT_BLOCK_MAX_OPS 32

/* Part of a block's key beside the code size: holds one instruction only. */
#define SOFT_KEY_SINGLE 0x04u

struct soft_page;

struct soft_block {
    struct soft_block *hash_next;
    struct soft_block *segment_next; /* all that were made in the same segment of the arena */
    uint64_t gpa;                    /* of the first byte */
    uint64_t second_gpa; /* of the second page, if the one instruction crosses into it */
    /* Of the pages; entry only while they match. */
    const _Atomic uint32_t *generation[2];
    uint32_t generation_seen[2];
    uint32_t key;
    uint16_t size_bytes;
    uint8_t count; /* of instructions; one more op follows, which leaves */
    bool has_second_page;
    struct soft_op op[];
};

static inline bool soft_block_is_current(const struct soft_block *block)
{
    return atomic_load_explicit(block->generation[0], memory_order_acquire) ==
               block->generation_seen[0] &&
           (likely(!block->has_second_page) ||
            atomic_load_explicit(block->generation[1], memory_order_acquire) ==
                block->generation_seen[1]);
}

/* A chain_tag that no block has. */
#define SOFT_NO_CHAIN UINT64_MAX

static inline uint64_t soft_block_tag(const struct soft_vcpu *v, uint64_t linear, uint32_t key)
{
    return v->block_epoch[linear >> 63] << 4 | (v->cpl == 3) << 3 | key;
}

/* After every change of the mode or the epoch. Outside of 64-bit mode each block has to be held against CS's limit. */
static inline void soft_update_chain_tag(struct soft_vcpu *v)
{
    bool can_chain = v->code_size == X86_CODE_64 && !v->native;
    for (uint64_t half = 0; half < 2; half++) {
        v->chain_tag[half] = can_chain ? soft_block_tag(v, half << 63, X86_CODE_64) : SOFT_NO_CHAIN;
    }
}

/* What the jump cache knows of one half of the address space is looked for again. */
static inline void soft_new_block_epoch(struct soft_vcpu *v, bool upper_half)
{
    v->block_epoch[upper_half]++;
    soft_update_chain_tag(v);
}

/* Linear pages whose blocks are in the jump cache have their bit set, hashed. */
static inline size_t soft_block_page_bit(uint64_t linear)
{
    return ((linear >> GUEST_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> (64 - SOFT_BLOCK_PAGE_BITS);
}

static always_inline struct soft_jump_entry *soft_jump_slot(struct soft_vcpu *v, uint64_t linear)
{
    return &v->jump_cache[(linear ^ linear >> SOFT_JUMP_CACHE_BITS) &
                          ((1u << SOFT_JUMP_CACHE_BITS) - 1)];
}

static always_inline void soft_block_enter(struct soft_vcpu *v, struct soft_block *block)
{
    v->gpr[SOFT_REG_RIP] = v->rip;
    v->block = block;
    v->stats.instructions += block->count;
    block->op[0].fn(v, block->op);
}

/* Stack that chained blocks may take in the one call of soft_run: nothing as long as all handlers end in jumps, but compilers
 * do not promise that, and without optimization none does. */
#define SOFT_CHAIN_STACK 65536u

static always_inline uintptr_t soft_stack_pointer(void)
{
    uintptr_t sp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    return sp;
}

/* The end of a block whose successor is at RIP: goes on there, in tail position, if the jump cache knows the block and nobody
 * wants anything of the vCPU; else leaves it to the run loop. */
static always_inline void soft_chain(struct soft_vcpu *v)
{
    uint64_t rip = v->rip;
    const struct soft_jump_entry *entry = soft_jump_slot(v, rip);
    if (likely(entry->linear == rip && entry->tag == v->chain_tag[rip >> 63] &&
               soft_block_is_current(entry->block) &&
               !atomic_load_explicit(&v->requests, memory_order_relaxed) &&
               soft_stack_pointer() > v->chain_floor)) {
        soft_block_enter(v, entry->block);
    }
}

/* The block at CS:RIP; 'is_single': of one instruction. Raises the faults of the fetch. */
struct soft_block *soft_block_find(struct soft_vcpu *v, bool is_single);

/* The page's bytes may be decoded after this, into a block with the generation that is returned. */
uint32_t soft_begin_decode(struct soft_vcpu *v, const struct soft_page *page,
                           const _Atomic uint32_t **out_generation);

/* The block under way was written to: it ends after the current instruction. */
void soft_block_cut(struct soft_vcpu *v);

int must_check soft_block_init(struct soft_vcpu *v, struct error *err);
void soft_block_fini(struct soft_vcpu *v);

/* Each file of interpret/ and system instructions: takes the instruction or not. */
bool soft_shift_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_bit_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_muldiv_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_locked_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_move_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_stack_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_branch_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_string_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_flags_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_system_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_far_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_control_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
bool soft_fast_call_prepare(struct soft_vcpu *v, const struct x86_insn *insn,
                            struct soft_op *out_op);
bool soft_segment_move_prepare(struct soft_vcpu *v, const struct x86_insn *insn,
                               struct soft_op *out_op);

#endif
