/* Finding translated blocks, linking them, and what stubs call.
 *
 * Each vCPU has blocks of its own, so nothing here takes a lock. Blocks are found by RIP and mode in the jump cache
 * (valid for one epoch of the half of the address space), then by guest physical address. A jump within a page is linked to
 * its target for good: both are of the same page. One to another page, or to an instruction that may end there, compares the
 * epoch first, which changes whenever that page may have moved. code_cache.c and pages.c say when blocks go. */
#include "engine/soft/translate/block_table.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "base/host/log.h"
#include "engine/soft/block.h"
#include "engine/soft/icount.h"
#include "engine/soft/mmu.h"
#include "engine/soft/trace.h"
#include "engine/soft/translate/analyze.h"
#include "engine/soft/translate/code_cache.h"
#include "engine/soft/translate/host_cpu.h"
#include "engine/soft/translate/lockstep.h"
#include "engine/soft/translate/verify.h"
#include "engine/soft/windows.h"

#define MXCSR_MASKS 0x1f80u
#define X87_MASKS   0x3fu
#define X87_PENDING 0x80u

static __thread struct soft_vcpu *running;

int soft_native_init(struct soft_vcpu *v, struct error *err)
{
    native_rows_init();
    struct soft_native *n = calloc(1, sizeof(*n));
    if (!n) {
        return error_set(err, ENOMEM, "reserving memory for translated code");
    }
    v->native = n;
    int rc = native_cache_init(n, v->vm->code_cache_size, err);
    if (rc < 0) {
        return rc;
    }
    rc = soft_windows_init(v, err);
    rc = rc < 0 || !v->windows ? rc : native_window_sites_init(n, err);
    if (rc < 0) {
        return rc;
    }
    n->source = calloc(1, sizeof(*n->source));
    n->verifier = v->vm->verifies ? native_verifier_create(NATIVE_CODE_RESERVE) : NULL;
    if (!n->source || (v->vm->verifies && !n->verifier)) {
        return error_set(err, ENOMEM, "reserving memory for translated code");
    }
    n->first_time_rip = NATIVE_NOWHERE;
    n->epoch[0] = n->epoch[1] = n->last_epoch = 1;
    v->native_epoch[0] = v->native_epoch[1] = 1;
    unsigned eax, ebx, ecx = 0, edx; /* clang 14 has no name for it */
    n->has_xsave = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_OSXSAVE;
    n->has_bmi2 = __builtin_cpu_supports("bmi2");
    n->has_fast_bextr = __builtin_cpu_supports("bmi") && __builtin_cpu_is("amd");
    n->fits_jumps = v->vm->jumps == SOFT_JUMPS_AUTO ? native_host_has_jump_erratum()
                                                    : v->vm->jumps == SOFT_JUMPS_FIT;
    v->native_host_mxcsr = MXCSR_MASKS;
    native_make_stubs(v);
    for (size_t i = 0; i < ARRAY_COUNT(n->no_calls); i++) {
        n->no_calls[i].code = native_executable(n, n->no_call);
    }
    for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
        native_forget_calls(v, (enum soft_tlb_mode)mode);
    }
    native_cache_begin(n);
    return v->vm->is_lockstep ? soft_lockstep_init(v, err) : 0;
}

void soft_native_fini(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    if (!n) {
        return;
    }
    native_cache_fini(n);
    native_window_sites_fini(n);
    soft_windows_fini(v);
    free(n->source);
    native_verifier_destroy(n->verifier);
    soft_lockstep_fini(v);
    free(n);
    v->native = NULL;
}

static bool is_wide_segment(const struct x86_segment *segment)
{
    uint16_t kind = X86_SEGMENT_UNUSABLE | X86_SEGMENT_CODE | X86_SEGMENT_DOWN;
    return segment->limit == UINT32_MAX &&
           (segment->attributes & (kind | X86_SEGMENT_WRITABLE)) == X86_SEGMENT_WRITABLE;
}

