/* The driver "dir", of which others take what they do the same way. */
#ifndef MANAGER_POOL_DIR_H
#define MANAGER_POOL_DIR_H

#include "manager/pool/folder.h"

extern const struct pool_driver dir_driver, btrfs_driver;

/* The pool "default" is made when it is first used. */
int must_check dir_open(const json_t *pool, enum pool_folder_mode mode,
                        struct pool_folder *out_folder, struct error *err);
/* Merges what is unseen. What cannot be merged now, as somebody has it open, waits for the next time. The pool's lock is let
 * go and taken again. */
int must_check dir_merge_hidden(const json_t *pool, struct pool_folder *layers, struct error *err);

/* The folder of a tree, checked: "PATH/trees/NAME". */
int must_check dir_tree_path(const struct pool_folder *layers, const char *name,
                             char out_path[PATH_MAX], struct error *err);
int must_check dir_tree_find(const json_t *pool, const char *name, char out_path[PATH_MAX],
                             struct error *err);
/* Copies one disk of the chain that pool_folder_chain gives, layer by layer or as a whole, into another pool; see jobs.c. */

int must_check dir_tree_create(const json_t *pool, const char *name, uint64_t quota,
                               char out_path[PATH_MAX], struct error *err);
int must_check dir_tree_import(const json_t *pool, const char *name, const char *from,
                               int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                               struct error *err);
int must_check dir_tree_remove(const json_t *pool, const char *name, struct error *err);
/* What btrfs does in its own way. */
int must_check btrfs_check(const json_t *pool, struct error *err);
int must_check btrfs_create(const json_t *pool, struct error *err);
int must_check btrfs_tree_create(const json_t *pool, const char *name, uint64_t quota,
                                 char out_path[PATH_MAX], struct error *err);
int must_check btrfs_tree_remove(const json_t *pool, const char *name, struct error *err);

#endif
