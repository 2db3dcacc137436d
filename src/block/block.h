/* A disk, or a part of one: an array of bytes with asynchronous requests.
 *
 * Disks are graphs of blocks. A protocol gives a block of plain bytes (a file of the host, memory). A format is a block over
 * one or more others: its file, and the backing block that holds what is not in the file. The raw format is its file.
 *
 * Formats are said by the caller and never guessed, and a name that stands inside an image is only ever given to the caller's
 * own function (block_options.resolve), never opened here.
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

#define BLOCK_MAX_CHAIN 64 /* blocks on top of each other */

struct block;
struct block_crypt;
struct block_crypt_header;

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,        /* finished writes become durable */
    BLOCK_DISCARD,      /* contents do not matter any more: space goes back to the host */
    BLOCK_WRITE_ZEROES, /* reads zero afterwards; may punch a hole if may_unmap */
    BLOCK_MAP,          /* fills *extent with what is known of the first bytes of the range */
    BLOCK_RESIZE,       /* to size_bytes; nothing else may be in flight to what is cut off */
};

enum block_extent_kind {
    BLOCK_EXTENT_DATA,
    BLOCK_EXTENT_COMPRESSED,
    BLOCK_EXTENT_ZERO,   /* reads as zeros, says this block; may have space of its own */
    BLOCK_EXTENT_HOLE,   /* a file's hole: reads as zeros, without space */
    BLOCK_EXTENT_ABSENT, /* not here: the backing block has it; zeros where there is none */
};

/* The answer to BLOCK_MAP. */
struct block_extent {
    enum block_extent_kind kind;
    bool has_offset;
    uint64_t
        file_offset; /* where it lies in the block's file (of qcow2: in the data file), if has_offset */
    uint64_t size_bytes; /* from the request's offset: more than 0, at most the request's size */
};

/* Owned by the caller until 'done' is called. */
struct block_request {
    enum block_op op;
    bool may_unmap;
    bool
        compress; /* a write that may be stored compressed: whole clusters, see block_info.cluster_size */
    uint64_t offset_bytes;
    uint64_t size_bytes; /* of the vector, or of the range */
    const struct iovec *iov;
    int iov_count;
    struct block_extent *extent; /* BLOCK_MAP only */
    /* 0 or -errno. May be called before block_submit returns. */
    void (*done)(struct block_request *request, int status);
    /* The backend's, while in flight. */
    struct block_request *next;
    int status;
};

struct block_info {
    uint64_t size_bytes;
    uint32_t
        logical_block_size; /* power of two: offsets and sizes of requests are multiples. Disks: 512 or 4096 */
    uint32_t physical_block_size;
    uint32_t cluster_size; /* what a format allocates at once; 0: it does not allocate */
    bool is_readonly;
    bool is_growable; /* writes beyond the end make it grow, and reads there find zeros */
    bool can_discard;
    bool can_write_zeroes;
    bool can_resize;
    bool can_compress;
};

enum block_aio {
    BLOCK_AIO_AUTO, /* io_uring, and the thread pool where the kernel or a filter refuses it */
    BLOCK_AIO_URING,
    BLOCK_AIO_THREADS,
};

/* A name that an image holds. */
enum block_reference_kind {
    BLOCK_REFERENCE_BACKING,
    BLOCK_REFERENCE_DATA, /* an external data file, or an extent */
};

struct block_reference {
    enum block_reference_kind kind;
    const char *name;    /* as it stands in the image: untrusted */
    const char *format;  /* as the image says, untrusted; NULL: it does not */
    uint64_t size_bytes; /* that the image says it has; 0: it does not */
    bool is_readonly;    /* what the image needs */
};

struct block_options {
    const char *format; /* "raw", "qcow2" ... */
    bool is_readonly;
    bool is_direct, is_unsafe; /* of the file: see block_file_options */
    enum block_aio aio;
    /* What an image stands on, if the caller knows it: owned by the new block from then on, also on failure. */
    struct block *backing;
    struct block *data_file;
    /* Asked for each name that an image holds and that is not given above: opens it (then it is the new block's) or refuses.
     * NULL: all are refused. */
    int (*resolve)(void *ctx, const struct block_reference *reference, struct block **out_block,
                   struct error *err);
    void *resolve_ctx;
    /* Asked for the key of an encrypted image: fills *out_crypt, or refuses. NULL: refused. See block/crypt.h. */
    int (*unlock)(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err);
    void *unlock_ctx;
    /* For tools that look at an image alone: a backing block that is named but not given is left out, and what is not in the
     * image cannot be read (-ENXIO). Read-only unless 'is_for_repair'. */
    bool is_alone;
    /* What the image's own snapshot of that name (or id) holds, read-only. NULL: what the disk holds now. */
    const char *snapshot;
    /* For check and repair: an image that is marked dirty or corrupt opens for writing, and is left as it is. */
    bool is_for_repair;
};

