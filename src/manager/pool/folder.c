#include "manager/pool/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"

#define MAX_JSON_SIZE (1u << 20)

static const char *const areas[] = {"disks", "layers", "trees"};

static const char *pool_name(const json_t *pool)
{
    const char *name = json_string_value(json_object_get(pool, "name"));
    return name != NULL ? name : "?";
}

static void join(const struct pool_folder *layers, const char *area, const char *name,
                 const char *ending, char out_path[PATH_MAX])
{
    snprintf(out_path, PATH_MAX, "%s/%s%s%s%s", layers->root, area, name[0] != '\0' ? "/" : "",
             name, ending);
}

void pool_folder_file_path(const struct pool_folder *layers, const char *file,
                           char out_path[PATH_MAX])
{
    join(layers, "layers", file, "", out_path);
}

static int set_root(const json_t *pool, struct pool_folder *layers, struct error *err)
{
    const char *path = json_string_value(json_object_get(json_object_get(pool, "config"), "path"));
    if (path == NULL || path[0] != '/' || path[1] == '\0') {
        return error_set(err, EINVAL, "pool %s: config.path: an absolute path of a folder",
                         pool_name(pool));
    }
    if (strlen(path) >= LAYER_MAX_PATH) {
        return error_set(err, ENAMETOOLONG, "pool %s: its path: at most %d bytes", pool_name(pool),
                         LAYER_MAX_PATH - 1);
    }
    strcpy(layers->root, path);
    layers->lock_fd = -1;
    return 0;
}

static int sync_folder(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        return error_set_errno(err, errno, "making %s durable", path);
    }
    return 0;
}

static void folder_of(const char *path, char out_folder[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    snprintf(out_folder, PATH_MAX, "%.*s", (int)(slash - path), path);
}

static int read_json(const char *path, const char *what, json_t **out_value, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "%s", what);
    }
    AUTO_FREE void *data = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_JSON_SIZE, path, &data, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t fault;
    json_t *value = json_loadb(data, size, JSON_REJECT_DUPLICATES, &fault);
    if (!json_is_object(value)) {
        json_decref(value);
        return error_set(err, EPROTO, "%s: is damaged: %s is no JSON object", what, path);
    }
    *out_value = value;
    return 0;
}

static int write_json(const char *path, const json_t *value, struct error *err)
{
    AUTO_FREE char *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "writing %s", path);
    }
    char folder[PATH_MAX];
    folder_of(path, folder);
    int rc = file_replace(path, text, 0600, true, err);
    return rc < 0 ? rc : sync_folder(folder, err);
}

/* A lock that ends with the descriptor: two that make the default pool at once see it whole, or not at all. */
static int hold_folder(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = -1;
    while (fd >= 0 && (rc = flock(fd, LOCK_EX)) < 0 && errno == EINTR) {
    }
    return rc < 0 ? error_set_errno(err, errno, "locking the folder %s", path) : TAKE_FD(fd);
}

