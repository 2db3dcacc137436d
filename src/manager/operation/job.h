/* The worker's end of an operation: what a job may use. A job is one function that does one thing to objects, in a process of
 * its own.
 *
 * The worker appends to its journal, STATE/operations/ID.jsonl, one JSON object a line, and holds an flock on it as long as it
 * lives:
 *
 *   {"worker":PID,"started":TICKS,"at":TIME}    first; and again where the next worker takes over
 *   {"step":NAME,...}                           synced before the step is taken: what recovery has to know
 *   {"progress":TEXT,"done":N,"total":N}
 *   {"put":[KIND,NAME,DOCUMENT]}                changes of the database, which hulld makes as it reads them, in their order
 *   {"drop":[KIND,NAME]}
 *   {"event":{...}}                             sent to those who listen
 *   {"result":{...}} or {"error":{"code":..., "message":...}}   last
 *
 * A line counts when its newline is there. Processes that a job leaves behind have executed a program: the journal's descriptor
 * closes by that.
 *
 * Threads: none. */
#ifndef MANAGER_OPERATION_JOB_H
#define MANAGER_OPERATION_JOB_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "manager/place.h"

struct job {
    const char *id;
    struct place place;
    const json_t *request; /* what the route gave: an object */
    int journal_fd;
    bool is_recovery; /* 'steps' says how far another worker came, that is dead */
    json_t *steps;    /* array of the step lines; NULL unless is_recovery */
    /* job.c's own. */
    bool was_cancelled;    /* before this worker began */
    uint64_t reserved_end; /* of the space that the journal is sure to have */
    uint64_t shown_ns, burst_ns;
    unsigned burst;
    char shown[64];
};

struct job_kind {
    const char *name; /* "instance-create" */
    /* 'out_result': a new reference or NULL. What fails has undone what it did. */
    int (*run)(struct job *job, json_t **out_result, struct error *err);
    /* For an operation whose worker died: completes it (0, with the result), or undoes it (-ECANCELED in words). NULL: 'run' is
     * called again, it finds by itself what is done already. */
    int (*recover)(struct job *job, json_t **out_result, struct error *err);
};
/* Tables end with a row without a name. */
extern const struct job_kind instance_jobs[];
extern const struct job_kind image_jobs[];
extern const struct job_kind network_jobs[];
extern const struct job_kind pool_jobs[];
extern const struct job_kind check_jobs[];
extern const struct job_kind transfer_jobs[];

/* At most ten times a second with the same text. 'total' 0: unknown. Never fails: a journal that cannot be written (disk full)
 * says so at the next step. */
void job_progress(struct job *job, const char *text, uint64_t done, uint64_t total);
/* The operation was cancelled (SIGTERM, which also interrupts what blocks: EINTR): the job ends with -ECANCELED when it has
 * undone what it did. */
bool job_is_cancelled(const struct job *job);
/* Before something that a dead worker would leave behind. 'detail' (an object, may be NULL) is taken over. Synced. -ENOSPC: the
 * step is not to be taken. */
int must_check job_step(struct job *job, const char *name, json_t *detail, struct error *err);
/* The last step of that name, borrowed; NULL: it was not taken. For recovery. */
const json_t *job_find_step(const struct job *job, const char *name);
/* Documents are taken over. */
int must_check job_put(struct job *job, const char *kind, const char *name, json_t *document,
                       struct error *err);
int must_check job_drop(struct job *job, const char *kind, const char *name, struct error *err);
void job_event(struct job *job, json_t *event); /* taken over */

/* Opens the journal: takes its lock, says who writes, and with job->is_recovery reads the steps of those before. The rest of
 * 'job' is set. -EBUSY: another worker has it, or has done it. */
int must_check job_open(struct job *job, struct error *err);
/* What has failed is done as if another worker did it after this one: is_recovery is set, and 'steps' are those that were taken. */
int must_check job_begin_again(struct job *job, struct error *err);
/* The last line: 'result' (may be NULL, taken over) where rc is 0, else 'problem'. Closes the journal. */
int must_check job_close(struct job *job, int rc, json_t *result, const struct error *problem,
                         struct error *err);
/* From now on SIGTERM cancels. */
void job_catch_term(void);

#endif
