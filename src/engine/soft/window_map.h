/* Private to windows: one address space's pages in the host's address space. */
#ifndef ENGINE_SOFT_WINDOW_MAP_H
#define ENGINE_SOFT_WINDOW_MAP_H

#include "engine/soft/windows.h"

/* Of one space: what processes use are a few (program and heap, libraries and stacks). */
#define WINDOW_MAX_WINDOWS 8u
/* Pages that wait to be looked up again one by one; with more, all are. */
#define WINDOW_MAX_PENDING 64u
/* With windows=always: so many blocks of the process's own, then as many shared ones. */
#define SOFT_WINDOW_TEST_BLOCKS 512u

struct window {
    uint8_t *base; /* of the addresses' first byte; guards before and behind */
    uint32_t slot; /* bits 47:40 of the addresses */
};

/* A page that may be mapped (none is that is not here): an element of a hash table. */
struct window_page {
    uint64_t key;  /* linear address and WINDOW_KEY_* */
    uint64_t page; /* guest physical address and WINDOW_PAGE_WRITABLE */
    /* Of the writable ones whose guest physical pages have the same hash: index + 1, 0 is none. */
    uint32_t next, previous;
};
#define WINDOW_KEY_USED      0x1u
#define WINDOW_KEY_LARGE     0x2u /* 2 MiB */
#define WINDOW_KEY_GONE      0x4u /* instead of all: was used */
#define WINDOW_PAGE_WRITABLE 0x1u

struct window_space {
    uint64_t cr3;         /* with the PCID; 0: unused */
    uint32_t tag;         /* tlb.h: what is mapped is as of this one */
    bool is_active;       /* has windows, or is to have them */
    bool may_be_another;  /* process than the one that its windows were made for */
    bool has_own_blocks;  /* and not too many; see windows.c */
    bool has_lost_pages;  /* all have to be looked up */
    bool has_lost_writes; /* the writable ones have to be looked at */
    uint64_t last_tick;   /* host's TSC */
    int32_t ticks;        /* of user code; negative: a new try has to wait */
    int64_t debt;         /* cycles that windows have taken beyond their part */
    uint32_t window_count;
    uint32_t block_count;
    struct window window[WINDOW_MAX_WINDOWS];
    struct window_page *page; /* NULL, or 1 << page_bits */
    uint32_t *first; /* writable one by the hash of its guest physical page; as many, behind them */
    uint8_t page_bits;
    bool has_large;
    uint32_t page_count;  /* used */
    uint32_t place_count; /* used, or gone */
    uint32_t part_count;  /* calls that may each have split the host's map of the process */
    uint64_t wanted;      /* where the last #PF was; 0: it has been taken care of */
    bool is_wanted_to_write;
    uint32_t pending_count;
    uint64_t pending[WINDOW_MAX_PENDING];
};

/* Address spaces whose processes are watched. */
#define WINDOW_SPACES 6u

struct soft_windows {
    uint8_t *guard; /* reserved like a window */
    struct window_space space[WINDOW_SPACES];
    struct window_space *current; /* of the address space that runs, or NULL */
    struct window_space *loaded;  /* whose windows are in the vCPU's table, or NULL */
    uint64_t last_tick, spent;    /* since then on windows, in cycles of the host's TSC */
};

static inline uint64_t window_current_cr3(const struct soft_vcpu *v)
{
    return v->cr3 & ~BIT(63);
}

/* window_events.c: no vector registers. */
struct window_space *window_find_space(struct soft_windows *w, uint64_t cr3);
static inline size_t window_hash(const struct window_space *space, uint64_t number)
{
    return (number * 0x9e3779b97f4a7c15ull) >> (64 - space->page_bits);
}
size_t window_place(const struct window_space *space, uint64_t key);
static inline size_t window_places(const struct window_space *space)
{
    return (size_t)1 << space->page_bits;
}
struct window_page *window_find_page(const struct window_space *space, uint64_t key);

/* Reserves host addresses with guards; NULL: there are none. */
uint8_t *window_reserve(void);
void window_release(uint8_t *base);

/* The table of pages; false: there is no memory. */
bool window_table_init(struct window_space *space);
void window_table_fini(struct window_space *space);

/* Windows for what the top level of the page tables has. False: not for all of it. */
bool must_check window_find_slots(struct soft_vcpu *v, struct window_space *space);
/* May a fault's pages be added? */
bool window_has_room(const struct soft_vcpu *v, const struct window_space *space);
/* Takes the page at 'gva', which the TLB has for reading or writing, into its window, and pages near it that are in use. False:
 * the page tables do not have it as used any more, or the host has no room. */
bool window_fill(struct soft_vcpu *v, struct window_space *space, uint64_t gva, bool is_writable);
/* Unmaps all. */
void window_drop_all(struct window_space *space);
/* Looks up what is mapped at 'gva', or all, and unmaps what the page tables do not say any more. */
void window_check_page(struct soft_vcpu *v, struct window_space *space, uint64_t gva);
void window_check_all(struct soft_vcpu *v, struct window_space *space);
/* Unmaps what may not be written without looking any more, of all or of the guest physical page. */
void window_check_writes(struct soft_vcpu *v, struct window_space *space);
void window_check_page_writes(struct soft_vcpu *v, struct window_space *space, uint64_t gpa);

#endif
