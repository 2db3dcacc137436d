/* See windows.h. Which address spaces have windows, and when they may be used. */
#include "engine/soft/windows.h"

#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "base/core/bits.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"
#include "engine/soft/tlb.h"
#include "engine/soft/window_map.h"

/* A process gets windows when interrupts have found it running so often, not more often than once in so many cycles of the host's
 * TSC. */
#define TICKS_TO_BEGIN 20
#define TICK_CYCLES    2000000u
#define TICK_PAUSE     (1ull << 31) /* it begins anew when it has not run for so long */
/* Windows may take a part of the time. When they have taken so many cycles more than that, they go, and may come again after so
 * many ticks. */
#define SPENT_PART     8
#define SPENT_TOO_MUCH (1ll << 27)
#define TICKS_TO_WAIT  256
/* A program that has used so many blocks with windows waits for code more than for data. */
#define MANY_BLOCKS 6000u
/* From so many ticks on, and until it has used so many, its blocks are its own: they run faster, but have to be made for each
 * process anew. */
#define TICKS_TO_OWN 40
#define OWN_BLOCKS   3000u
/* To have a page again that has been dropped, as a part of a fault that brings in several. */
#define DROPPED_CYCLES 2000u
/* A signal and its return, beside what is measured. */
#define SIGNAL_CYCLES 15000u

/* Where user space ends, and how near to that Linux puts a process's first stack. */
#define USER_END (1ull << 47)
#define STACKS   (16ull << 30)
/* Bits 47:40 of addresses that are none of user space. */
#define NO_SLOT 0xffu

static uint64_t guard_entry(const struct soft_windows *w, uint64_t slot)
{
    return (uint64_t)(uintptr_t)w->guard - (slot << SOFT_WINDOW_SHIFT);
}

int soft_windows_init(struct soft_vcpu *v, struct error *err)
{
    /* RORX finds the window; see memory_operand.c. */
    if (v->vm->windows == SOFT_WINDOWS_NEVER || v->vm->is_lockstep || v->vm->icount.is_on ||
        !__builtin_cpu_supports("bmi2")) {
        return 0;
    }
    struct soft_windows *w = calloc(1, sizeof(*w));
    if (!w) {
        return error_set(err, ENOMEM, "reserving memory for windows");
    }
    v->windows = w;
    return 0;
}

static void free_space(struct window_space *space)
{
    for (uint32_t i = 0; i < space->window_count; i++) {
        window_release(space->window[i].base);
    }
    window_table_fini(space);
    *space = (struct window_space){0};
}

void soft_windows_fini(struct soft_vcpu *v)
{
    struct soft_windows *w = v->windows;
    if (!w) {
        return;
    }
    for (size_t i = 0; i < WINDOW_SPACES; i++) {
        free_space(&w->space[i]);
    }
    window_release(w->guard);
    free(w);
    v->windows = NULL;
}

static void deactivate(struct soft_windows *w, struct window_space *space)
{
    if (w->loaded == space) {
        w->loaded = NULL;
    }
    uint64_t cr3 = space->cr3;
    free_space(space);
    space->cr3 = cr3;
    space->ticks = -TICKS_TO_WAIT;
}

/* The place of a space that is not known yet: the one that has not run for longest. */
static struct window_space *new_space(struct soft_windows *w, uint64_t cr3)
{
    struct window_space *oldest = NULL;
    for (size_t i = 0; i < WINDOW_SPACES; i++) {
        struct window_space *space = &w->space[i];
        if (space != w->current && (!oldest || space->last_tick < oldest->last_tick)) {
            oldest = space;
        }
    }
    if (w->loaded == oldest) {
        w->loaded = NULL;
    }
    free_space(oldest);
    oldest->cr3 = cr3;
    return oldest;
}

static bool activate(struct soft_windows *w, struct window_space *space)
{
    w->guard = w->guard ? w->guard : window_reserve();
    space->is_active = w->guard && window_table_init(space);
    if (!space->is_active) {
        deactivate(w, space);
    }
    return space->is_active;
}

