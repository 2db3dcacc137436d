/* Covers rootless_find_range: lines of /etc/subuid. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/rootless/rootless.h"

static void lines(void **state)
{
    static const struct {
        const char *text;
        uint32_t first, count; /* 0: none */
    } cases[] = {
        {"", 0, 0},
        {"alice:100000:65536\n", 100000, 65536},
        {"alice:100000:65536", 100000, 65536},
        {"1000:100000:65536\n", 100000, 65536},
        {"bob:1:70000\nalice:200000:65535\n", 200000, 65535},
        {"alic:1:70000\nalicea:1:70000\n10000:1:70000\n100:1:70000\n", 0, 0},
        {"alice:100000:1000\nalice:300000:65536\n", 300000, 65536},
        {"alice:100000:1000\n", 0, 0},
        {"alice:0:65536\n", 0, 0},
        {"alice:4294967295:65536\n", 0, 0},
        {"alice:4294901760:65535\n", 4294901760, 65535},
        {"alice:4294967296:65536\n", 0, 0},
        {"alice:1:4294967296\n", 0, 0},
        {"alice\nalice:\nalice:x:y\nalice:5\n:1:70000\n", 0, 0},
        {"\n\nalice:400000:65536:more\n", 400000, 65536},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct rootless_range found = {0};
        int rc = rootless_find_range(cases[i].text, "alice", 1000, 65535, &found);
        assert_int_equal(rc, cases[i].count != 0 ? 0 : -ENOENT);
        assert_int_equal(found.first, cases[i].first);
        assert_int_equal(found.count, cases[i].count);
    }
}

/* A number without an account. */
static void nameless(void **state)
{
    struct rootless_range found = {0};
    assert_int_equal(rootless_find_range("alice:1:70000\n", NULL, 1000, 65535, &found), -ENOENT);
    assert_int_equal(rootless_find_range("1000:1:70000\n", NULL, 1000, 65535, &found), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(nameless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
