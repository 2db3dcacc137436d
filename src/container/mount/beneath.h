/* Paths below a directory that somebody else fills: links in them lead to places below it only, and magic links (those of
 * /proc) nowhere. Files are used by the descriptors that come from here, never by a path a second time. */
#ifndef CONTAINER_MOUNT_BENEATH_H
#define CONTAINER_MOUNT_BENEATH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/compiler.h"

/* Opens 'path' with 'root_fd' as its "/": flags of open(2), and RESOLVE_* on top of those that always hold. A mode is needed for
 * none: this creates nothing. Returns a descriptor or -errno. */
int must_check beneath_open(int root_fd, const char *path, int flags, uint64_t resolve);

/* The same as O_PATH, and what is missing is made: directories with mode 0755, at the end of the path a directory or an empty
 * file. Links that lead nowhere are followed by making what they name, below the root. */
int must_check beneath_make(int root_fd, const char *path, bool is_directory);

/* The directory that holds the path's last part, made where it is missing; 'out_name' is that part within 'path', and a name: "" ,
 * "." and ".." are -EINVAL. */
int must_check beneath_make_parent(int root_fd, const char *path, const char **out_name);

#endif
