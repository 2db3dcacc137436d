/* Sizes as users write them: "512M", "2G"; powers of 1024. */
#ifndef BASE_CORE_SIZE_H
#define BASE_CORE_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

/* Parses a number with K, M, G or T behind it (also "MiB", "mb"; not more than one fraction-free number). A bare number
 * counts units of 'bare_unit' bytes: 1 for disks, 1 MiB for memory. Errors name only the reason and what is accepted:
 * the caller puts the option before it. */
int must_check size_parse(const char *text, uint64_t bare_unit, uint64_t *out_bytes,
                          struct error *err);

/* A number without unit between 'min' and 'max'. */
int must_check number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out_number,
                            struct error *err);

/* "512M", "1.5G", "700" as people read it. Returns 'out_text'. */
char *size_format(uint64_t bytes, char *out_text, size_t size);

#endif
