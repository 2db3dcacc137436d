/* instance-snapshot and instance-clone. */
#include <errno.h>
#include <string.h>

#include "manager/instance/work.h"
#include "manager/text.h"
#include "system/store.h"

#define MAX_SNAPSHOTS 1000

static json_t *find(const json_t *document, const char *snapshot, size_t *out_index)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(document, "snapshots"), i, item)
    {
        if (strcmp(text_of(item, "name"), snapshot) == 0) {
            *out_index = i;
            return item;
        }
    }
    return NULL;
}

static void set_or_delete(json_t *object, const char *key, json_t *value)
{
    if (value != NULL) {
        (void)json_object_set(object, key, value);
    } else {
        (void)json_object_del(object, key);
    }
}

static void add(struct work *work, const char *snapshot)
{
    char now[32];
    const json_t *request = work->job->request;
    instance_format_time(now);
    json_t *item = json_pack("{s:s, s:s, s:b}", "name", snapshot, "created_at", now, "memory",
                             json_is_true(json_object_get(request, "memory")));
    set_or_delete(item, "parent", json_object_get(work->document, "snapshot"));
    if (json_is_true(json_object_get(request, "automatic"))) {
        (void)json_object_set_new(item, "automatic", json_true());
    }
    json_t *list = json_object_get(work->document, "snapshots");
    if (list == NULL) {
        list = json_array();
        (void)json_object_set_new(work->document, "snapshots", list);
    }
    (void)json_array_append_new(list, item);
    (void)json_object_set_new(work->document, "snapshot", json_string(snapshot));
}

/* Its children become its parent's. */
static void take_away(json_t *document, const char *snapshot)
{
    size_t index, i;
    json_t *item, *gone = find(document, snapshot, &index);
    if (gone == NULL) {
        return;
    }
    json_t *list = json_object_get(document, "snapshots");
    json_t *parent = json_incref(json_object_get(gone, "parent"));
    (void)json_array_remove(list, index);
    json_array_foreach(list, i, item)
    {
        const char *own = text_of(item, "parent");
        if (own != NULL && strcmp(own, snapshot) == 0) {
            set_or_delete(item, "parent", parent);
        }
    }
    const char *current = text_of(document, "snapshot");
    if (current != NULL && strcmp(current, snapshot) == 0) {
        set_or_delete(document, "snapshot", parent);
    }
    json_decref(parent);
}

static int create(struct work *work, const char *snapshot, struct error *err)
{
    size_t index;
    struct job *job = work->job;
    if (find(work->document, snapshot, &index) != NULL) {
        return job->is_recovery ? 0
                                : error_set(err, EEXIST, "instance %s has a snapshot %s already",
                                            work->name, snapshot);
    }
    if (json_array_size(json_object_get(work->document, "snapshots")) >= MAX_SNAPSHOTS) {
        return error_set(err, ENOSPC, "instance %s has %d snapshots, the most that there may be",
                         work->name, MAX_SNAPSHOTS);
    }
    if (job_find_step(job, "snapshot") != NULL) { /* half of it, by a dead worker */
        struct error ignored;
        error_ignore(work->driver->forget(job, work->expanded, snapshot, &ignored));
    }
    bool has_memory = json_is_true(json_object_get(job->request, "memory"));
    int rc = job_step(job, "snapshot", NULL, err);
    rc = rc < 0 ? rc : work->driver->snapshot(job, work->expanded, snapshot, has_memory, err);
    if (rc < 0) {
        return rc;
    }
    add(work, snapshot);
    rc = work_publish(work, err);
    if (rc < 0) {
        struct error ignored;
        error_ignore(work->driver->forget(job, work->expanded, snapshot, &ignored));
    }
    return rc;
}

static int restore(struct work *work, const char *snapshot, struct error *err)
{
    int rc = job_step(work->job, "restore", NULL, err);
    rc = rc < 0 ? rc : work->driver->restore(work->job, work->expanded, snapshot, err);
    if (rc == 0) {
        (void)json_object_set_new(work->document, "snapshot", json_string(snapshot));
        rc = work_publish(work, err);
    }
    return rc;
}

static int delete (struct work *work, const char *snapshot, struct error *err)
{
    int rc = job_step(work->job, "forget", NULL, err);
    rc = rc < 0 ? rc : work->driver->forget(work->job, work->expanded, snapshot, err);
    rc = rc == -ENOENT ? 0 : rc; /* of the document it goes all the same */
    take_away(work->document, snapshot);
    return rc < 0 ? rc : work_publish(work, err);
}

