/* Work on a disk that is in use, for minutes or hours: copying, mostly. A job is a coroutine, with helpers, that gets on with it
 * piece by piece and stops between two pieces when it is told to.
 *
 * Threads: the loop's. */
#ifndef BLOCK_JOB_H
#define BLOCK_JOB_H

#include "block/front.h"

#define BLOCK_KEPT_JOBS 16 /* that have ended, for those who ask later */
#define BLOCK_MAX_JOBS  32 /* that run */

enum block_job_state {
    /* Up to ready it runs. */
    BLOCK_JOB_RUNNING,
    BLOCK_JOB_PAUSED,
    BLOCK_JOB_READY, /* a mirror: both are the same, and stay so, until it is completed or cancelled */
    BLOCK_JOB_DONE,
    BLOCK_JOB_CANCELLED,
    BLOCK_JOB_FAILED,
};

struct block_job_info {
    const char *id;   /* "job1" */
    const char *kind; /* "stream" */
    const char *disk; /* "disk0" */
    enum block_job_state state;
    uint64_t done_bytes, total_bytes; /* the total may grow */
    uint64_t speed;                   /* bytes a second; 0: no limit */
    const char *failure;              /* of a failed one, in words; else "" */
};

enum block_job_event {
    BLOCK_JOB_PROGRESS, /* a few a second at most */
    BLOCK_JOB_STATE,    /* paused, goes on, ready */
    BLOCK_JOB_ENDED,
};

struct block_job;
struct block_jobs;

/* 'event' may be called from within any call of this room; it must not call back. */
int must_check block_jobs_create(struct event_loop *loop,
                                 void (*event)(void *ctx, const struct block_job_info *job,
                                               enum block_job_event event),
                                 void *ctx, struct block_jobs **out_jobs, struct error *err);
/* Cancels all and waits until they have ended. The loop does not run. */
void block_jobs_stop(struct block_jobs *jobs);
/* Stopped, and before the fronts are closed. NULL is fine. */
void block_jobs_destroy(struct block_jobs *jobs);
/* Running ones and those that ended of late, oldest first. */
void block_jobs_list(const struct block_jobs *jobs,
                     void (*fn)(void *ctx, const struct block_job_info *job), void *ctx);
/* The newest of the disk's; NULL: none. */
struct block_job *block_jobs_of(const struct block_jobs *jobs, const struct block_front *front);
/* One because of which the disk's chain must stay as it is; NULL: none. Backups, and mirrors of the whole disk until they are told
 * to have the guest go on elsewhere, do not mind. */
struct block_job *block_jobs_of_chain(const struct block_jobs *jobs,
                                      const struct block_front *front);
/* One that runs; NULL: there is none of that name. */
struct block_job *block_jobs_find(const struct block_jobs *jobs, const char *id);
unsigned block_jobs_running(const struct block_jobs *jobs);

void block_job_get_info(const struct block_job *job, struct block_job_info *out_info);
void block_job_pause(struct block_job *job);
void block_job_resume(struct block_job *job);
/* It ends soon. */
void block_job_cancel(struct block_job *job);
/* A mirror that is ready ends well, and the target takes the disk's place if 'wants_pivot'. -EBUSY: it is not ready, or another job
 * needs the disk's chain as it is; -EOPNOTSUPP: it is no such job. */
int must_check block_job_complete(struct block_job *job, bool wants_pivot, struct error *err);
/* Bytes a second; 0: no limit. */
void block_job_set_speed(struct block_job *job, uint64_t speed);

/* What each job is told. -EBUSY: a job of the front's is in the way. */
struct block_job_options {
    struct block_front *front;
    const char *disk; /* its name, copied */
    uint64_t speed;   /* bytes a second; 0: no limit */
};

/* Pulls what 'target' (the root, or an image of the chain that is open for writing) does not have out of the images below, down to
 * 'base', which it stands on afterwards (NULL: on nothing). 'base_name' and 'base_format' are what its header shall say of that.
 * The images between are closed. */
int must_check block_stream_start(struct block_jobs *jobs, const struct block_job_options *options,
                                  struct block *target, struct block *base, const char *base_name,
                                  const char *base_format, struct error *err);

/* Writes into 'base' (an image of the chain that is open for writing) what the images from 'top' down to it have. 'top' is the
 * root: then 'base' becomes the root as soon as both are the same, and the old one is made empty; or an image below the root: then
 * the one above it, which is open for writing too, stands on 'base' afterwards. 'base_name' and 'base_format' are what the header
 * above 'base' shall say of it then. The images between are closed. */
int must_check block_commit_start(struct block_jobs *jobs, const struct block_job_options *options,
                                  struct block *top, struct block *base, const char *base_name,
                                  const char *base_format, struct error *err);

/* Where a job copies to: the job's as soon as it is passed to one. */
struct block_job_target {
    struct block *block;
    struct block *veil; /* part of it: see veil.h */
    bool is_empty;      /* but for its first 64 KiB it reads as zeros */
};

struct block_create_options;

struct block_job_target_options {
    const char *format;
    uint64_t size_bytes; /* of the disk: of a raw target that is larger the rest is left alone */
    /* The image is made first, and what is there is lost; NULL: it is there. */
    const struct block_create_options *create;
};

/* An image in 'file', which is marked as unfinished until the job has done all. 'file' is the target's from then on, also on
 * failure. Not in a coroutine. */
int must_check block_job_open_target(struct block *file,
                                     const struct block_job_target_options *options,
                                     struct block_job_target *out_target, struct error *err);

struct block_bitmap;

enum block_mirror_sync {
    BLOCK_MIRROR_FULL,
    /* What the root alone has; in the end the target stands on what the root stands on. */
    BLOCK_MIRROR_TOP,
    /* What the guest changes from now on; in the end the target stands on the root, unless it was there before. */
    BLOCK_MIRROR_NONE,
    /* What the bitmap has; the rest is in the target. */
    BLOCK_MIRROR_INCREMENTAL,
};

struct block_mirror_options {
    enum block_mirror_sync sync;
    bool is_existing;            /* the target was there before */
    struct block_bitmap *bitmap; /* it begins anew when the target is finished; NULL: none */
};

/* Makes the target (the job's also on failure) the same as the disk, and keeps it so until it is completed. */
int must_check block_mirror_start(struct block_jobs *jobs, const struct block_job_options *options,
                                  const struct block_mirror_options *mirror,
                                  const struct block_job_target *target, struct error *err);

struct block_backup_options {
    /* With a bitmap: what it has set, and it begins anew at this moment if the backup ends well. Else all. */
    struct block_bitmap *bitmap;
    /* All, although there is a bitmap, which begins anew. */
    bool is_full;
    /* What the header of the target shall say that it stands on, in the end; NULL: nothing. */
    const char *backing_name, *backing_format;
};

/* Copies the disk as it is now to the target (the job's also on failure), whatever the guest changes meanwhile. */
int must_check block_backup_start(struct block_jobs *jobs, const struct block_job_options *options,
                                  const struct block_backup_options *backup,
                                  const struct block_job_target *target, struct error *err);

#endif
