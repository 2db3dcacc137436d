/* Read-modify-write of the memory operand, not locked. */
#ifndef ENGINE_SOFT_INTERPRET_CHANGE_H
#define ENGINE_SOFT_INTERPRET_CHANGE_H

#include "engine/soft/interpret/operand.h"

/* memory = function(memory, b) with the fault of the write before anything is done. */
#define CHANGE_MEMORY(bits, result_of_old)                                                         \
    uint64_t gva = soft_linear(v, op, bits / 8, true);                                             \
    soft_u##bits *at = soft_fast_write(v, gva, bits / 8);                                          \
    if (likely(at)) {                                                                              \
        uint##bits##_t old = *at;                                                                  \
        *at = result_of_old;                                                                       \
    } else {                                                                                       \
        uint16_t status = v->status;                                                               \
        soft_check_change(v, op, gva, bits / 8);                                                   \
        uint##bits##_t old = soft_load##bits(v, op, gva);                                          \
        uint##bits##_t result = result_of_old;                                                     \
        uint16_t new_status = v->status;                                                           \
        v->status = status;                                                                        \
        soft_store##bits(v, op, gva, result);                                                      \
        v->status = new_status;                                                                    \
    }

#endif
