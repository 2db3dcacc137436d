/* Layers of OCI images: tar archives that are put on the files of those before them. Neither archives nor the tree that is there
 * are trusted: all paths are resolved within the root (openat2, RESOLVE_IN_ROOT), and their last part is never followed.
 *
 * Known: ustar, GNU's long names, pax (path, linkpath, size, uid, gid, mtime, SCHILY.xattr of user.* and security.capability). An
 * archive with something else (sparse files) is an error. Whiteouts (".wh.NAME", ".wh..wh..opq") take away what was there before
 * the layer, wherever in the archive they stand. */
#ifndef MANAGER_IMAGE_TAR_H
#define MANAGER_IMAGE_TAR_H

#include "base/core/error.h"

struct tar_times; /* of folders, which change as long as files are put into them */

struct tar_times *tar_times_new(void); /* NULL: no memory */
void tar_times_free(struct tar_times *times);

struct tar_layer {
    int fd;      /* a file with the archive, not compressed */
    int root_fd; /* the folder */
    struct tar_times *times;
    int (*poll)(void *ctx); /* now and then; not 0 cancels: -ECANCELED; may be NULL */
    void *ctx;
};
/* Errors: -EBADMSG: it is no such archive, or a path leads out of it; else what the host says. What was unpacked stays. */
int must_check tar_unpack(const struct tar_layer *layer, struct error *err);
/* After the last layer. */
int must_check tar_set_times(const struct tar_times *times, int root_fd, struct error *err);

#endif