int pool_folder_create(const json_t *pool, struct error *err)
{
    struct pool_folder layers;
    char path[PATH_MAX];
    int rc = set_root(pool, &layers, err);
    if (rc == 0) {
        rc = file_make_folders(layers.root, 0711, 0755, err);
    }
    AUTO_CLOSE int held = rc == 0 ? hold_folder(layers.root, err) : -1;
    rc = rc == 0 && held < 0 ? held : rc;
    if (rc < 0) {
        return error_prefix(err, rc, "pool %s", pool_name(pool));
    }
    join(&layers, "pool.json", "", "", path);
    json_auto_t *mark = NULL;
    rc = read_json(path, "mark", &mark, NULL);
    if (rc == 0) {
        const char *owner = json_string_value(json_object_get(mark, "name"));
        return owner != NULL && strcmp(owner, pool_name(pool)) == 0
                   ? 0
                   : error_set(err, EEXIST, "pool %s: the folder %s is that of the pool %s",
                               pool_name(pool), layers.root, owner != NULL ? owner : "?");
    }
    if (rc != -ENOENT) {
        return error_set_errno(err, -rc, "pool %s: reading %s", pool_name(pool), path);
    }
    DIR *folder = opendir(layers.root);
    if (folder == NULL) {
        return error_set_errno(err, errno, "pool %s: the folder %s", pool_name(pool), layers.root);
    }
    for (struct dirent *entry; rc == -ENOENT && (entry = readdir(folder)) != NULL;) {
        bool is_ours = entry->d_name[0] == '.' || strcmp(entry->d_name, "lost+found") == 0 ||
                       strcmp(entry->d_name, "pool.json.new") == 0;
        for (unsigned i = 0; i < ARRAY_COUNT(areas); i++) {
            is_ours = is_ours || strcmp(entry->d_name, areas[i]) == 0;
        }
        if (!is_ours) {
            rc = error_set(err, EEXIST, "pool %s: the folder %s is not empty: '%.60s'",
                           pool_name(pool), layers.root, entry->d_name);
        }
    }
    closedir(folder);
    if (rc != -ENOENT) {
        return rc;
    }
    rc = 0;
    for (unsigned i = 0; i < ARRAY_COUNT(areas) && rc == 0; i++) {
        join(&layers, areas[i], "", "", path);
        rc = file_make_folders(path, i == 2 ? 0711 : 0700, 0755, err);
    }
    if (rc == 0) {
        json_auto_t *made = json_pack("{s:s,s:i}", "name", pool_name(pool), "version", 1);
        join(&layers, "pool.json", "", "", path);
        rc = write_json(path, made, err);
    }
    return rc == 0 ? 0 : error_prefix(err, rc, "pool %s", pool_name(pool));
}

int pool_folder_open(const json_t *pool, enum pool_folder_mode mode, struct pool_folder *out_layers,
                     struct error *err)
{
    struct pool_folder layers;
    char path[PATH_MAX];
    struct stat info;
    int rc = set_root(pool, &layers, err);
    if (rc < 0) {
        return rc;
    }
    join(&layers, "pool.json", "", "", path);
    if (stat(path, &info) < 0) {
        return error_set(err, ENOENT, "pool %s: its folder %s is not there%s", pool_name(pool),
                         layers.root,
                         stat(layers.root, &info) == 0
                             ? ": is its file system mounted? pool.json is missing in it"
                             : "");
    }
    if (mode == POOL_FOLDER_CHANGE) {
        join(&layers, "lock", "", "", path);
        AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int locked = -1;
        while (fd >= 0 && (locked = flock(fd, LOCK_EX)) < 0 && errno == EINTR) {
        }
        if (locked < 0) {
            return error_set_errno(err, errno, "pool %s: locking %s", pool_name(pool), path);
        }
        layers.lock_fd = TAKE_FD(fd);
    }
    *out_layers = layers;
    return 0;
}

void pool_folder_close(struct pool_folder *layers)
{
    if (layers->lock_fd >= 0) {
        close(layers->lock_fd);
    }
    layers->lock_fd = -1;
}

int pool_folder_check_name(const char *name, struct error *err)
{
    static const char fits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    unsigned parts = 0;
    const char *at = name;
    for (bool is_last = false; !is_last && parts < 4; parts++) {
        size_t length = strspn(at, fits);
        if (length == 0 || length > 64 || at[0] == '.' ||
            (at[length] != '/' && at[length] != '\0')) {
            parts = 4;
            break;
        }
        is_last = at[length] == '\0';
        at += length + 1;
    }
    return parts == 2 || parts == 3
               ? 0
               : error_set(err, EINVAL,
                           "'%.80s' is no name of a disk: letters, digits, '-', '_' and '.', "
                           "not at the beginning",
                           name);
}

