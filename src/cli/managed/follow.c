/* Following operations. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "cli/progress.h"

#define SECOND_NS 1000000000ull
#define STEPS     1000 /* of one operation among several */
#define CANCELLED 130  /* as a shell says it of what Ctrl-C ended */

struct batch_row {
    char *path;        /* of the operation */
    json_t *operation; /* as it was seen last */
    bool has_ended;
};

void batch_begin(struct batch *batch, struct client *client, const char *label, bool is_quiet)
{
    *batch = (struct batch){.client = client, .label = label, .is_quiet = is_quiet};
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static bool has_ended(const json_t *operation)
{
    const char *status = text_of(operation, "status");
    return strcmp(status, "waiting") != 0 && strcmp(status, "running") != 0;
}

static int add(struct batch *batch, json_t *operation, struct error *err)
{
    const char *id = json_string_value(json_object_get(operation, "name"));
    struct batch_row *rows = realloc(batch->rows, (batch->count + 1) * sizeof(*rows));
    if (rows != NULL) {
        batch->rows = rows;
    }
    char *path = id != NULL ? client_path("/v1/operations", id, NULL) : NULL;
    if (rows == NULL || path == NULL) {
        free(path);
        json_decref(operation);
        return error_set(err, EPROTO, "hulld's answer: an operation without a name");
    }
    rows[batch->count++] = (struct batch_row){path, operation, has_ended(operation)};
    return 0;
}

int batch_call(struct batch *batch, const char *method, const char *path, const json_t *body,
               json_t **out_answer, struct error *err)
{
    int status;
    json_t *answer;
    if (out_answer != NULL) {
        *out_answer = NULL;
    }
    int rc = client_call(batch->client, method, path, body, &status, &answer, err);
    if (rc == 0 && status == 202) {
        return add(batch, answer, err);
    }
    if (rc == 0 && out_answer != NULL) {
        *out_answer = answer;
    } else if (rc == 0) {
        json_decref(answer);
    }
    return rc;
}

char *batch_path(const struct batch *batch)
{
    return batch->count == 1 ? strdup(batch->rows[0].path) : NULL;
}

void batch_try(struct batch *batch, const char *method, const char *path, const json_t *body)
{
    struct error err;
    if (batch_call(batch, method, path, body, NULL, &err) < 0) {
        (void)cli_fail(&err);
        batch->has_failed = true;
    }
}

struct interrupt {
    struct batch *batch;
    struct progress *progress;
    int fd;
    unsigned count;
};

/* Ctrl-C while an answer is awaited. */
static int interrupted(void *ctx, struct error *err)
{
    struct interrupt *interrupt = ctx;
    struct batch *batch = interrupt->batch;
    struct signalfd_siginfo info;
    if (read(interrupt->fd, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return 0;
    }
    if (interrupt->count++ > 0) {
        return -EINTR;
    }
    progress_end(interrupt->progress);
    (void)fputs("hull: cancelling; once more leaves it to itself\n", stderr);
    struct client other = *batch->client;
    other.wake_fd = -1;
    for (size_t i = 0; i < batch->count; i++) {
        json_t *answer;
        struct error ignored; /* it has ended just now, or its end will tell */
        if (!batch->rows[i].has_ended && client_call(&other, "DELETE", batch->rows[i].path, NULL,
                                                     NULL, &answer, &ignored) == 0) {
            json_decref(answer);
        }
    }
    return 0;
}

static int refresh(struct batch *batch, struct batch_row *row, bool waits, struct error *err)
{
    char *path = strdup(row->path);
    json_t *answer;
    if (waits) {
        path = client_add_query(path, "wait", "1");
    }
    int rc = client_call(batch->client, "GET", path, NULL, NULL, &answer, err);
    free(path);
    if (rc == 0) {
        json_decref(row->operation);
        row->operation = answer;
        row->has_ended = has_ended(answer);
    }
    return rc;
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(object, key));
    return number > 0 ? (uint64_t)number : 0;
}

/* 'label' stays with the progress. */
static void show(struct batch *batch, struct progress *progress, char *label, size_t size)
{
    if (batch->count == 1) {
        const json_t *operation = batch->rows[0].operation;
        const json_t *now = json_object_get(operation, "progress");
        const char *text = text_of(now, "text");
        struct error words; /* cleans them */
        (void)client_error(&words, EINVAL, text_of(operation, "description"));
        (void)snprintf(label, size, "%.80s", words.text);
        if (text[0] != '\0') {
            (void)client_error(&words, EINVAL, text);
            (void)snprintf(label + strlen(label), size - strlen(label), ": %.80s", words.text);
        }
        progress_update(progress, number_of(now, "done"), number_of(now, "total"));
        return;
    }
    uint64_t done = 0;
    size_t ended = 0;
    for (size_t i = 0; i < batch->count; i++) {
        const json_t *now = json_object_get(batch->rows[i].operation, "progress");
        uint64_t total = number_of(now, "total"), part = number_of(now, "done");
        ended += batch->rows[i].has_ended;
        done += batch->rows[i].has_ended ? STEPS
                : total > 0 && part <= total
                    ? (uint64_t)((double)part * (STEPS - 1) / (double)total)
                    : 0;
    }
    (void)snprintf(label, size, "%s: %zu of %zu", batch->label, ended, batch->count);
    progress_update(progress, done, (uint64_t)batch->count * STEPS);
}

/* -EINTR: the user does not want to wait. */
static int wait_for_all(struct batch *batch, struct progress *progress, char *label, size_t size,
                        struct error *err)
{
    for (size_t first = 0; first < batch->count;) {
        if (batch->rows[first].has_ended) {
            first++;
            continue;
        }
        int rc = refresh(batch, &batch->rows[first], true, err);
        uint64_t begun_ns = clock_monotonic_ns() - progress->start_ns;
        for (size_t i = first + 1; rc == 0 && begun_ns > SECOND_NS && i < batch->count; i++) {
            rc = batch->rows[i].has_ended ? 0 : refresh(batch, &batch->rows[i], false, err);
        }
        if (rc < 0) {
            return rc;
        }
        show(batch, progress, label, size);
    }
    return 0;
}

/* The exit status of what has ended. */
static int tell_end(const json_t *operation)
{
    const char *status = text_of(operation, "status");
    const json_t *result = json_object_get(operation, "result"), *warning;
    size_t i;
    if (strcmp(status, "done") == 0) {
        json_array_foreach(json_object_get(result, "warnings"), i, warning)
        {
            const char *text = json_string_value(warning);
            struct error words; /* cleans them */
            (void)client_error(&words, EINVAL, text != NULL ? text : "");
            (void)fprintf(stderr, "hull: %.64s: %s\n", text_of(result, "name"), words.text);
        }
        return CLI_OK;
    }
    const char *message = text_of(json_object_get(operation, "error"), "message");
    struct error what, why;
    (void)client_error(&what, EIO, text_of(operation, "description"));
    (void)client_error(&why, EIO, message[0] != '\0' ? message : status);
    (void)fprintf(stderr, "hull: %s: %s\n", what.text, why.text);
    return strcmp(status, "cancelled") == 0 ? CANCELLED : CLI_FAILURE;
}

static int end_rows(struct batch *batch, int rc, json_t **out_result)
{
    int status = batch->has_failed ? CLI_FAILURE : CLI_OK;
    for (size_t i = 0; i < batch->count; i++) {
        struct batch_row *row = &batch->rows[i];
        if (row->has_ended) {
            int here = tell_end(row->operation);
            status = here == CLI_OK ? status : here;
        } else if (rc == -EINTR) {
            (void)fprintf(stderr, "hull: %s: goes on as operation %.32s\n",
                          text_of(row->operation, "description"), text_of(row->operation, "name"));
            status = CANCELLED;
        }
        if (out_result != NULL && batch->count == 1) {
            *out_result = json_incref(json_object_get(row->operation, "result"));
        }
        json_decref(row->operation);
        free(row->path);
    }
    free(batch->rows);
    batch->rows = NULL;
    batch->count = 0;
    return status;
}

int batch_end(struct batch *batch, json_t **out_result)
{
    struct client *client = batch->client;
    struct progress progress;
    char label[200] = "";
    struct error err = {0};
    sigset_t stops, before;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &stops, &before);
    AUTO_CLOSE int fd = signalfd(-1, &stops, SFD_CLOEXEC | SFD_NONBLOCK);
    struct interrupt interrupt = {.batch = batch, .progress = &progress, .fd = fd};
    client->wake_fd = fd;
    client->wake = interrupted;
    client->wake_ctx = &interrupt;
    if (out_result != NULL) {
        *out_result = NULL;
    }
    progress_begin(&progress, label, batch->is_quiet);
    int rc = wait_for_all(batch, &progress, label, sizeof(label), &err);
    progress_end(&progress);
    client->wake_fd = -1;
    if (rc < 0 && rc != -EINTR) {
        batch->has_failed = true;
        (void)cli_fail(&err);
    }
    int status = end_rows(batch, rc, out_result);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return status;
}

