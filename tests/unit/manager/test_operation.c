/* Operations with real workers (worker.c): their order, ends, cancelling, watches, sessions. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/operation/operations.h"
#include "manager/operation/session.h"
#include "session/frames.h"
#include "tests/unit/manager/memory_store.h"
#include "tests/unit/manager/operation_bed.h"

static void a_worker_gives_a_result(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-echo", no_resources, json_pack("{s:s}", "a", "b"), id);
    assert_int_equal(strspn(id, "0123456789abcdef"), 32);
    assert_status(bed, id, "waiting");
    const json_t *ended = bed_finish(bed, id);
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
    assert_ended(bed_finish(bed, id), "done"); /* watched after its end */
    memcpy(bed->id, id, sizeof(id));
    bed_run_until(bed, bed_has_small_journal);
    assert_int_equal(operations_cancel(bed->operations, id, NULL), -EALREADY);
    struct operation_watch *watch;
    assert_int_equal(operations_cancel(bed->operations, "nonsense", NULL), -ENOENT);
    assert_int_equal(operations_watch(bed->operations, "nonsense", bed_on_ended, bed, &watch, NULL),
                     -ENOENT);
}

static void errors_come_in_words(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-fail", no_resources, json_object(), id);
    const json_t *ended = bed_finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(bed_code_of(ended), "exists");
    assert_string_equal(bed_message_of(ended), "instance web1: ? there is one");
    bed_begin(bed, "t-nonsense", no_resources, json_object(), id);
    ended = bed_finish(bed, id);
    assert_string_equal(bed_code_of(ended), "unsupported");
}

static void changes_are_made_in_their_order(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-put", no_resources, json_pack("{s:i}", "count", 100), id);
    assert_ended(bed_finish(bed, id), "done");
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
    bed_begin(bed, "t-progress", no_resources, json_pack("{s:i}", "count", 250), id);
    const json_t *ended = bed_finish(bed, id);
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
    bed_begin_hold(bed, "a", (const char *const[]){"~image/x", "instance/1", NULL}, a);
    bed_await_log(bed, "+a\n");
    bed_begin_hold(bed, "b", (const char *const[]){"~image/x", "instance/2", NULL}, b);
    bed_await_log(bed, "+a\n+b\n");
    assert_string_equal(operations_on(bed->operations, "instance/2"), "t-hold");
    assert_null(operations_on(bed->operations, "instance/3"));
    bed_begin_hold(bed, "c", (const char *const[]){"image/x", NULL}, c);  /* waits for both */
    bed_begin_hold(bed, "d", (const char *const[]){"~image/x", NULL}, d); /* does not overtake c */
    bed_begin_hold(bed, "e", (const char *const[]){"instance/3", NULL},
                   e); /* has nobody before it */
    bed_await_log(bed, "+a\n+b\n+e\n");
    bed_touch(bed, "go-a");
    assert_ended(bed_finish(bed, a), "done");
    assert_status(bed, c, "waiting");
    assert_status(bed, d, "waiting");
    bed_touch(bed, "go-b");
    assert_ended(bed_finish(bed, b), "done");
    bed_await_log(bed, "+a\n+b\n+e\n-a\n-b\n+c\n");
    assert_status(bed, d, "waiting");
    bed_touch(bed, "go-c");
    assert_ended(bed_finish(bed, c), "done");
    bed_await_log(bed, "+a\n+b\n+e\n-a\n-b\n+c\n-c\n+d\n");
    bed_touch(bed, "go-d");
    bed_touch(bed, "go-e");
    assert_ended(bed_finish(bed, d), "done");
    assert_ended(bed_finish(bed, e), "done");
}

static void eight_run_at_once(void **state)
{
    struct bed *bed = *state;
    char ids[10][OPERATION_ID_SIZE];
    for (int i = 0; i < 10; i++) {
        bed_begin_hold(bed, "x", no_resources, ids[i]);
    }
    bed->awaited_size = 8 * 3;
    bed_run_until(bed, bed_has_log);
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
    bed_touch(bed, "go-x");
    for (int i = 0; i < 10; i++) {
        assert_ended(bed_finish(bed, ids[i]), "done");
    }
}

static void cancelling_ends_what_waits_and_tells_what_runs(void **state)
{
    struct bed *bed = *state;
    char a[OPERATION_ID_SIZE], b[OPERATION_ID_SIZE];
    const char *const resources[] = {"instance/1", NULL};
    bed_begin_hold(bed, "a", resources, a);
    bed_begin_hold(bed, "b", resources, b);
    bed_await_log(bed, "+a\n");
    assert_int_equal(operations_cancel(bed->operations, b, NULL), 0);
    assert_status(bed, b, "cancelled");
    const json_t *ended = bed_finish(bed, b);
    assert_ended(ended, "cancelled");
    assert_string_equal(bed_code_of(ended), "cancelled");
    assert_int_equal(operations_cancel(bed->operations, a, NULL), 0);
    ended = bed_finish(bed, a);
    assert_ended(ended, "cancelled");
    assert_string_equal(bed_message_of(ended), "cancelled, and undone");
    assert_log(bed, "+a\n");
}

static void one_that_does_not_listen_is_killed_when_asked_twice(void **state)
{
    struct bed *bed = *state;
    bed_begin(bed, "t-stubborn", no_resources, json_object(), bed->id);
    bed_run_until(bed, bed_has_progress);
    assert_int_equal(operations_cancel(bed->operations, bed->id, NULL), 0);
    assert_status(bed, bed->id, "running");
    assert_int_equal(operations_cancel(bed->operations, bed->id, NULL), 0);
    const json_t *ended = bed_finish(bed, bed->id);
    assert_ended(ended, "cancelled");
    assert_string_equal(bed_message_of(ended), "undone");
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
    return count_operations(bed) == bed->awaited_size;
}

static void old_ones_are_forgotten(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE], path[160];
    bed_end_manager(bed);
    for (int i = 0; i < 1020; i++) {
        snprintf(id, sizeof(id), "%032d", i);
        put_ended(bed, id, i < 5 ? "2001-01-01T00:00:00Z" : "2999-01-01T00:00:00Z", i);
    }
    snprintf(path, sizeof(path), "%s/operations/%032d.jsonl", bed->folder, 3);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    bed_begin_manager(bed);
    bed->awaited_size = 1000;
    bed_run_until(bed, are_as_many);
    assert_int_equal(access(path, F_OK), -1);
    bed_begin(bed, "t-echo", no_resources, json_object(), id);
    assert_ended(bed_finish(bed, id), "done");
    bed_run_until(bed, are_as_many);
}

static void watches_may_be_cancelled(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    struct operation_watch *watch, *second;
    bed_begin(bed, "t-echo", no_resources, json_object(), id);
    assert_int_equal(operations_watch(bed->operations, id, bed_on_ended, bed, &watch, NULL), 0);
    operation_watch_cancel(watch);
    assert_ended(bed_finish(bed, id), "done"); /* called once: on_ended checks it */
    assert_int_equal(operations_watch(bed->operations, id, bed_on_ended, bed, &watch, NULL), 0);
    assert_int_equal(operations_watch(bed->operations, id, bed_on_ended, bed, &second, NULL), 0);
    operation_watch_cancel(second);
    json_decref(bed->ended);
    bed->ended = NULL;
    bed_run_until(bed, bed_has_ended);
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
    bed_run_until(bed, has_no_session);

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
    bed_run_until(bed, has_no_session);
}

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
        TEST(old_ones_are_forgotten),
        TEST(watches_may_be_cancelled),
        TEST(sessions_speak_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
