/* Builds with tests can be killed at each step: the environment's HULL_OCI_FAULT is the step's name. */
#ifndef CONTAINER_RUNTIME_FAULT_H
#define CONTAINER_RUNTIME_FAULT_H

#ifdef HULL_FAULTS
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void fault_step(const char *name)
{
    const char *wanted = getenv("HULL_OCI_FAULT");
    if (wanted != NULL && strcmp(wanted, name) == 0) {
        (void)kill(getpid(), SIGKILL);
        _exit(128 + SIGKILL); /* the first process of a pid namespace cannot kill itself so */
    }
}
#else
static inline void fault_step(const char *name)
{
    (void)name;
}
#endif

#endif
