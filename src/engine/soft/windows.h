/* Windows: guest memory as a user process sees it, by the host's MMU.
 *
 * A window is 1 TiB of the host's address space that stands for as much of a guest address space: what two entries of the top
 * level of its page tables cover, as Linux keeps libraries, stacks and mapped memory that near. Pages that have been used are mapped there from guest memory, all others are not, so that an
 * access by translated code costs no check: it goes to the address in the window, and where there is no page the host's signal
 * asks here for it. That takes microseconds for each page, so only processes get windows that have run for a while.
 *
 * Only code of CPL 3 in 64-bit mode uses them. The table of windows (vcpu.h) is indexed by bits 55:40 of an address. Entries
 * hold what has to be added to addresses; those without a window lead to a guard, where nothing is ever mapped. Addresses that
 * are not canonical, or of the upper half, stay outside of the host's user space whatever is added to them.
 *
 * What is mapped is a cache of translations like the TLB's, and dropped by the same events: the current space's pages that
 * have been flushed are looked up again before user code runs on. Windows belong to one vCPU and its thread. */
#ifndef ENGINE_SOFT_WINDOWS_H
#define ENGINE_SOFT_WINDOWS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/vcpu.h"

#define SOFT_WINDOW_SIZE (1ull << SOFT_WINDOW_SHIFT)
/* An operand may be so far from the address that has found the window, on either side. */
#define SOFT_WINDOW_GUARD (4ull << 30)

/* v->window_state. */
enum soft_window_state {
    SOFT_WINDOWS_OFF, /* user code goes through the TLB */
    SOFT_WINDOWS_ON,
    SOFT_WINDOWS_CHECK, /* soft_windows_prepare has to be asked before user code runs */
};

/* Without windows, if the host is not good for them: not an error. */
int soft_windows_init(struct soft_vcpu *v, struct error *err);
void soft_windows_fini(struct soft_vcpu *v);

/* May user code run with windows? After it, window_state is OFF or ON. */
bool soft_windows_prepare(struct soft_vcpu *v);

/* Events. The current address space is another one, or has been flushed. */
void soft_windows_space_changed(struct soft_vcpu *v);
void soft_windows_flushed(struct soft_vcpu *v);
/* The current address space has been entered with a flush: as a rule it is a new process's, in the place of an ended one's. */
void soft_windows_space_begun(struct soft_vcpu *v);
/* A page of the current space has been flushed; with 'is_large' all of its 2 MiB. */
void soft_windows_page_dropped(struct soft_vcpu *v, uint64_t gva, bool is_large);
/* Pages must not be written without looking any more: all, or the one at 'hva'. */
void soft_windows_writes_dropped(struct soft_vcpu *v, const uint8_t *hva);
/* A block is translated for the current space. False: there are so many that short code is better than code with short latencies. */
bool soft_windows_count_block(struct soft_vcpu *v);
/* What the window of 'gva' is to the process that runs: see vcpu.h. False: nothing that code would guess. */
bool soft_windows_find_role(const struct soft_vcpu *v, uint64_t gva, uint8_t *out_role);
/* Where the host has what is at 'gva' of the space that runs, or NULL: it is in no window now. */
const uint8_t *soft_windows_peek(struct soft_vcpu *v, uint64_t gva);
/* An interrupt has come while user code ran. */
void soft_windows_tick(struct soft_vcpu *v);

enum soft_window_result {
    SOFT_WINDOW_RETRY, /* the page is there now */
    SOFT_WINDOW_FAULT, /* #PF, *out_gva and *out_error say which */
    SOFT_WINDOW_OTHER, /* none is to be had: the interpreter knows */
};
/* In a signal handler that has interrupted translated code: the host faulted at 'address'. */
enum soft_window_result soft_windows_fault(struct soft_vcpu *v, uintptr_t address, bool is_write,
                                           uint64_t *out_gva, uint64_t *out_error);

#endif
