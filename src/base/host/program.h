/* Starting Hull's other programs with exactly the descriptors they need. */
#ifndef BASE_HOST_PROGRAM_H
#define BASE_HOST_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/core/error.h"

#define PROCESS_MAX_FDS 2048

struct process_spec {
    const char *program;       /* "hull-vmm": searched as program_find does */
    const char *const *argv;   /* NULL at the end; argv[0] is the program's name */
    int stdin_fd;              /* 0: /dev/null */
    int stdout_fd;             /* -1: /dev/null */
    int stderr_fd;             /* 0: ours */
    bool outlives_us;          /* it is not killed when this program dies */
    int keep[PROCESS_MAX_FDS]; /* stay open under their numbers */
    size_t keep_count;
};

/* Path of a program of Hull: in $HULL_LIBEXEC, beside this program, in the libexec folder of the installation, or
 * (is_foreign) in $PATH. */
int must_check program_find(const char *name, bool is_foreign, char *out_path, size_t size,
                            struct error *err);

/* Starts it in a session of its own (no terminal, no Ctrl-C), with an empty signal mask, and killed when this program dies
 * unless it is to outlive that. */
int must_check process_spawn(const struct process_spec *spec, bool is_foreign, pid_t *out_pid,
                             struct error *err);

/* Does what a program said tell that there is no space left? Then ENOSPC, else 'otherwise'. */
int program_code(const char *line, int otherwise);

#endif
