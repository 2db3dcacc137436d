#include "system/template/catalog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define MAX_CONFIG (4u << 20)
#define MIN_PREFIX 4 /* digits of a digest that may stand for it */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder that do not begin with a dot, sorted; one that is not there is empty. A new list. */
static int list_folder(const char *path, json_t **out_list, struct error *err)
{
    json_t *list = json_array();
    DIR *dir = opendir(path);
    if (dir == NULL && errno != ENOENT && errno != ENOTDIR) {
        json_decref(list);
        return error_set_errno(err, errno, "reading the folder %s", path);
    }
    char **names = NULL;
    size_t count = 0, room = 0;
    struct dirent *entry;
    int code = 0;
    while (dir != NULL && code == 0) {
        errno = 0;
        entry = readdir(dir);
        if (entry == NULL) {
            code = errno;
            break;
        }
        if (entry->d_name[0] == '.') {
            continue;
        }
        if (count == room) {
            room = room == 0 ? 32 : room * 2;
            char **more = reallocarray(names, room, sizeof(*names));
            if (more == NULL) {
                code = ENOMEM;
                break;
            }
            names = more;
        }
        names[count] = strdup(entry->d_name);
        code = names[count] == NULL ? ENOMEM : 0;
        count += code == 0;
    }
    if (dir != NULL) {
        (void)closedir(dir); /* nothing was written */
    }
    if (count > 0) {
        qsort(names, count, sizeof(*names), compare_texts);
    }
    for (size_t i = 0; i < count; i++) {
        json_t *name = json_string(names[i]);
        if (name != NULL) { /* what is no UTF-8 is not ours */
            json_array_append_new(list, name);
        }
        free(names[i]);
    }
    free(names);
    if (code != 0) {
        json_decref(list);
        return error_set_errno(err, code, "reading the folder %s", path);
    }
    *out_list = list;
    return 0;
}

int catalog_digests(const struct store *store, json_t **out_list, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/templates", store->state);
    json_t *list;
    int rc = list_folder(path, &list, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = json_array_size(list); i > 0; i--) {
        if (!manifest_is_digest(json_string_value(json_array_get(list, i - 1)))) {
            json_array_remove(list, i - 1);
        }
    }
    *out_list = list;
    return 0;
}

static void name_path(const struct store *store, const char *name, char out_path[PATH_MAX])
{
    store_template_path(store, "names", name, out_path);
}

/* What a name means, if it is a link of ours to a template that is there. */
static bool name_read(const struct store *store, const char *name,
                      char out_digest[TEMPLATE_DIGEST_SIZE])
{
    char path[PATH_MAX];
    char target[TEMPLATE_DIGEST_SIZE + 8];
    name_path(store, name, path);
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length < 0) {
        return false;
    }
    target[length] = '\0';
    if (strncmp(target, "../", 3) != 0 || !manifest_is_digest(target + 3)) {
        return false;
    }
    store_template_path(store, target + 3, "manifest.json", path);
    if (access(path, F_OK) < 0) {
        return false;
    }
    memcpy(out_digest, target + 3, TEMPLATE_DIGEST_SIZE);
    return true;
}

