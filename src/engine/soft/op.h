/* Operations: what a decoded guest instruction becomes. A block is an array of them; each handler does its instruction and
 * calls the next one in tail position, so that running a block is a chain of jumps with no loop around it. */
#ifndef ENGINE_SOFT_OP_H
#define ENGINE_SOFT_OP_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/x86/decode.h"

struct soft_vcpu;
struct soft_op;

/* Ends with SOFT_NEXT, or, when the block is over, sets the RIP and returns. What an instruction changes is written at its
 * end, when nothing can fault any more: soft_raise leaves the handler by longjmp. */
typedef void (*soft_op_fn)(struct soft_vcpu *v, const struct soft_op *op);

/* Pseudo registers behind the 16 of struct soft_vcpu: base and index of addresses that have none. */
#define SOFT_REG_ZERO 16 /* always 0 */
#define SOFT_REG_RIP  17 /* RIP of the block's first instruction; 'disp' holds the rest */
#define SOFT_REG_FAR                                                                               \
    18 /* always SOFT_FAR: for a 'disp' that, with what RIP lacks, passes 32 bits */
#define SOFT_FAR 0x10000

#define SOFT_OP_HAS_MEMORY 0x01u
#define SOFT_OP_LEGACY     0x02u /* not 64-bit mode: segments have limits and types */
#define SOFT_OP_LOCK       0x04u
#define SOFT_OP_ADDRESS_16 0x08u /* width of the effective address, if not 64 bits */
#define SOFT_OP_ADDRESS_32 0x10u

/* Two to a cache line: programs larger than the host's first cache live from that. */
struct soft_op {
    soft_op_fn fn;
    union {
        uint64_t imm;
        void *data; /* the handler's own; lives as long as the block, see soft_block_alloc */
    };
    int32_t disp;
    uint8_t dst, src;    /* general registers, as byte offsets into gpr[] (AH is 1) */
    uint8_t base, index; /* numbers, with the pseudo registers */
    uint8_t shift;       /* of the index */
    uint8_t segment;     /* enum x86_segment_id */
    uint8_t size;        /* of the operands in bytes */
    uint8_t length;      /* of the instruction in bytes */
    uint16_t offset;     /* of the instruction from the block's start in bytes */
    uint8_t flags;       /* SOFT_OP_* */
    uint8_t variant;     /* the handler's own, beside imm or data */
} __attribute__((aligned(32)));
static_assert(sizeof(struct soft_op) == 32, "struct soft_op is to fill half a cache line");

#define SOFT_NEXT(v, op) return (op)[1].fn((v), (op) + 1)

/* The handler of instruction 'insn' and its operands; false: it is none of this file's. Everything about the address and
 * sizes is set already; 'fn', 'imm' or 'data', 'variant', 'dst', 'src' are to be filled in.
 * 'out_op->data' from soft_block_alloc or soft_keep_insn. */
bool soft_integer_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);
/* For rows with X86_ROW_X87, MMX, SSE or VEX, and for what no other file takes (BMI, ADX, CRC32, XSAVE ...). */
bool soft_simd_prepare(struct soft_vcpu *v, const struct x86_insn *insn, struct soft_op *out_op);

/* Memory that lives as long as the block that is being decoded; zeroed, aligned to 16. Only in the prepare functions. */
void *soft_block_alloc(struct soft_vcpu *v, uint32_t size);
/* A copy of 'insn' in such memory. */
const struct x86_insn *soft_keep_insn(struct soft_vcpu *v, const struct x86_insn *insn);

#endif
