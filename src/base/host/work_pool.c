#include "base/host/work_pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "base/host/coroutine.h"

#define MAX_THREADS 8u

/* Lives on the stack of the coroutine that waits for it. */
struct work {
    void (*fn)(void *ctx);
    void *ctx;
    struct coroutine *waiter;
    struct work *next;
};

struct work_list {
    struct work *first, **tail;
};

struct work_pool {
    pthread_t thread[MAX_THREADS];
    unsigned thread_count;
    unsigned in_progress; /* the loop's thread alone */
    struct event_notifier *notifier;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t todo_cond, done_cond;
    struct work_list todo, done;
    bool is_ending;
};

static void list_init(struct work_list *list)
{
    list->first = NULL;
    list->tail = &list->first;
}

static void list_add(struct work_list *list, struct work *work)
{
    work->next = NULL;
    *list->tail = work;
    list->tail = &work->next;
}

static void *run_thread(void *ctx)
{
    struct work_pool *pool = ctx;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (pool->todo.first == NULL && !pool->is_ending) {
            pthread_cond_wait(&pool->todo_cond, &pool->mutex);
        }
        struct work *work = pool->todo.first;
        if (work == NULL) {
            break;
        }
        pool->todo.first = work->next;
        if (work->next == NULL) {
            list_init(&pool->todo);
        }
        pthread_mutex_unlock(&pool->mutex);
        work->fn(work->ctx);
        pthread_mutex_lock(&pool->mutex);
        bool is_first = pool->done.first == NULL;
        list_add(&pool->done, work);
        pthread_cond_signal(&pool->done_cond);
        if (is_first) {
            event_notifier_signal(pool->notifier);
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* Lets those go on whose work is done. */
static void resume_done(struct work_pool *pool, bool waits)
{
    pthread_mutex_lock(&pool->mutex);
    while (waits && pool->done.first == NULL) {
        pthread_cond_wait(&pool->done_cond, &pool->mutex);
    }
    struct work *work = pool->done.first;
    list_init(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
    while (work != NULL) {
        struct work *next = work->next; /* the coroutine's stack may go */
        pool->in_progress--;
        coroutine_resume(work->waiter);
        work = next;
    }
}

static void notified(void *ctx)
{
    resume_done(ctx, false);
}

int work_pool_create(unsigned thread_count, struct event_loop *loop, struct work_pool **out_pool,
                     struct error *err)
{
    struct work_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL) {
        return error_set_errno(err, ENOMEM, "starting threads");
    }
    list_init(&pool->todo);
    list_init(&pool->done);
    (void)pthread_mutex_init(&pool->mutex, NULL); /* these cannot fail on Linux */
    (void)pthread_cond_init(&pool->todo_cond, NULL);
    (void)pthread_cond_init(&pool->done_cond, NULL);
    int rc = event_notifier_create(loop, notified, pool, &pool->notifier, err);
    if (thread_count == 0) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        thread_count = cpus > 0 ? (unsigned)MIN(cpus, (long)MAX_THREADS) : 1;
    }
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    while (rc == 0 && pool->thread_count < MIN(thread_count, MAX_THREADS)) {
        rc = -pthread_create(&pool->thread[pool->thread_count], NULL, run_thread, pool);
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "starting threads");
        } else {
            pool->thread_count++;
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc < 0) {
        work_pool_destroy(pool);
        return rc;
    }
    *out_pool = pool;
    return 0;
}

void work_pool_destroy(struct work_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    invariant(pool->in_progress == 0);
    pthread_mutex_lock(&pool->mutex);
    pool->is_ending = true;
    pthread_cond_broadcast(&pool->todo_cond);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->thread_count; i++) {
        (void)pthread_join(pool->thread[i], NULL);
    }
    event_notifier_destroy(pool->notifier);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->todo_cond);
    pthread_cond_destroy(&pool->done_cond);
    free(pool);
}

unsigned work_pool_thread_count(const struct work_pool *pool)
{
    return pool->thread_count;
}

void work_pool_run(struct work_pool *pool, void (*fn)(void *ctx), void *ctx)
{
    struct work work = {.fn = fn, .ctx = ctx, .waiter = coroutine_self()};
    if (pool == NULL || work.waiter == NULL) {
        fn(ctx);
        return;
    }
    pool->in_progress++;
    pthread_mutex_lock(&pool->mutex);
    list_add(&pool->todo, &work);
    pthread_cond_signal(&pool->todo_cond);
    pthread_mutex_unlock(&pool->mutex);
    coroutine_yield();
}

bool work_pool_is_busy(const struct work_pool *pool)
{
    return pool != NULL && pool->in_progress > 0;
}

void work_pool_wait(struct work_pool *pool)
{
    invariant(pool->in_progress > 0);
    resume_done(pool, true);
}
