#include "manager/operation/operation.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/operation/code.h"
#include "manager/operation/operations.h"
#include "manager/operation/queue.h"
#include "manager/operation/reserve.h"

struct operation *operation_find(const struct operations *all, const char *id)
{
    struct operation *operation;
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (strcmp(operation->id, id) == 0) {
            return operation;
        }
    }
    return NULL;
}

void operation_set_status(struct operation *operation, const char *status)
{
    error_ignore(json_object_set_new(operation->document, "status", json_string(status)));
}

json_t *operation_public(const json_t *document)
{
    json_t *copy = json_copy((json_t *)document);
    (void)json_object_del(copy, "internal"); /* it need not have it */
    return copy;
}

static void tell(const struct operations *all, const json_t *document)
{
    json_auto_t *event =
        json_pack("{s:s,s:o}", "type", "operation", "operation", operation_public(document));
    if (event != NULL) {
        all->options.event(all->options.ctx, event);
    }
}

void operation_tell(struct operation *operation)
{
    operation->has_news = false;
    operation->shown_ns = clock_monotonic_ns();
    tell(operation->all, operation->document);
}

static json_int_t sequence_of(const json_t *document)
{
    return json_integer_value(json_object_get(json_object_get(document, "internal"), "sequence"));
}

json_t *operation_kept(const struct operation *operation)
{
    json_t *copy = json_copy(operation->document);
    json_t *internal =
        json_pack("{s:I,s:I,s:b,s:i,s:b,s:[i,I]}", "sequence", sequence_of(operation->document),
                  "offset", (json_int_t)operation->journal.offset, "begun", operation->was_begun,
                  "workers", (int)operation->workers, "cancelled", operation->is_cancelled,
                  "worker", (int)operation->worker, (json_int_t)operation->worker_started);
    if (copy == NULL || json_object_set_new(copy, "internal", internal) < 0) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

int operation_save(struct operation *operation, struct error *err)
{
    json_auto_t *document = operation_kept(operation);
    return document == NULL ? error_set_errno(err, ENOMEM, "operation %s", operation->id)
                            : documents_put(operation->all->options.documents, "operation",
                                            operation->id, document, err);
}

int operation_set_end(const struct operation *operation, json_t *document, const json_t *result,
                      const json_t *error, struct error *err)
{
    char now[OPERATION_TIME_SIZE];
    operation_time(now);
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *status = error == NULL ? "done"
                         : operation->is_cancelled && code != NULL && strcmp(code, "cancelled") == 0
                             ? "cancelled"
                             : "failed";
    int rc = json_object_set_new(document, "status", json_string(status));
    if (rc == 0) {
        rc = json_object_set_new(document, "ended_at", json_string(now));
    }
    if (rc == 0) {
        rc = json_object_set(document, error != NULL ? "error" : "result",
                             (json_t *)(error != NULL ? error : result));
    }
    return rc == 0 ? 0 : error_set_errno(err, ENOMEM, "operation %s", operation->id);
}

static bool frees_space(const struct operation *operation)
{
    return reserve_serves(json_string_value(json_object_get(operation->document, "kind")),
                          json_object_get(operation->document, "request"));
}

bool operation_gets_space(const struct operation *operation, int code)
{
    return frees_space(operation) && reserve_give(&operation->all->options.place, code);
}

static void try_save(struct operation *operation)
{
    static struct log_limit limit = LOG_LIMIT(5);
    struct error err;
    int rc;
    do {
        rc = operation_save(operation, &err);
    } while (rc < 0 && operation_gets_space(operation, rc));
    operation->is_unsaved = rc < 0;
    if (operation->is_unsaved) {
        log_limited(&limit, LOG_LEVEL_ERROR, "operation %s: keeping its end: %s, trying again",
                    operation->id, err.text);
    }
    operation->retry_ns = operation->is_unsaved ? clock_monotonic_ns() + OPERATION_RETRY_NS : 0;
}

void operation_ended(struct operation *operation, bool is_saved)
{
    struct operations *all = operation->all;
    struct operation_watch *watch;
    operation->is_ended = true;
    all->has_room = true;
    all->running -= operation->is_running;
    operation->is_running = false;
    if (!is_saved) {
        try_save(operation);
    }
    while ((watch = TAILQ_FIRST(&operation->watches)) != NULL) {
        TAILQ_REMOVE(&operation->watches, watch, link);
        watch->document = operation_public(operation->document);
        if (watch->document == NULL) {
            watch->document = json_incref(operation->document);
        }
        watch->list = &all->due;
        TAILQ_INSERT_TAIL(&all->due, watch, link);
    }
    event_notifier_signal(all->wake);
    operation_tell(operation);
}

void operation_fail(struct operation *operation, const struct error *problem)
{
    json_auto_t *error = operation_error(problem);
    if (operation_set_end(operation, operation->document, NULL, error, NULL) < 0) {
        operation_set_status(operation, "failed"); /* without memory for the reason */
    }
    operation_ended(operation, false);
}

/* Starts what may begin, if something has changed. */
static void start_some(struct operations *all)
{
    struct queue_pass pass;
    struct operation *operation;
    if (!all->has_room || all->running >= OPERATION_MAX_RUNNING) {
        return;
    }
    all->has_room = false;
    queue_pass_start(&pass);
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (operation->is_running) {
            (void)queue_take(&pass, json_object_get(operation->document, "resources"));
        }
    }
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (all->running >= OPERATION_MAX_RUNNING) {
            break;
        }
        if (!operation->is_running && !operation->is_ended &&
            queue_take(&pass, json_object_get(operation->document, "resources"))) {
            operation_start(operation);
        }
    }
    all->has_room = all->has_room || pass.is_broken;
    queue_pass_finish(&pass);
}

