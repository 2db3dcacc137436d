/* Pausing without control groups: each process of the container is stopped by SIGSTOP. Its parents in the container may see that; what
 * was stopped before goes on too afterwards. */
#ifndef CONTAINER_RUNTIME_HALT_H
#define CONTAINER_RUNTIME_HALT_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/core/error.h"

/* Those in the pid namespace of the container's first process; what is in namespaces below goes on. -EOPNOTSUPP: it has no pid
 * namespace of its own. After an error they go on. */
int must_check halt_processes(pid_t init, bool is_halted, struct error *err);
/* Nothing in the container can stop its first process. */
bool halt_is_halted(pid_t init);

#endif
