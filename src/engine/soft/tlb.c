/* See tlb.h. The way from a miss of the first level to its entry, as long as nothing is unusual: through the second level, or
 * through the page tables of 4-level paging by their host addresses. No vector registers here: the guest's may be in the
 * host's. */
#include "engine/soft/tlb.h"

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"
#include "engine/soft/translate/block_table.h"
#include "engine/soft/windows.h"

static always_inline const struct guest_slot *find_slot(const struct soft_vcpu *v, uint64_t gpa)
{
    return guest_memory_slot(v->vm->vm.config.memory, gpa);
}

/* Dirty bit of a page that is about to be written. */
static void mark_dirty(struct soft_vm *vm, const struct guest_slot *slot, size_t index)
{
    size_t number = (size_t)(slot - vm->vm.config.memory->slot);
    _Atomic uint64_t *dirty = atomic_load_explicit(&vm->dirty[number], memory_order_acquire);
    if (unlikely(dirty != NULL)) {
        atomic_fetch_or(&dirty[index / 64], BIT(index % 64));
    }
}

bool soft_tlb_claim_writable(struct soft_vcpu *v, const struct guest_slot *slot, size_t index)
{
    if (unlikely(slot->is_readonly)) {
        return false;
    }
    _Atomic uint8_t *flags = &slot->page_flags[index];
    uint8_t seen = atomic_load(flags);
    if (!(seen & SOFT_PAGE_WRITABLE)) {
        seen = atomic_fetch_or(flags, SOFT_PAGE_WRITABLE);
    }
    if (seen & GUEST_PAGE_CODE) {
        return false;
    }
    mark_dirty(v->vm, slot, index);
    return true;
}

/* Is the page one that may be written without looking as it is, and nobody keeps a log of writes? */
static bool is_open(const struct soft_vcpu *v, const struct guest_slot *slot, size_t index)
{
    if (slot->is_readonly) {
        return false;
    }
    uint8_t seen = atomic_load(&slot->page_flags[index]);
    size_t number = (size_t)(slot - v->vm->vm.config.memory->slot);
    return (seen & (SOFT_PAGE_WRITABLE | GUEST_PAGE_CODE)) == SOFT_PAGE_WRITABLE &&
           !atomic_load_explicit(&v->vm->dirty[number], memory_order_acquire);
}

static always_inline bool allows_write(const struct soft_vcpu *v, enum soft_tlb_mode mode,
                                       uint64_t page)
{
    if (!(page & SOFT_PAGE_W) && (mode == SOFT_TLB_USER || (v->cr0 & X86_CR0_WP))) {
        return false;
    }
    return true;
}

/* SDM 3A 4.6.1. */
static always_inline bool allows(const struct soft_vcpu *v, enum soft_tlb_mode mode,
                                 enum x86_access access, uint64_t page)
{
    bool is_user_page = page & SOFT_PAGE_U;
    if (mode == SOFT_TLB_USER && !is_user_page) {
        return false;
    }
    if (access == X86_ACCESS_FETCH) {
        return (page & SOFT_PAGE_X) &&
               !(mode != SOFT_TLB_USER && is_user_page && (v->cr4 & X86_CR4_SMEP));
    }
    if (mode == SOFT_TLB_SUPERVISOR && is_user_page) {
        return false;
    }
    return access == X86_ACCESS_READ || allows_write(v, mode, page);
}

/* What flushes go by. */
static void note_entry(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva, size_t index,
                       uint64_t page, bool is_code)
{
    bool is_upper = gva >> 63;
    enum soft_tlb_class class = !is_upper            ? SOFT_TLB_LOWER
                                : page & SOFT_PAGE_G ? SOFT_TLB_UPPER_GLOBAL
                                                     : SOFT_TLB_UPPER_LOCAL;
    tlb->filled[class][index / 64] |= BIT(index % 64);
    tlb->filled_words[class] |= BIT(index / 64);
    if (is_code) {
        v->upper_code_has_local |= class == SOFT_TLB_UPPER_LOCAL;
        v->lower_code_has_global |= !is_upper && (page & SOFT_PAGE_G);
    }
    if (page & SOFT_PAGE_LARGE) {
        size_t bit = soft_large_bit(gva);
        v->large_regions[is_upper][bit / 64] |= BIT(bit % 64);
        if (is_code) {
            v->large_code_regions[bit / 64] |= BIT(bit % 64);
        }
    }
    if (unlikely(page & SOFT_PAGE_HUGE)) {
        struct soft_huge_range *range = &v->huge[is_upper];
        range->first = MIN(range->first, align_down(gva, SOFT_HUGE_SIZE));
        range->last = MAX(range->last, gva | (SOFT_HUGE_SIZE - 1));
    }
}

