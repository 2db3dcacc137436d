/* Operations with real workers (worker.c), whose hulld ends, and who end, at every point. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/operation/operation.h"
#include "manager/operation/operations.h"
#include "manager/operation/session.h"
#include "session/frames.h"
#include "tests/unit/manager/memory_store.h"

#define PATIENCE_NS 20000000000ull

struct bed {
    char folder[64], database[96];
    struct event_loop *loop;
    struct event_timer *guard, *tick;
    struct documents *documents;
    struct operations *operations;
    json_t *events;
    bool (*is_reached)(struct bed *bed);
    bool is_late;
    char id[OPERATION_ID_SIZE];
    json_t *ended;
};

static void on_event(void *ctx, const json_t *event)
{
    struct bed *bed = ctx;
    json_array_append_new(bed->events, json_deep_copy(event));
}

static void on_guard(void *ctx)
{
    struct bed *bed = ctx;
    bed->is_late = true;
    event_loop_stop(bed->loop);
}

static void on_tick(void *ctx)
{
    struct bed *bed = ctx;
    if (bed->is_reached(bed)) {
        event_loop_stop(bed->loop);
    } else {
        event_timer_arm(bed->tick, clock_monotonic_ns() + 1000000);
    }
}

static void run_until(struct bed *bed, bool (*is_reached)(struct bed *bed))
{
    bed->is_reached = is_reached;
    event_timer_arm(bed->guard, clock_monotonic_ns() + PATIENCE_NS);
    event_timer_arm(bed->tick, 0);
    assert_int_equal(event_loop_run(bed->loop, NULL), 0);
    event_timer_disarm(bed->guard);
    assert_false(bed->is_late);
}

/* As a hulld does that starts. */
static void begin_manager(struct bed *bed)
{
    struct error err = {0};
    struct operations_options options = {
        .loop = bed->loop, .documents = bed->documents, .event = on_event, .ctx = bed};
    snprintf(options.place.state, sizeof(options.place.state), "%s", bed->folder);
    snprintf(options.place.run, sizeof(options.place.run), "%s/run", bed->folder);
    snprintf(options.place.cache, sizeof(options.place.cache), "%s/cache", bed->folder);
    assert_int_equal(operations_create(&options, &bed->operations, &err), 0);
}

static void end_manager(struct bed *bed)
{
    operations_destroy(bed->operations);
    bed->operations = NULL;
}

static void make_loop(struct bed *bed)
{
    assert_int_equal(event_loop_create(&bed->loop, NULL), 0);
    assert_int_equal(event_timer_create(bed->loop, on_guard, bed, &bed->guard, NULL), 0);
    assert_int_equal(event_timer_create(bed->loop, on_tick, bed, &bed->tick, NULL), 0);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof(*bed));
    struct error err;
    strcpy(bed->folder, "/tmp/hull-test-operation-XXXXXX");
    assert_non_null(mkdtemp(bed->folder));
    snprintf(bed->database, sizeof(bed->database), "%s/database", bed->folder);
    make_loop(bed);
    assert_int_equal(documents_open("", &bed->documents, NULL, &err), 0);
    bed->events = json_array();
    begin_manager(bed);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    char command[128];
    end_manager(bed);
    documents_close(bed->documents);
    event_timer_destroy(bed->guard);
    event_timer_destroy(bed->tick);
    event_loop_destroy(bed->loop);
    json_decref(bed->events);
    json_decref(bed->ended);
    snprintf(command, sizeof(command), "rm -rf %s", bed->folder);
    assert_int_equal(system(command), 0);
    free(bed);
    return 0;
}

static void path_in(const struct bed *bed, const char *name, char out_path[96])
{
    snprintf(out_path, 96, "%s/%s", bed->folder, name);
}