/* NATIVE_MODE_32 and what belongs to it. 16-bit code is the interpreter's, as are segments with other limits. */
static uint32_t mode_of_segments(const struct soft_vcpu *v)
{
    const uint8_t data = 1u << X86_SS | 1u << X86_DS | 1u << X86_ES;
    if (v->code_size != X86_CODE_32 || v->stack_bytes != 4 || ~v->flat_write & data ||
        ~v->flat_read & (data | 1u << X86_CS)) {
        return NATIVE_MODE_NONE;
    }
    return NATIVE_MODE_32 | (is_wide_segment(&v->segment[X86_FS]) ? NATIVE_MODE_FS : 0) |
           (is_wide_segment(&v->segment[X86_GS]) ? NATIVE_MODE_GS : 0);
}

static uint32_t current_mode(struct soft_vcpu *v)
{
    /* Of the four privileges only 0 and 3 are told apart by the TLB that a mode names. */
    if (v->align_check || v->cpl == 1 || v->cpl == 2) {
        return NATIVE_MODE_NONE;
    }
    uint32_t mode = (uint32_t)(v->tlb - v->tlbs);
    if (mode == SOFT_TLB_USER && v->code_size == X86_CODE_64 &&
        v->window_state != SOFT_WINDOWS_OFF &&
        (v->window_state == SOFT_WINDOWS_ON || soft_windows_prepare(v))) {
        mode |= NATIVE_MODE_WINDOWS | (v->windows_own_blocks ? NATIVE_MODE_OWN : 0);
    } else if (v->code_size != X86_CODE_64) {
        uint32_t mode_32 = mode_of_segments(v);
        if (mode_32 == NATIVE_MODE_NONE) {
            return NATIVE_MODE_NONE;
        }
        mode |= mode_32;
    } else if (mode != SOFT_TLB_USER && !(v->rip >> 63)) {
        mode |= NATIVE_MODE_LOW;
    }
    bool is_masked = (v->mxcsr & MXCSR_MASKS) == MXCSR_MASKS;
    if (is_masked && !(v->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (v->cr4 & X86_CR4_OSFXSR)) {
        mode |= NATIVE_MODE_SSE;
    }
    if (is_masked && !(v->cr0 & X86_CR0_TS) && (v->cr4 & X86_CR4_OSXSAVE) && (~v->xcr0 & 6) == 0) {
        mode |= NATIVE_MODE_AVX;
    }
    uint16_t control = le16_get(v->fx), status = le16_get(v->fx + 2);
    if ((control & X87_MASKS) == X87_MASKS && !(status & X87_PENDING) &&
        !(v->cr0 & (X86_CR0_EM | X86_CR0_TS)) && v->native->has_xsave) {
        mode |= NATIVE_MODE_X87;
    }
    if (v->cr4 & X86_CR4_SMAP) {
        mode |= NATIVE_MODE_SMAP;
    }
    return mode;
}

/* Only code in its usual half is found by address. */
static bool has_usual_address(uint64_t rip, uint32_t mode)
{
    return (rip >> 63) == native_is_upper(mode);
}

static void set_mode(struct soft_vcpu *v, uint32_t mode)
{
    v->native_mode = mode;
    native_use_tag(v, mode);
}

static void use_epoch(struct soft_vcpu *v, bool upper_half, uint64_t epoch)
{
    v->native->epoch[upper_half] = epoch;
    v->native_epoch[upper_half] = (uint32_t)epoch;
    if (v->native_mode != NATIVE_MODE_NONE) {
        native_use_tag(v, v->native_mode);
    }
}

void soft_native_forget_addresses(struct soft_vcpu *v, bool upper_half)
{
    struct soft_native *n = v->native;
    if (!n) {
        return;
    }
    v->stats.code_forgotten++;
    if (unlikely((uint32_t)++n->last_epoch == 0)) {
        native_cache_unbind_epochs(n); /* which compare 32 bits */
        n->last_epoch++;
        use_epoch(v, !upper_half, n->last_epoch++);
    }
    use_epoch(v, upper_half, n->last_epoch);
}

uint64_t soft_native_epoch(const struct soft_vcpu *v)
{
    return v->native ? v->native->epoch[0] : 0;
}

void soft_native_set_epoch(struct soft_vcpu *v, uint64_t epoch)
{
    /* Links must not meet the same 32 bits again. */
    if (v->native && epoch >> 32 == v->native->last_epoch >> 32 &&
        epoch >= v->native->oldest_epoch) {
        use_epoch(v, false, epoch);
    }
}

void native_note_linear_page(struct soft_native *n, uint64_t rip)
{
    size_t bit = native_linear_page_bit(rip);
    uint64_t *word = &n->linear_pages[bit / 64];
    n->linear_page_count += !(*word & BIT(bit % 64));
    *word |= BIT(bit % 64);
}

/* Room for a few linear pages more. */
static void reserve_linear_pages(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    if (unlikely(n->linear_page_count >= NATIVE_LINEAR_MOST)) {
        memset(n->linear_pages, 0, sizeof(n->linear_pages));
        n->linear_page_count = 0;
        soft_native_forget_addresses(v, false);
        soft_native_forget_addresses(v, true);
        n->oldest_epoch = n->epoch[0];
    }
}

void soft_native_forget_page(struct soft_vcpu *v, uint64_t gva)
{
    if (v->native && native_has_linear_page(v->native, gva)) {
        soft_native_forget_addresses(v, gva >> 63);
    }
}

/* Code that the verifier refuses must not run, and nothing sensible can be done instead: the translator is wrong. */
static void verify(const struct soft_vcpu *v, const struct native_block *block)
{
    struct error err;
    if (unlikely(v->native->verifier != NULL) &&
        native_verify(v->native->verifier, v, block, &err) < 0) {
        log_error("%s", err.text);
        if (v->vm->trace) {
            soft_trace_note(v->vm->trace, v, err.text);
        }
        invariant(!"translated code passes the verifier");
    }
}

/* New contents of a page whose code changes: is what runs there for the first time to be the interpreter's? So if most of what was
 * there before ran once; and now and then, to find that out. */
#define CONTENTS_UNTIL_TRIAL 2u
/* Enough has run again. */
#define ENOUGH_SECONDS 4u
/* More blocks than a page has as a rule: some have lost their places in the table of what has been seen, again and again. */
#define MOST_FIRSTS 256u

static void begin_contents(struct native_changing *page, uint32_t generation)
{
    if (page->firsts) {
        page->runs_once = page->seconds * 2 <= page->firsts;
    }
    page->generation = generation;
    page->firsts = page->seconds = 0;
    page->waits = page->runs_once || ++page->contents % CONTENTS_UNTIL_TRIAL == 0;
}

/* Code that runs once is the interpreter's, which needs a third of the time that a translation takes. Whether it is such can be told
 * in pages alone whose code has been overwritten before. (In others two of three blocks run again, and nothing is gained.) */
static bool is_first_time(struct soft_vcpu *v, const struct soft_page *guest, uint64_t gpa)
{
    struct soft_native *n = v->native;
    uint32_t generation =
        guest->slot->is_readonly ? 0 : atomic_load(&guest->slot->code_generation[guest->index]);
    if (!generation || v->lockstep || v->vm->icount.is_on || v->vm->verifies ||
        v->vm->has_exact_flags) {
        return false; /* tests are to see all code translated */
    }
    uint32_t number = (uint32_t)(gpa >> GUEST_PAGE_SHIFT);
    struct native_changing *page = &n->changing[number % NATIVE_CHANGING_SIZE];
    if (page->number != number) {
        *page = (struct native_changing){.number = number};
    }
    if (page->generation != generation) {
        begin_contents(page, generation);
    }
    if (!page->waits) {
        return false;
    }
    uint64_t mixed = (gpa ^ generation * 0xff51afd7ed558ccdull) * 0x9e3779b97f4a7c15ull;
    uint32_t *seen = &n->seen[mixed >> (64 - NATIVE_SEEN_BITS)];
    if (*seen == (uint32_t)mixed) {
        page->seconds++;
        page->waits = page->seconds < ENOUGH_SECONDS || page->seconds * 2 <= page->firsts;
        return false;
    }
    *seen = (uint32_t)mixed;
    page->firsts++;
    page->waits = page->firsts < MOST_FIRSTS;
    n->first_time_rip = v->rip;
    return true;
}

static struct native_block *find_or_translate(struct soft_vcpu *v, uint32_t mode, bool may_wait)
{
    struct soft_native *n = v->native;
    uint64_t rip = v->rip;
    v->op = NULL;
    v->block = NULL;
    reserve_linear_pages(v);
    uint64_t gpa = soft_fetch_translate(v, rip);
    uint64_t address = native_address(v, rip, mode);
    struct native_block *block = native_cache_find(n, gpa, address, mode, NATIVE_SECOND_ANY);
    if (unlikely(block && block->is_crossing)) {
        /* That fetch may drop blocks, so only what is found after it counts. */
        uint64_t second_gpa = NATIVE_SECOND_NONE;
        (void)native_find_second(v, rip, mode, &second_gpa); /* none: stays as it is */
        block = native_cache_find(n, gpa, address, mode, second_gpa);
    }
    native_note_linear_page(n, rip);
    if (block) {
        return block;
    }
    native_cache_reserve(v);
    uint64_t page_gpa = align_down(gpa, GUEST_PAGE_SIZE);
    struct soft_page guest = soft_page_find(v->vm, page_gpa), second = {0};
    if (!guest.slot || (may_wait && is_first_time(v, &guest, gpa))) {
        return NULL;
    }
    uint64_t second_gpa;
    if (native_seems_cut(v->vm, rip, mode, guest.hva) && !v->lockstep &&
        native_find_second(v, rip, mode, &second_gpa)) {
        second = soft_page_find(v->vm, second_gpa);
    }
    struct native_page *page = native_begin_page(v, page_gpa, &guest), *second_page = NULL;
    n->source->marks = soft_page_granules(&guest);
    n->source->second_page = NULL;
    if (second.slot) {
        second_page = native_begin_page(v, second_gpa, &second);
        n->source->second_marks = soft_page_granules(&second);
        n->source->second_page = second.hva;
    }
    block = native_translate(v, rip, gpa, mode, guest.hva);
    if (unlikely(v->vm->trace != NULL)) {
        soft_trace_block(v->vm->trace, v, block, n->source);
    }
    verify(v, block);
    v->stats.blocks_translated++;
    native_cache_add(n, block);
    native_page_add(n, page, block, n->source->granules);
    if (block->is_crossing) {
        native_page_add_second(n, second_page, block, n->source->second_granules);
    }
    return block;
}

static bool is_jump_live(const struct soft_native *n, const struct soft_native_jump *jump)
{
    uint32_t mode = (uint32_t)(jump->tag & (BIT(NATIVE_MODE_BITS) - 1));
    return jump->tag && jump->tag == native_tag(n, mode);
}

static void move_jump(struct soft_vcpu *v, size_t to, size_t from)
{
    v->native_jump[to] = v->native_jump[from];
    v->native_jump_block[to] = v->native_jump_block[from];
}

/* The place of 'index' for another target: what is there goes to one beside it. */
static void vacate_jump(struct soft_vcpu *v, size_t index, uint64_t rip)
{
    struct soft_native *n = v->native;
    const struct soft_native_jump *first = &v->native_jump[index];
    if (!is_jump_live(n, first) || first->rip == rip) {
        return;
    }
    size_t way = 1;
    while (way < NATIVE_JUMP_WAYS && is_jump_live(n, &v->native_jump[index ^ way])) {
        way++;
    }
    if (way == NATIVE_JUMP_WAYS) {
        way = 1 + n->jump_turn++ % (NATIVE_JUMP_WAYS - 1);
    }
    move_jump(v, index ^ way, index);
}

static void put_first(struct soft_vcpu *v, size_t at, size_t index)
{
    struct soft_native_jump first = v->native_jump[index];
    uint32_t block = v->native_jump_block[index];
    move_jump(v, index, at);
    v->native_jump[at] = first;
    v->native_jump_block[at] = block;
}

/* The jump cache leads from RIP to 'block' now. */
static void keep_jump(struct soft_vcpu *v, struct native_block *block, uint32_t mode)
{
    uint8_t page = native_jump_page(v->rip);
    bool is_other = block->jump_count && block->jump_page != page;
    block->jump_count = is_other ? NATIVE_JUMP_MANY : MAX(block->jump_count, 1);
    block->jump_page = page;
    size_t index = native_jump_index(v->rip, mode);
    vacate_jump(v, index, v->rip);
    v->native_jump[index] = (struct soft_native_jump){
        .rip = v->rip,
        .tag = native_tag(v->native, mode),
        .code = native_executable(v->native, native_entry_saved(v->native, block)),
        .flags_code = native_executable(v->native, native_entry(v->native, block)),
    };
    v->native_jump_block[index] = native_ref_of(v->native, block);
}

/* The mode of the block that is to be run at RIP. */
static uint32_t begin_mode(struct soft_vcpu *v)
{
    uint32_t mode = current_mode(v);
    if (mode == NATIVE_MODE_NONE) {
        v->native_mode = mode;
        return mode;
    }
    set_mode(v, mode);
    v->native_page = native_is_shared(v, mode) ? v->rip >> GUEST_PAGE_SHIFT : 0;
    return mode;
}

/* The block at RIP in the mode that has been begun, or NULL: the interpreter's turn. */
static struct native_block *find_in_mode(struct soft_vcpu *v, uint32_t mode)
{
    if (mode == NATIVE_MODE_NONE) {
        return NULL;
    }
    const struct soft_native_jump *jump = native_find_jump(v, v->rip, mode);
    if (jump) {
        size_t at = (size_t)(jump - v->native_jump);
        struct native_block *block = native_at(v->native, v->native_jump_block[at]);
        put_first(v, at, native_jump_index(v->rip, mode));
        return block;
    }
    struct native_block *block = find_or_translate(v, mode, true);
    if (block && has_usual_address(v->rip, mode) && !v->lockstep) {
        keep_jump(v, block, mode);
    }
    return block;
}

static struct native_block *find_block(struct soft_vcpu *v)
{
    return find_in_mode(v, begin_mode(v));
}

static const uint8_t *leave(const struct soft_vcpu *v)
{
    return native_executable(v->native, v->native->leave);
}

/* Where to go on with 'block'. */
static const uint8_t *enter_block(struct soft_vcpu *v, const struct native_block *block)
{
    const uint8_t *code = native_executable(v->native, native_entry_saved(v->native, block));
    if (unlikely(v->lockstep != NULL)) {
        soft_lockstep_begin(v, block, code);
    }
    return code;
}

static const uint8_t *go_on(struct soft_vcpu *v)
{
    if (unlikely(atomic_load_explicit(&v->requests, memory_order_relaxed))) {
        return leave(v);
    }
    struct native_block *block = find_block(v);
    return block ? enter_block(v, block) : leave(v);
}

/* Runs the instruction at RIP on the interpreter, or its whole block; 'reason' is for the trace. */
static void interpret(struct soft_vcpu *v, bool is_single, const char *reason)
{
    if (unlikely(v->vm->trace != NULL)) {
        soft_trace_interpreted(v->vm->trace, v, reason);
    }
    uint64_t rip = v->rip;
    soft_block_enter(v, soft_block_find(v, is_single));
    soft_icount_step(v, rip);
    v->op = NULL;
    v->block = NULL;
}

static void interpret_one(struct soft_vcpu *v, const char *reason)
{
    interpret(v, true, reason);
}

/* At the beginning of each function that stubs call with all state put away. */
static inline void begin_c(struct soft_vcpu *v)
{
    if (unlikely(v->native_x87_is_saved)) {
        native_x87_saved(v);
    }
}

/* Translated code has left for C code at 'rip'. NULL, or where to run it again. */
static const uint8_t *check_lockstep(struct soft_vcpu *v, uint64_t rip, bool is_block_end)
{
    if (likely(v->lockstep == NULL)) {
        return NULL;
    }
    return soft_lockstep_end(v, rip, is_block_end);
}

const uint8_t *native_on_interpret(struct soft_vcpu *v, const struct native_site *site)
{
    begin_c(v);
    struct soft_native *n = v->native;
    const uint8_t *again = check_lockstep(v, site->rip, false);
    if (unlikely(again != NULL)) {
        return again;
    }
    uint64_t rip = site->rip + native_base(v);
    uint64_t next = site->next ? site->next + native_base(v) : 0;
    uint32_t mode = v->native_mode;
    v->rip = rip;
    if (site->next == NATIVE_SITE_UNGROUPED) {
        bool is_same_mode = !(mode & NATIVE_MODE_WINDOWS) || v->window_state == SOFT_WINDOWS_ON;
        if (likely(!v->vm->icount.is_on && !v->lockstep && is_same_mode)) {
            struct native_block *block = find_or_translate(v, mode | NATIVE_MODE_UNGROUPED, false);
            if (likely(block != NULL)) {
                if (has_usual_address(rip, mode)) { /* find_ungrouped looks there */
                    keep_jump(v, block, mode | NATIVE_MODE_UNGROUPED);
                }
                return native_executable(n, native_entry_saved(n, block));
            }
        }
        next = 0;
    }
    n->was_cut = false;
    v->stats.native_misses++;
    /* No way back behind the instruction: the block ends, as the interpreter's does. Not so where the page ends within the
     * instruction. */
    bool is_whole = !next && !v->lockstep && !v->vm->icount.is_on &&
                    (rip & (GUEST_PAGE_SIZE - 1)) <= GUEST_PAGE_SIZE - X86_INSN_MAX_LENGTH;
    do {
        interpret(v, !is_whole, NULL);
    } while (v->rip - rip < next - rip && v->rip != rip && next && !n->was_cut &&
             !atomic_load_explicit(&v->requests, memory_order_relaxed));
    if (likely(v->rip == next && next && !n->was_cut && current_mode(v) == mode &&
               !atomic_load_explicit(&v->requests, memory_order_relaxed))) {
        if (unlikely(v->lockstep != NULL)) {
            soft_lockstep_begin(v, NULL, (const uint8_t *)(site + 1));
        }
        return (const uint8_t *)(site + 1);
    }
    return go_on(v);
}

const uint8_t *native_on_exit_at(struct soft_vcpu *v, const struct native_site *site)
{
    begin_c(v);
    const uint8_t *again = check_lockstep(v, site->rip, false);
    v->rip = site->rip + native_base(v);
    return again ? again : leave(v);
}

uint32_t native_on_fill(struct soft_vcpu *v, uint64_t gva, uint32_t access)
{
    uint32_t size = access & (NATIVE_FILL_ONCE - 1);
    bool is_crossing = (gva & (GUEST_PAGE_SIZE - 1)) + size > GUEST_PAGE_SIZE;
    return !is_crossing &&
           soft_tlb_load(v, gva, access & NATIVE_FILL_WRITE ? X86_ACCESS_WRITE : X86_ACCESS_READ);
}

const uint8_t *native_on_fault(struct soft_vcpu *v, void *unused)
{
    begin_c(v);
    const uint8_t *again = check_lockstep(v, v->native_fault_rip, false);
    if (unlikely(again != NULL)) {
        return again;
    }
    v->rip = v->native_fault_rip;
    v->native_budget += (int32_t)v->native_fault_unrun;
    interpret_one(v, "the host's CPU faulted");
    return go_on(v);
}

/* The block at RIP that the link led to before its epoch ended, or NULL: libraries stay where they are from each other, whatever process
 * they are in. */
static struct native_block *find_linked(struct soft_vcpu *v, const struct native_link *link,
                                        uint32_t mode)
{
    struct soft_native *n = v->native;
    if (!link->target || v->lockstep || mode == NATIVE_MODE_NONE) {
        return NULL;
    }
    v->op = NULL;
    v->block = NULL;
    reserve_linear_pages(v);
    uint64_t gpa = soft_fetch_translate(v, v->rip);
    /* That fetch may drop blocks. */
    if (n->was_cut || !link->target) {
        return NULL;
    }
    struct native_block *block = native_at(n, link->target);
    if (block->gpa != gpa || block->mode != mode || block->is_crossing ||
        block->address != native_address(v, v->rip, mode)) {
        return NULL;
    }
    native_note_linear_page(n, v->rip);
    return block;
}

const uint8_t *native_on_link(struct soft_vcpu *v, uint64_t link_ref)
{
    begin_c(v);
    struct soft_native *n = v->native;
    struct native_link *link = native_at(n, (native_ref)link_ref);
    const struct native_block *source = native_link_source(link);
    uint64_t rip = native_link_rip(v, link);
    uint32_t mode = v->native_mode;
    const uint8_t *again = check_lockstep(v, rip, true);
    if (unlikely(again != NULL)) {
        return again;
    }
    uint64_t base = native_base(v); /* of the source, not of what is found next */
    v->rip = rip + base;
    if (atomic_load_explicit(&v->requests, memory_order_relaxed)) {
        return leave(v);
    }
    n->was_cut = false;
    uint32_t found_mode = begin_mode(v);
    struct native_block *block = find_linked(v, link, found_mode);
    block = block ? block : find_in_mode(v, found_mode);
    if (!block) {
        return leave(v);
    }
    if (n->was_cut || v->lockstep) {
        return enter_block(v, block); /* the link may be gone */
    }
    /* Without an epoch to compare, the two blocks must be of one page for good. */
    bool is_same_page = (source->gpa ^ block->gpa) < GUEST_PAGE_SIZE &&
                        (native_block_rip(v, source) ^ rip) < GUEST_PAGE_SIZE &&
                        !block->is_crossing;
    uint8_t *epoch_place = native_link_epoch(n, link), *base_place = native_link_base(n, link);
    bool is_safe = epoch_place ? has_usual_address(v->rip, mode) && !(base >> 63) : is_same_page;
    if (link->target && link->target != native_ref_of(n, block)) {
        native_link_unbind(n, link);
    }
    const uint8_t *code = native_executable(n, native_entry_saved(n, block));
    if (!is_safe || block->mode != mode) {
        return code;
    }
    if (epoch_place) {
        uint32_t epoch = v->native_epoch[v->rip >> 63];
        memcpy(epoch_place, &epoch, sizeof(epoch));
    }
    if (base_place) {
        uint32_t compared = (uint32_t)(base >> GUEST_PAGE_SHIFT);
        memcpy(base_place, &compared, sizeof(compared));
    }
    if (!link->target) {
        native_link_bind(n, link, block);
    }
    verify(v, source);
    return code;
}

const uint8_t *native_on_indirect(struct soft_vcpu *v, const struct native_site *site)
{
    begin_c(v);
    v->native_jump_patience = NATIVE_JUMP_PATIENCE;
    bool is_canonical = x86_is_canonical(v->native_target);
    const uint8_t *again = is_canonical ? check_lockstep(v, v->native_target, true) : NULL;
    if (unlikely(again != NULL)) {
        return again;
    }
    v->rip = v->native_target;
    if (unlikely(!is_canonical)) {
        /* The instruction itself faults: as if it had not begun. */
        v->gpr[X86_RSP] -= site->next;
        v->rip = site->rip + native_base(v);
        v->native_budget++;
        interpret_one(v, "its target is not canonical");
    }
    return go_on(v);
}

const uint8_t *native_on_no_call(struct soft_vcpu *v, void *unused)
{
    (void)unused;
    begin_c(v);
    v->rip = 0;
    return go_on(v);
}

const uint8_t *native_on_resume(struct soft_vcpu *v, void *unused)
{
    (void)unused;
    begin_c(v);
    return go_on(v);
}

bool soft_native_run(struct soft_vcpu *v)
{
    struct soft_native *n = v->native;
    if (n->first_time_rip == v->rip) {
        n->first_time_rip = NATIVE_NOWHERE;
        return false;
    }
    struct native_block *block = find_block(v);
    n->first_time_rip = NATIVE_NOWHERE;
    if (!block) {
        return false;
    }
    void (*enter)(struct soft_vcpu *, const uint8_t *);
    const uint8_t *code = native_executable(n, n->enter);
    memcpy(&enter, &code, sizeof(enter));
    running = v;
    enter(v, enter_block(v, block));
    return true;
}

uintptr_t soft_native_access_fault(uintptr_t pc, uintptr_t address, bool is_page_fault,
                                   bool is_write)
{
    struct soft_vcpu *v = running;
    if (!v || !v->native || !v->windows ||
        pc - (uintptr_t)v->native->executable >= v->native->size ||
        !(v->native_mode & NATIVE_MODE_WINDOWS)) {
        return 0;
    }
    struct soft_native *n = v->native;
    const struct native_window_site *site =
        native_find_window_site(n, (uint32_t)(pc - (uintptr_t)n->executable));
    if (!site) {
        return 0;
    }
    v->native_miss.has_fault = false;
    uint64_t gva, error;
    switch (is_page_fault ? soft_windows_fault(v, address, is_write, &gva, &error)
                          : SOFT_WINDOW_OTHER) {
    case SOFT_WINDOW_RETRY:
        return pc;
    case SOFT_WINDOW_FAULT:
        if (site->may_fault) {
            v->native_miss.has_fault = true;
            v->native_miss.gva = gva;
            v->native_miss.error = (uint32_t)error;
        }
        break;
    default:
        break;
    }
    return (uintptr_t)n->executable + site->cold;
}

uintptr_t soft_native_fault(uintptr_t pc)
{
    const struct soft_vcpu *v = running;
    if (!v || !v->native || pc - (uintptr_t)v->native->executable >= v->native->size) {
        return 0;
    }
    return (uintptr_t)native_executable(v->native, v->native->fault);
}
