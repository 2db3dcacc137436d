/* A leaky bucket: what was done fills it, time empties it, and who finds it full waits. Pure arithmetic. */
#ifndef BLOCK_FILTER_BUCKET_H
#define BLOCK_FILTER_BUCKET_H

#include <stdint.h>

#include "block/filter.h"

struct bucket {
    struct block_throttle_limit limit;
    double level;       /* what has not leaked yet at 'limit.rate' */
    double burst_level; /* the same at 'limit.burst', so that a burst has a rate as well */
};

/* Other limits: what is in it stays. */
void bucket_set(struct bucket *bucket, const struct block_throttle_limit *limit);
/* 'ns' have passed. */
void bucket_leak(struct bucket *bucket, uint64_t ns);
/* How long the next request has to wait; 0: it may go. */
uint64_t bucket_wait_ns(const struct bucket *bucket);
void bucket_add(struct bucket *bucket, double amount);

#endif
