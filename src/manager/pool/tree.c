/* Folders that are volumes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/pool/dir.h"
#include "manager/text.h"
#include "system/layers/layers.h"

int dir_tree_path(const struct pool_folder *layers, const char *name, char out_path[PATH_MAX],
                  struct error *err)
{
    int rc = pool_folder_check_name(name, err);
    if (rc == 0) {
        snprintf(out_path, PATH_MAX, "%s/trees/%s", layers->root, name);
    }
    return rc;
}

int dir_tree_find(const json_t *pool, const char *name, char out_path[PATH_MAX], struct error *err)
{
    struct pool_folder layers;
    struct stat info;
    int rc = dir_open(pool, POOL_FOLDER_READ, &layers, err);
    if (rc == 0) {
        rc = dir_tree_path(&layers, name, out_path, err);
    }
    if (rc == 0 && (lstat(out_path, &info) < 0 || !S_ISDIR(info.st_mode))) {
        rc = error_set(err, ENOENT, "volume %s: there is no folder %s", name, out_path);
    }
    return rc;
}

static int make_above(const char *path, struct error *err)
{
    char above[PATH_MAX];
    snprintf(above, sizeof(above), "%.*s", (int)(strrchr(path, '/') - path), path);
    return file_make_folders(above, 0711, 0711, err);
}

struct tree_progress {
    int (*fn)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
};

static int show_tree(void *ctx, uint64_t done_bytes, uint64_t done_files)
{
    const struct tree_progress *progress = ctx;
    return progress->fn != NULL ? progress->fn(progress->ctx, done_bytes, 0) : 0;
}

/* Made beside its place, and renamed. */
int dir_tree_import(const json_t *pool, const char *name, const char *from,
                    int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                    struct error *err)
{
    struct pool_folder layers;
    char path[PATH_MAX];
    struct stat info;
    int rc = dir_open(pool, POOL_FOLDER_READ, &layers, err);
    if (rc == 0) {
        rc = dir_tree_path(&layers, name, path, err);
    }
    if (rc == 0 && lstat(path, &info) == 0) {
        rc = error_set(err, EEXIST, "volume %s: there is one of that name", name);
    }
    if (rc == 0) {
        rc = make_above(path, err);
    }
    if (rc == 0) {
        struct tree_progress show = {progress, ctx};
        const struct layers_copy copy = {
            .from = from, .to = path, .progress = show_tree, .ctx = &show};
        rc = layers_copy(&copy, err);
    }
    return rc;
}

int dir_tree_create(const json_t *pool, const char *name, uint64_t quota, char out_path[PATH_MAX],
                    struct error *err)
{
    struct pool_folder layers;
    if (quota != 0) {
        return error_set(err, EOPNOTSUPP,
                         "volume %s: the pool %s cannot limit the size of folders: leave the size "
                         "out, or make a volume of type block",
                         name, text_of(pool, "name"));
    }
    int rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = dir_tree_path(&layers, name, out_path, err);
    if (rc == 0) {
        rc = make_above(out_path, err);
    }
    if (rc == 0 && mkdir(out_path, 0755) < 0) {
        rc = errno == EEXIST ? error_set(err, EEXIST, "volume %s: there is one of that name", name)
                             : error_set_errno(err, errno, "volume %s", name);
    }
    pool_folder_close(&layers);
    return rc;
}

int dir_tree_remove(const json_t *pool, const char *name, struct error *err)
{
    struct pool_folder layers;
    char path[PATH_MAX], above[PATH_MAX];
    int rc = dir_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = dir_tree_path(&layers, name, path, err);
    if (rc == 0) {
        rc = layers_remove(path, err);
    }
    if (rc == 0) {
        snprintf(above, sizeof(above), "%.*s", (int)(strrchr(path, '/') - path), path);
        (void)rmdir(above); /* others may be in it */
    }
    pool_folder_close(&layers);
    return rc;
}