static void touch(const struct bed *bed, const char *name)
{
    char path[96];
    path_in(bed, name, path);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

/* 'request' is taken over. */
static void begin(struct bed *bed, const char *kind, const char *const *resources, json_t *request,
                  char out_id[OPERATION_ID_SIZE])
{
    struct error err = {0};
    struct operation_spec spec = {
        .kind = kind, .description = "testing", .resources = resources, .request = request};
    assert_non_null(request);
    assert_int_equal(operations_begin(bed->operations, &spec, out_id, &err), 0);
    json_decref(request);
}

/* {file, log, name}: goes on when "go-NAME" is there. */
static void begin_hold(struct bed *bed, const char *name, const char *const *resources,
                       char out_id[OPERATION_ID_SIZE])
{
    char file[96], log[96], go[32];
    snprintf(go, sizeof(go), "go-%s", name);
    path_in(bed, go, file);
    path_in(bed, "log", log);
    begin(bed, "t-hold", resources,
          json_pack("{s:s,s:s,s:s}", "file", file, "log", log, "name", name), out_id);
}

static json_t *get(struct bed *bed, const char *id)
{
    json_t *operation = NULL;
    assert_int_equal(operations_get(bed->operations, id, &operation, NULL), 0);
    return operation;
}

static const char *status_of(struct bed *bed, const char *id)
{
    static char status[32];
    json_t *operation = get(bed, id);
    snprintf(status, sizeof(status), "%s", json_string_value(json_object_get(operation, "status")));
    json_decref(operation);
    return status;
}

static void assert_status(struct bed *bed, const char *id, const char *status)
{
    assert_string_equal(status_of(bed, id), status);
}

static void on_ended(void *ctx, const json_t *operation)
{
    struct bed *bed = ctx;
    assert_null(bed->ended);
    bed->ended = json_deep_copy(operation);
}

static bool has_ended(struct bed *bed)
{
    return bed->ended != NULL;
}

/* Waits for its end: borrowed. */
static const json_t *finish(struct bed *bed, const char *id)
{
    struct operation_watch *watch;
    json_decref(bed->ended);
    bed->ended = NULL;
    assert_int_equal(operations_watch(bed->operations, id, on_ended, bed, &watch, NULL), 0);
    run_until(bed, has_ended);
    return bed->ended;
}

static const char *code_of(const json_t *operation)
{
    return json_string_value(json_object_get(json_object_get(operation, "error"), "code"));
}

static const char *message_of(const json_t *operation)
{
    return json_string_value(json_object_get(json_object_get(operation, "error"), "message"));
}

static void assert_ended(const json_t *operation, const char *status)
{
    if (strcmp(json_string_value(json_object_get(operation, "status")), status) != 0) {
        json_dumpf(operation, stderr, JSON_INDENT(1));
    }
    assert_string_equal(json_string_value(json_object_get(operation, "status")), status);
    assert_non_null(json_object_get(operation, "ended_at"));
    assert_null(json_object_get(operation, "internal"));
}

static void assert_log(const struct bed *bed, const char *expected)
{
    char path[96];
    path_in(bed, "log", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE void *text = NULL;
    size_t size;
    if (fd < 0) {
        assert_string_equal(expected, "");
        return;
    }
    assert_int_equal(file_read_whole(fd, 65536, "log", &text, &size, NULL), 0);
    assert_string_equal(text, expected);
}

static size_t log_size(const struct bed *bed)
{
    char path[96];
    struct stat info;
    path_in(bed, "log", path);
    return stat(path, &info) < 0 ? 0 : (size_t)info.st_size;
}

static size_t awaited_size;
static bool has_log(struct bed *bed)
{
    return log_size(bed) >= awaited_size;
}

static void await_log(struct bed *bed, const char *expected)
{
    awaited_size = strlen(expected);
    run_until(bed, has_log);
    assert_log(bed, expected);
}

static const char *const none[] = {NULL};

/* The space that was reserved for it is given back. */
static bool has_small_journal(struct bed *bed)
{
    char path[160];
    struct stat info;
    snprintf(path, sizeof(path), "%s/operations/%s.jsonl", bed->folder, bed->id);
    assert_int_equal(stat(path, &info), 0);
    return info.st_size > 0 && info.st_blocks <= 32;
}

static void a_worker_gives_a_result(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-echo", none, json_pack("{s:s}", "a", "b"), id);
    assert_int_equal(strspn(id, "0123456789abcdef"), 32);
    assert_status(bed, id, "waiting");
    const json_t *ended = finish(bed, id);
    assert_ended(ended, "done");
    assert_string_equal(json_string_value(json_object_get(json_object_get(ended, "result"), "a")),
                        "b");
    assert_string_equal(json_string_value(json_object_get(ended, "description")), "testing");
    assert_non_null(json_object_get(ended, "created_at"));
    assert_non_null(json_object_get(ended, "started_at"));
    /* It told each of its statuses. */
    static const char *const statuses[] = {"waiting", "running", "done"};
    assert_int_equal(json_array_size(bed->events), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *event = json_array_get(bed->events, i);
        assert_string_equal(json_string_value(json_object_get(event, "type")), "operation");
        assert_string_equal(
            json_string_value(json_object_get(json_object_get(event, "operation"), "status")),
            statuses[i]);
    }
    assert_ended(finish(bed, id), "done"); /* watched after its end */
    memcpy(bed->id, id, sizeof(id));
    run_until(bed, has_small_journal);
    assert_int_equal(operations_cancel(bed->operations, id, NULL), -EALREADY);
    struct operation_watch *watch;
    assert_int_equal(operations_cancel(bed->operations, "nonsense", NULL), -ENOENT);
    assert_int_equal(operations_watch(bed->operations, "nonsense", on_ended, bed, &watch, NULL),
                     -ENOENT);
}

static void errors_come_in_words(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-fail", none, json_object(), id);
    const json_t *ended = finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(code_of(ended), "exists");
    assert_string_equal(message_of(ended), "instance web1: ? there is one");
    begin(bed, "t-nonsense", none, json_object(), id);
    ended = finish(bed, id);
    assert_string_equal(code_of(ended), "unsupported");
}

static void changes_are_made_in_their_order(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-put", none, json_pack("{s:i}", "count", 100), id);
    assert_ended(finish(bed, id), "done");
    const json_t *log = memory_store_log(bed->documents);
    assert_int_equal(json_array_size(log), 199);
    for (size_t i = 0; i < 199; i++) {
        char expected[64];
        size_t n = (i + 1) / 2;
        snprintf(expected, sizeof(expected),
                 i % 2 == 1 || i == 0 ? "put instance n%zu" : "drop instance n%zu",
                 i % 2 == 1 || i == 0 ? n : n - 1);
        assert_string_equal(json_string_value(json_array_get(log, i)), expected);
    }
    assert_true(documents_has(bed->documents, "instance", "n99"));
    /* And all events of the job, but only some of its progress. */
    size_t events = 0, i;
    json_t *event;
    json_array_foreach(bed->events, i, event)
    {
        events += strcmp(json_string_value(json_object_get(event, "type")), "test") == 0;
    }
    assert_int_equal(events, 100);
}

/* However much the worker tells. */
static void progress_is_told_five_times_a_second(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    uint64_t begin_ns = clock_monotonic_ns();
    begin(bed, "t-progress", none, json_pack("{s:i}", "count", 250), id);
    const json_t *ended = finish(bed, id);
    assert_ended(ended, "done");
    const json_t *progress = json_object_get(ended, "progress");
    assert_string_equal(json_string_value(json_object_get(progress, "text")), "step 249");
    assert_int_equal(json_integer_value(json_object_get(progress, "done")), 249);
    assert_int_equal(json_integer_value(json_object_get(progress, "total")), 250);
    uint64_t most = (clock_monotonic_ns() - begin_ns) / OPERATION_SHOW_NS + 1;
    size_t events = json_array_size(bed->events) - 3; /* without the changes of its status */
    assert_in_range(events, 1, most);
}

static void those_that_share_run_in_turn(void **state)
{
    struct bed *bed = *state;
    char a[OPERATION_ID_SIZE], b[OPERATION_ID_SIZE], c[OPERATION_ID_SIZE], d[OPERATION_ID_SIZE],
        e[OPERATION_ID_SIZE];
    begin_hold(bed, "a", (const char *const[]){"~image/x", "instance/1", NULL}, a);
    await_log(bed, "+a\n");
    begin_hold(bed, "b", (const char *const[]){"~image/x", "instance/2", NULL}, b);
    await_log(bed, "+a\n+b\n");
    assert_string_equal(operations_on(bed->operations, "instance/2"), "t-hold");
    assert_null(operations_on(bed->operations, "instance/3"));
    begin_hold(bed, "c", (const char *const[]){"image/x", NULL}, c);    /* waits for both */
    begin_hold(bed, "d", (const char *const[]){"~image/x", NULL}, d);   /* does not overtake c */
    begin_hold(bed, "e", (const char *const[]){"instance/3", NULL}, e); /* has nobody before it */
    await_log(bed, "+a\n+b\n+e\n");
    touch(bed, "go-a");
    assert_ended(finish(bed, a), "done");
    assert_status(bed, c, "waiting");
    assert_status(bed, d, "waiting");
    touch(bed, "go-b");
    assert_ended(finish(bed, b), "done");
    await_log(bed, "+a\n+b\n+e\n-a\n-b\n+c\n");
    assert_status(bed, d, "waiting");
    touch(bed, "go-c");
    assert_ended(finish(bed, c), "done");
    await_log(bed, "+a\n+b\n+e\n-a\n-b\n+c\n-c\n+d\n");
    touch(bed, "go-d");
    touch(bed, "go-e");
    assert_ended(finish(bed, d), "done");
    assert_ended(finish(bed, e), "done");
}

static void eight_run_at_once(void **state)
{
    struct bed *bed = *state;
    char ids[10][OPERATION_ID_SIZE];
    for (int i = 0; i < 10; i++) {
        begin_hold(bed, "x", none, ids[i]);
    }
    awaited_size = 8 * 3;
    run_until(bed, has_log);
    for (int i = 0; i < 8; i++) {
        assert_status(bed, ids[i], "running");
    }
    assert_status(bed, ids[8], "waiting");
    assert_status(bed, ids[9], "waiting");
    json_t *list = NULL;
    assert_int_equal(operations_list(bed->operations, &list, NULL), 0);
    assert_int_equal(json_array_size(list), 10);
    for (size_t i = 0; i < 10; i++) {
        assert_string_equal(json_string_value(json_object_get(json_array_get(list, i), "name")),
                            ids[i]);
    }
    json_decref(list);
    touch(bed, "go-x");
    for (int i = 0; i < 10; i++) {
        assert_ended(finish(bed, ids[i]), "done");
    }
}

static void cancelling_ends_what_waits_and_tells_what_runs(void **state)
{
    struct bed *bed = *state;
    char a[OPERATION_ID_SIZE], b[OPERATION_ID_SIZE];
    const char *const resources[] = {"instance/1", NULL};
    begin_hold(bed, "a", resources, a);
    begin_hold(bed, "b", resources, b);
    await_log(bed, "+a\n");
    assert_int_equal(operations_cancel(bed->operations, b, NULL), 0);
    assert_status(bed, b, "cancelled");
    const json_t *ended = finish(bed, b);
    assert_ended(ended, "cancelled");
    assert_string_equal(code_of(ended), "cancelled");
    assert_int_equal(operations_cancel(bed->operations, a, NULL), 0);
    ended = finish(bed, a);
    assert_ended(ended, "cancelled");
    assert_string_equal(message_of(ended), "cancelled, and undone");
    assert_log(bed, "+a\n");
}

static bool has_progress(struct bed *bed)
{
    json_auto_t *operation = get(bed, bed->id);
    return json_object_get(operation, "progress") != NULL;
}

static void one_that_does_not_listen_is_killed_when_asked_twice(void **state)
{
    struct bed *bed = *state;
    begin(bed, "t-stubborn", none, json_object(), bed->id);
    run_until(bed, has_progress);
    assert_int_equal(operations_cancel(bed->operations, bed->id, NULL), 0);
    assert_status(bed, bed->id, "running");
    assert_int_equal(operations_cancel(bed->operations, bed->id, NULL), 0);
    const json_t *ended = finish(bed, bed->id);
    assert_ended(ended, "cancelled");
    assert_string_equal(message_of(ended), "undone");
}

static void recovery_knows_the_steps(void **state)
{
    struct bed *bed = *state;
    for (int die_at = 0; die_at < 4; die_at++) {
        char id[OPERATION_ID_SIZE];
        begin(bed, "t-steps", none, json_pack("{s:i,s:i}", "steps", 4, "die_at", die_at), id);
        const json_t *ended = finish(bed, id);
        assert_ended(ended, "done");
        const json_t *result = json_object_get(ended, "result");
        assert_int_equal(json_array_size(json_object_get(result, "steps")), die_at);
        assert_true(json_is_true(json_object_get(result, "has_first")) == (die_at > 0));
        begin(bed, "t-steps", none,
              json_pack("{s:i,s:i,s:b}", "steps", 4, "die_at", die_at, "undo", 1), id);
        ended = finish(bed, id);
        assert_ended(ended, "failed"); /* nobody asked for that */
        char message[64];
        snprintf(message, sizeof(message), "undone behind %d steps", die_at);
        assert_string_equal(message_of(ended), message);
    }
}

static void workers_that_always_die_are_not_many(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-die", none, json_object(), id);
    const json_t *ended = finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(message_of(ended), "its workers died, 3 of them, the last by signal 9");
}

/* How many workers' beginnings its journal tells. */
static unsigned count_workers(struct bed *bed, const char *id)
{
    char path[160];
    struct journal journal;
    struct journal_line line;
    unsigned count = 0;
    snprintf(path, sizeof(path), "%s/operations/%s.jsonl", bed->folder, id);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    journal_start(&journal, fd, 0);
    while (journal_next(&journal, &line, NULL) > 0) {
        count += line.kind == JOURNAL_WORKER;
        journal_line_clear(&line);
    }
    journal_finish(&journal);
    return count;
}

static void rubbish_in_a_journal_is_passed_over(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-rubbish", none,
          json_pack("{s:s}", "text",
                    "{\"put\":[\"instance\",\n\n{\"put\":[\"operation\",\"x\",{}]}\n[1]\n"
                    "{\"drop\":[\"instance\",\"nobody\"]}\n"),
          id);
    assert_ended(finish(bed, id), "done");
    assert_true(documents_has(bed->documents, "instance", "before"));
    assert_true(documents_has(bed->documents, "instance", "after"));
    assert_false(documents_has(bed->documents, "operation", "x"));
    /* A worker that died within its line; what recovery writes is not part of it. */
    begin(bed, "t-rubbish", none,
          json_pack("{s:s,s:b}", "text", "{\"put\":[\"instance\",\"torn", "die", 1), id);
    assert_ended(finish(bed, id), "done");
    assert_true(documents_has(bed->documents, "instance", "recovered"));
    assert_int_equal(count_workers(bed, id), 2);
    assert_int_equal(json_array_size(memory_store_log(bed->documents)), 4);
}

static void a_manager_that_starts_again_goes_on(void **state)
{
    struct bed *bed = *state;
    char a[OPERATION_ID_SIZE], b[OPERATION_ID_SIZE], c[OPERATION_ID_SIZE];
    const char *const resources[] = {"instance/1", NULL};
    begin_hold(bed, "a", resources, a);
    begin_hold(bed, "b", resources, b);
    begin_hold(bed, "c", none, c);
    awaited_size = 6;
    run_until(bed, has_log);
    end_manager(bed);
    touch(bed, "go-c"); /* ends while nobody looks */
    begin_manager(bed);
    assert_status(bed, a, "running");
    assert_status(bed, b, "waiting");
    assert_ended(finish(bed, c), "done");
    /* The one it did not start can be cancelled, too, and wakes it by its end. */
    assert_int_equal(operations_cancel(bed->operations, a, NULL), 0);
    assert_ended(finish(bed, a), "cancelled");
    touch(bed, "go-b");
    assert_ended(finish(bed, b), "done");
    end_manager(bed);
    begin_manager(bed);
    assert_status(bed, a, "cancelled");
    assert_status(bed, b, "done");
}

static void a_worker_that_died_between_two_managers_is_recovered(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-stubborn", none, json_object(), bed->id);
    run_until(bed, has_progress);
    pid_t worker = operation_find(bed->operations, bed->id)->child;
    end_manager(bed);
    assert_int_equal(kill(worker, SIGKILL), 0);
    assert_int_equal(waitpid(worker, NULL, 0), worker);
    begin_manager(bed);
    const json_t *ended = finish(bed, bed->id);
    assert_ended(ended, "failed");
    assert_string_equal(message_of(ended), "nobody cancelled it");

    /* One that nobody had begun is begun. */
    begin(bed, "t-echo", none, json_object(), id);
    end_manager(bed);
    begin_manager(bed);
    assert_ended(finish(bed, id), "done");
}

static void assert_applied_once(const json_t *log, int count)
{
    assert_int_equal(json_array_size(log), 2 * count - 1);
    for (int i = 0; i < count; i++) {
        char expected[64];
        snprintf(expected, sizeof(expected), "put instance n%d", i);
        assert_string_equal(json_string_value(json_array_get(log, i == 0 ? 0 : 2 * i - 1)),
                            expected);
    }
}

static bool has_some(struct bed *bed)
{
    return json_array_size(memory_store_log(bed->documents)) >= awaited_size;
}

static void changes_are_made_once_whenever_a_manager_ends(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    begin(bed, "t-put", none, json_pack("{s:i,s:i}", "count", 60, "nap", 1), id);
    for (awaited_size = 1; awaited_size < 119; awaited_size += 6) {
        run_until(bed, has_some);
        end_manager(bed);
        begin_manager(bed);
    }
    assert_ended(finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 60);
}

/* A hulld in a process of its own, until it is killed or the operation has ended. */
static void be_manager(struct bed *bed, const char *id)
{
    make_loop(bed);
    bed->events = json_array();
    bed->ended = NULL;
    if (documents_open(bed->database, &bed->documents, NULL, NULL) < 0) {
        _exit(1);
    }
    begin_manager(bed);
    (void)finish(bed, id);
    _exit(0);
}

static void changes_are_made_once_whenever_a_manager_is_killed(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    int status = -1, kills = 0;
    begin(bed, "t-put", none, json_pack("{s:i,s:i}", "count", 100, "nap", 1), id);
    json_auto_t *document = NULL;
    assert_int_equal(documents_get(bed->documents, "operation", id, &document, NULL), 0);
    end_manager(bed);
    documents_close(bed->documents);
    assert_int_equal(documents_open(bed->database, &bed->documents, NULL, NULL), 0);
    assert_int_equal(documents_put(bed->documents, "operation", id, document, NULL), 0);
    while (kills < 1000) {
        struct bed theirs = *bed;
        pid_t pid = fork();
        if (pid == 0) {
            be_manager(&theirs, id);
        }
        usleep((useconds_t)(kills % 17 + 1) * 1000);
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) {
            break;
        }
        kills++;
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(kills > 3);
    documents_close(bed->documents);
    assert_int_equal(documents_open(bed->database, &bed->documents, NULL, NULL), 0);
    begin_manager(bed);
    assert_ended(finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 100);
}

static void a_database_that_fails_delays_but_loses_nothing(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    struct error err;
    begin(bed, "t-put", none, json_pack("{s:i}", "count", 30), id);
    memory_store_fail(bed->documents, ENOSPC, 2);
    assert_ended(finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 30);
    /* What changes nothing else ends at once. */
    begin(bed, "t-fail", none, json_object(), id);
    memory_store_fail(bed->documents, ENOSPC, 3);
    assert_string_equal(code_of(finish(bed, id)), "exists");
    assert_status(bed, id, "failed");
    memory_store_fail(bed->documents, ENOSPC, 1);
    struct operation_spec spec = {
        .kind = "t-echo", .description = "x", .resources = none, .request = json_object()};
    assert_int_equal(operations_begin(bed->operations, &spec, id, &err), -ENOSPC);
    json_decref(spec.request);
}

static void a_full_disk_is_told(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE], file[96], command[160];
    end_manager(bed);
    bool is_mounted = unshare(CLONE_NEWNS) == 0 &&
                      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                      mount("full", bed->folder, "tmpfs", 0, "size=4m") == 0;
    begin_manager(bed);
    if (!is_mounted) {
        print_message("[  SKIPPED ] a full disk is told: no right to mount one\n");
        skip();
    }
    path_in(bed, "full", file);
    begin(bed, "t-fill", none, json_pack("{s:s}", "file", file), id);
    const json_t *ended = finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(code_of(ended), "no-space");
    assert_non_null(strstr(message_of(ended), "No space left"));
    /* And the next one does not even begin. */
    begin(bed, "t-echo", none, json_object(), id);
    ended = finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(code_of(ended), "no-space");
    assert_int_equal(unlink(file), 0);
    begin(bed, "t-echo", none, json_object(), id);
    assert_ended(finish(bed, id), "done");
    end_manager(bed);
    snprintf(command, sizeof(command), "umount %s", bed->folder);
    assert_int_equal(system(command), 0);
    begin_manager(bed);
}

