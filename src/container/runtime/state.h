/* What is kept of a container between the runtime's calls: a folder of its own below the runtime's root.
 *
 *   ROOT/ID/config.json  as it was at create; later changes of the bundle's have no effect
 *   ROOT/ID/state.json   written whole or not at all
 *   ROOT/ID/start.sock   while it is created and not started: its process waits there
 *
 * A folder without state.json is a container under way, or what a runtime that was killed has left. */
#ifndef CONTAINER_RUNTIME_STATE_H
#define CONTAINER_RUNTIME_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"

#define STATE_CONFIG   "config.json"
#define STATE_GATE     "start.sock"
#define STATE_RESTORED "restored.pid" /* while it is restored */

enum container_status {
    CONTAINER_CREATING,
    CONTAINER_CREATED,
    CONTAINER_RUNNING,
    CONTAINER_PAUSED,
    CONTAINER_STOPPED,
};

struct state {
    const char *id; /* the caller's */
    int folder;     /* descriptor; locked while this is loaded by state_create or state_lock */
    pid_t pid;      /* of its first process, as the runtime sees it; 0: none yet */
    uint64_t
        start_ticks; /* that process' start, field 22 of /proc/PID/stat: who has a reused number is somebody else */
    json_t *data; /* the document; this struct's */
};

/* Letters, digits and "_+-.", at most 255, not "." or "..". */
int must_check state_check_id(const char *id, struct error *err);

/* Makes the folder and locks it. Errors: -EEXIST "container with id exists". */
int must_check state_create(const char *root, const char *id, struct state *out_state,
                            struct error *err);
/* Errors: -ENOENT "container does not exist". */
int must_check state_load(const char *root, const char *id, bool is_locked, struct state *out_state,
                          struct error *err);
void state_close(struct state *state);

int must_check state_save(const struct state *state, struct error *err);
/* Removes the folder and what is in it. */
int must_check state_remove(const char *root, const struct state *state, struct error *err);
/* The same where state.json cannot be read. */
int must_check state_remove_damaged(const char *root, const char *id, struct error *err);

/* The container's class of resctrl, as far as it is its own, once its processes are gone. */
int must_check state_remove_class(const struct state *state, struct error *err);

/* As the process is now; frozen or not is the caller's to find out. */
enum container_status state_status(const struct state *state);
const char *container_status_name(enum container_status status);

/* A descriptor of the container's first process, or -1 with errno ESRCH if it is gone. */
int state_open_process(const struct state *state);
/* Of a process that is there: field 22 of its stat, 0 if it is not or has ended. */
uint64_t process_start_ticks(pid_t pid);

/* A string of the document, or NULL. */
const char *state_string(const struct state *state, const char *name);

/* What runtime.md calls the state, for hooks and `state`: a new reference. */
json_t *state_document(const struct state *state, enum container_status status);

/* Ids of all containers below 'root', sorted; each and the list are the caller's to free. */
int must_check state_list(const char *root, char ***out_ids, size_t *out_count, struct error *err);

#endif
