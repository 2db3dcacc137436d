/* The soft MMU: TLB misses, page walks, device memory, and writes to pages that hold decoded code.
 *
 * Writers and decoders. Blocks hold the code_generation of their pages and are entered only while it matches. A write
 * entry of a TLB lets its vCPU write without looking, so no page may at the same time be in a write entry and be trusted by
 * a block. All of a page's flags are in one atomic byte:
 *
 *   to install a write entry:  set WRITABLE; install only if CODE was not set in the byte seen.
 *   to decode (block.c):       under code_lock: set CODE; if WRITABLE was set, clear it and make all vCPUs drop their write
 *                              entries (request flag, acknowledged between two blocks or outside of guest code); set READY if
 *                              CODE is still set, else begin again.
 *                              Then read the generation and see that READY is still set. Before bytes are read, set the bits of
 *                              their granules (64 bytes each) in the page's code_granules.
 *   to write without entry:    store; full fence; if CODE is set and a bit of the granules written: raise the generation. Unless
 *                              something has been decoded in the page since the write before, as it will be again: clear
 *                              these bits, raise the generation again. A page that is written often while nothing is decoded
 *                              in it is opened for plain writes: all bits, CODE and READY are cleared between the two raises.
 *
 * A decoder has read the generation before it sets bits; if a writer clears them or READY after that, its second raise comes
 * later still, and the block dies with it. A writer that finds CODE or the bits clear after its store either precedes the
 * marking, whose reader then sees the bytes, or follows another writer's first raise: interpreted blocks look at the
 * generation when they are entered, and translated ones of its own it drops itself.
 *
 * The writer's own block may be hit: its remaining operations are replaced by one that leaves (soft_block_cut). */
#include "engine/soft/mmu.h"

#include <sched.h>
#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/block.h"
#include "engine/soft/breakpoint.h"
#include "engine/soft/memory_access.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/translate/lockstep.h"
#include "engine/soft/translate/native.h"

struct soft_page soft_page_find(struct soft_vm *vm, uint64_t gpa)
{
    const struct guest_slot *slot = guest_memory_slot(vm->vm.config.memory, gpa);
    if (!slot) {
        return (struct soft_page){0};
    }
    uint64_t offset = gpa - slot->gpa;
    return (struct soft_page){
        .slot = slot,
        .index = offset >> GUEST_PAGE_SHIFT,
        .hva = slot->hva + offset,
    };
}

/* Dirty bit of a page that is about to be, or has just been, written. */
static void mark_dirty(struct soft_vm *vm, const struct soft_page *page)
{
    size_t number = (size_t)(page->slot - vm->vm.config.memory->slot);
    _Atomic uint64_t *dirty = atomic_load_explicit(&vm->dirty[number], memory_order_acquire);
    if (dirty) {
        atomic_fetch_or(&dirty[page->index / 64], BIT(page->index % 64));
    }
}

void soft_vm_code_written(struct soft_vm *vm, const struct soft_vcpu *self)
{
    for (size_t i = 0; i < vm->vm.config.vcpu_count; i++) {
        struct soft_vcpu *other = atomic_load(&vm->vcpu[i]);
        if (other && other != self && other->native) {
            soft_request(other, SOFT_REQUEST_CODE);
        }
    }
}

static bool is_one_write_too_many(_Atomic uint32_t *writes, bool *out_first)
{
    uint32_t seen = atomic_load_explicit(writes, memory_order_relaxed);
    *out_first = (seen & SOFT_WRITES_COUNT) == 0;
    if (soft_may_still_write(seen)) {
        /* Others may count at the same time; a few more or less do not matter. */
        atomic_store_explicit(writes, seen + 1, memory_order_relaxed);
        return false;
    }
    seen = seen < 3 * SOFT_WRITES_OPENED ? seen + SOFT_WRITES_OPENED : seen;
    atomic_store_explicit(writes, seen & ~SOFT_WRITES_COUNT, memory_order_relaxed);
    return true;
}