enum soft_fill soft_tlb_enter(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                              enum x86_access access, uint64_t page)
{
    uint64_t gpa = page & X86_PTE_ADDRESS;
    const struct guest_slot *slot = find_slot(v, gpa);
    if (unlikely(!slot)) {
        v->stats.tlb_unbacked++;
        return SOFT_FILL_NONE;
    }
    enum soft_tlb_mode mode = (enum soft_tlb_mode)(tlb - v->tlbs);
    size_t page_index = (gpa - slot->gpa) >> GUEST_PAGE_SHIFT;
    uint8_t *hva = slot->hva + (gpa - slot->gpa);
    size_t index = soft_tlb_index(gva);
    uint64_t tag = soft_tlb_tag(gva);
    if (tlb->hva[index] != hva || !soft_tlb_has(tlb, index, tag)) {
        soft_tlb_clear(tlb, index);
        tlb->hva[index] = hva;
    }
    note_entry(v, tlb, gva, index, page, access == X86_ACCESS_FETCH);
    if (access == X86_ACCESS_FETCH) {
        tlb->fetch_tag[index] = tag;
        return SOFT_FILL_DONE;
    }
    tlb->read_tag[index] = tag;
    tlb->write_tag[index] = soft_tlb_invalid(index);
    if (access == X86_ACCESS_READ) {
        /* A write often follows. */
        if ((page & SOFT_PAGE_D) && allows_write(v, mode, page) && !v->lockstep &&
            is_open(v, slot, page_index)) {
            tlb->write_tag[index] = tag;
        }
        return SOFT_FILL_DONE;
    }
    if (soft_tlb_claim_writable(v, slot, page_index)) {
        tlb->write_tag[index] = tag;
        return SOFT_FILL_DONE;
    }
    v->stats.tlb_code_writes++;
    if (!slot->is_readonly) {
        *soft_code_page_slot(v, gva) = (struct soft_code_page){
            .tag = tag,
            .tlb = tlb,
            .epoch = v->code_page_epoch,
            .slot = slot,
            .index = page_index,
            .hva = hva,
        };
    }
    return SOFT_FILL_NONE;
}

/* The second level. 0: not there. */
static uint64_t find_with_tag(struct soft_vcpu *v, uint64_t gva, uint32_t tag)
{
    const struct soft_tlb_entry *set = soft_second_set(v, gva, tag);
    uint64_t key = soft_second_key(gva, GUEST_PAGE_SHIFT, tag);
    for (size_t i = 0; i < SOFT_SECOND_WAYS; i++) {
        if (set[i].key == key) {
            return set[i].page;
        }
    }
    const struct soft_tlb_entry *large = soft_second_large(v, gva, tag);
    if (large->key == soft_second_key(gva, SOFT_LARGE_SHIFT, tag)) {
        return large->page | (gva & BITS(SOFT_LARGE_SHIFT - 1, GUEST_PAGE_SHIFT));
    }
    return 0;
}

static uint64_t find_second(struct soft_vcpu *v, uint64_t gva)
{
    uint64_t page = 0;
    if (gva >> 63) {
        page = find_with_tag(v, gva, v->second.global_tag);
    }
    return page ? page : find_with_tag(v, gva, v->second.tag);
}

