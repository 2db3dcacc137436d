/* Guest memory by linear address, as instructions see it: through the soft TLB, with every check of the architecture.
 *
 * A handler forms the address of its memory operand with soft_linear (segment checks included), then loads or stores. All of
 * these raise the exception themselves and then do not return. Accesses that cross a page are checked on both pages before
 * any byte is written. */
#ifndef ENGINE_SOFT_MEMORY_ACCESS_H
#define ENGINE_SOFT_MEMORY_ACCESS_H

#include <string.h>

#include "engine/soft/vcpu.h"

/* Guest memory has no alignment; one host access each, so aligned ones are atomic. */
typedef uint8_t soft_u8 __attribute__((may_alias));
typedef uint16_t soft_u16 __attribute__((aligned(1), may_alias));
typedef uint32_t soft_u32 __attribute__((aligned(1), may_alias));
typedef uint64_t soft_u64 __attribute__((aligned(1), may_alias));

/* Out-of-line halves (mmu.c, segment.c). */
uint64_t soft_segment_check(struct soft_vcpu *v, const struct soft_op *op, uint8_t segment,
                            uint64_t offset, uint32_t size, bool is_write);
void soft_load_slow(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, void *out_data,
                    uint32_t size);
void soft_store_slow(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, const void *data,
                     uint32_t size);

/* The largest offset that the op's address size gives. */
static always_inline uint64_t soft_address_mask(const struct soft_op *op)
{
    return op->flags & SOFT_OP_ADDRESS_16   ? 0xffff
           : op->flags & SOFT_OP_ADDRESS_32 ? UINT32_MAX
                                            : UINT64_MAX;
}

static always_inline uint64_t soft_mask_offset(const struct soft_op *op, uint64_t offset)
{
    if (unlikely(op->flags & (SOFT_OP_ADDRESS_16 | SOFT_OP_ADDRESS_32))) {
        offset &= soft_address_mask(op);
    }
    return offset;
}

/* Offset of the memory operand within its segment. */
static always_inline uint64_t soft_offset(const struct soft_vcpu *v, const struct soft_op *op)
{
    uint64_t offset = v->gpr[op->base] + (v->gpr[op->index] << op->shift) + (uint64_t)op->disp;
    return soft_mask_offset(op, offset);
}

/* Linear address of 'offset' in 'segment' for an access of 'size' bytes. */
static always_inline uint64_t soft_linear_at(struct soft_vcpu *v, const struct soft_op *op,
                                             uint8_t segment, uint64_t offset, uint32_t size,
                                             bool is_write)
{
    if (unlikely(op->flags & SOFT_OP_LEGACY)) {
        uint8_t flat = is_write ? v->flat_write : v->flat_read;
        if (unlikely(!((flat >> segment) & 1) || offset + size > 0x100000000ull)) {
            return soft_segment_check(v, op, segment, offset, size, is_write);
        }
        return offset;
    }
    return offset + v->segment_base[segment];
}

/* Linear address of the op's memory operand. */
static always_inline uint64_t soft_linear(struct soft_vcpu *v, const struct soft_op *op,
                                          uint32_t size, bool is_write)
{
    return soft_linear_at(v, op, op->segment, soft_offset(v, op), size, is_write);
}

static always_inline size_t soft_tlb_index(uint64_t gva)
{
    return (gva >> GUEST_PAGE_SHIFT) & (SOFT_TLB_SIZE - 1);
}

static always_inline uint64_t soft_tlb_tag(uint64_t gva)
{
    return gva & ~(uint64_t)(GUEST_PAGE_SIZE - 1);
}

/* Host address of [gva, gva + size) if the TLB knows it as readable (writable) and it lies in one page; else NULL: take the
 * slow path. Writing through it is a plain guest write. #AC is not checked: NULL if it is in force and gva is unaligned.
 * The one comparison finds both another page and an access that leaves the page. */
static always_inline void *soft_fast_access(struct soft_vcpu *v, uint64_t gva, uint32_t size,
                                            bool is_write)
{
    const struct soft_tlb *tlb = v->tlb;
    size_t index = soft_tlb_index(gva);
    uint64_t offset = gva - (is_write ? tlb->write_tag[index] : tlb->read_tag[index]);
    if (unlikely(offset > GUEST_PAGE_SIZE - size || (v->align_check && (gva & (size - 1))))) {
        return NULL;
    }
    void *hva = tlb->hva[index] + offset;
    if (!hva) {
        __builtin_unreachable();
    }
    return hva;
}

