/* Each stretch of translated code that runs without a call of C code is run again by the interpreter: from the same
 * registers and the same memory, to the same address. Then registers and memory must be the same.
 *
 * Memory: before a stretch no entry of the TLB lets anything be written, so that the first write to a page comes to
 * soft_lockstep_note_write, which keeps a copy of the page. For the interpreter's turn what the translator has changed is
 * put back. Only bytes that differ are ever put back, as devices write to guest memory, too. Their writes may make the two
 * runs differ; such a stretch is repeated from its beginning, and only what differs time after time is a difference.
 *
 * Blocks are not linked, and indirect branches always miss, so that a stretch is straight code of one block. Instructions
 * that the interpreter runs for the translator are run once and are not compared. */
#include "engine/soft/translate/lockstep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/log.h"
#include "engine/soft/block.h"
#include "engine/soft/mmu.h"
#include "engine/soft/trace.h"
#include "engine/soft/translate/analyze.h"

#define MAX_PAGES   256
#define MAX_ENTRIES 4096
#define TRIES       4

/* What translated code changes beside memory. */
struct registers {
    uint64_t gpr[X86_GPR_COUNT];
    uint64_t rip;
    uint16_t status;
    uint32_t mxcsr;
    int32_t budget; /* not compared: the interpreter's turn does not count */
    uint8_t vector[16][32];
    uint8_t fx[512];
    uint8_t x87[sizeof(((struct soft_vcpu *)0)->native_x87)]; /* what becomes part of fx later */
};

struct page {
    uint8_t *hva;
    uint8_t before[GUEST_PAGE_SIZE];
    uint8_t native[GUEST_PAGE_SIZE];
};

struct entry {
    struct soft_tlb *tlb;
    size_t index;
};

/* An instruction that was decoded before: nearly all are decoded millions of times. */
#define DECODED 4096u
struct decoded {
    uint8_t bytes[X86_INSN_MAX_LENGTH + 1]; /* that were there; one more for a round size */
    uint16_t row;
    uint8_t code_size, length;
    bool is_there;
};

struct soft_lockstep {
    bool is_under_way;
    const struct native_block *block;
    const uint8_t *code;
    uint32_t mode;
    struct soft_tlb *tlb;
    unsigned tries;
    struct registers start, native, interpreted;
    size_t page_count;
    struct page page[MAX_PAGES];
    size_t entry_count; /* that let something be written, or have done so */
    struct entry entry[MAX_ENTRIES];
    bool has_too_many_pages;
    struct decoded decoded[DECODED];
};

int soft_lockstep_init(struct soft_vcpu *v, struct error *err)
{
    v->lockstep = calloc(1, sizeof(*v->lockstep));
    return v->lockstep ? 0 : error_set(err, ENOMEM, "memory for running in lock-step");
}

void soft_lockstep_fini(struct soft_vcpu *v)
{
    if (v->lockstep) {
        free(v->lockstep);
        v->lockstep = NULL;
    }
}

static void read_registers(const struct soft_vcpu *v, struct registers *out)
{
    memcpy(out->gpr, v->gpr, sizeof(out->gpr));
    out->rip = v->rip;
    out->status = v->status;
    out->mxcsr = v->mxcsr;
    out->budget = v->native_budget;
    memcpy(out->vector, v->vector, sizeof(out->vector));
    memcpy(out->fx, v->fx, sizeof(out->fx));
    memcpy(out->x87, &v->native_x87, sizeof(out->x87));
}

static void write_registers(struct soft_vcpu *v, const struct registers *in)
{
    memcpy(v->gpr, in->gpr, sizeof(in->gpr));
    v->rip = in->rip;
    v->status = in->status;
    v->mxcsr = in->mxcsr;
    v->native_budget = in->budget;
    memcpy(v->vector, in->vector, sizeof(in->vector));
    memcpy(v->fx, in->fx, sizeof(in->fx));
    memcpy(&v->native_x87, in->x87, sizeof(in->x87));
}

static void forbid_writes(struct soft_vcpu *v)
{
    struct soft_lockstep *l = v->lockstep;
    if (l->entry_count == MAX_ENTRIES) {
        for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
            for (size_t i = 0; i < SOFT_TLB_SIZE; i++) {
                v->tlbs[mode].write_tag[i] = soft_tlb_invalid(i);
            }
        }
    }
    for (size_t i = 0; i < l->entry_count; i++) {
        const struct entry *entry = &l->entry[i];
        entry->tlb->write_tag[entry->index] = soft_tlb_invalid(entry->index);
    }
    l->entry_count = 0;
}