int pool_folder_read_disk(const struct pool_folder *layers, const char *name, json_t **out_disk,
                          struct error *err)
{
    char path[PATH_MAX], what[128];
    int rc = pool_folder_check_name(name, err);
    if (rc < 0) {
        return rc;
    }
    join(layers, "disks", name, ".json", path);
    snprintf(what, sizeof(what), "disk %.100s", name);
    rc = read_json(path, what, out_disk, err);
    if (rc == -ENOENT) {
        return error_set(err, ENOENT, "disk %s: there is none in %s", name, layers->root);
    }
    if (rc == 0 && (json_string_value(json_object_get(*out_disk, "top")) == NULL ||
                    !json_is_object(json_object_get(*out_disk, "snapshots")))) {
        json_decref(TAKE_PTR(*out_disk));
        return error_set(err, EPROTO, "disk %s: %s is damaged", name, path);
    }
    return rc;
}

int pool_folder_write_disk(const struct pool_folder *layers, const char *name, const json_t *disk,
                           struct error *err)
{
    char path[PATH_MAX], folder[PATH_MAX];
    join(layers, "disks", name, ".json", path);
    folder_of(path, folder);
    int rc = file_make_folders(folder, 0700, 0700, err);
    return rc < 0 ? rc : write_json(path, disk, err);
}

int pool_folder_drop_disk(const struct pool_folder *layers, const char *name, struct error *err)
{
    char path[PATH_MAX], folder[PATH_MAX];
    join(layers, "disks", name, ".json", path);
    folder_of(path, folder);
    if (unlink(path) < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "removing %s", path);
    }
    int rc = sync_folder(folder, NULL);
    if (rc < 0 && rc != -ENOENT) {
        return error_set_errno(err, -rc, "removing %s", path);
    }
    /* The folders of the disk's name go with their last disk; "disks" itself stays. */
    for (unsigned depth = 0; depth < 2; depth++) {
        char above[PATH_MAX];
        folder_of(folder, above);
        if (strlen(folder) <= strlen(layers->root) + strlen("/disks") || rmdir(folder) < 0) {
            break;
        }
        strcpy(folder, above);
    }
    return 0;
}

static bool is_file_name(const char *name)
{
    return name != NULL && name[0] != '.' && name[0] != '\0' && strchr(name, '/') == NULL &&
           strlen(name) < LAYER_ID_SIZE + 16;
}

int pool_folder_read(const struct pool_folder *layers, const char *id, json_t **out_layer,
                     struct error *err)
{
    char path[PATH_MAX], what[128];
    if (!is_file_name(id)) {
        return error_set(err, EPROTO, "'%.40s' is no name of a layer", id);
    }
    join(layers, "layers", id, ".json", path);
    snprintf(what, sizeof(what), "layer %.100s", id);
    int rc = read_json(path, what, out_layer, err);
    if (rc < 0) {
        return rc;
    }
    const char *format = json_string_value(json_object_get(*out_layer, "format"));
    if (!is_file_name(json_string_value(json_object_get(*out_layer, "file"))) || format == NULL ||
        (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)) {
        json_decref(TAKE_PTR(*out_layer));
        return error_set(err, EPROTO, "layer %s: %s is damaged", id, path);
    }
    return 0;
}

int pool_folder_write(const struct pool_folder *layers, const char *id, const json_t *layer,
                      struct error *err)
{
    char path[PATH_MAX];
    join(layers, "layers", id, ".json", path);
    return write_json(path, layer, err);
}

int pool_folder_new_id(const char *disk, char out_id[LAYER_ID_SIZE], struct error *err)
{
    uint64_t number;
    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
        return error_set_errno(err, errno, "making a name");
    }
    /* Begins with what it is for, as people look into folders, too. */
    const char *first = strchr(disk, '/');
    first = first != NULL ? first + 1 : disk;
    snprintf(out_id, LAYER_ID_SIZE, "%.50s-%012llx", first,
             (unsigned long long)(number & 0xffffffffffff));
    for (char *at = out_id; *at != '\0'; at++) {
        *at = *at == '/' ? '-' : *at;
    }
    return 0;
}

static int add_to_chain(json_t *chain, const char *path, const char *format, const char *id,
                        struct error *err)
{
    if (access(path, F_OK) < 0) {
        return error_set_errno(err, errno, "%s %s%s", id != NULL ? "layer" : "image", path,
                               json_array_size(chain) > 0 ? ", on which the disk stands" : "");
    }
    json_t *entry = json_pack("{s:s,s:s,s:s*}", "path", path, "format", format, "id", id);
    return json_array_append_new(chain, entry) == 0 ? 0
                                                    : error_set_errno(err, ENOMEM, "disk %s", path);
}

