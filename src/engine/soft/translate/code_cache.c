/* The code cache: host code, descriptions of blocks, and the links between them.
 *
 * A region has two parts, one for code and one for what blocks have out of line and seldom run.
 *
 * Code and descriptions are taken from one region after the other. When the last one is full the first is emptied for the blocks
 * to come, then the second, and so on: the oldest code goes, used or not, and hot code is soon there again. So in all lists of
 * blocks, where new ones are put in front, those of the region that is emptied are at the end.
 *
 * When a page's bytes change (pages.c), its blocks go: the links to them lead to their stubs again, and the jump cache forgets
 * them. Code and description stay where they are until their region is emptied, as that code may be on its way still. A region
 * is emptied only when a block is to be made, and from there the guest goes on at the beginning of a block. */
#include "engine/soft/translate/code_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/file.h"
#include "base/host/huge.h"

/* Descriptions, in bytes for 16 bytes of code; a block has some 320 bytes of code, half of them out of line. */
#define META_PER_16 6u
/* How much of a region is for code, so that both parts are full at about the same time. */
#define CODE          17u
#define CODE_AND_COLD 32u
/* The first reference is not 0. */
#define META_START 64u
/* Code, in bytes for each bucket of the hash and for each guest page. */
#define CODE_PER_BUCKET 256u
#define CODE_PER_PAGE   4096u
#define META_RESERVE                                                                               \
    (sizeof(struct native_block) + NATIVE_MAX_LINKS * sizeof(struct native_link) +                 \
     sizeof(struct native_second))

static struct native_block *block_at(const struct soft_native *n, native_ref ref)
{
    return native_at(n, ref);
}

static struct native_link *link_at(const struct soft_native *n, native_ref ref)
{
    return native_at(n, ref);
}

static int map_code(struct soft_native *n, size_t size, struct error *err)
{
    AUTO_CLOSE int fd = huge_create_file("hull-code");
    fd = fd < 0 ? memfd_create("hull-code", MFD_CLOEXEC) : fd;
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        return error_set_errno(err, errno, "reserving memory for translated code");
    }
    n->size = size;
    n->writable = huge_map(size, PROT_READ | PROT_WRITE, fd);
    n->executable = n->writable ? huge_map(size, PROT_READ | PROT_EXEC, fd) : NULL;
    if (!n->executable) {
        return error_set_errno(err, errno, "mapping memory for translated code");
    }
    return 0;
}

/* The hash, and behind it the descriptions. */
static size_t hash_size(const struct soft_native *n)
{
    return BIT(n->hash_bits) * sizeof(*n->hash);
}

int native_cache_init(struct soft_native *n, size_t size, struct error *err)
{
    int rc = map_code(n, size, err);
    if (rc < 0) {
        return rc;
    }
    n->meta_size = META_START + size / 16 * META_PER_16;
    n->hash_bits = native_bits_for(size / CODE_PER_BUCKET);
    n->hash = huge_map(hash_size(n) + n->meta_size, PROT_READ | PROT_WRITE, -1);
    n->meta = n->hash ? (uint8_t *)n->hash + hash_size(n) : NULL;
    bool has_pages = native_pages_init(n, size / CODE_PER_PAGE);
    if (!n->hash || !has_pages) {
        return error_set(err, ENOMEM, "reserving memory for translated code");
    }
    return 0;
}

void native_cache_fini(struct soft_native *n)
{
    if (n->writable) {
        munmap(n->writable, n->size);
    }
    if (n->executable) {
        munmap(n->executable, n->size);
    }
    if (n->hash) {
        munmap(n->hash, hash_size(n) + n->meta_size);
    }
    native_pages_fini(n);
}

static size_t region_code(const struct soft_native *n, uint32_t region)
{
    return n->fixed + region * n->region_size;
}

/* Behind the code of a region's blocks, what they have out of line. */
static size_t region_cold(const struct soft_native *n, uint32_t region)
{
    return region_code(n, region) + align_down(n->region_size / CODE_AND_COLD * CODE, 64);
}

