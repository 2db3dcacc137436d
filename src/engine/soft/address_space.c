/* Flushes of the TLB, and the switch between address spaces. See tlb.h. */
#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/mmu.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/translate/native.h"
#include "engine/soft/windows.h"

#define CLASS_BIT(class) (1u << (class))
#define CLASSES_LOCAL    (CLASS_BIT(SOFT_TLB_LOWER) | CLASS_BIT(SOFT_TLB_UPPER_LOCAL))
#define CLASSES_ALL      (CLASSES_LOCAL | CLASS_BIT(SOFT_TLB_UPPER_GLOBAL))

/* Is the entry's page in the upper half? What is not valid looks so, too, but then some tag is valid or all are not. */
static bool is_in_upper_half(const struct soft_tlb *tlb, size_t index)
{
    return (tlb->read_tag[index] & tlb->write_tag[index] & tlb->fetch_tag[index]) >> 63;
}

/* Entries of the first level. One that has been replaced may still be noted in its old class, where it is spared if it is
 * of the other half. */
static void flush_first(struct soft_vcpu *v, unsigned classes)
{
    for (int mode = 0; mode < SOFT_TLB_MODES; mode++) {
        struct soft_tlb *tlb = &v->tlbs[mode];
        for (unsigned class = 0; class < ARRAY_COUNT(tlb->filled); class ++) {
            if (!(classes & CLASS_BIT(class))) {
                continue;
            }
            uint64_t words = tlb->filled_words[class];
            for (; words; words &= words - 1) {
                size_t word = (size_t)__builtin_ctzll(words);
                for (uint64_t left = tlb->filled[class][word]; left; left &= left - 1) {
                    size_t index = word * 64 + (size_t)__builtin_ctzll(left);
                    if (is_in_upper_half(tlb, index) == (class != SOFT_TLB_LOWER)) {
                        soft_tlb_clear(tlb, index);
                    }
                }
                tlb->filled[class][word] = 0;
            }
            tlb->filled_words[class] = 0;
        }
    }
    memset(v->large_regions[0], 0, sizeof(v->large_regions[0]));
    if (classes & CLASS_BIT(SOFT_TLB_UPPER_GLOBAL)) {
        memset(v->large_regions[1], 0, sizeof(v->large_regions[1]));
    }
}

static uint32_t new_tag(struct soft_vcpu *v)
{
    struct soft_second *second = &v->second;
    if (unlikely(second->last_tag == BIT(SOFT_SPACE_TAG_BITS) - 1)) {
        /* Begin again: nothing may be left that has a tag of before. */
        memset(second->page, 0, sizeof(second->page));
        memset(second->large, 0, sizeof(second->large));
        memset(second->space, 0, sizeof(second->space));
        second->last_tag = 0;
        second->oldest_tag = 1;
        second->global_tag = ++second->last_tag;
        second->tag = ++second->last_tag;
    }
    return ++second->last_tag;
}

void soft_tlb_init(struct soft_vcpu *v)
{
    /* In fresh memory tags are 0, which is the page of entry 0 only. */
    for (int i = 0; i < SOFT_TLB_MODES; i++) {
        soft_tlb_clear(&v->tlbs[i], 0);
    }
    v->huge[0].first = v->huge[1].first = UINT64_MAX;
    v->code_page_epoch = 1;
    v->second.oldest_tag = 1;
    v->second.global_tag = new_tag(v);
    v->second.tag = new_tag(v);
}

static uint16_t current_pcid(const struct soft_vcpu *v)
{
    return v->cr4 & X86_CR4_PCIDE ? v->cr3 & (SOFT_SPACE_COUNT - 1) : 0;
}

/* What is known of the code at the addresses that are gone with the current address space. */
static void forget_local_code(struct soft_vcpu *v)
{
    soft_native_forget_addresses(v, false);
    soft_new_block_epoch(v, false);
    v->code_page_epoch++;
    /* A kernel's own code is global as a rule, and looking for it again is dear. */
    if (v->upper_code_has_local) {
        v->upper_code_has_local = false;
        soft_native_forget_addresses(v, true);
        soft_new_block_epoch(v, true);
    }
}

void soft_tlb_flush(struct soft_vcpu *v, bool with_global)
{
    struct soft_second *second = &v->second;
    v->stats.tlb_flushes++;
    if (with_global) {
        v->stats.tlb_flushes_all++;
        second->oldest_tag = second->global_tag = new_tag(v);
        v->upper_code_has_local = true;
        v->lower_code_has_global = false;
        v->huge[0] = v->huge[1] = (struct soft_huge_range){.first = UINT64_MAX};
        memset(v->large_code_regions, 0, sizeof(v->large_code_regions));
    }
    second->tag = new_tag(v);
    second->pcid = current_pcid(v);
    flush_first(v, with_global ? CLASSES_ALL : CLASSES_LOCAL);
    forget_local_code(v);
    soft_windows_flushed(v);
}

