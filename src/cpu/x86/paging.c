/* The page walk. One loop serves all three formats: they differ in entry size, index width and reserved bits.
 *
 *   32-bit:   PDE -> PTE            4-byte entries, 10 bits of index, 4 MiB pages with CR4.PSE
 *   PAE:      (PDPTE) -> PDE -> PTE 8-byte entries, 9 bits of index, 2 MiB pages
 *   4-level:  PML4E -> PDPTE -> PDE -> PTE, also 1 GiB pages */
#include "cpu/x86/paging.h"

#include <stddef.h>

#include "base/core/bits.h"
#include "base/core/compiler.h"
#include "cpu/x86/state.h"

#define PAGE_SHIFT 12

/* PSE-36: bits 39:32 of a 4 MiB page's address stand in bits 20:13 of its entry (SDM 3A table 4-4). */
#define PSE36_ADDRESS_BITS 40

enum walk_result {
    WALK_DONE,
    WALK_FAULT,
    WALK_AGAIN, /* an entry changed under us */
};

struct walk {
    const struct x86_paging *paging;
    const struct x86_paging_memory *memory;
    uint64_t gva;
    enum x86_access access;
    bool is_user;
    bool is_implicit;
    bool is_pae;       /* PAE or 4-level: 8-byte entries */
    bool is_xd_active; /* else bit 63 is reserved */
    uint64_t reserved; /* in entries of every level */

    uint64_t rights; /* of all levels so far: R/W and U/S anded */
    uint64_t xd;     /* ored */
    uint64_t entry, entry_gpa;
    unsigned shift; /* number of address bits below the entry's index */
};

/* Reserved bits of 'entry' at 'level' (SDM 3A 4.3, 4.4.2, 4.5.4). */
static always_inline uint64_t reserved_bits(const struct walk *walk, unsigned level, bool is_leaf)
{
    if (walk->is_pae) {
        return walk->reserved | (level == 4 ? X86_PTE_PS : 0) |
               (is_leaf && level > 1 ? BITS(walk->shift - 1, 13) : 0);
    }
    if (is_leaf && level > 1) {
        unsigned width = MIN(walk->paging->physical_bits, PSE36_ADDRESS_BITS);
        return BITS(21, MAX(width, 32) - 32 + 13);
    }
    return 0;
}

/* Sets 'bits' in the entry in memory. */
static bool update_entry(struct walk *walk, uint64_t bits)
{
    uint64_t desired = walk->entry | bits;
    if (desired == walk->entry) {
        return true;
    }
    if (!walk->memory->compare_exchange(walk->memory->ctx, walk->entry_gpa, walk->is_pae ? 8 : 4,
                                        walk->entry, desired)) {
        return false;
    }
    walk->entry = desired;
    return true;
}

/* Goes down to the entry that maps the page. */
static enum walk_result descend(struct walk *walk, uint32_t *out_error)
{
    const struct x86_paging *paging = walk->paging;
    unsigned index_bits = walk->is_pae ? 9 : 10;
    unsigned entry_size = walk->is_pae ? 8 : 4;
    unsigned level = 2;
    uint64_t table = paging->cr3 & 0xfffff000u;
    if (paging->efer & X86_EFER_LMA) {
        level = 4;
        table = paging->cr3 & X86_PTE_ADDRESS;
    } else if (walk->is_pae) {
        uint64_t pdpte = paging->pdpte[walk->gva >> 30];
        if (!(pdpte & X86_PTE_P)) {
            *out_error = 0;
            return WALK_FAULT;
        }
        table = pdpte & X86_PTE_ADDRESS;
    }
    for (;; level--) {
        walk->shift = PAGE_SHIFT + (level - 1) * index_bits;
        walk->entry_gpa = table + (walk->gva >> walk->shift & (BIT(index_bits) - 1)) * entry_size;
        walk->entry = walk->memory->read(walk->memory->ctx, walk->entry_gpa, entry_size);
        uint64_t entry = walk->entry;
        if (!(entry & X86_PTE_P)) {
            *out_error = 0;
            return WALK_FAULT;
        }
        bool is_leaf = level == 1 || (level < 4 && (entry & X86_PTE_PS) &&
                                      (walk->is_pae || (paging->cr4 & X86_CR4_PSE)));
        if (unlikely(entry & reserved_bits(walk, level, is_leaf))) {
            *out_error = X86_PF_PRESENT | X86_PF_RSVD;
            return WALK_FAULT;
        }
        walk->rights &= entry;
        walk->xd |= entry;
        if (is_leaf) {
            return WALK_DONE;
        }
        if (unlikely(!update_entry(walk, X86_PTE_A))) {
            return WALK_AGAIN;
        }
        table = entry & (walk->is_pae ? X86_PTE_ADDRESS : 0xfffff000u);
    }
}

/* SDM 3A 4.6.1. */
static always_inline bool may_read(const struct walk *walk)
{
    bool is_user_page = walk->rights & X86_PTE_US;
    if (walk->is_user) {
        return is_user_page;
    }
    return !(is_user_page && (walk->paging->cr4 & X86_CR4_SMAP) &&
             (walk->is_implicit || !walk->paging->flag_ac));
}

