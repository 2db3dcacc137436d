/* Private to the translator: its blocks, how they are found, linked and dropped, and the memory of their code. */
#ifndef ENGINE_SOFT_TRANSLATE_BLOCK_TABLE_H
#define ENGINE_SOFT_TRANSLATE_BLOCK_TABLE_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/core/bits.h"
#include "engine/soft/translate/emit.h"
#include "engine/soft/translate/native.h"
#include "engine/soft/vcpu.h"

/* RSP of translated code: at the register R13 in the vCPU, so that the most used fields have displacements of one byte. What calls
 * of stubs push is where registers are that the host's hold then; and signals leave 128 bytes below RSP alone. */
#define NATIVE_ANCHOR ((int32_t)offsetof(struct soft_vcpu, gpr) + 8 * X86_R13)
_Static_assert(NATIVE_ANCHOR <= 128, "signals write below it");
/* A field of the vCPU, for RSP-relative operands. */
#define VCPU_FIELD(member) ((int32_t)offsetof(struct soft_vcpu, member) - NATIVE_ANCHOR)

/* A block's mode: enum soft_tlb_mode, which vector instructions are on, and the code's size. */
#define NATIVE_MODE_TLB  0x03u
#define NATIVE_MODE_SSE  0x04u
#define NATIVE_MODE_AVX  0x08u
#define NATIVE_MODE_X87  0x10u
#define NATIVE_MODE_SMAP 0x20u /* CR4.SMAP: STAC and CLAC mean something */
/* 32-bit code and stack; CS, SS, DS and ES have base 0 and limit 4 GiB and allow what they usually do. */
#define NATIVE_MODE_32 0x40u
/* In 32-bit code: the segment may be read and written up to 4 GiB, at any base. */
#define NATIVE_MODE_FS 0x80u
#define NATIVE_MODE_GS 0x100u
/* 64-bit code of a kernel, or of what loads it, in the lower half of the address space. */
#define NATIVE_MODE_LOW 0x200u
/* Of blocks only: each access has a check of its own. For where the one of a group meets the end of a page. */
#define NATIVE_MODE_UNGROUPED 0x400u
/* Memory is accessed in windows (windows.h). */
#define NATIVE_MODE_WINDOWS 0x800u
/* With windows: the blocks are the process's own, at its addresses. */
#define NATIVE_MODE_OWN  0x1000u
#define NATIVE_MODE_BITS 13
#define NATIVE_MODE_NONE UINT32_MAX /* not for the translator */

/* Where something lies in the memory of descriptions, in bytes from its start. 0: nowhere. */
typedef uint32_t native_ref;

/* A direct exit of a block, and where its jump goes. Big programs have hundreds of thousands of blocks: what can be told from the
 * block, or in fewer bytes as a distance, is not kept. */
struct native_link {
    native_ref target; /* block; 0: the jump goes to the stub that links it */
    native_ref next;   /* link in the target's list */
    native_ref from;   /* the native_ref there that leads to this link */
    int32_t distance;  /* guest bytes from the block's end to the target */
    uint16_t place;    /* of the jump's displacement, in the block's code or what is out of line */
    uint16_t stub;     /* in the part of it that is out of line */
    uint8_t epoch_before; /* how far before 'place' the exit compares the epoch; 0: it does not */
    uint8_t base_before;  /* and native_page, if the block is shared; or 0 */
    uint8_t number;       /* which of its block's links it is */
    bool with_flags : 1;  /* the flags are in the host's (or do not matter) */
    bool is_saved : 1;    /* they are in 'status' (or do not matter) */
    bool is_cold : 1;     /* the jump is out of line */
    bool is_landing : 1;  /* no jump, but an address that RET jumps to; see call_return.c */
};

/* Two at the end, one for where a CALL comes back to, and one for each conditional branch before. */
#define NATIVE_MAX_LINKS 7u

/* A program's blocks are shared between all addresses at which its page is seen: libraries lie at another address in each
 * process. Such a block knows RIPs, its own among them, only as distances from its page's address, whose number is in
 * native_page while it runs.
 *
 * Blocks of the kernel have their RIPs as they are, and so have those of a process that runs for long and has not much code
 * (windows.c): they are shorter, and need not wait for native_page, which calls and returns hand on through memory. */
