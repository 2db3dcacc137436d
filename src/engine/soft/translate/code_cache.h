/* Private to the translator: the memory of translated code and of its blocks' descriptions, and what refers to blocks. */
#ifndef ENGINE_SOFT_TRANSLATE_CODE_CACHE_H
#define ENGINE_SOFT_TRANSLATE_CODE_CACHE_H

#include "engine/soft/translate/block_table.h"

/* The most code that one block takes, with what is out of line tried behind it and then put elsewhere. */
#define NATIVE_CODE_RESERVE ((size_t)64 << 10)

/* The least number of bits that tell 'count' things apart. */
static inline uint32_t native_bits_for(size_t count)
{
    return count > 1 ? 64u - (uint32_t)__builtin_clzll(count - 1) : 1;
}

/* For 'size' bytes of code; stubs are not made yet. What has been made until an error is left to native_cache_fini. */
int must_check native_cache_init(struct soft_native *n, size_t size, struct error *err);
void native_cache_fini(struct soft_native *n);
/* After the stubs have been made: the rest is for blocks, and there is none. */
void native_cache_begin(struct soft_native *n);

/* Makes room for one more block: others may go, unless there is room. */
void native_cache_reserve(struct soft_vcpu *v);

/* A description for a block that is about to be made: nothing in it, and NATIVE_MAX_LINKS links; code goes to native_code
 * and native_cold. Then, with 'link_count' set, and where the two end, it has its place. */
struct native_block *native_cache_new_block(struct soft_native *n);
void native_cache_keep_block(struct soft_native *n, struct native_block *block,
                             const uint8_t *code_end, const uint8_t *cold_end);

/* The block for that address of native_address, or NULL. If it ends in a second page, that has to be at 'second_gpa', unless it is
 * NATIVE_SECOND_ANY. */
#define NATIVE_SECOND_NONE 1u
#define NATIVE_SECOND_ANY  2u
struct native_block *native_cache_find(const struct soft_native *n, uint64_t gpa, uint64_t address,
                                       uint32_t mode, uint64_t second_gpa);
/* A new block will be found. */
void native_cache_add(struct soft_native *n, struct native_block *block);
/* No way leads to the block any more but what runs. It is in no list of a page. */
void native_drop_block(struct soft_vcpu *v, struct native_block *block);

/* Descriptions that go. */
struct native_range {
    native_ref start, end;
};

static inline bool native_is_within(const struct native_range *range, native_ref ref)
{
    return ref - range->start < range->end - range->start;
}

/* May there be a block that begins at a guest physical address? Nearer than the hash, for those who ask about all of them. */
static inline size_t native_begins_bit(uint64_t gpa)
{
    return gpa * 0x9e3779b97f4a7c15ull >> (64 - NATIVE_BEGINS_BITS);
}
static inline bool native_may_begin(const struct soft_native *n, uint64_t gpa)
{
    size_t bit = native_begins_bit(gpa);
    return n->begins[bit / 64] & BIT(bit % 64);
}

/* pages.c: 'count' descriptions of pages. */
bool native_pages_init(struct soft_native *n, size_t count);
void native_pages_fini(struct soft_native *n);
/* The block, and others within 'gone', are no more in their pages' lists. */
void native_cut_pages(struct soft_native *n, struct native_block *block,
                      const struct native_range *gone);
/* Takes back pages without blocks. Returns how many. */
size_t native_free_pages(struct soft_native *n);
static inline bool native_has_free_pages(const struct soft_native *n)
{
    return n->pages_used + 2 <= n->page_count || /* a block has two at most */
           (n->free_pages && n->free_pages->hash_next);
}

/* The link's jump goes to 'target', past the status flags' restoring if it can. */
void native_link_bind(struct soft_native *n, struct native_link *link, struct native_block *target);
/* The link's exit leads to its stub again. */
void native_link_unbind(struct soft_native *n, struct native_link *link);
/* Does so for all that compare an epoch. */
void native_cache_unbind_epochs(struct soft_native *n);

#endif
