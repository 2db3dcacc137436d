/* What is done to instances, in workers. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/instance/instance.h"
#include "manager/instance/keys.h"
#include "manager/instance/work.h"
#include "manager/text.h"
#include "system/layers/layers.h"
#include "system/store.h"

#define START_WAIT_MS 60000

int work_expand(struct work *work, struct error *err)
{
    json_t *expanded;
    int rc = instance_expand(work->document, json_object_get(work->job->request, "profiles"),
                             &expanded, err);
    if (rc == 0) {
        json_decref(work->expanded);
        work->expanded = expanded;
        work->driver = instance_driver(expanded);
    }
    return rc;
}

/* As the folder has it, which is what the job before has left; else what hulld knew. */
static int load_document(struct work *work, struct error *err)
{
    json_t *known = json_object_get(work->job->request, "document");
    int rc = instance_load(&work->job->place, work->name, &work->document, err);
    if (rc == -ENOENT && known != NULL) {
        work->document = json_deep_copy(known);
        rc = instance_check(work->document, err);
    }
    return rc;
}

int work_open(struct job *job, struct work *out, struct error *err)
{
    *out = (struct work){.job = job, .name = text_of(job->request, "name")};
    if (out->name == NULL) {
        return error_set(err, EINVAL, "name: missing");
    }
    int rc = load_document(out, err);
    rc = rc < 0 ? rc : work_expand(out, err);
    if (rc == 0 && json_is_true(json_object_get(out->document, "incomplete"))) {
        rc = error_set(err, EBUSY,
                       "instance %s: its making was not completed: it can only be deleted",
                       out->name);
    }
    if (rc < 0) {
        work_close(out);
    }
    return rc;
}

void work_close(struct work *work)
{
    json_decref(work->document);
    json_decref(work->expanded);
    work->document = work->expanded = NULL;
}

int work_publish(struct work *work, struct error *err)
{
    int rc = instance_save(&work->job->place, work->document, err);
    return rc < 0 ? rc
                  : job_put(work->job, "instance", work->name, json_deep_copy(work->document), err);
}

enum instance_status work_status(const struct work *work)
{
    char why[ERROR_TEXT_SIZE];
    return work->driver->status(&work->job->place, work->name, why, sizeof(why));
}

void work_event(const struct work *work, const char *what)
{
    char why[ERROR_TEXT_SIZE] = "";
    enum instance_status status =
        work->driver->status(&work->job->place, work->name, why, sizeof(why));
    job_event(work->job, json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "instance", "what", what,
                                   "name", work->name, "kind", work->driver->kind, "status",
                                   instance_status_name(status)));
}

json_t *work_result(const struct work *work)
{
    enum instance_status status = work_status(work);
    json_t *info, *result = json_pack("{s:s, s:s}", "name", work->name, "status",
                                      instance_status_name(status));
    struct error ignored;
    /* What a user's host could not give it. */
    if (!work->job->place.is_root && work->driver == &container_driver &&
        status == INSTANCE_RUNNING &&
        work->driver->info(&work->job->place, work->expanded, &info, &ignored) == 0) {
        json_t *warnings = json_object_get(info, "warnings");
        if (warnings != NULL) {
            (void)json_object_set(result, "warnings", warnings);
        }
        json_decref(info);
    }
    return result;
}

/* The folder and what hulld knows of it. */
static int forget(struct work *work, struct error *err)
{
    char folder[PATH_MAX];
    place_state_path(&work->job->place, "instances", work->name, NULL, folder);
    int rc = layers_remove(folder, err);
    return rc < 0 ? rc : job_drop(work->job, "instance", work->name, err);
}

/* What has been made of an instance goes again. Where it cannot, it stays known as incomplete. */
void work_undo(struct work *work)
{
    struct error ignored;
    const json_t *document = work->expanded != NULL ? work->expanded : work->document;
    if (work_status(work) != INSTANCE_STOPPED) {
        error_ignore(work->driver->stop(work->job, document, true, 0, &ignored));
    }
    if (work->driver->remove(work->job, document, &ignored) == 0) {
        error_ignore(forget(work, &ignored));
    }
}

/* Cards get their addresses before anybody sees them. */
int work_add_macs(struct work *work, struct error *err)
{
    json_t *before = json_deep_copy(work->document);
    int rc = instance_add_macs(work->document, work->expanded, err);
    bool is_changed = !json_equal(before, work->document);
    json_decref(before);
    return rc < 0 || !is_changed ? rc : work_expand(work, err);
}

