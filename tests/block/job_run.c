/* What all kinds of jobs are tried with: see job_run.h. */
#include "tests/block/job_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/crypt.h"
#include "block/veil.h"

#define LUKS_PAYLOAD 4096u

void job_run_quit(const struct run *run, const char *why, const char *more)
{
    printf("seed %llu: %s: %s %s\n", (unsigned long long)run->seed, run->what, why, more);
    exit(1);
}

void job_run_check(const struct run *run, int rc, const struct error *err, const char *why)
{
    if (rc < 0) {
        job_run_quit(run, why, err != NULL ? err->text : "");
    }
}

uint64_t job_run_pick(struct run *run, uint64_t limit)
{
    return model_random(&run->model, limit);
}

static void job_event(void *ctx, const struct block_job_info *job, enum block_job_event event)
{
    struct run *run = ctx;
    if (event == BLOCK_JOB_ENDED) {
        run->has_ended = true;
        run->end = *job;
        (void)snprintf(run->end_failure, sizeof(run->end_failure), "%s", job->failure);
        for (unsigned i = 0; run->several != NULL && i < run->several->count; i++) {
            struct one_of *one = &run->several->job[i];
            if (strcmp(one->id, job->id) == 0) {
                one->has_ended = true;
                one->state = job->state;
            }
        }
    }
}

static void stop_loop(void *ctx)
{
    event_loop_stop(ctx);
}

/* What the loop has to do now. */
void job_run_pump(struct run *run)
{
    job_run_check(run, event_loop_defer(run->loop, stop_loop, run->loop, NULL), NULL, "defer");
    job_run_check(run, event_loop_run(run->loop, NULL), NULL, "loop");
}

unsigned job_run_new_file(struct run *run, const char *format)
{
    unsigned number = run->file_count++;
    if (number >= MAX_FILES) {
        job_run_quit(run, "too many files", "");
    }
    run->file[number] =
        (struct file){recorder_create(NULL, 0, run->loop, run->seed * 64 + number), format};
    return number;
}

struct block *job_run_file_block(struct run *run, unsigned number)
{
    struct block *block = &run->file[number].recorder->block;
    (void)snprintf(block->name, strlen(block->name) + 1, "%u", number);
    return block;
}

/* What is in a LUKS header does not matter here. */
static int unlock(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err)
{
    const struct run *run = ctx;
    bool is_luks = strcmp(run->file[0].format, "luks") == 0;
    *out_crypt = (struct block_crypt){.payload_offset = is_luks ? LUKS_PAYLOAD : 0,
                                      .sector_size = run->sector_size,
                                      .key_size = 64,
                                      .key = "any key"};
    return 0;
}

/* A new, empty image in a new file. */
unsigned job_run_make_image(struct run *run, const char *format, int below)
{
    unsigned number = job_run_new_file(run, format);
    struct block *block = job_run_file_block(run, number);
    struct error err = {0};
    if (strcmp(format, "raw") == 0) {
        job_run_check(run, block_resize(block, run->model.size), NULL, "resize");
        block->info.is_growable = false;
        block->info.logical_block_size = 512;
        return number;
    }
    if (strcmp(format, "luks") == 0) {
        job_run_check(run, block_resize(block, LUKS_PAYLOAD + run->model.size), NULL, "resize");
        return number;
    }
    char name[8];
    (void)snprintf(name, sizeof(name), "%d", below);
    uint32_t cluster_size = 512u << job_run_pick(run, 9);
    cluster_size = MAX(cluster_size, run->sector_size);
    struct block_create_options options = {.format = format,
                                           .size_bytes = run->model.size,
                                           .cluster_size = cluster_size,
                                           .backing_name = below >= 0 ? name : NULL};
    if (below >= 0) {
        options.backing_format = run->file[below].format;
    }
    if (run->is_encrypted && number == 0) {
        options.crypt_header_bytes = LUKS_PAYLOAD;
        job_run_check(
            run,
            block_open_memory(LUKS_PAYLOAD, "LUKS header", run->loop, &options.crypt_header, NULL),
            NULL, "header");
    }
    job_run_check(run, block_create(block, &options, &err), &err, "create");
    block_close(options.crypt_header);
    return number;
}

const char *job_run_any_format(struct run *run)
{
    return job_run_pick(run, 3) == 0 ? "raw" : "qcow2";
}

/* --- the end of the process, and what the files have then --- */

static int resolve(void *ctx, const struct block_reference *reference, struct block **out_block,
                   struct error *err)
{
    return job_run_open_copy(ctx, (unsigned)atoi(reference->name), true, out_block, err);
}

