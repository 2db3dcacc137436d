/* Runs a program, or a function, in a process of its own that sees its own mounts, processes and host name, and that dies with
 * this one. */
#ifndef SYSTEM_TEMPLATE_BOXED_H
#define SYSTEM_TEMPLATE_BOXED_H

#include "base/core/error.h"

struct boxed {
    const char *what; /* for errors: "mmdebstrap" */
    /* In the new process, in namespaces of its own; may be NULL. */
    int (*prepare)(void *prepare_ctx, struct error *err);
    void *prepare_ctx;
    const char *const *argv;        /* searched in $PATH; NULL: prepare() is all */
    const char *const *environment; /* NAME=VALUE, NULL at the end; NULL: this program's */
    const char *missing_package;    /* for the error where argv[0] is not there; may be NULL */
    void (*line)(void *ctx, const char *line); /* what it writes, to both outputs; may be NULL */
    int (*poll)(void *ctx); /* every 200 ms or sooner; not 0 kills it; may be NULL */
    void *ctx;
};

/* Waits for its end, and no process of it is left then. Errors: -ECANCELED, -ENOENT: no such program; -ECHILD: it failed, with
 * its own words. */
int must_check boxed_run(const struct boxed *program, struct error *err);

#endif
