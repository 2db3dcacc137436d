/* Groups as folders of a mounted hierarchy: made, opened, walked and removed by descriptors, without leaving the hierarchy.
 *
 * Paths are relative to the hierarchy's root and have no "", "." or ".." in them; group_path_check sees to that. */
#ifndef CONTAINER_CGROUP_TREE_H
#define CONTAINER_CGROUP_TREE_H

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/core/error.h"
#include "container/descriptor.h"

/* A path from a configuration in its plain form, as new memory: slashes at both ends, doubled ones and "." are gone.
 * Errors: -EINVAL for "..", control characters, and more than 4095 bytes. */
int must_check group_path_parse(const char *path, char **out_path, struct error *err);

/* A descriptor of a group, or -errno; "" is the hierarchy's root. */
int group_open(int hierarchy_fd, const char *path);

/* Makes a group and those above it that are missing. 'out_made': how many were; 0: the group was there before. A failure
 * leaves none. 0 or -errno. */
int must_check group_make(int hierarchy_fd, const char *path, unsigned *out_made);
/* Removes the last 'made' groups of the path, as far as nothing is in them. */
void group_unmake(int hierarchy_fd, const char *path, unsigned made);

/* Calls 'visit' for the group and those below, each before those below it. What is removed meanwhile is left out. The
 * descriptor is the walk's. 0, -errno, or the first thing not 0 that 'visit' returns. */
typedef int (*group_visit_fn)(int group_fd, void *ctx);
int must_check group_walk(int group_fd, group_visit_fn visit, void *ctx);

/* Removes all groups below, the lowest first. 0, or the first -errno (-EBUSY: somebody is inside), with all others removed. */
int must_check group_remove_below(int group_fd);

/* Control files. Reading: at most size - 1 bytes and a NUL, the last newline cut off; the count or -errno. */
int control_read(int group_fd, const char *file, char *out_text, size_t size);
int control_read_u64(int group_fd, const char *file, uint64_t *out_value); /* "max" is UINT64_MAX */
/* The value of a line "KEY VALUE" ('file' may be a list of such). -ENOENT: no such line. */
int control_read_key(int group_fd, const char *file, const char *key, uint64_t *out_value);
int control_write(int group_fd, const char *file, const char *text);
int control_printf(int group_fd, const char *file, const char *format, ...) printf_like(3, 4);
/* New memory with the whole of a file of any size up to 16 MiB; NULL: -errno in errno. */
char *control_read_all(int group_fd, const char *file);

#endif
