/* Jobs on a disk that a guest writes to, against a flat array: chains of images in memory that end requests in any order, random
 * requests between the steps of a job, orders to the job, and at random moments an end of the process, after which the files
 * alone have to hold what was flushed. Usage: job_oracle [FIRST_SEED [COUNT]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/bitmap.h"
#include "block/veil.h"
#include "tests/block/job_run.h"

static struct block *at_depth(struct run *run, unsigned depth)
{
    struct block *at = block_front_root(run->front);
    while (depth-- > 0) {
        at = at->backing;
    }
    return at;
}

static void check_done(struct run *run)
{
    if (run->end.state == BLOCK_JOB_FAILED) {
        job_run_quit(run, "failed", run->end_failure);
    }
}

static void stream(struct run *run)
{
    struct error err = {0};
    run->what = "stream";
    job_run_begin(run);
    unsigned count = 1 + (unsigned)job_run_pick(run, 3);
    for (unsigned i = 0; i < count; i++) {
        job_run_add_overlay(run);
    }
    struct block *base = NULL;
    unsigned depth = count > 1 ? (unsigned)job_run_pick(run, count) : 0;
    struct block *root = at_depth(run, depth);
    if (count - depth > 1 && job_run_pick(run, 2) == 0) {
        base = root->backing->backing;
    }
    root->info.is_readonly = false;
    job_run_maybe_quiet(run);
    job_run_check(run,
                  block_stream_start(run->jobs, job_run_options_of(run), root, base,
                                     base != NULL ? base->name : NULL,
                                     base != NULL ? block_disk_format(base) : NULL, &err),
                  &err, "start");
    job_run_until_ended(run);
    job_run_no_more_quiet(run);
    check_done(run);
    if (run->end.state == BLOCK_JOB_DONE && root->backing != base) {
        job_run_quit(run, "stands on the wrong image", "");
    }
    job_run_finish(run);
}

static void commit(struct run *run)
{
    struct error err = {0};
    run->what = "commit";
    job_run_begin(run);
    unsigned count = 1 + (unsigned)job_run_pick(run, 5);
    for (unsigned i = 0; i < count; i++) {
        job_run_add_overlay(run);
    }
    unsigned from = (unsigned)job_run_pick(run, count);
    unsigned to = from + 1 + (unsigned)job_run_pick(run, count - from);
    struct block *base = at_depth(run, to), *top = at_depth(run, from);
    struct block *above = from > 1 ? at_depth(run, from - 1) : NULL;
    base->info.is_readonly = false;
    if (above != NULL) {
        above->info.is_readonly = false;
    }
    job_run_maybe_quiet(run);
    job_run_check(run,
                  block_commit_start(run->jobs, job_run_options_of(run), top, base, base->name,
                                     block_disk_format(base), &err),
                  &err, "start");
    job_run_until_ended(run);
    job_run_no_more_quiet(run);
    check_done(run);
    if (run->end.state == BLOCK_JOB_DONE && at_depth(run, from) != base) {
        job_run_quit(run, "the base is not where the top was", "");
    }
    if (run->end.state == BLOCK_JOB_DONE && from == 0) {
        run->other_top = run->top;
        run->top -= to;
    } else {
        base->info.is_readonly = true;
    }
    if (above != NULL && !above->info.is_readonly) {
        job_run_quit(run, "the image above is open for writing", "");
    }
    job_run_finish(run);
}

/* A target: its file is no disk until the job has done all. */
static unsigned make_target(struct run *run, const char *format,
                            struct block_job_target *out_target)
{
    struct error err = {0};
    unsigned number = job_run_make_image(run, format, -1);
    if (job_run_pick(run, 3) == 0 && strcmp(format, "raw") == 0) {
        uint8_t data[512] = {1};
        job_run_check(
            run, block_write(job_run_file_block(run, number), run->model.size - 512, data, 512),
            NULL, "write"); /* what was there before does not matter */
    }
    const struct block_job_target_options options = {.format = format,
                                                     .size_bytes = run->model.size};
    job_run_check(
        run, block_job_open_target(job_run_file_block(run, number), &options, out_target, &err),
        &err, "target");
    return number;
}