/* 'mask': of the granules that have been written. */
static void written_code(struct soft_vcpu *v, const struct soft_page *page, uint64_t gpa,
                         uint64_t mask)
{
    const struct guest_slot *slot = page->slot;
    _Atomic uint32_t *generation = &slot->code_generation[page->index];
    /* A page that is written as a whole has a new use. */
    bool is_first = false;
    bool opens =
        mask == UINT64_MAX || is_one_write_too_many(&slot->code_writes[page->index], &is_first);
    uint64_t hit = opens ? UINT64_MAX : mask & atomic_load(&slot->code_granules[page->index]);
    if (!hit) {
        /* Another writer may have ended the code, and this vCPU not have heard of it yet. */
        soft_native_written(v, gpa, mask);
        soft_block_cut(v);
        return;
    }
    uint32_t before = atomic_fetch_add(generation, 1), after = before + 1;
    bool was_alone = true;
    if (opens || !is_first) {
        atomic_fetch_and(&slot->code_granules[page->index], ~hit);
        if (opens) {
            atomic_fetch_and(&slot->page_flags[page->index],
                             (uint8_t) ~(GUEST_PAGE_CODE | SOFT_PAGE_CODE_READY));
        }
        was_alone = atomic_fetch_add(generation, 1) == after;
        after++;
    }
    soft_block_cut(v);
    soft_native_written(v, gpa, hit);
    if (was_alone) {
        soft_native_keep_page(v, gpa, before, after);
    }
    soft_vm_code_written(v->vm, v);
}

void soft_written(struct soft_vcpu *v, const struct soft_page *page, uint32_t size)
{
    mark_dirty(v->vm, page);
    if (v->vm->vm.config.vcpu_count > 1) {
        /* Other vCPUs mark code before they read it. */
        atomic_thread_fence(memory_order_seq_cst);
    }
    uint64_t gpa = page->slot->gpa + page->index * GUEST_PAGE_SIZE;
    if (unlikely(atomic_load(&page->slot->page_flags[page->index]) & GUEST_PAGE_CODE)) {
        written_code(v, page, gpa, soft_granules((uintptr_t)page->hva, size));
    } else {
        soft_native_written(v, gpa, UINT64_MAX);
        soft_block_cut(v);
    }
}

static uint64_t paging_read(void *ctx, uint64_t gpa, unsigned size)
{
    struct soft_vcpu *v = ctx;
    struct soft_page page = soft_page_find(v->vm, gpa);
    if (!page.slot) {
        return size == 8 ? UINT64_MAX : UINT32_MAX;
    }
    return size == 8 ? *(volatile soft_u64 *)page.hva : *(volatile soft_u32 *)page.hva;
}

static bool paging_compare_exchange(void *ctx, uint64_t gpa, unsigned size, uint64_t expected,
                                    uint64_t desired)
{
    struct soft_vcpu *v = ctx;
    struct soft_page page = soft_page_find(v->vm, gpa);
    if (!page.slot || page.slot->is_readonly) {
        return true;
    }
    bool done;
    if (size == 8) {
        done = __sync_bool_compare_and_swap((uint64_t *)page.hva, expected, desired);
    } else {
        done = __sync_bool_compare_and_swap((uint32_t *)page.hva, (uint32_t)expected,
                                            (uint32_t)desired);
    }
    soft_written(v, &page, size);
    return done;
}

struct x86_paging_memory soft_paging_memory(struct soft_vcpu *v)
{
    return (struct x86_paging_memory){
        .ctx = v,
        .read = paging_read,
        .compare_exchange = paging_compare_exchange,
    };
}

/* Member by member: a copy of the whole would wait for stores before it. */
void soft_paging(const struct soft_vcpu *v, struct x86_paging *out)
{
    out->cr0 = v->cr0;
    out->cr3 = v->cr3;
    out->cr4 = v->cr4;
    out->efer = v->efer;
    out->flag_ac = v->flags & X86_FLAG_AC;
    out->physical_bits = v->physical_bits;
    memcpy(out->pdpte, v->pdpte, sizeof(out->pdpte));
}

