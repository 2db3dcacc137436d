/* Mounts that are held by a descriptor, attached or not: copies, attributes, propagation, mapped ids. */
#ifndef CONTAINER_MOUNT_HANDLE_H
#define CONTAINER_MOUNT_HANDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/compiler.h"
#include "container/descriptor.h"

/* MOUNT_ATTR_* set and cleared, in all of the tree if 'is_recursive'. What is not named stays as it is, so also what is locked in a
 * user namespace; a change of access times that is locked is left away. 0 or -errno. */
int must_check handle_apply(int mount_fd, uint64_t set, uint64_t cleared, bool is_recursive);

/* MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, perhaps with MS_REC. 0 or -errno. */
int must_check handle_propagate(int mount_fd, unsigned long propagation);

/* Ids of the whole tree as the user namespace 'user_namespace_fd' maps them. The tree must be attached nowhere. 0 or -errno. */
int must_check handle_map_ids(int mount_fd, int user_namespace_fd, bool is_recursive);

/* A copy of what is mounted at 'path' below 'dir_fd' (path "": of the descriptor itself). Returns a descriptor or -errno. */
int must_check handle_clone(int dir_fd, const char *path, bool is_recursive);

/* Attaches a tree at what 'target_fd' is. 0 or -errno. */
int must_check handle_attach(int mount_fd, int target_fd);

#endif
