/* Pools in a folder of any file system: disks are layers, see folder.h. */
#include "manager/pool/dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "manager/pool/disk_file.h"
#include "manager/text.h"
#include "system/store.h"

int dir_open(const json_t *pool, enum pool_folder_mode mode, struct pool_folder *out_layers,
             struct error *err)
{
    struct error first;
    int rc = pool_folder_open(pool, mode, out_layers, &first);
    const char *name = text_of(pool, "name");
    if (rc == -ENOENT && name != NULL && strcmp(name, "default") == 0 &&
        pool_folder_create(pool, NULL) == 0) {
        rc = pool_folder_open(pool, mode, out_layers, &first);
    }
    if (rc < 0 && err != NULL) {
        *err = first;
    }
    return rc;
}

static int dir_check(const json_t *pool, struct error *err)
{
    const char *path = text_of(json_object_get(pool, "config"), "path");
    return path != NULL && path[0] == '/'
               ? 0
               : error_set(err, EINVAL, "config.path: an absolute path of a folder");
}

static int dir_space(const json_t *pool, uint64_t *out_total, uint64_t *out_free, struct error *err)
{
    struct pool_folder layers;
    struct statvfs info;
    int rc = dir_open(pool, POOL_FOLDER_READ, &layers, err);
    if (rc < 0) {
        return rc;
    }
    if (statvfs(layers.root, &info) < 0) {
        return error_set_errno(err, errno, "pool %s: its file system", text_of(pool, "name"));
    }
    *out_total = (uint64_t)info.f_blocks * info.f_frsize;
    *out_free = (uint64_t)info.f_bavail * info.f_frsize;
    return 0;
}

/* What a new layer shall be: a file over another layer or image, or a copy of one, or an empty one. */
struct new_layer {
    const char *disk;   /* for its name */
    const char *parent; /* a layer's id */
    const struct pool_disk *base;
    uint64_t size;          /* of an empty one, or where it is larger than what is below */
    const json_t *copied;   /* a layer of which a copy by reference is tried first */
    bool is_copy_only;      /* -EOPNOTSUPP where that does not work */
    char id[LAYER_ID_SIZE]; /* out: */
    char path[PATH_MAX];
};

/* The file and what it is: "file", "format", "parent" or "base". */
static int make_file(const struct pool_folder *layers, struct new_layer *new, json_t *layer,
                     struct error *err)
{
    char from[PATH_MAX] = "", file[LAYER_ID_SIZE + 16];
    const char *format = "raw";
    int rc = -EOPNOTSUPP;
    if (new->copied != NULL) {
        format = text_of(new->copied, "format");
        pool_folder_file_path(layers, text_of(new->copied, "file"), from);
    } else if (new->base != NULL) {
        format = new->base->format;
        snprintf(from, sizeof(from), "%s", new->base->path);
    }
    if (from[0] != '\0') {
        snprintf(file, sizeof(file), "%s.%s", new->id, format);
        pool_folder_file_path(layers, file, new->path);
        rc = disk_file_reflink(from, new->path, err);
        if (rc == 0 && new->copied != NULL) {
            /* The copy stands on what the original stands on. */
            const char *parent = text_of(new->copied, "parent");
            json_t *base = json_object_get(new->copied, "base");
            if ((parent != NULL && json_object_set_new(layer, "parent", json_string(parent)) < 0) ||
                (base != NULL && json_object_set(layer, "base", base) < 0)) {
                rc = error_set_errno(err, ENOMEM, "disk %s", new->disk);
            }
        }
    }
    if (rc == -EOPNOTSUPP && new->is_copy_only) {
        return rc;
    }
    if (rc == -EOPNOTSUPP && from[0] == '\0' && new->parent == NULL) {
        snprintf(file, sizeof(file), "%s.raw", new->id);
        pool_folder_file_path(layers, file, new->path);
        rc = disk_file_make_raw(new->path, new->size, err);
    } else if (rc == -EOPNOTSUPP) {
        char below[PATH_MAX];
        const char *below_format;
        json_auto_t *parent = NULL;
        if (new->parent != NULL) {
            rc = pool_folder_read(layers, new->parent, &parent, err);
            if (rc < 0) {
                return rc;
            }
            snprintf(below, sizeof(below), "%s", text_of(parent, "file"));
            below_format = text_of(parent, "format");
            if (json_object_set_new(layer, "parent", json_string(new->parent)) < 0) {
                return error_set_errno(err, ENOMEM, "disk %s", new->disk);
            }
        } else {
            snprintf(below, sizeof(below), "%s", new->base->path);
            below_format = new->base->format;
            if (json_object_set_new(layer, "base",
                                    json_pack("{s:s,s:s}", "path", below, "format", below_format)) <
                0) {
                return error_set_errno(err, ENOMEM, "disk %s", new->disk);
            }
        }
        format = "qcow2";
        snprintf(file, sizeof(file), "%s.qcow2", new->id);
        pool_folder_file_path(layers, file, new->path);
        rc = disk_file_make_overlay(new->path, new->size, below, below_format, err);
    }
    if (rc == 0 && (json_object_set_new(layer, "file", json_string(file)) < 0 ||
                    json_object_set_new(layer, "format", json_string(format)) < 0)) {
        rc = error_set_errno(err, ENOMEM, "disk %s", new->disk);
    }
    return rc;
}

