/* File trees of containers: shared layers below, a private one above, copies of it, and images of limited size to hold it.
 *
 * Threads: none. Paths are absolute and the caller's; a tree's content is not trusted (it was written by a container's root):
 * names in it are never followed out of it, and everything is done by descriptors below its root. */
#ifndef SYSTEM_LAYERS_LAYERS_H
#define SYSTEM_LAYERS_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define LAYERS_MAX 32

/* Ids of a container: 0 to count - 1 there are first to first + count - 1 on the host. count 0: the same ids. */
struct layers_ids {
    uint32_t first, count;
};

struct layers_mount {
    const char *const
        *lower;         /* the uppermost first; owned by ids as the container sees them (0: root) */
    size_t lower_count; /* 1 to LAYERS_MAX */
    const char *upper,
        *work; /* on one file system; owned by ids as the host sees them. NULL: read-only */
    struct layers_ids ids;
    const char *target; /* an empty folder */
};

/* Mounts the layers together on 'target', in the caller's mount namespace, which is its own (unshared and private): the lower
 * layers mapped to the ids (mount_setattr(2), MOUNT_ATTR_IDMAP) unless they begin with 0, overlayfs over them. Works from
 * Linux 5.19 on (overlayfs on mapped layers); nothing stays mounted beside 'target' and what it needs. With one lower layer and
 * no upper it is a mapped bind mount. Errors: -EOPNOTSUPP with the reason in words where the file system of a lower layer
 * cannot be mapped, or -errno; nothing is left mounted. */
int must_check layers_mount(const struct layers_mount *request, struct error *err);

/* Makes the folders for an upper layer, owned by the container's root. -EEXIST: they are there. */
int must_check layers_make_upper(const char *upper, const char *work, const struct layers_ids *ids,
                                 struct error *err);

struct layers_copy {
    const char *from, *to; /* 'to' is made, and must not be there */
    /* Owners in 'from' are shifted from these ids to those; both count 0: they stay. Ids out of the range: -EINVAL. */
    struct layers_ids from_ids, to_ids;
    /* Called now and then; may be NULL. Not 0 cancels the copy: -ECANCELED. */
    int (*progress)(void *ctx, uint64_t done_bytes, uint64_t done_files);
    void *ctx;
};

/* Copies a tree with everything that is in it: owners, modes, times (ns), all extended attributes that the caller may read and
 * write (also trusted.overlay.*, POSIX ACLs whose ids are shifted too, file capabilities), hard links, holes, devices,
 * whiteouts, sockets' and pipes' nodes, inode flags that matter (append, immutable, nodump). Data is shared where the file
 * system can (FICLONE), else copied in the kernel (copy_file_range). Atomic to others: it is made beside 'to' and renamed. Time
 * is that of the tree's files, not of what lies below it. Errors: -errno with the path below 'from'; nothing is left of
 * 'to'. */
int must_check layers_copy(const struct layers_copy *request, struct error *err);

/* Removes a tree, whatever is in it (immutable files too). It is renamed first, so that nobody sees half of it. One that is not
 * there is no error; what a removal that was killed has left of it goes then, too. Mount points in it are an error (-EBUSY) and
 * stay. */
int must_check layers_remove(const char *path, struct error *err);

/* What the tree occupies: blocks in bytes (st_blocks * 512), each inode once, and inodes. */
int must_check layers_usage(const char *path, uint64_t *out_bytes, uint64_t *out_files,
                            struct error *err);

/* A file with a file system (ext4, made by mkfs.ext4) in which a container's upper layer has its limit of size. Sparse.
 * Errors: -ENOENT naming e2fsprogs where mkfs.ext4 is missing, -EINVAL below 16 MiB. */
int must_check layers_image_create(const char *path, uint64_t size_bytes, struct error *err);
/* Mounts it on a loop device that goes with the mount (LO_FLAGS_AUTOCLEAR), in the caller's mount namespace; nodev, nosuid is
 * not set, since the upper layer of a container has both. Checked before by `e2fsck -p` where it was not unmounted cleanly. */
int must_check layers_image_mount(const char *path, const char *target, struct error *err);
/* Where one is mounted: nothing is written to it any more, and what was is in the image, until that is taken back. Taken
 * back of one that is not frozen is fine. */
int must_check layers_image_freeze(const char *target, bool is_frozen, struct error *err);
/* A copy of one that is not mounted, or (else 'mounted' is NULL or "") mounted and frozen there; 'to' is made, and must not be
 * there. Nothing is left of it after an error. */
int must_check layers_image_copy(const char *from, const char *mounted, const char *to,
                                 struct error *err);
/* Makes it larger: of a mounted one with 'target' (no program needed), else NULL (by resize2fs). Smaller: -EINVAL. */
int must_check layers_image_grow(const char *path, const char *target, uint64_t size_bytes,
                                 struct error *err);

#endif
