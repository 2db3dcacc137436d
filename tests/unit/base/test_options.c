#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/command/options.h"

struct seen {
    const char *memory;
    unsigned flags;
};

static int parse_memory(void *into, const char *value, struct error *err)
{
    if (value[0] == 'x') {
        return error_set(err, EINVAL, "'%s' is wrong: right ones", value);
    }
    ((struct seen *)into)->memory = value;
    return 0;
}

static int parse_flag(void *into, const char *value, struct error *err)
{
    assert_null(value);
    ((struct seen *)into)->flags++;
    return 0;
}

static const struct option_spec options[] = {
    {"memory", 'm', "SIZE", "how much", NULL, parse_memory},
    {"paused", 'p', NULL, "not yet", NULL, parse_flag},
    {"verbose", 'v', NULL, "more", NULL, parse_flag},
    {0},
};
static const struct verb verb = {.name = "test", .arguments = "", .options = options};

static int parse(struct seen *seen, char **argv, int *out_count, struct error *err)
{
    int argc = 0;
    bool wants_help;
    while (argv[argc] != NULL) {
        argc++;
    }
    *err = (struct error){0};
    return options_parse("hull", &verb, false, argc, argv, seen, out_count, &wants_help, err);
}

static void all_spellings_work(void **state)
{
    char *lines[][5] = {
        {"test", "--memory", "5", NULL}, {"test", "--memory=5", NULL}, {"test", "-m", "5", NULL},
        {"test", "-m5", NULL},           {"test", "-vpm5", NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++) {
        struct seen seen = {0};
        struct error err;
        int count = -1;
        assert_int_equal(parse(&seen, lines[i], &count, &err), 0);
        assert_string_equal(seen.memory, "5");
        assert_int_equal(count, 0);
    }
}

static void words_are_kept_in_order(void **state)
{
    char *argv[] = {"test", "one", "-v", "two", "--", "--memory", "-", NULL};
    struct seen seen = {0};
    struct error err;
    int count = 0;
    assert_int_equal(parse(&seen, argv, &count, &err), 0);
    assert_int_equal(count, 4);
    assert_string_equal(argv[0], "one");
    assert_string_equal(argv[1], "two");
    assert_string_equal(argv[2], "--memory");
    assert_string_equal(argv[3], "-");
    assert_int_equal(seen.flags, 1);
    assert_null(seen.memory);
}

static void check_refused(char **argv, const char *expected)
{
    struct seen seen = {0};
    struct error err;
    int count = 0;
    assert_true(parse(&seen, argv, &count, &err) < 0);
    assert_string_equal(err.text, expected);
}

static void errors_name_the_fault(void **state)
{
    check_refused((char *[]){"test", "--memroy", "5", NULL},
                  "option --memroy: unknown: did you mean --memory?");
    check_refused((char *[]){"test", "--mem=5", NULL},
                  "option --mem=5: unknown: did you mean --memory?");
    check_refused((char *[]){"test", "--qqq", NULL},
                  "option --qqq: unknown: see `hull test --help`");
    check_refused((char *[]){"test", "-x", NULL}, "option -x: unknown: see `hull test --help`");
    check_refused((char *[]){"test", "--memory", NULL},
                  "option --memory: needs a value: --memory SIZE");
    check_refused((char *[]){"test", "-m", NULL}, "option --memory: needs a value: --memory SIZE");
    check_refused((char *[]){"test", "--paused=yes", NULL},
                  "option --paused: takes no value: --paused");
    check_refused((char *[]){"test", "--memory", "x", NULL},
                  "option --memory: 'x' is wrong: right ones");
}

static void near_words_are_found(void **state)
{
    char word[40];
    assert_string_equal(nearest_word("bot", "boot|ctl|host", word, sizeof(word)), "boot");
    assert_string_equal(nearest_word("hsot", "boot|ctl|host", word, sizeof(word)), "host");
    assert_null(nearest_word("zzzz", "boot|ctl|host", word, sizeof(word)));
    assert_null(nearest_word("", "boot", word, sizeof(word)));
    assert_null(
        nearest_word("averylongwordthatisbeyondeverylimitofwords", "boot", word, sizeof(word)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_spellings_work),
        cmocka_unit_test(words_are_kept_in_order),
        cmocka_unit_test(errors_name_the_fault),
        cmocka_unit_test(near_words_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