static bool is_marked(const struct run *run, unsigned number)
{
    return memcmp(run->file[number].recorder->bytes, BLOCK_VEIL_MARK,
                  sizeof(BLOCK_VEIL_MARK) - 1) == 0;
}

static void until_ready(struct run *run)
{
    struct block_job_info info;
    for (unsigned i = 0; job_run_job_of(run) != NULL && i < 10000; i++) {
        block_job_get_info(job_run_job_of(run), &info);
        if (info.state == BLOCK_JOB_READY) {
            return;
        }
        job_run_turn(run, i);
    }
}

/* From its start to its end. 'is_failing': the target fails now and then. */
static void one_mirror(struct run *run, const struct block_mirror_options *options, unsigned number,
                       struct block_job_target *target, bool is_failing, bool wants_pivot)
{
    struct error err = {0};
    run->target = &run->file[number];
    run->has_ended = false;
    job_run_check(run,
                  block_mirror_start(run->jobs, job_run_options_of(run), options, target, &err),
                  &err, "start");
    if (is_failing) {
        run->target->recorder->fail_one_in = 10 + (unsigned)job_run_pick(run, 200);
    }
    until_ready(run);
    if (!is_failing && job_run_job_of(run) != NULL) {
        job_run_maybe_quiet(run);
    }
    job_run_steps(run, run->is_quiet ? 0 : (unsigned)job_run_pick(run, 10));
    if (job_run_job_of(run) != NULL && !is_marked(run, number)) {
        job_run_quit(run, "the target looks finished", "");
    }
    if (job_run_job_of(run) != NULL &&
        block_job_complete(job_run_job_of(run), wants_pivot, &err) < 0 && !is_failing) {
        job_run_quit(run, "complete", err.text);
    }
    if (is_failing && job_run_job_of(run) != NULL) {
        block_job_cancel(job_run_job_of(run));
    }
    run->is_quiet = true;
    job_run_until_ended(run);
    job_run_no_more_quiet(run);
    run->target->recorder->fail_one_in = 0;
    if (!is_failing) {
        check_done(run);
    }
    bool is_done = run->end.state == BLOCK_JOB_DONE;
    /* A write of the last sector that fails may have happened all the same: then it is a whole disk. */
    if (is_marked(run, number) ? is_done : !is_done && !is_failing) {
        job_run_quit(run, "the target looks like what it is not", "");
    }
    if (is_done) {
        job_run_check_files(run, number, "the target");
    }
    if (is_done && wants_pivot) {
        run->top = run->other_top = number;
    }
}

static void mirror(struct run *run)
{
    struct block_job_target target;
    const struct block_mirror_options options = {.sync = BLOCK_MIRROR_FULL};
    run->what = "mirror";
    job_run_begin(run);
    for (uint64_t i = job_run_pick(run, 3); i > 0; i--) {
        job_run_add_overlay(run);
    }
    unsigned number = make_target(run, job_run_any_format(run), &target);
    one_mirror(run, &options, number, &target, job_run_pick(run, 6) == 0,
               job_run_pick(run, 3) != 0);
    job_run_finish(run);
}

/* Only the top, or only what changes: on top of images that go on to be used. */
static void mirror_within_chain(struct run *run)
{
    struct block_job_target target;
    struct block_mirror_options options = {.sync = job_run_pick(run, 2) == 0 ? BLOCK_MIRROR_TOP
                                                                             : BLOCK_MIRROR_NONE};
    run->what = options.sync == BLOCK_MIRROR_TOP ? "mirror of the top" : "mirror of what changes";
    job_run_begin(run);
    for (uint64_t i = job_run_pick(run, 4); i > 0; i--) {
        job_run_add_overlay(run);
    }
    unsigned number = make_target(run, "qcow2", &target);
    one_mirror(run, &options, number, &target, job_run_pick(run, 6) == 0,
               job_run_pick(run, 3) != 0);
    job_run_finish(run);
}

