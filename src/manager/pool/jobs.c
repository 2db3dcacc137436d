/* What workers do with pools and volumes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/pool/pool.h"
#include "manager/store/store.h"
#include "manager/text.h"

/* A document of the request: "document", "pool", "to". */
static int document_of(const struct job *job, const char *key, const json_t **out_document,
                       struct error *err)
{
    *out_document = json_object_get(job->request, key);
    return text_or_empty(*out_document, "name")[0] != '\0'
               ? 0
               : error_set(err, EINVAL, "request without a document '%s'", key);
}

struct work {
    const json_t *document, *pool;
    const struct pool_driver *driver;
    char disk[160];  /* "volumes/NAME" */
    char name[160];  /* "POOL/NAME" */
    const char *own; /* the volume's own part of it */
    bool is_tree;
};

static int open_pool(const struct job *job, const char *key, struct work *out, struct error *err)
{
    *out = (struct work){0};
    int rc = document_of(job, key, &out->pool, err);
    if (rc == 0) {
        rc = pool_driver_find(out->pool, &out->driver, err);
    }
    return rc < 0 ? rc : out->driver->check(out->pool, err);
}

/* A volume's "name" is POOL/NAME. */
static int open_volume(const struct job *job, struct work *out, struct error *err)
{
    int rc = open_pool(job, "pool", out, err);
    if (rc == 0) {
        rc = document_of(job, "document", &out->document, err);
    }
    if (rc < 0) {
        return rc;
    }
    const char *name = text_or_empty(out->document, "name"), *slash = strchr(name, '/');
    out->own = slash != NULL ? slash + 1 : name;
    snprintf(out->name, sizeof(out->name), "%s", name);
    snprintf(out->disk, sizeof(out->disk), "volumes/%.140s", out->own);
    out->is_tree = strcmp(text_or_empty(out->document, "type"), "tree") == 0;
    return 0;
}

/* Two that were asked for at once: hulld knew of neither then. */
static int must_be_new(const struct job *job, const char *name, struct error *err)
{
    char path[PATH_MAX];
    struct documents *documents = NULL;
    place_state_path(&job->place, "hull.db", NULL, NULL, path);
    int rc = documents_open_read(path, &documents, err);
    if (rc == 0 && documents_has(documents, "pool", name)) {
        rc = error_set(err, EEXIST, "pool %s: there is one of that name", name);
    }
    documents_close(documents);
    return rc;
}

static int create_pool(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    int rc = open_pool(job, "document", &work, err);
    if (rc == 0 && !job->is_recovery) {
        rc = must_be_new(job, text_or_empty(work.pool, "name"), err);
    }
    if (rc == 0) {
        rc = work.driver->create(work.pool, err);
    }
    return rc < 0 ? rc
                  : job_put(job, "pool", text_or_empty(work.pool, "name"),
                            json_deep_copy(work.pool), err);
}

static int delete_pool(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    int rc = open_pool(job, "document", &work, err);
    if (rc == 0) {
        rc = work.driver->remove(work.pool, err);
        /* Gone with its file system, or by an earlier try. */
        rc = rc == -ENOENT ? 0 : rc;
    }
    return rc < 0 ? rc : job_drop(job, "pool", text_or_empty(work.pool, "name"), err);
}

static int check_pool(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    json_t *found;
    int rc = open_pool(job, "document", &work, err);
    if (rc == 0) {
        rc = work.driver->sweep(work.pool, &found, err);
    }
    if (rc == 0) {
        *out_result = json_pack("{s:o}", "removed", found);
    }
    return rc;
}

static int put_volume(struct job *job, const struct work *work, json_t *document, struct error *err)
{
    return document != NULL ? job_put(job, "volume", work->name, document, err)
                            : error_set_errno(err, ENOMEM, "volume %s", work->name);
}

