/* Arithmetic on sizes that an untrusted party chose: false instead of a wrapped result. */
#ifndef BASE_CORE_CHECKED_H
#define BASE_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define checked_add(a, b, out_sum)     (!__builtin_add_overflow((a), (b), (out_sum)))
#define checked_mul(a, b, out_product) (!__builtin_mul_overflow((a), (b), (out_product)))

/* Does [start, start + size) lie within [0, limit)? Exact for every value. */
static inline bool range_fits(uint64_t start, uint64_t size, uint64_t limit)
{
    return start <= limit && size <= limit - start;
}

static inline bool ranges_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a_size != 0 && b_size != 0 && (a <= b ? b - a < a_size : a - b < b_size);
}

#endif
