/* The soft TLB's filling and flushing, accesses by the system itself, and the protocol between writers of guest memory and
 * those who decode it (described in mmu.c). */
#ifndef ENGINE_SOFT_MMU_H
#define ENGINE_SOFT_MMU_H

#include "engine/soft/vcpu.h"

/* page_flags bits beside GUEST_PAGE_CODE: some TLB may hold a write entry; the marking as code is complete. */
#define SOFT_PAGE_WRITABLE   0x02u
#define SOFT_PAGE_CODE_READY 0x04u

/* Where a guest physical page lies; 'slot' NULL: no memory there. */
struct soft_page {
    const struct guest_slot *slot;
    size_t index; /* within the slot */
    uint8_t *hva;
};

struct soft_page soft_page_find(struct soft_vm *vm, uint64_t gpa);

/* Guest physical address of an instruction fetch at 'gva' by the current mode; raises #PF and #GP. */
uint64_t soft_fetch_translate(struct soft_vcpu *v, uint64_t gva);
/* Takes the translation of 'gva' for the current privilege into the TLB. False, and nothing has happened but accessed bits: it
 * would fault, or no fast access is to be had (devices, ROM, code that is written). */
bool soft_tlb_load(struct soft_vcpu *v, uint64_t gva, enum x86_access access);
/* The same without faults, for debugging and traps: false if it would fault. */
bool soft_probe_translate(struct soft_vcpu *v, uint64_t gva, enum x86_access access, bool is_user,
                          bool is_implicit, uint64_t *out_gpa, uint32_t *out_error);

/* Accesses of the system (descriptor tables, TSS, stacks of other levels): supervisor rights whatever the CPL. Raise #PF. */
void soft_system_load(struct soft_vcpu *v, uint64_t gva, void *out_data, uint32_t size);
void soft_system_store(struct soft_vcpu *v, uint64_t gva, const void *data, uint32_t size);
void soft_system_check_write(struct soft_vcpu *v, uint64_t gva, uint32_t size);
static inline uint64_t soft_system_load_value(struct soft_vcpu *v, uint64_t gva, uint32_t size)
{
    uint64_t value = 0;
    soft_system_load(v, gva, &value, size);
    return value;
}

/* By guest physical address, with everything that a guest write entails. Unbacked: MMIO. */
void soft_physical_load(struct soft_vcpu *v, uint64_t gpa, void *out_data, uint32_t size);
void soft_physical_store(struct soft_vcpu *v, uint64_t gpa, const void *data, uint32_t size);

/* Host address of 'size' bytes within one page for a locked access or a run of a string instruction, or NULL (MMIO, ROM,
 * page crossing); faults are raised. After writing through it without a TLB entry: soft_written. */
uint8_t *soft_map_write(struct soft_vcpu *v, const struct soft_op *op, uint64_t gva, uint32_t size,
                        struct soft_page *out_page);
void soft_written(struct soft_vcpu *v, const struct soft_page *page, uint32_t size);
/* The same for 'gva' in a page that this vCPU knows as one with code that it may write to; false if it knows of none. */
bool soft_map_code_page(struct soft_vcpu *v, uint64_t gva, struct soft_page *out_page);

/* A page with code is opened for plain writes, which ends all its code, when so many have come since code was last decoded in
 * it; the more often that has happened, the more are waited for. */
#define SOFT_WRITES_FIRST_LIMIT 64u
#define SOFT_WRITES_LAST_LIMIT  4096u
#define SOFT_WRITES_COUNT       0xffffu
#define SOFT_WRITES_OPENED      0x10000u

static inline bool soft_may_still_write(uint32_t seen)
{
    uint32_t limit = SOFT_WRITES_FIRST_LIMIT << 2 * MIN(seen / SOFT_WRITES_OPENED, 3u);
    return (seen & SOFT_WRITES_COUNT) < MIN(limit, SOFT_WRITES_LAST_LIMIT);
}

/* The granules of its page that [at, at + size) touches, one bit each; 'at' is a host or guest address. */
#define SOFT_GRANULE_SIZE 64u
static inline uint64_t soft_granules(uint64_t at, uint32_t size)
{
    uint64_t first = at % GUEST_PAGE_SIZE / SOFT_GRANULE_SIZE;
    uint64_t last = (at + size - 1) % GUEST_PAGE_SIZE / SOFT_GRANULE_SIZE;
    return (UINT64_MAX >> (63 - last)) & (UINT64_MAX << first);
}

/* Marks granules of a page as code, before their bytes are read. NULL: nobody writes there. */
static inline void soft_mark_granules(_Atomic uint64_t *granules, uint64_t mask)
{
    if (granules && (atomic_load(granules) & mask) != mask) {
        atomic_fetch_or(granules, mask);
    }
}

/* Those of a page, or NULL if it is read-only. */
static inline _Atomic uint64_t *soft_page_granules(const struct soft_page *page)
{
    return page->slot->is_readonly ? NULL : &page->slot->code_granules[page->index];
}

/* Code of the VM has changed: the other vCPUs are to look at their translated blocks. 'self': the caller's, or NULL. */
void soft_vm_code_written(struct soft_vm *vm, const struct soft_vcpu *self);

void soft_tlb_init(struct soft_vcpu *v);
void soft_tlb_flush(struct soft_vcpu *v, bool with_global);
void soft_tlb_flush_page(struct soft_vcpu *v, uint64_t gva);
void soft_tlb_flush_writes(struct soft_vcpu *v);
void soft_tlb_flush_page_writes(struct soft_vcpu *v, const uint8_t *hva);
/* After a change of CR0, CR4, EFER, CPL, AC, CS or SS: what depends on them. */
void soft_update_mode(struct soft_vcpu *v);

/* All other vCPUs have dropped their write entries when this returns. 'self': the caller's vCPU or NULL. */
void soft_vm_flush_writes(struct soft_vm *vm, struct soft_vcpu *self);
/* The same for one page, given by its host address, where the caller's own TLB is concerned. */
void soft_vm_flush_page_writes(struct soft_vm *vm, struct soft_vcpu *self, const uint8_t *hva);

/* Around everything that is not guest code: waiting, callbacks. No host address of guest memory may be kept across. */
void soft_leave_guest(struct soft_vcpu *v);
void soft_enter_guest(struct soft_vcpu *v);

/* stop.c. From here to soft_resume_others no other vCPU runs guest code: for accesses that must be whole. An exception that is
 * raised between the two resumes them. Translations from before may have changed. */
void soft_stop_others(struct soft_vcpu *v);
void soft_resume_others(struct soft_vcpu *v);
/* Until nobody has stopped the others; only outside of guest code. */
void soft_wait_while_stopped(struct soft_vcpu *v);

void soft_paging(const struct soft_vcpu *v, struct x86_paging *out);
struct x86_paging_memory soft_paging_memory(struct soft_vcpu *v);

#endif
