#include "block/protocol/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/host/file.h"
#include "block/protocol/aio.h"

const uint8_t aio_zeroes[AIO_ZEROES_SIZE];

/* Readers share, a writer is alone. A file system that has no locks (some network ones) is used without. */
static int lock(int fd, const char *name, bool is_readonly, struct error *err)
{
    struct flock range = {.l_type = is_readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &range) == 0 || errno == ENOLCK || errno == EOPNOTSUPP) {
        return 0;
    }
    if (errno == EAGAIN || errno == EACCES) {
        return error_set(err, EBUSY, "disk %s: in use by another process", name);
    }
    return error_set_errno(err, errno, "disk %s: locking", name);
}

static int get_size(struct block_file *file, const char *name, struct error *err)
{
    struct stat st;
    if (fstat(file->fd, &st) < 0) {
        return error_set_errno(err, errno, "disk %s", name);
    }
    struct block_info *info = &file->info;
    info->logical_block_size = 512;
    info->physical_block_size = 512;
    if (S_ISREG(st.st_mode)) {
        file->backed_bytes = (uint64_t)st.st_size;
        info->physical_block_size = 4096; /* what file systems work with */
    } else if (S_ISBLK(st.st_mode)) {
        int logical = 512;
        unsigned physical = 512;
        if (ioctl(file->fd, BLKGETSIZE64, &file->backed_bytes) < 0 ||
            ioctl(file->fd, BLKSSZGET, &logical) < 0 ||
            ioctl(file->fd, BLKPBSZGET, &physical) < 0) {
            return error_set_errno(err, errno, "disk %s: asking for its size", name);
        }
        if (logical != 512 && logical != 4096) {
            return error_set(err, EINVAL, "disk %s: sectors of %d bytes: 512 or 4096 are accepted",
                             name, logical);
        }
        file->is_device = true;
        info->logical_block_size = (uint32_t)logical;
        info->physical_block_size =
            is_power_of_two(physical) ? MAX(physical, (unsigned)logical) : (unsigned)logical;
    } else {
        return error_set(err, EINVAL,
                         "disk %s: neither a regular file nor a block device: these are accepted",
                         name);
    }
    if (file->backed_bytes == 0) {
        return error_set(err, EINVAL, "disk %s: is empty: at least one sector is needed", name);
    }
    if (file->backed_bytes > INT64_MAX - 4096) {
        return error_set(err, EFBIG, "disk %s: too large", name);
    }
    info->size_bytes = align_up(file->backed_bytes, info->logical_block_size);
    return 0;
}

static int check_flags(int fd, const char *name, bool is_readonly, struct error *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        return error_set_errno(err, errno, "disk %s", name);
    }
    int access = flags & O_ACCMODE;
    if (access == O_WRONLY || (access == O_RDONLY && !is_readonly)) {
        return error_set(err, EINVAL, "disk %s: descriptor was not opened for %s", name,
                         is_readonly ? "reading" : "reading and writing");
    }
    /* Guests' buffers have any alignment, and O_APPEND would ignore offsets. */
    if ((flags & (O_DIRECT | O_APPEND)) != 0 &&
        fcntl(fd, F_SETFL, flags & ~(O_DIRECT | O_APPEND)) < 0) {
        return error_set_errno(err, errno, "disk %s", name);
    }
    return 0;
}

/* Asks the file system with ranges beyond the end, where nothing can change. */
static void probe_fallocate(struct block_file *file)
{
    if (file->is_device || file->info.is_readonly) {
        return; /* devices are asked by the first request */
    }
    off_t beyond = (off_t)align_up(file->info.size_bytes, 4096);
    if (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, 4096) < 0) {
        atomic_store(&file->no_punch, true);
    }
}

static int start_aio(struct block_file *file, const char *name, enum block_aio mode,
                     struct event_loop *loop, struct error *err)
{
    int rc = -1;
    if (mode != BLOCK_AIO_THREADS) {
        rc = aio_uring_create(file, loop, &file->aio, err);
        if (rc < 0 && mode == BLOCK_AIO_URING) {
            return error_prefix(err, rc, "disk %s", name);
        }
    }
    if (rc < 0) {
        rc = aio_threads_create(file, loop, &file->aio, err);
        if (rc < 0) {
            return error_prefix(err, rc, "disk %s", name);
        }
    }
    return 0;
}

int block_file_open(int fd, const char *name, bool is_readonly, enum block_aio mode,
                    struct event_loop *loop, struct block_file **out_file, struct error *err)
{
    struct block_file *file = calloc(1, sizeof(*file));
    if (file == NULL) {
        close(fd);
        return error_set_errno(err, ENOMEM, "disk %s", name);
    }
    file->fd = fd;
    file->info.is_readonly = is_readonly;
    int rc = check_flags(fd, name, is_readonly, err);
    if (rc == 0) {
        rc = get_size(file, name, err);
    }
    if (rc == 0) {
        rc = lock(fd, name, is_readonly, err);
    }
    if (rc == 0) {
        probe_fallocate(file);
        file->info.can_discard = !is_readonly && !atomic_load(&file->no_punch);
        file->info.can_write_zeroes = !is_readonly;
        rc = start_aio(file, name, mode, loop, err);
    }
    if (rc < 0) {
        block_file_close(file);
        return rc;
    }
    *out_file = file;
    return 0;
}

void block_file_close(struct block_file *file)
{
    if (file == NULL) {
        return;
    }
    if (file->aio != NULL) {
        file->aio->ops->destroy(file->aio);
    }
    close(file->fd);
    free(file);
}

void block_file_set_done(struct block_file *file, block_file_done_fn done, void *ctx)
{
    file->done = done;
    file->ctx = ctx;
}

void block_file_get_info(const struct block_file *file, struct block_info *out_info)
{
    *out_info = file->info;
}

void block_file_submit(struct block_file *file, struct block_request *request)
{
    file->aio->ops->submit(file->aio, request);
}

void block_file_plug(struct block_file *file, bool is_plugged)
{
    file->aio->ops->plug(file->aio, is_plugged);
}

void block_file_wait(struct block_file *file)
{
    file->aio->ops->wait(file->aio);
}

const char *block_file_aio_name(const struct block_file *file)
{
    return file->aio->ops->name;
}

int block_file_fallocate_mode(const struct block_file *file, const struct block_request *request)
{
    bool wants_hole = request->op == BLOCK_DISCARD || request->may_unmap;
    if (wants_hole && !atomic_load(&file->no_punch)) {
        return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    }
    if (request->op == BLOCK_WRITE_ZEROES && !atomic_load(&file->no_zero_range)) {
        return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    }
    return -1;
}

bool block_file_fallocate_refused(struct block_file *file, const struct block_request *request,
                                  int mode)
{
    if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
        atomic_store(&file->no_punch, true);
    } else {
        atomic_store(&file->no_zero_range, true);
    }
    /* A discard is a hint: a host that cannot take it has still done what was asked. */
    return request->op == BLOCK_WRITE_ZEROES;
}

int block_file_read_end(const struct block_file *file, const struct block_request *request,
                        uint64_t done_bytes)
{
    if (request->offset_bytes + done_bytes < file->backed_bytes) {
        return -EIO; /* somebody cut the file */
    }
    uint64_t at = 0;
    for (int i = 0; i < request->iov_count; i++) {
        size_t size = request->iov[i].iov_len;
        if (at + size > done_bytes) {
            size_t skip = done_bytes > at ? (size_t)(done_bytes - at) : 0;
            memset((uint8_t *)request->iov[i].iov_base + skip, 0, size - skip);
        }
        at += size;
    }
    return 0;
}