static void put_ended(struct bed *bed, const char *id, const char *ended_at, int sequence)
{
    json_auto_t *document =
        json_pack("{s:s,s:s,s:s,s:s,s:{s:i}}", "name", id, "kind", "t-echo", "status", "done",
                  "ended_at", ended_at, "internal", "sequence", sequence);
    assert_int_equal(documents_put(bed->documents, "operation", id, document, NULL), 0);
}

static size_t count_operations(struct bed *bed)
{
    json_auto_t *list = NULL;
    assert_int_equal(operations_list(bed->operations, &list, NULL), 0);
    return json_array_size(list);
}

static bool are_as_many(struct bed *bed)
{
    return count_operations(bed) == awaited_size;
}

static void old_ones_are_forgotten(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE], path[160];
    end_manager(bed);
    for (int i = 0; i < 1020; i++) {
        snprintf(id, sizeof(id), "%032d", i);
        put_ended(bed, id, i < 5 ? "2001-01-01T00:00:00Z" : "2999-01-01T00:00:00Z", i);
    }
    snprintf(path, sizeof(path), "%s/operations/%032d.jsonl", bed->folder, 3);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    begin_manager(bed);
    awaited_size = 1000;
    run_until(bed, are_as_many);
    assert_int_equal(access(path, F_OK), -1);
    begin(bed, "t-echo", none, json_object(), id);
    assert_ended(finish(bed, id), "done");
    run_until(bed, are_as_many);
}

