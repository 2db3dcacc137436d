/* process.scheduler, as sched_setattr(2) takes it. */
#include <sched.h>
#include <stddef.h>

#include "container/spec/read.h"

#define AT(member) offsetof(struct spec_scheduler, member)

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6 /* of linux/sched.h, which does not go together with sched.h */
#endif

static bool is_realtime(const struct spec_scheduler *scheduler)
{
    return scheduler->policy == SCHED_FIFO || scheduler->policy == SCHED_RR;
}

static int check(struct reader *reader, const struct node *node,
                 const struct spec_scheduler *scheduler)
{
    if (is_realtime(scheduler) && scheduler->priority == 0) {
        return reader_fail(reader, node, "priority", "SCHED_FIFO and SCHED_RR need one, 1 to 99");
    }
    if (!is_realtime(scheduler) && scheduler->priority != 0) {
        return reader_fail(reader, node, "priority", "is for SCHED_FIFO and SCHED_RR only");
    }
    bool has_times =
        scheduler->runtime_ns != 0 || scheduler->deadline_ns != 0 || scheduler->period_ns != 0;
    if (has_times != (scheduler->policy == SCHED_DEADLINE)) {
        return reader_fail(reader, node, "runtime",
                           "SCHED_DEADLINE and only it has runtime, deadline and period");
    }
    return 0;
}

int read_scheduler(struct reader *reader, const struct node *node, const struct field *unused,
                   void *out)
{
    static const struct field fields[] = {
        {"policy", read_name, AT(policy), true, .names = &spec_scheduler_policy_names},
        {"nice", read_i32, AT(nice), false, -20, 19},
        {"priority", read_u32, AT(priority), false, 0, 99},
        {"flags", read_flags, AT(flags), .names = &spec_scheduler_flag_names},
        {"runtime", read_u64, AT(runtime_ns)},
        {"deadline", read_u64, AT(deadline_ns)},
        {"period", read_u64, AT(period_ns)},
    };
    struct spec_scheduler *scheduler = out;
    scheduler->is_set = true;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), scheduler);
    return rc < 0 ? rc : check(reader, node, scheduler);
}