static native_ref region_meta(const struct soft_native *n, uint32_t region)
{
    return (native_ref)(META_START + region * n->region_meta_size);
}

void native_cache_begin(struct soft_native *n)
{
    n->region_size = align_down((n->size - n->fixed) / NATIVE_REGIONS, 64);
    n->region_meta_size = align_down((n->meta_size - META_START) / NATIVE_REGIONS, 64);
    invariant(n->region_size > 3 * NATIVE_CODE_RESERVE && n->region_meta_size > META_RESERVE);
    for (uint32_t i = 0; i < NATIVE_REGIONS; i++) {
        n->region_end[i] = region_meta(n, i);
    }
    n->region = 0;
    n->used = region_code(n, 0);
    n->cold_used = region_cold(n, 0);
    n->meta_used = region_meta(n, 0);
}

static size_t description_size(const struct native_block *block)
{
    return sizeof(*block) + block->link_count * sizeof(block->link[0]) +
           block->is_crossing * sizeof(struct native_second);
}

struct native_block *native_cache_new_block(struct soft_native *n)
{
    struct native_block *block = block_at(n, (native_ref)n->meta_used);
    memset(block, 0, META_RESERVE);
    block->code = (uint32_t)n->used;
    block->cold = (uint32_t)n->cold_used;
    return block;
}

void native_cache_keep_block(struct soft_native *n, struct native_block *block,
                             const uint8_t *code_end, const uint8_t *cold_end)
{
    size_t code_size = (size_t)(code_end - native_code(n, block));
    size_t cold_size = (size_t)(cold_end - native_cold(n, block));
    invariant(code_size <= UINT16_MAX && cold_size <= UINT16_MAX);
    block->code_size = (uint16_t)code_size;
    block->cold_size = (uint16_t)cold_size;
    n->meta_used += description_size(block);
    n->used = block->code + code_size; /* smaller is better than aligned */
    n->cold_used = block->cold + cold_size;
}

static native_ref *bucket_of(const struct soft_native *n, uint64_t gpa, uint64_t address,
                             uint32_t mode)
{
    uint64_t mixed = (gpa ^ (address >> 12 << 20) ^ ((uint64_t)mode << 48)) * 0x9e3779b97f4a7c15ull;
    return &n->hash[mixed >> (64 - n->hash_bits)];
}

struct native_block *native_cache_find(const struct soft_native *n, uint64_t gpa, uint64_t address,
                                       uint32_t mode, uint64_t second_gpa)
{
    for (native_ref ref = *bucket_of(n, gpa, address, mode); ref;) {
        struct native_block *block = block_at(n, ref);
        if (block->address == address && block->gpa == gpa && block->mode == mode &&
            (likely(!block->is_crossing) || second_gpa == NATIVE_SECOND_ANY ||
             native_second(block)->gpa == second_gpa)) {
            return block;
        }
        ref = block->hash_next;
    }
    return NULL;
}

static void note_begin(struct soft_native *n, const struct native_block *block)
{
    size_t bit = native_begins_bit(block->gpa);
    n->begins[bit / 64] |= BIT(bit % 64);
}

void native_cache_add(struct soft_native *n, struct native_block *block)
{
    note_begin(n, block);
    native_ref *bucket = bucket_of(n, block->gpa, block->address, block->mode);
    block->hash_next = *bucket;
    *bucket = native_ref_of(n, block);
}

void native_link_bind(struct soft_native *n, struct native_link *link, struct native_block *target)
{
    bool is_saved = !link->with_flags || (link->is_saved && target->saves_first);
    emit_bind(native_link_place(n, link),
              is_saved ? native_entry_saved(n, target) : native_entry(n, target));
    target->is_landing |= link->is_landing;
    link->target = native_ref_of(n, target);
    link->next = target->incoming;
    link->from = native_ref_of(n, &target->incoming);
    if (link->next) {
        link_at(n, link->next)->from = native_ref_of(n, &link->next);
    }
    target->incoming = native_ref_of(n, link);
}