int managed_do(struct client *client, const char *method, const char *path, const json_t *body,
               bool is_quiet, json_t **out_result)
{
    struct batch batch;
    struct error err;
    json_t *answer = NULL;
    batch_begin(&batch, client, "", is_quiet);
    if (batch_call(&batch, method, path, body, &answer, &err) < 0) {
        return cli_fail(&err);
    }
    if (answer != NULL) {
        if (out_result != NULL) {
            *out_result = answer;
        } else {
            json_decref(answer);
        }
        return CLI_OK;
    }
    return batch_end(&batch, out_result);
}

int managed_prune(struct client *client, bool is_quiet)
{
    json_t *result;
    int status = managed_do(client, "POST", "/v1/images/prune", NULL, is_quiet, &result);
    if (status == CLI_OK && json_is_object(result)) {
        output_object(OUTPUT_TABLE, result);
    }
    json_decref(result);
    return status;
}

int managed_list(struct client *client, const char *path, enum output_format format,
                 const struct output_column *columns, void (*add_texts)(json_t *row))
{
    struct error err;
    json_t *list, *row;
    size_t i;
    if (client_call(client, "GET", path, NULL, NULL, &list, &err) < 0) {
        return cli_fail(&err);
    }
    if (add_texts != NULL && (format == OUTPUT_TABLE || format == OUTPUT_CSV)) {
        json_array_foreach(list, i, row)
        {
            add_texts(row);
        }
    }
    output_list(format, columns, list, NULL);
    json_decref(list);
    return CLI_OK;
}