static void damaged_documents_end_in_words(void **state)
{
    struct bed *bed = *state;
    end_manager(bed);
    json_auto_t *document = json_pack("{s:s,s:s}", "name", "broken", "status", "running");
    assert_int_equal(documents_put(bed->documents, "operation", "broken", document, NULL), 0);
    begin_manager(bed);
    assert_status(bed, "broken", "failed");
    assert_ended(finish(bed, "broken"), "failed");
}

static void watches_may_be_cancelled(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    struct operation_watch *watch, *second;
    begin(bed, "t-echo", none, json_object(), id);
    assert_int_equal(operations_watch(bed->operations, id, on_ended, bed, &watch, NULL), 0);
    operation_watch_cancel(watch);
    assert_ended(finish(bed, id), "done"); /* called once: on_ended checks it */
    assert_int_equal(operations_watch(bed->operations, id, on_ended, bed, &watch, NULL), 0);
    assert_int_equal(operations_watch(bed->operations, id, on_ended, bed, &second, NULL), 0);
    operation_watch_cancel(second);
    json_decref(bed->ended);
    bed->ended = NULL;
    run_until(bed, has_ended);
}

/* The next frame, as text. */
static enum session_frame receive(int fd, char text[256])
{
    static char data[SESSION_MAX_PAYLOAD];
    enum session_frame type;
    size_t size;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 60000), 1);
    assert_int_equal(session_receive(fd, &type, data, &size, NULL), 0);
    assert_true(size < 256);
    memcpy(text, data, size);
    text[size] = '\0';
    return type;
}

