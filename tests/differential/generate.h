/* Makes cases from the instruction table. */
#ifndef DIFFERENTIAL_GENERATE_H
#define DIFFERENTIAL_GENERATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"
#include "case.h"
#include "cpu/x86/decode.h"

struct generator;

/* 'only': a mnemonic, or NULL for all. */
int must_check generator_create(const char *only, struct generator **out_generator,
                                struct error *err);
void generator_destroy(struct generator *generator);

/* Case 'index' of 'seed', always the same one. */
void generator_make(const struct generator *generator, uint64_t seed, uint64_t index,
                    struct case_input *out_case);

/* The data pages of a batch, and the read-only page. */
void generator_fill(uint64_t seed, uint64_t index, uint8_t *out_data, size_t size);

/* Why no case is drawn from 'row'; NULL: there are. */
const char *generator_why_not(const struct generator *generator, size_t row);

#endif
