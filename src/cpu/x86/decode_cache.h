/* A cache in front of the decoder: instructions whose bytes up to displacement and immediate have been met before take a third
 * of the time. The results are those of x86_decode.
 *
 * Threads: one at a time for each cache. */
#ifndef CPU_X86_DECODE_CACHE_H
#define CPU_X86_DECODE_CACHE_H

#include "cpu/x86/decode.h"

#define X86_DECODE_CACHE_BITS 11

struct x86_decode_cache_entry { /* in two lines of the CPU's caches */
    uint64_t key;               /* the bytes, and the code size in the highest one; 0: empty */
    bool is_signed;
    struct x86_insn insn;
} __attribute__((aligned(64)));

/* Zeroed memory is an empty one. */
struct x86_decode_cache {
    struct x86_decode_cache_entry entry[1u << X86_DECODE_CACHE_BITS];
};

enum x86_decode_status x86_decode_cached(struct x86_decode_cache *cache, const uint8_t *bytes,
                                         size_t available, enum x86_code_size code_size,
                                         struct x86_insn *out_insn);

#endif
