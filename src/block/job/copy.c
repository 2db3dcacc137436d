/* How jobs copy: a map of what is left to do, from which several coroutines take pieces. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "block/copy.h"
#include "block/job/kind.h"

#define PAGE_SIZE 4096u

struct team {
    void (*work)(void *ctx, uint8_t *buffer);
    void *ctx;
    unsigned running;
    struct coroutine *waiter;
};

struct member {
    struct team *team;
    uint8_t *buffer;
};

static void member_works(void *ctx)
{
    struct member *member = ctx;
    member->team->work(member->team->ctx, member->buffer);
}

static void member_ended(void *ctx)
{
    struct member *member = ctx;
    struct team *team = member->team;
    free(member->buffer);
    free(member);
    if (--team->running == 0 && team->waiter != NULL) {
        coroutine_resume(team->waiter);
    }
}

int job_parallel(unsigned count, void (*work)(void *ctx, uint8_t *buffer), void *ctx)
{
    struct team team = {.work = work, .ctx = ctx};
    for (unsigned i = 0; i < count; i++) {
        struct member *member = malloc(sizeof(*member));
        uint8_t *buffer = aligned_alloc(PAGE_SIZE, JOB_PIECE_SIZE);
        bool is_fine = member != NULL && buffer != NULL;
        if (is_fine) {
            *member = (struct member){&team, buffer};
            team.running++;
            is_fine = coroutine_start(member_works, member_ended, member) == 0;
            team.running -= !is_fine;
        }
        if (!is_fine) {
            free(member);
            free(buffer);
            if (i == 0) {
                return -ENOMEM;
            }
            break; /* fewer will do */
        }
    }
    if (team.running > 0) {
        team.waiter = coroutine_self();
        coroutine_yield();
    }
    return 0;
}

int job_copy_init(struct job_copy *copy, struct block_job *job, struct block *from,
                  struct block *to, struct error *err)
{
    *copy = (struct job_copy){.job = job, .from = from, .to = to};
    uint32_t granularity = MAX(JOB_GRANULARITY, to->info.cluster_size);
    const struct block *all = from != NULL ? from : block_front_block(job->front);
    int rc = dirty_map_init(&copy->todo, all->info.size_bytes, MIN(granularity, JOB_PIECE_SIZE));
    return rc < 0 ? error_set_errno(err, ENOMEM, "%s", job->ops->kind) : 0;
}

void job_copy_fini(struct job_copy *copy)
{
    dirty_map_fini(&copy->todo);
}

/* What the images have at 'offset', and how far it goes on like that. */
static int look(const struct job_marking *marking, struct block *first, uint64_t offset,
                uint64_t size, uint64_t *out_size, bool *out_is_wanted)
{
    struct block *block = first;
    *out_size = size;
    *out_is_wanted = false;
    while (block != marking->end && block != NULL) {
        if (offset >= block->info.size_bytes) {
            *out_is_wanted = marking->wants_zeroes; /* behind its end zeros hide what is below */
            return 0;
        }
        struct block_extent extent;
        uint64_t there = MIN(*out_size, block->info.size_bytes - offset);
        int rc = block_map(block, offset, there, &extent);
        if (rc < 0) {
            return rc;
        }
        *out_size = extent.size_bytes;
        if (extent.kind != BLOCK_EXTENT_ABSENT) {
            bool has_data =
                extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED;
            *out_is_wanted =
                (has_data || marking->wants_zeroes) && (block != first || marking->wants_first);
            return 0;
        }
        block = block->backing;
    }
    return 0;
}

int job_copy_mark(struct job_copy *copy, const struct job_marking *marking, struct error *err)
{
    struct block_job *job = copy->job;
    for (uint64_t at = 0, total = copy->todo.size_bytes; at < total;) {
        uint64_t size;
        bool is_wanted;
        int rc = job_point(job);
        if (rc < 0) {
            return rc;
        }
        block_front_enter(job->front);
        struct block *first =
            marking->first != NULL ? marking->first : block_front_root(job->front);
        total = MIN(total, first->info.size_bytes);
        rc = at < total ? look(marking, first, at, MIN(total - at, 1ull << 30), &size, &is_wanted)
                        : 0;
        block_front_leave(job->front);
        if (rc < 0) {
            return error_set_errno(err, -rc, "asking for the map of %s at %llu", job->disk,
                                   (unsigned long long)at);
        }
        if (at < total) {
            if (is_wanted) {
                dirty_map_set(&copy->todo, at, size);
            }
            at += size;
        }
    }
    job->total_bytes = job->done_bytes + dirty_map_bytes(&copy->todo);
    return 0;
}

