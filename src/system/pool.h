/* Pools of CPUs: names for sets of them, which containers share fairly by their shares, in the manner of Solaris' resource
 * pools. STATE/pools.yaml: a mapping of names to lists as in cpuset(7). */
#ifndef SYSTEM_POOL_H
#define SYSTEM_POOL_H

#include <jansson.h>

#include "base/core/error.h"
#include "system/store.h"

/* An object of names and sets: a new reference. */
int must_check pool_list(const struct store *store, json_t **out_pools, struct error *err);
/* New memory with the pool's set. Errors: -ENOENT with the names that there are. */
int must_check pool_find(const struct store *store, const char *name, char **out_cpus,
                         struct error *err);
/* Makes it or changes it; 'cpus' NULL: removes it. Containers are the caller's business.
 * Errors: -EINVAL for a set that the host has not. */
int must_check pool_set(const struct store *store, const char *name, const char *cpus,
                        struct error *err);

#endif
