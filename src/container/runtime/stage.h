/* Processes that make the container's processes: born in its group of v2 where that can be, and in between where namespaces have to be joined. */
#ifndef CONTAINER_RUNTIME_STAGE_H
#define CONTAINER_RUNTIME_STAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "container/cgroup/cgroup.h"

/* namespaces_clone into the v2 group of 'cgroup' (NULL: none). 'out_is_in_unified' is set in both processes: whether it was possible. */
pid_t stage_clone(uint64_t flags, const struct cgroup *cgroup, bool *out_is_in_unified,
                  int *out_pidfd);

/* In the process in between: its sibling 'pid', the result of a clone, is told to the runtime. Never returns. */
noreturn_fn void stage_end(pid_t pid, int rc, int channel, struct error *err);

/* In the runtime: waits for the process in between, which ends, and for what it has made. 'out_pidfd' is the caller's. */
struct channel_message;
int must_check stage_wait(pid_t stage, int channel, const char *who,
                          struct channel_message *message, pid_t *out_pid, int *out_pidfd,
                          struct error *err);

#endif