/* Those whose end is kept are of the past. */
static void sweep(struct operations *all)
{
    struct operation *operation = TAILQ_FIRST(&all->list);
    while (operation != NULL) {
        struct operation *next = TAILQ_NEXT(operation, link);
        if (operation->is_ended && operation->is_unsaved &&
            clock_monotonic_ns() >= operation->retry_ns) {
            try_save(operation);
        }
        if (operation->is_ended && !operation->is_unsaved && operation->child == 0) {
            TAILQ_REMOVE(&all->list, operation, link);
            all->count--;
            all->lacks_reserve = all->lacks_reserve || frees_space(operation);
            history_add(all, operation->document);
            operation_free(operation);
        }
        operation = next;
    }
}

/* What deletions, their workers too, have given up of the reserve is taken back when none is left. */
static void refill(struct operations *all)
{
    const struct operation *operation;
    if (!all->lacks_reserve || clock_monotonic_ns() < all->reserve_ns) {
        return;
    }
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (frees_space(operation)) {
            return;
        }
    }
    all->lacks_reserve = !reserve_take(&all->options.place);
    all->reserve_ns = all->lacks_reserve ? clock_monotonic_ns() + OPERATION_RETRY_NS : 0;
}

static void watch_free(struct operation_watch *watch)
{
    TAILQ_REMOVE(watch->list, watch, link);
    json_decref(watch->document);
    free(watch);
}

static void call_back(struct operations *all)
{
    /* Those that come while these are called have their turn later. */
    struct operation_watch *watch, *last = TAILQ_LAST(&all->due, operation_watches);
    bool is_last = last == NULL;
    while (!is_last && (watch = TAILQ_FIRST(&all->due)) != NULL) {
        is_last = watch == last;
        void (*ended)(void *ctx, const json_t *operation) = watch->ended;
        void *ctx = watch->ctx;
        json_auto_t *document = TAKE_PTR(watch->document);
        watch_free(watch);
        ended(ctx, document);
    }
}