static bool walk(struct soft_vcpu *v, uint64_t gva, enum x86_access access, bool is_user,
                 bool is_implicit, struct x86_translation *out, uint32_t *out_error)
{
    if (!(v->cr0 & X86_CR0_PG)) {
        *out = (struct x86_translation){
            .gpa = (uint32_t)gva,
            .page_size = GUEST_PAGE_SIZE,
            .is_writable = true,
            .is_user = true,
            .is_executable = true,
            .is_dirty = true,
        };
        return true;
    }
    struct x86_paging paging;
    soft_paging(v, &paging);
    struct x86_paging_memory memory = soft_paging_memory(v);
    return x86_paging_walk(&paging, &memory, gva, access, is_user, is_implicit, out, out_error);
}

bool soft_probe_translate(struct soft_vcpu *v, uint64_t gva, enum x86_access access, bool is_user,
                          bool is_implicit, uint64_t *out_gpa, uint32_t *out_error)
{
    struct x86_translation translation;
    if (!walk(v, gva, access, is_user, is_implicit, &translation, out_error)) {
        return false;
    }
    *out_gpa = translation.gpa;
    return true;
}

bool soft_map_code_page(struct soft_vcpu *v, uint64_t gva, struct soft_page *out)
{
    const struct soft_code_page *known = soft_find_code_page(v, gva);
    if (!known) {
        return false;
    }
    *out = (struct soft_page){
        .slot = known->slot,
        .index = known->index,
        .hva = known->hva + gva % GUEST_PAGE_SIZE,
    };
    return true;
}

/* Takes a translation into the first level of the TLB; a write only where 'access' is one. */
static enum soft_fill tlb_fill(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                               enum x86_access access, const struct x86_translation *translation)
{
    if (access != X86_ACCESS_FETCH && soft_page_is_watched(v, gva)) {
        return SOFT_FILL_NONE;
    }
    uint64_t page = align_down(translation->gpa, GUEST_PAGE_SIZE) |
                    (translation->is_global ? SOFT_PAGE_G : 0) |
                    (translation->page_size > GUEST_PAGE_SIZE ? SOFT_PAGE_LARGE : 0) |
                    (translation->page_size > BIT(SOFT_LARGE_SHIFT) ? SOFT_PAGE_HUGE : 0);
    enum soft_fill result = soft_tlb_enter(v, tlb, gva, access, page);
    if (unlikely(v->lockstep != NULL) && access == X86_ACCESS_WRITE && result == SOFT_FILL_DONE) {
        size_t index = soft_tlb_index(gva);
        soft_lockstep_note_write(v, tlb, index, tlb->hva[index]);
    }
    return result;
}

/* Translates canonical 'gva' with the rights of 'tlb', and takes it there. */
static enum soft_fill fill(struct soft_vcpu *v, struct soft_tlb *tlb, uint64_t gva,
                           enum x86_access access, bool is_implicit, uint64_t *out_gpa,
                           uint32_t *out_error)
{
    enum soft_fill result = soft_tlb_quick(v, tlb, gva, access, out_gpa);
    if (likely(result != SOFT_FILL_ASK)) {
        *out_error = (uint32_t)*out_gpa;
        return result;
    }
    struct x86_translation translation;
    v->stats.tlb_long_way++;
    if (!walk(v, gva, access, v->cpl == 3, is_implicit, &translation, out_error)) {
        return SOFT_FILL_FAULT;
    }
    *out_gpa = translation.gpa;
    return tlb_fill(v, tlb, gva, access, &translation);
}

static noreturn_fn void raise_not_canonical(struct soft_vcpu *v, const struct soft_op *op)
{
    bool is_stack = op && (op->flags & SOFT_OP_HAS_MEMORY) && op->segment == X86_SS;
    soft_raise_error(v, op, is_stack ? X86_SS_FAULT : X86_GP, 0);
}

/* Guest physical address for an access of the current privilege, through a walk; fills the TLB. */
static uint64_t translate(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                          enum x86_access access)
{
    if (soft_is_long(v) && unlikely(!x86_is_canonical(gva))) {
        raise_not_canonical(v, op);
    }
    uint64_t gpa;
    uint32_t error;
    v->op = op;
    if (fill(v, v->tlb, gva, access, false, &gpa, &error) == SOFT_FILL_FAULT) {
        soft_raise_page_fault(v, gva, error);
    }
    return gpa;
}