/* What was flushed, and any selection of the rest. */
static struct recorder *cut_power(struct run *run, const struct recorder *from)
{
    struct recorder *copy = recorder_create(NULL, 0, run->loop, 1);
    uint64_t durable = 0;
    for (uint64_t i = 0; i < from->log_count; i++) {
        if (from->log[i].op == BLOCK_FLUSH) {
            durable = MAX(durable, from->log[i].covers);
        }
    }
    for (uint64_t i = 0; i < from->log_count; i++) {
        bool is_sure = i < durable || from->log[i].op == BLOCK_RESIZE;
        recorder_apply(&from->log[i], copy->bytes, copy->capacity, &copy->block.info.size_bytes,
                       !is_sure, &run->model.state);
    }
    return copy;
}

int job_run_open_copy(struct reopening *r, unsigned number, bool is_readonly,
                      struct block **out_block, struct error *err)
{
    const struct file *file = &r->run->file[number];
    const struct recorder *from = file->recorder;
    struct recorder *copy =
        r->is_power_cut
            ? cut_power(r->run, from)
            : recorder_create(from->bytes, from->block.info.size_bytes, r->run->loop, number + 1);
    r->copy[number] = copy;
    (void)snprintf(copy->block.name, strlen(copy->block.name) + 1, "%u", number);
    if (strcmp(file->format, "raw") == 0) {
        copy->block.info.is_growable = false;
        copy->block.info.logical_block_size = 512;
    }
    struct block_options options = {.format = file->format,
                                    .is_readonly = is_readonly,
                                    .resolve = resolve,
                                    .resolve_ctx = r,
                                    .unlock = unlock,
                                    .unlock_ctx = r->run};
    return block_open_format(&copy->block, &options, out_block, err);
}

static void check_files_after(struct run *run, unsigned top, bool is_power_cut, const char *when)
{
    struct reopening r = {.run = run, .is_power_cut = is_power_cut};
    struct error err = {0};
    struct model model = {.bytes = run->model.bytes, .size = run->model.size, .parallel = 1};
    job_run_check(run, job_run_open_copy(&r, top, false, &model.block, &err), &err, when);
    if (!model_verify(&model)) {
        char place[64];
        (void)snprintf(place, sizeof(place), "%s at %llu of image %u", model.failure,
                       (unsigned long long)model.failed_at, top);
        job_run_quit(run, when, place);
    }
    block_close(model.block);
    for (unsigned i = 0; i < run->file_count; i++) {
        if (r.copy[i] != NULL) {
            recorder_destroy(r.copy[i]);
        }
    }
}

void job_run_check_files(struct run *run, unsigned top, const char *when)
{
    check_files_after(run, top, false, when);
}

void job_run_crash(struct run *run, const char *when)
{
    job_run_check(run, block_flush(block_front_block(run->front)), NULL, "flush");
    job_run_check_files(run, run->top, when);
    if (run->other_top != run->top) {
        job_run_check_files(run, run->other_top, when);
    }
}

static void step(struct run *run)
{
    if (!model_step(&run->model)) {
        char place[32];
        (void)snprintf(place, sizeof(place), "at %llu", (unsigned long long)run->model.failed_at);
        job_run_quit(run, run->model.failure, place);
    }
}

void job_run_steps(struct run *run, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        step(run);
    }
}

/* --- a chain --- */

void job_run_begin(struct run *run)
{
    struct error err = {0};
    run->model.state = run->seed * 2862933555777941757u + 3037000493u;
    run->model.size = (1 + job_run_pick(run, 48)) * 65536 + job_run_pick(run, 4) * 512;
    run->is_encrypted = job_run_pick(run, 4) == 0;
    run->sector_size = run->is_encrypted && job_run_pick(run, 3) == 0 ? 4096 : 512;
    run->model.size = run->model.size / run->sector_size * run->sector_size;
    run->model.bytes = calloc(1, run->model.size);
    run->model.max_request = 200000;
    run->model.parallel = 1 + (unsigned)job_run_pick(run, 8);
    job_run_check(run, event_loop_create(&run->loop, &err), &err, "loop");
    job_run_check(run, block_jobs_create(run->loop, job_event, run, &run->jobs, &err), &err,
                  "jobs");
    const char *format = job_run_any_format(run);
    if (run->is_encrypted && strcmp(format, "raw") == 0) {
        format = "luks";
    }
    run->top = run->other_top = job_run_make_image(run, format, -1);
    struct block_options options = {.format = format, .unlock = unlock, .unlock_ctx = run};
    struct block *root;
    job_run_check(run, block_open_format(job_run_file_block(run, run->top), &options, &root, &err),
                  &err, "open");
    if (strcmp(format, "luks") == 0) { /* what nobody has written is anything there */
        job_run_check(run, block_write_zeroes(root, 0, run->model.size, false), NULL, "zeros");
    }
    job_run_check(run, block_front_create(root, &run->front, &err), &err, "front");
    run->model.block = block_front_block(run->front);
    job_run_steps(run, (unsigned)job_run_pick(run, 12));
}