static void put_second(struct soft_vcpu *v, uint64_t gva, uint64_t page)
{
    /* Lower addresses are looked for in their own space only. */
    if (unlikely((page & SOFT_PAGE_G) && !(gva >> 63))) {
        return;
    }
    uint32_t tag = page & SOFT_PAGE_G ? v->second.global_tag : v->second.tag;
    if (page & SOFT_PAGE_LARGE) {
        struct soft_tlb_entry *large = soft_second_large(v, gva, tag);
        large->key = soft_second_key(gva, SOFT_LARGE_SHIFT, tag);
        large->page = page & ~BITS(SOFT_LARGE_SHIFT - 1, GUEST_PAGE_SHIFT);
        return;
    }
    struct soft_tlb_entry *set = soft_second_set(v, gva, tag);
    uint64_t key = soft_second_key(gva, GUEST_PAGE_SHIFT, tag);
    /* No loop, which compilers like to make a call of memmove. */
    if (set[0].key != key) {
        if (set[1].key != key) {
            if (set[2].key != key) {
                set[3] = set[2];
            }
            set[2] = set[1];
        }
        set[1] = set[0];
    }
    set[0] = (struct soft_tlb_entry){key, page};
}

static void flush_second(struct soft_vcpu *v, uint64_t gva, uint32_t tag)
{
    struct soft_tlb_entry *set = soft_second_set(v, gva, tag);
    for (size_t i = 0; i < SOFT_SECOND_WAYS; i++) {
        if (set[i].key == soft_second_key(gva, GUEST_PAGE_SHIFT, tag)) {
            set[i].key = 0;
        }
    }
    struct soft_tlb_entry *large = soft_second_large(v, gva, tag);
    if (large->key == soft_second_key(gva, SOFT_LARGE_SHIFT, tag)) {
        large->key = 0;
    }
}

void soft_tlb_drop_page(struct soft_vcpu *v, uint64_t gva)
{
    flush_second(v, gva, v->second.tag);
    flush_second(v, gva, v->second.global_tag);
    uint64_t tag = soft_tlb_tag(gva);
    size_t index = soft_tlb_index(gva);
    for (int i = 0; i < SOFT_TLB_MODES; i++) {
        if (soft_tlb_has(&v->tlbs[i], index, tag)) {
            soft_tlb_clear(&v->tlbs[i], index);
        }
    }
    struct soft_code_page *code_page = soft_code_page_slot(v, gva);
    if (code_page->tag == tag) {
        code_page->epoch = 0; /* epochs that are in use are higher */
    }
    soft_windows_page_dropped(v, gva, false);
}

bool soft_tlb_flush_small_page(struct soft_vcpu *v, uint64_t gva)
{
    const struct soft_huge_range *huge = &v->huge[gva >> 63];
    size_t large = soft_large_bit(gva);
    if (unlikely((gva >= huge->first && gva <= huge->last) ||
                 soft_has_bit(v->large_regions[gva >> 63], large) ||
                 soft_has_bit(v->large_code_regions, large) ||
                 native_has_linear_page(v->native, gva) ||
                 soft_has_bit(v->block_pages, soft_block_page_bit(gva)))) {
        return false;
    }
    v->stats.tlb_page_flushes++;
    soft_tlb_drop_page(v, gva);
    return true;
}

/* Sets 'bits' of the entry of a page table. False: that is not for here, or it has changed meanwhile. */
static bool update_entry(struct soft_vcpu *v, const struct guest_slot *slot, uint64_t gpa,
                         uint64_t *at, uint64_t entry, uint64_t bits)
{
    if ((entry & bits) == bits) {
        return true;
    }
    if (!soft_tlb_claim_writable(v, slot, (gpa - slot->gpa) >> GUEST_PAGE_SHIFT)) {
        return false;
    }
    return __sync_bool_compare_and_swap(at, entry, entry | bits);
}

