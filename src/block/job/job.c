/* What all jobs share: the list, orders, speed, events. */
#include "block/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "block/job/kind.h"

#define EVENT_INTERVAL_NS 300000000u
#define BREATH_NS         10000000u

struct record {
    char id[16], disk[32];
    const char *kind;
    enum block_job_state state;
    uint64_t done_bytes, total_bytes;
    char failure[ERROR_TEXT_SIZE];
};

struct block_jobs {
    struct event_loop *loop;
    void (*event)(void *ctx, const struct block_job_info *job, enum block_job_event event);
    void *ctx;
    struct block_job *first; /* oldest first */
    unsigned number;
    struct event_notifier *reaper;
    struct record kept[BLOCK_KEPT_JOBS]; /* oldest first */
    unsigned kept_count;
};

static enum block_job_state state_of(const struct block_job *job)
{
    if (!job->has_run) {
        return job->is_paused  ? BLOCK_JOB_PAUSED
               : job->is_ready ? BLOCK_JOB_READY
                               : BLOCK_JOB_RUNNING;
    }
    return job->status == 0            ? BLOCK_JOB_DONE
           : job->status == -ECANCELED ? BLOCK_JOB_CANCELLED
                                       : BLOCK_JOB_FAILED;
}

void block_job_get_info(const struct block_job *job, struct block_job_info *out_info)
{
    enum block_job_state state = state_of(job);
    *out_info = (struct block_job_info){
        .id = job->id,
        .kind = job->ops->kind,
        .disk = job->disk,
        .state = state,
        .done_bytes = job->done_bytes,
        .total_bytes = job->total_bytes,
        .speed = job->speed,
        .failure = state == BLOCK_JOB_FAILED ? job->err.text : "",
    };
}

static void tell(const struct block_job *job, enum block_job_event event)
{
    struct block_job_info info;
    block_job_get_info(job, &info);
    job->jobs->event(job->jobs->ctx, &info, event);
}

static void keep_record(struct block_jobs *jobs, const struct block_job *job)
{
    if (jobs->kept_count == BLOCK_KEPT_JOBS) {
        memmove(jobs->kept, jobs->kept + 1, (BLOCK_KEPT_JOBS - 1) * sizeof(jobs->kept[0]));
        jobs->kept_count--;
    }
    struct record *record = &jobs->kept[jobs->kept_count++];
    *record = (struct record){.kind = job->ops->kind,
                              .state = state_of(job),
                              .done_bytes = job->done_bytes,
                              .total_bytes = job->total_bytes};
    memcpy(record->id, job->id, sizeof(record->id));
    memcpy(record->disk, job->disk, sizeof(record->disk));
    if (record->state == BLOCK_JOB_FAILED) {
        (void)snprintf(record->failure, sizeof(record->failure), "%s", job->err.text);
    }
}

static void free_job(struct block_job *job)
{
    if (job->ops->cleanup != NULL) {
        job->ops->cleanup(job);
    }
    event_timer_destroy(job->timer);
    free(job);
}

/* On the loop's own stack: what a job has opened is closed here, and not below its last completion. */
static void reap(void *ctx)
{
    struct block_jobs *jobs = ctx;
    struct block_job **at = &jobs->first;
    while (*at != NULL) {
        struct block_job *job = *at;
        if (!job->is_over) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        job->has_run = true; /* what it had open is closed before anybody hears of it */
        keep_record(jobs, job);
        struct block_job_info info;
        block_job_get_info(job, &info);
        struct record copy = jobs->kept[jobs->kept_count - 1];
        info.id = copy.id;
        info.disk = copy.disk;
        info.failure = copy.failure;
        free_job(job);
        jobs->event(jobs->ctx, &info, BLOCK_JOB_ENDED);
    }
}

int block_jobs_create(struct event_loop *loop,
                      void (*event)(void *ctx, const struct block_job_info *job,
                                    enum block_job_event event),
                      void *ctx, struct block_jobs **out_jobs, struct error *err)
{
    struct block_jobs *jobs = calloc(1, sizeof(*jobs));
    if (jobs == NULL) {
        return error_set_errno(err, ENOMEM, "disk jobs");
    }
    *jobs = (struct block_jobs){.loop = loop, .event = event, .ctx = ctx};
    int rc = event_notifier_create(loop, reap, jobs, &jobs->reaper, err);
    if (rc < 0) {
        free(jobs);
        return rc;
    }
    *out_jobs = jobs;
    return 0;
}

