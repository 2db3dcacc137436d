/* Covers src/container/spec: documents that must be read, and those that must not with the reason, in tests/fixtures/container/spec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container/spec/spec.h"

static const char *folder;

static FILE *open_fixture(const char *name)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    return file;
}

/* The next line that is no remark. */
static bool next_line(FILE *file, char **line, size_t *room)
{
    ssize_t length;
    do {
        length = getline(line, room, file);
        if (length > 0 && (*line)[length - 1] == '\n') {
            (*line)[length - 1] = '\0';
        }
    } while (length > 0 && (*line)[0] == '#');
    return length > 0;
}

static int parse_with(const char *members, struct spec **out_spec, struct error *err)
{
    char *text;
    int length = asprintf(
        &text, "{\"ociVersion\": \"1.3.0\", \"root\": {\"path\": \"rootfs\"},   %s}", members);
    assert_true(length > 0);
    int rc = spec_parse(text, (size_t)length, out_spec, err);
    free(text);
    return rc;
}

static void passes(void **state)
{
    FILE *file = open_fixture("pass.txt");
    char *line = NULL;
    size_t room = 0;
    unsigned count = 0;
    while (next_line(file, &line, &room)) {
        struct spec *spec = NULL;
        struct error err = {0};
        if (parse_with(line, &spec, &err) < 0) {
            fail_msg("%s\n%s", line, err.text);
        }
        spec_destroy(spec);
        count++;
    }
    assert_true(count > 20);
    free(line);
    (void)fclose(file);
}

static void fails_with_reason(void **state)
{
    FILE *file = open_fixture("fail.txt");
    char *line = NULL, *reason = NULL;
    size_t room = 0, reason_room = 0;
    unsigned count = 0, wrong = 0;
    while (next_line(file, &line, &room)) {
        assert_true(next_line(file, &reason, &reason_room));
        assert_memory_equal(reason, "-> ", 3);
        struct spec *spec = NULL;
        struct error err = {0};
        int rc = parse_with(line, &spec, &err);
        size_t expected = strlen(reason + 3);
        /* Lists of names are cut by the room for errors: the expected text ends in a comma there. */
        bool is_right = reason[2 + expected] == ',' ? strncmp(err.text, reason + 3, expected) == 0
                                                    : strcmp(err.text, reason + 3) == 0;
        if (rc != -EINVAL || !is_right) {
            print_error("%s\n%s\ngave %d, '%s'\n", line, reason, rc, err.text);
            wrong++;
        }
        assert_null(spec);
        count++;
    }
    assert_int_equal(wrong, 0);
    assert_true(count > 100);
    free(line);
    free(reason);
    (void)fclose(file);
}

static void whole_documents_pass(void **state)
{
    static const char *const names[] = {"pass-example.json", "pass-root.json",
                                        "pass-rootless.json"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        struct spec *spec = NULL;
        struct error err = {0};
        if (spec_load(path, &spec, &err) < 0) {
            fail_msg("%s", err.text);
        }
        assert_true(spec->has_process);
        spec_destroy(spec);
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes),
        cmocka_unit_test(fails_with_reason),
        cmocka_unit_test(whole_documents_pass),
    };
    folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