/* Durable, and nobody refers to it yet. What fails leaves nothing, or what the next sweep removes. */
static int make_layer(const struct pool_folder *layers, struct new_layer *new, struct error *err)
{
    json_auto_t *layer = json_object();
    new->path[0] = '\0';
    int rc = pool_folder_new_id(new->disk, new->id, err);
    if (rc == 0) {
        rc = make_file(layers, new, layer, err);
    }
    if (rc == 0) {
        rc = pool_folder_write(layers, new->id, layer, err);
    }
    if (rc < 0 && new->path[0] != '\0') {
        (void)unlink(new->path); /* it has failed already */
    }
    return rc;
}

static void drop_layer(const struct pool_folder *layers, const struct new_layer *new)
{
    char path[PATH_MAX], file[LAYER_ID_SIZE + 16];
    snprintf(file, sizeof(file), "%s.json", new->id);
    pool_folder_file_path(layers, file, path);
    (void)unlink(path); /* the next sweep would do it, too */
    (void)unlink(new->path);
}

static int write_new_disk(const struct pool_folder *layers, const char *name,
                          const struct new_layer *new, struct error *err)
{
    json_auto_t *disk = json_pack("{s:s,s:{}}", "top", new->id, "snapshots");
    int rc = pool_folder_write_disk(layers, name, disk, err);
    if (rc < 0) {
        drop_layer(layers, new);
    }
    return rc;
}

static int check_absent(const struct pool_folder *layers, const char *name, struct error *err)
{
    json_auto_t *disk = NULL;
    int rc = pool_folder_read_disk(layers, name, &disk, err);
    if (rc == 0) {
        return error_set(err, EEXIST, "disk %s: there is one of that name", name);
    }
    if (rc == -ENOENT && err != NULL) {
        *err = (struct error){0};
    }
    return rc == -ENOENT ? 0 : rc;
}

static int fill_disk(const struct pool_folder *layers, const char *id, struct pool_disk *out_disk,
                     struct error *err)
{
    json_auto_t *layer = NULL;
    int rc = pool_folder_read(layers, id, &layer, err);
    if (rc == 0) {
        pool_folder_file_path(layers, text_of(layer, "file"), out_disk->path);
        snprintf(out_disk->format, sizeof(out_disk->format), "%s", text_of(layer, "format"));
    }
    return rc;
}

static int choose_size(const char *name, const struct pool_disk *base, uint64_t *size,
                       struct error *err)
{
    uint64_t below = 0;
    int rc = base != NULL ? disk_file_size(base->path, base->format, &below, err) : 0;
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "disk %s", name);
    }
    if (*size == 0) {
        *size = (below + 511) / 512 * 512;
    }
    if (*size == 0 || *size % 512 != 0 || *size > INT64_MAX) {
        return error_set(err, EINVAL, "disk %s: its size: a multiple of 512 bytes, not 0", name);
    }
    if (*size < below) {
        return error_set(err, EINVAL,
                         "disk %s: %llu bytes are less than its image has: %llu at least", name,
                         (unsigned long long)*size, (unsigned long long)below);
    }
    return 0;
}

