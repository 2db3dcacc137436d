/* Small files that the runtime writes. */
#ifndef CONTAINER_RUNTIME_FILES_H
#define CONTAINER_RUNTIME_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "base/core/error.h"

/* A new file of mode 0600 below 'folder'. */
int must_check files_write_at(int folder, const char *name, const void *data, size_t size,
                              struct error *err);
/* The number as text, there completely or not at all. */
int must_check files_write_pid(const char *path, pid_t pid, struct error *err);

#endif
