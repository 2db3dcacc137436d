/* Operations whose hulld ends, whose workers end, whose disk is full, at every point. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/operation/operations.h"
#include "tests/unit/manager/memory_store.h"
#include "tests/unit/manager/operation_bed.h"

static void recovery_knows_the_steps(void **state)
{
    struct bed *bed = *state;
    for (int die_at = 0; die_at < 4; die_at++) {
        char id[OPERATION_ID_SIZE];
        bed_begin(bed, "t-steps", no_resources,
                  json_pack("{s:i,s:i}", "steps", 4, "die_at", die_at), id);
        const json_t *ended = bed_finish(bed, id);
        assert_ended(ended, "done");
        const json_t *result = json_object_get(ended, "result");
        assert_int_equal(json_array_size(json_object_get(result, "steps")), die_at);
        assert_true(json_is_true(json_object_get(result, "has_first")) == (die_at > 0));
        bed_begin(bed, "t-steps", no_resources,
                  json_pack("{s:i,s:i,s:b}", "steps", 4, "die_at", die_at, "undo", 1), id);
        ended = bed_finish(bed, id);
        assert_ended(ended, "failed"); /* nobody asked for that */
        char message[64];
        snprintf(message, sizeof(message), "undone behind %d steps", die_at);
        assert_string_equal(bed_message_of(ended), message);
    }
}

static void workers_that_always_die_are_not_many(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-die", no_resources, json_object(), id);
    const json_t *ended = bed_finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(bed_message_of(ended), "its workers died, 3 of them, the last by signal 9");
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
    bed_begin(bed, "t-rubbish", no_resources,
              json_pack("{s:s}", "text",
                        "{\"put\":[\"instance\",\n\n{\"put\":[\"operation\",\"x\",{}]}\n[1]\n"
                        "{\"drop\":[\"instance\",\"nobody\"]}\n"),
              id);
    assert_ended(bed_finish(bed, id), "done");
    assert_true(documents_has(bed->documents, "instance", "before"));
    assert_true(documents_has(bed->documents, "instance", "after"));
    assert_false(documents_has(bed->documents, "operation", "x"));
    /* A worker that died within its line; what recovery writes is not part of it. */
    bed_begin(bed, "t-rubbish", no_resources,
              json_pack("{s:s,s:b}", "text", "{\"put\":[\"instance\",\"torn", "die", 1), id);
    assert_ended(bed_finish(bed, id), "done");
    assert_true(documents_has(bed->documents, "instance", "recovered"));
    assert_int_equal(count_workers(bed, id), 2);
    assert_int_equal(json_array_size(memory_store_log(bed->documents)), 4);
}

static void a_manager_that_starts_again_goes_on(void **state)
{
    struct bed *bed = *state;
    char a[OPERATION_ID_SIZE], b[OPERATION_ID_SIZE], c[OPERATION_ID_SIZE];
    const char *const resources[] = {"instance/1", NULL};
    bed_begin_hold(bed, "a", resources, a);
    bed_begin_hold(bed, "b", resources, b);
    bed_begin_hold(bed, "c", no_resources, c);
    bed->awaited_size = 6;
    bed_run_until(bed, bed_has_log);
    bed_end_manager(bed);
    bed_touch(bed, "go-c"); /* ends while nobody looks */
    bed_begin_manager(bed);
    assert_status(bed, a, "running");
    assert_status(bed, b, "waiting");
    assert_ended(bed_finish(bed, c), "done");
    /* The one it did not start can be cancelled, too, and wakes it by its end. */
    assert_int_equal(operations_cancel(bed->operations, a, NULL), 0);
    assert_ended(bed_finish(bed, a), "cancelled");
    bed_touch(bed, "go-b");
    assert_ended(bed_finish(bed, b), "done");
    bed_end_manager(bed);
    bed_begin_manager(bed);
    assert_status(bed, a, "cancelled");
    assert_status(bed, b, "done");
}

static void a_worker_that_died_between_two_managers_is_recovered(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-stubborn", no_resources, json_object(), bed->id);
    bed_run_until(bed, bed_has_progress);
    pid_t worker = operation_find(bed->operations, bed->id)->child;
    bed_end_manager(bed);
    assert_int_equal(kill(worker, SIGKILL), 0);
    assert_int_equal(waitpid(worker, NULL, 0), worker);
    bed_begin_manager(bed);
    const json_t *ended = bed_finish(bed, bed->id);
    assert_ended(ended, "failed");
    assert_string_equal(bed_message_of(ended), "nobody cancelled it");

    /* One that nobody had begun is begun. */
    bed_begin(bed, "t-echo", no_resources, json_object(), id);
    bed_end_manager(bed);
    bed_begin_manager(bed);
    assert_ended(bed_finish(bed, id), "done");
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
    return json_array_size(memory_store_log(bed->documents)) >= bed->awaited_size;
}