/* Out of its target's list, as far as it is in one. */
static void unlist(struct soft_native *n, struct native_link *link)
{
    if (!link->target) {
        return;
    }
    *(native_ref *)native_at(n, link->from) = link->next;
    if (link->next) {
        link_at(n, link->next)->from = link->from;
    }
    link->target = link->next = link->from = 0;
}

void native_link_unbind(struct soft_native *n, struct native_link *link)
{
    unlist(n, link);
    emit_bind(native_link_place(n, link), native_link_stub(n, link));
    uint8_t *epoch = native_link_epoch(n, link);
    if (epoch) {
        memset(epoch, 0, sizeof(uint32_t)); /* no epoch is 0 */
    }
}

static void unlink_block(struct soft_native *n, struct native_block *block)
{
    while (block->incoming) {
        native_link_unbind(n, link_at(n, block->incoming));
    }
    for (uint32_t i = 0; i < block->link_count; i++) {
        unlist(n, &block->link[i]);
    }
}

static native_ref end_of_region(const struct soft_native *n, uint32_t region)
{
    return region == n->region ? (native_ref)n->meta_used : n->region_end[region];
}

void native_cache_unbind_epochs(struct soft_native *n)
{
    for (uint32_t region = 0; region < NATIVE_REGIONS; region++) {
        native_ref ref = region_meta(n, region);
        while (ref < end_of_region(n, region)) {
            struct native_block *block = block_at(n, ref);
            for (uint32_t i = 0; i < block->link_count; i++) {
                if (block->link[i].epoch_before) {
                    native_link_unbind(n, &block->link[i]);
                }
            }
            ref += (native_ref)description_size(block);
        }
    }
}

static void forget_jump(struct soft_vcpu *v, size_t index)
{
    v->native_jump_block[index] = 0;
    v->native_jump[index].tag = 0; /* no tag of any mode: epochs begin with 1 */
}

/* A shared block may be in the jump cache by several addresses. */
static void forget_jumps(struct soft_vcpu *v, const struct native_block *block)
{
    uint64_t rip = block->address & ~NATIVE_BASE_MASK;
    uint32_t first = block->jump_page, last = block->jump_page;
    if (block->jump_count == NATIVE_JUMP_MANY) {
        first = 0;
        last = native_jump_page(UINT64_MAX);
    }
    for (uint32_t page = first; page <= last && block->jump_count; page++) {
        uint64_t at = rip | (uint64_t)page << GUEST_PAGE_SHIFT;
        size_t index = native_jump_index(at, block->mode);
        for (size_t way = 0; way < NATIVE_JUMP_WAYS; way++) {
            if (v->native_jump_block[index ^ way] == native_ref_of(v->native, block)) {
                forget_jump(v, index ^ way);
            }
        }
    }
}

void native_drop_block(struct soft_vcpu *v, struct native_block *block)
{
    struct soft_native *n = v->native;
    /* Calls that are under way may come back to the block's stubs, whatever goes until then. */
    for (uint32_t i = 0; i < block->link_count; i++) {
        if (block->link[i].target) {
            native_link_unbind(n, &block->link[i]);
        }
    }
    unlink_block(n, block);
    forget_jumps(v, block);
    if (block->is_landing) {
        native_forget_calls(v, (enum soft_tlb_mode)(block->mode & NATIVE_MODE_TLB));
    }
    native_ref ref = native_ref_of(n, block);
    native_ref *at = bucket_of(n, block->gpa, block->address, block->mode);
    while (*at && *at != ref) {
        at = &block_at(n, *at)->hash_next;
    }
    if (*at) {
        *at = block->hash_next;
    }
}