/* The file of a target once more, as it is. */
static unsigned open_target_again(struct run *run, unsigned number,
                                  struct block_job_target *out_target)
{
    struct error err = {0};
    const struct file *old = &run->file[number];
    const struct recorder *from = old->recorder;
    unsigned again = job_run_new_file(run, old->format);
    struct block *block = job_run_file_block(run, again);
    job_run_check(run, block_write(block, 0, from->bytes, from->block.info.size_bytes), NULL,
                  "copy");
    job_run_check(run, block_flush(block), NULL, "copy");
    if (strcmp(old->format, "raw") == 0) {
        block->info.is_growable = false;
        block->info.logical_block_size = 512;
    }
    const struct block_job_target_options options = {.format = old->format,
                                                     .size_bytes = run->model.size};
    job_run_check(run, block_job_open_target(block, &options, out_target, &err), &err, "target");
    return again;
}

/* A copy that is brought up to date by a bitmap, again and again. */
static void mirror_by_bitmap(struct run *run)
{
    struct error err = {0};
    struct block_job_target target;
    struct block_mirror_options options = {.sync = BLOCK_MIRROR_FULL};
    run->what = "mirror by a bitmap";
    job_run_begin(run);
    if (job_run_pick(run, 2) == 0) {
        job_run_add_overlay(run);
    }
    job_run_check(run,
                  block_bitmap_add(run->front, "b", 512u << job_run_pick(run, 12), false, true,
                                   &options.bitmap, &err),
                  &err, "bitmap");
    job_run_steps(run, (unsigned)job_run_pick(run, 4));
    unsigned number = make_target(run, job_run_any_format(run), &target);
    one_mirror(run, &options, number, &target, false, false);
    options.sync = BLOCK_MIRROR_INCREMENTAL;
    options.is_existing = true;
    for (uint64_t i = 1 + job_run_pick(run, 3); i > 0 && run->end.state == BLOCK_JOB_DONE; i--) {
        job_run_steps(run, (unsigned)job_run_pick(run, 4));
        /* A raw target that was left unfinished is as good: the bitmap has all that may be missing. */
        bool is_failing =
            i > 1 && job_run_pick(run, 3) == 0 && strcmp(run->file[number].format, "raw") == 0;
        number = open_target_again(run, number, &target);
        one_mirror(run, &options, number, &target, is_failing, i == 1);
        if (is_failing) {
            run->end.state = BLOCK_JOB_DONE;
        }
    }
    job_run_finish(run);
}

/* The target of a backup holds what the disk held at its beginning. 'backing' is what the header says it stands on. */
static void one_backup(struct run *run, struct block_bitmap *bitmap, bool is_full, int backing,
                       bool is_failing, unsigned *out_number)
{
    struct error err = {0};
    struct block_job_target target;
    char name[16];
    uint8_t *then = malloc(run->model.size);
    memcpy(then, run->model.bytes, run->model.size);
    unsigned number = make_target(run, is_full ? job_run_any_format(run) : "qcow2", &target);
    struct block_backup_options options = {.bitmap = bitmap, .is_full = is_full};
    run->target = &run->file[number];
    if (backing >= 0) {
        (void)snprintf(name, sizeof(name), "%d", backing);
        options.backing_name = name;
        options.backing_format = run->file[backing].format;
    }
    run->has_ended = false;
    job_run_check(run,
                  block_backup_start(run->jobs, job_run_options_of(run), &options, &target, &err),
                  &err, "start");
    run->target->recorder->fail_one_in = is_failing ? 5 + (unsigned)job_run_pick(run, 100) : 0;
    job_run_until_ended(run);
    run->target->recorder->fail_one_in = 0;
    if (!is_failing) {
        check_done(run);
    }
    bool is_done = run->end.state == BLOCK_JOB_DONE;
    if (is_marked(run, number) ? is_done : !is_done && !is_failing) {
        job_run_quit(run, "the target looks like what it is not", "");
    }
    if (is_done) {
        uint8_t *now = run->model.bytes;
        run->model.bytes = then;
        job_run_check_files(run, number, "the backup");
        run->model.bytes = now;
    }
    *out_number = number;
    free(then);
}