static int start(struct work *work, struct error *err)
{
    json_t *before = json_deep_copy(work->document);
    int rc = work_add_macs(work, err);
    if (rc == 0 && !json_equal(before, work->document)) {
        rc = work_publish(work, err);
    }
    json_decref(before);
    job_progress(work->job, "starting", 0, 0);
    return rc < 0 ? rc : work->driver->start(work->job, work->expanded, err);
}

int work_complete(struct work *work, struct error *err)
{
    (void)json_object_del(work->document, "incomplete");
    int rc = job_step(work->job, "complete", NULL, err);
    rc = rc < 0 ? rc : work_publish(work, err);
    return rc < 0 ? rc : work_expand(work, err);
}

static int make(struct work *work, struct error *err)
{
    const json_t *request = work->job->request;
    int rc = work_publish(work, err);
    job_progress(work->job, "making its files", 0, 0);
    rc = rc < 0 ? rc
                : work->driver->create(work->job, work->expanded, json_object_get(request, "image"),
                                       err);
    if (rc == 0 && job_is_cancelled(work->job)) {
        rc = error_set(err, ECANCELED, "making instance %s was cancelled", work->name);
    }
    rc = rc < 0 ? rc : work_complete(work, err);
    return rc == 0 && json_is_true(json_object_get(request, "start")) ? start(work, err) : rc;
}

static int create_run(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *document = json_object_get(job->request, "document");
    struct work work = {.job = job, .name = text_of(document, "name")};
    json_t *other = NULL;
    if (work.name == NULL) {
        return error_set(err, EINVAL, "document: no name in it");
    }
    if (instance_load(&job->place, work.name, &other, err) != -ENOENT) {
        json_decref(other);
        return error_set(err, EEXIST, "instance %s exists already", work.name);
    }
    work.document = json_deep_copy(document);
    (void)json_object_set_new(work.document, "incomplete", json_true());
    int rc = instance_check(work.document, err);
    rc = rc < 0 ? rc : work_expand(&work, err);
    rc = rc < 0 ? rc : work_add_macs(&work, err);
    rc = rc < 0 ? rc : job_step(job, "making", json_pack("{s:s}", "name", work.name), err);
    if (rc == 0) {
        rc = make(&work, err);
        if (rc < 0) {
            work_undo(&work);
        } else {
            work_event(&work, "created");
            *out_result = work_result(&work);
        }
    }
    work_close(&work);
    return rc;
}

/* A start that somebody else may have begun: the driver's own processes go on without a worker. */
static int ensure_started(struct work *work, struct error *err)
{
    int64_t end = clock_monotonic_ms() + START_WAIT_MS;
    while (work_status(work) == INSTANCE_STARTING && clock_monotonic_ms() < end) {
        const struct timespec pause = {.tv_nsec = 50000000};
        (void)nanosleep(&pause, NULL);
    }
    enum instance_status status = work_status(work);
    return status == INSTANCE_RUNNING || status == INSTANCE_PAUSED ? 0 : start(work, err);
}

/* What a dead worker has made under a name: it is completed if the files were, else removed. */
int work_recover_made(struct job *job, const char *name, json_t **out_result, struct error *err)
{
    struct work work = {.job = job, .name = name};
    bool is_whole = job_find_step(job, "complete") != NULL;
    int rc = instance_load(&job->place, name, &work.document, err);
    if (rc == -ENOENT) {
        /* Before its first file, or behind its last one. */
        rc = job_drop(job, "instance", name, err);
        return rc < 0 ? rc : error_set(err, ECANCELED, "making instance %s was interrupted", name);
    }
    rc = rc < 0 ? rc : work_expand(&work, err);
    if (rc == 0 && is_whole) {
        rc = work_complete(&work, err);
        if (rc == 0 && json_is_true(json_object_get(job->request, "start"))) {
            rc = ensure_started(&work, err);
        }
    } else if (rc == 0) {
        rc = error_set(err, ECANCELED, "making instance %s was interrupted; it is removed", name);
    }
    if (rc < 0 && work.driver != NULL) {
        work_undo(&work);
    } else if (rc == 0) {
        *out_result = work_result(&work);
    }
    work_close(&work);
    return rc;
}

static int create_recover(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *step = job_find_step(job, "making");
    return step == NULL ? create_run(job, out_result, err)
                        : work_recover_made(job, text_of(step, "name"), out_result, err);
}

/* One that was killed because it took too long has stopped all the same. */
static int stop(struct work *work, bool *out_was_killed, struct error *err)
{
    const json_t *request = work->job->request;
    const json_t *timeout = json_object_get(request, "timeout_s");
    job_progress(work->job, "stopping", 0, 0);
    int rc = work->driver->stop(
        work->job, work->expanded, json_is_true(json_object_get(request, "force")),
        json_is_integer(timeout) ? (int)json_integer_value(timeout) : -1, err);
    *out_was_killed = rc == -ETIME;
    return rc == -ETIME ? 0 : rc;
}

