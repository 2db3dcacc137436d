/* The manager's documents: kept, found, listed; transactions; damaged and newer databases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above. */
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/store/store.h"

struct place_of_test {
    char folder[64];
    char path[96];
    struct documents *documents;
};

static int setup(void **state)
{
    struct place_of_test *place = calloc(1, sizeof(*place));
    assert_non_null(place);
    strcpy(place->folder, "/tmp/hull-test-store-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    snprintf(place->path, sizeof(place->path), "%s/hull.db", place->folder);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place_of_test *place = *state;
    documents_close(place->documents);
    DIR *folder = opendir(place->folder);
    assert_non_null(folder);
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        (void)unlinkat(dirfd(folder), entry->d_name, 0); /* not "." and ".." */
    }
    closedir(folder);
    assert_int_equal(rmdir(place->folder), 0);
    free(place);
    return 0;
}

static void open_again(struct place_of_test *place, bool expect_corrupt)
{
    documents_close(place->documents);
    place->documents = NULL;
    struct error err = {0};
    bool was_corrupt = !expect_corrupt;
    int rc = documents_open(place->path, &place->documents, &was_corrupt, &err);
    if (rc < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(was_corrupt, expect_corrupt);
}

static void put(struct place_of_test *place, const char *kind, const char *name, int value)
{
    struct error err = {0};
    json_t *document = json_pack("{s:s, s:i}", "name", name, "value", value);
    assert_int_equal(documents_put(place->documents, kind, name, document, &err), 0);
    json_decref(document);
}

/* -1: there is none. */
static int value_of(struct place_of_test *place, const char *kind, const char *name)
{
    struct error err = {0};
    json_t *document = NULL;
    int rc = documents_get(place->documents, kind, name, &document, &err);
    if (rc < 0) {
        assert_int_equal(rc, -ENOENT);
        assert_false(documents_has(place->documents, kind, name));
        return -1;
    }
    assert_true(documents_has(place->documents, kind, name));
    assert_string_equal(json_string_value(json_object_get(document, "name")), name);
    int value = (int)json_integer_value(json_object_get(document, "value"));
    json_decref(document);
    return value;
}

static void test_documents_stay(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    put(place, "instance", "web1", 1);
    put(place, "instance", "web1", 2);
    put(place, "network", "web1", 3);
    open_again(place, false);
    assert_int_equal(value_of(place, "instance", "web1"), 2);
    assert_int_equal(value_of(place, "network", "web1"), 3);
    struct error err = {0};
    assert_int_equal(documents_delete(place->documents, "instance", "web1", &err), 0);
    assert_int_equal(documents_delete(place->documents, "instance", "web1", &err), -ENOENT);
    open_again(place, false);
    assert_int_equal(value_of(place, "instance", "web1"), -1);
    assert_int_equal(value_of(place, "network", "web1"), 3);
}

static void test_lists_by_name(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    static const char *const names[] = {"c", "a", "\xc3\xa4", "b"};
    for (int i = 0; i < 4; i++) {
        put(place, "pool", names[i], i);
    }
    put(place, "network", "other", 9);
    struct error err = {0};
    json_t *list = NULL;
    assert_int_equal(documents_list(place->documents, "pool", &list, &err), 0);
    static const int expected[] = {1, 3, 0, 2};
    assert_int_equal(json_array_size(list), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(json_integer_value(json_object_get(json_array_get(list, i), "value")),
                         expected[i]);
    }
    json_decref(list);
    assert_int_equal(documents_list(place->documents, "volume", &list, &err), 0);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
}

static void assert_get_says(struct place_of_test *place, const char *name, const char *expected)
{
    struct error err = {0};
    json_t *document = NULL;
    assert_int_equal(documents_get(place->documents, "instance", name, &document, &err), -ENOENT);
    assert_string_equal(err.text, expected);
}

static void test_names_what_there_is(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    assert_get_says(place, "web1", "instance web1: there is none");
    put(place, "instance", "database", 1);
    put(place, "instance", "web2", 1);
    put(place, "network", "web1", 1);
    assert_get_says(place, "web1", "instance web1: there is none: did you mean 'web2'?");
    assert_get_says(place, "databse", "instance databse: there is none: did you mean 'database'?");
    assert_get_says(place, "mail", "instance mail: there is none: there are database, web2");
    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof(name), "aa%d", i);
        put(place, "instance", name, 1);
    }
    assert_get_says(place, "zzzz",
                    "instance zzzz: there is none: there are aa0, aa1, aa2, aa3, aa4, ...");
    /* The most similar one, not the first that is similar. */
    put(place, "instance", "cab", 1);
    put(place, "instance", "cat", 1);
    assert_get_says(place, "catt", "instance catt: there is none: did you mean 'cat'?");
    /* Names that no text of SQL should ever meet. */
    assert_get_says(place, "'; DROP TABLE documents; --",
                    "instance '; DROP TABLE documents; --: there is none: "
                    "there are aa0, aa1, aa2, aa3, aa4, ...");
    assert_int_equal(value_of(place, "instance", "web2"), 1);
}

