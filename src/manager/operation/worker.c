#include "manager/operation/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/containers.h"
#include "manager/instance/instance.h"
#include "manager/operation/code.h"
#include "manager/operation/job.h"
#include "manager/operation/reserve.h"
#include "session/frames.h"

#define MAX_TASK (64u << 20)

static const struct job_kind *find_kind(const char *name)
{
    static const struct job_kind *const tables[] = {instance_jobs, image_jobs, network_jobs,
                                                    pool_jobs,     check_jobs, transfer_jobs};
    for (unsigned i = 0; i < ARRAY_COUNT(tables); i++) {
        for (const struct job_kind *kind = tables[i]; kind->name != NULL; kind++) {
            if (strcmp(kind->name, name) == 0) {
                return kind;
            }
        }
    }
    return NULL;
}

static int set_folder(const json_t *place, const char *name, char out[PLACE_MAX_PATH],
                      struct error *err)
{
    const char *path = json_string_value(json_object_get(place, name));
    if (path == NULL || path[0] != '/' || strlen(path) >= PLACE_MAX_PATH) {
        return error_set(err, EINVAL, "task: place.%s is no absolute path", name);
    }
    strcpy(out, path);
    return 0;
}

/* What it is to do, from standard input: a file in memory. */
static int read_task(json_t **out_task, struct place *out_place, struct error *err)
{
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(0, MAX_TASK, "the task", &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t problem;
    json_auto_t *task = json_loadb(text, size, 0, &problem);
    if (!json_is_object(task) || !json_is_object(json_object_get(task, "request"))) {
        return error_set(err, EINVAL, "task: %s", task == NULL ? problem.text : "no request in it");
    }
    const json_t *place = json_object_get(task, "place");
    bool is_root = geteuid() == 0;
    *out_place = (struct place){.is_root = is_root, .has_owners = is_root};
    rc = set_folder(place, "state", out_place->state, err);
    if (rc == 0) {
        rc = set_folder(place, "run", out_place->run, err);
    }
    if (rc == 0) {
        rc = set_folder(place, "cache", out_place->cache, err);
    }
    if (rc == 0) {
        *out_task = TAKE_PTR(task);
    }
    return rc;
}

static int run_kind(struct job *job, const struct job_kind *kind, json_t **out_result,
                    struct error *err)
{
    return job->is_recovery && kind->recover != NULL ? kind->recover(job, out_result, err)
                                                     : kind->run(job, out_result, err);
}

static int run_job(struct job *job, const char *name, json_t **out_result, struct error *err)
{
    const struct job_kind *kind = find_kind(name);
    if (kind == NULL) {
        return error_set(err, EOPNOTSUPP, "operation %s: no job is called '%s'", job->id, name);
    }
    int rc = !job->place.has_owners && containers_concern(&job->place, name, job->request)
                 ? containers_enter(&job->place, job->request, err)
                 : 0;
    /* Disks for VMs are made and imported without; should it have been needed, that is the reason. */
    struct error why = rc < 0 && err != NULL ? *err : (struct error){0};
    if (rc < 0 && !containers_may_concern(name)) {
        return rc;
    }
    rc = run_kind(job, kind, out_result, err);
    /* Deletions go on in the space that they get. */
    while (rc < 0 && reserve_serves(name, job->request) && reserve_give(&job->place, rc)) {
        rc = job_begin_again(job, err);
        rc = rc < 0 ? rc : run_kind(job, kind, out_result, err);
    }
    if (rc < 0 && err->code == 0) {
        rc = error_set_errno(err, -rc, "%s", name);
    }
    if (rc == -EPERM && why.code != 0) {
        rc = error_set(err, why.code, "%s", why.text);
    }
    return rc;
}

static int fail(const struct error *err)
{
    log_error("%s", err->text);
    return err->code == EBUSY                           ? WORKER_BUSY
           : err->code == ENOSPC || err->code == EDQUOT ? WORKER_NO_SPACE
                                                        : WORKER_NO_JOURNAL;
}

static int run_operation(const char *id)
{
    job_catch_term();
    struct error err = {0}, problem = {0};
    struct job job = {.id = id, .journal_fd = -1};
    json_auto_t *task = NULL;
    int rc = read_task(&task, &job.place, &err);
    const char *kind = json_string_value(json_object_get(task, "kind"));
    if (rc < 0 || kind == NULL) {
        log_error("%s", rc < 0 ? err.text : "task: no kind in it");
        return WORKER_WRONG;
    }
    job.request = json_object_get(task, "request");
    job.is_recovery = json_is_true(json_object_get(task, "recovery"));
    job.was_cancelled = json_is_true(json_object_get(task, "cancelled"));
    do {
        rc = job_open(&job, &err);
    } while (rc < 0 && reserve_serves(kind, job.request) && reserve_give(&job.place, rc));
    if (rc < 0) {
        return fail(&err);
    }
    json_t *result = NULL;
    rc = run_job(&job, kind, &result, &problem);
    return job_close(&job, rc, result, &problem, &err) < 0 ? fail(&err) : WORKER_DONE;
}

static int serve(struct place *place, const json_t *document, const json_t *request, int fd,
                 struct error *err)
{
    static const struct instance_driver *const drivers[] = {&container_driver, &vm_driver};
    const char *kind = json_string_value(json_object_get(document, "kind"));
    int rc =
        kind != NULL && strcmp(kind, "container") == 0 ? containers_enter(place, NULL, err) : 0;
    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 0; kind != NULL && i < ARRAY_COUNT(drivers); i++) {
        if (strcmp(drivers[i]->kind, kind) == 0 && drivers[i]->session != NULL) {
            return drivers[i]->session(place, document, request, fd, err);
        }
    }
    return error_set(err, EOPNOTSUPP, "session: an instance of kind '%s' has none",
                     kind != NULL ? kind : "");
}

static int run_session(const char *number)
{
    struct error err = {0};
    struct place place;
    struct stat info;
    int fd = atoi(number);
    if (fd < 3 || fstat(fd, &info) < 0 || !S_ISSOCK(info.st_mode)) {
        log_error("session: descriptor %s is no socket", number);
        return WORKER_WRONG;
    }
    json_auto_t *task = NULL;
    int rc = read_task(&task, &place, &err);
    if (rc == 0) {
        rc = serve(&place, json_object_get(task, "document"), json_object_get(task, "request"), fd,
                   &err);
    }
    if (rc < 0) {
        if (err.code == 0) {
            error_ignore(error_set_errno(&err, -rc, "session"));
        }
        /* Whoever asked may be gone. */
        error_ignore(
            session_send_control(fd, json_pack("{s:o}", "error", operation_error(&err)), NULL));
    }
    close(fd);
    return WORKER_DONE;
}

static void on_pipe(int number) /* in place of SIG_IGN, which the job's programs would inherit */
{
}

int worker_main(int argc, char **argv)
{
    log_init(2, LOG_LEVEL_WARNING, "hull-worker");
    struct sigaction action = {.sa_handler = on_pipe};
    (void)sigaction(SIGPIPE, &action, NULL); /* fails for wrong numbers only */
    if (argc == 3 && strcmp(argv[1], "--session") == 0) {
        return run_session(argv[2]);
    }
    if (argc == 2 && argv[1][0] != '-' && strchr(argv[1], '/') == NULL) {
        return run_operation(argv[1]);
    }
    log_error("started by hulld, not by hand: hull-worker ID or hull-worker --session FD");
    return WORKER_WRONG;
}
