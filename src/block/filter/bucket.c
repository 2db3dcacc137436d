#include "block/filter/bucket.h"

#include "base/core/bits.h"

#define NS_PER_S 1e9

/* Without a burst a disk may still run ahead a little: a stop after each request would cost more than it is meant to. */
#define SLACK_S 0.1

/* What may be in it before the next one waits. A burst of L seconds at B over a rate of R: it gains B - R a second, and is to be
 * full after L. */
static double room(const struct block_throttle_limit *limit)
{
    double slack = (double)limit->rate * SLACK_S;
    double burst = limit->burst == 0 ? 0
                                     : (double)(limit->burst - limit->rate) *
                                           (double)MAX(limit->burst_length_s, 1u);
    return MAX(slack, burst);
}

void bucket_set(struct bucket *bucket, const struct block_throttle_limit *limit)
{
    bucket->limit = *limit;
    /* What was fine by the old limits is no debt by the new ones. */
    bucket->level = limit->rate == 0 ? 0 : MIN(bucket->level, room(limit));
    bucket->burst_level =
        limit->burst == 0 ? 0 : MIN(bucket->burst_level, (double)limit->burst * SLACK_S);
}

static double leak(double level, uint64_t rate, uint64_t ns)
{
    double rest = level - (double)rate * ((double)ns / NS_PER_S);
    return rest > 0 ? rest : 0;
}

void bucket_leak(struct bucket *bucket, uint64_t ns)
{
    bucket->level = leak(bucket->level, bucket->limit.rate, ns);
    bucket->burst_level = leak(bucket->burst_level, bucket->limit.burst, ns);
}

static uint64_t time_to_leak(double amount, uint64_t rate)
{
    double ns = amount / (double)rate * NS_PER_S;
    return ns <= 0 ? 0 : ns > 1e18 ? (uint64_t)1e18 : (uint64_t)ns + 1;
}

uint64_t bucket_wait_ns(const struct bucket *bucket)
{
    const struct block_throttle_limit *limit = &bucket->limit;
    if (limit->rate == 0) {
        return 0;
    }
    uint64_t wait_ns = time_to_leak(bucket->level - room(limit), limit->rate);
    if (limit->burst != 0) {
        double burst_room = (double)limit->burst * SLACK_S;
        uint64_t burst_ns = time_to_leak(bucket->burst_level - burst_room, limit->burst);
        wait_ns = MAX(wait_ns, burst_ns);
    }
    return wait_ns;
}

void bucket_add(struct bucket *bucket, double amount)
{
    if (bucket->limit.rate != 0) {
        bucket->level += amount;
        bucket->burst_level += bucket->limit.burst != 0 ? amount : 0;
    }
}
