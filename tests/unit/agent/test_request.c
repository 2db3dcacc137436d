#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/request.h"

static int parse(const char *text, struct request *out_request)
{
    struct error err = {0};
    int rc = request_parse(text, strlen(text), out_request, &err);
    assert_true(rc == 0 || err.text[0] != '\0');
    return rc;
}

static void exec_has_all_members(void **state)
{
    struct request r;
    assert_int_equal(
        parse(
            "{\"do\":\"exec\",\"command\":[\"a\",\"\"],\"environment\":{\"N\":\"V\"},\"cwd\":\"/\","
            "\"user\":\"me\",\"terminal\":true,\"columns\":100,\"rows\":50}",
            &r),
        0);
    assert_int_equal(r.kind, REQUEST_EXEC);
    assert_string_equal(r.command[0], "a");
    assert_string_equal(r.command[1], "");
    assert_null(r.command[2]);
    assert_string_equal(r.environment[0], "N");
    assert_string_equal(r.environment[1], "V");
    assert_null(r.environment[2]);
    assert_true(r.has_terminal);
    assert_int_equal(r.columns, 100);
    assert_int_equal(r.rows, 50);
    request_free(&r);
    assert_int_equal(parse("{\"do\":\"exec\",\"cwd\":null,\"later\":1}", &r), 0);
    assert_null(r.command[0]);
    assert_null(r.cwd);
    assert_int_equal(r.columns, 80);
    request_free(&r);
}

static void bad_requests_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"do\":null}",
        "{\"do\":\"info\"} x",
        "{\"do\":\"info\",\"do\":\"exec\"}",
        "{\"do\":\"\"}",
        "{\"do\":\"exec\",\"command\":\"sh\"}",
        "{\"do\":\"exec\",\"command\":[1]}",
        "{\"do\":\"exec\",\"command\":[\"\"]}",
        "{\"do\":\"exec\",\"command\":[\"a\\u0000b\"]}",
        "{\"do\":\"exec\",\"environment\":[]}",
        "{\"do\":\"exec\",\"environment\":{\"\":\"x\"}}",
        "{\"do\":\"exec\",\"environment\":{\"a=\":\"x\"}}",
        "{\"do\":\"exec\",\"environment\":{\"a\":1}}",
        "{\"do\":\"exec\",\"terminal\":1}",
        "{\"do\":\"exec\",\"columns\":65536}",
        "{\"do\":\"exec\",\"rows\":-1}",
        "{\"do\":\"push\",\"path\":\"a\"}",
        "{\"do\":\"pull\"}",
        "{\"do\":\"shutdown\",\"how\":\"halt\"}",
        "{\"do\":\"time\",\"ns\":-1}",
        "{\"do\":\"time\",\"ns\":1.5}",
        "{\"do\":\"identity\",\"hostname\":\"\"}",
        "{\"do\":\"identity\",\"hostname\":\"-a\"}",
        "{\"do\":\"identity\",\"hostname\":\"a..b\"}",
        "{\"do\":\"identity\",\"hostname\":\"a\\nb\"}",
        "{\"do\":\"identity\",\"machine_id\":\"0123\"}",
        "{\"do\":\"identity\",\"cards\":{}}",
        "{\"do\":\"identity\",\"cards\":[{\"from\":\"52:54:00:00:00:01\"}]}",
        "{\"do\":\"identity\",\"cards\":[{\"from\":\"52:54:00:00:00:01\",\"to\":\"52:54:00:00:00:1\"}]}",
        "{\"do\":\"identity\",\"cards\":[{\"from\":\"52:54:00:00:00:01\",\"to\":\"53:54:00:00:00:01\"}]}",
        "{\"do\":\"identity\",\"cards\":[{\"from\":\"00:00:00:00:00:00\",\"to\":\"52:54:00:00:00:01\"}]}",
        "{\"do\":\"identity\",\"machine_id\":\"0123456789ABCDEF0123456789ABCDEF\"}",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct request r = {.columns = 7};
        assert_int_equal(parse(bad[i], &r), -EINVAL);
        assert_int_equal(r.columns, 7);
    }
}

static void what_is_harmless(void **state)
{
    assert_true(request_is_harmless(REQUEST_INFO) && request_is_harmless(REQUEST_EXEC));
    assert_true(request_is_harmless(REQUEST_PUSH) && request_is_harmless(REQUEST_PULL));
    for (enum request_kind kind = REQUEST_SHUTDOWN; kind <= REQUEST_IDENTITY; kind++) {
        assert_false(request_is_harmless(kind));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exec_has_all_members),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(what_is_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
