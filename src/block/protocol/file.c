/* Plain bytes of a file or block device: opening, sizes, locks; aio_*.c run the requests. */
#include "block/protocol/aio.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/file.h"

__attribute__((aligned(4096))) const uint8_t aio_zeroes[AIO_ZEROES_SIZE];

#define LOCK_TRIES       10
#define LOCK_PAUSE_NS    20000000
#define DIRECT_MAX_BLOCK 65536 /* what is read and written for one byte, at most */

static int set_lock(struct file_block *file, enum block_lock kind, struct error *err)
{
    static const enum image_lock kinds[] = {[BLOCK_LOCK_NONE] = IMAGE_LOCK_NONE,
                                            [BLOCK_LOCK_SHARED] = IMAGE_LOCK_SHARED,
                                            [BLOCK_LOCK_ALONE] = IMAGE_LOCK_ALONE};
    int rc = image_lock_set(file->fd, file->lock, kinds[kind]);
    if (rc == -EBUSY) {
        return error_set(err, EBUSY, "disk %s: in use by another process", file->block.name);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "disk %s: locking", file->block.name);
    }
    file->lock = kinds[kind];
    return 0;
}

/* A process that was killed has its files open for some moments more: the kernel takes down its io_uring by and by. Who starts anew at
 * once shall not fail for that. */
static int first_lock(struct file_block *file, enum block_lock kind, struct error *err)
{
    static const struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
    int rc = set_lock(file, kind, err);
    for (unsigned tries = 0; rc == -EBUSY && tries < LOCK_TRIES; tries++) {
        (void)nanosleep(&pause, NULL); /* a signal makes it shorter: fine */
        rc = set_lock(file, kind, err);
    }
    return rc;
}

static int get_size(struct file_block *file, const char *name, struct error *err)
{
    struct stat st;
    if (fstat(file->fd, &st) < 0) {
        return error_set_errno(err, errno, "disk %s", name);
    }
    struct block_info *info = &file->block.info;
    uint64_t size = 0;
    info->logical_block_size = 512;
    info->physical_block_size = 512;
    if (S_ISREG(st.st_mode)) {
        size = (uint64_t)st.st_size;
        info->physical_block_size = 4096; /* what file systems work with */
    } else if (S_ISBLK(st.st_mode)) {
        int logical = 512;
        unsigned physical = 512;
        if (ioctl(file->fd, BLKGETSIZE64, &size) < 0 || ioctl(file->fd, BLKSSZGET, &logical) < 0 ||
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
    if (size > BLOCK_MAX_SIZE) {
        return error_set(err, EFBIG, "disk %s: too large", name);
    }
    atomic_store(&file->backed_bytes, size);
    if (info->is_growable) {
        info->logical_block_size =
            1; /* a format's metadata goes where it likes: the page cache does the rest */
        info->is_growable = !file->is_device;
    }
    info->size_bytes = align_up(size, info->logical_block_size);
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
static void probe_fallocate(struct file_block *file)
{
    if (file->is_device || file->block.info.is_readonly) {
        return; /* devices are asked by the first request */
    }
    off_t beyond = (off_t)align_up(file->block.info.size_bytes, 4096);
    if (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, 4096) < 0) {
        atomic_store(&file->no_punch, true);
    }
}

/* Past the page cache, if the file system can. What it wants to be aligned to is tried out. */
static int start_direct(struct file_block *file, const char *name, struct error *err)
{
    int flags = fcntl(file->fd, F_GETFL);
    if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT) < 0) {
        return error_set_errno(err, errno, "disk %s: going without the host's cache", name);
    }
    void *data;
    if (posix_memalign(&data, 4096, 4096) != 0) {
        return error_set_errno(err, ENOMEM, "disk %s", name);
    }
    /* An empty file does not tell. */
    file->align = atomic_load(&file->backed_bytes) > 0 ? 512 : 4096;
    while (file->align < 4096 && pread(file->fd, data, file->align, 0) < 0) {
        file->align *= 2;
    }
    free(data);
    struct stat st;
    file->change_align = file->align;
    if (!file->is_device && fstat(file->fd, &st) == 0 && st.st_blksize <= DIRECT_MAX_BLOCK &&
        is_power_of_two((uint64_t)st.st_blksize)) {
        file->change_align = MAX(file->align, (uint32_t)st.st_blksize);
    }
    if (!file->block.info.is_growable && file->block.info.size_bytes % file->align != 0) {
        return error_set(
            err, EINVAL,
            "disk %s: going without the host's cache needs a size that is a multiple of %u", name,
            file->align);
    }
    return 0;
}

