/* Who may begin: a pass over operations in their order, those that run first. Each takes its resources, also one that has to
 * wait: so nobody overtakes it to something that it waits for.
 *
 * Threads: none. */
#ifndef MANAGER_OPERATION_QUEUE_H
#define MANAGER_OPERATION_QUEUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct queue_pass {
    json_t *taken; /* by name: is it for one alone? */
    size_t count;  /* those with resources, so far */
    bool is_all_taken;
    bool is_broken; /* no memory: nobody begins */
};
void queue_pass_start(struct queue_pass *pass);
void queue_pass_finish(struct queue_pass *pass);
/* 'resources': array of texts, "~" before those that are shared. False: it has to wait. */
bool queue_take(struct queue_pass *pass, const json_t *resources);

#endif
