/* The page walk of 32-bit, PAE and 4-level paging with exact access rights, accessed and dirty bits and #PF error codes
 * (Intel SDM 3A chapter 4). Guest tables are read and updated through callbacks, as this room knows no memory. */
#ifndef CPU_X86_PAGING_H
#define CPU_X86_PAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/bits.h"

/* Bits of the entries of PAE and 4-level tables (SDM 3A 4.4.2 and 4.5.5); those of 32-bit paging have the low ones. */
#define X86_PTE_P       BIT(0)
#define X86_PTE_RW      BIT(1)
#define X86_PTE_US      BIT(2)
#define X86_PTE_A       BIT(5)
#define X86_PTE_D       BIT(6)
#define X86_PTE_PS      BIT(7)
#define X86_PTE_G       BIT(8)
#define X86_PTE_XD      BIT(63)
#define X86_PTE_ADDRESS BITS(51, 12)

enum x86_access {
    X86_ACCESS_READ,
    X86_ACCESS_WRITE,
    X86_ACCESS_FETCH,
};

/* The registers that a walk depends on. */
struct x86_paging {
    uint64_t cr0, cr3, cr4, efer;
    uint64_t pdpte[4]; /* PAE */
    bool flag_ac;      /* RFLAGS.AC, for SMAP */
    uint8_t
        physical_bits; /* width of physical addresses, at most 52: higher bits in entries are reserved */
};

struct x86_paging_memory {
    void *ctx;
    /* The naturally aligned entry of 'size' (4 or 8) bytes at 'gpa'; unbacked memory reads all ones. */
    uint64_t (*read)(void *ctx, uint64_t gpa, unsigned size);
    /* Replaces 'expected' by 'desired' in one atomic step; false if something else is there now (the walk starts
     * again). Unbacked memory: true. */
    bool (*compare_exchange)(void *ctx, uint64_t gpa, unsigned size, uint64_t expected,
                             uint64_t desired);
};

struct x86_translation {
    uint64_t gpa;       /* of the address asked for */
    uint64_t page_size; /* 4 KiB, 2 MiB, 4 MiB or 1 GiB */
    bool is_writable;   /* a write of the same privilege would pass now and the D bit is set */
    bool is_user;       /* the U bit of all levels */
    bool is_executable; /* no XD in any level (and XD in force) */
    bool is_global;
    bool is_dirty;
};

/* Translates linear address 'gva' (canonical: the caller has checked) for an access by a 'is_user' (CPL 3) or
 * supervisor access; 'is_implicit': a system access (descriptor tables, TSS), always supervisor and not excused by AC.
 * Sets A and D bits as hardware does. Returns true, or false with the #PF error code in *out_error. */
bool x86_paging_walk(const struct x86_paging *paging, const struct x86_paging_memory *memory,
                     uint64_t gva, enum x86_access access, bool is_user, bool is_implicit,
                     struct x86_translation *out_translation, uint32_t *out_error);

/* Loads the four PDPTEs of PAE paging from CR3. False: a reserved bit is set in a present one (#GP). */
bool x86_paging_load_pdptes(const struct x86_paging_memory *memory, uint64_t cr3,
                            uint8_t physical_bits, uint64_t out_pdpte[4]);

/* Is 'gva' canonical for 48-bit linear addresses? */
static inline bool x86_is_canonical(uint64_t gva)
{
    return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

#endif
