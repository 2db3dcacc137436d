/* Which rows of the instruction table cannot be compared with a native run, and why. */
#ifndef DIFFERENTIAL_EXCLUDE_H
#define DIFFERENTIAL_EXCLUDE_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/x86/decode.h"

/* NULL: 'row' can be compared. */
const char *exclude_reason(size_t row);

/* Why the host's CPU may run 'bytes' (at least 15), which the decoder calls undefined; NULL: both must say #UD. */
const char *exclude_undefined(const uint8_t *bytes, enum x86_code_size code_size);

#endif
