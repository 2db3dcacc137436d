/* invariant(x): we did wrong if x is false. Checked in release builds too; ends the program with the
 * place. Never for what a guest, a file or a peer can cause. */
#ifndef BASE_CORE_INVARIANT_H
#define BASE_CORE_INVARIANT_H

#include "base/core/compiler.h"

noreturn_fn void invariant_failed(const char *expression, const char *file, int line);

#define invariant(x)                                                                               \
    do {                                                                                           \
        if (unlikely(!(x))) {                                                                      \
            invariant_failed(#x, __FILE__, __LINE__);                                              \
        }                                                                                          \
    } while (0)

#endif
