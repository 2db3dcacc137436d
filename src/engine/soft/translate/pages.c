/* The guest pages that blocks are made of, and how blocks go with their bytes.
 *
 * Descriptions of pages are of a fixed number: those without blocks are taken back when none is left. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "engine/soft/block.h"
#include "engine/soft/mmu.h"
#include "engine/soft/translate/code_cache.h"

static struct native_block *block_at(const struct soft_native *n, native_ref ref)
{
    return native_at(n, ref);
}

bool native_pages_init(struct soft_native *n, size_t count)
{
    n->page_count = count;
    n->page_hash_bits = native_bits_for(count / 2);
    n->page_hash = calloc(BIT(n->page_hash_bits), sizeof(struct native_page *));
    n->pages = calloc(count, sizeof(*n->pages));
    return n->page_hash && n->pages;
}

void native_pages_fini(struct soft_native *n)
{
    free(n->page_hash);
    free(n->pages);
}

size_t native_free_pages(struct soft_native *n)
{
    size_t count = 0;
    for (size_t i = 0; i < BIT(n->page_hash_bits); i++) {
        struct native_page **at = &n->page_hash[i];
        while (*at) {
            struct native_page *page = *at;
            if (page->blocks || page->crossings) {
                at = &page->hash_next;
                continue;
            }
            *at = page->hash_next;
            page->hash_next = n->free_pages;
            n->free_pages = page;
            count++;
        }
    }
    return count;
}

/* Cuts the ends off that are within 'gone': lists begin with the newest block. */
static void cut_page(struct soft_native *n, struct native_page *page,
                     const struct native_range *gone)
{
    if (!page || page->last_cut == n->cut) {
        return; /* done for another block of the page */
    }
    page->last_cut = n->cut;
    page->granules = 0;
    native_ref *at = &page->blocks;
    while (*at && !native_is_within(gone, *at)) {
        page->granules |= block_at(n, *at)->granules;
        at = &block_at(n, *at)->page_next;
    }
    *at = 0;
    at = &page->crossings;
    while (*at && !native_is_within(gone, *at)) {
        page->granules |= native_second(block_at(n, *at))->granules;
        at = &native_second(block_at(n, *at))->next;
    }
    *at = 0;
}

void native_cut_pages(struct soft_native *n, struct native_block *block,
                      const struct native_range *gone)
{
    cut_page(n, native_find_page(n, align_down(block->gpa, GUEST_PAGE_SIZE)), gone);
    if (block->is_crossing) {
        cut_page(n, native_find_page(n, native_second(block)->gpa), gone);
    }
}

/* Out of its first page's list. */
static void leave_first(struct soft_native *n, const struct native_block *block)
{
    struct native_page *page = native_find_page(n, align_down(block->gpa, GUEST_PAGE_SIZE));
    native_ref ref = native_ref_of(n, block), *at = &page->blocks;
    while (*at != ref) {
        at = &block_at(n, *at)->page_next;
    }
    *at = block->page_next;
}

/* Out of its second page's list, if it has one. */
static void leave_second(struct soft_native *n, struct native_block *block)
{
    if (!block->is_crossing) {
        return;
    }
    native_ref ref = native_ref_of(n, block);
    native_ref *at = &native_find_page(n, native_second(block)->gpa)->crossings;
    while (*at != ref) {
        at = &native_second(block_at(n, *at))->next;
    }
    *at = native_second(block)->next;
}

/* Blocks that depend on 'granules' of the page go. */
static void drop_granules(struct soft_vcpu *v, struct native_page *page, uint64_t granules)
{
    struct soft_native *n = v->native;
    page->granules = 0;
    for (native_ref *at = &page->crossings; *at;) {
        struct native_block *block = block_at(n, *at);
        struct native_second *second = native_second(block);
        if (!(second->granules & granules)) {
            page->granules |= second->granules;
            at = &second->next;
            continue;
        }
        *at = second->next;
        leave_first(n, block);
        native_drop_block(v, block);
        n->was_cut = true;
    }
    for (native_ref *at = &page->blocks; *at;) {
        struct native_block *block = block_at(n, *at);
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
    struct native_page *page = v->native ? native_find_page(v->native, gpa) : NULL;
    if (unlikely(page != NULL) && page->granules & granules) {
        drop_granules(v, page, granules);
    }
}

void soft_native_keep_page(struct soft_vcpu *v, uint64_t gpa, uint32_t before, uint32_t after)
{
    struct native_page *page = v->native ? native_find_page(v->native, gpa) : NULL;
    if (page && page->generation_seen == before) {
        page->generation_seen = after;
    }
}

void soft_native_check_pages(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    for (size_t i = 0; i < n->pages_used; i++) {
        struct native_page *page = &n->pages[i];
        if ((page->blocks || page->crossings) &&
            atomic_load(page->generation) != page->generation_seen) {
            drop_granules(v, page, UINT64_MAX);
        }
    }
}

struct native_page *native_begin_page(struct soft_vcpu *v, uint64_t gpa,
                                      const struct soft_page *guest)
{
    struct soft_native *n = v->native;
    const _Atomic uint32_t *generation;
    uint32_t seen = soft_begin_decode(v, guest, &generation);
    struct native_page *page = native_find_page(n, gpa);
    if (!page) {
        struct native_page **bucket = native_page_bucket(n, gpa);
        page = n->free_pages;
        if (page) {
            n->free_pages = page->hash_next;
        } else {
            invariant(n->pages_used < n->page_count);
            page = &n->pages[n->pages_used++];
        }
        *page = (struct native_page){.gpa = gpa, .generation = generation, .hash_next = *bucket};
        *bucket = page;
    } else if (page->generation_seen != seen) {
        drop_granules(v, page, UINT64_MAX);
        n->was_cut = true;
    }
    page->generation_seen = seen;
    return page;
}

void native_page_add(struct soft_native *n, struct native_page *page, struct native_block *block,
                     uint64_t granules)
{
    block->granules = granules;
    block->page_next = page->blocks;
    page->blocks = native_ref_of(n, block);
    page->granules |= granules;
}

void native_page_add_second(struct soft_native *n, struct native_page *page,
                            struct native_block *block, uint64_t granules)
{
    *native_second(block) =
        (struct native_second){.gpa = page->gpa, .granules = granules, .next = page->crossings};
    page->crossings = native_ref_of(n, block);
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

bool native_seems_cut(const struct soft_vm *vm, uint64_t rip, uint32_t mode, const uint8_t *page)
{
    uint32_t offset = (uint32_t)(rip & (GUEST_PAGE_SIZE - 1));
    uint32_t left = GUEST_PAGE_SIZE - offset;
    uint8_t bytes[X86_INSN_MAX_LENGTH];
    struct x86_insn insn;
    if (left >= sizeof(bytes)) {
        return false;
    }
    memcpy(bytes, page + offset, left); /* others may write there: it is decoded again */
    enum x86_code_size size = mode & NATIVE_MODE_32 ? X86_CODE_32 : X86_CODE_64;
    return x86_decode(bytes, left, soft_decode_as(vm, size), &insn) == X86_DECODE_MORE;
}