int pool_folder_chain(const struct pool_folder *layers, const char *id, json_t **out_chain,
                      struct error *err)
{
    json_auto_t *chain = json_array();
    char at[LAYER_ID_SIZE + 16];
    if (!is_file_name(id)) {
        return error_set(err, EPROTO, "'%.40s' is no name of a layer", id);
    }
    snprintf(at, sizeof(at), "%s", id);
    for (unsigned depth = 0; depth < LAYER_MAX_DEPTH * 2; depth++) {
        json_auto_t *layer = NULL;
        char path[PATH_MAX];
        int rc = pool_folder_read(layers, at, &layer, err);
        if (rc < 0) {
            return rc;
        }
        pool_folder_file_path(layers, json_string_value(json_object_get(layer, "file")), path);
        rc =
            add_to_chain(chain, path, json_string_value(json_object_get(layer, "format")), at, err);
        const json_t *base = json_object_get(layer, "base");
        const char *parent = json_string_value(json_object_get(layer, "parent"));
        if (rc == 0 && base != NULL) {
            const char *base_path = json_string_value(json_object_get(base, "path"));
            const char *format = json_string_value(json_object_get(base, "format"));
            rc = base_path != NULL && format != NULL
                     ? add_to_chain(chain, base_path, format, NULL, err)
                     : error_set(err, EPROTO, "layer %s: is damaged", at);
        } else if (rc == 0 && parent != NULL) {
            if (!is_file_name(parent)) {
                return error_set(err, EPROTO, "layer %s: is damaged", at);
            }
            snprintf(at, sizeof(at), "%s", parent);
            continue;
        }
        if (rc == 0) {
            *out_chain = TAKE_PTR(chain);
        }
        return rc;
    }
    return error_set(err, ELOOP, "layer %s: too many stand on each other", id);
}

int pool_folder_remove(const json_t *pool, struct error *err)
{
    struct pool_folder layers;
    char path[PATH_MAX];
    int rc = pool_folder_open(pool, POOL_FOLDER_CHANGE, &layers, err);
    if (rc < 0) {
        return rc;
    }
    rc = pool_folder_sweep(&layers, NULL, err);
    /* From the areas to the mark: what is left of a removal that was interrupted can be removed again. */
    for (unsigned i = 0; i < ARRAY_COUNT(areas) && rc == 0; i++) {
        join(&layers, areas[i], "", "", path);
        if (rmdir(path) < 0 && errno != ENOENT) {
            rc = errno == ENOTEMPTY || errno == EEXIST
                     ? error_set(err, EBUSY, "pool %s: is in use: %s is not empty", pool_name(pool),
                                 path)
                     : error_set_errno(err, errno, "pool %s: removing %s", pool_name(pool), path);
        }
    }
    if (rc < 0) {
        /* It goes on being a pool. */
        for (unsigned i = 0; i < ARRAY_COUNT(areas); i++) {
            join(&layers, areas[i], "", "", path);
            error_ignore(file_make_folders(path, i == 2 ? 0711 : 0700, 0755, NULL));
        }
        pool_folder_close(&layers);
        return rc;
    }
    static const char *const files[] = {"pool.json.new", "pool.json", "lock"};
    for (unsigned i = 0; i < ARRAY_COUNT(files) && rc == 0; i++) {
        join(&layers, files[i], "", "", path);
        if (unlink(path) < 0 && errno != ENOENT) {
            rc = error_set_errno(err, errno, "pool %s: removing %s", pool_name(pool), path);
        }
    }
    pool_folder_close(&layers);
    /* A mount point, or a folder with other things in it, stays. */
    if (rc == 0 && rmdir(layers.root) < 0 && errno != EBUSY && errno != ENOTEMPTY &&
        errno != EEXIST && errno != ENOENT) {
        rc = error_set_errno(err, errno, "pool %s: removing %s", pool_name(pool), layers.root);
    }
    return rc;
}
