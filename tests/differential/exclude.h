/* Which rows of the instruction table cannot be compared with a native run, and why. */
#ifndef DIFFERENTIAL_EXCLUDE_H
#define DIFFERENTIAL_EXCLUDE_H

#include <stddef.h>

/* NULL: 'row' can be compared. */
const char *exclude_reason(size_t row);

#endif
