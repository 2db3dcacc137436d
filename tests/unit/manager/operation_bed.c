#include "tests/unit/manager/operation_bed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

#define PATIENCE_NS 20000000000ull

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

void bed_run_until(struct bed *bed, bool (*is_reached)(struct bed *bed))
{
    bed->is_reached = is_reached;
    event_timer_arm(bed->guard, clock_monotonic_ns() + PATIENCE_NS);
    event_timer_arm(bed->tick, 0);
    assert_int_equal(event_loop_run(bed->loop, NULL), 0);
    event_timer_disarm(bed->guard);
    assert_false(bed->is_late);
}

void bed_begin_manager(struct bed *bed)
{
    struct error err = {0};
    struct operations_options options = {
        .loop = bed->loop, .documents = bed->documents, .event = on_event, .ctx = bed};
    snprintf(options.place.state, sizeof(options.place.state), "%s", bed->folder);
    snprintf(options.place.run, sizeof(options.place.run), "%s/run", bed->folder);
    snprintf(options.place.cache, sizeof(options.place.cache), "%s/cache", bed->folder);
    assert_int_equal(operations_create(&options, &bed->operations, &err), 0);
}

void bed_end_manager(struct bed *bed)
{
    operations_destroy(bed->operations);
    bed->operations = NULL;
}

void bed_make_loop(struct bed *bed)
{
    assert_int_equal(event_loop_create(&bed->loop, NULL), 0);
    assert_int_equal(event_timer_create(bed->loop, on_guard, bed, &bed->guard, NULL), 0);
    assert_int_equal(event_timer_create(bed->loop, on_tick, bed, &bed->tick, NULL), 0);
}

int bed_setup(void **state)
{
    struct bed *bed = calloc(1, sizeof(*bed));
    struct error err;
    strcpy(bed->folder, "/tmp/hull-test-operation-XXXXXX");
    assert_non_null(mkdtemp(bed->folder));
    snprintf(bed->database, sizeof(bed->database), "%s/database", bed->folder);
    bed_make_loop(bed);
    assert_int_equal(documents_open("", &bed->documents, NULL, &err), 0);
    bed->events = json_array();
    bed_begin_manager(bed);
    *state = bed;
    return 0;
}

int bed_teardown(void **state)
{
    struct bed *bed = *state;
    char command[128];
    bed_end_manager(bed);
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

void bed_path_in(const struct bed *bed, const char *name, char out_path[96])
{
    snprintf(out_path, 96, "%s/%s", bed->folder, name);
}

void bed_touch(const struct bed *bed, const char *name)
{
    char path[96];
    bed_path_in(bed, name, path);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

void bed_begin(struct bed *bed, const char *kind, const char *const *resources, json_t *request,
               char out_id[OPERATION_ID_SIZE])
{
    struct error err = {0};
    struct operation_spec spec = {
        .kind = kind, .description = "testing", .resources = resources, .request = request};
    assert_non_null(request);
    assert_int_equal(operations_begin(bed->operations, &spec, out_id, &err), 0);
    json_decref(request);
}

void bed_begin_hold(struct bed *bed, const char *name, const char *const *resources,
                    char out_id[OPERATION_ID_SIZE])
{
    char file[96], log[96], go[32];
    snprintf(go, sizeof(go), "go-%s", name);
    bed_path_in(bed, go, file);
    bed_path_in(bed, "log", log);
    bed_begin(bed, "t-hold", resources,
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

void assert_status(struct bed *bed, const char *id, const char *status)
{
    assert_string_equal(status_of(bed, id), status);
}

void bed_on_ended(void *ctx, const json_t *operation)
{
    struct bed *bed = ctx;
    assert_null(bed->ended);
    bed->ended = json_deep_copy(operation);
}

bool bed_has_ended(struct bed *bed)
{
    return bed->ended != NULL;
}

const json_t *bed_finish(struct bed *bed, const char *id)
{
    struct operation_watch *watch;
    json_decref(bed->ended);
    bed->ended = NULL;
    assert_int_equal(operations_watch(bed->operations, id, bed_on_ended, bed, &watch, NULL), 0);
    bed_run_until(bed, bed_has_ended);
    return bed->ended;
}

const char *bed_code_of(const json_t *operation)
{
    return json_string_value(json_object_get(json_object_get(operation, "error"), "code"));
}

const char *bed_message_of(const json_t *operation)
{
    return json_string_value(json_object_get(json_object_get(operation, "error"), "message"));
}

void assert_ended(const json_t *operation, const char *status)
{
    if (strcmp(json_string_value(json_object_get(operation, "status")), status) != 0) {
        json_dumpf(operation, stderr, JSON_INDENT(1));
    }
    assert_string_equal(json_string_value(json_object_get(operation, "status")), status);
    assert_non_null(json_object_get(operation, "ended_at"));
    assert_null(json_object_get(operation, "internal"));
}

void assert_log(const struct bed *bed, const char *expected)
{
    char path[96];
    bed_path_in(bed, "log", path);
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
    bed_path_in(bed, "log", path);
    return stat(path, &info) < 0 ? 0 : (size_t)info.st_size;
}

bool bed_has_log(struct bed *bed)
{
    return log_size(bed) >= bed->awaited_size;
}

void bed_await_log(struct bed *bed, const char *expected)
{
    bed->awaited_size = strlen(expected);
    bed_run_until(bed, bed_has_log);
    assert_log(bed, expected);
}

const char *const no_resources[] = {NULL};

bool bed_has_small_journal(struct bed *bed)
{
    char path[160];
    struct stat info;
    snprintf(path, sizeof(path), "%s/operations/%s.jsonl", bed->folder, bed->id);
    assert_int_equal(stat(path, &info), 0);
    return info.st_size > 0 && info.st_blocks <= 32;
}

bool bed_has_progress(struct bed *bed)
{
    json_auto_t *operation = get(bed, bed->id);
    return json_object_get(operation, "progress") != NULL;
}
