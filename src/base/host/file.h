/* Descriptors and files. */
#ifndef BASE_HOST_FILE_H
#define BASE_HOST_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "base/core/error.h"

CLEANUP_DEFINE(file_cleanup_fd, int, close, -1)
#define AUTO_CLOSE __attribute__((cleanup(file_cleanup_fd)))

static inline void file_cleanup_free(void *variable)
{
    free(*(void **)variable);
}
#define AUTO_FREE __attribute__((cleanup(file_cleanup_free)))

/* The whole of [offset, offset + size) from 'fd', over short reads and EINTR. A file that ends early
 * is -EIO. Errors name 'what' ("kernel FILE"). */
int must_check file_read_at(int fd, void *out_data, size_t size, uint64_t offset, const char *what,
                            struct error *err);
int must_check file_write_at(int fd, const void *data, size_t size, uint64_t offset,
                             const char *what, struct error *err);
/* All of 'size' bytes at the current position. */
int must_check file_write_all(int fd, const void *data, size_t size, const char *what,
                              struct error *err);

/* Reads a whole regular file of at most 'max_size' bytes into new memory that the caller frees; one NUL
 * byte follows the data and is not counted. */
int must_check file_read_whole(int fd, size_t max_size, const char *what, void **out_data,
                               size_t *out_size, struct error *err);

/* What is left of one file to the end of another; blocks are shared where the file system can (btrfs, xfs). */
int must_check file_copy(int from, int to, const char *what, struct error *err);

/* Writes a file whole or not at all: beside it as "PATH.new" with 'mode', then renamed. 'is_synced': it is on the disk before that. */
int must_check file_replace(const char *path, const char *text, mode_t mode, bool is_synced,
                            struct error *err);

/* The folder with 'mode', and those above it that are missing with 'mode_above'; what is there stays as it is. */
int must_check file_make_folders(const char *path, mode_t mode, mode_t mode_above,
                                 struct error *err);

int must_check file_set_nonblocking(int fd, struct error *err);

#endif
