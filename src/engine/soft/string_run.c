/* See string_run.h. No vector registers here: the guest's may be in the host's. */
#include "engine/soft/string_run.h"

#include "engine/soft/memory_access.h"
#include "engine/soft/translate/native_string.h"

/* Elements from 'gva' to the end of its page that lies in the run's direction. */
static always_inline uint64_t elements_left(uint64_t gva, uint32_t size, bool is_down)
{
    uint64_t offset = gva & (GUEST_PAGE_SIZE - 1);
    return is_down ? offset / size + 1 : (GUEST_PAGE_SIZE - offset) / size;
}

#define REPEAT(name)                                                                               \
    __asm__ volatile("rep " name : "+S"(from), "+D"(to), "+c"(count), "+a"(rax)::"memory")
#define REPEAT_UNTIL(prefix, name)                                                                 \
    __asm__ volatile(prefix " " name "; lahf; seto %%al"                                           \
                     : "+S"(from), "+D"(to), "+c"(count), "+a"(rax)::"memory", "cc")
#define REPEAT_SIZES(base)                                                                         \
    switch (s->size_bytes) {                                                                       \
    case 1:                                                                                        \
        REPEAT(base "b");                                                                          \
        break;                                                                                     \
    case 2:                                                                                        \
        REPEAT(base "w");                                                                          \
        break;                                                                                     \
    case 4:                                                                                        \
        REPEAT(base "l");                                                                          \
        break;                                                                                     \
    default:                                                                                       \
        REPEAT(base "q");                                                                          \
        break;                                                                                     \
    }
#define COMPARE_SIZES(prefix, base)                                                                \
    switch (s->size_bytes) {                                                                       \
    case 1:                                                                                        \
        REPEAT_UNTIL(prefix, base "b");                                                            \
        break;                                                                                     \
    case 2:                                                                                        \
        REPEAT_UNTIL(prefix, base "w");                                                            \
        break;                                                                                     \
    case 4:                                                                                        \
        REPEAT_UNTIL(prefix, base "l");                                                            \
        break;                                                                                     \
    default:                                                                                       \
        REPEAT_UNTIL(prefix, base "q");                                                            \
        break;                                                                                     \
    }

/* On the host; returns how many elements are left. */
static uint64_t run_on_host(struct soft_vcpu *v, const struct soft_string *s, const uint8_t *from,
                            uint8_t *to, uint64_t count)
{
    uint64_t rax = v->gpr[X86_RAX];
    if (unlikely(s->is_down)) {
        __asm__ volatile("std");
    }
    switch (s->kind) {
    case SOFT_STRING_MOVS:
        REPEAT_SIZES("movs");
        break;
    case SOFT_STRING_STOS:
        REPEAT_SIZES("stos");
        break;
    case SOFT_STRING_CMPS:
        if (s->is_repne) {
            COMPARE_SIZES("repne", "cmps");
        } else {
            COMPARE_SIZES("repe", "cmps");
        }
        v->status = (uint16_t)rax;
        break;
    default:
        if (s->is_repne) {
            COMPARE_SIZES("repne", "scas");
        } else {
            COMPARE_SIZES("repe", "scas");
        }
        v->status = (uint16_t)rax;
        break;
    }
    if (unlikely(s->is_down)) {
        __asm__ volatile("cld");
    }
    return count;
}

static void load_element(struct soft_vcpu *v, uint32_t size, const uint8_t *from)
{
    uint64_t *rax = &v->gpr[X86_RAX];
    switch (size) {
    case 1:
        *rax = (*rax & ~(uint64_t)0xff) | *from;
        break;
    case 2:
        *rax = (*rax & ~(uint64_t)0xffff) | *(const volatile soft_u16 *)from;
        break;
    case 4:
        *rax = *(const volatile soft_u32 *)from;
        break;
    default:
        *rax = *(const volatile soft_u64 *)from;
        break;
    }
}