/* Entries of the first level in the 2 MiB around 'gva'. */
static void flush_region(struct soft_vcpu *v, uint64_t gva)
{
    uint64_t region = gva >> SOFT_LARGE_SHIFT;
    for (int mode = 0; mode < SOFT_TLB_MODES; mode++) {
        struct soft_tlb *tlb = &v->tlbs[mode];
        for (size_t word = 0; word < ARRAY_COUNT(tlb->filled[0]); word++) {
            uint64_t left = tlb->filled[0][word] | tlb->filled[1][word] | tlb->filled[2][word];
            for (; left; left &= left - 1) {
                size_t index = word * 64 + (size_t)__builtin_ctzll(left);
                if (tlb->read_tag[index] >> SOFT_LARGE_SHIFT == region ||
                    tlb->write_tag[index] >> SOFT_LARGE_SHIFT == region ||
                    tlb->fetch_tag[index] >> SOFT_LARGE_SHIFT == region) {
                    soft_tlb_clear(tlb, index);
                }
            }
        }
    }
}

void soft_tlb_flush_page(struct soft_vcpu *v, uint64_t gva)
{
    bool is_upper = gva >> 63;
    const struct soft_huge_range *huge = &v->huge[is_upper];
    v->stats.tlb_page_flushes++;
    if (unlikely(gva >= huge->first && gva <= huge->last)) {
        soft_tlb_flush(v, true);
        return;
    }
    soft_tlb_drop_page(v, gva);
    size_t bit = soft_large_bit(gva);
    if (unlikely(soft_has_bit(v->large_regions[is_upper], bit))) {
        flush_region(v, gva);
        soft_windows_page_dropped(v, gva, true);
        v->code_page_epoch++;
    }
    if (unlikely(soft_has_bit(v->large_code_regions, bit))) {
        soft_native_forget_addresses(v, is_upper);
        soft_new_block_epoch(v, is_upper);
        return;
    }
    soft_native_forget_page(v, gva);
    if (soft_has_bit(v->block_pages, soft_block_page_bit(gva))) {
        soft_new_block_epoch(v, is_upper);
    }
}

static bool is_kept(const struct soft_vcpu *v, const struct soft_space *space)
{
    return space->tag >= v->second.oldest_tag;
}

void soft_space_enter(struct soft_vcpu *v, bool keeps)
{
    struct soft_second *second = &v->second;
    uint16_t pcid = current_pcid(v);
    v->stats.tlb_space_switches++;
    if (pcid == second->pcid) {
        if (!keeps) {
            soft_tlb_flush(v, false);
        }
        return;
    }
    if (!v->lower_code_has_global) {
        second->space[second->pcid] = (struct soft_space){second->tag, soft_native_epoch(v)};
    } else {
        second->space[second->pcid] = (struct soft_space){.tag = second->tag};
    }
    const struct soft_space *space = &second->space[pcid];
    if (!keeps || !is_kept(v, space)) {
        soft_tlb_flush(v, false);
        if (!keeps) {
            soft_windows_space_begun(v);
        }
        return;
    }
    second->pcid = pcid;
    second->tag = space->tag;
    flush_first(v, CLASSES_LOCAL);
    forget_local_code(v);
    if (space->native_epoch && !v->lower_code_has_global) {
        soft_native_set_epoch(v, space->native_epoch);
    }
    soft_windows_space_changed(v);
}

void soft_space_invalidate(struct soft_vcpu *v, unsigned type, uint16_t pcid, uint64_t gva)
{
    struct soft_second *second = &v->second;
    switch (type) {
    case 0:
        if (pcid == second->pcid) {
            soft_tlb_flush_page(v, gva);
        } else {
            second->space[pcid].tag = 0;
        }
        break;
    case 1:
        if (pcid == second->pcid) {
            soft_tlb_flush(v, false);
        } else {
            second->space[pcid].tag = 0;
        }
        break;
    case 2:
        soft_tlb_flush(v, true);
        break;
    default: /* all but global ones */
        second->oldest_tag = new_tag(v);
        soft_tlb_flush(v, false);
        break;
    }
}

/* The entries of the first level that let something be written, but only those of the page at 'hva' if it is not NULL. */
static void flush_writes(struct soft_vcpu *v, const uint8_t *hva)
{
    for (int mode = 0; mode < SOFT_TLB_MODES; mode++) {
        struct soft_tlb *tlb = &v->tlbs[mode];
        uint64_t words = tlb->filled_words[0] | tlb->filled_words[1] | tlb->filled_words[2];
        for (; words; words &= words - 1) {
            size_t word = (size_t)__builtin_ctzll(words);
            uint64_t left = tlb->filled[0][word] | tlb->filled[1][word] | tlb->filled[2][word];
            for (; left; left &= left - 1) {
                size_t index = word * 64 + (size_t)__builtin_ctzll(left);
                if (!hva || tlb->hva[index] == hva) {
                    tlb->write_tag[index] = soft_tlb_invalid(index);
                }
            }
        }
    }
}

void soft_tlb_flush_writes(struct soft_vcpu *v)
{
    flush_writes(v, NULL);
    soft_windows_writes_dropped(v, NULL);
    atomic_fetch_and(&v->requests, ~SOFT_REQUEST_FLUSH_WRITES);
}

void soft_tlb_flush_page_writes(struct soft_vcpu *v, const uint8_t *hva)
{
    flush_writes(v, hva);
    soft_windows_writes_dropped(v, hva);
}
