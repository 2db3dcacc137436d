/* Data: shared, else copied by the kernel, else by hand. */
#include "system/layers/data.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/host/file.h"

#define PIECE_SIZE  (8 << 20)
#define BUFFER_SIZE (256 << 10)

static int report(const struct data_copy *copy, uint64_t bytes)
{
    return copy->progress != NULL ? copy->progress(copy->ctx, bytes) : 0;
}

static bool share(struct data_copy *copy, int from, int to)
{
    if (copy->cannot_share) {
        return false;
    }
    if (ioctl(to, FICLONE, from) == 0) {
        return true;
    }
    copy->cannot_share = errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV;
    return false;
}

static ssize_t copy_by_hand(int from, int to, uint64_t offset, size_t size)
{
    AUTO_FREE char *buffer = malloc(BUFFER_SIZE);
    if (buffer == NULL) {
        return -ENOMEM;
    }
    ssize_t got = pread(from, buffer, MIN(size, (size_t)BUFFER_SIZE), (off_t)offset);
    if (got < 0) {
        return -errno;
    }
    for (ssize_t done = 0; done < got;) {
        ssize_t written = pwrite(to, buffer + done, (size_t)(got - done), (off_t)offset + done);
        if (written <= 0) {
            return written < 0 ? -errno : -EIO;
        }
        done += written;
    }
    return got;
}

/* Some of [offset, offset + size): how much, 0 at the end of 'from'. */
static ssize_t copy_piece(int from, int to, uint64_t offset, size_t size)
{
    off_t from_offset = (off_t)offset, to_offset = (off_t)offset;
    ssize_t done = copy_file_range(from, &from_offset, to, &to_offset, size, 0);
    if (done >= 0) {
        return done;
    }
    bool can_be_done = errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS;
    return can_be_done ? copy_by_hand(from, to, offset, size) : -errno;
}

static int copy_extent(struct data_copy *copy, int from, int to, uint64_t start, uint64_t end)
{
    while (start < end) {
        ssize_t done = copy_piece(from, to, start, (size_t)MIN(end - start, (uint64_t)PIECE_SIZE));
        if (done == -EINTR) {
            continue;
        }
        if (done <= 0) {
            return (int)done;
        }
        start += (uint64_t)done;
        int rc = report(copy, (uint64_t)done);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

int data_copy(struct data_copy *copy, int from, int to, uint64_t size)
{
    if (size == 0) {
        return 0;
    }
    if (share(copy, from, to)) {
        return report(copy, size);
    }
    if (ftruncate(to, (off_t)size) < 0) {
        return -errno;
    }
    for (uint64_t at = 0; at < size;) {
        off_t start = lseek(from, (off_t)at, SEEK_DATA);
        if (start < 0 && errno == ENXIO) {
            return 0; /* a hole to the end */
        }
        bool knows_holes = start >= 0;
        off_t end = knows_holes ? lseek(from, start, SEEK_HOLE) : (off_t)size;
        start = knows_holes ? start : (off_t)at;
        if ((uint64_t)start >= size || end <= start) {
            return 0; /* it changes meanwhile */
        }
        int rc = copy_extent(copy, from, to, (uint64_t)start, MIN((uint64_t)end, size));
        if (rc != 0) {
            return rc;
        }
        at = (uint64_t)end;
    }
    return 0;
}