/* What the file has of the bitmap after the end of the process, or after it was closed. */
static void say(void *ctx, const char *text)
{
    printf("%s\n", text);
}

static void check_stored(struct run *run, unsigned top, const struct dirty_map *map, bool is_kept,
                         bool is_closed)
{
    struct reopening r = {.run = run};
    struct error err = {0};
    struct block *root;
    struct block_front *front;
    job_run_check(run, job_run_open_copy(&r, top, false, &root, &err), &err, "bitmap");
    job_run_check(run, block_front_create(root, &front, &err), &err, "bitmap");
    const struct block_bitmap *bitmap = block_bitmap_find(front, "kept");
    if (bitmap == NULL || (is_kept && bitmap->is_inconsistent)) {
        job_run_quit(run, "the bitmap is not there", "");
    }
    for (uint64_t at = 0; at < run->model.size && !bitmap->is_inconsistent;
         at += map->granularity) {
        if (dirty_map_get(map, at) != dirty_map_get(&bitmap->map, at)) {
            job_run_quit(run, "the bitmap has changed", is_closed ? "closed" : "crashed");
        }
    }
    block_close(block_front_block(front));
    struct block_check_result result;
    struct block_options options = {.format = "qcow2", .is_for_repair = true, .is_alone = true};
    struct recorder *copy =
        recorder_create(r.copy[top]->bytes, r.copy[top]->block.info.size_bytes, run->loop, 1);
    job_run_check(run, block_open_format(&copy->block, &options, &root, &err), &err, "check");
    job_run_check(run, block_check(root, 0, is_closed ? say : NULL, NULL, &result, &err), &err,
                  "check");
    if (result.errors > 0 || (is_closed && result.leaks > 0)) {
        job_run_quit(run, "errors or leaks", "");
    }
    block_close(root);
    recorder_destroy(copy);
    for (unsigned i = 0; i < run->file_count; i++) {
        if (r.copy[i] != NULL) {
            recorder_destroy(r.copy[i]);
        }
    }
}

static void backup(struct run *run)
{
    struct error err = {0};
    struct block_bitmap *bitmap, *kept = NULL;
    unsigned number = 0, next;
    run->what = "backup";
    job_run_begin(run);
    job_run_add_overlay(run);
    job_run_check(run,
                  block_bitmap_add(run->front, "b", 512u << job_run_pick(run, 12), false, true,
                                   &bitmap, &err),
                  &err, "bitmap");
    job_run_check(run,
                  block_bitmap_add(run->front, "kept", 512u << job_run_pick(run, 12), true, true,
                                   &kept, &err),
                  &err, "bitmap");
    bool is_stored = job_run_pick(run, 2) == 0;
    if (is_stored) {
        job_run_check(run, block_bitmaps_store(run->front, &err), &err, "store");
        check_stored(run, run->top, &kept->map, true, false);
    }
    job_run_steps(run, (unsigned)job_run_pick(run, 6));
    bool is_failing = job_run_pick(run, 5) == 0;
    one_backup(run, bitmap, true, -1, is_failing, &number);
    for (unsigned i = (unsigned)job_run_pick(run, 4); i > 0 && run->end.state == BLOCK_JOB_DONE;
         i--) {
        job_run_steps(run, (unsigned)job_run_pick(run, 4));
        bool fails = job_run_pick(run, 4) == 0;
        one_backup(run, bitmap, false, (int)number, fails, &next);
        if (run->end.state != BLOCK_JOB_DONE) {
            run->end.state = BLOCK_JOB_DONE; /* another try: nothing of the bitmap is lost */
            continue;
        }
        number = next;
    }
    if (is_stored && job_run_pick(run, 2) == 0) {
        job_run_crash(run, "an end of the process");
        check_stored(run, run->top, &kept->map, false, false);
    }
    struct dirty_map map = {0};
    job_run_check(run, dirty_map_init(&map, run->model.size, kept->map.granularity), NULL, "map");
    job_run_steps(run, 2);
    dirty_map_merge(&map, &kept->map);
    job_run_pump(run);
    block_jobs_stop(run->jobs);
    job_run_check(run, block_finish(block_front_block(run->front), &err), &err, "finish");
    check_stored(run, run->top, &map, true, true);
    job_run_check_files(run, run->top, "when all is closed");
    dirty_map_fini(&map);
    block_jobs_destroy(run->jobs);
    event_loop_destroy(run->loop);
    for (unsigned i = 0; i < run->file_count; i++) {
        recorder_destroy(run->file[i].recorder);
    }
    free(run->model.bytes);
}

