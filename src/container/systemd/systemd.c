/* Requests to systemd's manager of units (org.freedesktop.systemd1(5)). */
#include "container/systemd/systemd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SERVICE     "org.freedesktop.systemd1"
#define MANAGER     SERVICE ".Manager"
#define PATH        "/org/freedesktop/systemd1"
#define JOB_TIMEOUT 30 /* s */

struct job {
    char path[256], result[64];
    bool is_done;
};

struct session {
    sd_bus *bus;
    const char *unit;
    int version;
    struct job job;
};

static int cold_fn fail(const struct session *session, int rc, const sd_bus_error *fault,
                        const char *what, struct error *err)
{
    const char *reason = fault->message != NULL ? fault->message : strerror(-rc);
    return error_set(err, rc < 0 ? -rc : EIO, "%s %s: %s", what, session->unit, reason);
}

/* Several may end before the one that is waited for has been named. */
static int on_job_removed(sd_bus_message *message, void *ctx, sd_bus_error *fault)
{
    struct job *job = ctx;
    const char *path, *unit, *result;
    if (sd_bus_message_read(message, "uoss", NULL, &path, &unit, &result) >= 0 &&
        strcmp(path, job->path) == 0) {
        (void)snprintf(job->result, sizeof(job->result), "%s", result);
        job->is_done = true;
    }
    return 0;
}

static int64_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* The reply to a call that makes a job names it. What came on the bus meanwhile is still in its queue. */
static int wait_job(struct session *session, sd_bus_message *reply, struct error *err)
{
    struct job *job = &session->job;
    const char *path;
    int rc = sd_bus_message_read(reply, "o", &path);
    if (rc < 0) {
        return error_set_errno(err, -rc, "reading systemd's reply");
    }
    (void)snprintf(job->path, sizeof(job->path), "%s", path);
    for (int64_t end = now_s() + JOB_TIMEOUT; !job->is_done;) {
        rc = sd_bus_process(session->bus, NULL);
        if (rc < 0) {
            return error_set_errno(err, -rc, "waiting for systemd");
        }
        if (rc > 0) {
            continue;
        }
        if (now_s() >= end) {
            return error_set(err, ETIMEDOUT, "the job of %s takes more than %d s", session->unit,
                             JOB_TIMEOUT);
        }
        rc = sd_bus_wait(session->bus, 1000000);
        if (rc < 0 && rc != -EINTR) {
            return error_set_errno(err, -rc, "waiting for systemd");
        }
    }
    return strcmp(job->result, "done") == 0 || strcmp(job->result, "skipped") == 0
               ? 0
               : error_set(
                     err, EIO,
                     "the job of %s ended so: %s (journalctl, perhaps with --user, has the reason)",
                     session->unit, job->result);
}

/* systemd's own socket needs no D-Bus daemon. */
static int open_private(bool is_users, sd_bus **out_bus)
{
    char address[512] = "unix:path=/run/systemd/private";
    const char *folder = getenv("XDG_RUNTIME_DIR");
    if (is_users) {
        /* ',' and ';' and '%' mean something in addresses. */
        if (folder == NULL || folder[0] != '/' || strpbrk(folder, ",;%") != NULL) {
            return -ENOENT;
        }
        (void)snprintf(address, sizeof(address), "unix:path=%.400s/systemd/private", folder);
    } else if (geteuid() != 0) {
        return -EACCES;
    }
    sd_bus *bus = NULL;
    int rc = sd_bus_new(&bus);
    rc = rc < 0 ? rc : sd_bus_set_address(bus, address);
    rc = rc < 0 ? rc : sd_bus_start(bus);
    if (rc < 0) {
        sd_bus_unref(bus);
        return rc;
    }
    *out_bus = bus;
    return 0;
}

static int open_bus(struct session *session, bool is_users, struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    int rc = open_private(is_users, &session->bus);
    if (rc < 0) {
        rc = is_users ? sd_bus_open_user(&session->bus) : sd_bus_open_system(&session->bus);
    }
    if (rc < 0) {
        return error_set_errno(err, rc == -ENOMEDIUM ? ENOENT : -rc,
                               "opening the bus of %s systemd",
                               is_users ? "the user's" : "the host's");
    }
    char *version = NULL;
    rc = sd_bus_get_property_string(session->bus, SERVICE, PATH, MANAGER, "Version", &fault,
                                    &version);
    if (rc < 0) {
        rc = fail(session, rc, &fault, "asking systemd for its version, for", err);
    } else {
        session->version = atoi(version + strcspn(version, "0123456789"));
        free(version);
    }
    sd_bus_error_free(&fault);
    return rc < 0 ? rc : 0;
}

static int watch_jobs(struct session *session, struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    int rc = sd_bus_match_signal(session->bus, NULL, NULL, PATH, MANAGER, "JobRemoved",
                                 on_job_removed, &session->job);
    rc = rc < 0 ? rc
                : sd_bus_call_method(session->bus, SERVICE, PATH, MANAGER, "Subscribe", &fault,
                                     NULL, "");
    rc = rc < 0 ? fail(session, rc, &fault, "waiting for", err) : 0;
    sd_bus_error_free(&fault);
    return rc;
}

/* A unit that has failed keeps its name until then. */
static void reset_failed(const struct session *session)
{
    (void)sd_bus_call_method(session->bus, SERVICE, PATH, MANAGER, "ResetFailedUnit", NULL, NULL,
                             "s", session->unit);
}