static int must_be_stopped(const struct work *work, struct error *err)
{
    enum instance_status status = work_status(work);
    /* One that ended badly may be tried again. */
    return status == INSTANCE_STOPPED || status == INSTANCE_ERROR
               ? 0
               : error_set(err, EALREADY, "instance %s is %s", work->name,
                           instance_status_name(status));
}

static int act(struct work *work, const char *action, bool *out_was_killed, struct error *err)
{
    bool is_recovery = work->job->is_recovery;
    enum instance_status status = work_status(work);
    if (strcmp(action, "start") == 0) {
        int rc = is_recovery ? 0 : must_be_stopped(work, err);
        return rc < 0 ? rc : is_recovery ? ensure_started(work, err) : start(work, err);
    }
    if (strcmp(action, "stop") == 0) {
        return is_recovery && status == INSTANCE_STOPPED ? 0 : stop(work, out_was_killed, err);
    }
    if (strcmp(action, "restart") == 0) {
        int rc = 0;
        if (job_find_step(work->job, "stopped") == NULL && status != INSTANCE_STOPPED) {
            rc = stop(work, out_was_killed, err);
        }
        rc = rc < 0 ? rc : job_step(work->job, "stopped", NULL, err);
        return rc < 0 ? rc : ensure_started(work, err);
    }
    bool pauses = strcmp(action, "pause") == 0;
    if (!pauses && strcmp(action, "resume") != 0) {
        return error_set(err, EINVAL, "action '%.40s': start, stop, restart, pause or resume",
                         action);
    }
    if (is_recovery && status == (pauses ? INSTANCE_PAUSED : INSTANCE_RUNNING)) {
        return 0;
    }
    return work->driver->pause(work->job, work->expanded, pauses, err);
}

static int action_run(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    const char *action = text_of(job->request, "action");
    int rc = action == NULL ? error_set(err, EINVAL, "action: missing") : 0;
    rc = rc < 0 ? rc : work_open(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    bool was_killed = false;
    rc = act(&work, action, &was_killed, err);
    if (rc == 0) {
        work_event(&work, action);
        *out_result = work_result(&work);
        (void)json_object_set_new(*out_result, "was_killed", json_boolean(was_killed));
    }
    work_close(&work);
    return rc;
}

static int delete_run(struct job *job, json_t **out_result, struct error *err)
{
    struct work work = {.job = job, .name = text_of(job->request, "name")};
    if (work.name == NULL) {
        return error_set(err, EINVAL, "name: missing");
    }
    int rc = load_document(&work, err);
    if (rc == -ENOENT && job->is_recovery) {
        return job_drop(job, "instance", work.name, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* Also one whose profiles say nonsense by now. */
    struct error ignored;
    work.driver = instance_driver(work.document);
    if (work_expand(&work, &ignored) < 0) {
        work.expanded = json_incref(work.document);
    }
    if (work_status(&work) != INSTANCE_STOPPED) {
        bool is_forced = json_is_true(json_object_get(job->request, "force")) ||
                         job_find_step(job, "stopping") != NULL;
        enum instance_status status = work_status(&work);
        rc = is_forced || status == INSTANCE_ERROR
                 ? 0
                 : error_set(err, EBUSY, "instance %s is %s: stop it first, or delete it by force",
                             work.name, instance_status_name(status));
        rc = rc < 0 ? rc : job_step(job, "stopping", NULL, err);
        if (rc == 0) {
            rc = work.driver->stop(job, work.expanded, true, 0, err);
            rc = rc == -ESRCH || rc == -ENOENT ? 0 : rc;
        }
    }
    rc = rc < 0 ? rc : job_step(job, "removing", NULL, err);
    if (rc == 0) {
        (void)json_object_set_new(work.document, "incomplete", json_true());
        rc = work_publish(&work, err);
    }
    job_progress(job, "removing its files", 0, 0);
    rc = rc < 0 ? rc : work.driver->remove(job, work.expanded, err);
    rc = rc < 0 ? rc : forget(&work, err);
    if (rc == 0) {
        job_event(job, json_pack("{s:s, s:s, s:s}", "type", "instance", "what", "deleted", "name",
                                 work.name));
        *out_result = json_pack("{s:s}", "name", work.name);
    }
    work_close(&work);
    return rc;
}

const struct job_kind instance_jobs[] = {
    {"instance-create", create_run, create_recover},
    {"instance-action", action_run},
    {"instance-delete", delete_run},
    {"instance-change", work_change},
    {"instance-snapshot", work_snapshot},
    {"instance-clone", work_clone, work_clone_recover},
    {0},
};
