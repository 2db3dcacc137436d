/* Backup: the disk as it was when the job began. What the guest is about to change is copied first. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/bitmap.h"
#include "block/image.h"
#include "block/job/kind.h"
#include "block/remote.h"
#include "block/veil.h"

struct backup {
    struct block_job job;
    struct job_copy copy;  /* copy.todo: what nobody has begun to copy */
    struct dirty_map busy; /* what somebody copies now */
    struct coroutine_queue copied;
    struct block_watch watch;
    struct block *target, *veil;
    bool is_target_empty, is_incremental;
    struct block_bitmap *bitmap;
    struct dirty_map frozen; /* of the bitmap, as it was: comes back if the backup fails */
    char *backing_name, *backing_format;
};

/* Copies a run that nobody has begun with; a failure is in copy.status. 'has_entered': leaves the front when it has been read. */
static void copy_run(struct backup *backup, uint64_t offset, uint64_t size, uint8_t *buffer,
                     bool has_entered)
{
    struct job_copy *copy = &backup->copy;
    dirty_map_clear(&copy->todo, offset, size);
    dirty_map_set(&backup->busy, offset, size);
    int rc = job_copy_read(copy, offset, size, buffer);
    if (has_entered) {
        block_front_leave(backup->job.front);
    }
    if (rc == 0) {
        rc = job_copy_write(copy, offset, size, buffer);
    }
    dirty_map_clear(&backup->busy, offset, size);
    if (rc == 0) {
        job_did(&backup->job, size);
    }
    coroutine_queue_wake_all(&backup->copied);
}

static bool is_busy(const struct backup *backup, uint64_t offset, uint64_t end)
{
    uint64_t at, size;
    return dirty_map_next(&backup->busy, offset, 1, &at, &size) && at < end;
}

/* The guest's change waits until what it is about to change is copied, or the backup has failed. */
static void before(struct block_watch *watch, uint64_t offset, uint64_t size)
{
    struct backup *backup = container_of(watch, struct backup, watch);
    struct job_copy *copy = &backup->copy;
    uint64_t end = offset + size, at, run;
    void *buffer = NULL;
    while (copy->status == 0 && dirty_map_next(&copy->todo, offset, JOB_PIECE_SIZE, &at, &run) &&
           at < end) {
        if (buffer == NULL && posix_memalign(&buffer, 4096, JOB_PIECE_SIZE) != 0) {
            copy->status = error_set_errno(&copy->err, ENOMEM, "keeping up with the guest");
            break;
        }
        uint64_t wanted = align_up(end - at, copy->todo.granularity);
        copy_run(backup, at, MIN(run, wanted), buffer, false);
    }
    free(buffer);
    while (copy->status == 0 && is_busy(backup, offset, end)) {
        coroutine_queue_wait(&backup->copied);
    }
    if (copy->status < 0) {
        coroutine_queue_wake_all(&backup->copied);
        job_wake(&backup->job);
    }
}

/* What reads as zeros is so in an empty target already. */
static int leave_holes_out(struct backup *backup, struct error *err)
{
    struct dirty_map *todo = &backup->copy.todo;
    struct block_front *front = backup->job.front;
    uint64_t total = todo->size_bytes;
    for (uint64_t at = todo->granularity; at < total;) {
        struct block_extent extent;
        unsigned depth;
        int rc = job_point(&backup->job);
        if (rc < 0) {
            return rc;
        }
        block_front_enter(front);
        rc = block_map_chain(block_front_root(front), at, MIN(total - at, 1ull << 30), &extent,
                             &depth);
        block_front_leave(front);
        if (rc < 0) {
            return error_set_errno(err, -rc, "asking for the map of %s at %llu", backup->job.disk,
                                   (unsigned long long)at);
        }
        uint64_t end = at + extent.size_bytes;
        if (extent.kind != BLOCK_EXTENT_DATA && extent.kind != BLOCK_EXTENT_COMPRESSED) {
            uint64_t first = align_up(at, todo->granularity);
            uint64_t last = end == total ? end : align_down(end, todo->granularity);
            if (first < last) {
                dirty_map_clear(todo, first, last - first);
            }
        }
        at = end;
    }
    return 0;
}

static void work(void *ctx, uint8_t *buffer)
{
    struct backup *backup = ctx;
    struct job_copy *copy = &backup->copy;
    uint64_t offset, size;
    while (copy->status == 0) {
        int rc = job_point(&backup->job);
        if (rc < 0) {
            copy->status = copy->status < 0 ? copy->status : rc;
            break;
        }
        block_front_enter(backup->job.front);
        if (copy->status < 0 || !dirty_map_next(&copy->todo, 0, JOB_PIECE_SIZE, &offset, &size)) {
            block_front_leave(backup->job.front);
            break;
        }
        job_charge(&backup->job, size);
        copy_run(backup, offset, size, buffer, true);
    }
}

static int copy_all(struct backup *backup, struct error *err)
{
    struct job_copy *copy = &backup->copy;
    int rc = job_parallel(JOB_WORKERS, work, backup);
    if (rc < 0) {
        return error_set_errno(err, ENOMEM, "backup");
    }
    while (copy->status == 0 && backup->busy.set_count > 0) { /* by the guest's changes */
        coroutine_queue_wait(&backup->copied);
    }
    return copy->status < 0 && copy->status != -ECANCELED
               ? error_set(err, -copy->status, "backup: %s", copy->err.text)
               : copy->status;
}

