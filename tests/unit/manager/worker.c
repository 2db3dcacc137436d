/* A hull-worker whose jobs do what the tests of operations ask for. */
#include "manager/operation/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/instance/instance.h"
#include "manager/operation/job.h"
#include "session/frames.h"

/* None of its jobs is about containers. */
bool containers_may_concern(const char *job)
{
    return false;
}

bool containers_concern(const struct place *place, const char *job, const json_t *request)
{
    return false;
}

int containers_enter(struct place *place, const json_t *request, struct error *err)
{
    return 0;
}

static const char *text_of(const struct job *job, const char *name)
{
    return json_string_value(json_object_get(job->request, name));
}

static json_int_t number_of(const struct job *job, const char *name)
{
    return json_integer_value(json_object_get(job->request, name));
}

static void nap(void)
{
    struct timespec wait = {.tv_nsec = 2000000};
    (void)nanosleep(&wait, NULL);
}

static void die(void)
{
    (void)kill(getpid(), SIGKILL);
}

static void say(const char *path, char what, const char *name)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    (void)dprintf(fd, "%c%s\n", what, name);
}

static int run_echo(struct job *job, json_t **out_result, struct error *err)
{
    *out_result = json_deep_copy(job->request);
    return 0;
}

static int run_fail(struct job *job, json_t **out_result, struct error *err)
{
    return error_set(err, EEXIST, "instance %s: \xff there is one", "web1");
}

/* Until its file is there: {file}, or half a minute; says in {log} when it begins and ends. */
static int run_hold(struct job *job, json_t **out_result, struct error *err)
{
    const char *log = text_of(job, "log"), *name = text_of(job, "name");
    int rc = job_step(job, "hold", NULL, err);
    if (rc == 0 && log != NULL) {
        say(log, '+', name);
    }
    for (int i = 0; rc == 0 && i < 15000 && access(text_of(job, "file"), F_OK) < 0; i++) {
        if (job_is_cancelled(job)) {
            return error_set(err, ECANCELED, "cancelled, and undone");
        }
        nap();
    }
    if (rc == 0 && log != NULL) {
        say(log, '-', name);
    }
    return rc;
}

/* {count, nap}: documents n0, n1..., each dropped again when the next one is there, but for the last. */
static int run_put(struct job *job, json_t **out_result, struct error *err)
{
    int rc = 0;
    for (json_int_t i = job->is_recovery ? (json_int_t)json_array_size(job->steps) : 0;
         rc == 0 && i < number_of(job, "count"); i++) {
        char name[32], before[32];
        snprintf(name, sizeof(name), "n%lld", (long long)i);
        snprintf(before, sizeof(before), "n%lld", (long long)i - 1);
        rc = job_put(job, "instance", name, json_pack("{s:s}", "name", name), err);
        if (rc == 0 && i > 0) {
            rc = job_drop(job, "instance", before, err);
        }
        job_progress(job, name, (uint64_t)i, (uint64_t)number_of(job, "count"));
        job_event(job, json_pack("{s:s,s:s}", "type", "test", "name", name));
        if (number_of(job, "nap") > 0) {
            nap();
        }
    }
    *out_result = json_pack("{s:I}", "count", number_of(job, "count"));
    return rc;
}

/* {count}: without the limit that job_progress has. */
static int run_progress(struct job *job, json_t **out_result, struct error *err)
{
    for (json_int_t i = 0; i < number_of(job, "count"); i++) {
        (void)lseek(job->journal_fd, 0, SEEK_END);
        (void)dprintf(job->journal_fd,
                      "{\"progress\":\"step %lld\",\"done\":%lld,\"total\":%lld}\n", (long long)i,
                      (long long)i, (long long)number_of(job, "count"));
        nap();
    }
    return 0;
}

