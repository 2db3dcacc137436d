/* Threads that compute for coroutines: packing, unpacking, encryption. The coroutine gives way meanwhile.
 *
 * Threads: everything on the loop's thread but the work itself. */
#ifndef BASE_HOST_WORK_POOL_H
#define BASE_HOST_WORK_POOL_H

#include <stdbool.h>

#include "base/core/error.h"
#include "base/host/event_loop.h"

struct work_pool;

/* With 'thread_count' threads; 0: as many as there are CPUs, at most 8. They exist from then on. */
int must_check work_pool_create(unsigned thread_count, struct event_loop *loop,
                                struct work_pool **out_pool, struct error *err);
/* Nothing is in progress. NULL is fine. */
void work_pool_destroy(struct work_pool *pool);
unsigned work_pool_thread_count(const struct work_pool *pool);
/* Calls fn(ctx) on another thread and returns when it has returned. Outside of a coroutine, or with a pool of NULL, calls it at
 * once. */
void work_pool_run(struct work_pool *pool, void (*fn)(void *ctx), void *ctx);
bool work_pool_is_busy(const struct work_pool *pool);
/* Waits until one piece of work at least is done and its coroutine has gone on. Something is in progress. Not inside of a
 * coroutine. */
void work_pool_wait(struct work_pool *pool);

#endif
