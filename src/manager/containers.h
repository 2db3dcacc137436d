/* Where the manager's containers and templates lie for `system`, and an ordinary user's namespace for what works on them. */
#ifndef MANAGER_CONTAINERS_H
#define MANAGER_CONTAINERS_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"
#include "system/life/life.h"

int must_check containers_store(const struct place *place, struct store *out_store,
                                struct error *err);
/* 'keeper' is borrowed; NULL: nothing is started. */
int must_check containers_open(const struct place *place, const char *keeper, struct life *out_life,
                               struct error *err);
/* Does a job work on files of containers or templates? What starts VMs must not be in a user's namespace. */
bool containers_concern(const struct place *place, const char *job, const json_t *request);
/* Is it one that concerns files of containers only where the image has that form, and does without the namespace otherwise? */
bool containers_may_concern(const char *job);
/* In a worker, before anything is done to files of containers or templates: an ordinary user's process goes into his namespace
 * (system/rootless). What serves the networks of 'request' (NULL: none) is started before, as it is not to be in there. */
int must_check containers_enter(struct place *place, const json_t *request, struct error *err);
/* Calls 'fn' where files can be given to others: here, or in a process of its own in the user's namespace, for a job that may not enter it.
 * What 'fn' leaves are files, not memory. */
int must_check containers_do(struct job *job, int (*fn)(void *ctx, struct error *err), void *ctx,
                             struct error *err);

#endif
