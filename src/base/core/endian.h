/* Little-endian access to unaligned bytes. */
#ifndef BASE_CORE_ENDIAN_H
#define BASE_CORE_ENDIAN_H

#include <stdint.h>

#define ENDIAN_DEFINE(bits)                                                                        \
    static inline uint##bits##_t le##bits##_get(const void *from)                                  \
    {                                                                                              \
        uint##bits##_t value;                                                                      \
        __builtin_memcpy(&value, from, sizeof(value));                                             \
        return value;                                                                              \
    }                                                                                              \
    static inline void le##bits##_put(void *to, uint##bits##_t value)                              \
    {                                                                                              \
        __builtin_memcpy(to, &value, sizeof(value));                                               \
    }

/* Every host of Hull is little-endian so far; a big-endian one swaps here. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "big-endian hosts need swaps here");
ENDIAN_DEFINE(16)
ENDIAN_DEFINE(32)
ENDIAN_DEFINE(64)

static inline uint32_t be32_get(const void *from)
{
    return __builtin_bswap32(le32_get(from));
}
static inline void be32_put(void *to, uint32_t value)
{
    le32_put(to, __builtin_bswap32(value));
}
static inline uint16_t be16_get(const void *from)
{
    return __builtin_bswap16(le16_get(from));
}
static inline void be16_put(void *to, uint16_t value)
{
    le16_put(to, __builtin_bswap16(value));
}
static inline uint64_t be64_get(const void *from)
{
    return __builtin_bswap64(le64_get(from));
}
static inline void be64_put(void *to, uint64_t value)
{
    le64_put(to, __builtin_bswap64(value));
}

#endif