static int start_aio(struct file_block *file, const char *name, enum block_aio mode,
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

static struct file_block *file_from_block(const struct block *block)
{
    return container_of(block, struct file_block, block);
}

/* What SEEK_DATA and SEEK_HOLE say (lseek(2)); a file system that does not know says data. */
static void map(const struct file_block *file, const struct block_request *request)
{
    off_t at = (off_t)request->offset_bytes;
    struct block_extent *extent = request->extent;
    *extent = (struct block_extent){
        .kind = BLOCK_EXTENT_DATA,
        .has_offset = true,
        .file_offset = request->offset_bytes,
        .size_bytes = request->size_bytes,
    };
    off_t data = file->is_device ? at : lseek(file->fd, at, SEEK_DATA);
    off_t end = (off_t)(request->offset_bytes + request->size_bytes);
    if (data == at) {
        off_t hole = file->is_device ? end : lseek(file->fd, at, SEEK_HOLE);
        if (hole > at && hole < end) {
            extent->size_bytes =
                align_up((uint64_t)(hole - at), file->block.info.logical_block_size);
        }
    } else if (data > at || (data < 0 && errno == ENXIO)) {
        extent->kind = BLOCK_EXTENT_HOLE;
        if (data > at && data < end) {
            extent->size_bytes =
                align_down((uint64_t)(data - at), file->block.info.logical_block_size);
            if (extent->size_bytes == 0) { /* a sector with data in its second half */
                extent->kind = BLOCK_EXTENT_DATA;
                extent->size_bytes = file->block.info.logical_block_size;
            }
        }
    }
}

static int resize(struct file_block *file, uint64_t size)
{
    if (ftruncate(file->fd, (off_t)size) < 0) {
        return -errno;
    }
    atomic_store(&file->backed_bytes, size);
    file->block.info.size_bytes = size;
    return 0;
}

static void file_submit(struct block *block, struct block_request *request)
{
    struct file_block *file = file_from_block(block);
    uint64_t end = request->offset_bytes + request->size_bytes;
    switch (request->op) {
    case BLOCK_MAP:
        map(file, request);
        block_complete(block, request, 0);
        return;
    case BLOCK_RESIZE:
        block_complete(block, request, resize(file, request->size_bytes));
        return;
    case BLOCK_WRITE_ZEROES:
        /* fallocate(2) that may punch holes never makes a file longer. Nothing that is in flight reaches further than
         * info.size_bytes, so this cuts nothing. */
        if (file->align == 0 && block->info.is_growable && end > block->info.size_bytes) {
            if (ftruncate(file->fd, (off_t)end) < 0) {
                block_complete(block, request, -errno);
                return;
            }
            atomic_store(&file->backed_bytes, end);
        }
        break;
    case BLOCK_FLUSH:
        if (file->is_unsafe) {
            block_complete(block, request, 0);
            return;
        }
        break;
    case BLOCK_READ:
    case BLOCK_WRITE:
    case BLOCK_DISCARD:
        break;
    }
    if (block->info.is_growable && end > block->info.size_bytes &&
        (request->op == BLOCK_WRITE || request->op == BLOCK_WRITE_ZEROES)) {
        block->info.size_bytes = end;
    }
    if (file->align != 0 && request->op != BLOCK_FLUSH) {
        file_block_submit_direct(file, request);
        return;
    }
    file->aio->ops->submit(file->aio, request);
}

static void file_plug(struct block *block, bool is_plugged)
{
    struct aio *aio = file_from_block(block)->aio;
    aio->ops->plug(aio, is_plugged);
}

static void file_wait(struct block *block)
{
    struct aio *aio = file_from_block(block)->aio;
    aio->ops->wait(aio);
}

static const char *file_aio_name(const struct block *block)
{
    return file_from_block(block)->aio->ops->name;
}

static int file_descriptor(const struct block *block)
{
    return file_from_block(block)->fd;
}

static int file_lock(struct block *block, enum block_lock kind, struct error *err)
{
    return set_lock(file_from_block(block), kind, err);
}

/* Writes past the page cache are of whole blocks, the last one too: a file that ends within one is cut to its size. */
static int file_finish(struct block *block, struct error *err)
{
    struct file_block *file = file_from_block(block);
    struct stat st;
    if (file->align == 0 || !block->info.is_growable || block->info.is_readonly) {
        return 0;
    }
    if (fstat(file->fd, &st) < 0 || ((uint64_t)st.st_size > block->info.size_bytes &&
                                     ftruncate(file->fd, (off_t)block->info.size_bytes) < 0)) {
        return error_set_errno(err, errno, "disk %s: cutting it to its size", block->name);
    }
    return 0;
}

static void file_close(struct block *block)
{
    struct file_block *file = file_from_block(block);
    file_block_end_direct(file);
    if (file->aio != NULL) {
        file->aio->ops->destroy(file->aio);
    }
    close(file->fd);
    block_fini(block);
    free(file);
}

static const struct block_ops file_ops = {
    .name = "file",
    .submit = file_submit,
    .plug = file_plug,
    .wait = file_wait,
    .descriptor = file_descriptor,
    .lock = file_lock,
    .aio_name = file_aio_name,
    .finish = file_finish,
    .close = file_close,
};

int block_open_file(int fd, const char *name, const struct block_file_options *options,
                    struct event_loop *loop, struct block **out_block, struct error *err)
{
    struct file_block *file = block_new(sizeof(*file), &file_ops, name, loop, err);
    if (file == NULL) {
        close(fd);
        return -ENOMEM;
    }
    bool is_readonly = options->is_readonly;
    file->fd = fd;
    file->is_unsafe = options->is_unsafe;
    file->block.info.is_readonly = is_readonly;
    file->block.info.is_growable = options->is_growable;
    int rc = check_flags(fd, name, is_readonly, err);
    if (rc == 0) {
        rc = get_size(file, name, err);
    }
    if (rc == 0) {
        rc = first_lock(file, is_readonly ? BLOCK_LOCK_SHARED : BLOCK_LOCK_ALONE, err);
    }
    if (rc == 0) {
        probe_fallocate(file);
        rc = options->is_direct ? start_direct(file, name, err) : 0;
    }
    if (rc == 0) {
        struct block_info *info = &file->block.info;
        info->can_discard = !is_readonly && !atomic_load(&file->no_punch);
        info->can_write_zeroes = !is_readonly;
        info->can_resize = !is_readonly && !file->is_device;
        rc = start_aio(file, name, options->aio, loop, err);
    }
    if (rc < 0) {
        file_close(&file->block);
        return rc;
    }
    *out_block = &file->block;
    return 0;
}

int file_block_fallocate_mode(const struct file_block *file, const struct block_request *request)
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

bool file_block_fallocate_refused(struct file_block *file, const struct block_request *request,
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

int file_block_read_end(const struct file_block *file, const struct block_request *request,
                        uint64_t done_bytes)
{
    uint64_t backed_bytes = atomic_load(&file->backed_bytes);
    struct stat st;
    if (!file->block.info.is_growable) {
        if (request->offset_bytes + done_bytes < backed_bytes) {
            return -EIO; /* somebody cut the file */
        }
    } else if (fstat(file->fd, &st) < 0 || (uint64_t)st.st_size < backed_bytes) {
        return -EIO;
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

void file_block_complete(struct file_block *file, struct block_request *request, int status)
{
    uint64_t end = request->offset_bytes + request->size_bytes;
    if (request->op == BLOCK_WRITE && status == 0 && file->block.info.is_growable &&
        end > atomic_load(&file->backed_bytes)) {
        atomic_store(&file->backed_bytes, end);
    }
    block_complete(&file->block, request, status);
}