/* {steps, die_at, undo}: dies behind that step. */
static int run_steps(struct job *job, json_t **out_result, struct error *err)
{
    for (json_int_t i = 0; i < number_of(job, "steps"); i++) {
        char name[32];
        snprintf(name, sizeof(name), "s%lld", (long long)i);
        if (i == number_of(job, "die_at")) {
            die();
        }
        int rc = job_step(job, name, json_pack("{s:I}", "worker", i), err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int recover_steps(struct job *job, json_t **out_result, struct error *err)
{
    const json_t *last = job_find_step(job, "s0");
    if (json_is_true(json_object_get(job->request, "undo"))) {
        return error_set(err, ECANCELED, "undone behind %zu steps", json_array_size(job->steps));
    }
    *out_result = json_pack("{s:O,s:b}", "steps", job->steps, "has_first", last != NULL);
    return 0;
}

static int run_die(struct job *job, json_t **out_result, struct error *err)
{
    die();
    return 0;
}

/* Does not ask whether it is cancelled. */
static int run_stubborn(struct job *job, json_t **out_result, struct error *err)
{
    int rc = job_step(job, "stubborn", NULL, err);
    job_progress(job, "stubborn", 0, 0);
    for (int i = 0; rc == 0 && i < 15000; i++) {
        nap();
    }
    return rc;
}

static int recover_stubborn(struct job *job, json_t **out_result, struct error *err)
{
    return job_is_cancelled(job) ? error_set(err, ECANCELED, "undone")
                                 : error_set(err, EIO, "nobody cancelled it");
}

/* Writes {text} into its journal. */
static int run_rubbish(struct job *job, json_t **out_result, struct error *err)
{
    const char *text = text_of(job, "text");
    int rc = job_put(job, "instance", "before", json_pack("{s:s}", "name", "before"), err);
    if (rc == 0) {
        (void)lseek(job->journal_fd, 0, SEEK_END);
        rc = file_write_all(job->journal_fd, text, strlen(text), "rubbish", err);
    }
    if (json_is_true(json_object_get(job->request, "die"))) {
        die();
    }
    return rc < 0 ? rc
                  : job_put(job, "instance", "after", json_pack("{s:s}", "name", "after"), err);
}

static int recover_rubbish(struct job *job, json_t **out_result, struct error *err)
{
    return job_put(job, "instance", "recovered", json_pack("{s:s}", "name", "recovered"), err);
}

/* Fills the disk that its file {file} is on, and goes on with steps until one is refused. */
static int run_fill(struct job *job, json_t **out_result, struct error *err)
{
    static const char piece[65536];
    AUTO_CLOSE int fd = open(text_of(job, "file"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; i < 4096 && write(fd, piece, sizeof(piece)) > 0; i++) {
    }
    for (int i = 0; i < 64 && write(fd, piece, 1024) > 0; i++) {
    }
    int rc = 0;
    for (int i = 0; rc == 0 && i < 4096; i++) {
        job_event(job, json_pack("{s:s}", "type", "filling"));
        rc = job_step(job, "fill", json_pack("{s:s%}", "piece", piece, (size_t)0), err);
    }
    return rc;
}

const struct job_kind instance_jobs[] = {
    {.name = "t-echo", .run = run_echo},
    {.name = "t-fail", .run = run_fail},
    {.name = "t-hold", .run = run_hold},
    {.name = "t-put", .run = run_put},
    {.name = "t-progress", .run = run_progress},
    {.name = "t-steps", .run = run_steps, .recover = recover_steps},
    {.name = "t-die", .run = run_die},
    {.name = "t-stubborn", .run = run_stubborn, .recover = recover_stubborn},
    {0},
};
const struct job_kind image_jobs[] = {
    {.name = "t-rubbish", .run = run_rubbish, .recover = recover_rubbish},
    {.name = "t-fill", .run = run_fill},
    {0},
};
const struct job_kind network_jobs[] = {{0}};
const struct job_kind pool_jobs[] = {{0}};
const struct job_kind check_jobs[] = {{0}};
const struct job_kind transfer_jobs[] = {{0}};

/* What comes in goes out, behind the instance's name. */
static int echo_session(const struct place *place, const json_t *document, const json_t *request,
                        int fd, struct error *err)
{
    static char data[SESSION_MAX_PAYLOAD];
    const char *name = json_string_value(json_object_get(document, "name"));
    enum session_frame type;
    size_t size;
    int rc = session_send(fd, SESSION_STDOUT, name, strlen(name), err);
    while (rc == 0 && (rc = session_receive(fd, &type, data, &size, err)) == 0) {
        if (type == SESSION_CONTROL) {
            return session_send_control(fd, json_pack("{s:i}", "exit", 7), err);
        }
        rc = session_send(fd, SESSION_STDOUT, data, size, err);
    }
    return rc;
}

static int no_session(const struct place *place, const json_t *document, const json_t *request,
                      int fd, struct error *err)
{
    return error_set(err, ENOENT, "it does not run");
}

const struct instance_driver container_driver = {.kind = "container", .session = echo_session};
const struct instance_driver vm_driver = {.kind = "vm", .session = no_session};

int main(int argc, char **argv)
{
    return worker_main(argc, argv);
}
