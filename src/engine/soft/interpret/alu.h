/* The arithmetic of the host on values of the guest: each function does one instruction and takes the host's status flags, so
 * that even those which the manuals leave undefined are what this CPU gives. Flags: AX after LAHF and SETO AL. */
#ifndef ENGINE_SOFT_INTERPRET_ALU_H
#define ENGINE_SOFT_INTERPRET_ALU_H

#include <stdint.h>

#include "base/core/compiler.h"

#define SOFT_STATUS_CF 0x0100u
#define SOFT_STATUS_PF 0x0400u
#define SOFT_STATUS_AF 0x1000u
#define SOFT_STATUS_ZF 0x4000u
#define SOFT_STATUS_SF 0x8000u
#define SOFT_STATUS_OF 0x0001u

#define ALU_TAKE "\n\tlahf\n\tseto %%al"
/* CF, and all status flags, from the guest's into the host's. */
#define ALU_GIVE_CF "btl $8, %k[in]\n\t"

#define ALU_BINARY(name, bits, text)                                                               \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint16_t *status)                         \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__(text " %[b], %[a]" ALU_TAKE : "=&a"(out), [a] "+q"(a) : [b] "q"(b) : "cc");        \
        *status = out;                                                                             \
        return a;                                                                                  \
    }
#define ALU_CARRY(name, bits, text)                                                                \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint16_t *status)                         \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__(ALU_GIVE_CF text " %[b], %[a]" ALU_TAKE                                            \
                : "=&a"(out), [a] "+q"(a)                                                          \
                : [b] "q"(b), [in] "q"((uint32_t)*status)                                          \
                : "cc");                                                                           \
        *status = out;                                                                             \
        return a;                                                                                  \
    }
/* No result but flags. */
#define ALU_COMPARE(name, bits, text)                                                              \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint##bits##_t b,       \
                                                         uint16_t *status)                         \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__(text " %[b], %[a]" ALU_TAKE : "=&a"(out) : [a] "q"(a), [b] "q"(b) : "cc");         \
        *status = out;                                                                             \
        return a;                                                                                  \
    }
#define ALU_UNARY(name, bits, text)                                                                \
    static always_inline uint##bits##_t alu_##name##bits(uint##bits##_t a, uint16_t *status)       \
    {                                                                                              \
        uint16_t out;                                                                              \
        __asm__(ALU_GIVE_CF text " %[a]" ALU_TAKE                                                  \
                : "=&a"(out), [a] "+q"(a)                                                          \
                : [in] "q"((uint32_t)*status)                                                      \
                : "cc");                                                                           \
        *status = out;                                                                             \
        return a;                                                                                  \
    }

#define ALU_SIZES(kind, name)                                                                      \
    kind(name, 8, #name "b") kind(name, 16, #name "w") kind(name, 32, #name "l")                   \
        kind(name, 64, #name "q")

ALU_SIZES(ALU_BINARY, add)
ALU_SIZES(ALU_BINARY, or)
ALU_SIZES(ALU_CARRY, adc)
ALU_SIZES(ALU_CARRY, sbb)
ALU_SIZES(ALU_BINARY, and)
ALU_SIZES(ALU_BINARY, sub)
ALU_SIZES(ALU_BINARY, xor)
ALU_SIZES(ALU_COMPARE, cmp)
ALU_SIZES(ALU_COMPARE, test)
ALU_SIZES(ALU_UNARY, inc)
ALU_SIZES(ALU_UNARY, dec)
ALU_SIZES(ALU_UNARY, neg)

#define ALU_NOT(bits)                                                                              \
    static always_inline uint##bits##_t alu_not##bits(uint##bits##_t a, uint16_t *status)          \
    {                                                                                              \
        (void)status;                                                                              \
        return (uint##bits##_t) ~a;                                                                \
    }
ALU_NOT(8)
ALU_NOT(16)
ALU_NOT(32)
ALU_NOT(64)

/* Condition 'code' (low four bits of Jcc, SETcc, CMOVcc). */
static always_inline bool alu_condition(uint16_t status, unsigned code)
{
    bool is_less = ((status >> 15) ^ status) & 1;
    bool result = false;
    switch (code >> 1) {
    case 0:
        result = status & SOFT_STATUS_OF;
        break;
    case 1:
        result = status & SOFT_STATUS_CF;
        break;
    case 2:
        result = status & SOFT_STATUS_ZF;
        break;
    case 3:
        result = status & (SOFT_STATUS_CF | SOFT_STATUS_ZF);
        break;
    case 4:
        result = status & SOFT_STATUS_SF;
        break;
    case 5:
        result = status & SOFT_STATUS_PF;
        break;
    case 6:
        result = is_less;
        break;
    case 7:
        result = is_less || (status & SOFT_STATUS_ZF);
        break;
    }
    return result != (code & 1);
}

#endif