static int failed(struct job_copy *copy, int rc, const char *what, const char *name,
                  uint64_t offset)
{
    if (copy->status == 0) {
        copy->status = error_set_errno(&copy->err, -rc, "%s %s at %llu", what, name,
                                       (unsigned long long)offset);
    }
    return rc;
}

int job_copy_read(struct job_copy *copy, uint64_t offset, uint64_t size, uint8_t *buffer)
{
    struct block *from = copy->from != NULL ? copy->from : block_front_root(copy->job->front);
    int rc = block_read(from, offset, buffer, (size_t)size);
    return rc < 0 ? failed(copy, rc, "reading", copy->job->disk, offset) : 0;
}

int job_copy_write(struct job_copy *copy, uint64_t offset, uint64_t size, const uint8_t *buffer)
{
    uint32_t step = copy->todo.granularity;
    for (uint64_t at = 0; at < size;) {
        uint64_t end = at;
        bool is_zero = block_is_zero(buffer + at, (size_t)MIN(step, size - at));
        do {
            end += MIN(step, size - end);
        } while (end < size &&
                 block_is_zero(buffer + end, (size_t)MIN(step, size - end)) == is_zero);
        int rc = is_zero && !copy->writes_zeroes
                     ? block_write_zeroes(copy->to, offset + at, end - at, true)
                     : block_write(copy->to, offset + at, buffer + at, (size_t)(end - at));
        if (rc < 0) {
            return failed(copy, rc, "writing to", block_name(copy->to), offset + at);
        }
        at = end;
    }
    return 0;
}

static bool take(struct job_copy *copy, uint64_t *out_offset, uint64_t *out_size)
{
    if (!dirty_map_next(&copy->todo, copy->at, JOB_PIECE_SIZE, out_offset, out_size) &&
        (copy->is_one_pass ||
         !dirty_map_next(&copy->todo, 0, JOB_PIECE_SIZE, out_offset, out_size))) {
        return false;
    }
    copy->at = *out_offset + *out_size;
    return true;
}

/* The next piece, read. What the guest changes from here on is marked again, and is not changed before this piece is done. */
static bool begin_piece(struct job_copy *copy, uint64_t *out_offset, uint64_t *out_size,
                        struct block_front_range *range, uint8_t *buffer)
{
    struct block_front *front = copy->job->front;
    block_front_enter(front);
    bool is_taken = copy->status == 0 && take(copy, out_offset, out_size);
    if (is_taken) {
        dirty_map_clear(&copy->todo, *out_offset, *out_size);
        job_charge(copy->job, *out_size);
        if (copy->is_locking) {
            block_front_lock(front, range, *out_offset, *out_size);
        }
        if (job_copy_read(copy, *out_offset, *out_size, buffer) < 0) {
            dirty_map_set(&copy->todo, *out_offset, *out_size); /* copy->status says why */
            if (copy->is_locking) {
                block_front_unlock(front, range);
            }
            is_taken = false;
        }
    }
    block_front_leave(front);
    return is_taken;
}

static void work(void *ctx, uint8_t *buffer)
{
    struct job_copy *copy = ctx;
    while (copy->status == 0) {
        uint64_t offset, size;
        int rc = job_point(copy->job);
        if (rc < 0) {
            copy->status = copy->status < 0 ? copy->status : rc;
            break;
        }
        struct block_front_range range;
        if (!begin_piece(copy, &offset, &size, &range, buffer)) {
            break;
        }
        rc = job_copy_write(copy, offset, size, buffer);
        if (rc < 0) {
            dirty_map_set(&copy->todo, offset, size);
        }
        if (copy->is_locking) {
            block_front_unlock(copy->job->front, &range);
        }
        if (rc == 0) {
            job_did(copy->job, size);
            copy->job->total_bytes =
                MAX(copy->job->total_bytes, copy->job->done_bytes + dirty_map_bytes(&copy->todo));
        }
    }
}

int job_copy_run(struct job_copy *copy, struct error *err)
{
    int rc = job_parallel(JOB_WORKERS, work, copy);
    if (rc < 0) {
        return error_set_errno(err, ENOMEM, "%s", copy->job->ops->kind);
    }
    if (copy->status < 0 && copy->status != -ECANCELED) {
        return error_set(err, -copy->status, "%s: %s", copy->job->ops->kind, copy->err.text);
    }
    return copy->status;
}
