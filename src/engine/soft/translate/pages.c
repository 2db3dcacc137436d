/* The guest pages that blocks are made of, and how blocks go with their bytes. */
#include <stdatomic.h>
#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/mmu.h"
#include "engine/soft/translate/block_table.h"

static size_t page_hash(uint64_t gpa)
{
    return ((gpa >> GUEST_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> (64 - NATIVE_PAGE_BITS);
}

static struct native_page *find_page(struct soft_native *n, uint64_t gpa)
{
    struct native_page *page = n->pages[page_hash(gpa)];
    while (page && page->gpa != gpa) {
        page = page->hash_next;
    }
    return page;
}

/* Out of its first page's list. */
static void leave_first(struct soft_native *n, const struct native_block *block)
{
    struct native_page *page = find_page(n, align_down(block->gpa, GUEST_PAGE_SIZE));
    struct native_block **at = &page->blocks;
    while (*at != block) {
        at = &(*at)->page_next;
    }
    *at = block->page_next;
}

/* Out of its second page's list, if it has one. */
static void leave_second(struct soft_native *n, const struct native_block *block)
{
    if (!block->is_crossing) {
        return;
    }
    const struct native_crossing *crossing = (const struct native_crossing *)(const void *)block;
    struct native_crossing **at = &find_page(n, crossing->second_gpa)->crossings;
    while (*at != crossing) {
        at = &(*at)->next;
    }
    *at = crossing->next;
}

/* Blocks that depend on 'granules' of the page go. */
static void drop_granules(struct soft_vcpu *v, struct native_page *page, uint64_t granules)
{
    struct soft_native *n = v->native;
    page->granules = 0;
    for (struct native_crossing **at = &page->crossings; *at;) {
        struct native_crossing *crossing = *at;
        if (!(crossing->second_granules & granules)) {
            page->granules |= crossing->second_granules;
            at = &crossing->next;
            continue;
        }
        *at = crossing->next;
        leave_first(n, &crossing->block);
        native_drop_block(v, &crossing->block);
        n->was_cut = true;
    }
    for (struct native_block **at = &page->blocks; *at;) {
        struct native_block *block = *at;
        if (!(block->granules & granules)) {
            page->granules |= block->granules;
            at = &block->page_next;
            continue;
        }
        *at = block->page_next;
        leave_second(n, block);
        native_drop_block(v, block);
        n->was_cut = true;
    }
}

void soft_native_written(struct soft_vcpu *v, uint64_t gpa, uint64_t granules)
{
    if (!v->native) {
        return;
    }
    struct native_page *page = find_page(v->native, gpa);
    if (unlikely(page != NULL) && page->granules & granules) {
        drop_granules(v, page, granules);
    }
}

void soft_native_keep_page(struct soft_vcpu *v, uint64_t gpa, uint32_t before, uint32_t after)
{
    struct native_page *page = v->native ? find_page(v->native, gpa) : NULL;
    if (page && page->generation_seen == before) {
        page->generation_seen = after;
    }
}

void soft_native_check_pages(struct soft_vcpu *v)
{
    for (size_t i = 0; i < ARRAY_COUNT(v->native->pages); i++) {
        for (struct native_page *page = v->native->pages[i]; page; page = page->hash_next) {
            if ((page->blocks || page->crossings) &&
                atomic_load(page->generation) != page->generation_seen) {
                drop_granules(v, page, UINT64_MAX);
            }
        }
    }
}

struct native_page *native_begin_page(struct soft_vcpu *v, uint64_t gpa,
                                      const struct soft_page *guest)
{
    struct soft_native *n = v->native;
    const _Atomic uint32_t *generation;
    uint32_t seen = soft_begin_decode(v, guest, &generation);
    struct native_page *page = find_page(n, gpa);
    if (!page) {
        page = native_alloc(n, sizeof(*page));
        page->gpa = gpa;
        page->generation = generation;
        page->hash_next = n->pages[page_hash(gpa)];
        n->pages[page_hash(gpa)] = page;
    } else if (page->generation_seen != seen) {
        drop_granules(v, page, UINT64_MAX);
        n->was_cut = true;
    }
    page->generation_seen = seen;
    return page;
}

void native_page_add(struct native_page *page, struct native_block *block, uint64_t granules)
{
    block->granules = granules;
    block->page_next = page->blocks;
    page->blocks = block;
    page->granules |= granules;
}

void native_page_add_second(struct native_page *page, struct native_block *block, uint64_t granules)
{
    struct native_crossing *crossing = (struct native_crossing *)(void *)block;
    crossing->second_gpa = page->gpa;
    crossing->second_granules = granules;
    crossing->next = page->crossings;
    page->crossings = crossing;
    page->granules |= granules;
}

bool native_find_second(struct soft_vcpu *v, uint64_t rip, uint32_t mode, uint64_t *out_gpa)
{
    uint64_t next = align_down(rip, GUEST_PAGE_SIZE) + GUEST_PAGE_SIZE;
    bool is_beyond = mode & NATIVE_MODE_32 ? next >> 32 : !x86_is_canonical(next);
    if (is_beyond || next >> 63 != rip >> 63) {
        return false;
    }
    *out_gpa = soft_fetch_translate(v, next);
    native_note_linear_page(v->native, next);
    return true;
}

bool native_seems_cut(uint64_t rip, uint32_t mode, const uint8_t *page)
{
    uint32_t offset = (uint32_t)(rip & (GUEST_PAGE_SIZE - 1));
    uint32_t left = GUEST_PAGE_SIZE - offset;
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    struct x86_insn insn;
    if (left >= sizeof(bytes)) {
        return false;
    }
    memcpy(bytes, page + offset, left); /* others may write there: it is decoded again */
    return x86_decode(bytes, left, mode & NATIVE_MODE_32 ? X86_CODE_32 : X86_CODE_64, &insn) ==
           X86_DECODE_MORE;
}
