#include "manager/pool/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/file.h"
#include "base/host/image_lock.h"
#include "block/block.h"
#include "block/image.h"

#define QCOW2_MAGIC       0x514649fbu
#define QCOW2_SIZE_OFFSET 24
#define MERGE_STEP        (1u << 20)

int disk_file_size(const char *path, const char *format, uint64_t *out_size, struct error *err)
{
    struct stat info;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) < 0) {
        return error_set_errno(err, errno, "disk %s", path);
    }
    if (!S_ISREG(info.st_mode)) {
        return error_set(err, EINVAL, "disk %s: is no regular file", path);
    }
    if (strcmp(format, "raw") == 0) {
        *out_size = (uint64_t)info.st_size;
        return 0;
    }
    uint8_t head[QCOW2_SIZE_OFFSET + 8];
    int rc = file_read_at(fd, head, sizeof(head), 0, path, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = be64_get(head + QCOW2_SIZE_OFFSET);
    if (strcmp(format, "qcow2") != 0 || be32_get(head) != QCOW2_MAGIC || size > INT64_MAX) {
        return error_set(err, EINVAL, "disk %s: is no %s image", path, format);
    }
    *out_size = size;
    return 0;
}

static int make_new(const char *path, int *out_fd, struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "making %s", path);
    }
    *out_fd = fd;
    return 0;
}

int disk_file_make_raw(const char *path, uint64_t size, struct error *err)
{
    AUTO_CLOSE int fd = -1;
    int rc = make_new(path, &fd, err);
    if (rc == 0 && (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0)) {
        rc = error_set_errno(err, errno, "making %s", path);
        (void)unlink(path); /* it has failed already */
    }
    return rc;
}

static int fill_overlay(int fd, const char *path, const struct block_create_options *create,
                        struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *file = NULL;
    const struct block_file_options options = {.is_growable = true, .aio = BLOCK_AIO_THREADS};
    int rc = event_loop_create(&loop, err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    rc = block_open_file(fd, path, &options, loop, &file, err);
    if (rc == 0) {
        rc = block_create(file, create, err);
        int finished = block_finish(file, rc == 0 ? err : NULL);
        rc = rc < 0 ? rc : finished;
    }
    event_loop_destroy(loop);
    return rc;
}

int disk_file_make_overlay(const char *path, uint64_t size, const char *backing_name,
                           const char *backing_format, struct error *err)
{
    const struct block_create_options create = {.format = "qcow2",
                                                .size_bytes = size,
                                                .backing_name = backing_name,
                                                .backing_format = backing_format};
    int fd = -1;
    int rc = make_new(path, &fd, err);
    if (rc < 0) {
        return rc;
    }
    rc = fill_overlay(fd, path, &create, err);
    if (rc < 0) {
        (void)unlink(path); /* it has failed already */
        return rc == 0 ? 0 : error_prefix(err, rc, "making %s", path);
    }
    return 0;
}

int disk_file_reflink(const char *from, const char *to, struct error *err)
{
    AUTO_CLOSE int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0) {
        return error_set_errno(err, errno, "disk %s", from);
    }
    AUTO_CLOSE int target = -1;
    int rc = make_new(to, &target, err);
    if (rc < 0) {
        return rc;
    }
    if (ioctl(target, FICLONE, source) == 0 && fsync(target) == 0) {
        return 0;
    }
    rc = -errno;
    (void)unlink(to); /* it has failed already */
    if (rc == -EOPNOTSUPP || rc == -EXDEV || rc == -EINVAL || rc == -ENOTTY || rc == -ENOSYS) {
        return -EOPNOTSUPP;
    }
    return error_set_errno(err, -rc, "copying %s to %s", from, to);
}

int disk_file_check_unused(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "disk %s", path);
    }
    int rc = image_lock_set(fd, IMAGE_LOCK_NONE, IMAGE_LOCK_ALONE);
    return rc == -EBUSY ? error_set(err, EBUSY, "disk %s: is in use", path) : 0;
}