static void test_transactions(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    struct error err = {0};
    put(place, "instance", "a", 1);
    assert_int_equal(documents_begin(place->documents, &err), 0);
    put(place, "instance", "a", 2);
    put(place, "instance", "b", 2);
    assert_int_equal(value_of(place, "instance", "b"), 2);
    documents_rollback(place->documents);
    documents_rollback(place->documents); /* nothing is open: nothing happens */
    assert_int_equal(value_of(place, "instance", "a"), 1);
    assert_int_equal(value_of(place, "instance", "b"), -1);
    assert_int_equal(documents_begin(place->documents, &err), 0);
    assert_true(documents_begin(place->documents, &err) < 0); /* they do not nest */
    put(place, "instance", "b", 3);
    error_ignore(documents_commit(place->documents, &err));
    open_again(place, false);
    put(place, "instance", "a", 1);
    assert_int_equal(documents_begin(place->documents, &err), 0);
    put(place, "instance", "a", 4);
    put(place, "instance", "c", 4);
    assert_int_equal(documents_commit(place->documents, &err), 0);
    open_again(place, false);
    assert_int_equal(value_of(place, "instance", "a"), 4);
    assert_int_equal(value_of(place, "instance", "c"), 4);
}

/* A process that is killed between begin and commit leaves nothing; what was committed before stays. */
static void test_killed_in_a_transaction(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    put(place, "instance", "a", 1);
    documents_close(place->documents);
    place->documents = NULL;
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        struct documents *documents = NULL;
        json_t *document = json_pack("{s:s, s:i}", "name", "a", "value", 2);
        bool is_fine = documents_open(place->path, &documents, NULL, NULL) == 0 &&
                       documents_put(documents, "instance", "done", document, NULL) == 0 &&
                       documents_begin(documents, NULL) == 0 &&
                       documents_put(documents, "instance", "a", document, NULL) == 0 &&
                       documents_put(documents, "instance", "b", document, NULL) == 0;
        char answer = is_fine ? 'y' : 'n';
        (void)!write(ready[1], &answer, 1);
        pause();
        _exit(0);
    }
    assert_true(child > 0);
    char answer = 0;
    assert_int_equal(read(ready[0], &answer, 1), 1);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(answer, 'y');
    open_again(place, false);
    assert_int_equal(value_of(place, "instance", "a"), 1);
    assert_int_equal(value_of(place, "instance", "b"), -1);
    assert_true(documents_has(place->documents, "instance", "done"));
}

static unsigned count_files(const struct place_of_test *place, const char *part)
{
    DIR *folder = opendir(place->folder);
    assert_non_null(folder);
    unsigned count = 0;
    const struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        count += strstr(entry->d_name, part) != NULL;
    }
    closedir(folder);
    return count;
}

static void overwrite(const struct place_of_test *place, off_t offset, const char *text)
{
    int fd = open(place->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, text, strlen(text), offset), (ssize_t)strlen(text));
    close(fd);
}