static uint64_t gpa_of(const struct soft_vcpu *v, const uint8_t *hva)
{
    const struct guest_memory *memory = v->vm->vm.config.memory;
    for (size_t i = 0; i < memory->slot_count; i++) {
        uint64_t offset = (uint64_t)(hva - memory->slot[i].hva);
        if (offset < memory->slot[i].size_bytes) {
            return memory->slot[i].gpa + offset;
        }
    }
    return UINT64_MAX;
}

void soft_windows_writes_dropped(struct soft_vcpu *v, const uint8_t *hva)
{
    struct soft_windows *w = v->windows;
    for (size_t i = 0; w && i < WINDOW_SPACES; i++) {
        struct window_space *space = &w->space[i];
        if (!space->is_active) {
            continue;
        }
        if (hva) {
            window_check_page_writes(v, space, gpa_of(v, hva));
        } else {
            space->has_lost_writes = true;
            v->window_state = space == w->current ? (uint8_t)SOFT_WINDOWS_CHECK : v->window_state;
        }
    }
}

/* Roles that no window has are those of an element of the table without one. */
static void load_roles(struct soft_vcpu *v, const struct window_space *space)
{
    uint32_t from = 0;
    for (uint32_t role = 0; role < SOFT_WINDOW_ROLES; role++) {
        uint32_t first = NO_SLOT, last = NO_SLOT;
        for (uint32_t i = 0; i < space->window_count; i++) {
            uint32_t slot = space->window[i].slot;
            first = slot >= from && slot < first ? slot : first;
            last = last == NO_SLOT || slot > last ? slot : last;
        }
        from = MIN(first + 1, NO_SLOT);
        uint32_t slot = role == SOFT_WINDOW_ROLE_LAST ? last : first;
        v->window_role_slot[role] = (uint8_t)slot;
        v->window_role_add[role] = v->window_table[slot];
    }
}

bool soft_windows_find_role(const struct soft_vcpu *v, uint64_t gva, uint8_t *out_role)
{
    uint64_t slot = gva >> SOFT_WINDOW_SHIFT;
    bool is_stack =
        gva - (USER_END - STACKS) < STACKS && slot == v->window_role_slot[SOFT_WINDOW_ROLE_LAST];
    for (uint8_t role = is_stack ? SOFT_WINDOW_ROLE_LAST : 0; role < SOFT_WINDOW_ROLES; role++) {
        if (slot == v->window_role_slot[role]) {
            *out_role = role;
            return true;
        }
    }
    return false;
}

static void load(struct soft_vcpu *v, struct window_space *space)
{
    struct soft_windows *w = v->windows;
    if (!v->window_table[0]) {
        for (uint64_t slot = 0; slot < SOFT_WINDOW_SLOTS; slot++) {
            v->window_table[slot] = guard_entry(w, slot);
        }
    }
    for (uint32_t slot = 0; slot < 1u << (47 - SOFT_WINDOW_SHIFT); slot++) {
        v->window_table[slot] = guard_entry(w, slot);
    }
    for (uint32_t i = 0; i < space->window_count; i++) {
        const struct window *window = &space->window[i];
        v->window_table[window->slot] =
            (uint64_t)(uintptr_t)window->base - ((uint64_t)window->slot << SOFT_WINDOW_SHIFT);
    }
    load_roles(v, space);
    w->loaded = space;
}

static void choose_blocks(struct soft_vcpu *v, struct window_space *space)
{
    uint32_t count = space->block_count;
    space->has_own_blocks |= space->ticks >= TICKS_TO_OWN;
    v->windows_own_blocks = v->vm->windows == SOFT_WINDOWS_ALWAYS
                                ? count / SOFT_WINDOW_TEST_BLOCKS % 2 == 0
                                : space->has_own_blocks && count < OWN_BLOCKS;
}

/* There is no room, or something is odd. */
static void give_back(struct soft_vcpu *v, struct window_space *space)
{
    if (v->vm->windows == SOFT_WINDOWS_ALWAYS) {
        window_drop_all(space);
    } else {
        deactivate(v->windows, space);
        v->window_state = SOFT_WINDOWS_OFF;
    }
}

