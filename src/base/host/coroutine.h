/* Coroutines: functions with a stack of their own that can stop in the middle and go on later, so that code with many
 * waits for I/O in it reads from top to bottom.
 *
 * Threads: a coroutine belongs to the thread that started it, for ever. Only one runs at a time on a thread, and it gives way
 * at coroutine_yield (and what calls it) alone: between two of those nothing else changes what it looks at. */
#ifndef BASE_HOST_COROUTINE_H
#define BASE_HOST_COROUTINE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/core/compiler.h"

struct coroutine;

typedef void (*coroutine_fn)(void *ctx);

/* Runs fn(ctx) as a coroutine until it yields for the first time or ends; inside of another coroutine too, which waits that
 * long. When fn has returned, after(ctx) is called (NULL: nothing) outside of the coroutine, whose stack is free then.
 * Errors: -ENOMEM, and fn has not run. */
int must_check coroutine_start(coroutine_fn fn, coroutine_fn after, void *ctx);
/* The one that runs now; NULL: none does. */
struct coroutine *coroutine_self(void);
/* Gives way until somebody resumes this one. */
void coroutine_yield(void);
/* Lets a coroutine that has yielded go on: at once, or, inside of another coroutine, as soon as control is back at the
 * thread's own stack. Exactly once for each yield. */
void coroutine_resume(struct coroutine *coroutine);
/* For those who wait on the thread's own stack, perhaps below a callback of this module: runs the coroutines that can go on.
 * False: there were none. */
bool coroutine_run_ready(void);
/* Frees the stacks that this thread keeps for later. */
void coroutine_trim(void);

/* Those who wait for something, first come first served. All zeros: empty. */
struct coroutine_queue {
    struct coroutine *first, *last;
};

void coroutine_queue_wait(struct coroutine_queue *queue);
/* False: nobody waits. */
bool coroutine_queue_wake_one(struct coroutine_queue *queue);
void coroutine_queue_wake_all(struct coroutine_queue *queue);

/* All zeros: unlocked. Not recursive. Handed over in order: nobody overtakes those who wait. */
struct coroutine_mutex {
    bool is_locked;
    struct coroutine_queue waiting;
};

void coroutine_mutex_lock(struct coroutine_mutex *mutex);
void coroutine_mutex_unlock(struct coroutine_mutex *mutex);

#endif