void soft_lockstep_note_write(struct soft_vcpu *v, struct soft_tlb *tlb, size_t index, uint8_t *hva)
{
    struct soft_lockstep *l = v->lockstep;
    if (l->entry_count < MAX_ENTRIES) {
        l->entry[l->entry_count++] = (struct entry){tlb, index};
    }
    if (!l->is_under_way) {
        return;
    }
    for (size_t i = 0; i < l->page_count; i++) {
        if (l->page[i].hva == hva) {
            return;
        }
    }
    if (l->page_count == MAX_PAGES) {
        l->has_too_many_pages = true;
        return;
    }
    struct page *page = &l->page[l->page_count++];
    page->hva = hva;
    memcpy(page->before, hva, GUEST_PAGE_SIZE);
    memcpy(page->native, hva, GUEST_PAGE_SIZE); /* if it is the interpreter that writes */
}

void soft_lockstep_begin(struct soft_vcpu *v, const struct native_block *block, const uint8_t *code)
{
    struct soft_lockstep *l = v->lockstep;
    if (block) {
        l->block = block;
    }
    l->code = code;
    l->mode = v->native_mode;
    l->tlb = v->tlb;
    l->tries = 0;
    l->page_count = 0;
    l->has_too_many_pages = false;
    read_registers(v, &l->start);
    forbid_writes(v);
    l->is_under_way = true;
}

/* 'from' becomes 'to' where they differ. */
static void change_bytes(uint8_t *hva, const uint8_t *from, const uint8_t *to)
{
    for (size_t i = 0; i < GUEST_PAGE_SIZE; i += 64) {
        uint64_t a[8], b[8], change = 0;
        memcpy(a, from + i, sizeof(a));
        memcpy(b, to + i, sizeof(b));
        for (size_t k = 0; k < ARRAY_COUNT(a); k++) {
            change |= a[k] ^ b[k];
        }
        for (size_t k = i; change && k < i + 64; k++) {
            if (from[k] != to[k]) {
                __atomic_store_n(hva + k, to[k], __ATOMIC_RELAXED);
            }
        }
    }
}

enum outcome {
    SAME,
    NOT_COMPARABLE,
    DIFFERENT,
};

/* Flags that nothing defines after an instruction, of those that were not before it. */
static bool follow_flags(const struct x86_row *row, uint32_t *undefined)
{
    if (row->flags_read & *undefined & X86_FLAGS_STATUS) {
        return false; /* the result is undefined, too */
    }
    /* A shift by zero defines nothing. */
    if (!row->flags_undefined) {
        *undefined &= ~row->flags_written;
    }
    *undefined |= row->flags_undefined & X86_FLAGS_STATUS;
    return true;
}

/* The row of the instruction in 'page', or NULL, and its length. */
static const struct x86_row *find_row(struct soft_vcpu *v, const uint8_t *page, uint32_t offset,
                                      uint32_t *out_length)
{
    struct x86_insn insn;
    uint32_t left = GUEST_PAGE_SIZE - offset;
    struct decoded *decoded = &v->lockstep->decoded[(offset ^ (uintptr_t)page >> 9) % DECODED];
    bool has_all = left >= sizeof(decoded->bytes);
    if (has_all && decoded->is_there && decoded->code_size == v->code_size &&
        memcmp(decoded->bytes, page + offset, sizeof(decoded->bytes)) == 0) {
        *out_length = decoded->length;
        return &x86_rows[decoded->row];
    }
    if (x86_decode(page + offset, left, soft_decode_as(v->vm, v->code_size), &insn) !=
        X86_DECODE_OK) {
        return NULL;
    }
    if (has_all) {
        memcpy(decoded->bytes, page + offset, sizeof(decoded->bytes));
        decoded->row = insn.row;
        decoded->code_size = v->code_size;
        decoded->length = insn.length;
        decoded->is_there = true;
    }
    *out_length = insn.length;
    return &x86_rows[insn.row];
}

