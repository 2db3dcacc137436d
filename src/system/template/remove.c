/* Taking templates away: names at once, files when nobody needs them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "base/core/compiler.h"
#include "system/template/catalog.h"

#define MAX_ROUNDS LAYERS_MAX /* each takes away what stood on the last one's */

/* Removes the folder unless somebody holds it, which is no error. */
static int remove_unheld(const char *path, bool *out_is_gone, struct error *err)
{
    *out_is_gone = false;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT || errno == ENOTDIR
                   ? 0
                   : error_set_errno(err, errno, "opening %s", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK ? 0 : error_set_errno(err, errno, "locking %s", path);
    }
    int rc = layers_remove(path, err);
    *out_is_gone = rc == 0;
    return rc;
}

/* Being built, or being removed; whoever does it holds the folder. */
static bool is_unfinished(const char *name)
{
    static const char *const prefixes[] = {MANIFEST_UNFINISHED, ".hull-removed-"};
    for (size_t i = 0; i < ARRAY_COUNT(prefixes); i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

static int sweep_unfinished(const struct store *store, unsigned *count, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/templates", store->state);
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return error_set_errno(err, errno, "reading the folder %s", path);
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        bool is_gone = false;
        if (is_unfinished(entry->d_name)) {
            store_template_path(store, entry->d_name, NULL, path);
            rc = remove_unheld(path, &is_gone, err);
            *count += is_gone;
        }
    }
    (void)closedir(dir); /* nothing was written */
    return rc;
}

/* One round: those that neither a name, a container nor a template needs. */
static int sweep_round(const struct store *store, unsigned *count, struct error *err)
{
    json_t *names, *digests, *digest;
    size_t i;
    int rc = catalog_names(store, &names, err);
    if (rc < 0) {
        return rc;
    }
    rc = catalog_digests(store, &digests, err);
    if (rc < 0) {
        json_decref(names);
        return rc;
    }
    json_array_foreach(digests, i, digest)
    {
        const char *text = json_string_value(digest);
        json_t *users;
        if (catalog_name_of(names, text) != NULL) {
            continue;
        }
        rc = catalog_users(store, text, names, &users, err);
        if (rc == 0 && json_array_size(users) == 0) {
            char path[PATH_MAX];
            bool is_gone = false;
            store_template_path(store, text, NULL, path);
            rc = remove_unheld(path, &is_gone, err);
            *count += is_gone;
        }
        if (rc < 0) {
            break;
        }
        json_decref(users);
    }
    json_decref(digests);
    json_decref(names);
    return rc;
}

static int sweep_locked(const struct store *store, unsigned *count, struct error *err)
{
    unsigned before;
    int rc = sweep_unfinished(store, count, err);
    for (unsigned i = 0; rc == 0 && i < MAX_ROUNDS; i++) {
        before = *count;
        rc = sweep_round(store, count, err);
        if (*count == before) {
            break;
        }
    }
    return rc;
}

int template_sweep(const struct store *store, unsigned *out_count, struct error *err)
{
    unsigned count = 0;
    int lock;
    int rc = manifest_lock(store, &lock, err);
    if (rc < 0) {
        return rc;
    }
    rc = sweep_locked(store, &count, err);
    close(lock);
    if (rc == 0 && out_count != NULL) {
        *out_count = count;
    }
    return rc;
}

static int say_users(const char *name, const json_t *users, struct error *err)
{
    char list[120] = "";
    size_t used = 0, i;
    json_t *user;
    json_array_foreach(users, i, user)
    {
        int length = snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? ", " : "",
                              json_string_value(user));
        if (length < 0 || (size_t)length >= sizeof(list) - used) {
            break;
        }
        used += (size_t)length;
    }
    return error_set(err, EBUSY, "template %.71s: is used by %s: --force takes the name away alone",
                     name, list);
}

/* The names that go: the one that was said, or all of a digest that was. */
static unsigned remaining_names(const json_t *names, const char *digest, const char *but)
{
    unsigned count = 0;
    const char *name;
    json_t *meant;
    json_object_foreach((json_t *)names, name, meant)
    {
        count +=
            strcmp(json_string_value(meant), digest) == 0 && but != NULL && strcmp(name, but) != 0;
    }
    return count;
}

static int remove_names(const struct store *store, const json_t *names, const char *digest,
                        const char *only, struct error *err)
{
    const char *name;
    json_t *meant;
    json_object_foreach((json_t *)names, name, meant)
    {
        char path[PATH_MAX];
        if (strcmp(json_string_value(meant), digest) != 0 ||
            (only != NULL && strcmp(name, only) != 0)) {
            continue;
        }
        store_template_path(store, "names", name, path);
        if (unlink(path) < 0 && errno != ENOENT) {
            return error_set_errno(err, errno, "removing %s", path);
        }
    }
    return 0;
}

static int delete_locked(const struct store *store, const char *word, bool is_forced,
                         const json_t *names, struct error *err)
{
    char digest[TEMPLATE_DIGEST_SIZE];
    bool is_name = false;
    json_t *users;
    unsigned count = 0;
    int rc = template_find(store, word, digest, &is_name, err);
    rc = rc < 0 ? rc : catalog_users(store, digest, names, &users, err);
    if (rc < 0) {
        return rc;
    }
    const char *only = is_name ? word : NULL;
    if (json_array_size(users) > 0 && !is_forced && remaining_names(names, digest, only) == 0) {
        rc = say_users(word, users, err);
    } else {
        rc = remove_names(store, names, digest, only, err);
    }
    json_decref(users);
    return rc < 0 ? rc : sweep_locked(store, &count, err);
}

int template_delete(const struct store *store, const char *name, bool is_forced, struct error *err)
{
    json_t *names;
    int lock;
    int rc = manifest_lock(store, &lock, err);
    if (rc < 0) {
        return rc;
    }
    rc = catalog_names(store, &names, err);
    if (rc == 0) {
        rc = delete_locked(store, name, is_forced, names, err);
        json_decref(names);
    }
    close(lock);
    return rc;
}