/* Out of the hash, with what is within 'gone' as well and thus behind it. */
static void cut_bucket(struct soft_native *n, const struct native_block *block,
                       const struct native_range *gone)
{
    native_ref *at = bucket_of(n, block->gpa, block->address, block->mode);
    while (*at && !native_is_within(gone, *at)) {
        at = &block_at(n, *at)->hash_next;
    }
    *at = 0;
}

static void note_all_begins(struct soft_native *n)
{
    memset(n->begins, 0, sizeof(n->begins));
    for (uint32_t region = 0; region < NATIVE_REGIONS; region++) {
        for (native_ref ref = region_meta(n, region); ref < end_of_region(n, region);) {
            const struct native_block *block = block_at(n, ref);
            note_begin(n, block);
            ref += (native_ref)description_size(block);
        }
    }
}

/* The next region, which is the oldest, is empty and the one that is filled. */
static void begin_region(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    n->region_end[n->region] = (native_ref)n->meta_used;
    n->region = (n->region + 1) % NATIVE_REGIONS;
    n->used = region_code(n, n->region);
    n->cold_used = region_cold(n, n->region);
    n->meta_used = region_meta(n, n->region);
    native_window_sites_empty(n);
    struct native_range gone = {region_meta(n, n->region), n->region_end[n->region]};
    if (gone.start == gone.end) {
        return;
    }
    n->cut++;
    for (native_ref ref = gone.start; ref < gone.end;) {
        struct native_block *block = block_at(n, ref);
        unlink_block(n, block);
        cut_bucket(n, block, &gone);
        native_cut_pages(n, block, &gone);
        ref += (native_ref)description_size(block);
    }
    for (size_t i = 0; i < NATIVE_JUMP_SIZE; i++) {
        native_ref block = v->native_jump_block[i];
        if (block && native_is_within(&gone, block)) {
            forget_jump(v, i);
        }
    }
    for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
        native_forget_calls(v, (enum soft_tlb_mode)mode);
    }
    note_all_begins(n);
    n->was_cut = true;
    v->stats.code_cache_flushes++;
}

/* Huge pages for what is used all the time: the vCPU, the hash, and code. What is out of line and descriptions have parts that stay
 * empty when their region is full, which would take memory. Not sooner, as a guest that has hardly begun would wait for them. */
#define BLOCKS_UNTIL_HUGE 1024u
static void begin_huge(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    n->is_huge = true;
    huge_begin((uint8_t *)v - NATIVE_STACK_SIZE, NATIVE_VCPU_MEMORY, NATIVE_VCPU_MEMORY);
    size_t hash = MIN(align_up(hash_size(n), HUGE_PAGE_SIZE), hash_size(n) + n->meta_size);
    huge_begin(n->hash, hash, hash);
    for (uint32_t region = 0; region < NATIVE_REGIONS; region++) {
        size_t start = align_up(region_code(n, region), HUGE_PAGE_SIZE);
        size_t end = align_down(region_cold(n, region), HUGE_PAGE_SIZE);
        if (start < end) {
            size_t touched = region == n->region && n->used > start ? n->used - start : 0;
            huge_begin(n->writable + start, end - start, touched);
            huge_begin(n->executable + start, end - start, touched);
        }
    }
}

void native_cache_reserve(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    if (unlikely(!n->is_huge && v->stats.blocks_translated >= BLOCKS_UNTIL_HUGE)) {
        begin_huge(v);
    }
    size_t meta_end = region_meta(n, n->region) + n->region_meta_size;
    size_t code_end = region_cold(n, n->region);
    size_t cold_end = region_code(n, n->region) + n->region_size;
    if (n->used + NATIVE_CODE_RESERVE > code_end || n->cold_used + NATIVE_CODE_RESERVE > cold_end ||
        n->meta_used + META_RESERVE > meta_end) {
        begin_region(v);
    }
    /* More than the one that is needed, so that this is rare. */
    if (unlikely(!native_has_free_pages(n))) {
        while (native_free_pages(n) < n->page_count / 16) {
            begin_region(v);
        }
    }
}