/* The interpreter's turn, to 'rip' or to where it leaves the block, at its end or by a branch before. */
static enum outcome step_to(struct soft_vcpu *v, uint64_t rip, bool is_block_end,
                            uint32_t *out_undefined)
{
    const struct native_block *block = v->lockstep->block;
    const uint8_t *page =
        soft_page_find(v->vm, align_down(block->gpa, GUEST_PAGE_SIZE)).hva; /* it had code */
    uint64_t start = native_block_rip(v, block);
    /* Behind the last instruction, if that was the interpreter's: only the exit is left. */
    is_block_end = is_block_end && v->rip - start <= block->last_offset;
    for (unsigned steps = 0; is_block_end || v->rip != rip; steps++) {
        uint64_t at = v->rip;
        uint32_t length;
        const struct x86_row *row = find_row(v, page, (uint32_t)(at % GUEST_PAGE_SIZE), &length);
        if (steps > NATIVE_MAX_INSNS || at - start > block->last_offset || !row) {
            return DIFFERENT;
        }
        if (row->attributes &
                (X86_ROW_SYSTEM | X86_ROW_PRIVILEGED | X86_ROW_IO | X86_ROW_SERIALIZES) ||
            !follow_flags(row, out_undefined)) {
            return NOT_COMPARABLE;
        }
        soft_block_enter(v, soft_block_find(v, true));
        bool is_taken = row->attributes & X86_ROW_BRANCH && v->rip != at + length;
        if (is_block_end && (is_taken || at - start == block->last_offset)) {
            break;
        }
    }
    return v->rip == rip ? SAME : DIFFERENT;
}

static enum outcome run_interpreter(struct soft_vcpu *v, uint64_t rip, bool is_block_end,
                                    uint32_t *out_undefined)
{
    sigjmp_buf outer;
    memcpy(&outer, &v->raise_to, sizeof(outer));
    /* An exception of the interpreter's alone is a difference. */
    enum outcome outcome = DIFFERENT;
    if (sigsetjmp(v->raise_to, 0) == 0) {
        outcome = step_to(v, rip, is_block_end, out_undefined);
    }
    memcpy(&v->raise_to, &outer, sizeof(outer));
    v->op = NULL;
    v->block = NULL;
    return outcome;
}

static uint32_t rflags_of(uint16_t status)
{
    return ((status >> 8) & 0xd5u) | (status & 1u) << 11;
}

/* The rest of the image is not in use. */
static bool is_same_x87(const uint8_t *a, const uint8_t *b)
{
    bool is_same = memcmp(a, b, 24) == 0;
    for (size_t i = 32; i < 32 + 8 * 16; i += 16) {
        is_same = is_same && memcmp(a + i, b + i, 10) == 0;
    }
    return is_same;
}

static enum outcome compare(const struct soft_lockstep *l, uint32_t undefined)
{
    const struct registers *a = &l->native, *b = &l->interpreted;
    uint32_t flags = (rflags_of(a->status) ^ rflags_of(b->status)) & ~undefined;
    if (memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0 || a->rip != b->rip || flags ||
        a->mxcsr != b->mxcsr || memcmp(a->vector, b->vector, sizeof(a->vector)) != 0 ||
        !is_same_x87(a->fx, b->fx)) {
        return DIFFERENT;
    }
    for (size_t i = 0; i < l->page_count; i++) {
        if (memcmp(l->page[i].hva, l->page[i].native, GUEST_PAGE_SIZE) != 0) {
            return DIFFERENT;
        }
    }
    return SAME;
}

static void report_registers(const char *who, const struct registers *r)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    log_error("lock-step: %s: rip %" PRIx64 ", status flags %x, mxcsr %x", who, r->rip,
              rflags_of(r->status), r->mxcsr);
    for (int i = 0; i < X86_GPR_COUNT; i += 4) {
        log_error("lock-step: %s:  %s %" PRIx64 "  %s %" PRIx64 "  %s %" PRIx64 "  %s %" PRIx64,
                  who, names[i], r->gpr[i], names[i + 1], r->gpr[i + 1], names[i + 2],
                  r->gpr[i + 2], names[i + 3], r->gpr[i + 3]);
    }
}

static void report_vectors(const struct soft_lockstep *l)
{
    for (int i = 0; i < 16; i++) {
        uint64_t a[4], b[4];
        memcpy(a, l->native.vector[i], sizeof(a));
        memcpy(b, l->interpreted.vector[i], sizeof(b));
        if (memcmp(a, b, sizeof(a)) != 0) {
            log_error("lock-step: ymm%d: translated %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64
                      ", interpreted %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64,
                      i, a[3], a[2], a[1], a[0], b[3], b[2], b[1], b[0]);
        }
    }
    for (int i = 0; i < 512; i++) {
        if (l->native.fx[i] != l->interpreted.fx[i]) {
            log_error("lock-step: x87 image, byte %d: translated %02x, interpreted %02x", i,
                      l->native.fx[i], l->interpreted.fx[i]);
        }
    }
}