static int create_volume(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    struct pool_disk disk = {0};
    char path[PATH_MAX];
    int rc = open_volume(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = (uint64_t)json_integer_value(json_object_get(work.document, "size_bytes"));
    /* Of an earlier worker's, that died. */
    bool is_there = false;
    if (job->is_recovery) {
        is_there = work.is_tree ? work.driver->tree_find(work.pool, work.disk, path, NULL) == 0
                                : work.driver->disk_find(work.pool, work.disk, &disk, NULL) == 0;
    }
    if (!is_there) {
        rc = work.is_tree ? work.driver->tree_create(work.pool, work.disk, size, path, err)
                          : work.driver->disk_create(work.pool, work.disk, size, NULL, &disk, err);
    }
    if (rc < 0) {
        return rc;
    }
    json_t *document = json_deep_copy(work.document);
    if (!work.is_tree) {
        json_object_set_new(document, "format", json_string(disk.format));
    }
    return put_volume(job, &work, document, err);
}

static int remove_volume(const struct work *work, const json_t *pool,
                         const struct pool_driver *driver, struct error *err)
{
    return work->is_tree ? driver->tree_remove(pool, work->disk, err)
                         : driver->disk_remove(pool, work->disk, err);
}

static int delete_volume(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    int rc = open_volume(job, &work, err);
    if (rc == 0) {
        rc = remove_volume(&work, work.pool, work.driver, err);
    }
    return rc < 0 ? rc : job_drop(job, "volume", work.name, err);
}

static int resize_volume(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    int rc = open_volume(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    json_t *size = json_object_get(job->request, "size_bytes");
    if (work.is_tree) {
        return error_set(err, EOPNOTSUPP, "volume %s: is a folder, which has no size", work.name);
    }
    rc = work.driver->disk_resize(work.pool, work.disk, (uint64_t)json_integer_value(size), err);
    if (rc < 0) {
        return rc;
    }
    json_t *document = json_deep_copy(work.document);
    json_object_set(document, "size_bytes", size);
    return put_volume(job, &work, document, err);
}

static int show_copy(void *ctx, uint64_t done, uint64_t total)
{
    struct job *job = ctx;
    job_progress(job, "copying", done, total);
    return job_is_cancelled(job) ? -ECANCELED : 0;
}

static int copy_disk(struct job *job, const struct work *from, const struct work *to,
                     struct error *err)
{
    struct pool_disk disk;
    json_auto_t *layers = NULL;
    int rc = from->driver->disk_find(from->pool, from->disk, &disk, err);
    if (rc == 0) {
        rc = from->driver->disk_layers(from->pool, from->disk, &layers, err);
    }
    if (rc == 0 &&
        json_array_insert_new(
            layers, 0, json_pack("{s:s,s:s}", "path", disk.path, "format", disk.format)) < 0) {
        rc = error_set_errno(err, ENOMEM, "volume %s", from->name);
    }
    return rc < 0 ? rc : to->driver->disk_import(to->pool, from->disk, layers, show_copy, job, err);
}

static int copy_tree(struct job *job, const struct work *from, const struct work *to,
                     struct error *err)
{
    char source[PATH_MAX];
    int rc = from->driver->tree_find(from->pool, from->disk, source, err);
    return rc < 0 ? rc : to->driver->tree_import(to->pool, from->disk, source, show_copy, job, err);
}

/* First the copy, then the database, then the original goes: whoever dies in between has another one go on. */
static int move_volume(struct job *job, json_t **out_result, struct error *err)
{
    struct work from, to;
    char name[192];
    int rc = open_volume(job, &from, err);
    if (rc == 0) {
        rc = open_pool(job, "to", &to, err);
    }
    if (rc < 0) {
        return rc;
    }
    if (job_find_step(job, "copied") == NULL) {
        if (job_find_step(job, "copying") != NULL) {
            rc = remove_volume(&from, to.pool, to.driver, err); /* half of it, perhaps */
        } else {
            rc = job_step(job, "copying", NULL, err);
        }
        if (rc == 0) {
            rc = from.is_tree ? copy_tree(job, &from, &to, err) : copy_disk(job, &from, &to, err);
        }
        if (rc == 0) {
            rc = job_step(job, "copied", NULL, err);
        }
    }
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "volume %s", from.name);
    }
    const char *pool = text_or_empty(to.pool, "name");
    snprintf(name, sizeof(name), "%.64s/%.100s", pool, from.own);
    json_t *document = json_deep_copy(from.document);
    json_object_set_new(document, "name", json_string(name));
    json_object_set_new(document, "pool", json_string(pool));
    if (!from.is_tree) {
        json_object_set_new(document, "format", json_string("raw"));
    }
    rc = job_put(job, "volume", name, document, err);
    if (rc == 0) {
        rc = job_drop(job, "volume", from.name, err);
    }
    return rc < 0 ? rc : remove_volume(&from, from.pool, from.driver, err);
}

const struct job_kind pool_jobs[] = {
    {"pool-create", create_pool, NULL},     {"pool-delete", delete_pool, NULL},
    {"pool-check", check_pool, NULL},       {"volume-create", create_volume, NULL},
    {"volume-delete", delete_volume, NULL}, {"volume-resize", resize_volume, NULL},
    {"volume-move", move_volume, NULL},     {0},
};
