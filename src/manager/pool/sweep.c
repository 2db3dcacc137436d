/* What of a pool is referred to, and the removal of what is not. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/pool/folder.h"

static int count_up(json_t *counts, const char *id, struct error *err)
{
    json_int_t now = json_integer_value(json_object_get(counts, id));
    return json_object_set_new(counts, id, json_integer(now + 1)) == 0
               ? 0
               : error_set_errno(err, ENOMEM, "counting layers");
}

/* 'id' and all below it. */
static int mark(const struct pool_folder *layers, struct pool_census *census, const char *id,
                struct error *err)
{
    char at[LAYER_ID_SIZE + 16];
    snprintf(at, sizeof(at), "%s", id);
    while (json_object_get(census->layers, at) == NULL) {
        json_t *layer = NULL;
        int rc = pool_folder_read(layers, at, &layer, err);
        if (rc < 0) {
            return rc;
        }
        if (json_object_set_new(census->layers, at, layer) < 0) {
            return error_set_errno(err, ENOMEM, "counting layers");
        }
        const char *parent = json_string_value(json_object_get(layer, "parent"));
        if (parent == NULL) {
            break;
        }
        rc = count_up(census->children, parent, err);
        if (rc == 0 && json_object_set_new(census->child, parent, json_string(at)) < 0) {
            rc = error_set_errno(err, ENOMEM, "counting layers");
        }
        if (rc < 0) {
            return rc;
        }
        snprintf(at, sizeof(at), "%s", parent);
    }
    return 0;
}

static int mark_disk(const struct pool_folder *layers, struct pool_census *census, const char *name,
                     struct error *err)
{
    json_auto_t *disk = NULL;
    int rc = pool_folder_read_disk(layers, name, &disk, err);
    if (rc < 0) {
        return rc;
    }
    const char *top = json_string_value(json_object_get(disk, "top"));
    rc = mark(layers, census, top, err);
    if (rc == 0) {
        rc = count_up(census->holders, top, err);
    }
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(disk, "snapshots"), key, value)
    {
        const char *id = json_string_value(value);
        if (rc == 0 && id == NULL) {
            rc = error_set(err, EPROTO, "disk %s: its snapshot %s is damaged", name, key);
        }
        if (rc == 0) {
            rc = mark(layers, census, id, err);
        }
        if (rc == 0) {
            rc = count_up(census->holders, id, err);
        }
    }
    return rc;
}

/* disks/FOLDER and below, at most two folders deep. */
static int walk_disks(const struct pool_folder *layers, struct pool_census *census,
                      const char *folder, unsigned depth, struct error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/disks%s%s", layers->root, folder[0] != '\0' ? "/" : "",
                 folder) >= (int)sizeof(path)) {
        return error_set(err, ENAMETOOLONG, "folder %s", folder);
    }
    DIR *stream = opendir(path);
    if (stream == NULL) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(stream)) != NULL;) {
        char name[PATH_MAX];
        struct stat info;
        if (entry->d_name[0] == '.' ||
            fstatat(dirfd(stream), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 ||
            snprintf(name, sizeof(name), "%s%s%s", folder, folder[0] != '\0' ? "/" : "",
                     entry->d_name) >= (int)sizeof(name)) {
            continue;
        }
        size_t length = strlen(name);
        if (S_ISDIR(info.st_mode) && depth < 2) {
            rc = walk_disks(layers, census, name, depth + 1, err);
        } else if (S_ISREG(info.st_mode) && length > 5 && strcmp(name + length - 5, ".json") == 0) {
            name[length - 5] = '\0';
            rc = mark_disk(layers, census, name, err);
        }
    }
    closedir(stream);
    return rc;
}

int pool_folder_census(const struct pool_folder *layers, struct pool_census *out_census,
                       struct error *err)
{
    struct pool_census census = {json_object(), json_object(), json_object(), json_object()};
    int rc = walk_disks(layers, &census, "", 0, err);
    if (rc < 0) {
        pool_census_free(&census);
        return rc;
    }
    *out_census = census;
    return 0;
}

void pool_census_free(struct pool_census *census)
{
    json_decref(census->layers);
    json_decref(census->holders);
    json_decref(census->children);
    json_decref(census->child);
    *census = (struct pool_census){0};
}

/* Names of the files that are needed: an object, as a set. */
static json_t *needed_files(const struct pool_census *census)
{
    json_t *needed = json_object();
    const char *id;
    json_t *layer;
    json_object_foreach(census->layers, id, layer)
    {
        char name[LAYER_ID_SIZE + 32];
        snprintf(name, sizeof(name), "%s.json", id);
        if (json_object_set_new(needed, name, json_true()) < 0 ||
            json_object_set_new(needed, json_string_value(json_object_get(layer, "file")),
                                json_true()) < 0) {
            json_decref(needed);
            return NULL;
        }
    }
    return needed;
}

int pool_folder_sweep(const struct pool_folder *layers, json_t *found, struct error *err)
{
    struct pool_census census;
    char path[PATH_MAX];
    int rc = pool_folder_census(layers, &census, err);
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "looking for what nobody needs");
    }
    json_auto_t *needed = needed_files(&census);
    pool_census_free(&census);
    if (needed == NULL) {
        return error_set_errno(err, ENOMEM, "looking for what nobody needs");
    }
    snprintf(path, sizeof(path), "%s/layers", layers->root);
    DIR *stream = opendir(path);
    if (stream == NULL) {
        return error_set_errno(err, errno, "reading %s", path);
    }
    for (struct dirent *entry; rc == 0 && (entry = readdir(stream)) != NULL;) {
        if (entry->d_name[0] == '.' || json_object_get(needed, entry->d_name) != NULL) {
            continue;
        }
        if (unlinkat(dirfd(stream), entry->d_name, 0) < 0 && errno != ENOENT) {
            rc = error_set_errno(err, errno, "removing %s/%.80s", path, entry->d_name);
        } else if (found != NULL) {
            rc = json_array_append_new(found, json_string(entry->d_name)) < 0
                     ? error_set_errno(err, ENOMEM, "removing what nobody needs")
                     : 0;
        }
    }
    closedir(stream);
    return rc;
}
