/* See window_map.h. */
#include "engine/soft/window_map.h"

#include <string.h>
#include <sys/mman.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/tlb.h"

/* Each call may split the host's map of the process once more; the host allows 65530 parts, for all vCPUs' windows. */
#define MAX_PARTS 24000u
/* Of the table of pages: 384 MiB of small ones at most. */
#define FIRST_BITS 12
#define LAST_BITS  17
/* What one fault brings in at most, aligned. */
#define AROUND_PAGES 16u
#define TOP_SHIFT    39 /* of what an entry of the top level of page tables covers */
#define LARGE_SIZE   (1ull << SOFT_LARGE_SHIFT)
#define LARGE_PAGES  (LARGE_SIZE / GUEST_PAGE_SIZE)
/* Bytes of the table for each place. */
#define TABLE_PLACE (sizeof(struct window_page) + sizeof(uint32_t))

/* What the page tables say without being asked to note anything. */
struct found {
    uint64_t gpa; /* of the 4 KiB page */
    bool is_there, is_writable, is_large;
};

uint8_t *window_reserve(void)
{
    uint8_t *start = mmap(NULL, SOFT_WINDOW_SIZE + 2 * SOFT_WINDOW_GUARD, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start + SOFT_WINDOW_GUARD;
}

void window_release(uint8_t *base)
{
    if (base) {
        munmap(base - SOFT_WINDOW_GUARD, SOFT_WINDOW_SIZE + 2 * SOFT_WINDOW_GUARD);
    }
}

static uint8_t *host_address(const struct window_space *space, uint64_t gva)
{
    for (uint32_t i = 0; i < space->window_count; i++) {
        if (space->window[i].slot == gva >> SOFT_WINDOW_SHIFT) {
            return space->window[i].base + (gva & (SOFT_WINDOW_SIZE - 1));
        }
    }
    return NULL;
}

static bool unmap(struct window_space *space, uint64_t gva, uint64_t size)
{
    space->part_count++;
    uint8_t *at = host_address(space, gva);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return !at || mmap(at, size, PROT_NONE, flags, -1, 0) != MAP_FAILED;
}

void window_drop_all(struct window_space *space)
{
    for (uint32_t i = 0; i < space->window_count; i++) {
        uint64_t gva = (uint64_t)space->window[i].slot << SOFT_WINDOW_SHIFT;
        /* Nothing may stay, and translated code may hold addresses in the window still. */
        bool is_unmapped = unmap(space, gva, SOFT_WINDOW_SIZE);
        invariant(is_unmapped);
    }
    if (space->place_count) {
        memset(space->page, 0, window_places(space) * TABLE_PLACE);
    }
    space->page_count = space->place_count = space->pending_count = space->part_count = 0;
    space->has_lost_pages = space->has_lost_writes = space->has_large = false;
}

/* Writers of a page are asked for by its guest physical address, whenever code is found in it. */
static uint32_t *first_of(const struct window_space *space, uint64_t gpa, bool is_large)
{
    uint64_t number = gpa >> (is_large ? SOFT_LARGE_SHIFT : GUEST_PAGE_SHIFT);
    return &space->first[window_hash(space, number)];
}

static void link_page(struct window_space *space, struct window_page *page)
{
    if (page->page & WINDOW_PAGE_WRITABLE) {
        uint32_t *first = first_of(space, page->page, page->key & WINDOW_KEY_LARGE);
        uint32_t place = (uint32_t)(page - space->page) + 1;
        page->next = *first;
        page->previous = 0;
        if (*first) {
            space->page[*first - 1].previous = place;
        }
        *first = place;
    }
}

static void unlink_page(struct window_space *space, const struct window_page *page)
{
    if (page->page & WINDOW_PAGE_WRITABLE) {
        *(page->previous ? &space->page[page->previous - 1].next
                         : first_of(space, page->page, page->key & WINDOW_KEY_LARGE)) = page->next;
        if (page->next) {
            space->page[page->next - 1].previous = page->previous;
        }
    }
}

/* A table like the space's, of that size, with what is used of it. */
static bool make_table(struct window_space *space, uint8_t bits)
{
    struct window_page *old = space->page;
    size_t old_places = old ? window_places(space) : 0;
    /* Not of the C library's heap: in threads it opens files when it gives memory back, which the jail does not allow. */
    void *page = mmap(NULL, TABLE_PLACE << bits, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (page == MAP_FAILED) {
        return false;
    }
    space->page = page;
    space->page_bits = bits;
    space->first = (uint32_t *)(void *)(space->page + window_places(space));
    space->place_count = space->page_count;
    for (size_t i = 0; i < old_places; i++) {
        if (old[i].key & WINDOW_KEY_USED) {
            size_t to = window_place(space, old[i].key);
            while (space->page[to].key) {
                to = (to + 1) % window_places(space);
            }
            space->page[to] = old[i];
            link_page(space, &space->page[to]);
        }
    }
    if (old) {
        munmap(old, old_places * TABLE_PLACE);
    }
    return true;
}

bool window_table_init(struct window_space *space)
{
    return make_table(space, FIRST_BITS);
}

void window_table_fini(struct window_space *space)
{
    if (space->page) {
        munmap(space->page, window_places(space) * TABLE_PLACE);
        space->page = NULL;
    }
}

/* Room for what a fault brings in. */
static bool reserve_places(struct window_space *space)
{
    if (space->place_count + AROUND_PAGES <= window_places(space) / 4 * 3) {
        return true;
    }
    bool is_larger = space->page_count > window_places(space) / 2 && space->page_bits < LAST_BITS;
    return make_table(space, (uint8_t)(space->page_bits + is_larger));
}

static void put_page(struct window_space *space, uint64_t key, uint64_t page)
{
    struct window_page *known = window_find_page(space, key);
    if (known) {
        unlink_page(space, known);
        known->page = page;
        link_page(space, known);
        return;
    }
    size_t i = window_place(space, key);
    while (space->page[i].key & WINDOW_KEY_USED) {
        i = (i + 1) % window_places(space);
    }
    space->has_large |= key & WINDOW_KEY_LARGE;
    space->place_count += !space->page[i].key;
    space->page_count++;
    space->page[i] = (struct window_page){.key = key, .page = page};
    link_page(space, &space->page[i]);
}

static uint64_t size_of(const struct window_page *page)
{
    return page->key & WINDOW_KEY_LARGE ? LARGE_SIZE : GUEST_PAGE_SIZE;
}

static uint64_t gva_of(const struct window_page *page)
{
    return align_down(page->key, GUEST_PAGE_SIZE);
}

static void drop_page(struct window_space *space, struct window_page *page)
{
    if (unmap(space, gva_of(page), size_of(page))) {
        unlink_page(space, page);
        page->key = WINDOW_KEY_GONE;
        space->page_count--;
    } else {
        window_drop_all(space);
    }
}

/* For user code, without accessed and dirty bits being set: pages that lack them are not taken, or not for writing. */
static struct found look_up(const struct soft_vcpu *v, uint64_t gva)
{
    uint64_t table = v->cr3 & X86_PTE_ADDRESS, rights = X86_PTE_RW;
    for (unsigned shift = TOP_SHIFT;; shift -= 9) {
        uint64_t gpa = table + (gva >> shift & 511) * 8;
        const struct guest_slot *slot = guest_memory_slot(v->vm->vm.config.memory, gpa);
        if (!slot) {
            return (struct found){0};
        }
        uint64_t entry = *(const volatile uint64_t *)(const void *)(slot->hva + (gpa - slot->gpa));
        if ((entry & (X86_PTE_P | X86_PTE_US | X86_PTE_A)) !=
            (X86_PTE_P | X86_PTE_US | X86_PTE_A)) {
            return (struct found){0};
        }
        rights &= entry;
        if (shift == GUEST_PAGE_SHIFT || (shift < TOP_SHIFT && entry & X86_PTE_PS)) {
            uint64_t offset = gva & BITS(shift - 1, 0) & ~(uint64_t)(GUEST_PAGE_SIZE - 1);
            return (struct found){.gpa = (entry & BITS(51, shift)) |
                                         (shift > GUEST_PAGE_SHIFT ? offset : 0),
                                  .is_there = true,
                                  .is_writable = (rights & X86_PTE_RW) && (entry & X86_PTE_D),
                                  .is_large = shift > GUEST_PAGE_SHIFT};
        }
        table = entry & X86_PTE_ADDRESS;
    }
}

static bool is_logging(const struct soft_vcpu *v, const struct guest_slot *slot)
{
    size_t number = (size_t)(slot - v->vm->vm.config.memory->slot);
    return atomic_load_explicit(&v->vm->dirty[number], memory_order_acquire) != NULL;
}

static bool map_pages(struct window_space *space, const struct guest_slot *slot, uint64_t gva,
                      uint64_t size, uint64_t page)
{
    space->part_count++;
    uint64_t gpa = align_down(page, GUEST_PAGE_SIZE);
    int prot = PROT_READ | (page & WINDOW_PAGE_WRITABLE ? PROT_WRITE : 0);
    void *at = host_address(space, gva);
    return at && mmap(at, size, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, slot->fd,
                      (off_t)(slot->fd_offset + (gpa - slot->gpa))) != MAP_FAILED;
}

/* All of 2 MiB as one, if nothing speaks against it. */
static bool fill_large(struct soft_vcpu *v, struct window_space *space, uint64_t gva,
                       const struct found *found)
{
    uint64_t start = align_down(gva, LARGE_SIZE);
    uint64_t gpa = found->gpa - (align_down(gva, GUEST_PAGE_SIZE) - start);
    const struct guest_slot *slot = guest_memory_slot(v->vm->vm.config.memory, gpa);
    if (!slot || gpa - slot->gpa + LARGE_SIZE > slot->usable_bytes || is_logging(v, slot)) {
        return false;
    }
    uint64_t first = (gpa - slot->gpa) >> GUEST_PAGE_SHIFT;
    bool is_writable = found->is_writable;
    for (uint64_t i = 0; i < LARGE_PAGES; i++) {
        if (atomic_load_explicit(&slot->page_flags[first + i], memory_order_relaxed) &
            GUEST_PAGE_CODE) {
            return false;
        }
    }
    for (uint64_t i = 0; i < LARGE_PAGES && is_writable; i++) {
        if (!soft_tlb_claim_writable(v, slot, first + i)) {
            return false;
        }
    }
    uint64_t page = gpa | (is_writable ? WINDOW_PAGE_WRITABLE : 0);
    put_page(space, start | WINDOW_KEY_USED | WINDOW_KEY_LARGE, page);
    return map_pages(space, slot, start, LARGE_SIZE, page);
}

/* What is to be mapped at one of the pages around; 0 in 'key': nothing. */
static struct window_page neighbour(struct soft_vcpu *v, const struct window_space *space,
                                    uint64_t gva)
{
    uint64_t key = gva | WINDOW_KEY_USED;
    struct found found = {0};
    if (!window_find_page(space, key)) {
        found = look_up(v, gva);
    }
    const struct guest_slot *slot =
        found.is_there ? guest_memory_slot(v->vm->vm.config.memory, found.gpa) : NULL;
    if (!slot) {
        return (struct window_page){0};
    }
    bool is_writable =
        found.is_writable && !is_logging(v, slot) &&
        soft_tlb_claim_writable(v, slot, (found.gpa - slot->gpa) >> GUEST_PAGE_SHIFT);
    return (struct window_page){key, found.gpa | (is_writable ? WINDOW_PAGE_WRITABLE : 0)};
}

bool window_has_room(const struct soft_vcpu *v, const struct window_space *space)
{
    return space->part_count + AROUND_PAGES <= MAX_PARTS / v->vm->vm.config.vcpu_count &&
           space->page_count + AROUND_PAGES <= (3u << LAST_BITS) / 4;
}

bool window_fill(struct soft_vcpu *v, struct window_space *space, uint64_t gva, bool is_writable)
{
    struct found found = look_up(v, gva);
    const struct guest_memory *memory = v->vm->vm.config.memory;
    if (!found.is_there || !reserve_places(space)) {
        return false;
    }
    if (found.is_large && found.is_writable >= is_writable && fill_large(v, space, gva, &found)) {
        return true;
    }
    struct window_page around[AROUND_PAGES];
    uint64_t start = align_down(gva, AROUND_PAGES * GUEST_PAGE_SIZE);
    for (uint32_t i = 0; i < AROUND_PAGES; i++) {
        uint64_t at = start + i * GUEST_PAGE_SIZE;
        around[i] = at == align_down(gva, GUEST_PAGE_SIZE)
                        ? (struct window_page){at | WINDOW_KEY_USED,
                                               found.gpa | (is_writable ? WINDOW_PAGE_WRITABLE : 0)}
                        : neighbour(v, space, at);
    }
    for (uint32_t i = 0, end; i < AROUND_PAGES; i = end) {
        end = i + 1;
        if (!around[i].key) {
            continue;
        }
        const struct guest_slot *slot =
            guest_memory_slot(memory, align_down(around[i].page, GUEST_PAGE_SIZE));
        while (end < AROUND_PAGES && around[end].key &&
               around[end].page == around[i].page + (end - i) * GUEST_PAGE_SIZE &&
               guest_memory_slot(memory, align_down(around[end].page, GUEST_PAGE_SIZE)) == slot) {
            end++;
        }
        for (uint32_t k = i; k < end; k++) {
            put_page(space, around[k].key, around[k].page);
        }
        if (!slot || !map_pages(space, slot, gva_of(&around[i]), (end - i) * GUEST_PAGE_SIZE,
                                around[i].page)) {
            return false;
        }
    }
    return true;
}

bool window_find_slots(struct soft_vcpu *v, struct window_space *space)
{
    uint64_t gpa = v->cr3 & X86_PTE_ADDRESS;
    const struct guest_slot *slot = guest_memory_slot(v->vm->vm.config.memory, gpa);
    if (!slot) {
        return false;
    }
    const volatile uint64_t *top =
        (const volatile uint64_t *)(const void *)(slot->hva + (gpa - slot->gpa));
    for (uint32_t i = 0; i < 256; i++) {
        uint64_t entry = top[i], gva = (uint64_t)i << TOP_SHIFT;
        if ((entry & (X86_PTE_P | X86_PTE_US)) != (X86_PTE_P | X86_PTE_US) ||
            host_address(space, gva)) {
            continue;
        }
        uint8_t *base = space->window_count < WINDOW_MAX_WINDOWS ? window_reserve() : NULL;
        if (!base) {
            return false;
        }
        space->window[space->window_count++] =
            (struct window){base, (uint32_t)(gva >> SOFT_WINDOW_SHIFT)};
    }
    return true;
}

/* Is it as the page tables say? If not it is unmapped. */
static void check(struct soft_vcpu *v, struct window_space *space, struct window_page *page)
{
    struct found found = look_up(v, gva_of(page));
    bool is_large = page->key & WINDOW_KEY_LARGE, is_written = page->page & WINDOW_PAGE_WRITABLE;
    if (found.is_there && found.is_large >= is_large && found.is_writable >= is_written &&
        found.gpa == align_down(page->page, GUEST_PAGE_SIZE)) {
        return;
    }
    drop_page(space, page);
}

void window_check_page(struct soft_vcpu *v, struct window_space *space, uint64_t gva)
{
    const uint64_t keys[] = {
        align_down(gva, GUEST_PAGE_SIZE) | WINDOW_KEY_USED,
        align_down(gva, LARGE_SIZE) | WINDOW_KEY_USED | WINDOW_KEY_LARGE,
    };
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        struct window_page *page = window_find_page(space, keys[i]);
        if (page) {
            check(v, space, page);
        }
    }
}

void window_check_all(struct soft_vcpu *v, struct window_space *space)
{
    for (size_t i = 0; i < window_places(space) && space->page_count; i++) {
        if (space->page[i].key & WINDOW_KEY_USED) {
            check(v, space, &space->page[i]);
        }
    }
    if (!space->page_count && space->place_count) {
        window_drop_all(space);
    }
    space->pending_count = 0;
    space->has_lost_pages = false;
}

static void check_writes(struct soft_vcpu *v, struct window_space *space, struct window_page *page)
{
    uint64_t gpa = align_down(page->page, GUEST_PAGE_SIZE);
    const struct guest_slot *slot = guest_memory_slot(v->vm->vm.config.memory, gpa);
    if (!(page->page & WINDOW_PAGE_WRITABLE)) {
        return;
    }
    bool is_kept = slot && !is_logging(v, slot);
    for (uint64_t i = 0; i < size_of(page) / GUEST_PAGE_SIZE && is_kept; i++) {
        is_kept = soft_tlb_claim_writable(v, slot, ((gpa - slot->gpa) >> GUEST_PAGE_SHIFT) + i);
    }
    if (!is_kept) {
        drop_page(space, page);
    }
}

void window_check_writes(struct soft_vcpu *v, struct window_space *space)
{
    for (size_t i = 0; i < window_places(space) && space->page_count; i++) {
        if (space->page[i].key & WINDOW_KEY_USED) {
            check_writes(v, space, &space->page[i]);
        }
    }
    space->has_lost_writes = false;
}

void window_check_page_writes(struct soft_vcpu *v, struct window_space *space, uint64_t gpa)
{
    for (int is_large = 0; is_large <= space->has_large; is_large++) {
        uint32_t next, place = space->page_count ? *first_of(space, gpa, is_large) : 0;
        for (; place; place = next) {
            struct window_page *page = &space->page[place - 1];
            next = page->next;
            /* It may be none any more, when all have been dropped on the way. */
            if (page->key & WINDOW_KEY_USED && !!(page->key & WINDOW_KEY_LARGE) == is_large &&
                gpa - align_down(page->page, GUEST_PAGE_SIZE) < size_of(page)) {
                check_writes(v, space, page);
            }
        }
    }
}
