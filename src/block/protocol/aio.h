/* Inside of protocol/file: the two ways to run a file's requests without blocking the loop, io_uring and a pool of threads. */
#ifndef BLOCK_PROTOCOL_AIO_H
#define BLOCK_PROTOCOL_AIO_H

#include "block/protocol/file.h"

struct aio_ops {
    const char *name;
    void (*submit)(struct aio *aio, struct block_request *request);
    void (*plug)(struct aio *aio, bool is_plugged);
    void (*wait)(struct aio *aio);
    void (*destroy)(struct aio *aio);
};

struct aio {
    const struct aio_ops *ops;
    struct block_file *file;
};

/* -ENOSYS, -EPERM, -ENOMEM ...: the kernel or a filter refuses. */
int must_check aio_uring_create(struct block_file *file, struct event_loop *loop,
                                struct aio **out_aio, struct error *err);
int must_check aio_threads_create(struct block_file *file, struct event_loop *loop,
                                  struct aio **out_aio, struct error *err);

struct block_file {
    int fd;
    bool is_device;
    /* The host's file system refused that kind of fallocate(2) once: zeros are written instead. Any thread. */
    atomic_bool no_punch;
    atomic_bool no_zero_range;
    uint64_t backed_bytes; /* size of the file itself when it was opened: see padding in file.h */
    struct block_info info;
    struct aio *aio;
    block_file_done_fn done;
    void *ctx;
};

#define AIO_ZEROES_SIZE 65536u
/* Zeros to write from. */
extern const uint8_t aio_zeroes[AIO_ZEROES_SIZE];

/* The fallocate(2) mode for a discard or write zeroes, or -1 if zeros must be written. */
int block_file_fallocate_mode(const struct block_file *file, const struct block_request *request);
/* What to do after fallocate with 'mode' failed with -EOPNOTSUPP: true: try again with what block_file_fallocate_mode says now;
 * false: the request is done. */
bool block_file_fallocate_refused(struct block_file *file, const struct block_request *request,
                                  int mode);
/* A read found the end of the file 'done_bytes' into the request: zeroes the rest if that is padding, else -EIO. */
int block_file_read_end(const struct block_file *file, const struct block_request *request,
                        uint64_t done_bytes);

#endif
