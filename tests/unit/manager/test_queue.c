/* Which operations may begin, beside those before them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above. */
#include <cmocka.h>

#include <jansson.h>

#include "manager/operation/queue.h"

static bool take(struct queue_pass *pass, const char *text)
{
    json_t *resources = json_loads(text, 0, NULL);
    assert_non_null(resources);
    bool is_free = queue_take(pass, resources);
    json_decref(resources);
    return is_free;
}

static void test_one_alone_or_all_together(void **state)
{
    struct queue_pass pass;
    queue_pass_start(&pass);
    assert_true(take(&pass, "[\"instance/a\",\"~image/x\"]"));
    assert_true(take(&pass, "[\"instance/b\",\"~image/x\"]"));
    assert_false(take(&pass, "[\"instance/a\"]"));
    assert_false(take(&pass, "[\"image/x\"]"));
    assert_true(take(&pass, "[]"));
    queue_pass_finish(&pass);
}

static void test_who_waits_is_not_overtaken(void **state)
{
    struct queue_pass pass;
    queue_pass_start(&pass);
    assert_true(take(&pass, "[\"a\"]"));
    assert_false(take(&pass, "[\"a\",\"b\"]"));
    assert_false(take(&pass, "[\"b\"]"));
    assert_true(take(&pass, "[\"c\"]"));
    queue_pass_finish(&pass);
}

static void test_everything(void **state)
{
    struct queue_pass pass;
    queue_pass_start(&pass);
    assert_true(take(&pass, "[\"*\"]"));
    assert_false(take(&pass, "[\"a\"]"));
    assert_false(take(&pass, "[\"~b\"]"));
    assert_true(take(&pass, "[]"));
    queue_pass_finish(&pass);
    queue_pass_start(&pass);
    assert_true(take(&pass, "[\"~a\"]"));
    assert_false(take(&pass, "[\"*\"]"));
    assert_false(take(&pass, "[\"b\"]"));
    queue_pass_finish(&pass);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_alone_or_all_together),
        cmocka_unit_test(test_who_waits_is_not_overtaken),
        cmocka_unit_test(test_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
