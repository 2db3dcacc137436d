/* Covers config_change: the words of `hull ct set`. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/config/config.h"

static void words(void **state)
{
    static const struct {
        const char *before, *word, *after;
    } cases[] = {
        {"{}", "memory=64M", "{\"memory\": \"64M\"}"},
        {"{\"memory\": \"1G\"}", "memory=64M", "{\"memory\": \"64M\"}"},
        {"{\"memory\": \"1G\"}", "memory=", "{}"},
        {"{}", "memory=", "{}"},
        {"{}", "environment=A=B=C", "{\"environment\": [\"A=B=C\"]}"},
        {"{\"dns\": [\"1.1.1.1\", \"2.2.2.2\"]}", "dns=3.3.3.3", "{\"dns\": [\"3.3.3.3\"]}"},
        {"{\"dns\": [\"1.1.1.1\"]}", "dns+=2.2.2.2", "{\"dns\": [\"1.1.1.1\", \"2.2.2.2\"]}"},
        {"{\"dns\": [\"1.1.1.1\", \"2.2.2.2\"]}", "dns-=1.1.1.1", "{\"dns\": [\"2.2.2.2\"]}"},
        {"{\"dns\": [\"1.1.1.1\"]}", "dns-=9.9.9.9", "{\"dns\": [\"1.1.1.1\"]}"},
        {"{}", "dns-=9.9.9.9", "{\"dns\": []}"},
        {"{\"dns\": \"1.1.1.1\"}", "dns+=2.2.2.2", "{\"dns\": [\"1.1.1.1\", \"2.2.2.2\"]}"},
        {"{\"dns\": \"1.1.1.1\"}", "dns-=1.1.1.1", "{\"dns\": []}"},
        {"{\"dns\": null}", "dns+=2.2.2.2", "{\"dns\": [\"2.2.2.2\"]}"},
        {"{\"dns\": [\"1.1.1.1\"]}", "dns=", "{}"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        json_t *document = json_loads(cases[i].before, 0, NULL);
        json_t *wanted = json_loads(cases[i].after, 0, NULL);
        struct error err = {0};
        assert_int_equal(config_change(document, cases[i].word, &err), 0);
        if (!json_equal(document, wanted)) {
            char *got = json_dumps(document, 0);
            fail_msg("%s: %s", cases[i].word, got);
        }
        json_decref(document);
        json_decref(wanted);
    }
}

static void bad_words(void **state)
{
    static const char *const bad[] = {"",          "=",          "memory",      "memory+",
                                      "memory-",   "memory+=1G", "memory-=1G",  "colour=red",
                                      "Memory=1",  "=1G",        "+=1",         "mem=1G",
                                      "memoryx=1", "dns=\xff",   "memory=\xc3", "memory =1G"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        json_t *document = json_pack("{s:s}", "memory", "64M"), *before = json_deep_copy(document);
        struct error err = {0};
        if (config_change(document, bad[i], &err) != -EINVAL || err.text[0] == '\0' ||
            !json_equal(document, before)) {
            fail_msg("'%s'", bad[i]);
        }
        json_decref(document);
        json_decref(before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words), cmocka_unit_test(bad_words)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
