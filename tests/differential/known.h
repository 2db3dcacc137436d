/* Cases that once differed: each run of the program begins with them. */
#ifndef DIFFERENTIAL_KNOWN_H
#define DIFFERENTIAL_KNOWN_H

#include <stddef.h>

#include "case.h"

extern const size_t known_count;

/* Fills in case 'index'; what is not part of it is random, by 'seed'. Returns its title. */
const char *known_make(size_t index, uint64_t seed, struct case_input *out_case);

#endif