static int request_start(const struct session *session, const json_t *properties,
                         sd_bus_message **out_reply, sd_bus_error *fault, struct error *err)
{
    sd_bus_message *message = NULL;
    int rc = sd_bus_message_new_method_call(session->bus, &message, SERVICE, PATH, MANAGER,
                                            "StartTransientUnit");
    rc = rc < 0 ? rc : sd_bus_message_append(message, "ss", session->unit, "fail");
    rc = rc < 0 ? error_set_errno(err, -rc, "a message to systemd")
                : properties_append(message, properties, session->version, err);
    if (rc == 0) {
        rc = sd_bus_message_append(message, "a(sa(sv))", 0);
        rc = rc < 0 ? rc : sd_bus_call(session->bus, message, 0, fault, out_reply);
        rc = rc < 0 ? fail(session, rc, fault, "starting", err) : 0;
    }
    sd_bus_message_unref(message);
    return rc;
}

static int read_group(const struct session *session, json_t *answer, struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    char *path = NULL, *group = NULL;
    int rc = sd_bus_path_encode(PATH "/unit", session->unit, &path);
    rc = rc < 0 ? rc
                : sd_bus_get_property_string(session->bus, SERVICE, path, SERVICE ".Scope",
                                             "ControlGroup", &fault, &group);
    if (rc < 0) {
        rc = fail(session, rc, &fault, "asking for the control group of", err);
    } else {
        rc = json_object_set_new(answer, "group", json_string(group)) < 0
                 ? error_set(err, ENOMEM, "no memory for an answer")
                 : 0;
    }
    sd_bus_error_free(&fault);
    free(group);
    free(path);
    return rc;
}

static int start(struct session *session, const json_t *properties, json_t *answer,
                 struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    int rc = watch_jobs(session, err);
    if (rc < 0) {
        return rc;
    }
    rc = request_start(session, properties, &reply, &fault, err);
    if (rc < 0 && sd_bus_error_has_name(&fault, SERVICE ".UnitExists")) {
        sd_bus_error_free(&fault);
        reset_failed(session);
        rc = request_start(session, properties, &reply, &fault, err);
    }
    rc = rc < 0 ? rc : wait_job(session, reply, err);
    sd_bus_message_unref(reply);
    sd_bus_error_free(&fault);
    return rc < 0 ? rc : read_group(session, answer, err);
}

/* systemd writes the files after its answer, but before it looks for the next request: the group is asked for, so that it
 * has. */
static int update(const struct session *session, const json_t *properties, json_t *answer,
                  struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    sd_bus_message *message = NULL;
    int rc = sd_bus_message_new_method_call(session->bus, &message, SERVICE, PATH, MANAGER,
                                            "SetUnitProperties");
    rc = rc < 0 ? rc : sd_bus_message_append(message, "sb", session->unit, 1);
    rc = rc < 0 ? error_set_errno(err, -rc, "a message to systemd")
                : properties_append(message, properties, session->version, err);
    if (rc == 0) {
        rc = sd_bus_call(session->bus, message, 0, &fault, NULL);
        rc = rc < 0 ? fail(session, rc, &fault, "changing", err) : 0;
    }
    sd_bus_message_unref(message);
    sd_bus_error_free(&fault);
    return rc < 0 ? rc : read_group(session, answer, err);
}

static int stop(struct session *session, struct error *err)
{
    sd_bus_error fault = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    int rc = watch_jobs(session, err);
    if (rc < 0) {
        return rc;
    }
    rc = sd_bus_call_method(session->bus, SERVICE, PATH, MANAGER, "StopUnit", &fault, &reply, "ss",
                            session->unit, "replace");
    if (rc >= 0) {
        rc = wait_job(session, reply, err);
    } else if (sd_bus_error_has_name(&fault, SERVICE ".NoSuchUnit")) {
        rc = 0; /* systemd drops scopes that are empty */
    } else {
        rc = fail(session, rc, &fault, "stopping", err);
    }
    sd_bus_message_unref(reply);
    sd_bus_error_free(&fault);
    reset_failed(session);
    return rc;
}

static int serve(json_t *request, json_t *answer, struct error *err)
{
    struct session session = {0};
    const char *verb;
    int is_users;
    if (json_unpack(request, "{s:s, s:s, s:b}", "verb", &verb, "unit", &session.unit, "user",
                    &is_users) < 0) {
        return error_set(err, EINVAL, "the request is broken");
    }
    int rc = open_bus(&session, is_users != 0, err);
    if (rc == 0) {
        const json_t *properties = json_object_get(request, "properties");
        if (strcmp(verb, "start") == 0) {
            rc = start(&session, properties, answer, err);
        } else if (strcmp(verb, "update") == 0) {
            rc = update(&session, properties, answer, err);
        } else if (strcmp(verb, "stop") == 0) {
            rc = stop(&session, err);
        } else {
            rc = error_set(err, EINVAL, "verb %.20s is unknown", verb);
        }
    }
    sd_bus_flush_close_unref(session.bus);
    return rc;
}

int systemd_main(void)
{
    struct error err = {0};
    json_t *request = json_loadf(stdin, 0, NULL);
    json_t *answer = json_object();
    int rc = serve(request, answer, &err);
    if (rc < 0) {
        json_decref(answer);
        answer = json_pack("{s:s, s:i}", "error", err.text, "errno", -rc);
    }
    bool is_told =
        answer != NULL && json_dumpf(answer, stdout, JSON_COMPACT) == 0 && fflush(stdout) == 0;
    json_decref(answer);
    json_decref(request);
    return is_told ? EXIT_SUCCESS : EXIT_FAILURE;
}
