/* Covers how agent/shares.c reads the kernel's command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/shares.h"

static size_t parse(const char *line, char *out_copy, struct share_mount *out_shares)
{
    strcpy(out_copy, line);
    return shares_parse(out_copy, out_shares);
}

static void words_are_found(void **state)
{
    char line[512];
    struct share_mount share[SHARES_MAX];
    assert_int_equal(
        parse("quiet hull.share=a:/srv hull.share=b.c:/a%20folder%25:ro root=/dev/vda\n", line,
              share),
        2);
    assert_string_equal(share[0].tag, "a");
    assert_string_equal(share[0].path, "/srv");
    assert_false(share[0].is_readonly);
    assert_string_equal(share[1].tag, "b.c");
    assert_string_equal(share[1].path, "/a folder%");
    assert_true(share[1].is_readonly);
}

static void others_are_left_out(void **state)
{
    static const char *const wrong[] = {
        "",
        "hull.share",
        "hull.share=",
        "hull.share=a",
        "hull.share=:/srv",
        "hull.share=a:srv",
        "hull.share=a:",
        "hull.share=a:/srv:rw",
        "hull.share=a:/srv:ro:",
        "hull.share=a:/s%2",
        "hull.share=a:/s%",
        "hull.share=a:/s%zz",
        "hull.share=a:/s%00",
        "xhull.share=a:/srv",
    };
    char line[512];
    struct share_mount share[SHARES_MAX];
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(parse(wrong[i], line, share), 0);
    }
    char many[512] = "";
    for (unsigned i = 0; i < SHARES_MAX + 3; i++) {
        strcat(many, "hull.share=a:/srv ");
    }
    assert_int_equal(parse(many, line, share), SHARES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_found),
        cmocka_unit_test(others_are_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
