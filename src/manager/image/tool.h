/* Running the host's programs within a job: without output of theirs, and until the operation is cancelled. */
#ifndef MANAGER_IMAGE_TOOL_H
#define MANAGER_IMAGE_TOOL_H

#include "base/core/error.h"
#include "manager/operation/job.h"

struct tool {
    const char *package;     /* Debian's, for the error where argv[0] is not there */
    const char *const *argv; /* NULL at the end; searched beside Hull's programs and in $PATH */
    const char *output;      /* the file that gets its output; NULL: nothing */
};
/* Waits for its end, and nothing of it is left then. Errors: -ECANCELED; -ENOENT naming the package; -ECHILD with its own last
 * words. */
int must_check tool_run(struct job *job, const struct tool *tool, struct error *err);
/* What it writes: at most 1 MiB, the caller frees it. */
int must_check tool_read(struct job *job, const struct tool *tool, char **out_text,
                         struct error *err);

#endif
