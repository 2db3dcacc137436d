/* Builds with tests can be killed at each step: the environment's HULL_OCI_FAULT is the step's name. */
#ifndef CONTAINER_RUNTIME_FAULT_H
#define CONTAINER_RUNTIME_FAULT_H

#include <stddef.h>

#ifdef HULL_FAULTS
#include <signal.h>
#include <stdio.h>
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

/* The variable for the environment of a program that is started without the caller's; NULL: it is not set. */
static inline char *fault_variable(char *out_text, size_t size)
{
    const char *wanted = getenv("HULL_OCI_FAULT");
    return wanted != NULL && snprintf(out_text, size, "HULL_OCI_FAULT=%s", wanted) < (int)size
               ? out_text
               : NULL;
}
#else
static inline void fault_step(const char *name)
{
    (void)name;
}

static inline char *fault_variable(char *out_text, size_t size)
{
    (void)out_text;
    (void)size;
    return NULL;
}
#endif

#endif