bool soft_tlb_load(struct soft_vcpu *v, uint64_t gva, enum x86_access access)
{
    uint64_t gpa;
    uint32_t error;
    if (!x86_is_canonical(gva) ||
        (access == X86_ACCESS_WRITE && soft_find_code_page(v, gva) != NULL)) {
        return false;
    }
    return fill(v, v->tlb, gva, access, false, &gpa, &error) == SOFT_FILL_DONE;
}

uint64_t soft_fetch_translate(struct soft_vcpu *v, uint64_t gva)
{
    const struct soft_tlb *tlb = v->tlb;
    size_t index = soft_tlb_index(gva);
    if (likely(tlb->fetch_tag[index] == soft_tlb_tag(gva))) {
        /* Entries hold host addresses only; slots are few. */
        const struct guest_memory *memory = v->vm->vm.config.memory;
        for (size_t i = 0; i < memory->slot_count; i++) {
            uint64_t offset = (uintptr_t)tlb->hva[index] - (uintptr_t)memory->slot[i].hva;
            if (offset < memory->slot[i].size_bytes) {
                return memory->slot[i].gpa + offset + (gva & (GUEST_PAGE_SIZE - 1));
            }
        }
    }
    return translate(v, NULL, gva, X86_ACCESS_FETCH);
}

void soft_leave_guest(struct soft_vcpu *v)
{
    atomic_store(&v->is_in_guest, false);
}

void soft_enter_guest(struct soft_vcpu *v)
{
    atomic_store(&v->is_in_guest, true);
    while (unlikely(atomic_load(&v->requests) & SOFT_REQUEST_STOP)) {
        atomic_store(&v->is_in_guest, false);
        soft_wait_while_stopped(v);
        atomic_store(&v->is_in_guest, true);
    }
    if (unlikely(atomic_load(&v->requests) & SOFT_REQUEST_FLUSH_WRITES)) {
        soft_tlb_flush_writes(v);
    }
}

static void mmio_load(struct soft_vcpu *v, uint64_t gpa, void *out_data, uint32_t size)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    uint8_t *bytes = out_data;
    v->stats.exits_mmio++;
    soft_sync_apic(v);
    soft_leave_guest(v);
    while (size) {
        uint32_t part = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
        uint64_t value = callbacks->mmio_read
                             ? callbacks->mmio_read(callbacks->ctx, v->vcpu.index, gpa, part)
                             : UINT64_MAX;
        memcpy(bytes, &value, part);
        bytes += part;
        gpa += part;
        size -= part;
    }
    soft_enter_guest(v);
}

static void mmio_store(struct soft_vcpu *v, uint64_t gpa, const void *data, uint32_t size)
{
    const struct vm_callbacks *callbacks = &v->vm->vm.config.callbacks;
    const uint8_t *bytes = data;
    v->stats.exits_mmio++;
    soft_sync_apic(v);
    soft_leave_guest(v);
    while (size) {
        uint32_t part = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
        uint64_t value = 0;
        memcpy(&value, bytes, part);
        if (callbacks->mmio_write) {
            callbacks->mmio_write(callbacks->ctx, v->vcpu.index, gpa, part, value);
        }
        bytes += part;
        gpa += part;
        size -= part;
    }
    soft_enter_guest(v);
}

/* memcpy in one piece for the sizes that must be atomic. */
static void copy_piece(void *to, const void *from, uint32_t size)
{
    switch (size) {
    case 1:
        *(volatile uint8_t *)to = *(const volatile uint8_t *)from;
        break;
    case 2:
        *(volatile soft_u16 *)to = *(const volatile soft_u16 *)from;
        break;
    case 4:
        *(volatile soft_u32 *)to = *(const volatile soft_u32 *)from;
        break;
    case 8:
        *(volatile soft_u64 *)to = *(const volatile soft_u64 *)from;
        break;
    default:
        memcpy(to, from, size);
        break;
    }
}

