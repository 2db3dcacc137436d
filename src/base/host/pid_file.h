/* A file with a process's number that is locked as long as the process lives: a number alone could be another one's by now; the
 * lock goes with the process, however it ends. */
#ifndef BASE_HOST_PID_FILE_H
#define BASE_HOST_PID_FILE_H

#include <sys/types.h>

#include "base/core/error.h"

/* Writes this process's number and locks the file until 'out_fd' is closed, also in its children. -EBUSY: another process has
 * it; 'whose' runs already ("the VM"). */
int must_check pid_file_open(const char *path, const char *whose, int *out_fd, struct error *err);
/* 0: it does not run, or has not said its number yet. */
pid_t pid_file_find(const char *path);

#endif
