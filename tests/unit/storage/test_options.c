/* Covers storage/options.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "storage/options.h"

static int parse(const char *words[], struct storage_options *out_options, struct error *err)
{
    char *argv[16] = {"hull-storage"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        argv[argc] = (char *)words[argc - 1]; /* getopt only moves the pointers */
    }
    return storage_parse_options(argc, argv, out_options, err);
}

static void takes_all(void **state)
{
    struct storage_options options;
    struct error err;
    assert_int_equal(
        parse((const char *[]){"--fd", "3", "--ready-fd", "4", "--uri", "nbd://h/e", "--readonly",
                               "--reconnect", "7", "--timeout", "0", NULL},
              &options, &err),
        0);
    assert_int_equal(options.fd, 3);
    assert_int_equal(options.ready_fd, 4);
    assert_string_equal(options.uri, "nbd://h/e");
    assert_true(options.is_readonly);
    assert_true(options.reconnect_ns == 7000000000ull && options.timeout_ns == 0);
}

static void refuses_the_rest(void **state)
{
    static const struct {
        const char *words[6];
        const char *why;
    } wrong[] = {
        {{"--uri", "nbd://h/e", NULL}, "--fd and --uri are needed"},
        {{"--fd", "3", NULL}, "--fd and --uri are needed"},
        {{"--fd", "1", "--uri", "x", NULL},
         "--fd 1: expected the number of an open descriptor above 2"},
        {{"--fd", "3x", NULL}, "--fd 3x: expected the number"},
        {{"--reconnect", "86401", NULL}, "from 0 to 86400"},
        {{"--what", NULL}, "bad option"},
        {{"--fd", "3", "--uri", "x", "more", NULL}, "argument more is unknown"},
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct storage_options options;
        struct error err = {0};
        assert_int_equal(parse((const char **)wrong[i].words, &options, &err), -EINVAL);
        assert_non_null(strstr(err.text, wrong[i].why));
    }
    struct storage_options options;
    struct error err;
    /* Who listens hears of the error, even if it stands before. */
    assert_true(parse((const char *[]){"--fd", "1", "--ready-fd", "9", NULL}, &options, &err) < 0);
    assert_int_equal(options.ready_fd, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_all),
        cmocka_unit_test(refuses_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
