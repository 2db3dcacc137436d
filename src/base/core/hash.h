/* Hashes that stay the same: names are made of them. */
#ifndef BASE_CORE_HASH_H
#define BASE_CORE_HASH_H

#include <stdint.h>

/* FNV-1a of 64 bits (draft-eastlake-fnv, section 2). */
static inline uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (const char *at = text; *at != '\0'; at++) {
        hash = (hash ^ (uint8_t)*at) * 0x100000001b3;
    }
    return hash;
}

#endif