static void start_one_of(struct run *run, bool is_mirror)
{
    struct error err = {0};
    struct block_job_target target;
    struct block_job_info info;
    struct one_of *one = &run->several->job[run->several->count];
    *one = (struct one_of){.is_mirror = is_mirror};
    one->number = make_target(run, job_run_any_format(run), &target);
    if (is_mirror) {
        const struct block_mirror_options options = {.sync = BLOCK_MIRROR_FULL};
        job_run_check(
            run, block_mirror_start(run->jobs, job_run_options_of(run), &options, &target, &err),
            &err, "start of a mirror");
    } else {
        const struct block_backup_options options = {.is_full = true};
        one->then = malloc(run->model.size);
        memcpy(one->then, run->model.bytes, run->model.size);
        job_run_check(
            run, block_backup_start(run->jobs, job_run_options_of(run), &options, &target, &err),
            &err, "start of a backup");
    }
    block_job_get_info(job_run_job_of(run), &info);
    (void)snprintf(one->id, sizeof(one->id), "%s", info.id);
    run->several->count++;
}

/* A chain that is rearranged below them. */
static bool start_chain_job(struct run *run, unsigned depth)
{
    struct error err = {0};
    if (depth < 3) {
        return false;
    }
    if (job_run_pick(run, 2) == 0) {
        job_run_check(run,
                      block_stream_start(run->jobs, job_run_options_of(run),
                                         block_front_root(run->front), NULL, NULL, NULL, &err),
                      &err, "start of a stream");
    } else {
        struct block *base = at_depth(run, 2);
        base->info.is_readonly = false;
        job_run_check(run,
                      block_commit_start(run->jobs, job_run_options_of(run), at_depth(run, 1), base,
                                         base->name, block_disk_format(base), &err),
                      &err, "start of a commit");
    }
    struct one_of *one = &run->several->job[run->several->count++];
    struct block_job_info info;
    block_job_get_info(job_run_job_of(run), &info);
    *one = (struct one_of){.number = MAX_FILES};
    (void)snprintf(one->id, sizeof(one->id), "%s", info.id);
    if (block_stream_start(run->jobs, job_run_options_of(run), block_front_root(run->front), NULL,
                           NULL, NULL, &err) != -EBUSY ||
        strstr(err.text, one->id) == NULL) {
        job_run_quit(run, "two jobs on one chain", err.text);
    }
    return true;
}

