#include "base/core/size.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/core/checked.h"

static const char units[] = "KMGT";

/* Leading decimal digits; false if there are none or they do not fit. */
static bool digits_parse(const char *text, uint64_t *out_number, const char **out_rest)
{
    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    uint64_t number = 0;
    for (; isdigit((unsigned char)*text); text++) {
        if (!checked_mul(number, (uint64_t)10, &number) ||
            !checked_add(number, (uint64_t)(*text - '0'), &number)) {
            return false;
        }
    }
    *out_number = number;
    *out_rest = text;
    return true;
}

int size_parse(const char *text, uint64_t bare_unit, uint64_t *out_bytes, struct error *err)
{
    static const char accepted[] = "a number with K, M, G or T, as in 512M or 2G";
    uint64_t number;
    const char *rest;
    if (!digits_parse(text, &number, &rest)) {
        return error_set(err, EINVAL, "'%s' is no size: %s", text, accepted);
    }
    uint64_t unit = bare_unit;
    if (*rest != '\0') {
        const char *letter = strchr(units, toupper((unsigned char)*rest));
        bool is_tail_known =
            rest[1] == '\0' || strcasecmp(rest + 1, "b") == 0 || strcasecmp(rest + 1, "ib") == 0;
        if (letter == NULL || !is_tail_known) {
            return error_set(err, EINVAL, "'%s' is no size: %s", text, accepted);
        }
        unit = 1024ull << (10 * (letter - units));
    }
    uint64_t bytes;
    if (!checked_mul(number, unit, &bytes)) {
        return error_set(err, ERANGE, "'%s' is too large: %s", text, accepted);
    }
    *out_bytes = bytes;
    return 0;
}

int number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out_number,
                 struct error *err)
{
    uint64_t number;
    const char *rest;
    if (!digits_parse(text, &number, &rest) || *rest != '\0') {
        return error_set(err, EINVAL, "'%s' is no number: %llu to %llu", text,
                         (unsigned long long)min, (unsigned long long)max);
    }
    if (number < min || number > max) {
        return error_set(err, ERANGE, "%s is out of range: %llu to %llu", text,
                         (unsigned long long)min, (unsigned long long)max);
    }
    *out_number = number;
    return 0;
}

char *size_format(uint64_t bytes, char *out_text, size_t size)
{
    int unit = -1;
    uint64_t scale = 1;
    while (unit < 3 && bytes / scale >= 1024) {
        scale *= 1024;
        unit++;
    }
    if (unit < 0) {
        (void)snprintf(out_text, size, "%llu", (unsigned long long)bytes);
    } else if (bytes % scale == 0) {
        (void)snprintf(out_text, size, "%llu%c", (unsigned long long)(bytes / scale), units[unit]);
    } else {
        (void)snprintf(out_text, size, "%.1f%c", (double)bytes / (double)scale, units[unit]);
    }
    return out_text;
}