static void report_memory(const struct soft_lockstep *l)
{
    for (size_t i = 0; i < l->page_count; i++) {
        const struct page *page = &l->page[i];
        for (size_t k = 0; k < GUEST_PAGE_SIZE; k += 8) {
            uint64_t before, native, now;
            memcpy(&before, page->before + k, 8);
            memcpy(&native, page->native + k, 8);
            memcpy(&now, page->hva + k, 8);
            if (native != now) {
                log_error("lock-step: page %zu, offset 0x%zx: before %" PRIx64
                          ", translated %" PRIx64 ", interpreted %" PRIx64,
                          i, k, before, native, now);
            }
        }
    }
}

/* A part of the block's code. */
static void report_code(const struct soft_vcpu *v, const uint8_t *start, uint32_t size)
{
    uint32_t at = 0;
    while (at < size) {
        struct x86_insn insn;
        char text[128];
        const uint8_t *code = start + at;
        if (x86_decode(code, MIN(size - at, X86_INSN_MAX_LENGTH), X86_CODE_64, &insn) !=
            X86_DECODE_OK) {
            break; /* data behind a call */
        }
        x86_disassemble(&insn, at, text, sizeof(text));
        log_error("lock-step: host:%s %x  %s",
                  native_executable(v->native, code) == v->lockstep->code ? " >" : "", at, text);
        at += insn.length;
    }
}

static noreturn_fn void give_up(struct soft_vcpu *v, uint64_t rip)
{
    struct soft_lockstep *l = v->lockstep;
    log_error("lock-step: translated code and interpreter differ from rip 0x%" PRIx64
              " to 0x%" PRIx64 ", after %" PRIu64 " equal stretches",
              l->start.rip, rip, v->stats.lockstep_equal);
    report_registers("before", &l->start);
    report_registers("translated", &l->native);
    report_registers("interpreted", &l->interpreted);
    report_vectors(l);
    report_memory(l);
    write_registers(v, &l->start);
    while (v->rip - native_block_rip(v, l->block) <= l->block->last_offset) {
        struct x86_insn insn;
        uint8_t bytes[X86_INSN_MAX_LENGTH];
        char text[128];
        if (!soft_read_instruction(v, bytes, &insn)) {
            break;
        }
        x86_disassemble(&insn, v->rip, text, sizeof(text));
        log_error("lock-step: guest: %" PRIx64 "  %s", v->rip, text);
        v->rip += insn.length;
    }
    report_code(v, native_code(v->native, l->block), l->block->code_size);
    report_code(v, native_cold(v->native, l->block), l->block->cold_size);
    invariant(!"translated code does what the interpreter does");
    abort();
}

const uint8_t *soft_lockstep_end(struct soft_vcpu *v, uint64_t rip, bool is_block_end)
{
    struct soft_lockstep *l = v->lockstep;
    if (!l->is_under_way) {
        return NULL;
    }
    v->rip = rip;
    read_registers(v, &l->native);
    if (v->native_mode != l->mode || v->tlb != l->tlb || l->has_too_many_pages) {
        l->is_under_way = false;
        v->stats.lockstep_left_out++;
        return NULL;
    }
    for (size_t i = 0; i < l->page_count; i++) {
        struct page *page = &l->page[i];
        memcpy(page->native, page->hva, GUEST_PAGE_SIZE);
        change_bytes(page->hva, page->native, page->before);
    }
    forbid_writes(v);
    write_registers(v, &l->start);
    uint32_t undefined = 0;
    enum outcome outcome = run_interpreter(v, rip, is_block_end, &undefined);
    read_registers(v, &l->interpreted);
    if (outcome == SAME) {
        outcome = compare(l, undefined);
        /* Translated code may have left in the middle of it. */
        if (outcome == DIFFERENT && soft_is_at_repetition(v)) {
            outcome = NOT_COMPARABLE;
        }
    }
    if (outcome == DIFFERENT && ++l->tries == TRIES) {
        give_up(v, rip);
    }
    for (size_t i = 0; i < l->page_count && outcome != SAME; i++) {
        struct page *page = &l->page[i];
        uint8_t now[GUEST_PAGE_SIZE];
        memcpy(now, page->hva, sizeof(now));
        change_bytes(page->hva, now, outcome == DIFFERENT ? page->before : page->native);
    }
    if (outcome == DIFFERENT) {
        v->stats.lockstep_repeated++;
        l->page_count = 0;
        forbid_writes(v);
        write_registers(v, &l->start);
        return l->code;
    }
    *(outcome == SAME ? &v->stats.lockstep_equal : &v->stats.lockstep_left_out) += 1;
    write_registers(v, &l->native);
    l->is_under_way = false;
    return NULL;
}