static void test_damaged_is_kept_aside(void **state)
{
    struct place_of_test *place = *state;
    /* No database at all. */
    overwrite(place, 0,
              "this is a text that somebody wrote over the database, which is longer "
              "than the hundred bytes of a header of SQLite, so that it is read");
    open_again(place, true);
    assert_int_equal(count_files(place, ".corrupt-"), 1);
    put(place, "instance", "a", 1);
    open_again(place, false);
    assert_int_equal(value_of(place, "instance", "a"), 1);
    /* A page in the middle. */
    for (int i = 0; i < 500; i++) {
        char name[32];
        snprintf(name, sizeof(name), "instance-%d", i);
        put(place, "instance", name, i);
    }
    documents_close(place->documents);
    place->documents = NULL;
    struct stat status;
    assert_int_equal(stat(place->path, &status), 0);
    assert_true(status.st_size >= 4 * 4096);
    for (off_t offset = 4096; offset < status.st_size; offset += 4096) {
        overwrite(place, offset, "\x02garbage garbage garbage");
    }
    open_again(place, true);
    assert_int_equal(count_files(place, ".corrupt-"), 2);
    assert_int_equal(value_of(place, "instance", "a"), -1);
}

static void test_newer_schema_is_refused(void **state)
{
    struct place_of_test *place = *state;
    sqlite3 *database = NULL;
    assert_int_equal(sqlite3_open(place->path, &database), SQLITE_OK);
    assert_int_equal(sqlite3_exec(database,
                                  "CREATE TABLE future (x); INSERT INTO future VALUES (7); "
                                  "PRAGMA user_version = 1000",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(database);
    int fd = open(place->path, O_RDONLY | O_CLOEXEC);
    void *before = NULL, *after = NULL;
    size_t before_size = 0, after_size = 0;
    struct error err = {0};
    assert_int_equal(file_read_whole(fd, 1 << 20, "database", &before, &before_size, &err), 0);
    close(fd);
    bool was_corrupt = true;
    assert_int_equal(documents_open(place->path, &place->documents, &was_corrupt, &err), -EPROTO);
    assert_false(was_corrupt);
    assert_non_null(strstr(err.text, "schema 1000"));
    assert_null(place->documents);
    fd = open(place->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(file_read_whole(fd, 1 << 20, "database", &after, &after_size, &err), 0);
    close(fd);
    assert_int_equal(before_size, after_size);
    assert_memory_equal(before, after, before_size);
    assert_int_equal(count_files(place, "hull.db"), 1);
    free(before);
    free(after);
}

static void test_refuses_what_is_no_document(void **state)
{
    struct place_of_test *place = *state;
    open_again(place, false);
    struct error err = {0};
    json_t *array = json_array();
    assert_int_equal(documents_put(place->documents, "pool", "a", array, &err), -EINVAL);
    json_decref(array);
    assert_false(documents_has(place->documents, "pool", "a"));
}

static void test_unusable_path(void **state)
{
    struct place_of_test *place = *state;
    struct error err = {0};
    assert_true(documents_open("/nonexistent/hull.db", &place->documents, NULL, &err) < 0);
    assert_non_null(strstr(err.text, "/nonexistent/hull.db"));
}

static void test_read_beside_another(void **state)
{
    struct place_of_test *place = *state;
    struct error err = {0};
    struct documents *reader = NULL;
    assert_true(documents_open_read(place->path, &reader, &err) < 0);
    open_again(place, false);
    put(place, "pool", "a", 1);
    assert_int_equal(documents_open_read(place->path, &reader, &err), 0);
    put(place, "pool", "b", 2);
    json_t *list = NULL;
    assert_int_equal(documents_list(reader, "pool", &list, &err), 0);
    assert_int_equal(json_array_size(list), 2);
    assert_true(documents_delete(reader, "pool", "a", &err) < 0);
    json_decref(list);
    documents_close(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_documents_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_what_there_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transactions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_in_a_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_is_kept_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_schema_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_what_is_no_document, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unusable_path, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_beside_another, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