void block_jobs_stop(struct block_jobs *jobs)
{
    for (struct block_job *job = jobs->first; job != NULL; job = job->next) {
        block_job_cancel(job);
    }
    for (;;) {
        reap(jobs);
        if (jobs->first == NULL) {
            break;
        }
        if (!coroutine_run_ready()) {
            block_wait_any();
        }
    }
}

void block_jobs_destroy(struct block_jobs *jobs)
{
    if (jobs != NULL) {
        invariant(jobs->first == NULL);
        event_notifier_destroy(jobs->reaper);
        free(jobs);
    }
}

void block_jobs_list(const struct block_jobs *jobs,
                     void (*fn)(void *ctx, const struct block_job_info *job), void *ctx)
{
    for (unsigned i = 0; i < jobs->kept_count; i++) {
        const struct record *record = &jobs->kept[i];
        fn(ctx, &(struct block_job_info){.id = record->id,
                                         .kind = record->kind,
                                         .disk = record->disk,
                                         .state = record->state,
                                         .done_bytes = record->done_bytes,
                                         .total_bytes = record->total_bytes,
                                         .failure = record->failure});
    }
    for (const struct block_job *job = jobs->first; job != NULL; job = job->next) {
        struct block_job_info info;
        block_job_get_info(job, &info);
        fn(ctx, &info);
    }
}

struct block_job *block_jobs_of(const struct block_jobs *jobs, const struct block_front *front)
{
    struct block_job *newest = NULL;
    for (struct block_job *job = jobs->first; job != NULL; job = job->next) {
        newest = job->front == front ? job : newest;
    }
    return newest;
}

struct block_job *block_jobs_of_chain(const struct block_jobs *jobs,
                                      const struct block_front *front)
{
    for (struct block_job *job = jobs->first; job != NULL; job = job->next) {
        bool exchanges_root = job->is_complete_wanted && job->wants_pivot;
        if (job->front == front && (job->ops->changes_chain || exchanges_root)) {
            return job;
        }
    }
    return NULL;
}

struct block_job *block_jobs_find(const struct block_jobs *jobs, const char *id)
{
    for (struct block_job *job = jobs->first; job != NULL; job = job->next) {
        if (strcmp(job->id, id) == 0 && !job->is_over) {
            return job;
        }
    }
    return NULL;
}

unsigned block_jobs_running(const struct block_jobs *jobs)
{
    unsigned count = 0;
    for (const struct block_job *job = jobs->first; job != NULL; job = job->next) {
        count++;
    }
    return count;
}

void job_wake(struct block_job *job)
{
    coroutine_queue_wake_all(&job->waiting);
}

void block_job_pause(struct block_job *job)
{
    if (!job->is_paused) {
        job->is_paused = true;
        tell(job, BLOCK_JOB_STATE);
    }
}

void block_job_resume(struct block_job *job)
{
    if (job->is_paused) {
        job->is_paused = false;
        tell(job, BLOCK_JOB_STATE);
        job_wake(job);
    }
}

void block_job_cancel(struct block_job *job)
{
    job->is_cancelled = true;
    if (job->ops->abandon != NULL) {
        job->ops->abandon(job);
    }
    job_wake(job);
}

void block_job_set_speed(struct block_job *job, uint64_t speed)
{
    job->speed = speed;
    job->free_ns = 0;
    job_wake(job);
}

int block_job_complete(struct block_job *job, bool wants_pivot, struct error *err)
{
    if (!job->ops->can_complete) {
        return error_set(err, EOPNOTSUPP, "job %s: a %s ends by itself", job->id, job->ops->kind);
    }
    if (!job->is_ready) {
        return error_set(err, EBUSY, "job %s: is not ready yet: its state says when it is",
                         job->id);
    }
    if (wants_pivot && !job->ops->changes_chain) {
        const struct block_job *other = block_jobs_of_chain(job->jobs, job->front);
        if (other != NULL && other != job) {
            return error_set(err, EBUSY,
                             "job %s: job %s (%s) works on the images of %s: when it has ended",
                             job->id, other->id, other->ops->kind, job->disk);
        }
    }
    job->wants_pivot = wants_pivot;
    job->is_complete_wanted = true;
    job_wake(job);
    return 0;
}

