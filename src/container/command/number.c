/* Numbers on hull-oci's command line. */
#include "container/command/number.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int number_parse_signed(const char *text, int64_t *out_value, struct error *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0') {
        return error_set(err, EINVAL, "'%.64s' is no number", text);
    }
    *out_value = value;
    return 0;
}

int number_parse_count(const char *text, unsigned max, unsigned *out_count, struct error *err)
{
    int64_t value;
    int rc = number_parse_signed(text, &value, err);
    if (rc == 0 && (value < 0 || value > (int64_t)max)) {
        rc = error_set(err, ERANGE, "'%.64s' cannot be: 0 to %u", text, max);
    }
    if (rc == 0) {
        *out_count = (unsigned)value;
    }
    return rc;
}

int number_parse_bytes(const char *text, int64_t *out_bytes, struct error *err)
{
    static const char units[] = "kmgt";
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    const char *unit = *end != '\0' ? strchr(units, *end | 0x20) : NULL;
    unsigned shift = unit != NULL ? 10 * (unsigned)(unit - units + 1) : 0;
    const char *rest = unit != NULL ? end + 1 : end;
    if (unit != NULL && (*rest | 0x20) == 'b') {
        rest++;
    }
    if (errno != 0 || end == text || *rest != '\0' || value < -1 || value > (INT64_MAX >> shift)) {
        return error_set(
            err, EINVAL,
            "'%.64s' is no size: bytes, or a number with k, m, g or t, or -1 for no limit", text);
    }
    *out_bytes = value < 0 ? -1 : (int64_t)((uint64_t)value << shift);
    return 0;
}
