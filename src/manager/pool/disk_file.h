/* Files of disks: made, copied by reference, made larger, merged. Formats are said, never guessed.
 *
 * Threads: none. */
#ifndef MANAGER_POOL_DISK_FILE_H
#define MANAGER_POOL_DISK_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"

/* Bytes that the disk in the file has, whoever has it open. */
int must_check disk_file_size(const char *path, const char *format, uint64_t *out_size,
                              struct error *err);
/* New files, durable, or nothing is left: an empty raw disk; a qcow2 image over another, of which 'backing_name' and
 * 'backing_format' stand in it. */
int must_check disk_file_make_raw(const char *path, uint64_t size, struct error *err);
int must_check disk_file_make_overlay(const char *path, uint64_t size, const char *backing_name,
                                      const char *backing_format, struct error *err);
/* A copy that shares all its blocks. -EOPNOTSUPP, without a text: the file system cannot. */
int must_check disk_file_reflink(const char *from, const char *to, struct error *err);
/* -EBUSY: a VM or another program has it open. */
int must_check disk_file_check_unused(const char *path, struct error *err);

/* 'chain': array of {"path","format"} from the disk down, as pool_folder_chain gives it. */
struct event_loop;
struct block;
int must_check disk_file_open(const json_t *chain, bool is_readonly, struct event_loop *loop,
                              struct block **out_block, struct error *err);
int must_check disk_file_resize(const json_t *chain, uint64_t size, struct error *err);
/* Writes what the first image of the chain has into the second one, which has the same contents as a disk afterwards. Nothing
 * changes for who reads the first. -EBUSY: one of the two is in use. */
int must_check disk_file_merge(const json_t *chain, struct error *err);
/* Writes what the disk of the chain has into the new raw file 'path', and nothing where it has zeros. 'progress' may be NULL;
 * not 0 of it ends this with that result. What fails leaves nothing. */
int must_check disk_file_copy(const json_t *chain, const char *path,
                              int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                              struct error *err);

#endif
