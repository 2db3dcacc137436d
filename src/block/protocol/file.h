/* A regular file or block device of the host with asynchronous requests: what disk formats stand on.
 *
 * A file whose size is no multiple of 512 counts as if it were padded with zeros to the next multiple: nothing in it is out of
 * reach, the padding reads as zeros, and a write into the padding makes the file grow to the full sector.
 *
 * While it is open the file is locked against other processes (open file description locks): many readers, or one writer.
 *
 * Threads: all on the loop's thread, block_file_open too: it makes the io_uring or the threads, so that a system call filter
 * that comes later need not allow that. */
#ifndef BLOCK_PROTOCOL_FILE_H
#define BLOCK_PROTOCOL_FILE_H

#include <stdatomic.h>

#include "block/block.h"

struct block_file;
struct aio;

/* The requests of a file are the same as those of a disk. */
typedef void (*block_file_done_fn)(void *ctx, struct block_request *request, int status);

/* Owns 'fd' from then on, also on failure. */
int must_check block_file_open(int fd, const char *name, bool is_readonly, enum block_aio mode,
                               struct event_loop *loop, struct block_file **out_file,
                               struct error *err);
/* Nothing is in flight. NULL is fine. */
void block_file_close(struct block_file *file);
void block_file_set_done(struct block_file *file, block_file_done_fn done, void *ctx);
void block_file_get_info(const struct block_file *file, struct block_info *out_info);
void block_file_submit(struct block_file *file, struct block_request *request);
void block_file_plug(struct block_file *file, bool is_plugged);
/* Until one request at least has completed. */
void block_file_wait(struct block_file *file);
const char *block_file_aio_name(const struct block_file *file);

#endif