/* A copy by reference has the base's size. */
static int grow_copy(const struct pool_folder *layers, const struct new_layer *new, uint64_t size,
                     struct error *err)
{
    json_auto_t *chain = NULL;
    uint64_t has = 0;
    struct pool_disk file;
    int rc = fill_disk(layers, new->id, &file, err);
    if (rc == 0) {
        rc = disk_file_size(file.path, file.format, &has, err);
    }
    if (rc == 0 && has != size) {
        rc = pool_folder_chain(layers, new->id, &chain, err);
        rc = rc < 0 ? rc : disk_file_resize(chain, size, err);
    }
    if (rc < 0) {
        drop_layer(layers, new);
    }
    return rc;
}

static int dir_disk_create(const json_t *pool, const char *name, uint64_t size,
                           const struct pool_disk *base, struct pool_disk *out_disk,
                           struct error *err)
{
    struct pool_folder layers;
    int rc = pool_folder_check_name(name, err);
    if (rc == 0 && base != NULL && strcmp(base->format, "raw") != 0 &&
        strcmp(base->format, "qcow2") != 0) {
        rc = error_set(err, EINVAL, "disk %s: an image of format raw or qcow2, not %s", name,
                       base->format);
    }
    if (rc == 0) {
        rc = choose_size(name, base, &size, err);
    }
    if (rc == 0) {
        rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    }
    if (rc < 0) {
        return rc;
    }
    struct new_layer new = {.disk = name, .base = base, .size = size};
    rc = check_absent(&layers, name, err);
    if (rc == 0) {
        rc = make_layer(&layers, &new, err);
    }
    if (rc == 0 && base != NULL) {
        rc = grow_copy(&layers, &new, size, err);
    }
    if (rc == 0) {
        rc = write_new_disk(&layers, name, &new, err);
    }
    if (rc == 0 && out_disk != NULL) {
        rc = fill_disk(&layers, new.id, out_disk, err);
    }
    pool_folder_close(&layers);
    return rc;
}

