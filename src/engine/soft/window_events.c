/* See windows.h. Events that come while the guest's vectors may be in the host's registers: no vector registers here, and no
 * calls of the C library. */
#include "engine/soft/window_map.h"

#include "base/core/bits.h"

struct window_space *window_find_space(struct soft_windows *w, uint64_t cr3)
{
    for (size_t i = 0; i < WINDOW_SPACES; i++) {
        if (w->space[i].cr3 == cr3 && cr3) {
            return &w->space[i];
        }
    }
    return NULL;
}

size_t window_place(const struct window_space *space, uint64_t key)
{
    uint64_t number = (key >> GUEST_PAGE_SHIFT) + (key & WINDOW_KEY_LARGE);
    return window_hash(space, number);
}

struct window_page *window_find_page(const struct window_space *space, uint64_t key)
{
    for (size_t i = window_place(space, key);; i = (i + 1) % window_places(space)) {
        struct window_page *page = &space->page[i];
        if (page->key == key) {
            return page;
        }
        if (!page->key) {
            return NULL;
        }
    }
}

void soft_windows_space_changed(struct soft_vcpu *v)
{
    struct soft_windows *w = v->windows;
    if (!w) {
        return;
    }
    w->current = window_find_space(w, window_current_cr3(v));
    bool has_windows = w->current ? w->current->is_active : v->vm->windows == SOFT_WINDOWS_ALWAYS;
    v->window_state = has_windows ? SOFT_WINDOWS_CHECK : SOFT_WINDOWS_OFF;
}

void soft_windows_flushed(struct soft_vcpu *v)
{
    soft_windows_space_changed(v);
    struct window_space *space = v->windows ? v->windows->current : NULL;
    if (space && !space->is_active && space->ticks > 0) {
        space->ticks--; /* those that fork all the time are better off without */
    }
}

void soft_windows_space_begun(struct soft_vcpu *v)
{
    struct window_space *space = v->windows ? v->windows->current : NULL;
    if (space && space->is_active) {
        space->may_be_another = true;
    } else if (space && space->ticks > 0) {
        space->ticks = 0;
    }
}

void soft_windows_page_dropped(struct soft_vcpu *v, uint64_t gva, bool is_large)
{
    struct window_space *space = v->windows ? v->windows->current : NULL;
    if (!space || !space->is_active || gva >> 63) {
        return;
    }
    bool may_be_mapped =
        is_large || space->has_large ||
        window_find_page(space, align_down(gva, GUEST_PAGE_SIZE) | WINDOW_KEY_USED);
    if (!may_be_mapped) {
        return;
    }
    if (is_large || space->pending_count == WINDOW_MAX_PENDING) {
        space->has_lost_pages = true;
    } else {
        space->pending[space->pending_count++] = gva;
    }
    v->window_state = SOFT_WINDOWS_CHECK;
}