/* Within one page. */
void soft_physical_load(struct soft_vcpu *v, uint64_t gpa, void *out_data, uint32_t size)
{
    struct soft_page page = soft_page_find(v->vm, gpa);
    if (page.slot) {
        copy_piece(out_data, page.hva, size);
    } else {
        mmio_load(v, gpa, out_data, size);
    }
}

void soft_physical_store(struct soft_vcpu *v, uint64_t gpa, const void *data, uint32_t size)
{
    struct soft_page page = soft_page_find(v->vm, gpa);
    if (!page.slot) {
        mmio_store(v, gpa, data, size);
    } else if (!page.slot->is_readonly) {
        copy_piece(page.hva, data, size);
        soft_written(v, &page, size);
    }
}

/* How much of [gva, gva + size) lies in the first page. */
static uint32_t first_part(uint64_t gva, uint32_t size)
{
    uint32_t left = GUEST_PAGE_SIZE - (uint32_t)(gva & (GUEST_PAGE_SIZE - 1));
    return MIN(left, size);
}

/* The next byte's linear address: outside of long mode they are 32 bits wide. */
static uint64_t linear_add(const struct soft_vcpu *v, uint64_t gva, uint32_t count)
{
    return soft_is_long(v) ? gva + count : (uint32_t)(gva + count);
}

/* An access that leaves the canonical addresses faults for that, whatever the page before them is. */
static void check_second_page(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva)
{
    if (soft_is_long(v) && !x86_is_canonical(gva)) {
        raise_not_canonical(v, op);
    }
}

void soft_load_unchecked(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                         void *out_data, uint32_t size)
{
    const void *hva = soft_fast_read(v, gva, size);
    if (likely(hva)) {
        copy_piece(out_data, hva, size);
        return;
    }
    uint32_t part = first_part(gva, size);
    if (unlikely(part != size)) {
        check_second_page(v, op, linear_add(v, gva, part));
    }
    uint64_t gpa = translate(v, op, gva, X86_ACCESS_READ);
    if (likely(part == size)) {
        soft_breakpoint_access(v, gva, size, false);
        soft_physical_load(v, gpa, out_data, size);
        return;
    }
    uint64_t second = translate(v, op, linear_add(v, gva, part), X86_ACCESS_READ);
    soft_breakpoint_access(v, gva, size, false);
    soft_physical_load(v, gpa, out_data, part);
    soft_physical_load(v, second, (uint8_t *)out_data + part, size - part);
}

void soft_store_unchecked(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                          const void *data, uint32_t size)
{
    void *hva = soft_fast_write(v, gva, size);
    if (likely(hva)) {
        copy_piece(hva, data, size);
        return;
    }
    uint32_t part = first_part(gva, size);
    if (unlikely(part != size)) {
        check_second_page(v, op, linear_add(v, gva, part));
    }
    struct soft_page page;
    if (part == size && soft_map_code_page(v, gva, &page)) {
        v->op = op;
        copy_piece(page.hva, data, size);
        soft_written(v, &page, size);
        return;
    }
    uint64_t gpa = translate(v, op, gva, X86_ACCESS_WRITE);
    if (likely(part == size)) {
        soft_breakpoint_access(v, gva, size, true);
        soft_physical_store(v, gpa, data, size);
        return;
    }
    uint64_t second = translate(v, op, linear_add(v, gva, part), X86_ACCESS_WRITE);
    soft_breakpoint_access(v, gva, size, true);
    soft_physical_store(v, gpa, data, part);
    soft_physical_store(v, second, (const uint8_t *)data + part, size - part);
}

void soft_check_alignment(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva,
                          uint32_t size)
{
    if (likely(!v->align_check || !(gva & (size - 1)) || !x86_is_canonical(gva))) {
        return;
    }
    if (v->vm->is_intel) {
        if (size > 8) {
            return;
        }
    } else {
        /* What is wrong with the address of the last byte comes first. */
        check_second_page(v, op, linear_add(v, gva, size - 1));
    }
    soft_raise_error(v, op, X86_AC, 0);
}

void soft_load_slow(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, void *out_data,
                    uint32_t size)
{
    soft_check_alignment(v, op, gva, size);
    soft_load_unchecked(v, op, gva, out_data, size);
}