/* The chain from 'first' on; all but the first are for reading. */
static int open_chain(const json_t *chain, size_t first, bool is_readonly, struct event_loop *loop,
                      struct block **out_block, struct error *err)
{
    struct block *block = NULL;
    for (size_t i = json_array_size(chain); i-- > first;) {
        const json_t *image = json_array_get(chain, i);
        const char *path = json_string_value(json_object_get(image, "path"));
        struct block_options options = {.format =
                                            json_string_value(json_object_get(image, "format")),
                                        .is_readonly = is_readonly || i > first,
                                        .aio = BLOCK_AIO_THREADS,
                                        .backing = block};
        int fd = open(path, (options.is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) {
            block_close(block);
            return error_set_errno(err, errno, "disk %s", path);
        }
        block = NULL; /* handed over, also on failure */
        int rc = block_open(fd, path, &options, loop, &block, err);
        if (rc < 0) {
            return rc;
        }
    }
    *out_block = block;
    return 0;
}

int disk_file_open(const json_t *chain, bool is_readonly, struct event_loop *loop,
                   struct block **out_block, struct error *err)
{
    return open_chain(chain, 0, is_readonly, loop, out_block, err);
}

int disk_file_resize(const json_t *chain, uint64_t size, struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *block = NULL;
    int rc = event_loop_create(&loop, err);
    if (rc < 0) {
        return rc;
    }
    rc = open_chain(chain, 0, false, loop, &block, err);
    if (rc == 0) {
        struct block_info info;
        block_get_info(block, &info);
        if (size < info.size_bytes) {
            rc = error_set(err, EINVAL,
                           "disk %s: has %llu bytes: it can be made larger, not smaller",
                           block_name(block), (unsigned long long)info.size_bytes);
        } else if (size % 512 != 0 || size > INT64_MAX) {
            rc = error_set(err, EINVAL, "disk %s: %llu bytes: a multiple of 512 is accepted",
                           block_name(block), (unsigned long long)size);
        } else if (size > info.size_bytes && (rc = block_resize(block, size)) < 0) {
            rc = error_set_errno(err, -rc, "disk %s: making it larger", block_name(block));
        }
        int finished = block_finish(block, rc == 0 ? err : NULL);
        rc = rc < 0 ? rc : finished;
    }
    event_loop_destroy(loop);
    return rc;
}

static int copy_range(struct block *from, struct block *to, uint64_t offset, uint64_t size,
                      void *buffer)
{
    for (uint64_t at = offset; at < offset + size;) {
        size_t part = (size_t)MIN(MERGE_STEP, offset + size - at);
        int rc = block_read(from, at, buffer, part);
        if (rc == 0) {
            rc = block_write(to, at, buffer, part);
        }
        if (rc < 0) {
            return rc;
        }
        at += part;
    }
    return 0;
}

/* All that 'from' itself has. */
static int copy_own(struct block *from, struct block *to, uint64_t end, struct error *err)
{
    AUTO_FREE void *buffer = malloc(MERGE_STEP);
    int rc = buffer != NULL ? 0 : -ENOMEM;
    for (uint64_t at = 0; rc == 0 && at < end;) {
        struct block_extent extent;
        rc = block_map(from, at, end - at, &extent);
        if (rc < 0) {
            break;
        }
        if (extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED) {
            rc = copy_range(from, to, at, extent.size_bytes, buffer);
        } else if (extent.kind != BLOCK_EXTENT_ABSENT) {
            rc = block_write_zeroes(to, at, extent.size_bytes, true);
        }
        at += extent.size_bytes;
    }
    return rc < 0
               ? error_set_errno(err, -rc, "merging %s into %s", block_name(from), block_name(to))
               : 0;
}

static int merge(struct block *from, struct block *to, struct error *err)
{
    struct block_info source, target;
    block_get_info(from, &source);
    block_get_info(to, &target);
    int rc = 0;
    if (source.size_bytes > target.size_bytes) {
        rc = block_resize(to, source.size_bytes);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "making %s larger", block_name(to));
    }
    rc = copy_own(from, to, source.size_bytes, err);
    /* What lies behind the end of 'from' nobody reads. */
    if (rc == 0 && source.size_bytes < target.size_bytes) {
        rc = block_resize(to, source.size_bytes);
        rc = rc < 0 ? error_set_errno(err, -rc, "making %s smaller", block_name(to)) : 0;
    }
    return rc;
}