static void timer_fired(void *ctx)
{
    job_wake(ctx);
}

int job_create(struct block_jobs *jobs, const struct block_job_options *options,
               const struct block_job_ops *ops, size_t size, struct block_job **out_job,
               struct error *err)
{
    const struct block_job *other =
        ops->changes_chain ? block_jobs_of_chain(jobs, options->front) : NULL;
    if (other != NULL) {
        return error_set(err, EBUSY, "%s: job %s (%s) works on its images: one such at a time",
                         options->disk, other->id, other->ops->kind);
    }
    if (block_jobs_running(jobs) >= BLOCK_MAX_JOBS) {
        return error_set(err, EBUSY, "%s: %u jobs are running: no more at a time", options->disk,
                         BLOCK_MAX_JOBS);
    }
    struct block_job *job = calloc(1, size);
    if (job == NULL) {
        return error_set_errno(err, ENOMEM, "%s: %s", options->disk, ops->kind);
    }
    job->ops = ops;
    job->jobs = jobs;
    job->front = options->front;
    job->speed = options->speed;
    (void)snprintf(job->disk, sizeof(job->disk), "%s", options->disk);
    int rc = event_timer_create(jobs->loop, timer_fired, job, &job->timer, err);
    if (rc < 0) {
        free(job);
        return rc;
    }
    *out_job = job;
    return 0;
}

void job_abandon(struct block_job *job)
{
    free_job(job);
}

static void run(void *ctx)
{
    struct block_job *job = ctx;
    job->status = job->ops->run(job, &job->err);
    if (job->status < 0 && job->is_cancelled) {
        job->status = -ECANCELED; /* whatever failed in its course */
    }
}

static void run_ended(void *ctx)
{
    struct block_job *job = ctx;
    job->is_over = true;
    event_timer_disarm(job->timer);
    event_notifier_signal(job->jobs->reaper);
}

void job_start(struct block_job *job)
{
    struct block_jobs *jobs = job->jobs;
    struct block_job **at = &jobs->first;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = job;
    (void)snprintf(job->id, sizeof(job->id), "job%u", ++jobs->number);
    job->breathed_ns = clock_monotonic_ns();
    if (coroutine_start(run, run_ended, job) < 0) {
        job->status = error_set_errno(&job->err, ENOMEM, "starting a job");
        run_ended(job);
    }
}

static uint64_t wait_until(const struct block_job *job, uint64_t now_ns)
{
    if (job->speed > 0 && job->free_ns > now_ns) {
        return job->free_ns;
    }
    return now_ns - job->breathed_ns > BREATH_NS ? now_ns : 0;
}

int job_point(struct block_job *job)
{
    while (!job->is_cancelled) {
        uint64_t now_ns = clock_monotonic_ns();
        uint64_t until_ns = wait_until(job, now_ns);
        if (!job->is_paused && until_ns == 0) {
            return 0;
        }
        if (!job->is_paused) {
            event_timer_arm(job->timer, until_ns);
        }
        coroutine_queue_wait(&job->waiting);
        job->breathed_ns = clock_monotonic_ns();
    }
    return -ECANCELED;
}

void job_charge(struct block_job *job, uint64_t bytes)
{
    if (job->speed > 0) {
        uint64_t from_ns = MAX(job->free_ns, clock_monotonic_ns());
        job->free_ns = from_ns + (uint64_t)((double)bytes * 1e9 / (double)job->speed);
    }
}

void job_did(struct block_job *job, uint64_t bytes)
{
    uint64_t now_ns = clock_monotonic_ns();
    job->done_bytes += bytes;
    if (now_ns - job->event_ns >= EVENT_INTERVAL_NS) {
        job->event_ns = now_ns;
        tell(job, BLOCK_JOB_PROGRESS);
    }
}

int job_await_completion(struct block_job *job, int (*fn)(struct block_job *job))
{
    job->is_ready = true;
    tell(job, BLOCK_JOB_STATE);
    for (;;) {
        int rc = fn(job);
        if (rc < 0 || job->is_cancelled) {
            return rc < 0 ? rc : -ECANCELED;
        }
        if (job->is_complete_wanted && !job->is_paused) {
            return 0;
        }
        coroutine_queue_wait(&job->waiting);
    }
}
