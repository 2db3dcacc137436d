/* A disk as a device sees it: an array of bytes with asynchronous requests.
 *
 * Threads: everything on the loop's thread, completions too. */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/core/error.h"
#include "base/host/event_loop.h"

struct block;

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,        /* finished writes become durable */
    BLOCK_DISCARD,      /* contents do not matter any more: space goes back to the host */
    BLOCK_WRITE_ZEROES, /* reads zero afterwards; may punch a hole if may_unmap */
};

/* Owned by the caller until 'done' is called. */
struct block_request {
    enum block_op op;
    bool may_unmap;
    uint64_t offset_bytes;
    uint64_t size_bytes; /* of the vector, or of the range */
    const struct iovec *iov;
    int iov_count;
    /* 0 or -errno. May be called before block_submit returns. */
    void (*done)(struct block_request *request, int status);
    /* The backend's, while in flight. */
    struct block_request *next;
    int status;
};

struct block_info {
    uint64_t size_bytes;
    uint32_t logical_block_size; /* 512 or 4096: offsets and sizes of requests are multiples */
    uint32_t physical_block_size;
    bool is_readonly;
    bool can_discard;
    bool can_write_zeroes;
};

enum block_aio {
    BLOCK_AIO_AUTO, /* io_uring, and the thread pool where the kernel or a filter refuses it */
    BLOCK_AIO_URING,
    BLOCK_AIO_THREADS,
};

struct block_options {
    const char *format; /* "raw" */
    bool is_readonly;
    enum block_aio aio;
};

/* Opens a disk on descriptor 'fd' (a regular file or block device), which it owns from then on, also on failure. 'name' is
 * for messages. Also makes the ring or the threads that the disk needs, so that a system call filter may come afterwards. The
 * file is locked against other processes while the disk is open: -EBUSY if another one has it. */
int must_check block_open(int fd, const char *name, const struct block_options *options,
                          struct event_loop *loop, struct block **out_block, struct error *err);
/* Waits for what is in flight. NULL is fine. */
void block_close(struct block *block);

void block_get_info(const struct block *block, struct block_info *out_info);
/* Requests beyond the end complete with -EINVAL, writes to a read-only disk with -EROFS. */
void block_submit(struct block *block, struct block_request *request);
/* Requests submitted between plug and unplug may be held back and go to the host in one batch. Does not nest. */
void block_plug(struct block *block);
void block_unplug(struct block *block);
/* Runs the completions until nothing is in flight. */
void block_drain(struct block *block);
/* "io_uring" or "threads". */
const char *block_aio_name(const struct block *block);

#endif
