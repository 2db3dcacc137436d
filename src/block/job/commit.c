/* Commit: what images have of their own goes into one that they stand on.
 *
 * Order of what happens in the end, when the base has all that the top has, and is durable:
 *   1. the header above the base names it, if there were images between;
 *   2. (only if the top is the root) the top becomes empty: one sector of its header says so;
 *   3. the guest's next write goes to the base, or it reads without the images between.
 * After each of these the chain reads as before, whether one begins at the old top or at the base: so a crash does no harm, and
 * nobody can begin at the old top later and find old data in the way. */
#include <stdlib.h>
#include <string.h>

#include "block/image.h"
#include "block/job/kind.h"

struct commit {
    struct block_job job;
    struct job_sync sync; /* of the root; else only its 'copy' */
    struct block *top, *base;
    struct block *above; /* stands on the top; NULL: the top is the root */
    bool is_of_root;
    char *base_name, *base_format;
};

/* 'above' stands on the base from now on: in the file, in memory. Requests are held. */
static int drop_between(struct commit *commit, struct block *above, struct error *err)
{
    if (above->backing == commit->base) {
        return 0;
    }
    int rc = block_set_backing_name(above, commit->base_name, commit->base_format, err);
    if (rc == 0) {
        struct block *old = block_replace_backing(above, commit->base);
        block_front_close_later(commit->job.front, block_cut_chain(old, commit->base));
    }
    return rc;
}

static int flush_base(const struct commit *commit, struct error *err)
{
    int rc = block_flush(commit->base);
    return rc < 0 ? error_set_errno(err, -rc, "making %s durable", block_name(commit->base)) : 0;
}

static int pivot(struct commit *commit, struct error *err)
{
    struct block_front *front = commit->job.front;
    struct block *top = commit->top;
    int rc = flush_base(commit, err);
    if (rc == 0) {
        rc = drop_between(commit, top, err);
    }
    if (rc == 0) {
        rc = block_make_empty(top, err);
    }
    if (rc == 0) {
        (void)block_replace_backing(top, NULL); /* the base goes on without it */
        block_front_close_later(front, block_front_exchange(front, commit->base));
    }
    return rc;
}

static int run_root(struct commit *commit, struct error *err)
{
    struct block_front *front = commit->job.front;
    const struct job_marking marking = {
        .first = commit->top, .end = commit->base, .wants_first = true, .wants_zeroes = true};
    int rc = job_sync_run(&commit->sync, &marking, err);
    if (rc == 0) {
        rc = job_point(&commit->job);
    }
    if (rc < 0) {
        job_sync_give_up(&commit->sync);
        return rc;
    }
    rc = job_sync_hold(&commit->sync, err);
    if (rc == 0) {
        rc = pivot(commit, err);
    }
    block_front_release(front);
    return rc;
}

static int run_below(struct commit *commit, struct error *err)
{
    struct block_front *front = commit->job.front;
    const struct job_marking marking = {
        .first = commit->top, .end = commit->base, .wants_first = true, .wants_zeroes = true};
    int rc = job_copy_mark(&commit->sync.copy, &marking, err);
    if (rc == 0) {
        rc = job_copy_run(&commit->sync.copy, err);
    }
    if (rc == 0) {
        rc = flush_base(commit, err);
    }
    if (rc == 0) {
        rc = job_point(&commit->job);
    }
    if (rc < 0) {
        return rc;
    }
    block_front_hold(front);
    rc = drop_between(commit, commit->above, err);
    block_front_release(front);
    return rc;
}

static int run(struct block_job *job, struct error *err)
{
    struct commit *commit = container_of(job, struct commit, job);
    return commit->is_of_root ? run_root(commit, err) : run_below(commit, err);
}

static void cleanup(struct block_job *job)
{
    struct commit *commit = container_of(job, struct commit, job);
    /* It may be what others see below; its metadata is in the file when it is closed, at the latest. */
    const struct block *root = block_front_root(job->front);
    struct block *const written[] = {commit->base, commit->above};
    for (size_t i = 0; i < ARRAY_COUNT(written); i++) {
        if (written[i] != NULL && written[i] != root) {
            (void)!block_flush(written[i]); /* the job's own end says how it went */
            block_front_make_readonly(written[i]);
        }
    }
    job_sync_fini(&commit->sync);
    free(commit->base_name);
    free(commit->base_format);
}

static const struct block_job_ops ops = {
    .kind = "commit", .changes_chain = true, .run = run, .cleanup = cleanup};

/* The image that stands on the top; NULL: none does. */
static struct block *find_above(const struct block_job_options *options, const struct block *top)
{
    struct block *at = block_front_root(options->front);
    while (at != NULL && at->backing != top) {
        at = at->backing;
    }
    return at;
}

static int check(const struct block_job_options *options, const struct block *top,
                 struct block *base, struct error *err)
{
    const struct block *root = block_front_root(options->front);
    const struct block *above = find_above(options, top);
    const struct block *at = top->backing;
    if (top != root && above == NULL) {
        return error_set(err, EINVAL, "%s: commit: the disk does not stand on %s", options->disk,
                         block_name(top));
    }
    if (above != NULL && above->info.is_readonly) {
        return error_set(err, EROFS, "%s: commit: %s, which stands on %s, is read-only",
                         options->disk, block_name(above), block_name(top));
    }
    while (at != NULL && at != base) {
        at = at->backing;
    }
    if (at == NULL) {
        return error_set(err, EINVAL, "%s: commit: %s does not stand on %s", options->disk,
                         block_name(top), block_name(base));
    }
    if (root->info.is_readonly || base->info.is_readonly) {
        return error_set(err, EROFS, "%s: commit: %s is read-only", options->disk,
                         block_name(base));
    }
    if (base->info.size_bytes > top->info.size_bytes) {
        return error_set(err, EINVAL, "%s: commit: %s is larger than %s: the same is needed",
                         options->disk, block_name(base), block_name(top));
    }
    if (base->info.logical_block_size > root->info.logical_block_size) {
        return error_set(err, EINVAL, "%s: commit: %s has larger sectors", options->disk,
                         block_name(base));
    }
    return 0;
}

int block_commit_start(struct block_jobs *jobs, const struct block_job_options *options,
                       struct block *top, struct block *base, const char *base_name,
                       const char *base_format, struct error *err)
{
    struct block_job *job = NULL;
    int rc = check(options, top, base, err);
    if (rc == 0) {
        rc = job_create(jobs, options, &ops, sizeof(struct commit), &job, err);
    }
    if (rc < 0) {
        return rc;
    }
    struct commit *commit = container_of(job, struct commit, job);
    commit->top = top;
    commit->base = base;
    commit->is_of_root = top == block_front_root(options->front);
    commit->above = commit->is_of_root ? NULL : find_above(options, top);
    commit->base_name = strdup(base_name);
    commit->base_format = strdup(base_format);
    if (commit->base_name == NULL || commit->base_format == NULL) {
        rc = error_set_errno(err, ENOMEM, "%s: commit", options->disk);
    }
    if (rc == 0 && base->info.size_bytes < top->info.size_bytes) {
        rc = block_resize(base, top->info.size_bytes);
        if (rc < 0) {
            (void)error_set_errno(err, -rc, "making %s larger", block_name(base)); /* rc says it */
        }
    }
    if (rc == 0) {
        rc = commit->is_of_root ? job_sync_begin(&commit->sync, job, base, err)
                                : job_copy_init(&commit->sync.copy, job, top, base, err);
    }
    if (rc < 0) {
        job_abandon(job);
        return rc;
    }
    job_start(job);
    return 0;
}
