/* Inside of protocol/file: the two ways to run a file's requests without blocking the loop, io_uring and a pool of threads. */
#ifndef BLOCK_PROTOCOL_AIO_H
#define BLOCK_PROTOCOL_AIO_H

#include <stdatomic.h>

#include "base/host/coroutine.h"
#include "base/host/image_lock.h"
#include "block/provider.h"

struct aio;
struct file_block;

struct aio_ops {
    const char *name;
    void (*submit)(struct aio *aio, struct block_request *request);
    void (*plug)(struct aio *aio, bool is_plugged);
    void (*wait)(struct aio *aio);
    void (*destroy)(struct aio *aio);
};

struct aio {
    const struct aio_ops *ops;
    struct file_block *file;
};

/* -ENOSYS, -EPERM, -ENOMEM ...: the kernel or a filter refuses. */
int must_check aio_uring_create(struct file_block *file, struct event_loop *loop,
                                struct aio **out_aio, struct error *err);
int must_check aio_threads_create(struct file_block *file, struct event_loop *loop,
                                  struct aio **out_aio, struct error *err);

/* A regular file or block device of the host.
 *
 * One that is not growable and whose size is no multiple of 512 counts as if it were padded with zeros to the next multiple:
 * nothing in it is out of reach, the padding reads as zeros, and a write into the padding makes the file grow to the full
 * sector. A growable one reads as zeros behind its end.
 *
 * While it is open the file is locked against other processes: many readers, or one writer (base/host/image_lock.h). */
struct file_block {
    struct block block;
    int fd;
    enum image_lock lock;
    bool is_device;
    bool is_unsafe; /* nobody waits for the host to make anything durable */
    /* The host's file system refused that kind of fallocate(2) once: zeros are written instead. Any thread. */
    atomic_bool no_punch;
    atomic_bool no_zero_range;
    /* The file is at least that long: as it was opened, or as writes that ended have made it. Any thread. */
    _Atomic uint64_t backed_bytes;
    struct aio *aio;
    /* Without the host's page cache (O_DIRECT): what offsets, sizes and memory are multiples of. 0: with it. */
    uint32_t align;
    /* What changes are multiples of: a block of the file system, at least 'align'. See direct.c. */
    uint32_t change_align;
    struct file_range *ranges; /* direct.c: what is being changed */
    struct coroutine_queue ranges_waiting;
    struct direct_change *free_changes;
};

#define AIO_ZEROES_SIZE 65536u
/* Zeros to write from. */
extern const uint8_t aio_zeroes[AIO_ZEROES_SIZE];

/* The fallocate(2) mode for a discard or write zeroes, or -1 if zeros must be written. */
int file_block_fallocate_mode(const struct file_block *file, const struct block_request *request);
/* What to do after fallocate with 'mode' failed with -EOPNOTSUPP: true: try again with what file_block_fallocate_mode says now;
 * false: the request is done. */
bool file_block_fallocate_refused(struct file_block *file, const struct block_request *request,
                                  int mode);
/* A read found the end of the file 'done_bytes' into the request: zeroes the rest if that is padding or lies behind the end of a
 * growable file; -EIO: somebody has cut the file. */
int file_block_read_end(const struct file_block *file, const struct block_request *request,
                        uint64_t done_bytes);
/* A read, write, discard or write zeroes without the page cache: direct.c. */
void file_block_submit_direct(struct file_block *file, struct block_request *request);
void file_block_end_direct(struct file_block *file);
/* Ends a request that was given to aio->ops->submit. On the loop's thread. */
void file_block_complete(struct file_block *file, struct block_request *request, int status);

#endif
