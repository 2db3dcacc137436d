#include "base/host/image_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "base/core/bits.h"

/* Who does something locks a byte for it, and who does not bear that others do it locks another; all of these are read locks,
 * which do not exclude each other. Then each looks whether there is a lock of the other kind. */
#define DOES_BASE  100 /* + the number of the permission */
#define BEARS_BASE 200 /* locked: does not bear it */

#define READ   BIT(0)
#define WRITE  BIT(1)
#define RESIZE BIT(3)
#define COUNT  4

struct permissions {
    uint64_t does, does_not_bear;
};

static const struct permissions permissions_of[] = {
    [IMAGE_LOCK_NONE] = {0, 0},
    [IMAGE_LOCK_SHARED] = {READ, WRITE | RESIZE},
    [IMAGE_LOCK_ALONE] = {READ | WRITE | RESIZE, WRITE | RESIZE},
};

static int set_byte(int fd, off_t offset, short type)
{
    struct flock byte = {.l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &byte) < 0 ? -errno : 0;
}

/* Of those in 'which'. */
static int set_bytes(int fd, off_t base, uint64_t which, short type)
{
    int rc = 0;
    for (unsigned i = 0; i < COUNT && rc == 0; i++) {
        rc = (which & BIT(i)) != 0 ? set_byte(fd, base + i, type) : 0;
    }
    return rc;
}

static void unlock(int fd, const struct permissions *have, const struct permissions *keep)
{
    /* To give a lock up does not fail. */
    (void)!set_bytes(fd, DOES_BASE, have->does & ~keep->does, F_UNLCK);
    (void)!set_bytes(fd, BEARS_BASE, have->does_not_bear & ~keep->does_not_bear, F_UNLCK);
}

/* Has anybody else a lock on one of these bytes? */
static int test_bytes(int fd, off_t base, uint64_t which)
{
    for (unsigned i = 0; i < COUNT; i++) {
        struct flock byte = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = base + i, .l_len = 1};
        if ((which & BIT(i)) == 0) {
            continue;
        }
        if (fcntl(fd, F_OFD_GETLK, &byte) < 0) {
            return -errno;
        }
        if (byte.l_type != F_UNLCK) {
            return -EBUSY;
        }
    }
    return 0;
}

static int lock(int fd, const struct permissions *want)
{
    int rc = set_bytes(fd, DOES_BASE, want->does, F_RDLCK);
    if (rc == 0) {
        rc = set_bytes(fd, BEARS_BASE, want->does_not_bear, F_RDLCK);
    }
    if (rc == 0) {
        rc = test_bytes(fd, BEARS_BASE, want->does);
    }
    return rc < 0 ? rc : test_bytes(fd, DOES_BASE, want->does_not_bear);
}

int image_lock_set(int fd, enum image_lock was, enum image_lock lock_kind)
{
    const struct permissions *have = &permissions_of[was], *want = &permissions_of[lock_kind];
    int rc = lock(fd, want);
    switch (rc) {
    case 0:
        unlock(fd, have, want);
        return 0;
    case -EBUSY:
    case -EAGAIN:
    case -EACCES:
        unlock(fd, want, have);
        return -EBUSY;
    case -ENOLCK:
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -EINVAL:
        return 0; /* a file system without locks */
    default:
        unlock(fd, want, have);
        return rc;
    }
}
