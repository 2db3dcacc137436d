/* Journals that are not whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/operation/journal.h"
#include "manager/operation/queue.h"

static enum journal_kind kind_of(const char *text)
{
    struct journal_line line;
    journal_parse(text, strlen(text), &line);
    enum journal_kind kind = line.kind;
    assert_true((line.json != NULL) == (kind != JOURNAL_NOTHING));
    journal_line_clear(&line);
    return kind;
}

static void lines_have_kinds(void **state)
{
    assert_int_equal(kind_of("{\"worker\":12,\"started\":3}"), JOURNAL_WORKER);
    assert_int_equal(kind_of("{\"step\":\"a\",\"put\":1,\"worker\":\"x\"}"), JOURNAL_STEP);
    assert_int_equal(kind_of("{\"progress\":\"a\",\"done\":-3}"), JOURNAL_PROGRESS);
    assert_int_equal(kind_of("{\"put\":[\"instance\",\"a\",{}]}"), JOURNAL_PUT);
    assert_int_equal(kind_of("{\"drop\":[\"instance\",\"a\"]}"), JOURNAL_DROP);
    assert_int_equal(kind_of("{\"event\":{}}"), JOURNAL_EVENT);
    assert_int_equal(kind_of("{\"result\":{}}"), JOURNAL_RESULT);
    assert_int_equal(kind_of("{\"error\":{\"code\":\"a\",\"message\":\"b\"}}"), JOURNAL_ERROR);
}

static void rubbish_is_nothing(void **state)
{
    static const char *const lines[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"worker\":0}",
        "{\"worker\":4294967297}",
        "{\"worker\":-1}",
        "{\"step\":1}",
        "{\"progress\":null}",
        "{\"put\":[\"instance\",\"a\"]}",
        "{\"put\":[\"instance\",\"a\",[]]}",
        "{\"put\":[\"instance\",\"\",{}]}",
        "{\"put\":[\"instance\",\"a\",{},1]}",
        "{\"drop\":[\"instance\",\"a\",{}]}",
        "{\"drop\":\"instance\"}",
        "{\"event\":1}",
        "{\"result\":null}",
        "{\"result\":{},\"error\":{\"code\":\"a\",\"message\":\"b\"}}",
        "{\"error\":{\"code\":\"a\"}}",
        "{\"error\":\"a\"}",
        "{\"result\":{}}{\"result\":{}}",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_int_equal(kind_of(lines[i]), JOURNAL_NOTHING);
    }
}

static int file_of(const char *text)
{
    int fd = memfd_create("journal", MFD_CLOEXEC);
    assert_int_equal(file_write_at(fd, text, strlen(text), 0, "journal", NULL), 0);
    return fd;
}

static void a_line_counts_with_its_newline(void **state)
{
    static const char text[] = "{\"step\":\"a\"}\nrubb\0ish\n{\"step\":\"b\"}\n{\"result\"";
    int fd = memfd_create("journal", MFD_CLOEXEC);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    struct journal journal;
    struct journal_line line;
    journal_start(&journal, fd, 0);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_int_equal(line.kind, JOURNAL_STEP);
    assert_string_equal(line.name, "a");
    assert_int_equal(line.end, 13);
    journal_line_clear(&line);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_int_equal(line.kind, JOURNAL_NOTHING);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_string_equal(line.name, "b");
    journal_line_clear(&line);
    uint64_t end = journal.offset;
    assert_int_equal(journal_next(&journal, &line, NULL), 0);
    assert_int_equal(journal.offset, end);

    /* The worker takes the beginning back, and writes something else. */
    assert_int_equal(ftruncate(fd, (off_t)end), 0);
    assert_int_equal(file_write_at(fd, "{\"error\":{\"code\":\"x\",\"message\":\"y\"}}\n", 37, end,
                                   "journal", NULL),
                     0);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_int_equal(line.kind, JOURNAL_ERROR);
    journal_line_clear(&line);

    journal_rewind(&journal, 0);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_string_equal(line.name, "a");
    journal_line_clear(&line);
    journal_finish(&journal);
    close(fd);
}

static void lines_that_are_too_long_are_passed_over(void **state)
{
    static const char tail[] = "\"}\n{\"step\":\"b\"}\n";
    size_t size = JOURNAL_MAX_LINE + 100000;
    char *text = malloc(size + sizeof(tail));
    memset(text, 'x', size);
    memcpy(text, "{\"step\":\"", 9);
    memcpy(text + size, tail, sizeof(tail));
    struct journal journal;
    struct journal_line line;
    int fd = file_of("");
    journal_start(&journal, fd, 0);
    /* It comes in pieces; whoever looks in between finds nothing. */
    for (size_t at = 0; at < size; at += size / 3) {
        size_t piece = size - at < size / 3 ? size - at : size / 3;
        assert_int_equal(file_write_at(fd, text + at, piece, at, "journal", NULL), 0);
        assert_int_equal(journal_next(&journal, &line, NULL), 0);
        assert_int_equal(journal.offset, 0);
    }
    assert_int_equal(file_write_at(fd, tail, sizeof(tail) - 1, size, "journal", NULL), 0);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_int_equal(line.kind, JOURNAL_NOTHING);
    assert_int_equal(journal_next(&journal, &line, NULL), 1);
    assert_string_equal(line.name, "b");
    assert_int_equal(line.end, size + sizeof(tail) - 1);
    journal_line_clear(&line);
    journal_finish(&journal);
    close(fd);
    free(text);
}

static void an_offset_beyond_a_shorter_file_is_aligned(void **state)
{
    uint64_t offset;
    int fd = file_of("one\ntwo\nthr");
    assert_int_equal(journal_align(fd, 100, &offset, NULL), 0);
    assert_int_equal(offset, 8);
    assert_int_equal(journal_align(fd, 8, &offset, NULL), 0);
    assert_int_equal(offset, 8);
    assert_int_equal(journal_align(fd, 7, &offset, NULL), 0);
    assert_int_equal(offset, 4);
    assert_int_equal(journal_align(fd, 2, &offset, NULL), 0);
    assert_int_equal(offset, 0);
    close(fd);
}

static bool take(struct queue_pass *pass, const char *first, const char *second)
{
    json_auto_t *resources = json_pack("[s]", first);
    if (second != NULL) {
        json_array_append_new(resources, json_string(second));
    }
    return queue_take(pass, resources);
}

static void resources_are_taken_alone_or_shared(void **state)
{
    struct queue_pass pass;
    queue_pass_start(&pass);
    assert_true(take(&pass, "a", NULL));
    assert_true(take(&pass, "~b", NULL));
    assert_true(take(&pass, "~b", "c"));
    assert_false(take(&pass, "a", NULL));
    assert_false(take(&pass, "~a", NULL));
    assert_false(take(&pass, "d", "b")); /* waits, and so do those behind it */
    assert_false(take(&pass, "~b", NULL));
    assert_false(take(&pass, "~d", NULL));
    assert_true(take(&pass, "e", "~e")); /* nobody is in their own way */
    assert_false(take(&pass, "~e", NULL));
    queue_pass_finish(&pass);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_have_kinds),
        cmocka_unit_test(rubbish_is_nothing),
        cmocka_unit_test(a_line_counts_with_its_newline),
        cmocka_unit_test(lines_that_are_too_long_are_passed_over),
        cmocka_unit_test(an_offset_beyond_a_shorter_file_is_aligned),
        cmocka_unit_test(resources_are_taken_alone_or_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
