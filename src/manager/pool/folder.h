/* What lies in a pool's folder; for the files of this folder.
 *
 *   pool.json            {"name","version"}: without it the folder is not the pool's (a file system that is not mounted)
 *   disks/NAME.json      a disk: {"top":ID,"snapshots":{NAME:ID}}
 *   layers/ID.json       a layer: {"file":"ID.qcow2","format":"qcow2","parent":ID} or, on an image, "base":{"path","format"}
 *   layers/ID.qcow2|raw  its file
 *   trees/NAME/          a folder that is a volume
 *   lock                 flock: who changes something has it
 *
 * A layer that a snapshot or another layer refers to is never written again. Every change makes its layers first, durably, and
 * then replaces the one file of the disk, so that it has happened or not; what nobody refers to is found and removed by the
 * next one.
 *
 * Threads: none. */
#ifndef MANAGER_POOL_FOLDER_H
#define MANAGER_POOL_FOLDER_H

#include "manager/pool/pool.h"

#define LAYER_MAX_PATH  1024
#define LAYER_MAX_DEPTH 60 /* of files on top of each other: below BLOCK_MAX_CHAIN */
#define LAYER_ID_SIZE   80

struct pool_folder {
    char root[LAYER_MAX_PATH];
    int lock_fd;
};

enum pool_folder_mode {
    POOL_FOLDER_READ,
    POOL_FOLDER_CHANGE, /* takes the lock */
};

/* Errors: -ENOENT, saying that the folder is not there. */
int must_check pool_folder_open(const json_t *pool, enum pool_folder_mode mode,
                                struct pool_folder *out_layers, struct error *err);
void pool_folder_close(struct pool_folder *layers);
/* Makes the folder. Errors: -EEXIST: another pool's, or it has other things in it. */
int must_check pool_folder_create(const json_t *pool, struct error *err);
/* Errors: -EBUSY naming a disk that is there. */
int must_check pool_folder_remove(const json_t *pool, struct error *err);
/* "instances/web1/root": two or three names of letters, digits, "-", "_" and "."; not at their beginning. */
int must_check pool_folder_check_name(const char *name, struct error *err);

/* New references. Errors: -ENOENT. */
int must_check pool_folder_read_disk(const struct pool_folder *layers, const char *name,
                                     json_t **out_disk, struct error *err);
int must_check pool_folder_write_disk(const struct pool_folder *layers, const char *name,
                                      const json_t *disk, struct error *err);
int must_check pool_folder_drop_disk(const struct pool_folder *layers, const char *name,
                                     struct error *err);

int must_check pool_folder_read(const struct pool_folder *layers, const char *id,
                                json_t **out_layer, struct error *err);
int must_check pool_folder_write(const struct pool_folder *layers, const char *id,
                                 const json_t *layer, struct error *err);
/* A free name for a layer of the disk. */
int must_check pool_folder_new_id(const char *disk, char out_id[LAYER_ID_SIZE], struct error *err);
/* A name in the folder of layers. */
void pool_folder_file_path(const struct pool_folder *layers, const char *file,
                           char out_path[PATH_MAX]);

/* From the layer down to the bottom: array of {"path","format","id"}; the last may have no id: an image. Errors: -ENOENT
 * naming a file that is missing; -ELOOP. */
int must_check pool_folder_chain(const struct pool_folder *layers, const char *id,
                                 json_t **out_chain, struct error *err);

/* All that is there, for finding what nobody needs. */
struct pool_census {
    json_t *layers;   /* {ID: layer} of those that are referred to, however indirectly */
    json_t *holders;  /* {ID: number of disks and snapshots that name it} */
    json_t *children; /* {ID: number of layers that stand on it} */
    json_t *child;    /* {ID: one of those} */
};
int must_check pool_folder_census(const struct pool_folder *layers, struct pool_census *out_census,
                                  struct error *err);
void pool_census_free(struct pool_census *census);
/* Removes what nobody refers to: layers, their files, what was left half made. 'found' (an array, may be NULL) gets the names.
 * Nothing is removed when not all of the pool can be read. */
int must_check pool_folder_sweep(const struct pool_folder *layers, json_t *found,
                                 struct error *err);

#endif