/* A format on descriptor 'fd' (a regular file or block device), which it owns from then on, also on failure. 'name' is
 * for messages. Also makes the ring or the threads that the disk needs, so that a system call filter may come afterwards. The
 * file is locked against other processes while the disk is open: -EBUSY if another one has it. */
int must_check block_open(int fd, const char *name, const struct block_options *options,
                          struct event_loop *loop, struct block **out_block, struct error *err);

/* From now on this thread makes no rings for files any more, as a system call filter will not let it: it takes one of 'count' that are
 * made now, or that others give back; without one, threads. */
void block_reserve_rings(struct event_loop *loop, unsigned count);
/* Before the loop goes. */
void block_release_rings(void);

struct block_file_options {
    bool is_readonly;
    bool is_growable; /* under a format; then it may be empty too */
    bool is_direct;   /* past the host's page cache (O_DIRECT); buffers of any alignment do */
    bool is_unsafe;   /* flushes do nothing: what the host has not written is lost with its power */
    enum block_aio aio;
};

/* The plain bytes of a regular file or block device; 'fd' as above. */
int must_check block_open_file(int fd, const char *name, const struct block_file_options *options,
                               struct event_loop *loop, struct block **out_block,
                               struct error *err);
/* Bytes in memory, growable, all zeros. For tests, and disks that nobody keeps. */
int must_check block_open_memory(uint64_t size_bytes, const char *name, struct event_loop *loop,
                                 struct block **out_block, struct error *err);
/* The format options->format on 'file', which it owns from then on, also on failure. For a format other than raw a file that
 * is written to must be growable. */
int must_check block_open_format(struct block *file, const struct block_options *options,
                                 struct block **out_block, struct error *err);
/* Finishes what is in flight, makes it durable and closes the blocks below as well. The status is that of the last writes:
 * block_close ignores it. NULL is fine. */
int block_finish(struct block *block, struct error *err);
void block_close(struct block *block);

void block_get_info(const struct block *block, struct block_info *out_info);
const char *block_name(const struct block *block);
/* "raw", "qcow2" ...; of a protocol's block its own name: "file", "memory". */
const char *block_format_name(const struct block *block);
/* The same as a VM's configuration says it: "raw" for what has no format. */
const char *block_disk_format(const struct block *block);
/* What it stands on; NULL: nothing. */
struct block *block_backing(const struct block *block);
struct block *block_file(const struct block *block);

/* Requests beyond the end complete with -EINVAL, writes to a read-only disk with -EROFS. */
void block_submit(struct block *block, struct block_request *request);
/* Requests submitted between plug and unplug may be held back and go to the host in one batch. */
void block_plug(struct block *block);
void block_unplug(struct block *block);
/* Runs the completions until nothing is in flight. Not inside of a coroutine. */
void block_drain(struct block *block);
/* "io_uring" or "threads". */
const char *block_aio_name(const struct block *block);

/* One request from start to end. Inside of a coroutine it gives way meanwhile; elsewhere the completions of the block are run,
 * others' too, until it is done. 0 or -errno. */
int must_check block_perform(struct block *block, struct block_request *request);
int must_check block_read(struct block *block, uint64_t offset, void *out_data, size_t size);
int must_check block_write(struct block *block, uint64_t offset, const void *data, size_t size);
int must_check block_write_zeroes(struct block *block, uint64_t offset, uint64_t size,
                                  bool may_unmap);
int must_check block_discard(struct block *block, uint64_t offset, uint64_t size);
int must_check block_flush(struct block *block);
int must_check block_resize(struct block *block, uint64_t size_bytes);
int must_check block_map(struct block *block, uint64_t offset, uint64_t size,
                         struct block_extent *out_extent);
/* The same through the whole chain: never BLOCK_EXTENT_ABSENT, but the first block that has it, *out_depth blocks down
 * (0: 'block' itself); zeros that no block has count as a hole of the last one. */
int must_check block_map_chain(struct block *block, uint64_t offset, uint64_t size,
                               struct block_extent *out_extent, unsigned *out_depth);
/* Runs fn(ctx) as a coroutine, and the completions of this thread's blocks until it ends. Inside of a coroutine: calls it.
 * Returns what fn returns, or -ENOMEM. */
int must_check block_run(int (*fn)(void *ctx), void *ctx);

#endif
