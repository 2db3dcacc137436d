/* Programs that a request starts. */
#ifndef AGENT_PROGRAM_H
#define AGENT_PROGRAM_H

#include <sys/types.h>

#include "agent/request.h"
#include "base/core/error.h"

struct program {
    pid_t pid; /* leads a session and a process group */
    int ended; /* a signalfd: can be read when it may have ended */
    int input, output,
        errors; /* our ends, not blocking; -1: closed. With a terminal 'input' is it, 'errors' -1 */
};

/* Errors are also those of the new process until it has become the program. */
int must_check program_start(const struct request *request, struct program *out_program,
                             struct error *err);
/* Ends it and all processes of its session, first kindly. */
void program_kill(struct program *program);
void program_close(struct program *program);

/* Runs a program of this system to its end, without streams. 'argv' begins with the program's path. Returns its exit status, or
 * 128 and the signal's number; -errno. */
int must_check program_run(const char *const *argv, struct error *err);
/* Begins one that goes on by itself, also when the connection that asked for it has ended. */
void program_run_behind(const char *const *argv);

#endif
