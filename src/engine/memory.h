/* Guest physical memory: slots of host memory at guest physical addresses.
 *
 * Guest memory is shared with an enemy: copy once, validate the copy, use the copy. Slots are added before vCPUs run and
 * stay until the memory is destroyed; those that were reserved have no memory at first, and get some from their start on as it is
 * asked for. Threads: any, once the slots are there. */
#ifndef ENGINE_MEMORY_H
#define ENGINE_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define GUEST_PAGE_SHIFT       12
#define GUEST_PAGE_SIZE        4096u
#define GUEST_MEMORY_MAX_SLOTS 8

struct guest_slot {
    uint64_t gpa;        /* page aligned */
    uint64_t size_bytes; /* page aligned */
    /* So much of it is memory; the rest is as if there were no slot. Only reserved slots differ from size_bytes. */
    _Atomic uint64_t usable_bytes;
    uint8_t *hva; /* this slot's first byte in this process */
    int fd;       /* file in memory that backs it, and the offset within */
    uint64_t fd_offset;
    bool is_readonly; /* ROM: guest writes are dropped */
    /* One bit a page, set by writers, NULL while no log is kept. 64-bit words, page 0 in bit 0. */
    _Atomic uint64_t *dirty;
    /* One byte a page for the soft engine, NULL for the others: see GUEST_PAGE_*. */
    _Atomic uint8_t *page_flags;
    /* One count a page, raised whenever a page that holds decoded code is written; NULL as above. */
    _Atomic uint32_t *code_generation;
    /* One word a page: which of its 64-byte granules hold decoded code. And the writes to a page with code, see the soft
     * engine's mmu.c. NULL as above. */
    _Atomic uint64_t *code_granules;
    _Atomic uint32_t *code_writes;
};

/* page_flags: the page holds bytes that some vCPU has decoded. */
#define GUEST_PAGE_CODE 0x01u

struct guest_memory {
    struct guest_slot slot[GUEST_MEMORY_MAX_SLOTS];
    size_t slot_count;
    uint64_t size_bytes; /* of all slots */
    atomic_bool is_logging;
    void (*code_written)(void *ctx); /* NULL: nobody wants to know */
    void *code_written_ctx;
};

int must_check guest_memory_create(struct guest_memory **out_memory, struct error *err);
void guest_memory_destroy(struct guest_memory *memory);

/* Adds zeroed memory, a new file: huge pages of the host when 'huge' (an error if there are not enough), else
 * transparent ones where the kernel grants them. Errors: -ENOMEM, -EINVAL (overlap, alignment). */
int must_check guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size_bytes,
                                bool huge, bool is_readonly, struct error *err);

/* The slot's memory becomes [fd_offset, fd_offset + its size) of another file in memory, of which it keeps a descriptor of its
 * own, at the same addresses, all of it usable. What it held is gone. Only before anything runs. The file has to be as long, and nobody may make
 * it shorter later. */
int must_check guest_memory_replace(struct guest_memory *memory, size_t slot, int fd,
                                    uint64_t fd_offset, struct error *err);
/* A slot for memory that comes later: none of it is there until guest_memory_set_usable. Errors as above. */
int must_check guest_memory_reserve(struct guest_memory *memory, uint64_t gpa, uint64_t size_bytes,
                                    struct error *err);
/* The first 'usable_bytes' of the reserved slot at 'gpa' are memory from now on, page aligned. Any time if that is more than before;
 * less only while no vCPU runs, no request is in flight, and nothing is kept of what guests' tables say. */
int must_check guest_memory_set_usable(struct guest_memory *memory, uint64_t gpa,
                                       uint64_t usable_bytes, struct error *err);

/* Allocates page_flags and the notes on code of all slots (the soft engine asks). */
int must_check guest_memory_track_code(struct guest_memory *memory, struct error *err);
/* 'code_written' is called, on the writer's thread, after guest_memory_written has raised the generation of a page. */
void guest_memory_on_code_written(struct guest_memory *memory, void (*code_written)(void *ctx),
                                  void *ctx);

/* The slot that holds 'gpa', or NULL. */
static inline const struct guest_slot *guest_memory_slot(const struct guest_memory *memory,
                                                         uint64_t gpa)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        if (gpa - memory->slot[i].gpa <
            atomic_load_explicit(&memory->slot[i].usable_bytes, memory_order_relaxed)) {
            return &memory->slot[i];
        }
    }
    return NULL;
}

/* Copies; false (and a partial copy) if any byte is not backed, or is to be written and read-only. Writes are marked
 * as guest_memory_written does. */
bool must_check guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *out_data,
                                  size_t size);
bool must_check guest_memory_write(struct guest_memory *memory, uint64_t gpa, const void *data,
                                   size_t size);

/* Host address of [gpa, gpa + size) for direct I/O, or NULL if it is not wholly within one slot (or is for writing and
 * read-only). The loan lasts as long as the memory. Whoever writes through it calls guest_memory_written afterwards
 * (and for in-flight DMA, when it completes). */
void *guest_memory_map(const struct guest_memory *memory, uint64_t gpa, uint64_t size,
                       bool for_write);

/* Host code wrote [gpa, gpa + size): sets dirty bits if a log is kept, and makes the soft engine forget what it
 * decoded from there. */
void guest_memory_written(struct guest_memory *memory, uint64_t gpa, uint64_t size);

/* Dirty log by host-side writers. Start: allocates and clears. Fetch: moves the slot's bits to 'out_bitmap' (one bit a
 * page, rounded up to 64-bit words) or-ing into it, and clears them. */
int must_check guest_memory_log_start(struct guest_memory *memory, struct error *err);
void guest_memory_log_stop(struct guest_memory *memory);
void guest_memory_log_fetch(struct guest_memory *memory, size_t slot, uint64_t *out_bitmap);

/* Gives [gpa, gpa + size) back to the host (balloon, free page reporting): reads zero afterwards. Parts that are not
 * backed or not page aligned are left alone. */
void guest_memory_discard(struct guest_memory *memory, uint64_t gpa, uint64_t size);

#endif
