/* Bits and alignment. */
#ifndef BASE_CORE_BITS_H
#define BASE_CORE_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define BIT(n)           (1ull << (n))
#define BITS(hi, lo)     ((~0ull >> (63 - (hi))) & (~0ull << (lo)))
#define FIELD(v, hi, lo) (((uint64_t)(v)&BITS(hi, lo)) >> (lo))

static inline uint64_t align_down(uint64_t value, uint64_t power_of_two)
{
    return value & ~(power_of_two - 1);
}

/* Wraps to 0 when there is no such value: check the input first where it is untrusted. */
static inline uint64_t align_up(uint64_t value, uint64_t power_of_two)
{
    return (value + power_of_two - 1) & ~(power_of_two - 1);
}

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

#endif
