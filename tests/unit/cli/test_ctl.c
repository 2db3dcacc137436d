#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cli/ctl.h"

static void words_become_typed_members(void **state)
{
    char *words[] = {"bytes=256M", "then=quit", "on=true", "n=12", "text=a=b"};
    struct error err;
    json_t *request;
    assert_int_equal(ctl_request_make("save", 5, words, &request, &err), 0);
    char *text = json_dumps(request, JSON_COMPACT);
    assert_string_equal(text, "{\"id\":1,\"do\":\"save\",\"bytes\":268435456,\"then\":\"quit\","
                              "\"on\":true,\"n\":12,\"text\":\"a=b\"}");
    free(text);
    json_decref(request);
}

static void check_refused(char *word, const char *expected)
{
    struct error err;
    json_t *request = NULL;
    assert_true(ctl_request_make("save", 1, &word, &request, &err) < 0);
    assert_string_equal(err.text, expected);
    assert_null(request);
}

static void bad_words_are_named(void **state)
{
    check_refused("file", "ctl: argument file: no value: KEY=VALUE");
    check_refused("=x", "ctl: argument =x: no value: KEY=VALUE");
    check_refused(
        "bytes=many",
        "ctl: argument bytes: 'many' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("id=3", "ctl: argument id: not a key for arguments: another KEY=VALUE");
    check_refused("x=\xff", "ctl: argument x: its value is not UTF-8: UTF-8 text");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_become_typed_members),
        cmocka_unit_test(bad_words_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
