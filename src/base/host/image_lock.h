/* Locks that keep two programs from using one disk image: on single bytes, as QEMU has them, so that QEMU and Hull respect each
 * other. Open file description locks: they belong to the open file, whichever processes have it, and file systems that carry
 * locks to other hosts (NFS, SMB, cluster file systems) carry these.
 *
 * Threads: any. */
#ifndef BASE_HOST_IMAGE_LOCK_H
#define BASE_HOST_IMAGE_LOCK_H

#include "base/core/compiler.h"

enum image_lock {
    IMAGE_LOCK_NONE,
    IMAGE_LOCK_SHARED, /* for reading, beside others who read */
    IMAGE_LOCK_ALONE,
};

/* Changes the lock of the open file 'fd' from 'was' to 'lock'. 0, also where the file system has no locks; -EBUSY: somebody else
 * uses the file, and the lock is as it was; another -errno. */
int must_check image_lock_set(int fd, enum image_lock was, enum image_lock lock);

#endif