static uint64_t next_deadline(const struct operations *all)
{
    uint64_t now = clock_monotonic_ns(), next = now + 3600 * OPERATION_RETRY_NS;
    const struct operation *operation;
    if (all->lacks_reserve) {
        next = MIN(next, MAX(all->reserve_ns, now + OPERATION_RETRY_NS));
    }
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (operation->retry_ns != 0) {
            next = MIN(next, operation->retry_ns);
        }
        if (operation->has_news) {
            next = MIN(next, operation->shown_ns + OPERATION_SHOW_NS);
        }
        if (operation->is_running || operation->child > 0) {
            bool is_told = operation->exit_source != NULL && all->inotify_fd >= 0;
            next = MIN(next, now + (is_told ? OPERATION_LOOK_NS : OPERATION_POLL_NS));
        }
    }
    return next;
}

static void turn(void *ctx)
{
    struct operations *all = ctx;
    struct operation *operation;
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (operation->is_running) {
            operation_follow(operation);
        } else if (operation->is_ended && operation->child > 0) {
            operation_reap(operation);
        }
    }
    start_some(all);
    TAILQ_FOREACH(operation, &all->list, link)
    {
        if (operation->has_news &&
            clock_monotonic_ns() - operation->shown_ns >= OPERATION_SHOW_NS) {
            operation_tell(operation);
        }
    }
    sweep(all);
    refill(all);
    history_prune(all);
    call_back(all);
    event_timer_arm(all->timer, next_deadline(all));
}

static void on_inotify(void *ctx, int fd, uint32_t events)
{
    char rest[4096];
    while (read(fd, rest, sizeof(rest)) >
           0) { /* which journal it is does not matter: they are few */
    }
    turn(ctx);
}

static int compare_sequences(const void *a, const void *b)
{
    json_int_t left = sequence_of(*(json_t *const *)a), right = sequence_of(*(json_t *const *)b);
    return (left > right) - (left < right);
}

static struct operation *operation_new(struct operations *all, const char *id, json_t *document)
{
    struct operation *operation = calloc(1, sizeof(*operation));
    if (operation == NULL) {
        return NULL;
    }
    operation->all = all;
    (void)snprintf(operation->id, sizeof(operation->id), "%s", id);
    operation->document = json_incref(document);
    operation->pidfd = -1;
    operation->journal_fd = -1;
    all->has_room = true;
    TAILQ_INIT(&operation->watches);
    TAILQ_INSERT_TAIL(&all->list, operation, link);
    all->count++;
    return operation;
}

static bool are_resources(const json_t *resources)
{
    size_t i;
    json_t *resource;
    json_array_foreach(resources, i, resource)
    {
        if (!json_is_string(resource)) {
            return false;
        }
    }
    return json_is_array(resources);
}

/* One that has not ended when hulld did. */
static int take_up(struct operations *all, json_t *document, struct error *err)
{
    const json_t *internal = json_object_get(document, "internal");
    const json_t *worker = json_object_get(internal, "worker");
    const char *id = json_string_value(json_object_get(document, "name"));
    struct operation *operation = operation_new(all, id, document);
    if (operation == NULL) {
        return error_set_errno(err, ENOMEM, "operation %s", id);
    }
    json_int_t offset = json_integer_value(json_object_get(internal, "offset"));
    operation->journal.offset = offset > 0 ? (uint64_t)offset : 0;
    operation->was_begun = json_is_true(json_object_get(internal, "begun"));
    operation->workers = (unsigned)json_integer_value(json_object_get(internal, "workers"));
    operation->is_cancelled = json_is_true(json_object_get(internal, "cancelled"));
    operation->asked = operation->is_cancelled;
    operation->worker = (pid_t)json_integer_value(json_array_get(worker, 0));
    operation->worker_started = (uint64_t)json_integer_value(json_array_get(worker, 1));
    struct error problem = {0};
    int rc = operation_resume(operation, &problem);
    if (rc == 0 && (!are_resources(json_object_get(document, "resources")) ||
                    !json_is_string(json_object_get(document, "kind")) ||
                    !json_is_object(json_object_get(document, "request")))) {
        rc = error_set(&problem, EIO, "what it was to do is lost");
    }
    if (rc < 0) {
        operation_fail(operation, &problem);
    }
    return 0;
}