struct native_block {
    native_ref hash_next, page_next; /* older ones */
    native_ref incoming;             /* links */
    /* Where in the code cache the block's code is, and where the part of it that is out of line: what
     * seldom runs is kept out of the host's caches. */
    uint32_t code, cold;
    uint32_t size_bytes : 12;  /* of the guest's code */
    uint32_t last_offset : 12; /* of the last instruction in it */
    uint32_t link_count : 4;
    bool is_crossing : 1; /* a struct native_second is behind the links */
    bool is_landing : 1;  /* calls may have left its address */
    bool
        saves_first : 1; /* the first entry is that with status flags in the host's, the second the better one */
    uint64_t gpa : 64 - NATIVE_MODE_BITS;
    uint64_t mode : NATIVE_MODE_BITS;
    uint64_t address;  /* see native_address */
    uint64_t granules; /* of its page that it depends on */
    uint16_t code_size, cold_size;
    uint16_t second_entry; /* where in the code; the first one is at its start */
    uint8_t
        jump_count; /* places in the jump cache that may have it; NATIVE_JUMP_MANY: any of its RIPs' */
    uint8_t jump_page; /* the one: what native_jump_page says of its RIP */
    struct native_link link[];
};

_Static_assert(sizeof(struct native_link) == 24 && sizeof(struct native_block) == 56,
               "or docs/engines.md has too small a number for the tables");

/* Of a block of one instruction that begins in one page and ends in the next. It is found by the addresses of both. The jump
 * cache and links, which compare the epoch, know it by RIP. */
struct native_second {
    uint64_t gpa; /* of that page */
    uint64_t granules;
    native_ref next; /* block in that page's list, an older one */
};

/* A guest page with translated code. */
struct native_page {
    struct native_page *hash_next; /* or in the list of free ones */
    uint64_t gpa;
    const _Atomic uint32_t *generation;
    uint64_t granules; /* those of its blocks */
    uint32_t generation_seen;
    native_ref blocks;
    native_ref crossings; /* blocks that end in it */
    uint32_t last_cut;    /* see pages.c */
};

#define NATIVE_SMALL_COUNT 13u /* native_system.h */

/* The code cache is filled region by region, and the oldest is emptied to be filled again. */
#define NATIVE_REGIONS 8u

/* When so many pages are noted, they are forgotten with all epochs: a large part of a full map would be there by chance. */
#define NATIVE_LINEAR_BITS 17
#define NATIVE_LINEAR_MOST 8192u

/* BEXTR's control for the bits of an address that say which entry of the TLB is its. */
#define NATIVE_WINDOW_BITS (SOFT_WINDOW_SHIFT | 16u << 8) /* the same for its window */
#define NATIVE_TLB_BITS    (GUEST_PAGE_SHIFT | (uint32_t)__builtin_ctz(SOFT_TLB_SIZE) << 8)

/* An access to memory in a window: from that place in the code cache (to that of the next site) the host may fault; then the
 * code at 'cold' is run instead. */
struct native_window_site {
    uint32_t code;
    uint32_t cold : 31;
    uint32_t may_fault : 1; /* #PF is the instruction's */
};

#define NATIVE_STRING_SIZES 4
#define NATIVE_STRING_STUBS (2 * NATIVE_STRING_SIZES) /* MOVS and STOS */
#define NATIVE_NOWHERE      BIT(62)                   /* not canonical */

/* A page whose code changes, and how what is in it now has run: for the first time, and for the second. */
struct native_changing {
    uint32_t number; /* of the page */
    uint32_t generation;
    uint16_t firsts, seconds;
    uint8_t contents; /* so many there have been */
    bool runs_once;   /* what was there last */
    bool waits;       /* its code is translated the second time */
};
#define NATIVE_CHANGING_SIZE 4096u
#define NATIVE_BEGINS_BITS   19
#define NATIVE_SEEN_BITS     14

