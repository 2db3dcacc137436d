/* A walk through a tree that somebody else filled, by descriptors alone: no name in it is followed, no mount crossed, and its
 * depth is limited neither by the stack nor by the number of descriptors, of which some levels hold theirs only. */
#ifndef SYSTEM_LAYERS_WALK_H
#define SYSTEM_LAYERS_WALK_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/core/compiler.h"

#define WALK_PATH_SIZE 160

struct walk_level;

struct walk {
    /* Set by the caller, else zero. */
    bool removes;     /* entries go while it walks: a folder is listed until it is empty */
    size_t depth_max; /* 0: as deep as memory reaches */
    /* Its own. */
    struct walk_level *levels;
    size_t count, capacity;
};

#define AUTO_WALK __attribute__((cleanup(walk_fini)))
void walk_fini(struct walk *walk);

/* Opens 'name', no path, in a folder: -EXDEV if something is mounted there, -ELOOP for a link. Access times stay as they
 * are. */
int must_check walk_open(int folder_fd, const char *name, int flags);
/* A folder below 'folder_fd' for reading: also -ENOTDIR. */
int must_check walk_open_folder(int folder_fd, const char *name);

/* Goes into a folder, the first time into the tree's root. 'other_fd' is the same folder of a second tree (or -1). Takes both
 * descriptors, also when it fails. 'name' is copied. -ELOOP: deeper than 'depth_max'. */
int must_check walk_enter(struct walk *walk, int fd, int other_fd, const char *name);

/* The next entry of the folder it is in, valid until the next call. 1, 0 at its end, or -errno. */
int must_check walk_next(struct walk *walk, const struct dirent **out_entry);

/* Back to the folder above; -ESTALE if somebody has moved the one it was in. */
int must_check walk_leave(struct walk *walk);

/* Of the folder it is in; lent. */
int walk_fd(const struct walk *walk);
int walk_other_fd(const struct walk *walk);
const char *walk_name(const struct walk *walk);

/* The path of 'name' in the folder it is in, below the tree's root; the end of it where it is long. */
const char *walk_path(const struct walk *walk, const char *name, char out_text[WALK_PATH_SIZE]);

#endif
