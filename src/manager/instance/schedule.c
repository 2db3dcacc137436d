#include "manager/instance/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS 5

static const struct field {
    const char *name;
    unsigned first, last;
} fields[FIELDS] = {
    {"minute", 0, 59}, {"hour", 0, 23}, {"day", 1, 31}, {"month", 1, 12}, {"weekday", 0, 7},
};

static bool take_number(const char **text, unsigned *out)
{
    unsigned value = 0, digits = 0;
    for (; **text >= '0' && **text <= '9' && digits < 3; (*text)++, digits++) {
        value = value * 10 + (unsigned)(**text - '0');
    }
    *out = value;
    return digits != 0;
}

/* One of a list: "*", "3", "1-5", each with "/2". */
static bool take_range(const char **text, const struct field *field, uint64_t *out_bits)
{
    unsigned first = field->first, last = field->last, step = 1;
    if (**text == '*') {
        (*text)++;
    } else {
        if (!take_number(text, &first)) {
            return false;
        }
        last = first;
        if (**text == '-') {
            (*text)++;
            if (!take_number(text, &last)) {
                return false;
            }
        }
    }
    if (**text == '/') {
        (*text)++;
        if (!take_number(text, &step) || step == 0) {
            return false;
        }
    }
    if (first < field->first || last > field->last || first > last) {
        return false;
    }
    for (unsigned i = first; i <= last; i += step) {
        *out_bits |= UINT64_C(1) << i;
    }
    return true;
}

static int parse_field(const char *text, const struct field *field, uint64_t *out_bits,
                       struct error *err)
{
    *out_bits = 0;
    const char *rest = text;
    bool is_good = take_range(&rest, field, out_bits);
    while (is_good && *rest == ',') {
        rest++;
        is_good = take_range(&rest, field, out_bits);
    }
    return is_good && *rest == '\0'
               ? 0
               : error_set(err, EINVAL, "%s '%.20s': '*', or numbers from %u to %u, as 1,10-20/5",
                           field->name, text, field->first, field->last);
}

static const char *find_name(const char *text)
{
    static const char *const names[][2] = {
        {"@hourly", "0 * * * *"},
        {"@daily", "0 0 * * *"},
        {"@weekly", "0 0 * * 0"},
        {"@monthly", "0 0 1 * *"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(text, names[i][0]) == 0) {
            return names[i][1];
        }
    }
    return text;
}

int schedule_parse(const char *text, struct schedule *out, struct error *err)
{
    char word[FIELDS][64], more;
    uint64_t bits[FIELDS];
    if (sscanf(find_name(text), "%63s %63s %63s %63s %63s %c", word[0], word[1], word[2], word[3],
               word[4], &more) != FIELDS) {
        return error_set(err, EINVAL,
                         "'%.40s': @hourly, @daily, @weekly, @monthly, or five fields: minute hour "
                         "day month weekday",
                         text);
    }
    for (size_t i = 0; i < FIELDS; i++) {
        int rc = parse_field(word[i], &fields[i], &bits[i], err);
        if (rc < 0) {
            return rc;
        }
    }
    bits[4] |= bits[4] >> 7 & 1; /* Sunday is 0 and 7 */
    *out = (struct schedule){
        .minutes = bits[0],
        .hours = (uint32_t)bits[1],
        .days = (uint32_t)bits[2],
        .months = (uint32_t)bits[3],
        .weekdays = (uint32_t)bits[4],
        .has_days = word[2][0] != '*',
        .has_weekdays = word[4][0] != '*',
    };
    return 0;
}

bool schedule_matches(const struct schedule *schedule, const struct tm *when)
{
    bool day = schedule->days >> when->tm_mday & 1;
    bool weekday = schedule->weekdays >> when->tm_wday & 1;
    bool is_day = schedule->has_days && schedule->has_weekdays ? day || weekday : day && weekday;
    return is_day && (schedule->minutes >> when->tm_min & 1) != 0 &&
           (schedule->hours >> when->tm_hour & 1) != 0 &&
           (schedule->months >> (when->tm_mon + 1) & 1) != 0;
}