struct soft_native {
    uint8_t *writable, *executable; /* two views of the same memory */
    size_t size, fixed;             /* 'fixed': stubs, which stay */
    size_t used, cold_used;         /* where the two parts of the region that is filled go on */
    uint8_t *meta;                  /* descriptions of blocks */
    struct native_window_sites *window_sites; /* NULL: none */
    size_t meta_size, meta_used;
    /* The region that is filled, how much each has of both memories, and where the descriptions of the others end. */
    uint32_t region;
    size_t region_size, region_meta_size;
    native_ref region_end[NATIVE_REGIONS];
    uint32_t cut; /* counts regions that have been emptied */
    native_ref *hash;
    uint64_t
        begins[(1u << NATIVE_BEGINS_BITS) / 64]; /* hashed: where no bit is set no block begins */
    uint32_t hash_bits, page_hash_bits;
    struct native_page **page_hash;
    struct native_page *pages, *free_pages;
    size_t page_count, pages_used; /* those behind have never been */
    uint64_t epoch[2]; /* of the halves of the address space; 32 bits are compared, never 0 */
    uint64_t last_epoch;
    uint64_t oldest_epoch; /* those before it are void */
    /* Which linear pages have blocks in any epoch that is not void, hashed: what an INVLPG has to care for. */
    uint64_t linear_pages[(1u << NATIVE_LINEAR_BITS) / 64];
    uint32_t linear_page_count;
    struct native_changing changing[NATIVE_CHANGING_SIZE];
    uint32_t seen
        [1u << NATIVE_SEEN_BITS]; /* what has run there once, by a hash of address and generation */
    uint64_t first_time_rip; /* whose first time is now: the interpreter's; or NATIVE_NOWHERE */
    uint32_t jump_turn;      /* which way of the jump cache gives way next */
    bool has_bmi2, has_xsave;
    bool has_fast_bextr; /* one cycle, as AMD's have it */
    bool fits_jumps;     /* see emit_fit */
    bool is_huge;        /* huge pages have been asked for */
    bool was_cut;        /* blocks have gone while one of them ran */
    struct soft_native_call no_calls[1u << NATIVE_CALL_BITS]; /* empty */
    struct native_source *source;
    struct native_verifier *verifier; /* NULL: blocks are not verified */
    /* Stubs (writable view). */
    uint8_t *enter, *leave, *interpret, *string, *page_fault, *invlpg, *exit_at, *make_link, *cpuid,
        *indirect, *indirect_shared, *load_vectors, *load_x87, *fault, *fill, *resume, *no_call,
        *syscall, *sysret, *iret;
    uint8_t *small[NATIVE_SMALL_COUNT];
    /* REP MOVS and REP STOS, each by the element's size as a power of two. */
    struct native_window_string {
        uint8_t *code; /* as the stubs above */
        struct native_window_site site;
    } window_string[NATIVE_STRING_STUBS];
    uint8_t *tlb_string[SOFT_TLB_MODES][NATIVE_STRING_STUBS]; /* the same without windows */
};

/* window_sites.c: kept in the order of their places, while their region is not emptied. */
struct error;
int native_window_sites_init(struct soft_native *n, struct error *err);
void native_window_sites_fini(struct soft_native *n);
/* 'n->region' is empty now. */
void native_window_sites_empty(struct soft_native *n);
void native_add_window_site(struct soft_native *n, const struct native_window_site *site);
/* Those of the block. */
const struct native_window_site *native_window_sites_of(const struct soft_native *n,
                                                        const struct native_block *block,
                                                        size_t *out_count);
/* The one for the place, or NULL. */
const struct native_window_site *native_find_window_site(const struct soft_native *n,
                                                         uint32_t place);