static always_inline void *soft_fast_read(struct soft_vcpu *v, uint64_t gva, uint32_t size)
{
    return soft_fast_access(v, gva, size, false);
}

static always_inline void *soft_fast_write(struct soft_vcpu *v, uint64_t gva, uint32_t size)
{
    return soft_fast_access(v, gva, size, true);
}

/* The same for the op's memory operand, or NULL if a segment needs a closer look, too. Handlers that begin so and leave the
 * rest to a function of its own, in tail position, need no stack. */
static always_inline void *soft_fast_operand(struct soft_vcpu *v, const struct soft_op *op,
                                             uint32_t size, bool is_write)
{
    uint64_t gva = soft_offset(v, op);
    if (unlikely(op->flags & SOFT_OP_LEGACY)) {
        uint8_t flat = is_write ? v->flat_write : v->flat_read;
        if (!((flat >> op->segment) & 1) || gva + size > 0x100000000ull) {
            return NULL;
        }
    } else {
        gva += v->segment_base[op->segment];
    }
    return soft_fast_access(v, gva, size, is_write);
}

/* Any size from 1 to 64. Accesses of 1, 2, 4, 8 bytes that are aligned are single-copy atomic. */
static always_inline void soft_load_bytes(struct soft_vcpu *v, const struct soft_op *op,
                                          uint64_t gva, void *out_data, uint32_t size)
{
    const void *hva = soft_fast_read(v, gva, size);
    if (likely(hva)) {
        memcpy(out_data, hva, size);
    } else {
        soft_load_slow(v, op, gva, out_data, size);
    }
}

static always_inline void soft_store_bytes(struct soft_vcpu *v, const struct soft_op *op,
                                           uint64_t gva, const void *data, uint32_t size)
{
    void *hva = soft_fast_write(v, gva, size);
    if (likely(hva)) {
        memcpy(hva, data, size);
    } else {
        soft_store_slow(v, op, gva, data, size);
    }
}

/* As soft_load_bytes and soft_store_bytes, but never #AC, whatever the size (x87 images, 16-byte and wider operands,
 * system structures). */
void soft_load_unchecked(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                         void *out_data, uint32_t size);
void soft_store_unchecked(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                          const void *data, uint32_t size);

/* Raises what a write of [gva, gva + size) would raise (any size), and changes nothing: before the first byte of a
 * result that is written in pieces. */
void soft_check_write(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size);
/* The same with #AC, for 1 to 8 bytes. */
void soft_check_change(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size);
/* #AC if it is in force and 'gva' is no multiple of 'size'. */
void soft_check_alignment(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                          uint32_t size);
void soft_check_read(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size);

#define SOFT_DEFINE_ACCESS(bits)                                                                   \
    static always_inline uint##bits##_t soft_load##bits(struct soft_vcpu *v,                       \
                                                        const struct soft_op *op, uint64_t gva)    \
    {                                                                                              \
        const void *hva = soft_fast_read(v, gva, bits / 8);                                        \
        if (likely(hva)) {                                                                         \
            return *(const volatile soft_u##bits *)hva;                                            \
        }                                                                                          \
        uint##bits##_t value;                                                                      \
        soft_load_slow(v, op, gva, &value, bits / 8);                                              \
        return value;                                                                              \
    }                                                                                              \
    static always_inline void soft_store##bits(struct soft_vcpu *v, const struct soft_op *op,      \
                                               uint64_t gva, uint##bits##_t value)                 \
    {                                                                                              \
        void *hva = soft_fast_write(v, gva, bits / 8);                                             \
        if (likely(hva)) {                                                                         \
            *(volatile soft_u##bits *)hva = value;                                                 \
        } else {                                                                                   \
            soft_store_slow(v, op, gva, &value, bits / 8);                                         \
        }                                                                                          \
    }

SOFT_DEFINE_ACCESS(8)
SOFT_DEFINE_ACCESS(16)
SOFT_DEFINE_ACCESS(32)
SOFT_DEFINE_ACCESS(64)

#endif