/* 4-level paging. ASK, DONE with *out_page, or FAULT with *out_page holding P and RSVD of the error code. */
static enum soft_fill walk(struct soft_vcpu *v, enum soft_tlb_mode mode, uint64_t gva,
                           enum x86_access access, uint64_t *out_page)
{
    bool is_xd_active = v->efer & X86_EFER_NXE;
    uint64_t reserved = BITS(51, v->physical_bits) | (is_xd_active ? 0 : X86_PTE_XD);
    uint64_t table = v->cr3 & X86_PTE_ADDRESS;
    uint64_t rights = X86_PTE_RW | X86_PTE_US, xd = 0;
    for (unsigned shift = 39;; shift -= 9) {
        uint64_t gpa = table + (gva >> shift & 511) * 8;
        const struct guest_slot *slot = find_slot(v, gpa);
        if (unlikely(!slot)) {
            return SOFT_FILL_ASK;
        }
        uint64_t *at = (uint64_t *)(void *)(slot->hva + (gpa - slot->gpa));
        uint64_t entry = *(volatile uint64_t *)at;
        if (!(entry & X86_PTE_P)) {
            *out_page = 0;
            return SOFT_FILL_FAULT;
        }
        bool is_leaf = shift == GUEST_PAGE_SHIFT || (entry & X86_PTE_PS);
        if (unlikely(entry & (reserved | (shift == 39 ? X86_PTE_PS : 0))) ||
            unlikely(is_leaf && shift > GUEST_PAGE_SHIFT && (entry & BITS(shift - 1, 13)))) {
            *out_page = X86_PF_PRESENT | X86_PF_RSVD;
            return SOFT_FILL_FAULT;
        }
        rights &= entry;
        xd |= entry;
        if (!is_leaf) {
            if (unlikely(!update_entry(v, slot, gpa, at, entry, X86_PTE_A))) {
                return SOFT_FILL_ASK;
            }
            table = entry & X86_PTE_ADDRESS;
            continue;
        }
        uint64_t page = (rights & X86_PTE_RW ? SOFT_PAGE_W : 0) |
                        (rights & X86_PTE_US ? SOFT_PAGE_U : 0) |
                        (is_xd_active && (xd & X86_PTE_XD) ? 0 : SOFT_PAGE_X) |
                        ((entry & X86_PTE_G) && (v->cr4 & X86_CR4_PGE) ? SOFT_PAGE_G : 0) |
                        (shift > GUEST_PAGE_SHIFT ? SOFT_PAGE_LARGE : 0) |
                        (shift > SOFT_LARGE_SHIFT ? SOFT_PAGE_HUGE : 0);
        if (!allows(v, mode, access, page)) {
            *out_page = X86_PF_PRESENT;
            return SOFT_FILL_FAULT;
        }
        uint64_t bits = X86_PTE_A | (access == X86_ACCESS_WRITE ? X86_PTE_D : 0);
        if (unlikely(!update_entry(v, slot, gpa, at, entry, bits))) {
            return SOFT_FILL_ASK;
        }
        page |= (entry | bits) & X86_PTE_D ? SOFT_PAGE_D : 0;
        uint64_t offset = gva & BITS(shift - 1, 0) & ~(uint64_t)(GUEST_PAGE_SIZE - 1);
        *out_page = (entry & BITS(51, shift)) | offset | page;
        return SOFT_FILL_DONE;
    }
}

enum soft_fill soft_tlb_quick(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                              enum x86_access access, uint64_t *out_gpa)
{
    /* What is looked at more closely than a TLB does. */
    if (unlikely((v->dr7 & SOFT_DR7_ENABLED) || v->lockstep || !(v->efer & X86_EFER_LMA))) {
        return SOFT_FILL_ASK;
    }
    enum soft_tlb_mode mode = (enum soft_tlb_mode)(tlb - v->tlbs);
    v->stats.tlb_misses++;
    uint64_t page = find_second(v, gva);
    if (page && allows(v, mode, access, page) &&
        (access != X86_ACCESS_WRITE || (page & SOFT_PAGE_D))) {
        v->stats.tlb_second_hits++;
    } else {
        v->stats.tlb_walks++;
        enum soft_fill result = walk(v, mode, gva, access, &page);
        if (unlikely(result != SOFT_FILL_DONE)) {
            v->stats.tlb_faults += result == SOFT_FILL_FAULT;
            /* Fetches have a bit where they have rights of their own. */
            bool names_fetch = (v->efer & X86_EFER_NXE) || (v->cr4 & X86_CR4_SMEP);
            *out_gpa = page | (access == X86_ACCESS_WRITE ? X86_PF_WRITE : 0) |
                       (mode == SOFT_TLB_USER ? X86_PF_USER : 0) |
                       (access == X86_ACCESS_FETCH && names_fetch ? X86_PF_FETCH : 0);
            return result;
        }
        put_second(v, gva, page);
    }
    *out_gpa = (page & X86_PTE_ADDRESS) | (gva & (GUEST_PAGE_SIZE - 1));
    return soft_tlb_enter(v, tlb, gva, access, page);
}