void soft_store_slow(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, const void *data,
                     uint32_t size)
{
    soft_check_alignment(v, op, gva, size);
    soft_store_unchecked(v, op, gva, data, size);
}

static void check_access(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size,
                         enum x86_access access)
{
    if (unlikely(first_part(gva, size) != size)) {
        check_second_page(v, op, linear_add(v, gva, first_part(gva, size)));
    }
    while (size) {
        uint32_t part = first_part(gva, size);
        const struct soft_tlb *tlb = v->tlb;
        size_t index = soft_tlb_index(gva);
        uint64_t tag = (access == X86_ACCESS_WRITE ? tlb->write_tag : tlb->read_tag)[index];
        struct soft_page page;
        if (tag != soft_tlb_tag(gva) &&
            !(access == X86_ACCESS_WRITE && soft_map_code_page(v, gva, &page))) {
            (void)translate(v, op, gva, access);
        }
        gva = linear_add(v, gva, part);
        size -= part;
    }
}

void soft_check_write(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size)
{
    check_access(v, op, gva, size, X86_ACCESS_WRITE);
}

void soft_check_change(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size)
{
    soft_check_alignment(v, op, gva, size);
    soft_check_write(v, op, gva, size);
}

void soft_check_read(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size)
{
    check_access(v, op, gva, size, X86_ACCESS_READ);
}

uint8_t *soft_map_write(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size,
                        struct soft_page *out_page)
{
    if (size <= 8) {
        soft_check_alignment(v, op, gva, size);
    }
    uint64_t gpa = translate(v, op, gva, X86_ACCESS_WRITE);
    if (first_part(gva, size) != size) {
        soft_check_write(v, op, linear_add(v, gva, first_part(gva, size)),
                         size - first_part(gva, size));
        return NULL;
    }
    soft_breakpoint_access(v, gva, size, true);
    *out_page = soft_page_find(v->vm, gpa);
    return out_page->slot && !out_page->slot->is_readonly ? out_page->hva : NULL;
}

/* The rights of the system's own accesses: AC does not lift SMAP for them. */
static struct soft_tlb *system_tlb(struct soft_vcpu *v)
{
    return &v->tlbs[v->cr4 & X86_CR4_SMAP ? SOFT_TLB_SUPERVISOR : SOFT_TLB_SUPERVISOR_AC];
}

static uint64_t system_translate(struct soft_vcpu *v, uint64_t gva, enum x86_access access)
{
    uint64_t gpa;
    uint32_t error;
    if (soft_is_long(v) && !x86_is_canonical(gva)) {
        soft_raise_error(v, v->op, X86_GP, 0);
    }
    if (fill(v, system_tlb(v), gva, access, true, &gpa, &error) == SOFT_FILL_FAULT) {
        soft_raise_page_fault(v, gva, error);
    }
    return gpa;
}

void soft_system_load(struct soft_vcpu *v, uint64_t gva, void *out_data, uint32_t size)
{
    uint8_t *bytes = out_data;
    const struct soft_tlb *tlb = system_tlb(v);
    while (size) {
        uint32_t part = first_part(gva, size);
        size_t index = soft_tlb_index(gva);
        uint64_t offset = gva - tlb->read_tag[index];
        if (likely(offset < GUEST_PAGE_SIZE)) {
            memcpy(bytes, tlb->hva[index] + offset, part);
        } else {
            soft_physical_load(v, system_translate(v, gva, X86_ACCESS_READ), bytes, part);
        }
        bytes += part;
        gva = linear_add(v, gva, part);
        size -= part;
    }
}

void soft_system_check_write(struct soft_vcpu *v, uint64_t gva, uint32_t size)
{
    while (size) {
        uint32_t part = first_part(gva, size);
        (void)system_translate(v, gva, X86_ACCESS_WRITE);
        gva = linear_add(v, gva, part);
        size -= part;
    }
}