static bool has_ended(const json_t *document)
{
    const char *status = json_string_value(json_object_get(document, "status"));
    return status == NULL || (strcmp(status, "waiting") != 0 && strcmp(status, "running") != 0);
}

static int load(struct operations *all, struct error *err)
{
    json_auto_t *list = NULL;
    int rc = documents_list(all->options.documents, "operation", &list, err);
    size_t count = rc == 0 ? json_array_size(list) : 0;
    AUTO_FREE json_t **sorted = calloc(count + 1, sizeof(json_t *));
    if (rc == 0 && sorted == NULL) {
        rc = error_set_errno(err, ENOMEM, "operations");
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        sorted[i] = json_array_get(list, i);
        all->next_sequence = MAX(all->next_sequence, sequence_of(sorted[i]) + 1);
    }
    if (rc == 0) {
        qsort(sorted, count, sizeof(json_t *), compare_sequences);
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const char *name = json_string_value(json_object_get(sorted[i], "name"));
        if (has_ended(sorted[i])) {
            history_add(all, sorted[i]);
        } else if (name != NULL && strlen(name) < OPERATION_ID_SIZE && strchr(name, '/') == NULL) {
            rc = take_up(all, sorted[i], err);
        }
    }
    return rc;
}

/* Journals wake us as they are written. Without that they are looked at from time to time. */
static void watch_journals(struct operations *all, const char *folder)
{
    all->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (all->inotify_fd >= 0 &&
        (inotify_add_watch(all->inotify_fd, folder, IN_MODIFY | IN_CLOSE_WRITE) < 0 ||
         event_loop_add_fd(all->options.loop, all->inotify_fd, EPOLLIN, on_inotify, all,
                           &all->inotify_source, NULL) < 0)) {
        close(TAKE_FD(all->inotify_fd));
    }
    if (all->inotify_fd < 0) {
        log_warning("operations: no notice of changes in %s, looking ten times a second", folder);
    }
}

int operations_create(const struct operations_options *options, struct operations **out_operations,
                      struct error *err)
{
    char folder[PATH_MAX];
    struct operations *all = calloc(1, sizeof(*all));
    if (all == NULL) {
        return error_set_errno(err, ENOMEM, "operations");
    }
    all->options = *options;
    all->lacks_reserve = true;
    all->inotify_fd = -1;
    TAILQ_INIT(&all->list);
    TAILQ_INIT(&all->due);
    TAILQ_INIT(&all->ended);
    TAILQ_INIT(&all->sessions);
    place_state_path(&options->place, "operations", NULL, NULL, folder);
    int rc = file_make_folders(folder, 0700, 0755, err);
    if (rc == 0) {
        rc = event_notifier_create(options->loop, turn, all, &all->wake, err);
    }
    if (rc == 0) {
        rc = event_timer_create(options->loop, turn, all, &all->timer, err);
    }
    if (rc == 0) {
        watch_journals(all, folder);
        rc = load(all, err);
    }
    if (rc < 0) {
        operations_destroy(all);
        return rc;
    }
    history_sweep(all);
    event_notifier_signal(all->wake);
    *out_operations = all;
    return 0;
}

void operations_destroy(struct operations *operations)
{
    if (operations == NULL) {
        return;
    }
    struct operation *operation;
    struct operation_watch *watch;
    sessions_clear(operations);
    while ((operation = TAILQ_FIRST(&operations->list)) != NULL) {
        while ((watch = TAILQ_FIRST(&operation->watches)) != NULL) {
            watch_free(watch);
        }
        TAILQ_REMOVE(&operations->list, operation, link);
        operation_free(operation);
    }
    while ((watch = TAILQ_FIRST(&operations->due)) != NULL) {
        watch_free(watch);
    }
    history_clear(operations);
    event_source_remove(operations->inotify_source);
    if (operations->inotify_fd >= 0) {
        close(operations->inotify_fd);
    }
    if (operations->timer != NULL) {
        event_timer_destroy(operations->timer);
    }
    if (operations->wake != NULL) {
        event_notifier_destroy(operations->wake);
    }
    free(operations);
}

