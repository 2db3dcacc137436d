/* Random register contents with the values that matter over-represented. */
#ifndef DIFFERENTIAL_STATE_H
#define DIFFERENTIAL_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "case.h"
#include "random.h"

uint64_t state_random_gpr(struct random *random);
void state_random_vector(struct random *random, void *out_bytes, size_t size);
/* Fills gpr, rflags and xsave. */
void state_random(struct random *random, bool is_32bit, struct case_state *out_state);

#endif
