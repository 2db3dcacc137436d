#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/core/size.h"

static void check(const char *text, uint64_t unit, uint64_t expected)
{
    struct error err = {0};
    uint64_t bytes = 0;
    assert_int_equal(size_parse(text, unit, &bytes, &err), 0);
    assert_int_equal(bytes, expected);
}

static void check_refused(const char *text, const char *expected)
{
    struct error err = {0};
    uint64_t bytes = 77;
    assert_true(size_parse(text, 1, &bytes, &err) < 0);
    assert_string_equal(err.text, expected);
    assert_int_equal(bytes, 77);
}

static void sizes_have_units(void **state)
{
    check("0", 1, 0);
    check("512", 1, 512);
    check("512", 1 << 20, 512ull << 20);
    check("1K", 1 << 20, 1024);
    check("3m", 1, 3ull << 20);
    check("2G", 1, 2ull << 30);
    check("1T", 1, 1ull << 40);
    check("4MiB", 1, 4ull << 20);
    check("4mb", 1, 4ull << 20);
}

static void bad_sizes_are_named(void **state)
{
    check_refused("", "'' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("M", "'M' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("-1M", "'-1M' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("1.5G", "'1.5G' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("3Q", "'3Q' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("3Mx", "'3Mx' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused(
        "18446744073709551616",
        "'18446744073709551616' is no size: a number with K, M, G or T, as in 512M or 2G");
    check_refused("99999999999T",
                  "'99999999999T' is too large: a number with K, M, G or T, as in 512M or 2G");
}

static void numbers_have_a_range(void **state)
{
    struct error err = {0};
    uint64_t number = 0;
    assert_int_equal(number_parse("64", 1, 64, &number, &err), 0);
    assert_int_equal(number, 64);
    assert_int_equal(number_parse("65", 1, 64, &number, &err), -ERANGE);
    assert_string_equal(err.text, "65 is out of range: 1 to 64");
    assert_int_equal(number_parse("4x", 1, 64, &number, &err), -EINVAL);
    assert_string_equal(err.text, "'4x' is no number: 1 to 64");
}

static void sizes_read_well(void **state)
{
    char text[24];
    assert_string_equal(size_format(700, text, sizeof(text)), "700");
    assert_string_equal(size_format(512ull << 20, text, sizeof(text)), "512M");
    assert_string_equal(size_format(3ull << 29, text, sizeof(text)), "1.5G");
    assert_string_equal(size_format(1ull << 40, text, sizeof(text)), "1T");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_units),
        cmocka_unit_test(bad_sizes_are_named),
        cmocka_unit_test(numbers_have_a_range),
        cmocka_unit_test(sizes_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