/* The disk's document, with the pool open. */
static int open_disk(const json_t *pool, const char *name, enum pool_folder_mode mode,
                     struct pool_folder *out_layers, json_t **out_disk, struct error *err)
{
    int rc = dir_open(pool, mode, out_layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = pool_folder_read_disk(out_layers, name, out_disk, err);
    if (rc < 0) {
        pool_folder_close(out_layers);
    }
    return rc;
}

static int dir_disk_find(const json_t *pool, const char *name, struct pool_disk *out_disk,
                         struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL;
    int rc = open_disk(pool, name, POOL_FOLDER_READ, &layers, &disk, err);
    if (rc == 0) {
        rc = fill_disk(&layers, text_of(disk, "top"), out_disk, err);
        pool_folder_close(&layers);
    }
    return rc;
}

static int dir_disk_layers(const json_t *pool, const char *name, json_t **out_layers,
                           struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL, *chain = NULL;
    int rc = open_disk(pool, name, POOL_FOLDER_READ, &layers, &disk, err);
    if (rc == 0) {
        rc = pool_folder_chain(&layers, text_of(disk, "top"), &chain, err);
        pool_folder_close(&layers);
    }
    if (rc == 0) {
        json_array_remove(chain, 0);
        *out_layers = TAKE_PTR(chain);
    }
    return rc == 0 ? 0 : error_prefix(err, rc, "disk %s", name);
}

static int check_unused(const struct pool_folder *layers, const json_t *disk, struct error *err)
{
    struct pool_disk top;
    int rc = fill_disk(layers, text_of(disk, "top"), &top, err);
    return rc < 0 ? rc : disk_file_check_unused(top.path, err);
}

static int dir_disk_remove(const json_t *pool, const char *name, struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL;
    int rc = pool_folder_check_name(name, err);
    if (rc == 0) {
        rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = pool_folder_read_disk(&layers, name, &disk, err);
    if (rc == 0) {
        rc = check_unused(&layers, disk, err);
        /* One that has lost its layer can go all the same. */
        rc = rc == -ENOENT ? 0 : rc;
    }
    if (rc == 0 || rc == -ENOENT) {
        rc = pool_folder_drop_disk(&layers, name, err);
    }
    if (rc == 0) {
        error_ignore(pool_folder_sweep(&layers, NULL, NULL)); /* the next one finds it, too */
    }
    pool_folder_close(&layers);
    return rc;
}

static int dir_disk_resize(const json_t *pool, const char *name, uint64_t size, struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL, *chain = NULL;
    int rc = open_disk(pool, name, POOL_FOLDER_CHANGE, &layers, &disk, err);
    if (rc < 0) {
        return rc;
    }
    rc = pool_folder_chain(&layers, text_of(disk, "top"), &chain, err);
    if (rc == 0) {
        rc = disk_file_resize(chain, size, err);
    }
    pool_folder_close(&layers);
    return rc == 0 ? 0 : error_prefix(err, rc, "disk %s", name);
}

/* The layer as it is now, for others to stand on. Where the file system copies by reference that is a copy, and the disk stays
 * what it is; elsewhere it is the disk's file, and '*out_top' the name of an empty one above it, for the disk to go on with. */
static int freeze(const struct pool_folder *layers, const char *name, const json_t *disk,
                  struct new_layer *new, char out_frozen[LAYER_ID_SIZE + 16], const char **out_top,
                  struct error *err)
{
    const char *top = text_of(disk, "top");
    json_auto_t *layer = NULL, *chain = NULL;
    struct pool_disk file;
    int rc = pool_folder_read(layers, top, &layer, err);
    if (rc == 0) {
        rc = pool_folder_chain(layers, top, &chain, err);
    }
    if (rc == 0) {
        rc = fill_disk(layers, top, &file, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* What a program that has an image open knows of it need not be in the file yet; of a raw disk all is. */
    if (strcmp(file.format, "raw") == 0 || disk_file_check_unused(file.path, NULL) == 0) {
        *new = (struct new_layer){.disk = name, .copied = layer, .is_copy_only = true};
        rc = make_layer(layers, new, err);
    } else {
        rc = -EOPNOTSUPP;
    }
    if (rc == 0) {
        snprintf(out_frozen, LAYER_ID_SIZE + 16, "%s", new->id);
        *out_top = top;
        return 0;
    }
    if (rc != -EOPNOTSUPP) {
        return rc;
    }
    if (json_array_size(chain) >= LAYER_MAX_DEPTH) {
        return error_set(err, ELOOP,
                         "disk %s: %zu files stand on each other: delete snapshots while the "
                         "instance is stopped",
                         name, json_array_size(chain));
    }
    *new = (struct new_layer){.disk = name, .parent = top};
    rc = disk_file_size(file.path, file.format, &new->size, err);
    if (rc == 0) {
        rc = make_layer(layers, new, err);
    }
    if (rc == 0) {
        snprintf(out_frozen, LAYER_ID_SIZE + 16, "%s", top);
        *out_top = new->id;
    }
    return rc;
}

static int check_snapshot_name(const char *snapshot, struct error *err)
{
    return store_check_name("snapshot", snapshot, err);
}

static int dir_disk_snapshot(const json_t *pool, const char *name, const char *snapshot,
                             struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL;
    int rc = check_snapshot_name(snapshot, err);
    if (rc == 0) {
        rc = open_disk(pool, name, POOL_FOLDER_CHANGE, &layers, &disk, err);
    }
    if (rc < 0) {
        return rc;
    }
    struct new_layer new;
    char frozen[LAYER_ID_SIZE + 16];
    const char *top;
    json_t *snapshots = json_object_get(disk, "snapshots");
    if (json_object_get(snapshots, snapshot) != NULL) {
        rc = error_set(err, EEXIST, "disk %s: there is a snapshot '%s'", name, snapshot);
    } else {
        rc = freeze(&layers, name, disk, &new, frozen, &top, err);
    }
    if (rc == 0) {
        char *next = strdup(top); /* it may lie in what is replaced */
        if (next == NULL || json_object_set_new(snapshots, snapshot, json_string(frozen)) < 0 ||
            json_object_set_new(disk, "top", json_string(next)) < 0) {
            rc = error_set_errno(err, ENOMEM, "disk %s", name);
        } else {
            rc = pool_folder_write_disk(&layers, name, disk, err);
        }
        free(next);
        if (rc < 0) {
            drop_layer(&layers, &new);
        }
    }
    pool_folder_close(&layers);
    return rc;
}

/* A layer that is written to, over one that is frozen. */
static int thaw(const struct pool_folder *layers, const char *name, const char *frozen,
                struct new_layer *out_new, struct error *err)
{
    json_auto_t *layer = NULL;
    struct pool_disk file;
    int rc = pool_folder_read(layers, frozen, &layer, err);
    if (rc == 0) {
        rc = fill_disk(layers, frozen, &file, err);
    }
    if (rc == 0) {
        *out_new = (struct new_layer){.disk = name, .parent = frozen, .copied = layer};
        rc = disk_file_size(file.path, file.format, &out_new->size, err);
    }
    if (rc == 0) {
        rc = make_layer(layers, out_new, err);
    }
    return rc;
}

static int find_snapshot(const json_t *disk, const char *name, const char *snapshot,
                         const char **out_id, struct error *err)
{
    *out_id = text_of(json_object_get(disk, "snapshots"), snapshot);
    return *out_id != NULL
               ? 0
               : error_set(err, ENOENT, "disk %s: there is no snapshot '%s'", name, snapshot);
}

static int dir_disk_restore(const json_t *pool, const char *name, const char *snapshot,
                            struct error *err)
{
    struct pool_folder layers;
    struct new_layer new;
    json_auto_t *disk = NULL;
    const char *frozen;
    int rc = open_disk(pool, name, POOL_FOLDER_CHANGE, &layers, &disk, err);
    if (rc < 0) {
        return rc;
    }
    rc = find_snapshot(disk, name, snapshot, &frozen, err);
    if (rc == 0) {
        rc = check_unused(&layers, disk, err);
    }
    if (rc == 0) {
        rc = thaw(&layers, name, frozen, &new, err);
    }
    if (rc == 0) {
        rc = json_object_set_new(disk, "top", json_string(new.id)) < 0
                 ? error_set_errno(err, ENOMEM, "disk %s", name)
                 : pool_folder_write_disk(&layers, name, disk, err);
        if (rc < 0) {
            drop_layer(&layers, &new);
        }
    }
    if (rc == 0) {
        error_ignore(pool_folder_sweep(&layers, NULL, NULL)); /* the next one finds it, too */
    }
    pool_folder_close(&layers);
    return rc;
}

static int dir_disk_forget(const json_t *pool, const char *name, const char *snapshot,
                           struct error *err)
{
    struct pool_folder layers;
    json_auto_t *disk = NULL;
    int rc = open_disk(pool, name, POOL_FOLDER_CHANGE, &layers, &disk, err);
    if (rc < 0) {
        return rc;
    }
    if (json_object_del(json_object_get(disk, "snapshots"), snapshot) == 0) {
        rc = pool_folder_write_disk(&layers, name, disk, err);
    }
    if (rc == 0) {
        error_ignore(pool_folder_sweep(&layers, NULL, NULL)); /* the next one finds it, too */
        error_ignore(dir_merge_hidden(pool, &layers, NULL));
    }
    pool_folder_close(&layers);
    return rc;
}

static int clone_as_it_is(const struct pool_folder *layers, const char *name, json_t *disk,
                          const char *new_name, struct error *err)
{
    struct new_layer new, above;
    char frozen[LAYER_ID_SIZE + 16];
    const char *top;
    int rc = freeze(layers, name, disk, &new, frozen, &top, err);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(top, new.id) != 0) {
        return write_new_disk(layers, new_name, &new,
                              err); /* a copy by reference: that is the clone */
    }
    rc = thaw(layers, new_name, frozen, &above, err);
    if (rc == 0) {
        rc = json_object_set_new(disk, "top", json_string(new.id)) < 0
                 ? error_set_errno(err, ENOMEM, "disk %s", name)
                 : pool_folder_write_disk(layers, name, disk, err);
        if (rc < 0) {
            drop_layer(layers, &above);
        }
    }
    if (rc < 0) {
        drop_layer(layers, &new);
        return rc;
    }
    return write_new_disk(layers, new_name, &above, err);
}

static int dir_disk_clone(const json_t *pool, const char *name, const char *snapshot,
                          const char *new_name, struct error *err)
{
    struct pool_folder layers;
    struct new_layer new;
    json_auto_t *disk = NULL;
    const char *frozen = NULL;
    int rc = pool_folder_check_name(new_name, err);
    if (rc == 0) {
        rc = open_disk(pool, name, POOL_FOLDER_CHANGE, &layers, &disk, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = check_absent(&layers, new_name, err);
    if (rc == 0 && snapshot != NULL) {
        rc = find_snapshot(disk, name, snapshot, &frozen, err);
        if (rc == 0) {
            rc = thaw(&layers, new_name, frozen, &new, err);
        }
        if (rc == 0) {
            rc = write_new_disk(&layers, new_name, &new, err);
        }
    } else if (rc == 0) {
        rc = clone_as_it_is(&layers, name, disk, new_name, err);
    }
    pool_folder_close(&layers);
    return rc;
}

/* The file lies in the folder before it has a name; nobody else may sweep it meanwhile, so that the copy lies beside the
 * layers. */
static int dir_disk_import(const json_t *pool, const char *name, const json_t *chain,
                           int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                           struct error *err)
{
    struct pool_folder layers;
    struct new_layer new = {.disk = name};
    char file[LAYER_ID_SIZE + 16], temporary[PATH_MAX];
    int rc = pool_folder_check_name(name, err);
    if (rc == 0) {
        rc = dir_open(pool, POOL_FOLDER_READ, &layers, err);
    }
    if (rc == 0) {
        rc = pool_folder_new_id(name, new.id, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* A name with a dot: not swept. One that a killed worker leaves goes with the next import of the same disk. */
    char flat[256];
    snprintf(flat, sizeof(flat), ".import-%.200s", name);
    for (char *at = flat; *at != '\0'; at++) {
        *at = *at == '/' ? '-' : *at;
    }
    pool_folder_file_path(&layers, flat, temporary);
    (void)unlink(temporary); /* as a rule there is none */
    rc = disk_file_copy(chain, temporary, progress, ctx, err);
    if (rc == 0) {
        rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    }
    if (rc < 0) {
        (void)unlink(temporary); /* it has failed already */
        return rc;
    }
    snprintf(file, sizeof(file), "%s.raw", new.id);
    pool_folder_file_path(&layers, file, new.path);
    rc = check_absent(&layers, name, err);
    if (rc == 0 && rename(temporary, new.path) < 0) {
        rc = error_set_errno(err, errno, "disk %s", name);
    }
    if (rc < 0) {
        (void)unlink(temporary); /* it has failed already */
    } else {
        json_auto_t *layer = json_pack("{s:s,s:s}", "file", file, "format", "raw");
        rc = pool_folder_write(&layers, new.id, layer, err);
        if (rc == 0) {
            rc = write_new_disk(&layers, name, &new, err);
        } else {
            drop_layer(&layers, &new);
        }
    }
    pool_folder_close(&layers);
    return rc;
}

static int dir_sweep(const json_t *pool, json_t **out_found, struct error *err)
{
    struct pool_folder layers;
    json_auto_t *found = json_array();
    int rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = pool_folder_sweep(&layers, found, err);
    if (rc == 0) {
        rc = dir_merge_hidden(pool, &layers, err);
    }
    pool_folder_close(&layers);
    if (rc == 0) {
        *out_found = TAKE_PTR(found);
    }
    return rc;
}

/* Disks are the same on all file systems: what can be copied by reference is. */
#define COMMON                                                                                     \
    .remove = pool_folder_remove, .space = dir_space, .disk_create = dir_disk_create,              \
    .disk_find = dir_disk_find, .disk_layers = dir_disk_layers, .disk_remove = dir_disk_remove,    \
    .disk_resize = dir_disk_resize, .disk_snapshot = dir_disk_snapshot,                            \
    .disk_restore = dir_disk_restore, .disk_forget = dir_disk_forget,                              \
    .disk_clone = dir_disk_clone, .disk_import = dir_disk_import, .tree_find = dir_tree_find,      \
    .tree_import = dir_tree_import, .sweep = dir_sweep

const struct pool_driver dir_driver = {
    .name = "dir",
    .check = dir_check,
    .create = pool_folder_create,
    .tree_create = dir_tree_create,
    .tree_remove = dir_tree_remove,
    COMMON,
};

const struct pool_driver btrfs_driver = {
    .name = "btrfs",
    .check = btrfs_check,
    .create = btrfs_create,
    .tree_create = btrfs_tree_create,
    .tree_remove = btrfs_tree_remove,
    COMMON,
};
