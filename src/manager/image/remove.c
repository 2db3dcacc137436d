/* Images that go, and checks of those that stay. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/image/files.h"
#include "manager/image/names.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "system/layers/layers.h"
#include "system/template/catalog.h"

#define UNFINISHED ".build-"

static int say_users(const char *digest, const json_t *users, struct error *err)
{
    char list[IMAGE_USERS_SIZE];
    image_list_users(users, list);
    return error_set(err, EBUSY, "image %.19s: is used by %s", digest, list);
}

static int check_unused(struct job *job, const char *digest, struct error *err)
{
    json_t *users;
    int rc = files_users(&job->place, digest, &users, err);
    if (rc < 0) {
        return rc;
    }
    rc = json_array_size(users) > 0 ? say_users(digest, users, err) : 0;
    json_decref(users);
    return rc;
}

/* The template's name goes, and the template itself if no container of `hull ct` stands on it. */
static int drop_template(struct job *job, const char *digest, struct error *err)
{
    struct store store;
    char name[65];
    image_template_name(digest, name);
    int rc = containers_store(&job->place, &store, err);
    rc = rc < 0 ? rc : template_delete(&store, name, true, err);
    return rc == -ENOENT ? 0 : rc;
}

/* The documents go first: what is half removed has no name. */
static int remove_image(struct job *job, const char *digest, const json_t *aliases,
                        struct error *err)
{
    const json_t *alias;
    char lock[96], path[PATH_MAX];
    size_t i;
    int rc = image_is_digest(digest) ? check_unused(job, digest, err)
                                     : error_set(err, EINVAL, "digest '%.64s': is none", digest);
    json_array_foreach(aliases, i, alias)
    {
        rc = rc < 0 ? rc : job_drop(job, "alias", json_string_value(alias), err);
    }
    rc = rc < 0 ? rc : job_drop(job, "image", digest, err);
    rc = rc < 0 ? rc : files_remove(&job->place, digest, err);
    rc = rc < 0 ? rc : drop_template(job, digest, err);
    if (rc == 0) {
        (void)snprintf(lock, sizeof(lock), ".lock-%.71s", digest);
        place_state_path(&job->place, "images", lock, NULL, path);
        (void)unlink(path); /* mostly it is not there */
    }
    return rc;
}

int work_remove_image(struct job *job, const char *digest, struct error *err)
{
    return remove_image(job, digest, NULL, err);
}

int image_delete(struct job *job, json_t **out_result, struct error *err)
{
    *out_result = NULL;
    return remove_image(job, text_or_empty(job->request, "digest"),
                        json_object_get(job->request, "aliases"), err);
}

static bool has_text(const json_t *list, const char *text)
{
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && strcmp(json_string_value(item), text) == 0) {
            return true;
        }
    }
    return false;
}

/* Folders that are being made have the name of an operation, whose worker holds its journal. */
static bool is_worked_on(const struct job *job, const char *id)
{
    char path[PATH_MAX], name[80];
    (void)snprintf(name, sizeof(name), "%.40s.jsonl", id);
    place_state_path(&job->place, "operations", name, NULL, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    return strcmp(id, job->id) == 0 || (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0);
}

/* Folders that no document names: what is left of workers that died. */
static int sweep(struct job *job, const json_t *known, unsigned *count, struct error *err)
{
    char path[PATH_MAX];
    place_state_path(&job->place, "images", NULL, NULL, path);
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "reading the folder %s", path);
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        bool is_unfinished = strncmp(entry->d_name, UNFINISHED, strlen(UNFINISHED)) == 0 &&
                             !is_worked_on(job, entry->d_name + strlen(UNFINISHED));
        bool is_unknown = image_is_digest(entry->d_name) && !has_text(known, entry->d_name);
        if (is_unfinished || is_unknown) {
            place_state_path(&job->place, "images", entry->d_name, NULL, path);
            rc = layers_remove(path, err);
            *count += rc == 0;
        }
    }
    (void)closedir(dir); /* nothing was written */
    return rc;
}

/* A template of an image that no document has: its worker died before that was told, and nobody took up its work. Builds and imports
 * do not run beside a prune. */
static bool is_lost(const char *name, const json_t *digest, const json_t *known)
{
    char own[65];
    if (strncmp(name, "building-", strlen("building-")) == 0) {
        return true;
    }
    image_template_name(json_string_value(digest), own);
    return strcmp(name, own) == 0 && !has_text(known, json_string_value(digest));
}

static int sweep_templates(struct job *job, const json_t *known, unsigned *count, struct error *err)
{
    struct store store;
    json_t *names, *digest;
    const char *name;
    int rc = containers_store(&job->place, &store, err);
    rc = rc < 0 ? rc : catalog_names(&store, &names, err);
    if (rc < 0) {
        return rc;
    }
    json_object_foreach(names, name, digest)
    {
        if (rc == 0 && is_lost(name, digest, known)) {
            rc = template_delete(&store, name, true, err);
            *count += rc == 0;
        }
    }
    json_decref(names);
    return rc;
}

int image_prune(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *digest;
    json_t *removed = json_array();
    unsigned count = 0;
    size_t i;
    int rc = 0;
    json_array_foreach(json_object_get(job->request, "images"), i, digest)
    {
        const char *text = json_string_value(digest);
        job_progress(job, "removing images", i,
                     json_array_size(json_object_get(job->request, "images")));
        if (job_is_cancelled(job)) {
            rc = error_set(err, ECANCELED, "removing images: cancelled");
        }
        int one = rc < 0 || text == NULL ? -ECANCELED : remove_image(job, text, NULL, err);
        if (one == 0) {
            json_array_append_new(removed, json_string(text));
        } else if (one != -EBUSY && rc == 0) { /* somebody uses it since */
            rc = one;
        }
    }
    const json_t *known = json_object_get(job->request, "known");
    rc = rc < 0 ? rc : sweep(job, known, &count, err);
    rc = rc < 0 ? rc : sweep_templates(job, known, &count, err);
    if (rc < 0) {
        json_decref(removed);
        return rc;
    }
    *out_result = json_pack("{s:o, s:i}", "removed", removed, "unfinished", count);
    return 0;
}

int image_check(struct job *job, json_t **out_result, struct error *err)
{
    const char *digest = text_or_empty(job->request, "digest");
    char name[65];
    struct store store;
    json_t *checked = json_array();
    int rc = image_is_digest(digest) ? containers_store(&job->place, &store, err)
                                     : error_set(err, EINVAL, "digest '%.64s': is none", digest);
    if (rc == 0) {
        image_template_name(digest, name);
        job_progress(job, "reading the container's form", 0, 0);
        rc = template_check(&store, name, err);
        if (rc == 0) {
            json_array_append_new(checked, json_string("container"));
        }
        rc = rc == -ENOENT ? 0 : rc;
    }
    if (rc == 0) {
        rc = files_check(job, digest, err);
        if (rc == 0) {
            json_array_append_new(checked, json_string("vm"));
        }
        rc = rc == -ENOENT && json_array_size(checked) > 0 ? 0 : rc;
    }
    if (rc < 0) {
        json_decref(checked);
        return rc;
    }
    *out_result = json_pack("{s:o}", "checked", checked);
    return 0;
}