/* The page that the TLB has. */
static bool fill(struct soft_vcpu *v, struct window_space *space, uint64_t gva)
{
    const struct soft_tlb *tlb = &v->tlbs[SOFT_TLB_USER];
    bool is_writable = tlb->write_tag[soft_tlb_index(gva)] == soft_tlb_tag(gva);
    bool is_filled = window_fill(v, space, gva, is_writable);
    v->stats.window_fills += is_filled;
    return is_filled;
}

/* The guest has handled a page fault of the process: its page comes now rather than by another signal. */
static void fill_wanted(struct soft_vcpu *v, struct window_space *space)
{
    uint64_t gva = space->wanted, gpa;
    enum x86_access access = space->is_wanted_to_write ? X86_ACCESS_WRITE : X86_ACCESS_READ;
    space->wanted = 0;
    if (window_has_room(v, space) &&
        soft_tlb_quick(v, &v->tlbs[SOFT_TLB_USER], gva, access, &gpa) == SOFT_FILL_DONE) {
        (void)fill(v, space, gva);
    }
}

bool soft_windows_prepare(struct soft_vcpu *v)
{
    struct soft_windows *w = v->windows;
    if (w && !w->current && v->vm->windows == SOFT_WINDOWS_ALWAYS && window_current_cr3(v)) {
        w->current = new_space(w, window_current_cr3(v));
        (void)activate(w, w->current); /* then there are none */
    }
    struct window_space *space = w ? w->current : NULL;
    if (!space || !space->is_active || (v->cr4 & X86_CR4_LA57) || !(v->efer & X86_EFER_LMA) ||
        (v->dr7 & SOFT_DR7_ENABLED)) {
        v->window_state = SOFT_WINDOWS_OFF;
        return false;
    }
    v->stats.window_checks++;
    uint64_t start = __rdtsc();
    uint32_t window_count = space->window_count;
    if (space->tag != v->second.tag || space->has_lost_pages) {
        uint32_t before = space->page_count;
        window_check_all(v, space);
        w->spent += (uint64_t)(before - space->page_count) * DROPPED_CYCLES;
        bool is_another = space->may_be_another && space->page_count <= before / 2;
        space->may_be_another = false;
        if (is_another && v->vm->windows != SOFT_WINDOWS_ALWAYS) {
            deactivate(w, space);
            space->ticks = 0;
            v->window_state = SOFT_WINDOWS_OFF;
            return false;
        }
        if (!window_find_slots(v, space)) {
            give_back(v, space);
            v->window_state = SOFT_WINDOWS_OFF;
            return false;
        }
        space->tag = v->second.tag;
    }
    for (uint32_t i = 0; i < space->pending_count; i++) {
        window_check_page(v, space, space->pending[i]);
    }
    space->pending_count = 0;
    if (space->has_lost_writes) {
        window_check_writes(v, space);
    }
    if (w->loaded != space || space->window_count != window_count) {
        load(v, space);
    }
    if (space->wanted) {
        fill_wanted(v, space);
    }
    v->window_state = SOFT_WINDOWS_ON;
    choose_blocks(v, space);
    w->spent += __rdtsc() - start;
    return true;
}

bool soft_windows_count_block(struct soft_vcpu *v)
{
    struct window_space *space = v->windows ? v->windows->current : NULL;
    if (!space) {
        return false;
    }
    space->block_count++;
    choose_blocks(v, space);
    return space->block_count < MANY_BLOCKS;
}

