/* Numbers on hull-oci's command line. */
#ifndef CONTAINER_COMMAND_NUMBER_H
#define CONTAINER_COMMAND_NUMBER_H

#include <stdint.h>

#include "base/core/error.h"

/* 0 to 'max'. */
int must_check number_parse_count(const char *text, unsigned max, unsigned *out_count,
                                  struct error *err);
/* A decimal number, perhaps negative. */
int must_check number_parse_signed(const char *text, int64_t *out_value, struct error *err);
/* A size in bytes with k, m, g, t (powers of 1024), or -1. */
int must_check number_parse_bytes(const char *text, int64_t *out_bytes, struct error *err);

#endif