void job_run_add_overlay(struct run *run)
{
    struct error err = {0};
    unsigned number = job_run_make_image(run, "qcow2", (int)run->top);
    job_run_check(
        run, block_front_put_overlay(run->front, job_run_file_block(run, number), "qcow2", &err),
        &err, "overlay");
    run->top = run->other_top = number;
    job_run_steps(run, (unsigned)job_run_pick(run, 12));
}

struct block_job *job_run_job_of(const struct run *run)
{
    return block_jobs_of(run->jobs, run->front);
}

static void disturb(struct run *run)
{
    struct block_job *job = job_run_job_of(run);
    if (job == NULL || run->has_ended) {
        return;
    }
    switch (job_run_pick(run, 24)) {
    case 0:
        block_job_pause(job);
        break;
    case 1:
        block_job_set_speed(job, 1 + job_run_pick(run, 1 << 20));
        break;
    case 2:
    case 3:
        block_job_resume(job);
        break;
    case 4:
    case 5:
        block_job_set_speed(job, 0);
        break;
    case 6:
        if (job_run_pick(run, 8) == 0) {
            block_job_cancel(job);
        }
        break;
    default:
        break;
    }
}

/* The target of a copy is marked, or whole. */
static void check_target(struct run *run)
{
    unsigned number = (unsigned)(run->target - run->file);
    uint64_t state = run->model.state;
    struct recorder *copy = cut_power(run, run->target->recorder);
    bool has_mark = memcmp(copy->bytes, BLOCK_VEIL_MARK, sizeof(BLOCK_VEIL_MARK) - 1) == 0;
    recorder_destroy(copy);
    if (!has_mark) {
        run->model.state = state; /* the same cut */
        check_files_after(run, number, true, "a power cut while the target is being finished");
    }
}

/* Some of everything. */
void job_run_turn(struct run *run, unsigned i)
{
    {
        if (job_run_pick(run, 2) == 0 && !run->is_quiet) {
            step(run);
            run->step_count++;
        }
        disturb(run);
        if (i > 200 && job_run_job_of(run) != NULL) {
            block_job_set_speed(job_run_job_of(run), 0);
            block_job_resume(job_run_job_of(run));
        }
        if (i > 100000) {
            job_run_quit(run, "the job does not end", "");
        }
        for (uint64_t n = run->is_cutting ? 1 : job_run_pick(run, 6);
             n > 0 && job_run_job_of(run) != NULL; n--) {
            if (!coroutine_run_ready() && block_is_any_busy()) {
                block_wait_any();
            }
        }
        job_run_pump(run);
        if (run->is_cutting && job_run_pick(run, 4) == 0) {
            check_files_after(run, run->top, job_run_pick(run, 2) == 0,
                              "a power cut while the job runs");
            if (run->target != NULL) {
                check_target(run);
            }
            run->crash_count++;
        }
        if (job_run_pick(run, 16) == 0 && !run->is_quiet) {
            job_run_crash(run, "an end of the process while the job runs");
            run->crash_count++;
        }
    }
}

void job_run_until_ended(struct run *run)
{
    for (unsigned i = 0; !run->has_ended; i++) {
        job_run_turn(run, i);
    }
}

void job_run_finish(struct run *run)
{
    struct error err = {0};
    job_run_pump(run);
    job_run_steps(run, 8);
    if (!model_verify(&run->model)) {
        job_run_quit(run, "in the end", run->model.failure);
    }
    job_run_crash(run, "an end of the process afterwards");
    block_jobs_stop(run->jobs);
    block_jobs_destroy(run->jobs);
    job_run_check(run, block_finish(block_front_block(run->front), &err), &err, "finish");
    job_run_check_files(run, run->top, "when all is closed");
    event_loop_destroy(run->loop);
    for (unsigned i = 0; i < run->file_count; i++) {
        recorder_destroy(run->file[i].recorder);
    }
    free(run->model.bytes);
}

/* Now and then the guest does nothing during a job, and each step of it has to leave a disk that reads the same. */
void job_run_maybe_quiet(struct run *run)
{
    if (job_run_pick(run, 3) == 0) {
        job_run_crash(run, "before the job");
        run->is_quiet = run->is_cutting = true;
    }
}

void job_run_no_more_quiet(struct run *run)
{
    run->is_quiet = run->is_cutting = false;
}

const struct block_job_options *job_run_options_of(struct run *run)
{
    static struct block_job_options options;
    options = (struct block_job_options){.front = run->front, .disk = "disk0"};
    return &options;
}
