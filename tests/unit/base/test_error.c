/* Covers base/core/error.h: texts that grow in front. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/error.h"

static void prefixes(void **state)
{
    struct error err = {0};
    assert_int_equal(error_set(&err, 5, "no %s", "reason"), -5);
    assert_int_equal(error_prefix(&err, -5, "disk %d", 3), -5);
    assert_string_equal(err.text, "disk 3: no reason");
    assert_int_equal(error_prefix(NULL, -5, "disk"), -5);
}

static void ends_with(const char *text, const char *end)
{
    assert_true(strlen(text) >= strlen(end));
    assert_string_equal(text + strlen(text) - strlen(end), end);
}

/* Long names take the room of their middle, never that of the reason. */
static void keeps_the_reason(void **state)
{
    char name[2 * ERROR_TEXT_SIZE];
    for (size_t length = 100; length < sizeof(name); length++) {
        struct error err = {0};
        memset(name, 'n', length);
        name[length] = '\0';
        (void)error_set(&err, 5, "another process writes to it");
        (void)error_prefix(&err, -5, "disk %s", name);
        ends_with(err.text, ": another process writes to it");
        (void)error_prefix(&err, -5, "creating %s", name);
        ends_with(err.text, ": another process writes to it");
        assert_memory_equal(err.text, "creating nnn", 12);
        assert_true(strlen(err.text) < ERROR_TEXT_SIZE);
    }
}

static void cuts_no_character(void **state)
{
    for (size_t shift = 0; shift < 3; shift++) {
        char name[201] = "nn", reason[121];
        struct error err = {0};
        for (size_t at = shift; at + 3 < sizeof(name); at += 3) {
            memcpy(name + at, "\xe2\x82\xac", 4);
        }
        memset(reason, 'r', sizeof(reason) - 1);
        reason[sizeof(reason) - 1] = '\0';
        (void)error_set(&err, 5, "%s", reason);
        (void)error_prefix(&err, -5, "%s", name);
        ends_with(err.text, reason);
        assert_non_null(strstr(err.text, "..."));
        for (const char *at = err.text; *at != '\0';) {
            bool is_euro = (uint8_t)*at == 0xe2;
            assert_true(is_euro ? strncmp(at, "\xe2\x82\xac", 3) == 0 : (uint8_t)*at < 0x80);
            at += is_euro ? 3 : 1;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefixes),
        cmocka_unit_test(keeps_the_reason),
        cmocka_unit_test(cuts_no_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