static void changes_are_made_once_whenever_a_manager_ends(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    bed_begin(bed, "t-put", no_resources, json_pack("{s:i,s:i}", "count", 60, "nap", 1), id);
    for (bed->awaited_size = 1; bed->awaited_size < 119; bed->awaited_size += 6) {
        bed_run_until(bed, has_some);
        bed_end_manager(bed);
        bed_begin_manager(bed);
    }
    assert_ended(bed_finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 60);
}

/* A hulld in a process of its own, until it is killed or the operation has ended. */
static void be_manager(struct bed *bed, const char *id)
{
    bed_make_loop(bed);
    bed->events = json_array();
    bed->ended = NULL;
    if (documents_open(bed->database, &bed->documents, NULL, NULL) < 0) {
        _exit(1);
    }
    bed_begin_manager(bed);
    (void)bed_finish(bed, id);
    _exit(0);
}

static void changes_are_made_once_whenever_a_manager_is_killed(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    int status = -1, kills = 0;
    bed_begin(bed, "t-put", no_resources, json_pack("{s:i,s:i}", "count", 100, "nap", 1), id);
    json_auto_t *document = NULL;
    assert_int_equal(documents_get(bed->documents, "operation", id, &document, NULL), 0);
    bed_end_manager(bed);
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
    bed_begin_manager(bed);
    assert_ended(bed_finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 100);
}

static void a_database_that_fails_delays_but_loses_nothing(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE];
    struct error err;
    bed_begin(bed, "t-put", no_resources, json_pack("{s:i}", "count", 30), id);
    memory_store_fail(bed->documents, ENOSPC, 2);
    assert_ended(bed_finish(bed, id), "done");
    assert_applied_once(memory_store_log(bed->documents), 30);
    /* What changes nothing else ends at once. */
    bed_begin(bed, "t-fail", no_resources, json_object(), id);
    memory_store_fail(bed->documents, ENOSPC, 3);
    assert_string_equal(bed_code_of(bed_finish(bed, id)), "exists");
    assert_status(bed, id, "failed");
    memory_store_fail(bed->documents, ENOSPC, 1);
    struct operation_spec spec = {
        .kind = "t-echo", .description = "x", .resources = no_resources, .request = json_object()};
    assert_int_equal(operations_begin(bed->operations, &spec, id, &err), -ENOSPC);
    json_decref(spec.request);
}

static void a_full_disk_is_told(void **state)
{
    struct bed *bed = *state;
    char id[OPERATION_ID_SIZE], file[96], command[160];
    bed_end_manager(bed);
    bool is_mounted = unshare(CLONE_NEWNS) == 0 &&
                      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                      mount("full", bed->folder, "tmpfs", 0, "size=4m") == 0;
    bed_begin_manager(bed);
    if (!is_mounted) {
        print_message("[  SKIPPED ] a full disk is told: no right to mount one\n");
        skip();
    }
    bed_path_in(bed, "full", file);
    bed_begin(bed, "t-fill", no_resources, json_pack("{s:s}", "file", file), id);
    const json_t *ended = bed_finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(bed_code_of(ended), "no-space");
    assert_non_null(strstr(bed_message_of(ended), "No space left"));
    /* And the next one does not even begin. */
    bed_begin(bed, "t-echo", no_resources, json_object(), id);
    ended = bed_finish(bed, id);
    assert_ended(ended, "failed");
    assert_string_equal(bed_code_of(ended), "no-space");
    assert_int_equal(unlink(file), 0);
    bed_begin(bed, "t-echo", no_resources, json_object(), id);
    assert_ended(bed_finish(bed, id), "done");
    bed_end_manager(bed);
    snprintf(command, sizeof(command), "umount %s", bed->folder);
    assert_int_equal(system(command), 0);
    bed_begin_manager(bed);
}

static void damaged_documents_end_in_words(void **state)
{
    struct bed *bed = *state;
    bed_end_manager(bed);
    json_auto_t *document = json_pack("{s:s,s:s}", "name", "broken", "status", "running");
    assert_int_equal(documents_put(bed->documents, "operation", "broken", document, NULL), 0);
    bed_begin_manager(bed);
    assert_status(bed, "broken", "failed");
    assert_ended(bed_finish(bed, "broken"), "failed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(recovery_knows_the_steps),
        TEST(workers_that_always_die_are_not_many),
        TEST(rubbish_in_a_journal_is_passed_over),
        TEST(a_manager_that_starts_again_goes_on),
        TEST(a_worker_that_died_between_two_managers_is_recovered),
        TEST(changes_are_made_once_whenever_a_manager_ends),
        TEST(changes_are_made_once_whenever_a_manager_is_killed),
        TEST(a_database_that_fails_delays_but_loses_nothing),
        TEST(damaged_documents_end_in_words),
        TEST(a_full_disk_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
