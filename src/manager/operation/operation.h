/* hulld's end of operations: whatever takes time is one, done by a worker process (job.h).
 *
 * An operation's document (kind "operation" of the store, kept for a day after its end, at most 1000 of them):
 *   name (its id: 32 hexadecimal digits), kind, description, status (waiting, running, done, failed, cancelled), resources,
 *   progress {text, done, total},
 *   result, error {code, message}, created_at, started_at, ended_at (RFC 3339), request
 *
 * Operations that share a resource ("instance/web1") run one after the other in their order; at most 8 run at once, others
 * wait. A resource with "~" before it is shared ("~image/debian/12"): any number at once, but none beside one that has it for
 * itself.
 *
 * Threads: the loop's. */
#ifndef MANAGER_OPERATION_OPERATION_H
#define MANAGER_OPERATION_OPERATION_H

#include <jansson.h>

#include "base/core/error.h"
#include "base/host/event_loop.h"
#include "manager/place.h"
#include "manager/store/store.h"

/* A resource: no other operation that has resources runs meanwhile. */
#define OPERATION_EVERYTHING "*"

#define OPERATION_ID_SIZE 33

struct operations;
struct operation_watch;

struct operation_spec {
    const char *kind;             /* a job_kind's name */
    const char *description;      /* "starting web1" */
    const char *const *resources; /* NULL at the end */
    json_t *request;              /* borrowed */
};

struct operations_options {
    struct event_loop *loop;
    struct place place;
    struct documents *documents;
    /* Each change of an operation, and each event of a job: {"type":"operation","operation":{...}} or the job's own object.
     * Borrowed. */
    void (*event)(void *ctx, const json_t *event);
    void *ctx;
};

/* Also takes up the operations that an earlier hulld left: follows those whose workers live, has the others recovered. */
int must_check operations_create(const struct operations_options *options,
                                 struct operations **out_operations, struct error *err);
/* Leaves the workers running. NULL is fine. */
void operations_destroy(struct operations *operations);

int must_check operations_begin(struct operations *operations, const struct operation_spec *spec,
                                char out_id[OPERATION_ID_SIZE], struct error *err);
/* Deletes a document at once, also when the disk is full. Errors: as documents_delete. */
int must_check operations_drop(struct operations *operations, const char *kind, const char *name,
                               struct error *err);
/* New references. */
int must_check operations_get(struct operations *operations, const char *id, json_t **out_operation,
                              struct error *err);
int must_check operations_list(struct operations *operations, json_t **out_list, struct error *err);
/* One that waits ends at once, the worker of one that runs is told; asked once more, it is killed, and another one undoes or
 * completes what it did. -EALREADY: it has ended. */
int must_check operations_cancel(struct operations *operations, const char *id, struct error *err);
/* Calls back once, when it has ended (in the next turn of the loop if it has already). */
int must_check operations_watch(struct operations *operations, const char *id,
                                void (*ended)(void *ctx, const json_t *operation), void *ctx,
                                struct operation_watch **out_watch, struct error *err);
void operation_watch_cancel(struct operation_watch *watch); /* not after 'ended' was called */
/* Is somebody working on it, who has it for himself? For lists: "starting". The kind of the operation, borrowed, or NULL. */
const char *operations_on(const struct operations *operations, const char *resource);

#endif
