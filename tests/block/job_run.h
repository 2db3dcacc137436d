/* A disk with a chain of images in memory that a guest writes to while a job runs: steps of the guest, orders to the job, and ends of
 * the process at random moments, after which the files alone have to hold what was flushed. For job_oracle.c. */
#ifndef TESTS_BLOCK_JOB_RUN_H
#define TESTS_BLOCK_JOB_RUN_H

#include "block/image.h"
#include "block/job.h"
#include "tests/block/model.h"
#include "tests/block/recorder.h"

#define MAX_FILES 24

struct file {
    struct recorder *recorder;
    const char *format;
};

/* One of several jobs, and what is expected of it. */
struct one_of {
    char id[16];
    unsigned number; /* of the target */
    uint8_t *then;   /* what the target has to hold */
    bool is_mirror, is_completing, wants_pivot, has_ended;
    enum block_job_state state;
};

struct several {
    struct one_of job[8];
    unsigned count;
};

struct run {
    uint64_t seed;
    struct event_loop *loop;
    struct model model;
    bool is_encrypted;    /* the first image */
    uint32_t sector_size; /* of its encryption */
    struct block_front *front;
    struct block_jobs *jobs;
    struct file file[MAX_FILES]; /* its name is its number */
    unsigned file_count;
    unsigned top;       /* the file that a user would boot from */
    unsigned other_top; /* another one that has to do as well, or the same */
    bool has_ended;
    bool is_quiet;   /* the guest does nothing */
    bool is_cutting; /* and has flushed all: whatever is lost, the disk has to read the same */
    struct file *target;
    struct block_job_info end;
    struct several *several; /* jobs at the same time; NULL: there is one */
    char end_failure[ERROR_TEXT_SIZE];
    const char *what;
    unsigned crash_count, step_count; /* while a job ran */
};

struct reopening {
    struct run *run;
    bool
        is_power_cut; /* not only the process ends: what was not flushed may be lost, by the sector */
    struct recorder *copy[MAX_FILES];
};

void job_run_quit(const struct run *run, const char *why, const char *more);
void job_run_check(const struct run *run, int rc, const struct error *err, const char *why);
uint64_t job_run_pick(struct run *run, uint64_t limit);
unsigned job_run_new_file(struct run *run, const char *format);
struct block *job_run_file_block(struct run *run, unsigned number);
unsigned job_run_make_image(struct run *run, const char *format, int below);
const char *job_run_any_format(struct run *run);
int job_run_open_copy(struct reopening *r, unsigned number, bool is_readonly,
                      struct block **out_block, struct error *err);
void job_run_check_files(struct run *run, unsigned top, const char *when);
void job_run_crash(struct run *run, const char *when);
void job_run_steps(struct run *run, unsigned count);
void job_run_begin(struct run *run);
void job_run_add_overlay(struct run *run);
struct block_job *job_run_job_of(const struct run *run);
void job_run_turn(struct run *run, unsigned i);
void job_run_until_ended(struct run *run);
void job_run_finish(struct run *run);
void job_run_maybe_quiet(struct run *run);
void job_run_no_more_quiet(struct run *run);
const struct block_job_options *job_run_options_of(struct run *run);
void job_run_pump(struct run *run);

#endif
