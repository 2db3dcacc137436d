/* Covers src/system/config/yaml.c: what is taken, hostile documents, and that what is written reads the same. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/config/yaml.h"

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    struct error err = {0};
    if (yaml_parse(text, strlen(text), "text", &value, &err) < 0) {
        fail_msg("%s: %s", text, err.text);
    }
    return value;
}

static void assert_json(const char *text, const char *expected)
{
    json_t *value = parse(text), *wanted = json_loads(expected, JSON_DECODE_ANY, NULL);
    assert_non_null(wanted);
    if (!json_equal(value, wanted)) {
        char *got = json_dumps(value, JSON_ENCODE_ANY);
        fail_msg("%s: %s instead of %s", text, got, expected);
    }
    json_decref(value);
    json_decref(wanted);
}

static void documents(void **state)
{
    assert_json("", "{}");
    assert_json("# only a comment\n", "{}");
    assert_json("a: 1\nb: true\nc: 0.5\n",
                "{\"a\": \"1\", \"b\": \"true\", \"c\": \"0.5\"}"); /* scalars are words */
    assert_json("a:\nb: ~\nc: null\nd: ''\ne: '~'\n",
                "{\"a\": null, \"b\": null, \"c\": null, \"d\": \"\", \"e\": \"~\"}");
    assert_json("a: [x, 'y z']\nb:\n  - 1\n  - - 2\n",
                "{\"a\": [\"x\", \"y z\"], \"b\": [\"1\", [\"2\"]]}");
    assert_json("a: {b: {c: d}}", "{\"a\": {\"b\": {\"c\": \"d\"}}}");
    assert_json("a: |\n  two\n  lines\n", "{\"a\": \"two\\nlines\\n\"}");
    assert_json("a: \"\\u00fc\"\n", "{\"a\": \"\\u00fc\"}");
    assert_json("---\na: b\n...\n", "{\"a\": \"b\"}");
}

static void refuse(const char *text, size_t size, const char *reason)
{
    json_t *value = NULL;
    struct error err = {0};
    assert_int_equal(yaml_parse(text, size, "the text", &value, &err), -EINVAL);
    if (strstr(err.text, reason) == NULL || strstr(err.text, "the text") == NULL) {
        fail_msg("'%s' instead of: %s", err.text, reason);
    }
    assert_null(value);
}

static void hostile_documents(void **state)
{
    static const struct {
        const char *text, *reason;
    } cases[] = {
        {"a: &x b\nc: *x\n", "anchors"},
        {"a: *x\n", "anchors"},
        {"&x a: b\n", "word"},
        {"a: !!str b\n", "tags"},
        {"a: !!map {}\n", "tags"},
        {"a: &x [1]\n", "anchors"},
        {"a: b\na: c\n", "twice"},
        {"a: {b: 1, b: 2}\n", "twice"},
        {"[a]: b\n", "word"},
        {"{a: b}: c\n", "word"},
        {"a: b\n---\nc: d\n", "more than one"},
        {"a: [\n", "line"},
        {"a: 'b\n", "line"},
        {"a: b: c\n", "line"},
        {"\ta: b\n", "line"},
        {"a: \"\\0\"\n", "NUL"},
        {"\"a\\0b\": c\n", "word"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        refuse(cases[i].text, strlen(cases[i].text), cases[i].reason);
    }
    refuse("a: \xff\n", 5, "");
    refuse("a: b\0c: d\n", 10, "");
}

static void deep_documents(void **state)
{
    enum {
        DEEP = 100000
    };
    char *text = malloc(DEEP);
    memset(text, '[', DEEP);
    refuse(text, DEEP, "16 levels");
    for (size_t i = 0; i + 1 < DEEP; i += 2) {
        memcpy(text + i, "- ", 2);
    }
    refuse(text, DEEP, "16 levels");
    free(text);
    assert_json("[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]", "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]");
}

/* Each prefix of a document is read or refused, and nothing is read beyond it. */
static void cut_documents(void **state)
{
    static const char whole[] = "a: [x, \"y\\u00fc\", {b: c}]\nd: |\n  text\ne: 'quoted ''one'''\n";
    for (size_t size = 0; size < sizeof(whole); size++) {
        char *text = malloc(size + (size == 0));
        memcpy(text, whole, size);
        json_t *value = NULL;
        struct error err;
        if (yaml_parse(text, size, "text", &value, &err) == 0) {
            json_decref(value);
        }
        free(text);
    }
}

static void round_trip(json_t *value)
{
    char *text = NULL;
    struct error err = {0};
    json_t *again = NULL;
    if (yaml_write(value, &text, &err) < 0 ||
        yaml_parse(text, strlen(text), "what was written", &again, &err) < 0) {
        fail_msg("%s", err.text);
    }
    if (!json_equal(value, again)) {
        fail_msg("%s", text);
    }
    free(text);
    json_decref(again);
    json_decref(value);
}

static void what_is_written_reads_the_same(void **state)
{
    static const char *const words[] = {
        "",       "~",         "null",         "true", "No",     "on",
        "0",      "0x1f",      "1.5",          " x ",  "a: b",   "a #b",
        "#a",     "- a",       "[x]",          "{x}",  "*x",     "&x",
        "!x",     "'",         "\"",           "\\",   "%a",     "a\nb",
        "\n",     "a\tb",      "a: ",          "?",    "-",      "---",
        "...",    "\u00fc",    "@a",           "`a",   "|",      ">",
        "a,b",    "=",         "<<",           "\x7f", "a\r\nb", "2026-01-01T00:00:00Z",
        "a'b\"c", "trailing ", "\xe2\x80\xa8",
    };
    json_t *all = json_array(), *names = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        round_trip(json_pack("{s:s, s:[s, s]}", "key", words[i], "list", words[i], "last"));
        (void)json_array_append_new(all, json_string(words[i]));
        (void)json_object_set_new(names, words[i], json_string(words[i]));
    }
    char *wide = malloc(5001);
    memset(wide, 'w', 5000);
    wide[5000] = '\0';
    for (size_t i = 7; i < 5000; i += 11) {
        wide[i] = ' ';
    }
    round_trip(json_pack("{s:s}", "wide", wide));
    free(wide);
    round_trip(json_pack("{s:o, s:o, s:n, s:[], s:{}}", "all", all, "names", names, "nothing",
                         "no list", "no object"));
}

static void too_deep_to_write(void **state)
{
    json_t *value = json_array();
    for (unsigned i = 0; i < 20; i++) {
        value = json_pack("[o]", value);
    }
    char *text = NULL;
    struct error err = {0};
    assert_true(yaml_write(value, &text, &err) < 0);
    assert_null(text);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),         cmocka_unit_test(hostile_documents),
        cmocka_unit_test(deep_documents),    cmocka_unit_test(cut_documents),
        cmocka_unit_test(too_deep_to_write), cmocka_unit_test(what_is_written_reads_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
