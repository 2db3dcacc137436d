/* hull ctl PATH disk-... wait=true: stays until the job that was started is ready or has ended. */
#include <stdio.h>
#include <string.h>

#include "cli/ctl.h"
#include "cli/progress.h"
#include "cli/verbs.h"

#define EVENTS_ID 3
#define JOBS_ID   4

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static bool is_over(const char *state)
{
    return strcmp(state, "ready") == 0 || strcmp(state, "done") == 0 ||
           strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0;
}

bool ctl_job_take_wait(json_t *request)
{
    bool wants_wait = json_is_true(json_object_get(request, "wait"));
    json_object_del(request, "wait");
    return wants_wait;
}

int ctl_job_follow(struct control_client *client, struct error *err)
{
    json_t *request = json_pack("{s:i, s:s}", "id", EVENTS_ID, "do", "events");
    json_t *answer = NULL;
    int rc = control_client_send(client, request, -1, err);
    if (rc == 0) {
        rc = control_client_await(client, EVENTS_ID, NULL, NULL, &answer, err);
    }
    json_decref(request);
    json_decref(answer);
    return rc;
}

/* The job as it is now: events that came before the answer to its start are gone. */
static int look_up(struct control_client *client, const char *id, json_t **out_job,
                   struct error *err)
{
    json_t *request = json_pack("{s:i, s:s}", "id", JOBS_ID, "do", "jobs");
    json_t *answer = NULL;
    size_t index;
    json_t *job;
    int rc = control_client_send(client, request, -1, err);
    json_decref(request);
    if (rc == 0) {
        rc = control_client_await(client, JOBS_ID, NULL, NULL, &answer, err);
    }
    *out_job = NULL;
    json_array_foreach(json_object_get(answer, "jobs"), index, job)
    {
        if (strcmp(text_of(job, "job"), id) == 0) {
            *out_job = json_incref(job);
        }
    }
    json_decref(answer);
    return rc < 0             ? rc
           : *out_job != NULL ? 0
                              : error_set(err, ENODATA, "job %s: has ended, how is not known", id);
}

int ctl_job_await(struct control_client *client, json_t *started, enum output_format format,
                  struct error *err)
{
    char label[80];
    struct progress progress;
    const char *id = text_of(started, "job");
    json_t *job = NULL;
    (void)snprintf(label, sizeof(label), "%s of %s", text_of(started, "kind"),
                   text_of(started, "disk"));
    progress_begin(&progress, label, false);
    int rc = look_up(client, id, &job, err);
    while (rc == 0 && !is_over(text_of(job, "state"))) {
        json_t *line;
        rc = control_client_receive(client, &line, err);
        if (rc == 0 && strcmp(text_of(line, "job"), id) == 0) {
            json_decref(job);
            job = json_incref(line);
            progress_update(&progress,
                            (uint64_t)json_integer_value(json_object_get(job, "done_bytes")),
                            (uint64_t)json_integer_value(json_object_get(job, "total_bytes")));
        }
        if (rc == 0) {
            json_decref(line);
        }
    }
    progress_end(&progress);
    const char *state = text_of(job, "state");
    if (rc == 0 && strcmp(state, "failed") == 0) {
        rc = error_set(err, EIO, "job %s: %s", id, text_of(job, "failure"));
    } else if (rc == 0 && strcmp(state, "cancelled") == 0) {
        rc = error_set(err, ECANCELED, "job %s: was cancelled", id);
    } else if (rc == 0) {
        json_object_del(job, "event");
        json_object_del(job, "name");
        output_object(format, job);
    }
    json_decref(job);
    return rc;
}
