#include "engine/soft/halt_poll.h"

#include "base/core/compiler.h"

#define NS_PER_SECOND 1000000000ull
#define START_NS      10000u
/* From what an interrupt may cost to a hundred time slices. */
#define MIN_HOLD_NS 500000u
#define MAX_HOLD_NS 256000000u
/* Some ticks of the host's: its scheduler looks for idle CPUs then. */
#define MAX_SHARED_NS 12000000u

static uint64_t ticks_of(uint64_t ns, uint64_t hz)
{
    return (uint64_t)((unsigned __int128)ns * hz / NS_PER_SECOND);
}

void soft_halt_poll_init(struct soft_halt_poll *poll, uint32_t max_ns, uint64_t hz)
{
    *poll = (struct soft_halt_poll){
        .start = ticks_of(MIN(START_NS, max_ns), hz),
        .max = ticks_of(max_ns, hz),
        .min_hold = ticks_of(MIN_HOLD_NS, hz),
        .max_hold = ticks_of(MAX_HOLD_NS, hz),
        .max_shared = ticks_of(MAX_SHARED_NS, hz),
    };
}

static bool is_held(const struct soft_halt_poll *poll, uint64_t now)
{
    return poll->hold && (int64_t)(poll->held_until - now) > 0;
}

uint64_t soft_halt_poll_begin(struct soft_halt_poll *poll, uint64_t now)
{
    return is_held(poll, now) ? 0 : poll->length;
}

void soft_halt_poll_end(struct soft_halt_poll *poll, uint64_t now, uint64_t waited)
{
    if (waited <= poll->length || is_held(poll, now)) {
        return;
    }
    if (waited > poll->max) {
        poll->length /= 2;
        poll->length = poll->length < poll->start ? 0 : poll->length;
    } else {
        poll->length = MIN(MAX(poll->length * 2, poll->start), poll->max);
    }
}

void soft_halt_poll_host_is_busy(struct soft_halt_poll *poll, uint64_t since, uint64_t now)
{
    bool is_again = poll->hold && (int64_t)(since - poll->held_until) < (int64_t)poll->hold;
    poll->hold = MIN(is_again ? poll->hold * 2 : MAX(now - since, poll->min_hold), poll->max_hold);
    poll->held_until = now + poll->hold;
    poll->length = 0;
    poll->is_shared = false;
}

bool soft_halt_poll_may_share(struct soft_halt_poll *poll, uint64_t now)
{
    if (!poll->is_shared || now - poll->shared_last >= poll->max_shared) {
        poll->is_shared = true;
        poll->shared_since = now;
    }
    poll->shared_last = now;
    if (now - poll->shared_since < poll->max_shared) {
        return true;
    }
    soft_halt_poll_host_is_busy(poll, poll->shared_since, now);
    return false;
}

void soft_halt_poll_is_alone(struct soft_halt_poll *poll)
{
    poll->is_shared = false;
}
