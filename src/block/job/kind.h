/* For those who implement a kind of job. */
#ifndef BLOCK_JOB_KIND_H
#define BLOCK_JOB_KIND_H

#include "block/dirty.h"
#include "block/job.h"
#include "block/provider.h"

#define JOB_GRANULARITY 65536u     /* at least */
#define JOB_PIECE_SIZE  (1u << 20) /* bytes that are copied at a time */
#define JOB_WORKERS     8u

struct block_job_ops {
    const char *kind;
    /* It rearranges the chain, and no other job does at the same time. */
    bool changes_chain;
    /* In a coroutine. 0: done; -ECANCELED: job_point said so. */
    int (*run)(struct block_job *job, struct error *err);
    /* After run, outside of any coroutine: closes and frees what the kind's own struct holds, but not the struct. NULL: nothing. */
    void (*cleanup)(struct block_job *job);
    /* It is cancelled: what it waits for outside of this host shall not keep it. NULL: there is nothing of the kind. */
    void (*abandon)(struct block_job *job);
    bool can_complete; /* it waits at a point where it is ready: see job_await_completion */
};

/* The first member of each kind's own struct. */
struct block_job {
    const struct block_job_ops *ops;
    struct block_jobs *jobs;
    struct block_front *front;
    char id[16], disk[32];
    uint64_t done_bytes, total_bytes, speed;
    uint64_t free_ns; /* by the speed: when the next piece may begin */
    uint64_t event_ns,
        breathed_ns; /* the last progress event; the last time that others had a turn */
    bool is_paused, is_cancelled, is_ready, is_complete_wanted, wants_pivot, has_run, is_over;
    int status;
    struct error err;
    struct event_timer *timer;
    struct coroutine_queue waiting; /* for the timer, or for an order */
    struct block_job *next;
};

/* A kind's own struct, of 'size' zeroed bytes, with the common part filled. -EBUSY: the disk has a job that does not go with it. */
int must_check job_create(struct block_jobs *jobs, const struct block_job_options *options,
                          const struct block_job_ops *ops, size_t size, struct block_job **out_job,
                          struct error *err);
/* Starts it; what can fail has been done, else job_abandon frees it. */
void job_start(struct block_job *job);
void job_abandon(struct block_job *job);

/* Between two pieces, with no lock held: waits while the job is paused or ahead of its speed. -ECANCELED: it is to end. */
int must_check job_point(struct block_job *job);
/* A piece of that many bytes is begun: it counts for the speed. */
void job_charge(struct block_job *job, uint64_t bytes);
/* It is done: it counts for the progress. */
void job_did(struct block_job *job, uint64_t bytes);
/* Ready: waits until somebody wants it completed (0) or cancelled. Meanwhile 'fn' may end the wait with its error: it is asked
 * whenever job_wake is called. */
int must_check job_await_completion(struct block_job *job, int (*fn)(struct block_job *job));
void job_wake(struct block_job *job);

/* What is left to be copied, and from where to where. */
struct job_copy {
    struct block_job *job;
    struct block *from; /* NULL: the root, whichever that is at the time */
    struct block *to;
    bool is_locking; /* the guest may change what is copied */
    bool
        writes_zeroes; /* as data: a target that is to stand on something must not leave them out */
    bool is_one_pass;  /* what is marked behind the search's place does not matter now */
    struct dirty_map todo;
    uint64_t at; /* the next search begins here */
    int status;
    struct error err;
};

int must_check job_copy_init(struct job_copy *copy, struct block_job *job, struct block *from,
                             struct block *to, struct error *err);
void job_copy_fini(struct job_copy *copy);
/* What the images from 'first' (NULL: the root) down to above 'end' (NULL: all below) have is to be copied. 'wants_first' false:
 * only where the first has nothing; 'wants_zeroes' false: not where they read as zeros. */
struct job_marking {
    struct block *first, *end;
    bool wants_first, wants_zeroes;
};
int must_check job_copy_mark(struct job_copy *copy, const struct job_marking *marking,
                             struct error *err);
/* Until nothing is left. */
int must_check job_copy_run(struct job_copy *copy, struct error *err);
/* One piece, at most JOB_PIECE_SIZE, with a buffer of that size. Runs of zeros are not written as data. To read the root one has
 * entered the front, or a request of the guest waits. */
int must_check job_copy_read(struct job_copy *copy, uint64_t offset, uint64_t size,
                             uint8_t *buffer);
int must_check job_copy_write(struct job_copy *copy, uint64_t offset, uint64_t size,
                              const uint8_t *buffer);

/* Copies the root to another block while the guest writes: first what there is, and what changes meanwhile is marked again; then
 * what is left, while each change of the guest reaches the other block before the guest learns of its end. So it comes to an end
 * however fast the guest is. */
struct job_sync {
    struct job_copy copy;
    struct block_watch watch;
    bool is_active;
};

/* Follows the guest's changes from now on. Not in a coroutine: drains the disk. */
int must_check job_sync_begin(struct job_sync *sync, struct block_job *job, struct block *to,
                              struct error *err);
/* Until both are the same, and stay so. 'marking' NULL: what shall be copied is marked already. */
int must_check job_sync_run(struct job_sync *sync, const struct job_marking *marking,
                            struct error *err);
/* Has the copying failed since? */
int must_check job_sync_status(const struct job_sync *sync, struct error *err);
/* Holds the guest's requests back, and follows no more. 0: both are the same. The caller releases. */
int must_check job_sync_hold(struct job_sync *sync, struct error *err);
/* In place of these two: follows no more. */
void job_sync_give_up(struct job_sync *sync);
void job_sync_fini(struct job_sync *sync);

/* Runs work(ctx, buffer) in so many coroutines at once, each with a buffer of JOB_PIECE_SIZE, and waits for all. -ENOMEM if none
 * could be started; else the works say themselves how they ended. */
int must_check job_parallel(unsigned count, void (*work)(void *ctx, uint8_t *buffer), void *ctx);

#endif