int disk_file_merge(const json_t *chain, struct error *err)
{
    const json_t *image = json_array_get(chain, 0);
    const char *path = json_string_value(json_object_get(image, "path"));
    struct event_loop *loop = NULL;
    struct block *from = NULL, *to = NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set_errno(err, errno, "disk %s", path);
    }
    int rc = event_loop_create(&loop, err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    const struct block_options options = {.format =
                                              json_string_value(json_object_get(image, "format")),
                                          .is_readonly = true,
                                          .is_alone = true,
                                          .aio = BLOCK_AIO_THREADS};
    rc = block_open(fd, path, &options, loop, &from, err);
    if (rc == 0) {
        rc = open_chain(chain, 1, false, loop, &to, err);
    }
    if (rc == 0) {
        rc = merge(from, to, err);
        int finished = block_finish(to, rc == 0 ? err : NULL);
        rc = rc < 0 ? rc : finished;
    }
    block_close(from);
    event_loop_destroy(loop);
    return rc;
}

static int copy_all(struct block *from, int to, uint64_t size,
                    int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                    struct error *err)
{
    AUTO_FREE char *buffer = malloc(MERGE_STEP);
    int rc = buffer != NULL ? 0 : -ENOMEM;
    for (uint64_t at = 0; rc == 0 && at < size;) {
        struct block_extent extent;
        unsigned depth;
        rc = progress != NULL ? progress(ctx, at, size) : 0;
        if (rc < 0) {
            return error_set(err, -rc, "copying %s: it was cancelled", block_name(from));
        }
        rc = block_map_chain(from, at, MIN(size - at, (uint64_t)1 << 30), &extent, &depth);
        bool has_data =
            rc == 0 && (extent.kind == BLOCK_EXTENT_DATA || extent.kind == BLOCK_EXTENT_COMPRESSED);
        size_t part = has_data ? (size_t)MIN(MERGE_STEP, extent.size_bytes) : 0;
        if (has_data) {
            rc = block_read(from, at, buffer, part);
        }
        if (rc == 0 && has_data) {
            rc = file_write_at(to, buffer, part, at, "the new disk", err);
            if (rc < 0) {
                return rc;
            }
        }
        at += has_data ? part : rc == 0 ? extent.size_bytes : 0;
    }
    return rc < 0 ? error_set_errno(err, -rc, "copying %s", block_name(from)) : 0;
}

int disk_file_copy(const json_t *chain, const char *path,
                   int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                   struct error *err)
{
    struct event_loop *loop = NULL;
    struct block *from = NULL;
    struct block_info info;
    AUTO_CLOSE int fd = -1;
    int rc = event_loop_create(&loop, err);
    if (rc < 0) {
        return rc;
    }
    rc = open_chain(chain, 0, true, loop, &from, err);
    if (rc == 0) {
        block_get_info(from, &info);
        rc = make_new(path, &fd, err);
    }
    if (rc == 0) {
        rc = ftruncate(fd, (off_t)info.size_bytes) < 0
                 ? error_set_errno(err, errno, "making %s", path)
                 : copy_all(from, fd, info.size_bytes, progress, ctx, err);
        if (rc == 0 && fsync(fd) < 0) {
            rc = error_set_errno(err, errno, "writing %s", path);
        }
        if (rc < 0) {
            (void)unlink(path); /* it has failed already */
        }
    }
    block_close(from);
    event_loop_destroy(loop);
    return rc;
}