int work_snapshot(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    size_t index;
    const char *snapshot = text_of(job->request, "snapshot"), *what = text_of(job->request, "do");
    if (snapshot == NULL || what == NULL) {
        return error_set(err, EINVAL, "snapshot, do: missing");
    }
    int rc = store_check_name("snapshot", snapshot, err);
    rc = rc < 0 ? rc : work_open(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    bool is_there = find(work.document, snapshot, &index) != NULL;
    bool creates = strcmp(what, "create") == 0, deletes = strcmp(what, "delete") == 0;
    if (creates) {
        rc = create(&work, snapshot, err);
    } else if (deletes && !is_there && job->is_recovery) {
        rc = work_publish(&work, err); /* it may be the database that has not heard of it */
    } else if (!is_there) {
        rc = error_set(err, ENOENT, "instance %s has no snapshot %s", work.name, snapshot);
    } else if (deletes) {
        rc = delete (&work, snapshot, err);
    } else if (strcmp(what, "restore") == 0) {
        rc = restore(&work, snapshot, err);
    } else {
        rc = error_set(err, EINVAL, "do '%.40s': create, restore or delete", what);
    }
    if (rc == 0) {
        work_event(&work, creates ? "snapshot" : deletes ? "snapshot-deleted" : "restored");
        *out_result = work_result(&work);
        (void)json_object_set_new(*out_result, "snapshot", json_string(snapshot));
    }
    work_close(&work);
    return rc;
}

/* What is one instance's own. */
static int renew(json_t *document, const char *name, struct error *err)
{
    static const char *const own[] = {"snapshots", "snapshot"};
    static const char *const own_of_card[] = {"mac", "ipv4", "ipv6"};
    char uuid[INSTANCE_UUID_SIZE], now[32];
    int rc = instance_make_uuid(uuid, err);
    if (rc < 0) {
        return rc;
    }
    instance_format_time(now);
    for (size_t i = 0; i < ARRAY_COUNT(own); i++) {
        (void)json_object_del(document, own[i]);
    }
    (void)json_object_set_new(document, "name", json_string(name));
    (void)json_object_set_new(document, "uuid", json_string(uuid));
    (void)json_object_set_new(document, "created_at", json_string(now));
    (void)json_object_set_new(document, "incomplete", json_true());
    (void)json_object_del(json_object_get(document, "config"), "hostname");
    const char *device_name;
    json_t *device, *devices = json_object_get(document, "devices");
    void *next;
    json_object_foreach_safe(devices, next, device_name, device)
    {
        for (size_t i = 0; i < ARRAY_COUNT(own_of_card); i++) {
            (void)json_object_del(device, own_of_card[i]);
        }
        /* Two cannot listen at the same place. */
        if (json_object_size(device) == 0 || instance_is_device(device, "forward")) {
            (void)json_object_del(devices, device_name);
        }
    }
    return 0;
}

static int clone(struct work *work, const json_t *from, struct error *err)
{
    const json_t *request = work->job->request;
    int rc = work_publish(work, err);
    job_progress(work->job, "copying its files", 0, 0);
    rc = rc < 0 ? rc
                : work->driver->clone(work->job, work->expanded, from, text_of(request, "snapshot"),
                                      json_is_true(json_object_get(request, "live")), err);
    return rc < 0 ? rc : work_complete(work, err);
}

int work_clone(struct job *job, json_t **out_result, struct error *err)
{
    struct work from;
    size_t index;
    const char *name = text_of(job->request, "new_name");
    const char *snapshot = text_of(job->request, "snapshot");
    json_t *other = NULL;
    int rc = name == NULL ? error_set(err, EINVAL, "new_name: missing")
                          : place_check_instance_name(name, err);
    if (rc < 0) {
        return rc;
    }
    if (instance_load(&job->place, name, &other, err) != -ENOENT) {
        json_decref(other);
        return error_set(err, EEXIST, "instance %s exists already", name);
    }
    rc = work_open(job, &from, err);
    if (rc < 0) {
        return rc;
    }
    struct work work = {.job = job, .name = name, .document = json_deep_copy(from.document)};
    if (snapshot != NULL && find(from.document, snapshot, &index) == NULL) {
        rc = error_set(err, ENOENT, "instance %s has no snapshot %s", from.name, snapshot);
    }
    rc = rc < 0 ? rc : renew(work.document, name, err);
    rc = rc < 0 ? rc : work_expand(&work, err);
    rc = rc < 0 ? rc : work_add_macs(&work, err);
    rc = rc < 0 ? rc : job_step(job, "making", json_pack("{s:s}", "name", name), err);
    if (rc == 0) {
        rc = clone(&work, from.expanded, err);
        if (rc < 0) {
            work_undo(&work);
        } else {
            work_event(&work, "created");
            *out_result = work_result(&work);
        }
    }
    work_close(&work);
    work_close(&from);
    return rc;
}

int work_clone_recover(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *step = job_find_step(job, "making");
    return step == NULL ? work_clone(job, out_result, err)
                        : work_recover_made(job, text_of(step, "name"), out_result, err);
}
