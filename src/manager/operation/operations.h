/* What the files of hulld's end of operations share. */
#ifndef MANAGER_OPERATION_OPERATIONS_H
#define MANAGER_OPERATION_OPERATIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "manager/operation/journal.h"
#include "manager/operation/operation.h"

#define OPERATION_MAX_RUNNING 8
#define OPERATION_MAX_WAITING 4096
#define OPERATION_MAX_ENDED   1000
#define OPERATION_KEPT_NS     (86400ull * 1000000000)
#define OPERATION_MAX_WORKERS 3            /* for one operation: as many as die */
#define OPERATION_SHOW_NS     200000000ull /* between two events of progress */
#define OPERATION_RETRY_NS    1000000000ull
#define OPERATION_POLL_NS     100000000ull  /* of workers that cannot be waited for */
#define OPERATION_LOOK_NS     2000000000ull /* of all: wake-ups may get lost */
#define OPERATION_STUCK_NS    30000000000ull

struct operation_watch {
    TAILQ_ENTRY(operation_watch) link;
    struct operation_watches *list; /* where it is */
    json_t *document;               /* the end that it is to be told */
    void (*ended)(void *ctx, const json_t *operation);
    void *ctx;
};
TAILQ_HEAD(operation_watches, operation_watch);

/* One that has not ended, or whose end is not in the database yet. */
struct operation {
    TAILQ_ENTRY(operation) link;
    struct operations *all;
    char id[OPERATION_ID_SIZE];
    json_t *
        document; /* as it is kept, with "internal": {sequence, offset, begun, workers, cancelled, worker:[pid, started]} */
    bool is_running, is_ended, is_unsaved;
    bool is_cancelled;
    unsigned asked; /* to cancel it, since its worker began */
    struct operation_watches watches;

    /* Its worker. */
    bool was_begun;   /* a worker wrote something, now or before */
    unsigned workers; /* how many began */
    pid_t child;      /* ours; 0: none */
    int child_status; /* of the last one that ended, as waitpid tells it */
    pid_t worker;     /* as the journal says, and its start */
    uint64_t worker_started;
    int pidfd; /* -1: none */
    struct event_source *exit_source;
    uint64_t stuck_since_ns; /* its journal has been locked by who knows */

    int journal_fd; /* -1: not open */
    struct journal journal;
    uint64_t retry_ns; /* not before; 0: at once */

    uint64_t shown_ns;
    bool has_news; /* progress that was not told */
};
TAILQ_HEAD(operation_list, operation);

struct ended_operation {
    TAILQ_ENTRY(ended_operation) link;
    char id[OPERATION_ID_SIZE];
    uint64_t ended_ns;
};
TAILQ_HEAD(ended_list, ended_operation);

struct worker_session {
    TAILQ_ENTRY(worker_session) link;
    struct operations *all;
    pid_t pid;
    int pidfd;
    struct event_source *source;
};
TAILQ_HEAD(session_list, worker_session);

struct operations {
    struct operations_options options;
    struct operation_list list; /* in their order */
    unsigned count, running;
    bool has_room;       /* one may be able to begin */
    bool lacks_reserve;  /* perhaps: it is to be made whole */
    uint64_t reserve_ns; /* not before */
    json_int_t next_sequence;
    struct operation_watches due;
    struct ended_list ended; /* the oldest first */
    unsigned ended_count;
    uint64_t prune_ns; /* not before */
    struct session_list sessions;
    unsigned session_count;
    struct event_notifier *wake;
    struct event_timer *timer;
    int inotify_fd; /* -1: none */
    struct event_source *inotify_source;
};

/* operation.c */
struct operation *operation_find(const struct operations *all, const char *id);
void operation_set_status(struct operation *operation, const char *status);
/* A new reference: what others may see of it. */
json_t *operation_public(const json_t *document);
void operation_tell(struct operation *operation);
/* With all that is to be kept beside what is known. */
json_t *operation_kept(const struct operation *operation);
int must_check operation_save(struct operation *operation, struct error *err);
/* After an error 'code': is there more space now, of the reserve? */
bool operation_gets_space(const struct operation *operation, int code);
/* It has ended, as its document says: tells it, and saves it if that was not done. */
void operation_ended(struct operation *operation, bool is_saved);
/* Ends it without the word of a worker. */
void operation_fail(struct operation *operation, const struct error *problem);
/* Sets the end in a document. One of 'result' and 'error', borrowed. */
int must_check operation_set_end(const struct operation *operation, json_t *document,
                                 const json_t *result, const json_t *error, struct error *err);

/* follow.c */
void operation_follow(struct operation *operation);
void operation_start(struct operation *operation);
void operation_signal(struct operation *operation, int number);
/* Looks what an earlier hulld left of it: is a worker, or has one been, at work? */
int must_check operation_resume(struct operation *operation, struct error *err);
/* Waits for the worker of one that has ended, if it is through. */
void operation_reap(struct operation *operation);
void operation_free(struct operation *operation);

/* history.c */
void history_add(struct operations *all, const json_t *document);
void history_prune(struct operations *all);
void history_clear(struct operations *all);
/* Journals that belong to no operation. */
void history_sweep(struct operations *all);

/* session.c: starts hull-worker with a task on its standard input ('task' is borrowed); its process outlives us. */
int must_check worker_spawn(const struct operations *all, const char *const *argv, json_t *task,
                            int keep_fd, pid_t *out_pid, struct error *err);
void sessions_clear(struct operations *all);

#endif