/* The access of the instruction, which may be another than the one checked, is not allowed: its #PF is noted. */
static uint32_t note_fault(struct soft_vcpu *v, uint64_t gva, uint32_t access, uint64_t error)
{
    if (!(access & NATIVE_FILL_FAULT) || unlikely(v->vm->icount.is_on)) {
        return NATIVE_MISS_FAILED;
    }
    if ((access & NATIVE_FILL_FAULT_READ) &&
        soft_tlb_quick(v, v->tlb, gva, X86_ACCESS_READ, &error) != SOFT_FILL_FAULT) {
        return NATIVE_MISS_FAILED;
    }
    v->native_miss.has_fault = true;
    v->native_miss.error = (uint32_t)error;
    v->native_miss.gva = gva + (access >> NATIVE_FILL_FAULT_SHIFT);
    return NATIVE_MISS_FAILED;
}

/* Host address of 'size' bytes, of a page with code, where no code is, for a write before anything is decoded; what soft_written would
 * do then is done. NULL: write another way. */
static uint8_t *map_beside_code(struct soft_vcpu *v, const struct soft_code_page *page,
                                uint64_t gva, uint32_t size)
{
    const struct guest_slot *slot = page->slot;
    /* Who else decodes, or reads what has been logged, may do so between this look and the write. */
    if (v->vm->vm.config.vcpu_count > 1 || v->lockstep || (v->dr7 & SOFT_DR7_ENABLED) ||
        atomic_load(&v->vm->dirty[slot - v->vm->vm.config.memory->slot])) {
        return NULL;
    }
    uint64_t granules = soft_granules(gva, size);
    const struct native_page *native =
        native_find_page(v->native, slot->gpa + page->index * GUEST_PAGE_SIZE);
    _Atomic uint32_t *writes = &slot->code_writes[page->index];
    uint32_t seen = atomic_load_explicit(writes, memory_order_relaxed);
    if (atomic_load(&slot->code_granules[page->index]) & granules ||
        (native && native->granules & granules) || !soft_may_still_write(seen)) {
        return NULL;
    }
    atomic_store_explicit(writes, seen + 1, memory_order_relaxed);
    return page->hva + gva % GUEST_PAGE_SIZE;
}

uint32_t native_on_miss(struct soft_vcpu *v, uint64_t gva, uint32_t access)
{
    uint32_t size = access & (NATIVE_FILL_ONCE - 1);
    bool is_write = access & NATIVE_FILL_WRITE;
    if (unlikely((gva & (GUEST_PAGE_SIZE - 1)) + size > GUEST_PAGE_SIZE) ||
        unlikely(!x86_is_canonical(gva))) {
        return NATIVE_MISS_FAILED;
    }
    const struct soft_code_page *code = is_write ? soft_find_code_page(v, gva) : NULL;
    if (unlikely(code != NULL)) {
        v->native_miss.hva = access & NATIVE_FILL_ONCE ? map_beside_code(v, code, gva, size) : NULL;
        return v->native_miss.hva ? NATIVE_MISS_ONCE : NATIVE_MISS_FAILED;
    }
    uint64_t gpa;
    switch (soft_tlb_quick(v, v->tlb, gva, is_write ? X86_ACCESS_WRITE : X86_ACCESS_READ, &gpa)) {
    case SOFT_FILL_DONE:
        return NATIVE_MISS_FILLED;
    case SOFT_FILL_ASK:
        v->native_miss.access = access;
        v->native_miss.had_vectors = v->native_vectors_live;
        return NATIVE_MISS_ASK;
    case SOFT_FILL_FAULT:
        return note_fault(v, gva, access, gpa);
    default:
        return NATIVE_MISS_FAILED;
    }
}