const uint8_t *soft_windows_peek(struct soft_vcpu *v, uint64_t gva)
{
    const struct window_space *space = v->windows ? v->windows->loaded : NULL;
    if (!space || space != v->windows->current || v->window_state != SOFT_WINDOWS_ON || gva >> 47) {
        return NULL;
    }
    const struct {
        uint64_t key, size;
    } pages[] = {
        {WINDOW_KEY_USED, GUEST_PAGE_SIZE},
        {WINDOW_KEY_USED | WINDOW_KEY_LARGE, 1ull << SOFT_LARGE_SHIFT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(pages); i++) {
        const struct window_page *page =
            window_find_page(space, align_down(gva, pages[i].size) | pages[i].key);
        if (page) {
            uint64_t gpa = align_down(page->page, GUEST_PAGE_SIZE) + gva % pages[i].size;
            return soft_page_find(v->vm, gpa).hva;
        }
    }
    return NULL;
}

void soft_windows_tick(struct soft_vcpu *v)
{
    struct soft_windows *w = v->windows;
    uint64_t now = __rdtsc();
    if (!w || v->vm->windows == SOFT_WINDOWS_ALWAYS || v->code_size != X86_CODE_64 ||
        now - w->last_tick < TICK_CYCLES) {
        return;
    }
    uint64_t spent = w->spent, elapsed = now - w->last_tick;
    w->last_tick = now;
    w->spent = 0;
    if (!w->current) {
        w->current = new_space(w, window_current_cr3(v));
    }
    struct window_space *space = w->current;
    space->ticks = now - space->last_tick > TICK_PAUSE && space->ticks > 0 ? 1 : space->ticks + 1;
    space->last_tick = now;
    if (!space->is_active) {
        if (space->ticks >= TICKS_TO_BEGIN && activate(w, space)) {
            v->window_state = SOFT_WINDOWS_CHECK;
        }
        return;
    }
    int64_t beyond = (int64_t)spent - (int64_t)(elapsed / SPENT_PART);
    space->debt = MAX(space->debt + beyond, 0);
    if (space->debt > SPENT_TOO_MUCH) {
        deactivate(w, space);
        v->window_state = SOFT_WINDOWS_OFF;
        return;
    }
    choose_blocks(v, space);
}

enum soft_window_result soft_windows_fault(struct soft_vcpu *v, uintptr_t address, bool is_write,
                                           uint64_t *out_gva, uint64_t *out_error)
{
    struct soft_windows *w = v->windows;
    struct window_space *space = w->loaded;
    uint64_t start = __rdtsc(), gpa;
    const struct window *window = NULL;
    for (uint32_t i = 0; space && i < space->window_count; i++) {
        if (address - (uintptr_t)space->window[i].base < SOFT_WINDOW_SIZE) {
            window = &space->window[i];
        }
    }
    if (!window) {
        /* Perhaps the top level of the page tables has got an entry. */
        if (space && address - (uintptr_t)w->guard < SOFT_WINDOW_SIZE) {
            v->window_state = SOFT_WINDOWS_CHECK;
            space->has_lost_pages = true;
        }
        return SOFT_WINDOW_OTHER;
    }
    uint64_t gva =
        ((uint64_t)window->slot << SOFT_WINDOW_SHIFT) + (address - (uintptr_t)window->base);
    struct soft_tlb *tlb = &v->tlbs[SOFT_TLB_USER];
    enum x86_access access = is_write ? X86_ACCESS_WRITE : X86_ACCESS_READ;
    enum soft_window_result result = SOFT_WINDOW_OTHER;
    v->stats.window_faults++;
    if (gva >> 47) {
        return result;
    }
    if (!window_has_room(v, space)) {
        /* Begun anew it takes less, as pages that are used by now come together. */
        w->spent += (uint64_t)space->page_count * DROPPED_CYCLES;
        window_drop_all(space);
    }
    switch (soft_tlb_quick(v, tlb, gva, access, &gpa)) {
    case SOFT_FILL_DONE:
        if (fill(v, space, gva)) {
            result = SOFT_WINDOW_RETRY;
            break;
        }
        /* The accessed bit may have been cleared without a flush: then a new walk sets it. */
        soft_tlb_drop_page(v, gva);
        if (soft_tlb_quick(v, tlb, gva, access, &gpa) == SOFT_FILL_DONE && fill(v, space, gva)) {
            result = SOFT_WINDOW_RETRY;
        } else {
            give_back(v, space);
        }
        break;
    case SOFT_FILL_FAULT:
        *out_gva = gva;
        *out_error = gpa;
        space->wanted = gva;
        space->is_wanted_to_write = is_write;
        v->window_state = SOFT_WINDOWS_CHECK;
        result = SOFT_WINDOW_FAULT;
        break;
    default:
        break;
    }
    w->spent += __rdtsc() - start + SIGNAL_CYCLES;
    return result;
}