static bool has_no_session(struct bed *bed)
{
    return bed->operations->session_count == 0;
}

static void sessions_speak_frames(void **state)
{
    struct bed *bed = *state;
    char text[256];
    int fd;
    json_auto_t *document = json_pack("{s:s,s:s}", "name", "web1", "kind", "container");
    json_auto_t *request = json_pack("{s:s}", "do", "console");
    assert_int_equal(operation_session(bed->operations, document, request, &fd, NULL), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_int_equal(receive(fd, text), SESSION_STDOUT);
    assert_string_equal(text, "web1");
    assert_int_equal(session_send(fd, SESSION_STDIN, "hello", 5, NULL), 0);
    assert_int_equal(receive(fd, text), SESSION_STDOUT);
    assert_string_equal(text, "hello");
    assert_int_equal(session_send_control(fd, json_pack("{s:b}", "eof", 1), NULL), 0);
    assert_int_equal(receive(fd, text), SESSION_CONTROL);
    assert_string_equal(text, "{\"exit\":7}");
    close(fd);
    run_until(bed, has_no_session);

    json_object_set_new(document, "kind", json_string("vm"));
    assert_int_equal(operation_session(bed->operations, document, request, &fd, NULL), 0);
    assert_int_equal(receive(fd, text), SESSION_CONTROL);
    assert_string_equal(text,
                        "{\"error\":{\"code\":\"not-found\",\"message\":\"it does not run\"}}");
    close(fd);
    /* One whose other side goes ends, too. */
    json_object_set_new(document, "kind", json_string("container"));
    assert_int_equal(operation_session(bed->operations, document, request, &fd, NULL), 0);
    close(fd);
    run_until(bed, has_no_session);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_worker_gives_a_result),
        TEST(errors_come_in_words),
        TEST(changes_are_made_in_their_order),
        TEST(progress_is_told_five_times_a_second),
        TEST(those_that_share_run_in_turn),
        TEST(eight_run_at_once),
        TEST(cancelling_ends_what_waits_and_tells_what_runs),
        TEST(one_that_does_not_listen_is_killed_when_asked_twice),
        TEST(recovery_knows_the_steps),
        TEST(workers_that_always_die_are_not_many),
        TEST(rubbish_in_a_journal_is_passed_over),
        TEST(a_manager_that_starts_again_goes_on),
        TEST(a_worker_that_died_between_two_managers_is_recovered),
        TEST(changes_are_made_once_whenever_a_manager_ends),
        TEST(changes_are_made_once_whenever_a_manager_is_killed),
        TEST(a_database_that_fails_delays_but_loses_nothing),
        TEST(old_ones_are_forgotten),
        TEST(damaged_documents_end_in_words),
        TEST(watches_may_be_cancelled),
        TEST(sessions_speak_frames),
        TEST(a_full_disk_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
