#include "block/protocol/remote/blocking.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/core/invariant.h"

#define DEFAULT_SECONDS 30

static struct blocking *blocking_from_remote(struct remote *remote)
{
    return container_of(remote, struct blocking, remote);
}

int blocking_timeout_s(const struct blocking *blocking)
{
    uint64_t ns = blocking->remote.options.timeout_ns;
    return ns == 0 ? DEFAULT_SECONDS : (int)MAX(ns / 1000000000, 1u);
}

static void list_init(struct blocking_list *list)
{
    list->first = NULL;
    list->tail = &list->first;
}

static void list_add(struct blocking_list *list, struct blocking_job *job)
{
    job->next = NULL;
    *list->tail = job;
    list->tail = &job->next;
}

static void job_free(struct blocking_job *job)
{
    free(job->data);
    free(job);
}

/* --- On the threads --- */

/* Locked. A session that nobody uses any more is closed, unlocked meanwhile. */
static void session_put(struct blocking *blocking, struct blocking_session *session)
{
    if (session == NULL || --session->users > 0) {
        return;
    }
    pthread_mutex_unlock(&blocking->mutex);
    blocking->ops->close(blocking, session->session);
    free(session);
    pthread_mutex_lock(&blocking->mutex);
}

/* Unlocked. */
static struct blocking_session *session_open(struct blocking *blocking, unsigned generation,
                                             struct blocking_job *job)
{
    struct blocking_session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        job->status = error_set_errno(&job->err, ENOMEM, "connecting");
        return NULL;
    }
    session->generation = generation;
    session->users = 1;
    job->status = blocking->ops->open(blocking, &session->session, &job->info, &job->err);
    if (job->status < 0) {
        free(session);
        return NULL;
    }
    return session;
}

/* Locked at the start and in the end. '*own' is the thread's session where each has one. */
static void run_job(struct blocking *blocking, struct blocking_session **own,
                    struct blocking_job *job)
{
    struct blocking_session **at = blocking->ops->is_shared ? &blocking->shared : own;
    struct blocking_session *session = *at;
    if (session != NULL && session->generation != job->generation) {
        *at = NULL;
        session_put(blocking, session);
        session = NULL;
    }
    if (session == NULL) {
        pthread_mutex_unlock(&blocking->mutex);
        session = session_open(blocking, job->generation, job);
        pthread_mutex_lock(&blocking->mutex);
        if (session == NULL) {
            job->status = job->command != NULL ? -ENOTCONN : job->status;
            return;
        }
        *at = session;
    }
    if (job->command == NULL) {
        return;
    }
    session->users++;
    pthread_mutex_unlock(&blocking->mutex);
    job->status = blocking->ops->perform(blocking, session->session, job, &job->err);
    pthread_mutex_lock(&blocking->mutex);
    session_put(blocking, session);
}

static void *run_thread(void *ctx)
{
    struct blocking *blocking = ctx;
    struct blocking_session *own = NULL;
    pthread_mutex_lock(&blocking->mutex);
    while (!blocking->is_ending) {
        struct blocking_job *job = blocking->todo.first;
        if (job == NULL) {
            /* Nothing is left open of a connection that is lost. */
            if (own != NULL && own->generation != blocking->generation) {
                struct blocking_session *old = own;
                own = NULL;
                session_put(blocking, old);
            } else {
                pthread_cond_wait(&blocking->todo_cond, &blocking->mutex);
            }
            continue;
        }
        blocking->todo.first = job->next;
        if (job->next == NULL) {
            list_init(&blocking->todo);
        }
        run_job(blocking, &own, job);
        bool is_first = blocking->done.first == NULL;
        list_add(&blocking->done, job);
        pthread_cond_signal(&blocking->done_cond);
        if (is_first) {
            event_notifier_signal(blocking->notifier);
        }
    }
    session_put(blocking, own);
    pthread_mutex_unlock(&blocking->mutex);
    return NULL;
}

/* --- On the loop's thread --- */

static void give(struct blocking *blocking, struct blocking_job *job)
{
    blocking->in_progress++;
    pthread_mutex_lock(&blocking->mutex);
    job->generation = blocking->generation;
    list_add(&blocking->todo, job);
    pthread_cond_signal(&blocking->todo_cond);
    pthread_mutex_unlock(&blocking->mutex);
}

static void give_connection(struct blocking *blocking)
{
    struct blocking_job *job = calloc(1, sizeof(*job));
    blocking->wants_connection = job == NULL; /* no memory: at the next occasion */
    if (job != NULL) {
        give(blocking, job);
    }
}

static void job_done(struct blocking *blocking, struct blocking_job *job)
{
    struct remote *remote = &blocking->remote;
    struct remote_command *command = job->command;
    int status = job->status;
    if (job->generation != blocking->generation) {
        job_free(job);
        return;
    }
    if (command == NULL) {
        struct remote_info info = job->info;
        struct error err = job->err;
        job_free(job);
        if (status < 0) {
            remote_lost(remote, &err);
        } else {
            remote_connected(remote, &info);
        }
        return;
    }
    if (status == -ENOTCONN) {
        struct error err = job->err;
        job_free(job);
        remote_lost(remote, &err);
        return;
    }
    if (status == 0 && job->op == BLOCK_READ) {
        memcpy(command->data, job->data, (size_t)job->size_bytes);
    } else if (status == 0 && job->op == BLOCK_MAP) {
        *command->extent = job->extent;
    }
    job_free(job);
    remote_done(remote, command, status);
}

