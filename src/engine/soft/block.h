/* Blocks: straight runs of decoded instructions, kept per vCPU by guest physical address and code size. */
#ifndef ENGINE_SOFT_BLOCK_H
#define ENGINE_SOFT_BLOCK_H

#include "engine/soft/vcpu.h"

#define SOFT_BLOCK_MAX_OPS 32

/* Part of a block's key beside the code size: holds one instruction only. */
#define SOFT_KEY_SINGLE 0x04u

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

/* The block at CS:RIP; 'is_single': of one instruction. Raises the faults of the fetch. */
struct soft_block *soft_block_find(struct soft_vcpu *v, bool is_single);

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

#endif