uint64_t soft_string_run_at(struct soft_vcpu *v, const struct soft_string *s, uint64_t from,
                            uint64_t to, uint8_t *out, uint64_t count)
{
    uint32_t size = s->size_bytes;
    const uint8_t *in = NULL;
    if (s->kind == SOFT_STRING_MOVS || s->kind == SOFT_STRING_LODS || s->kind == SOFT_STRING_CMPS) {
        in = soft_fast_read(v, from, size);
        if (!in) {
            return 0;
        }
        count = MIN(count, elements_left(from, size, s->is_down));
    }
    if (s->kind == SOFT_STRING_LODS) {
        load_element(v, size, in);
        return 1;
    }
    count = MIN(count, elements_left(to, size, s->is_down));
    return count - run_on_host(v, s, in, out, count);
}

uint64_t soft_string_run(struct soft_vcpu *v, const struct soft_string *s, uint64_t from,
                         uint64_t to, uint64_t count)
{
    uint8_t *out = NULL;
    if (s->kind != SOFT_STRING_LODS) {
        out = soft_fast_access(v, to, s->size_bytes, s->kind < SOFT_STRING_CMPS);
        if (!out) {
            return 0;
        }
    }
    return soft_string_run_at(v, s, from, to, out, count);
}

static bool is_filled(struct soft_vcpu *v, uint64_t gva, uint32_t size, bool is_write)
{
    return soft_fast_access(v, gva, size, is_write) ||
           native_on_miss(v, gva, size | (is_write ? NATIVE_FILL_WRITE : 0)) == NATIVE_MISS_FILLED;
}

/* The TLB's second level, and the guest's tables, for the next element. False: the interpreter is to see to it. */
static bool fill(struct soft_vcpu *v, const struct soft_string *s, uint64_t from, uint64_t to)
{
    bool has_source = s->kind != SOFT_STRING_STOS && s->kind != SOFT_STRING_SCAS;
    return (!has_source || is_filled(v, from, s->size_bytes, false)) &&
           (s->kind == SOFT_STRING_LODS ||
            is_filled(v, to, s->size_bytes, s->kind < SOFT_STRING_CMPS));
}

const uint8_t *native_on_string(struct soft_vcpu *v, const struct native_site *site,
                                uint32_t description)
{
    struct soft_string s = {
        .kind = (uint8_t)(description & NATIVE_STRING_KIND),
        .size_bytes = (uint8_t)(1u << (description >> NATIVE_STRING_SIZE_SHIFT & 3)),
        .is_down = v->flags & X86_FLAG_DF,
        .is_repne = description & NATIVE_STRING_REPNE,
    };
    bool is_repeated = description & NATIVE_STRING_REP;
    uint64_t base = v->segment_base[description >> NATIVE_STRING_SEGMENT_SHIFT];
    uint64_t mask = description & NATIVE_STRING_32 ? UINT32_MAX : UINT64_MAX;
    uint64_t count = is_repeated ? v->gpr[X86_RCX] & mask : 1;
    bool shows_old_flags = s.kind >= SOFT_STRING_CMPS && v->vm->is_intel;
    uint16_t status = v->status;
    while (count) {
        uint64_t from = (v->gpr[X86_RSI] & mask) + base, to = v->gpr[X86_RDI] & mask;
        uint64_t done = soft_string_run(v, &s, from, to, count);
        if (!done && fill(v, &s, from, to)) {
            done = soft_string_run(v, &s, from, to, count);
        }
        if (unlikely(!done)) {
            v->status = shows_old_flags ? status : v->status;
            return NULL;
        }
        uint64_t bytes = s.is_down ? -(done * s.size_bytes) : done * s.size_bytes;
        if (s.kind != SOFT_STRING_STOS && s.kind != SOFT_STRING_SCAS) {
            v->gpr[X86_RSI] = (v->gpr[X86_RSI] + bytes) & mask;
        }
        if (s.kind != SOFT_STRING_LODS) {
            v->gpr[X86_RDI] = (v->gpr[X86_RDI] + bytes) & mask;
        }
        count -= done;
        if (is_repeated) {
            v->gpr[X86_RCX] = count;
        }
        if (soft_string_is_over(v, &s)) {
            break;
        }
        if (count && unlikely(atomic_load_explicit(&v->requests, memory_order_relaxed))) {
            v->status = shows_old_flags ? status : v->status;
            return NULL;
        }
    }
    v->native_budget -= v->vm->icount.is_on;
    return (const uint8_t *)(site + 1);
}
