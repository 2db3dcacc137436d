#include <stdlib.h>

#include "base/core/bits.h"
#include "block/job/kind.h"

static struct job_sync *from_watch(struct block_watch *watch)
{
    return container_of(watch, struct job_sync, watch);
}

static void mark(struct block_watch *watch, uint64_t offset, uint64_t size)
{
    struct job_sync *sync = from_watch(watch);
    if (!sync->is_active) {
        dirty_map_set(&sync->copy.todo, offset, size);
    }
}

/* What the guest has changed: read again, as its memory may hold something else by now. The guest's request, which waits, keeps the
 * root where it is. */
static int copy_change(struct job_copy *copy, uint64_t offset, uint64_t size)
{
    if (copy->writes_zeroes) { /* no cluster of the target takes the rest from what it will stand on */
        uint64_t end = align_up(offset + size, copy->todo.granularity);
        offset = align_down(offset, copy->todo.granularity);
        size = MIN(end, copy->todo.size_bytes) - offset;
    }
    size_t room = (size_t)MIN(size, JOB_PIECE_SIZE);
    void *buffer;
    if (posix_memalign(&buffer, 4096, room) != 0) {
        return -ENOMEM;
    }
    int rc = 0;
    while (size > 0 && rc == 0) {
        struct block_front_range range;
        uint64_t piece = MIN(size, room);
        block_front_lock(copy->job->front, &range, offset, piece);
        rc = job_copy_read(copy, offset, piece, buffer);
        if (rc == 0) {
            rc = job_copy_write(copy, offset, piece, buffer);
        }
        block_front_unlock(copy->job->front, &range);
        offset += piece;
        size -= piece;
    }
    free(buffer);
    return rc;
}

static void after(struct block_watch *watch, uint64_t offset, uint64_t size)
{
    struct job_sync *sync = from_watch(watch);
    struct job_copy *copy = &sync->copy;
    int rc = copy->status == 0 ? copy_change(copy, offset, size) : copy->status;
    if (rc < 0) {
        dirty_map_set(&copy->todo, offset, size);
        job_wake(copy->job);
    }
}

int job_sync_begin(struct job_sync *sync, struct block_job *job, struct block *to,
                   struct error *err)
{
    int rc = job_copy_init(&sync->copy, job, NULL, to, err);
    if (rc < 0) {
        return rc;
    }
    sync->copy.is_locking = true;
    sync->watch = (struct block_watch){.mark = mark};
    block_drain(block_front_block(job->front));
    block_front_add_watch(job->front, &sync->watch);
    return 0;
}

/* From now on changes wait until they are in both. */
static void make_active(struct job_sync *sync)
{
    struct block_front *front = sync->copy.job->front;
    block_front_hold(front);
    block_front_remove_watch(front, &sync->watch);
    sync->watch.after = after;
    sync->is_active = true;
    block_front_add_watch(front, &sync->watch);
    block_front_release(front);
}

int job_sync_run(struct job_sync *sync, const struct job_marking *marking, struct error *err)
{
    struct job_copy *copy = &sync->copy;
    int rc = 0;
    if (!sync->is_active) {
        rc = marking != NULL ? job_copy_mark(copy, marking, err) : 0;
        copy->is_one_pass = true;
        if (rc == 0) {
            rc = job_copy_run(copy, err);
        }
        copy->is_one_pass = false;
        if (rc == 0) {
            make_active(sync);
        }
    }
    while (rc == 0 && copy->todo.set_count > 0) {
        copy->job->total_bytes = copy->job->done_bytes + dirty_map_bytes(&copy->todo);
        rc = job_copy_run(copy, err);
    }
    return rc == 0 ? job_sync_status(sync, err) : rc;
}

int job_sync_status(const struct job_sync *sync, struct error *err)
{
    const struct job_copy *copy = &sync->copy;
    return copy->status < 0
               ? error_set(err, -copy->status, "%s: %s", copy->job->ops->kind, copy->err.text)
               : 0;
}

int job_sync_hold(struct job_sync *sync, struct error *err)
{
    struct block_front *front = sync->copy.job->front;
    block_front_hold(front);
    block_front_remove_watch(front, &sync->watch);
    int rc = job_sync_status(sync, err);
    if (rc == 0 && sync->copy.todo.set_count > 0) {
        rc = error_set(err, ENOMEM, "%s: following the guest's last changes",
                       sync->copy.job->ops->kind);
    }
    return rc;
}

void job_sync_give_up(struct job_sync *sync)
{
    struct block_front *front = sync->copy.job->front;
    block_front_hold(front);
    block_front_remove_watch(front, &sync->watch);
    block_front_release(front);
}

void job_sync_fini(struct job_sync *sync)
{
    job_copy_fini(&sync->copy);
}