/* A mirror that is ready is completed while the guest does nothing, so that it is known what it has to hold. */
static void complete_one(struct run *run, struct one_of *one, bool has_chain_job)
{
    struct error err = {0};
    struct block_job_info info;
    struct block_job *job = block_jobs_find(run->jobs, one->id);
    block_job_get_info(job, &info);
    if (info.state != BLOCK_JOB_READY || job_run_pick(run, 8) != 0) {
        return;
    }
    one->wants_pivot = job_run_pick(run, 2) == 0;
    int rc = block_job_complete(job, one->wants_pivot, &err);
    if (rc < 0 && rc != -EBUSY) {
        job_run_quit(run, "complete", err.text);
    }
    if (rc < 0 && !has_chain_job && block_jobs_of_chain(run->jobs, run->front) == NULL) {
        job_run_quit(run, "complete", err.text);
    }
    if (rc < 0) {
        return;
    }
    one->is_completing = true;
    one->then = malloc(run->model.size);
    memcpy(one->then, run->model.bytes, run->model.size);
    run->is_quiet = true;
    for (unsigned i = 0; !one->has_ended; i++) {
        job_run_turn(run, i);
    }
    run->is_quiet = false;
    if (one->state == BLOCK_JOB_DONE && one->wants_pivot) {
        run->top = run->other_top = one->number;
    }
}

static void check_one(struct run *run, struct one_of *one)
{
    if (one->number < MAX_FILES && one->state == BLOCK_JOB_DONE) {
        uint8_t *now = run->model.bytes;
        bool is_top = one->is_mirror && one->wants_pivot; /* the guest has gone on there */
        run->model.bytes = is_top ? now : one->then;
        if (!is_top || run->top == one->number) {
            job_run_check_files(run, one->number,
                                one->is_mirror ? "one of the mirrors" : "one of the backups");
        }
        run->model.bytes = now;
    }
    if (one->state == BLOCK_JOB_FAILED) {
        job_run_quit(run, "failed", run->end_failure);
    }
    free(one->then);
}

/* Backups and mirrors of one disk at the same time, while its chain becomes shorter and the guest moves on to targets. */
static void several(struct run *run)
{
    struct several jobs = {0};
    run->what = "several";
    run->several = &jobs;
    job_run_begin(run);
    unsigned depth = 1;
    for (uint64_t i = job_run_pick(run, 3); i > 0; i--, depth++) {
        job_run_add_overlay(run);
    }
    bool has_chain_job = job_run_pick(run, 2) == 0 && start_chain_job(run, depth);
    for (uint64_t i = 2 + job_run_pick(run, 3); i > 0; i--) {
        start_one_of(run, job_run_pick(run, 2) == 0);
        job_run_steps(run, (unsigned)job_run_pick(run, 3));
    }
    unsigned running = jobs.count;
    for (unsigned i = 0; running > 0; i++) {
        job_run_turn(run, i);
        running = 0;
        for (unsigned n = 0; n < jobs.count; n++) {
            struct one_of *one = &jobs.job[n];
            if (!one->has_ended && one->is_mirror && !one->is_completing &&
                block_jobs_find(run->jobs, one->id) != NULL) {
                complete_one(run, one, has_chain_job);
            }
            running += !one->has_ended;
        }
    }
    job_run_check(run, block_flush(block_front_block(run->front)), NULL, "flush");
    for (unsigned n = 0; n < jobs.count; n++) {
        check_one(run, &jobs.job[n]);
    }
    run->has_ended = true;
    job_run_finish(run);
    run->several = NULL;
}

static unsigned outcomes[BLOCK_JOB_FAILED + 1];

static void (*const kinds[])(struct run *run) = {
    stream, commit, mirror, backup, mirror_within_chain, mirror_by_bitmap, several};

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    unsigned crashes = 0, requests = 0;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 100;
    for (uint64_t seed = first; seed < first + count; seed++) {
        struct run *run = calloc(1, sizeof(*run));
        run->seed = seed;
        kinds[seed % ARRAY_COUNT(kinds)](run);
        outcomes[run->end.state]++;
        crashes += run->crash_count;
        requests += run->step_count;
        free(run);
    }
    printf("%u done, %u cancelled, %u failed; %u times the process ended, %u batches meanwhile\n",
           outcomes[BLOCK_JOB_DONE], outcomes[BLOCK_JOB_CANCELLED], outcomes[BLOCK_JOB_FAILED],
           crashes, requests);
    return 0;
}
