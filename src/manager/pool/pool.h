/* Storage pools: where disks and volumes lie.
 *
 * A pool's document (kind "pool"): name, driver (dir, btrfs), config {path}, description, created_at. "default" is made when
 * hulld starts first: dir at STATE/pools/default. A volume's (kind "volume", POOL/NAME): name, pool, type (block: a disk;
 * tree: a folder), size_bytes, format (raw, qcow2), created_at, used_by [instances]. "name" is POOL/NAME, too.
 *
 * Jobs (pool_jobs): pool-create {document}, pool-delete {document}, pool-check {document}, volume-create {pool: DOCUMENT,
 * document}, volume-delete {pool: DOCUMENT, document}, volume-resize {pool: DOCUMENT, document, size_bytes}, volume-move
 * {pool: DOCUMENT, document, to: DOCUMENT}.
 *
 * Threads: none. */
#ifndef MANAGER_POOL_POOL_H
#define MANAGER_POOL_POOL_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"

struct pool_disk {
    char path[PATH_MAX]; /* the file that is written to */
    char format[16];
};

/* What a driver of pools does, in workers. Names of disks: "instances/NAME/root", "volumes/NAME". 'pool' is the pool's
 * document. All is done or not done when a worker dies in the middle, and can be called again. */
struct pool_driver {
    const char *name;                                    /* "dir" */
    int (*check)(const json_t *pool, struct error *err); /* can it be used on this host? */
    int (*create)(const json_t *pool, struct error *err);
    int (*remove)(const json_t *pool, struct error *err); /* -EBUSY: something is in it */
    int (*space)(const json_t *pool, uint64_t *out_total, uint64_t *out_free, struct error *err);
    /* An empty disk, or with 'base' (a disk that is never written again) a copy-on-write one on it, by whatever the pool does
     * best: reflink, or qcow2 over it. 'size' 0: the base's. -EEXIST: there is one. */
    int (*disk_create)(const json_t *pool, const char *name, uint64_t size,
                       const struct pool_disk *base, struct pool_disk *out_disk, struct error *err);
    int (*disk_find)(const json_t *pool, const char *name, struct pool_disk *out_disk,
                     struct error *err);
    /* What the disk's file stands on, from the next one down to the bottom: array of {"path","format"}, a new reference. A VM
     * is given these with the disk, as names inside of images are never opened: backing=PATH,backing-format=FORMAT each. */
    int (*disk_layers)(const json_t *pool, const char *name, json_t **out_layers,
                       struct error *err);
    /* Also its snapshots. Nothing there is fine. -EBUSY: it is open. */
    int (*disk_remove)(const json_t *pool, const char *name, struct error *err);
    /* Larger only. -EBUSY: it is open (a running VM makes its own disks larger). */
    int (*disk_resize)(const json_t *pool, const char *name, uint64_t size, struct error *err);
    /* Freezes what it is now as 'snapshot' (the instance stands still, or is stopped), in O(1); the disk goes on above it. Its
     * file may be another one afterwards (disk_find): an empty overlay, which a VM that is paused is told to write to from
     * then on. */
    int (*disk_snapshot)(const json_t *pool, const char *name, const char *snapshot,
                         struct error *err);
    /* -EBUSY: it is open. */
    int (*disk_restore)(const json_t *pool, const char *name, const char *snapshot,
                        struct error *err);
    /* Nothing there is fine. What others stand on stays, unseen, and is merged with what is above it when nobody has it
     * open. */
    int (*disk_forget)(const json_t *pool, const char *name, const char *snapshot,
                       struct error *err);
    /* A new disk from another one (it stands still) or its snapshot (NULL: as it is, and then its file may be another one
     * afterwards, as with disk_snapshot), copy-on-write. */
    int (*disk_clone)(const json_t *pool, const char *name, const char *snapshot,
                      const char *new_name, struct error *err);
    /* A new disk with the contents of another pool's: 'layers' is what disk_find and disk_layers say there, the disk itself
     * first. Copied as a whole, for as long as that takes; 'progress' may be NULL, not 0 of it ends this with that result. */
    int (*disk_import)(const json_t *pool, const char *name, const json_t *layers,
                       int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                       struct error *err);
    /* 'quota' 0: none. -EOPNOTSUPP: the pool cannot limit folders. */
    int (*tree_create)(const json_t *pool, const char *name, uint64_t quota,
                       char out_path[PATH_MAX], struct error *err);
    /* A new one with a copy of the folder 'from', owners and all; as disk_import. */
    int (*tree_import)(const json_t *pool, const char *name, const char *from,
                       int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                       struct error *err);
    int (*tree_find)(const json_t *pool, const char *name, char out_path[PATH_MAX],
                     struct error *err);
    int (*tree_remove)(const json_t *pool, const char *name, struct error *err);
    /* Finds and removes what nobody refers to, after a worker was killed, and merges what can be merged. 'out_found': names of
     * what was removed, a new reference. */
    int (*sweep)(const json_t *pool, json_t **out_found, struct error *err);
};
/* -EINVAL naming the drivers that there are. */
int must_check pool_driver_find(const json_t *pool, const struct pool_driver **out_driver,
                                struct error *err);

/* The folder of the volume 'name' (without the pool's), which has to be of type tree. Errors: -ENOENT; -EINVAL: it is a disk. */
int must_check pool_volume_folder(const json_t *pool, const char *name, char out_path[PATH_MAX],
                                  struct error *err);

/* The document of the pool "default", a new reference; NULL: no memory. hulld puts it when it starts first; its folder is made
 * when it is first used. */
json_t *pool_default(const struct place *place);

#endif