static int make_id(char out_id[OPERATION_ID_SIZE], struct error *err)
{
    unsigned char bytes[OPERATION_ID_SIZE / 2];
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        return error_set_errno(err, errno, "operation: random numbers for its name");
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        (void)snprintf(out_id + 2 * i, 3, "%02x", bytes[i]);
    }
    return 0;
}

static json_t *new_document(const struct operations *all, const struct operation_spec *spec,
                            const char *id)
{
    char now[OPERATION_TIME_SIZE];
    operation_time(now);
    json_t *resources = json_array();
    for (size_t i = 0; spec->resources != NULL && spec->resources[i] != NULL; i++) {
        if (json_array_append_new(resources, json_string(spec->resources[i])) < 0) {
            json_decref(resources);
            return NULL;
        }
    }
    return json_pack("{s:s,s:s,s:s,s:s,s:o,s:s,s:O,s:{s:I}}", "name", id, "kind", spec->kind,
                     "description", spec->description, "status", "waiting", "resources", resources,
                     "created_at", now, "request", spec->request, "internal", "sequence",
                     all->next_sequence);
}

int operations_begin(struct operations *operations, const struct operation_spec *spec,
                     char out_id[OPERATION_ID_SIZE], struct error *err)
{
    char id[OPERATION_ID_SIZE];
    if (operations->count >= OPERATION_MAX_WAITING) {
        return error_set(err, EBUSY, "%s: %u operations wait already", spec->description,
                         operations->count);
    }
    int rc = make_id(id, err);
    if (rc < 0) {
        return rc;
    }
    json_auto_t *document = new_document(operations, spec, id);
    if (document == NULL) {
        return error_set(err, EINVAL, "%s: its words are no UTF-8", spec->description);
    }
    bool is_giving;
    do {
        rc = documents_put(operations->options.documents, "operation", id, document, err);
        is_giving = rc < 0 && reserve_serves(spec->kind, spec->request) &&
                    reserve_give(&operations->options.place, rc);
        operations->lacks_reserve = operations->lacks_reserve || is_giving;
    } while (is_giving);
    if (rc < 0) {
        return rc;
    }
    struct operation *operation = operation_new(operations, id, document);
    if (operation == NULL) {
        error_ignore(documents_delete(operations->options.documents, "operation", id, NULL));
        return error_set_errno(err, ENOMEM, "%s", spec->description);
    }
    operations->next_sequence++;
    memcpy(out_id, id, sizeof(id));
    event_notifier_signal(operations->wake);
    operation_tell(operation);
    return 0;
}

int operations_drop(struct operations *operations, const char *kind, const char *name,
                    struct error *err)
{
    int rc;
    do {
        rc = documents_delete(operations->options.documents, kind, name, err);
    } while (rc < 0 && reserve_give(&operations->options.place, rc));
    operations->lacks_reserve = true;
    event_notifier_signal(operations->wake);
    return rc;
}

int operations_get(struct operations *operations, const char *id, json_t **out_operation,
                   struct error *err)
{
    const struct operation *operation = operation_find(operations, id);
    json_auto_t *document = operation != NULL ? json_incref(operation->document) : NULL;
    int rc = document != NULL
                 ? 0
                 : documents_get(operations->options.documents, "operation", id, &document, err);
    if (rc == 0) {
        *out_operation = operation_public(document);
        rc = *out_operation == NULL ? error_set_errno(err, ENOMEM, "operation %s", id) : 0;
    }
    return rc;
}

