/* Times that come again and again, as cron has them. */
#ifndef MANAGER_INSTANCE_SCHEDULE_H
#define MANAGER_INSTANCE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/core/error.h"

/* A bit for each value. */
struct schedule {
    uint64_t minutes;
    uint32_t hours, days, months, weekdays; /* days from 1 on, months from 1 on, Sunday is 0 */
    bool has_days, has_weekdays;            /* both: either will do, as cron has it */
};

/* "@hourly", "@daily", "@weekly", "@monthly", or five fields: minute, hour, day, month, weekday; each "*", numbers, ranges and
 * lists of them, with "/STEP". Errors: -EINVAL naming the field. */
int must_check schedule_parse(const char *text, struct schedule *out_schedule, struct error *err);
/* Does it fall on that minute? */
bool schedule_matches(const struct schedule *schedule, const struct tm *when);

#endif