void soft_system_store(struct soft_vcpu *v, uint64_t gva, const void *data, uint32_t size)
{
    const uint8_t *bytes = data;
    const struct soft_tlb *tlb = system_tlb(v);
    if (first_part(gva, size) != size) {
        soft_system_check_write(v, gva, size);
    }
    while (size) {
        uint32_t part = first_part(gva, size);
        size_t index = soft_tlb_index(gva);
        uint64_t offset = gva - tlb->write_tag[index];
        if (likely(offset < GUEST_PAGE_SIZE)) {
            memcpy(tlb->hva[index] + offset, bytes, part);
        } else {
            soft_physical_store(v, system_translate(v, gva, X86_ACCESS_WRITE), bytes, part);
        }
        bytes += part;
        gva = linear_add(v, gva, part);
        size -= part;
    }
}

static void flush_writes_of_others(struct soft_vm *vm, struct soft_vcpu *self)
{
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *other = atomic_load(&vm->vcpu[i]);
        if (other && other != self) {
            soft_request(other, SOFT_REQUEST_FLUSH_WRITES);
        }
    }
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *other = atomic_load(&vm->vcpu[i]);
        while (other && other != self && atomic_load(&other->is_in_guest) &&
               (atomic_load(&other->requests) & SOFT_REQUEST_FLUSH_WRITES)) {
            if (self && (atomic_load(&self->requests) & SOFT_REQUEST_FLUSH_WRITES)) {
                soft_tlb_flush_writes(self);
            }
            sched_yield();
        }
    }
}

void soft_vm_flush_writes(struct soft_vm *vm, struct soft_vcpu *self)
{
    flush_writes_of_others(vm, self);
    if (self) {
        soft_tlb_flush_writes(self);
    }
}

void soft_vm_flush_page_writes(struct soft_vm *vm, struct soft_vcpu *self, const uint8_t *hva)
{
    flush_writes_of_others(vm, self);
    soft_tlb_flush_page_writes(self, hva);
}

/* Flat segments need no check but the address's own 32 bits. */
static void update_segments(struct soft_vcpu *v)
{
    v->flat_read = 0;
    v->flat_write = 0;
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        const struct x86_segment *segment = &v->segment[i];
        bool is_based = v->code_size != X86_CODE_64 || i == X86_FS || i == X86_GS;
        v->segment_base[i] = is_based ? segment->base : 0;
        if (segment->base != 0 || segment->limit != UINT32_MAX ||
            (segment->attributes & X86_SEGMENT_UNUSABLE)) {
            continue;
        }
        bool is_code = segment->attributes & X86_SEGMENT_CODE;
        if (!is_code && (segment->attributes & X86_SEGMENT_DOWN)) {
            continue;
        }
        if (!is_code || (segment->attributes & X86_SEGMENT_READABLE)) {
            v->flat_read |= (uint8_t)(1u << i);
        }
        if (!is_code && (segment->attributes & X86_SEGMENT_WRITABLE)) {
            v->flat_write |= (uint8_t)(1u << i);
        }
    }
}

void soft_update_mode(struct soft_vcpu *v)
{
    const struct x86_segment *cs = &v->segment[X86_CS];
    if (!(v->cr0 & X86_CR0_PE)) {
        v->cpl = 0;
    } else if (v->flags & X86_FLAG_VM) {
        v->cpl = 3;
    }
    if (soft_is_long(v) && (cs->attributes & X86_SEGMENT_L)) {
        v->code_size = X86_CODE_64;
        v->stack_bytes = 8;
    } else {
        v->code_size = cs->attributes & X86_SEGMENT_DB ? X86_CODE_32 : X86_CODE_16;
        v->stack_bytes = v->segment[X86_SS].attributes & X86_SEGMENT_DB ? 4 : 2;
    }
    bool has_smap = (v->cr4 & X86_CR4_SMAP) && !(v->flags & X86_FLAG_AC);
    v->tlb = &v->tlbs[v->cpl == 3 ? SOFT_TLB_USER
                      : has_smap  ? SOFT_TLB_SUPERVISOR
                                  : SOFT_TLB_SUPERVISOR_AC];
    v->align_check = v->cpl == 3 && (v->cr0 & X86_CR0_AM) && (v->flags & X86_FLAG_AC);
    update_segments(v);
    soft_update_chain_tag(v);
}