int operations_list(struct operations *operations, json_t **out_list, struct error *err)
{
    json_auto_t *list = NULL, *all = json_array();
    int rc = documents_list(operations->options.documents, "operation", &list, err);
    size_t count = json_array_size(list);
    AUTO_FREE json_t **sorted = calloc(count + 1, sizeof(json_t *));
    if (rc < 0 || sorted == NULL || all == NULL) {
        return rc < 0 ? rc : error_set_errno(err, ENOMEM, "operations");
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = json_array_get(list, i);
    }
    qsort(sorted, count, sizeof(json_t *), compare_sequences);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const char *id = json_string_value(json_object_get(sorted[i], "name"));
        const struct operation *operation = id != NULL ? operation_find(operations, id) : NULL;
        const json_t *document = operation != NULL ? operation->document : sorted[i];
        if (json_array_append_new(all, operation_public(document)) < 0) {
            rc = error_set_errno(err, ENOMEM, "operations");
        }
    }
    if (rc == 0) {
        *out_list = TAKE_PTR(all);
    }
    return rc;
}

/* One that waits: kept first, or it would begin after all when hulld starts again. */
static int cancel_waiting(struct operation *operation, struct error *err)
{
    struct error problem;
    error_ignore(error_set(&problem, ECANCELED, "cancelled before it began"));
    json_auto_t *error = operation_error(&problem);
    operation->is_cancelled = true;
    json_auto_t *document = operation_kept(operation);
    int rc = document == NULL ? error_set_errno(err, ENOMEM, "operation %s", operation->id)
                              : operation_set_end(operation, document, NULL, error, err);
    if (rc == 0) {
        rc = documents_put(operation->all->options.documents, "operation", operation->id, document,
                           err);
    }
    if (rc < 0) {
        operation->is_cancelled = false;
        return rc;
    }
    json_decref(operation->document);
    operation->document = TAKE_PTR(document);
    operation_ended(operation, true);
    return 0;
}

int operations_cancel(struct operations *operations, const char *id, struct error *err)
{
    struct operation *operation = operation_find(operations, id);
    if (operation == NULL) {
        json_auto_t *document = NULL;
        int rc = documents_get(operations->options.documents, "operation", id, &document, err);
        return rc < 0 ? rc : error_set(err, EALREADY, "operation %s: it has ended", id);
    }
    if (operation->is_ended) {
        return error_set(err, EALREADY, "operation %s: it has ended", id);
    }
    if (!operation->is_running) {
        return cancel_waiting(operation, err);
    }
    struct error problem;
    operation->is_cancelled = true;
    operation->asked++;
    if (operation_save(operation, &problem) <
        0) { /* then a hulld that starts again does not know */
        log_warning("operation %s: keeping that it was cancelled: %s", id, problem.text);
    }
    operation_signal(operation, operation->asked > 1 ? SIGKILL : SIGTERM);
    return 0;
}

int operations_watch(struct operations *operations, const char *id,
                     void (*ended)(void *ctx, const json_t *operation), void *ctx,
                     struct operation_watch **out_watch, struct error *err)
{
    struct operation *operation = operation_find(operations, id);
    json_auto_t *document = NULL;
    if (operation == NULL || operation->is_ended) {
        int rc = operations_get(operations, id, &document, err);
        if (rc < 0) {
            return rc;
        }
    }
    struct operation_watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL) {
        return error_set_errno(err, ENOMEM, "operation %s", id);
    }
    watch->ended = ended;
    watch->ctx = ctx;
    watch->list = document != NULL ? &operations->due : &operation->watches;
    watch->document = TAKE_PTR(document);
    TAILQ_INSERT_TAIL(watch->list, watch, link);
    event_notifier_signal(operations->wake);
    *out_watch = watch;
    return 0;
}

void operation_watch_cancel(struct operation_watch *watch)
{
    watch_free(watch);
}

const char *operations_on(const struct operations *operations, const char *resource)
{
    const struct operation *operation;
    TAILQ_FOREACH(operation, &operations->list, link)
    {
        const json_t *resources = json_object_get(operation->document, "resources");
        size_t i;
        json_t *one;
        json_array_foreach(resources, i, one)
        {
            if (operation->is_running && strcmp(json_string_value(one), resource) == 0) {
                return json_string_value(json_object_get(operation->document, "kind"));
            }
        }
    }
    return NULL;
}