/* pages.c: what the vCPU has of the page at a guest physical address; NULL: nothing. */
static inline struct native_page **native_page_bucket(const struct soft_native *n, uint64_t gpa)
{
    uint64_t mixed = (gpa >> GUEST_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull;
    return &n->page_hash[mixed >> (64 - n->page_hash_bits)];
}

static inline struct native_page *native_find_page(const struct soft_native *n, uint64_t gpa)
{
    struct native_page *page = *native_page_bucket(n, gpa);
    while (page && page->gpa != gpa) {
        page = page->hash_next;
    }
    return page;
}

/* The half of the address space where code of a mode usually is, and whose epoch its tags in the jump cache have: users' code
 * and 32-bit code in the lower one, kernels in the upper one. */
static inline bool native_is_upper(uint32_t mode)
{
    return (mode & NATIVE_MODE_TLB) != SOFT_TLB_USER &&
           !(mode & (NATIVE_MODE_32 | NATIVE_MODE_LOW));
}

static inline uint64_t native_tag(const struct soft_native *n, uint32_t mode)
{
    return n->epoch[native_is_upper(mode)] << NATIVE_MODE_BITS | mode;
}

/* Do calls and returns of 'mode' use landings? Modes without them leave the entries of others alone. */
static inline bool native_has_landings(uint32_t mode)
{
    return !(mode & (NATIVE_MODE_32 | NATIVE_MODE_LOW));
}

/* Are blocks of 'mode' shared? */
static inline bool native_is_shared(const struct soft_vcpu *v, uint32_t mode)
{
    return (mode & NATIVE_MODE_TLB) == SOFT_TLB_USER &&
           !(mode & (NATIVE_MODE_32 | NATIVE_MODE_OWN)) && !v->lockstep;
}

/* The part of RIP that shared blocks get from native_page. */
#define NATIVE_BASE_MASK (~(uint64_t)(GUEST_PAGE_SIZE - 1))
/* Exits of shared blocks compare 32 bits of its number: a load from where the last exit has stored it, which is why the field
 * has no other form (bytes from its middle would wait for the store to get to the cache). */
#define NATIVE_REGION_SHIFT (GUEST_PAGE_SHIFT + 32)

static inline uint64_t native_base(const struct soft_vcpu *v)
{
    return v->native_page << GUEST_PAGE_SHIFT;
}

/* What tells blocks of one guest physical address and mode apart: RIP, of which shared blocks know the lowest bits and the
 * highest, which their exits do not compare. */
static inline uint64_t native_address(const struct soft_vcpu *v, uint64_t rip, uint32_t mode)
{
    return native_is_shared(v, mode) ? rip & ~BITS(NATIVE_REGION_SHIFT - 1, GUEST_PAGE_SHIFT) : rip;
}

static inline void *native_at(const struct soft_native *n, native_ref ref)
{
    return n->meta + ref;
}

static inline native_ref native_ref_of(const struct soft_native *n, const void *at)
{
    return (native_ref)((const uint8_t *)at - n->meta);
}

/* RIP as the block has it. */
static inline uint64_t native_block_rip(const struct soft_vcpu *v, const struct native_block *block)
{
    return native_is_shared(v, block->mode) ? block->address & ~NATIVE_BASE_MASK : block->address;
}

/* The block's code (writable view), without what is out of line. */
static inline uint8_t *native_code(const struct soft_native *n, const struct native_block *block)
{
    return n->writable + block->code;
}

/* Where the block is entered with the status flags in 'status', and in the host's flags. */
static inline uint8_t *native_entry_saved(const struct soft_native *n,
                                          const struct native_block *block)
{
    return native_code(n, block) + (block->saves_first ? block->second_entry : 0);
}

static inline uint8_t *native_cold(const struct soft_native *n, const struct native_block *block)
{
    return n->writable + block->cold;
}

static inline uint8_t *native_entry(const struct soft_native *n, const struct native_block *block)
{
    return native_code(n, block) + (block->saves_first ? 0 : block->second_entry);
}

static inline struct native_second *native_second(struct native_block *block)
{
    return (struct native_second *)&block->link[block->link_count];
}

static inline const struct native_block *native_link_source(const struct native_link *link)
{
    return container_of(link - link->number, struct native_block, link);
}

/* Of the displacement of the link's jump, and of the stub that it leads to at first. */
static inline uint8_t *native_link_place(const struct soft_native *n,
                                         const struct native_link *link)
{
    const struct native_block *block = native_link_source(link);
    return (link->is_cold ? native_cold(n, block) : native_code(n, block)) + link->place;
}

static inline uint8_t *native_link_stub(const struct soft_native *n, const struct native_link *link)
{
    return native_cold(n, native_link_source(link)) + link->stub;
}

/* Where the exit compares the epoch, and where native_page, or NULL. */
static inline uint8_t *native_link_epoch(const struct soft_native *n,
                                         const struct native_link *link)
{
    return link->epoch_before ? native_link_place(n, link) - link->epoch_before : NULL;
}

static inline uint8_t *native_link_base(const struct soft_native *n, const struct native_link *link)
{
    return link->base_before ? native_link_place(n, link) - link->base_before : NULL;
}

/* RIP of the target, as the block has it. */
static inline uint64_t native_link_rip(const struct soft_vcpu *v, const struct native_link *link)
{
    const struct native_block *source = native_link_source(link);
    uint64_t rip = native_block_rip(v, source) + source->size_bytes + (uint64_t)link->distance;
    return source->mode & NATIVE_MODE_32 ? (uint32_t)rip : rip;
}

static inline const uint8_t *native_executable(const struct soft_native *n, const uint8_t *code)
{
    return n->executable + (code - n->writable);
}

/* Nor does the code go on: other accesses need the check that has failed. */
#define NATIVE_SITE_UNGROUPED UINT64_MAX

/* The place in the jump cache. Blocks without groups begin within others: theirs is one where these are not looked for.
 *
 * Entries are of 32 bytes, and there are hardly two targets within 4 bytes: so the bits of RIP that are the index need no shift to
 * be scaled by 8. */
#define NATIVE_JUMP_SHIFT 2
#define NATIVE_JUMP_MASK  ((NATIVE_JUMP_SIZE - 1) << NATIVE_JUMP_SHIFT)
_Static_assert(sizeof(struct soft_native_jump) == 8u << NATIVE_JUMP_SHIFT, "scaled by 8");

static inline size_t native_jump_index(uint64_t rip, uint32_t mode)
{
    return ((mode & NATIVE_MODE_UNGROUPED ? ~rip : rip) & NATIVE_JUMP_MASK) >> NATIVE_JUMP_SHIFT;
}

/* The part of it that comes from the number of RIP's page. */
#define NATIVE_JUMP_MANY 2u
static inline uint8_t native_jump_page(uint64_t rip)
{
    _Static_assert(NATIVE_JUMP_MASK >> GUEST_PAGE_SHIFT <= UINT8_MAX, "it is a byte");
    return (uint8_t)((rip & NATIVE_JUMP_MASK) >> GUEST_PAGE_SHIFT);
}

/* Emitted code looks at the place of the index alone. What has lost it to another target goes to one of the places beside it, in
 * the same two cache lines, where the stubs 'indirect' look; one hit there in so many brings the target back, which
 * is sooner or later a busy one. */
#define NATIVE_JUMP_WAYS     4u
#define NATIVE_JUMP_PATIENCE 32u

/* The entry of RIP in 'mode', for the epoch now; or NULL. */
static inline const struct soft_native_jump *native_find_jump(const struct soft_vcpu *v,
                                                              uint64_t rip, uint32_t mode)
{
    size_t index = native_jump_index(rip, mode);
    uint64_t tag = native_tag(v->native, mode);
    for (size_t way = 0; way < NATIVE_JUMP_WAYS; way++) {
        const struct soft_native_jump *jump = &v->native_jump[index ^ way];
        if (jump->rip == rip && jump->tag == tag) {
            return jump;
        }
    }
    return NULL;
}

/* The place in 'native_call': a word's offset on the stack, of which the lowest bits are left out. */
#define NATIVE_CALL_MASK  (8u * ((1u << NATIVE_CALL_BITS) - 1))
#define NATIVE_CALL_SHIFT 1

/* An empty entry leads to a stub, as there is no address that a RET may not have for its target. No vector registers, for the
 * same reason as in kernel_entry.c. */
static inline void native_forget_calls(struct soft_vcpu *v, enum soft_tlb_mode mode)
{
    void *to = v->native_call[mode];
    const void *from = v->native->no_calls;
    size_t count = sizeof(v->native_call[mode]) / 8;
    _Static_assert(sizeof(v->native_call[mode]) == sizeof(v->native->no_calls), "as many");
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
}

/* Blocks of 'mode' run from here on. STAC and CLAC change between the two supervisor modes without it. */
static inline void native_use_tag(struct soft_vcpu *v, uint32_t mode)
{
    bool is_user = (mode & NATIVE_MODE_TLB) == SOFT_TLB_USER;
    v->native_tag = native_tag(v->native, mode);
    uint64_t tag = is_user ? v->native_tag : v->native_tag & ~(uint64_t)NATIVE_MODE_TLB;
    if (likely(v->native_call_tag[is_user] == tag) || !native_has_landings(mode)) {
        return;
    }
    v->native_call_tag[is_user] = tag;
    if (is_user) {
        native_forget_calls(v, SOFT_TLB_USER);
    } else {
        native_forget_calls(v, SOFT_TLB_SUPERVISOR);
        native_forget_calls(v, SOFT_TLB_SUPERVISOR_AC);
    }
}

/* Data behind the call to a stub. */
struct native_site {
    uint64_t rip; /* of the instruction */
    uint64_t
        next; /* RIP at which the code behind the site goes on; 0: none; or NATIVE_SITE_UNGROUPED */
} __attribute__((packed));

/* stubs.c */
void native_make_stubs(struct soft_vcpu *v);

/* translate.c: 'page' is the guest page's bytes. */
struct native_block *native_translate(struct soft_vcpu *v, uint64_t rip, uint64_t gpa,
                                      uint32_t mode, const uint8_t *page);

/* pages.c: what blocks depend on. The page at 'gpa' (its start), which blocks are about to be made of: those of older bytes
 * go. native_cache_reserve has been called. */
struct soft_page;
struct native_page *native_begin_page(struct soft_vcpu *v, uint64_t gpa,
                                      const struct soft_page *guest);
/* Now the block goes with the bytes that it was made of. */
void native_page_add(struct soft_native *n, struct native_page *page, struct native_block *block,
                     uint64_t granules);
void native_page_add_second(struct soft_native *n, struct native_page *page,
                            struct native_block *block, uint64_t granules);
/* The address of the page behind that of 'rip', where an instruction may go on; false: the interpreter knows. Raises the
 * faults of the fetch. */
bool native_find_second(struct soft_vcpu *v, uint64_t rip, uint32_t mode, uint64_t *out_gpa);
/* Seems the instruction at the end of 'page' not to be all there? */
bool native_seems_cut(const struct soft_vm *vm, uint64_t rip, uint32_t mode, const uint8_t *page);

/* block_table.c */
static inline size_t native_linear_page_bit(uint64_t rip)
{
    return ((rip >> GUEST_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> (64 - NATIVE_LINEAR_BITS);
}
static inline bool native_has_linear_page(const struct soft_native *n, uint64_t gva)
{
    size_t bit = native_linear_page_bit(gva);
    return n->linear_pages[bit / 64] & BIT(bit % 64);
}
void native_note_linear_page(struct soft_native *n, uint64_t rip);

/* block_table.c: called by stubs with the guest's registers in *v; they return where to go on (executable view). */
const uint8_t *native_on_interpret(struct soft_vcpu *v, const struct native_site *site);
const uint8_t *native_on_exit_at(struct soft_vcpu *v, const struct native_site *site);
const uint8_t *native_on_link(struct soft_vcpu *v, uint64_t link_ref);
const uint8_t *native_on_indirect(struct soft_vcpu *v, const struct native_site *site);
/* A miss of the TLB in an access to 'gva'; 'access' is its size and perhaps NATIVE_FILL_WRITE. May it be tried again? */
#define NATIVE_FILL_WRITE 0x10000u
/* A write that may go on with an address for this time alone: NATIVE_MISS_ONCE. */
#define NATIVE_FILL_ONCE 0x8000u
/* If the guest's page tables do not allow it, the instruction raises #PF, for an access so many bytes further. That one may only
 * read where the check is for writing. */
#define NATIVE_FILL_FAULT       0x20000u
#define NATIVE_FILL_FAULT_READ  0x40000u
#define NATIVE_FILL_FAULT_SHIFT 20
uint32_t native_on_fill(struct soft_vcpu *v, uint64_t gva, uint32_t access);
/* What comes before it, without vector registers; in tlb.c. */
#define NATIVE_MISS_FAILED 0u
#define NATIVE_MISS_FILLED 1u
#define NATIVE_MISS_ONCE   2u /* native_miss.hva, without another check */
#define NATIVE_MISS_ASK    3u /* native_on_fill knows */
uint32_t native_on_miss(struct soft_vcpu *v, uint64_t gva, uint32_t access);
const uint8_t *native_on_fault(struct soft_vcpu *v, void *unused);
/* A RET to address 0, which an empty entry of 'native_call' has matched. */
const uint8_t *native_on_no_call(struct soft_vcpu *v, void *unused);
/* On at RIP, from stubs that found no way there themselves. */
const uint8_t *native_on_resume(struct soft_vcpu *v, void *unused);

/* x87.c: after fx[] has been saved by a stub. */
void native_x87_saved(struct soft_vcpu *v);

#endif