static always_inline bool may_write(const struct walk *walk)
{
    return may_read(walk) &&
           ((walk->rights & X86_PTE_RW) || (!walk->is_user && !(walk->paging->cr0 & X86_CR0_WP)));
}

static always_inline bool is_executable(const struct walk *walk)
{
    return !(walk->is_xd_active && (walk->xd & X86_PTE_XD));
}

static always_inline bool may_fetch(const struct walk *walk)
{
    bool is_user_page = walk->rights & X86_PTE_US;
    if (walk->is_user ? !is_user_page : is_user_page && (walk->paging->cr4 & X86_CR4_SMEP)) {
        return false;
    }
    return is_executable(walk);
}

static uint64_t page_frame(const struct walk *walk)
{
    if (walk->is_pae) {
        return walk->entry & BITS(51, walk->shift);
    }
    if (walk->shift == PAGE_SHIFT) {
        return walk->entry & 0xfffff000u;
    }
    return (walk->entry & BITS(31, 22)) | FIELD(walk->entry, 20, 13) << 32;
}

static enum walk_result walk_once(struct walk *walk, struct x86_translation *out_translation,
                                  uint32_t *out_error)
{
    walk->rights = X86_PTE_RW | X86_PTE_US;
    walk->xd = 0;
    enum walk_result result = descend(walk, out_error);
    if (result != WALK_DONE) {
        return result;
    }
    bool allowed = walk->access == X86_ACCESS_READ    ? may_read(walk)
                   : walk->access == X86_ACCESS_WRITE ? may_write(walk)
                                                      : may_fetch(walk);
    if (!allowed) {
        *out_error = X86_PF_PRESENT;
        return WALK_FAULT;
    }
    if (!update_entry(walk, X86_PTE_A | (walk->access == X86_ACCESS_WRITE ? X86_PTE_D : 0))) {
        return WALK_AGAIN;
    }
    bool is_dirty = walk->entry & X86_PTE_D;
    *out_translation = (struct x86_translation){
        .gpa = page_frame(walk) | (walk->gva & (BIT(walk->shift) - 1)),
        .page_size = BIT(walk->shift),
        .is_writable = is_dirty && may_write(walk),
        .is_user = walk->rights & X86_PTE_US,
        .is_executable = is_executable(walk),
        .is_global = (walk->entry & X86_PTE_G) && (walk->paging->cr4 & X86_CR4_PGE),
        .is_dirty = is_dirty,
    };
    return WALK_DONE;
}

bool x86_paging_walk(const struct x86_paging *paging, const struct x86_paging_memory *memory,
                     uint64_t gva, enum x86_access access, bool is_user, bool is_implicit,
                     struct x86_translation *out_translation, uint32_t *out_error)
{
    bool is_long = paging->efer & X86_EFER_LMA;
    if (!is_long) {
        gva = (uint32_t)gva;
    }
    if (!(paging->cr0 & X86_CR0_PG)) {
        *out_translation = (struct x86_translation){
            .gpa = gva,
            .page_size = BIT(PAGE_SHIFT),
            .is_writable = true,
            .is_user = true,
            .is_executable = true,
            .is_dirty = true,
        };
        return true;
    }
    struct walk walk = {
        .paging = paging,
        .memory = memory,
        .gva = gva,
        .access = access,
        .is_user = is_user && !is_implicit,
        .is_implicit = is_implicit,
        .is_pae = paging->cr4 & X86_CR4_PAE,
    };
    if (walk.is_pae) {
        walk.is_xd_active = paging->efer & X86_EFER_NXE;
        /* Bits 62:52 are free for software in 4-level paging only. */
        walk.reserved =
            BITS(is_long ? 51 : 62, paging->physical_bits) | (walk.is_xd_active ? 0 : X86_PTE_XD);
    }
    enum walk_result result;
    uint32_t error = 0;
    do {
        result = walk_once(&walk, out_translation, &error);
    } while (unlikely(result == WALK_AGAIN));
    if (likely(result == WALK_DONE)) {
        return true;
    }
    /* The fetch bit only exists where fetches have rights of their own (SDM 3A 4.7). */
    bool names_fetch = walk.is_xd_active || (paging->cr4 & X86_CR4_SMEP);
    *out_error = error | (access == X86_ACCESS_WRITE ? X86_PF_WRITE : 0) |
                 (walk.is_user ? X86_PF_USER : 0) |
                 (access == X86_ACCESS_FETCH && names_fetch ? X86_PF_FETCH : 0);
    return false;
}

bool x86_paging_load_pdptes(const struct x86_paging_memory *memory, uint64_t cr3,
                            uint8_t physical_bits, uint64_t out_pdpte[4])
{
    uint64_t reserved = BITS(2, 1) | BITS(8, 5) | BITS(63, physical_bits);
    uint64_t pdpte[4];
    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = memory->read(memory->ctx, (cr3 & 0xffffffe0u) + i * sizeof(pdpte[0]), 8);
        if ((pdpte[i] & X86_PTE_P) && (pdpte[i] & reserved)) {
            return false;
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        out_pdpte[i] = pdpte[i];
    }
    return true;
}
