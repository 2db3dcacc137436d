/* Removal of a tree that has been put aside already. */
#ifndef SYSTEM_LAYERS_REMOVE_H
#define SYSTEM_LAYERS_REMOVE_H

#include "base/core/error.h"

/* Removes the folder 'name' in 'folder_fd' with all that is in it. -EBUSY: something is mounted there. */
int must_check remove_tree(int folder_fd, const char *name, struct error *err);

#endif