int catalog_names(const struct store *store, json_t **out_names, struct error *err)
{
    char path[PATH_MAX];
    char digest[TEMPLATE_DIGEST_SIZE];
    json_t *list, *name;
    size_t i;
    store_template_path(store, "names", NULL, path);
    int rc = list_folder(path, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_t *names = json_object();
    json_array_foreach(list, i, name)
    {
        const char *text = json_string_value(name);
        if (store_check_name("template", text, NULL) == 0 && name_read(store, text, digest)) {
            json_object_set_new(names, text, json_string(digest));
        }
    }
    json_decref(list);
    *out_names = names;
    return 0;
}

int catalog_set_name(const struct store *store, const char *name, const char *digest,
                     struct error *err)
{
    char path[PATH_MAX], unfinished[PATH_MAX];
    char target[TEMPLATE_DIGEST_SIZE + 8];
    name_path(store, name, path);
    store_template_path(store, "names", ".new", unfinished);
    (void)snprintf(target, sizeof(target), "../%s", digest);
    (void)unlink(unfinished); /* of somebody who was killed: the lock is held */
    if (symlink(target, unfinished) < 0 || rename(unfinished, path) < 0) {
        return error_set_errno(err, errno, "naming the template %s", path);
    }
    return 0;
}

static int not_found(const char *word, const json_t *names, struct error *err)
{
    char list[120] = "";
    size_t used = 0;
    const char *name;
    json_t *digest;
    json_object_foreach((json_t *)names, name, digest)
    {
        int length = snprintf(list + used, sizeof(list) - used, "%s%s", used > 0 ? ", " : "", name);
        if (length < 0 || (size_t)length >= sizeof(list) - used) {
            (void)snprintf(list + used, sizeof(list) - used, "...");
            break;
        }
        used += (size_t)length;
    }
    return error_set(err, ENOENT,
                     "template %.64s: does not exist: %s%s; new ones: hull ct template build NAME "
                     "--variant minimal",
                     word, used > 0 ? "there are " : "there are none yet", list);
}

/* The one digest that begins so, with "sha256-" or without. */
static int find_prefix(const struct store *store, const char *word, const json_t *names,
                       char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    size_t prefix = strlen(MANIFEST_PREFIX);
    const char *digits = strncmp(word, MANIFEST_PREFIX, prefix) == 0 ? word + prefix : word;
    size_t length = strlen(digits);
    json_t *list, *digest;
    size_t i, count = 0;
    if (length < MIN_PREFIX || strspn(digits, "0123456789abcdef") != length) {
        return not_found(word, names, err);
    }
    int rc = catalog_digests(store, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(list, i, digest)
    {
        const char *text = json_string_value(digest);
        if (strncmp(text + prefix, digits, length) == 0 && count++ == 0) {
            memcpy(out_digest, text, TEMPLATE_DIGEST_SIZE);
        }
    }
    json_decref(list);
    if (count > 1) {
        return error_set(err, EINVAL, "template %s: %zu digests begin so: give more of it", word,
                         count);
    }
    return count == 1 ? 0 : not_found(word, names, err);
}

int template_find(const struct store *store, const char *word,
                  char out_digest[TEMPLATE_DIGEST_SIZE], bool *out_is_name, struct error *err)
{
    json_t *names;
    int rc = store_check_name("template", word, err);
    /* A digest is longer than a name. */
    rc = rc < 0 && manifest_is_digest(word) ? 0 : rc;
    rc = rc < 0 ? rc : catalog_names(store, &names, err);
    if (rc < 0) {
        return rc;
    }
    const char *digest = json_string_value(json_object_get(names, word));
    if (digest != NULL) {
        memcpy(out_digest, digest, TEMPLATE_DIGEST_SIZE);
    } else {
        rc = find_prefix(store, word, names, out_digest, err);
    }
    if (rc == 0 && out_is_name != NULL) {
        *out_is_name = digest != NULL;
    }
    json_decref(names);
    return rc;
}

/* Does the file hold the text? One that cannot be read may: it does. */
static bool file_holds(const char *path, const char *text)
{
    void *data;
    size_t size;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return errno != ENOENT && errno != ENOTDIR;
    }
    if (file_read_whole(fd, MAX_CONFIG, path, &data, &size, NULL) < 0) {
        return true;
    }
    bool is_there = memmem(data, size, text, strlen(text)) != NULL;
    free(data);
    return is_there;
}

/* The container, or one of its snapshots. */
static int container_needs(const struct store *store, const char *name, const char *digest,
                           bool *out_needs, struct error *err)
{
    char path[PATH_MAX];
    json_t *snapshots, *snapshot;
    size_t i;
    store_container_path(store, name, "config.yaml", path);
    *out_needs = file_holds(path, digest);
    store_container_path(store, name, "snapshots", path);
    int rc = list_folder(path, &snapshots, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(snapshots, i, snapshot)
    {
        char file[PATH_MAX];
        (void)snprintf(file, sizeof(file), "snapshots/%s/config.yaml", json_string_value(snapshot));
        store_container_path(store, name, file, path);
        *out_needs = *out_needs || file_holds(path, digest);
    }
    json_decref(snapshots);
    return 0;
}

static int add_containers(const struct store *store, const char *digest, json_t *users,
                          struct error *err)
{
    char path[PATH_MAX];
    json_t *list, *name;
    size_t i;
    (void)snprintf(path, sizeof(path), "%s/containers", store->state);
    int rc = list_folder(path, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(list, i, name)
    {
        bool needs = false;
        rc = container_needs(store, json_string_value(name), digest, &needs, err);
        if (rc < 0) {
            break;
        }
        if (needs) {
            json_array_append_new(users, json_sprintf("container %s", json_string_value(name)));
        }
    }
    json_decref(list);
    return rc;
}

const char *catalog_name_of(const json_t *names, const char *digest)
{
    const char *name;
    json_t *meant;
    json_object_foreach((json_t *)names, name, meant)
    {
        if (strcmp(json_string_value(meant), digest) == 0) {
            return name;
        }
    }
    return NULL;
}

static int add_templates(const struct store *store, const char *digest, const json_t *names,
                         json_t *users, struct error *err)
{
    json_t *list, *other;
    size_t i;
    int rc = catalog_digests(store, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(list, i, other)
    {
        char path[PATH_MAX];
        const char *text = json_string_value(other);
        store_template_path(store, text, "manifest.json", path);
        if (strcmp(text, digest) != 0 && file_holds(path, digest)) {
            const char *name = catalog_name_of(names, text);
            json_array_append_new(users, json_sprintf("template %s", name != NULL ? name : text));
        }
    }
    json_decref(list);
    return 0;
}

int catalog_users(const struct store *store, const char *digest, const json_t *names,
                  json_t **out_users, struct error *err)
{
    json_t *users = json_array();
    int rc = add_containers(store, digest, users, err);
    rc = rc < 0 ? rc : add_templates(store, digest, names, users, err);
    if (rc < 0) {
        json_decref(users);
        return rc;
    }
    *out_users = users;
    return 0;
}

int catalog_hold(const struct store *store, const char *digest, int *out_fd, struct error *err)
{
    char path[PATH_MAX];
    struct stat held, named;
    store_template_path(store, digest, NULL, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = fd;
    if (fd >= 0) {
        do {
            rc = flock(fd, LOCK_SH);
        } while (rc < 0 && errno == EINTR);
    }
    if (rc < 0 || fstat(fd, &held) < 0 || stat(path, &named) < 0) {
        return error_set_errno(err, errno, "opening the template %s", digest);
    }
    if (held.st_ino != named.st_ino || held.st_dev != named.st_dev) {
        return error_set(err, ENOENT, "template %s: was deleted just now", digest);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}
