/* Translations of guest addresses, in two levels, and the address spaces they belong to.
 *
 * The first level (struct soft_tlb in vcpu.h) is what translated code looks at: small, one for each kind of access rights, with
 * the current address space and nothing else. The second level holds rights as the page tables give them, so that one serves
 * all modes; its entries name their address space, so that those of others stay while they do not run. Each address space (each
 * PCID) has a tag, and to flush one is to give it a new tag; the same for global pages. Nothing is there that the guest's page
 * tables have not said since the last flush of its address, and accesses that an entry forbids walk the tables again. */
#ifndef ENGINE_SOFT_TLB_H
#define ENGINE_SOFT_TLB_H

#include "engine/soft/vcpu.h"

/* What is known of a page: bits of soft_tlb_entry.page beside the guest physical address. */
#define SOFT_PAGE_W      BIT(0) /* R/W in all levels */
#define SOFT_PAGE_U      BIT(1) /* U/S in all levels */
#define SOFT_PAGE_X      BIT(2) /* no XD that is in force */
#define SOFT_PAGE_D      BIT(3) /* it has been written: D is set */
#define SOFT_PAGE_G      BIT(4) /* global, and CR4.PGE */
#define SOFT_PAGE_LARGE  BIT(5)
#define SOFT_PAGE_HUGE   BIT(6) /* of more than 2 MiB */
#define SOFT_PAGE_RIGHTS BITS(6, 0)

enum soft_fill {
    SOFT_FILL_DONE, /* the first level has an entry */
    SOFT_FILL_NONE, /* the access is allowed, but none is to be had: devices, ROM, code that is written */
    SOFT_FILL_FAULT, /* the guest's page tables do not allow it */
    SOFT_FILL_ASK,   /* not known here: the long way has to be gone */
};

/* Translates canonical 'gva' for an access with the rights of 'tlb' in long mode, and takes it into both levels. 'out_gpa' is set
 * with DONE and NONE; with FAULT it is the error code of #PF. Uses no vector registers: the guest's may be in the host's. */
enum soft_fill soft_tlb_quick(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                              enum x86_access access, uint64_t *out_gpa);

/* Takes a translation into the first level of 'tlb' for this kind of access. 'page': guest physical address and SOFT_PAGE_*. */
enum soft_fill soft_tlb_enter(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                              enum x86_access access, uint64_t page);

/* May a vCPU write to the page of that number in the slot without looking, until it is told to drop its write entries? See the head of
 * mmu.c. */
bool soft_tlb_claim_writable(struct soft_vcpu *v, const struct guest_slot *slot, size_t index);

/* INVLPG, where nothing is known of the page but data in small pages: no code, no part of a large page. Else false, and nothing
 * has changed. Uses no vector registers. */
bool soft_tlb_flush_small_page(struct soft_vcpu *v, uint64_t gva);
/* All translations of the page, in both levels, as far as they are of small pages. */
void soft_tlb_drop_page(struct soft_vcpu *v, uint64_t gva);

/* address_space.c. At MOV to CR3 (and what is like it) with the new value in v->cr3: 'keeps' what is known of its PCID. */
void soft_space_enter(struct soft_vcpu *v, bool keeps);
/* INVPCID; 'type' is valid. */
void soft_space_invalidate(struct soft_vcpu *v, unsigned type, uint16_t pcid, uint64_t gva);

static inline struct soft_code_page *soft_code_page_slot(struct soft_vcpu *v, uint64_t gva)
{
    return &v->code_page[(gva >> GUEST_PAGE_SHIFT) % SOFT_CODE_PAGES];
}

/* Is it known that 'gva' lies in a page with code and may be written, though not through a TLB? NULL: no. */
static inline const struct soft_code_page *soft_find_code_page(struct soft_vcpu *v, uint64_t gva)
{
    const struct soft_code_page *known = soft_code_page_slot(v, gva);
    bool is_known =
        known->tag == (gva & ~(uint64_t)(GUEST_PAGE_SIZE - 1)) && known->tlb == v->tlb &&
        known->epoch == v->code_page_epoch &&
        (atomic_load_explicit(&known->slot->page_flags[known->index], memory_order_relaxed) &
         GUEST_PAGE_CODE);
    return is_known ? known : NULL;
}

/* The second level's places. */
static inline uint64_t soft_second_key(uint64_t gva, unsigned shift, uint32_t tag)
{
    return gva << 16 >> (16 + shift) << SOFT_SPACE_TAG_BITS | tag;
}
static inline struct soft_tlb_entry *soft_second_set(struct soft_vcpu *v, uint64_t gva,
                                                     uint32_t tag)
{
    size_t set = ((gva >> GUEST_PAGE_SHIFT) + (gva >> (GUEST_PAGE_SHIFT + 9)) + tag * 0x9e37u) &
                 (SOFT_SECOND_SETS - 1);
    return v->second.page[set];
}
static inline struct soft_tlb_entry *soft_second_large(struct soft_vcpu *v, uint64_t gva,
                                                       uint32_t tag)
{
    return &v->second.large[((gva >> SOFT_LARGE_SHIFT) + tag * 0x9e37u) & (SOFT_SECOND_LARGE - 1)];
}
static inline bool soft_has_bit(const uint64_t *words, size_t bit)
{
    return words[bit / 64] & BIT(bit % 64);
}
/* A bit for each region of 2 MiB, hashed. */
static inline size_t soft_large_bit(uint64_t gva)
{
    return (gva >> SOFT_LARGE_SHIFT) % SOFT_LARGE_BITS;
}

/* Which entries of the first level a flush has to visit. */
enum soft_tlb_class {
    SOFT_TLB_LOWER,
    SOFT_TLB_UPPER_LOCAL,
    SOFT_TLB_UPPER_GLOBAL,
};

_Static_assert(SOFT_TLB_SIZE <= 64 * 64, "a bit of filled_words for each word of 'filled'");

static inline void soft_tlb_clear(struct soft_tlb *tlb, size_t index)
{
    tlb->read_tag[index] = tlb->write_tag[index] = tlb->fetch_tag[index] = soft_tlb_invalid(index);
}

/* Does the entry hold something of this linear page? */
static inline bool soft_tlb_has(const struct soft_tlb *tlb, size_t index, uint64_t tag)
{
    return tlb->read_tag[index] == tag || tlb->write_tag[index] == tag ||
           tlb->fetch_tag[index] == tag;
}

#endif