static int finish_target(struct backup *backup, struct error *err)
{
    int rc = block_flush(backup->target);
    if (rc < 0) {
        return error_set_errno(err, -rc, "making %s durable", block_name(backup->target));
    }
    if (backup->backing_name != NULL) {
        rc = block_set_backing_name(backup->target, backup->backing_name, backup->backing_format,
                                    err);
    }
    if (rc == 0) {
        rc = block_veil_lift(backup->veil);
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "finishing %s", /* rc says it already */
                                  block_name(backup->target));
        }
    }
    return rc;
}

static int run(struct block_job *job, struct error *err)
{
    struct backup *backup = container_of(job, struct backup, job);
    int rc = !backup->is_incremental && backup->is_target_empty ? leave_holes_out(backup, err) : 0;
    job->total_bytes = job->done_bytes + dirty_map_bytes(&backup->copy.todo);
    if (rc == 0) {
        rc = copy_all(backup, err);
    }
    if (rc < 0 && backup->copy.status == 0) {
        backup->copy.status = rc; /* the guest waits for nothing any more */
    }
    block_front_hold(job->front);
    block_front_remove_watch(job->front, &backup->watch);
    block_front_release(job->front);
    if (rc == 0) {
        rc = finish_target(backup, err);
    }
    return rc;
}

static void abandon(struct block_job *job)
{
    block_remote_abandon(container_of(job, struct backup, job)->target);
}

static void cleanup(struct block_job *job)
{
    struct backup *backup = container_of(job, struct backup, job);
    if (backup->bitmap != NULL) {
        if (!job->has_run || job->status < 0) {
            dirty_map_merge(&backup->bitmap->map, &backup->frozen);
        }
        backup->bitmap->user = NULL;
    }
    dirty_map_fini(&backup->frozen);
    dirty_map_fini(&backup->busy);
    job_copy_fini(&backup->copy);
    free(backup->backing_name);
    free(backup->backing_format);
    block_close(backup->target);
}

static const struct block_job_ops ops = {
    .kind = "backup", .run = run, .cleanup = cleanup, .abandon = abandon};

/* The bitmap begins anew; what it had is 'frozen'. */
static int freeze(struct backup *backup, struct block_bitmap *bitmap, struct error *err)
{
    struct dirty_map fresh;
    int rc = block_bitmap_check(bitmap, err);
    if (rc < 0) {
        return rc;
    }
    if (dirty_map_init(&fresh, bitmap->map.size_bytes, bitmap->map.granularity) < 0) {
        return error_set_errno(err, ENOMEM, "backup");
    }
    backup->frozen = bitmap->map;
    bitmap->map = fresh;
    bitmap->user = &backup->job;
    backup->bitmap = bitmap;
    return 0;
}

static int copy_name(const char *name, char **out_name)
{
    *out_name = name != NULL ? strdup(name) : NULL;
    return name == NULL || *out_name != NULL ? 0 : -ENOMEM;
}

static int prepare(struct backup *backup, const struct block_backup_options *options,
                   struct error *err)
{
    struct block_job *job = &backup->job;
    int rc = job_copy_init(&backup->copy, job, NULL, backup->target, err);
    if (rc < 0) {
        return rc;
    }
    if (backup->target->info.cluster_size > backup->copy.todo.granularity) {
        return error_set(err, EINVAL, "backup: clusters of at most %u bytes are accepted",
                         JOB_PIECE_SIZE);
    }
    if (dirty_map_init(&backup->busy, backup->copy.todo.size_bytes, backup->copy.todo.granularity) <
            0 ||
        copy_name(options->backing_name, &backup->backing_name) < 0 ||
        copy_name(options->backing_format, &backup->backing_format) < 0) {
        return error_set_errno(err, ENOMEM, "backup");
    }
    block_drain(block_front_block(job->front));
    if (options->bitmap != NULL) {
        rc = freeze(backup, options->bitmap, err);
    }
    backup->is_incremental = options->bitmap != NULL && !options->is_full;
    backup->copy.writes_zeroes = backup->is_incremental;
    if (backup->is_incremental && rc == 0) {
        dirty_map_merge(&backup->copy.todo, &backup->frozen);
    } else {
        dirty_map_set(&backup->copy.todo, 0, UINT64_MAX);
    }
    return rc;
}

int block_backup_start(struct block_jobs *jobs, const struct block_job_options *options,
                       const struct block_backup_options *backup_options,
                       const struct block_job_target *target, struct error *err)
{
    struct block_job *job = NULL;
    int rc = block_front_check(options->front, target->block, "the target", err);
    if (rc == 0) {
        rc = job_create(jobs, options, &ops, sizeof(struct backup), &job, err);
    }
    if (rc < 0) {
        block_close(target->block);
        return rc;
    }
    struct backup *backup = container_of(job, struct backup, job);
    backup->target = target->block;
    backup->veil = target->veil;
    backup->is_target_empty = target->is_empty;
    backup->watch = (struct block_watch){.before = before};
    rc = prepare(backup, backup_options, err);
    if (rc < 0) {
        job_abandon(job);
        return rc;
    }
    block_front_add_watch(job->front, &backup->watch);
    job_start(job);
    return 0;
}