static void take_done(void *ctx)
{
    struct blocking *blocking = ctx;
    pthread_mutex_lock(&blocking->mutex);
    struct blocking_job *job = blocking->done.first;
    list_init(&blocking->done);
    pthread_mutex_unlock(&blocking->mutex);
    while (job != NULL) {
        struct blocking_job *next = job->next;
        blocking->in_progress--;
        job_done(blocking, job);
        job = next;
    }
    if (blocking->wants_connection && blocking->in_progress == 0) {
        give_connection(blocking);
    }
}

void blocking_connect(struct remote *remote)
{
    struct blocking *blocking = blocking_from_remote(remote);
    if (blocking->in_progress > 0) {
        blocking->wants_connection = true; /* when the last call of before has returned */
    } else {
        give_connection(blocking);
    }
}

void blocking_start(struct remote *remote, struct remote_command *command)
{
    struct blocking *blocking = blocking_from_remote(remote);
    struct blocking_job *job = calloc(1, sizeof(*job));
    bool has_data = command->op == BLOCK_READ || command->op == BLOCK_WRITE;
    uint8_t *data = has_data ? malloc((size_t)command->size_bytes) : NULL;
    if (job == NULL || (has_data && data == NULL)) {
        free(job);
        free(data);
        remote->has_own_timeouts = false; /* the core's time limit tries it anew */
        return;
    }
    *job = (struct blocking_job){.op = command->op,
                                 .may_unmap = command->may_unmap,
                                 .offset_bytes = command->offset_bytes,
                                 .size_bytes = command->size_bytes,
                                 .data = data,
                                 .command = command};
    if (command->op == BLOCK_WRITE) {
        memcpy(data, command->data, (size_t)command->size_bytes);
    }
    give(blocking, job);
}

void blocking_disconnect(struct remote *remote)
{
    struct blocking *blocking = blocking_from_remote(remote);
    blocking->wants_connection = false;
    remote->has_own_timeouts = true;
    if (!blocking->has_started) {
        return;
    }
    pthread_mutex_lock(&blocking->mutex);
    blocking->generation++;
    struct blocking_job *job = blocking->todo.first;
    list_init(&blocking->todo);
    struct blocking_session *shared = blocking->shared;
    blocking->shared = NULL;
    session_put(blocking, shared);
    pthread_cond_broadcast(&blocking->todo_cond);
    pthread_mutex_unlock(&blocking->mutex);
    while (job != NULL) {
        struct blocking_job *next = job->next;
        blocking->in_progress--;
        job_free(job);
        job = next;
    }
}

void blocking_wait(struct remote *remote, int timeout_ms)
{
    struct blocking *blocking = blocking_from_remote(remote);
    struct timespec end;
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    uint64_t ns = (uint64_t)end.tv_nsec + (uint64_t)MAX(timeout_ms, 0) * 1000000;
    end.tv_sec += (time_t)(ns / 1000000000);
    end.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&blocking->mutex);
    int rc = 0;
    while (blocking->done.first == NULL && rc == 0) {
        rc = timeout_ms < 0 ? pthread_cond_wait(&blocking->done_cond, &blocking->mutex)
                            : pthread_cond_timedwait(&blocking->done_cond, &blocking->mutex, &end);
    }
    pthread_mutex_unlock(&blocking->mutex);
    take_done(blocking);
}

void blocking_close(struct remote *remote)
{
    struct blocking *blocking = blocking_from_remote(remote);
    if (blocking->has_started) {
        pthread_mutex_lock(&blocking->mutex);
        blocking->is_ending = true;
        pthread_cond_broadcast(&blocking->todo_cond);
        pthread_mutex_unlock(&blocking->mutex);
        for (unsigned i = 0; i < blocking->thread_count; i++) {
            (void)pthread_join(blocking->thread[i], NULL);
        }
        /* A thread may have made this one after the connection was given up. */
        pthread_mutex_lock(&blocking->mutex);
        session_put(blocking, blocking->shared);
        pthread_mutex_unlock(&blocking->mutex);
        while (blocking->done.first != NULL) {
            struct blocking_job *job = blocking->done.first;
            blocking->done.first = job->next;
            job_free(job);
        }
        pthread_mutex_destroy(&blocking->mutex);
        pthread_cond_destroy(&blocking->todo_cond);
        pthread_cond_destroy(&blocking->done_cond);
    }
    event_notifier_destroy(blocking->notifier);
    blocking->ops->free(blocking);
}

static int start_threads(struct blocking *blocking, struct error *err)
{
    pthread_condattr_t attr;
    list_init(&blocking->todo);
    list_init(&blocking->done);
    (void)pthread_condattr_init(&attr); /* none of these can fail on Linux */
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&blocking->mutex, NULL);
    (void)pthread_cond_init(&blocking->todo_cond, NULL);
    (void)pthread_cond_init(&blocking->done_cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    blocking->has_started = true;
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    int code = 0;
    while (blocking->thread_count < MIN(blocking->ops->thread_count, BLOCKING_MAX_THREADS) &&
           code == 0) {
        code =
            pthread_create(&blocking->thread[blocking->thread_count], NULL, run_thread, blocking);
        blocking->thread_count += code == 0;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? 0 : error_set_errno(err, code, "starting threads");
}

int blocking_open(struct blocking *blocking, const struct blocking_ops *ops,
                  struct block **out_block, struct error *err)
{
    blocking->ops = ops;
    blocking->remote.has_own_timeouts = true;
    int rc = event_notifier_create(blocking->remote.block.loop, take_done, blocking,
                                   &blocking->notifier, err);
    if (rc == 0) {
        rc = start_threads(blocking, err);
    }
    if (rc < 0) {
        remote_close(&blocking->remote.block);
        return rc;
    }
    return remote_open(&blocking->remote, out_block, err);
}
