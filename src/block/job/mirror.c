/* Mirror: a second disk gets what the first one has, or a part of that, and takes its place if that is wanted. */
#include <string.h>

#include "block/bitmap.h"
#include "block/image.h"
#include "block/job/kind.h"
#include "block/remote.h"
#include "block/veil.h"

struct mirror {
    struct block_job job;
    struct job_sync sync;
    enum block_mirror_sync what;
    struct block *target; /* NULL: it has become the root */
    struct block *veil;   /* part of it */
    struct block *below;  /* of the chain: what the target stands on in the end; NULL: on nothing */
    bool is_empty;
    struct block_bitmap *bitmap;
    struct error sync_err;
};

/* Copies again what could not be followed; asked for whenever something has happened. */
static int keep_up(struct block_job *job)
{
    struct mirror *mirror = container_of(job, struct mirror, job);
    return job_sync_run(&mirror->sync, NULL, &mirror->sync_err);
}

static int flush(struct block *block, struct error *err)
{
    int rc = block_flush(block);
    return rc < 0 ? error_set_errno(err, -rc, "making %s durable", block_name(block)) : 0;
}

static int finish_target(struct mirror *mirror, struct error *err)
{
    struct block *target = mirror->target, *below = mirror->below;
    int rc = flush(target, err);
    if (rc == 0 && below != NULL) {
        rc = flush(block_front_root(mirror->job.front), err); /* it may be what is below */
    }
    if (rc == 0 && below != NULL) {
        rc = block_set_backing_name(target, block_name(below), block_disk_format(below), err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = block_veil_lift(mirror->veil);
    return rc < 0 ? error_set_errno(err, -rc, "finishing %s", block_name(target)) : 0;
}

/* The guest goes on with the target. Requests are held. */
static void pivot(struct mirror *mirror)
{
    struct block_front *front = mirror->job.front;
    struct block *root = block_front_exchange(front, mirror->target);
    if (mirror->below != NULL && mirror->below != root) {
        (void)block_replace_backing(root, NULL); /* it goes on without the root */
    }
    if (mirror->below != NULL) {
        (void)block_replace_backing(mirror->target, mirror->below); /* there was none */
    }
    if (mirror->below == root) {
        block_front_make_readonly(root);
    } else {
        block_front_close_later(front, root);
    }
    mirror->target = NULL;
}

static int copy_until_wanted(struct mirror *mirror, struct error *err)
{
    struct block *root = block_front_root(mirror->job.front);
    struct job_marking marking = {.wants_first = true};
    bool has_marking = mirror->what == BLOCK_MIRROR_FULL || mirror->what == BLOCK_MIRROR_TOP;
    if (mirror->what == BLOCK_MIRROR_TOP) {
        marking = (struct job_marking){
            .first = root, .end = root->backing, .wants_first = true, .wants_zeroes = true};
    }
    int rc = job_sync_run(&mirror->sync, has_marking ? &marking : NULL, err);
    if (rc == 0) {
        rc = job_await_completion(&mirror->job, keep_up);
        if (rc < 0 && rc != -ECANCELED) {
            *err = mirror->sync_err;
        }
    }
    return rc;
}

static int run(struct block_job *job, struct error *err)
{
    struct mirror *mirror = container_of(job, struct mirror, job);
    int rc = copy_until_wanted(mirror, err);
    if (rc < 0) {
        job_sync_give_up(&mirror->sync);
        return rc;
    }
    /* From the moment on when the target is finished no change goes to the old disk alone. */
    rc = job_sync_hold(&mirror->sync, err);
    if (rc == 0) {
        rc = finish_target(mirror, err);
    }
    if (rc == 0 && mirror->bitmap != NULL) {
        dirty_map_clear(&mirror->bitmap->map, 0, UINT64_MAX);
    }
    if (rc == 0 && job->wants_pivot) {
        pivot(mirror);
    }
    block_front_release(job->front);
    return rc;
}

static void abandon(struct block_job *job)
{
    block_remote_abandon(container_of(job, struct mirror, job)->target);
}

static void cleanup(struct block_job *job)
{
    struct mirror *mirror = container_of(job, struct mirror, job);
    if (mirror->bitmap != NULL) {
        mirror->bitmap->user = NULL;
    }
    job_sync_fini(&mirror->sync);
    block_close(mirror->target);
}

static const struct block_job_ops ops = {
    .kind = "mirror", .run = run, .cleanup = cleanup, .abandon = abandon, .can_complete = true};

/* It knows where the chain is: nobody else rearranges it. */
static const struct block_job_ops ops_within_chain = {.kind = "mirror",
                                                      .changes_chain = true,
                                                      .run = run,
                                                      .cleanup = cleanup,
                                                      .abandon = abandon,
                                                      .can_complete = true};

/* What the target shall stand on in the end, and whether it can. */
static int find_below(const struct block_job_options *options,
                      const struct block_mirror_options *mirror, const struct block *target,
                      struct block **out_below, struct error *err)
{
    struct block *root = block_front_root(options->front);
    *out_below = mirror->sync == BLOCK_MIRROR_TOP                            ? root->backing
                 : mirror->sync == BLOCK_MIRROR_NONE && !mirror->is_existing ? root
                                                                             : NULL;
    unsigned depth = 1;
    for (const struct block *at = *out_below; at != NULL; at = at->backing) {
        depth++;
    }
    if (*out_below == NULL) {
        return 0;
    }
    if (target->ops->image == NULL || target->ops->image->set_backing_name == NULL) {
        return error_set(err, EOPNOTSUPP,
                         "%s: mirror: %s is %s, which stands on nothing: qcow2 is accepted",
                         options->disk, block_name(target), block_disk_format(target));
    }
    if (mirror->is_existing) {
        return error_set(err, EINVAL,
                         "%s: mirror: %s would hide what is below: a new image is accepted",
                         options->disk, block_name(target));
    }
    if (depth > BLOCK_MAX_CHAIN) {
        return error_set(err, ELOOP, "%s: mirror: %d images on top of each other: no more",
                         options->disk, BLOCK_MAX_CHAIN);
    }
    return 0;
}

static void mark(struct mirror *mirror)
{
    struct dirty_map *todo = &mirror->sync.copy.todo;
    switch (mirror->what) {
    case BLOCK_MIRROR_FULL: /* what is there already reads as zeros, or else all has to go */
        dirty_map_set(todo, 0, mirror->is_empty ? 1 : UINT64_MAX);
        break;
    case BLOCK_MIRROR_INCREMENTAL:
        dirty_map_set(todo, 0, 1); /* an earlier job may have left its mark there */
        dirty_map_merge(todo, &mirror->bitmap->map);
        break;
    case BLOCK_MIRROR_TOP:
    case BLOCK_MIRROR_NONE:
        break;
    }
    mirror->job.total_bytes = dirty_map_bytes(todo);
}

static int begin(struct mirror *mirror, const struct block_mirror_options *options,
                 struct error *err)
{
    int rc = options->bitmap != NULL ? block_bitmap_check(options->bitmap, err) : 0;
    if (rc == 0 && mirror->target->info.cluster_size > JOB_PIECE_SIZE) {
        rc = error_set(err, EINVAL, "mirror: clusters of at most %u bytes are accepted",
                       JOB_PIECE_SIZE);
    }
    if (rc == 0) {
        rc = job_sync_begin(&mirror->sync, &mirror->job, mirror->target, err);
    }
    if (rc == 0) {
        mirror->sync.copy.writes_zeroes = mirror->below != NULL;
        mirror->bitmap = options->bitmap;
        if (mirror->bitmap != NULL) {
            mirror->bitmap->user = &mirror->job;
        }
        mark(mirror);
    }
    return rc;
}

int block_mirror_start(struct block_jobs *jobs, const struct block_job_options *options,
                       const struct block_mirror_options *mirror_options,
                       const struct block_job_target *target, struct error *err)
{
    struct block_job *job = NULL;
    struct block *below = NULL;
    bool is_within =
        mirror_options->sync == BLOCK_MIRROR_TOP || mirror_options->sync == BLOCK_MIRROR_NONE;
    int rc = block_front_check(options->front, target->block, "the target", err);
    if (rc == 0) {
        rc = find_below(options, mirror_options, target->block, &below, err);
    }
    if (rc == 0) {
        rc = job_create(jobs, options, is_within ? &ops_within_chain : &ops, sizeof(struct mirror),
                        &job, err);
    }
    if (rc < 0) {
        block_close(target->block);
        return rc;
    }
    struct mirror *mirror = container_of(job, struct mirror, job);
    mirror->what = mirror_options->sync;
    mirror->target = target->block;
    mirror->veil = target->veil;
    mirror->below = below;
    mirror->is_empty = target->is_empty;
    rc = begin(mirror, mirror_options, err);
    if (rc < 0) {
        job_abandon(job);
        return rc;
    }
    job_start(job);
    return 0;
}
