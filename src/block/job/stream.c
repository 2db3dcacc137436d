/* Stream: an image gets of its own what the images below it have, and then stands on less. */
#include "block/job/kind.h"

#include <stdlib.h>
#include <string.h>

#include "block/image.h"

struct stream {
    struct block_job job;
    struct job_copy copy;
    struct block *target, *base;
    char *base_name, *base_format;
};

static int run(struct block_job *job, struct error *err)
{
    struct stream *stream = container_of(job, struct stream, job);
    struct block *target = stream->target;
    const struct job_marking marking = {
        .first = target, .end = stream->base, .wants_zeroes = stream->base != NULL};
    int rc = job_copy_mark(&stream->copy, &marking, err);
    if (rc == 0) {
        rc = job_copy_run(&stream->copy, err);
    }
    if (rc == 0) {
        rc = job_point(job);
    }
    if (rc < 0) {
        return rc;
    }
    /* What was copied is durable before the header stops to name where it came from; until then a crash changes nothing. */
    block_front_hold(job->front);
    rc = block_flush(target);
    if (rc < 0) {
        rc = error_set_errno(err, -rc, "making %s durable", block_name(target));
    } else {
        rc = block_set_backing_name(target, stream->base_name, stream->base_format, err);
    }
    if (rc == 0) {
        struct block *old = block_replace_backing(target, stream->base);
        block_front_close_later(job->front, block_cut_chain(old, stream->base));
    }
    block_front_release(job->front);
    return rc;
}

static void cleanup(struct block_job *job)
{
    struct stream *stream = container_of(job, struct stream, job);
    if (stream->target != block_front_root(job->front)) {
        (void)!block_flush(stream->target); /* the job's own end says how it went */
        block_front_make_readonly(stream->target);
    }
    job_copy_fini(&stream->copy);
    free(stream->base_name);
    free(stream->base_format);
}

static const struct block_job_ops ops = {
    .kind = "stream", .changes_chain = true, .run = run, .cleanup = cleanup};

int block_stream_start(struct block_jobs *jobs, const struct block_job_options *options,
                       struct block *target, struct block *base, const char *base_name,
                       const char *base_format, struct error *err)
{
    struct block_job *job;
    if (target->backing == NULL || target->backing == base) {
        return error_set(err, EINVAL, "%s: stream: nothing lies between %s and what stays below",
                         options->disk, block_name(target));
    }
    const struct block *at = target->backing;
    while (at != NULL && at != base) {
        at = at->backing;
    }
    if (at != base) {
        return error_set(err, EINVAL, "%s: stream: %s does not stand on %s", options->disk,
                         block_name(target), block_name(base));
    }
    if (target->info.is_readonly) {
        return error_set(err, EROFS, "%s: stream: %s is read-only", options->disk,
                         block_name(target));
    }
    int rc = job_create(jobs, options, &ops, sizeof(struct stream), &job, err);
    if (rc < 0) {
        return rc;
    }
    struct stream *stream = container_of(job, struct stream, job);
    stream->target = target;
    stream->base = base;
    stream->base_name = base != NULL ? strdup(base_name) : NULL;
    stream->base_format = base != NULL ? strdup(base_format) : NULL;
    rc = job_copy_init(&stream->copy, job, target, target, err);
    if (rc == 0 && base != NULL && (stream->base_name == NULL || stream->base_format == NULL)) {
        rc = error_set_errno(err, ENOMEM, "%s: stream", options->disk);
    }
    if (rc < 0) {
        job_abandon(job);
        return rc;
    }
    stream->copy.is_locking =
        target == block_front_root(options->front); /* else nobody changes it */
    job_start(job);
    return 0;
}
