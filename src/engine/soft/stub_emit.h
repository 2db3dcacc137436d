/* Private to the stubs: the bytes of one stub. */
#ifndef ENGINE_SOFT_STUB_EMIT_H
#define ENGINE_SOFT_STUB_EMIT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/soft/stub.h"

#define STUB_MAX_SIZE 256

/* The canonical instruction alone: the key of the cache. */
struct stub_op {
    uint8_t bytes[X86_INSN_MAX_LENGTH + 1];
    uint8_t size;
};

void stub_encode_op(const struct x86_insn *insn, const struct soft_stub_shape *shape,
                    struct stub_op *out_op);

/* Fills 'out_code' and returns its size; *out_op_offset is where the instruction proper stands. */
size_t stub_emit(const struct soft_stub_shape *shape, const struct stub_op *op,
                 uint8_t out_code[STUB_MAX_SIZE], size_t *out_op_offset);

/* The way out of a stub that faulted, returning 'result'. */
size_t stub_emit_recovery(enum soft_stub_result result, bool has_avx,
                          uint8_t out_code[STUB_MAX_SIZE]);

#endif
