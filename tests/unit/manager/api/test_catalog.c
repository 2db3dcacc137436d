/* Which route a request means, and what is said of queries and bodies that do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above. */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "manager/api/catalog.h"

static int nothing(struct api_call *call, struct error *err)
{
    return 0;
}

static const struct api_query log_query[] = {{"follow", "Go on"}, {"lines", "How many"}, {0}};

static const struct api_route routes[] = {
    {"GET", "/v1/things", "listThings", "", API_PLAIN, NULL, "[Thing]", NULL, nothing},
    {"POST", "/v1/things", "createThing", "", API_OPERATION, "Thing", NULL, NULL, nothing},
    {"GET", "/v1/things/{name}", "getThing", "", API_PLAIN, NULL, "Thing", NULL, nothing},
    {"DELETE", "/v1/things/{name}", "deleteThing", "", API_OPERATION, NULL, NULL, NULL, nothing},
    {"GET", "/v1/things/{name}/logs", "getLogs", "", API_PLAIN, NULL, NULL, log_query, nothing},
    {"GET", "/v1/things/special", "getSpecial", "", API_PLAIN, NULL, NULL, NULL, nothing},
    {"PUT", "/v1/pools/{pool}/volumes/{name}", "putVolume", "", API_PLAIN, "[Thing]", NULL, NULL,
     nothing},
    {0},
};
static const struct api_schema schemas[] = {
    {"Thing",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,\"properties\":{"
     "\"name\":{\"type\":\"string\",\"minLength\":2,\"maxLength\":5,\"pattern\":\"^[^A-Z]+$\"},"
     "\"kind\":{\"enum\":[\"vm\",\"container\",7]},"
     "\"size\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":10},"
     "\"share\":{\"type\":\"number\",\"minimum\":0.5},"
     "\"either\":{\"type\":[\"string\",\"null\"]},"
     "\"labels\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}},"
     "\"list\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":3,\"items\":{\"type\":\"boolean\"}},"
     "\"parts\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Thing\"}}}}"},
    {0},
};

static int setup(void **state)
{
    static const struct api_route *const all_routes[] = {routes, NULL};
    static const struct api_schema *const all_schemas[] = {schemas, NULL};
    struct error err = {0};
    struct api_catalog *catalog = NULL;
    assert_int_equal(api_catalog_create(all_routes, all_schemas, &catalog, &err), 0);
    *state = catalog;
    return 0;
}

static int teardown(void **state)
{
    api_catalog_destroy(*state);
    return 0;
}

static void assert_finds(struct api_catalog *catalog, const char *method, const char *path,
                         const char *id, const char *first, const char *second)
{
    struct error err = {0};
    struct route_match match;
    int rc = api_catalog_find(catalog, method, path, &match, &err);
    if (rc < 0) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(match.route->id, id);
    const char *const expected[] = {first, second};
    for (unsigned i = 0; i < 2; i++) {
        if (expected[i] == NULL) {
            assert_null(match.words[i]);
            break;
        }
        assert_string_equal(match.words[i], expected[i]);
    }
}

static void test_routes(void **state)
{
    struct api_catalog *catalog = *state;
    assert_finds(catalog, "GET", "/v1/things", "listThings", NULL, NULL);
    assert_finds(catalog, "HEAD", "/v1/things", "listThings", NULL, NULL);
    assert_finds(catalog, "POST", "/v1/things", "createThing", NULL, NULL);
    assert_finds(catalog, "GET", "/v1/things/a", "getThing", "a", NULL);
    assert_finds(catalog, "GET", "/v1/things/a/logs", "getLogs", "a", NULL);
    assert_finds(catalog, "PUT", "/v1/pools/p/volumes/v", "putVolume", "p", "v");
    /* What is said literally goes first. */
    assert_finds(catalog, "GET", "/v1/things/special", "getSpecial", NULL, NULL);
    /* Names with slashes, where nothing else fits. */
    assert_finds(catalog, "GET", "/v1/things/debian/12", "getThing", "debian/12", NULL);
    assert_finds(catalog, "GET", "/v1/things/debian/12/logs", "getLogs", "debian/12", NULL);
    assert_finds(catalog, "PUT", "/v1/pools/p/volumes/a/volumes/b", "putVolume", "p",
                 "a/volumes/b");
    assert_finds(catalog, "GET", "/v1/things/{name}", "getThing", "{name}", NULL);
}

static void assert_finds_none(struct api_catalog *catalog, const char *method, const char *path,
                              int code, const char *allow)
{
    struct error err = {0};
    struct route_match match;
    assert_int_equal(api_catalog_find(catalog, method, path, &match, &err), -code);
    assert_string_equal(match.allow, allow);
    assert_int_not_equal(err.text[0], '\0');
}

static void test_no_routes(void **state)
{
    struct api_catalog *catalog = *state;
    assert_finds_none(catalog, "GET", "", ENOENT, "");
    assert_finds_none(catalog, "GET", "/", ENOENT, "");
    assert_finds_none(catalog, "GET", "/v1/thing", ENOENT, "");
    assert_finds_none(catalog, "GET", "/v1/things/", ENOENT, "");
    assert_finds_none(catalog, "GET", "/v1/things//logs", ENOENT, "");
    assert_finds_none(catalog, "GET", "/v1/pools//volumes/v", ENOENT, "");
    assert_finds_none(catalog, "PUT", "/v1/things", EPERM, "GET, HEAD, POST");
    assert_finds_none(catalog, "POST", "/v1/things/a", EPERM, "GET, HEAD, DELETE");
    assert_finds_none(catalog, "HEAD", "/v1/pools/p/volumes/v", EPERM, "PUT");
    /* Long ones, and ones that could be divided in many ways. */
    char path[4096];
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_finds_none(catalog, "GET", path, ENAMETOOLONG, "");
    memcpy(path, "/v1/pools/", 10);
    for (size_t i = 10; i < API_MAX_PATH - 1; i++) {
        path[i] = i % 2 ? '/' : 'a';
    }
    path[API_MAX_PATH - 1] = '\0';
    assert_finds_none(catalog, "PUT", path, ENOENT, "");
    /* A name as long as a path lets it be. */
    memset(path, 'b', API_MAX_PATH - 1);
    memcpy(path, "/v1/things/", 11);
    struct error err = {0};
    struct route_match match;
    assert_int_equal(api_catalog_find(catalog, "GET", path, &match, &err), 0);
    assert_int_equal(strlen(match.words[0]), API_MAX_PATH - 1 - 11);
}

static void test_queries(void **state)
{
    struct error err = {0};
    const struct api_route *logs = &routes[4], *create = &routes[1];
    json_t *query = json_object();
    assert_int_equal(query_add(logs, query, "follow", &err), 0);
    assert_int_equal(query_add(logs, query, "lines=a=b c", &err), 0);
    assert_string_equal(json_string_value(json_object_get(query, "follow")), "");
    assert_string_equal(json_string_value(json_object_get(query, "lines")), "a=b c");
    assert_int_equal(query_add(logs, query, "lines=1", &err), -EINVAL); /* twice */
    assert_int_equal(query_add(logs, query, "folow=1", &err), -EINVAL);
    assert_non_null(strstr(err.text, "did you mean 'follow'"));
    assert_int_equal(query_add(logs, query, "wait=1", &err), -EINVAL);
    assert_int_equal(query_add(logs, query, "", &err), -EINVAL);
    assert_int_equal(query_add(logs, query, "=", &err), -EINVAL);
    json_object_clear(query);
    assert_int_equal(query_add(logs, query, "lines=\xff", &err), -EINVAL);
    int seconds = 5;
    assert_int_equal(query_wait(query, &seconds, &err), 0);
    assert_int_equal(seconds, -1);
    assert_int_equal(query_add(create, query, "wait=30", &err), 0);
    assert_int_equal(query_wait(query, &seconds, &err), 0);
    assert_int_equal(seconds, 30);
    static const char *const wrong[] = {"wait=",     "wait=-1",   "wait=1.5",
                                        "wait=3601", "wait=0x10", "wait=18446744073709551617"};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        json_object_clear(query);
        assert_int_equal(query_add(create, query, wrong[i], &err), 0);
        assert_true(query_wait(query, &seconds, &err) < 0);
        assert_int_equal(seconds, 30);
    }
    json_decref(query);
}

/* 'words' NULL: it is fine. */
static void assert_body(struct api_catalog *catalog, const struct api_route *route,
                        const char *text, const char *words)
{
    struct error err = {0};
    json_t *body = NULL;
    int rc = body_parse(catalog, route, text, strlen(text), &body, &err);
    if (words == NULL && rc < 0) {
        fail_msg("%s: %s", text, err.text);
    }
    if (words != NULL) {
        assert_int_equal(rc, -EINVAL);
        assert_null(body);
        if (strstr(err.text, words) == NULL) {
            fail_msg("%s: %s", text, err.text);
        }
    }
    json_decref(body);
}

static void test_bodies(void **state)
{
    struct api_catalog *catalog = *state;
    const struct api_route *create = &routes[1], *get = &routes[2], *volume = &routes[6];
    assert_body(catalog, get, "", NULL);
    assert_body(catalog, get, "{}", NULL);
    assert_body(catalog, get, "{\"name\":1}", "takes none");
    static const struct {
        const char *text, *words;
    } rows[] = {
        {"{\"name\":\"ab\"}", NULL},
        {"{\"name\":\"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\"}", NULL}, /* five characters */
        {"", "missing"},
        {"{", "line 1"},
        {"{\"name\":\"ab\"} x", "line 1"},
        {"null", "type object"},
        {"{}", "member 'name' is missing"},
        {"{\"name\":\"a\"}", "name: at least 2 characters"},
        {"{\"name\":\"abcdef\"}", "name: at most 5 characters"},
        {"{\"name\":\"aB\"}", "name: it has to match"},
        {"{\"name\":\"ab\",\"name\":\"cd\"}", "uplicate"},
        {"{\"name\":\"ab\",\"sizze\":1}", "unknown member 'sizze': did you mean 'size'"},
        {"{\"name\":\"ab\",\"qqqqqqqq\":1}", "unknown member 'qqqqqqqq': there are: "},
        {"{\"name\":\"ab\",\"kind\":\"vm\"}", NULL},
        {"{\"name\":\"ab\",\"kind\":7}", NULL},
        {"{\"name\":\"ab\",\"kind\":\"cm\"}", "kind: one of: vm, container, ..."},
        {"{\"name\":\"ab\",\"size\":0}", "size: at least 1"},
        {"{\"name\":\"ab\",\"size\":11}", "size: at most 10"},
        {"{\"name\":\"ab\",\"size\":1.5}", "size: it has to be of type integer"},
        {"{\"name\":\"ab\",\"share\":0.25}", "share: at least 0.5"},
        {"{\"name\":\"ab\",\"share\":1}", NULL},
        {"{\"name\":\"ab\",\"either\":null}", NULL},
        {"{\"name\":\"ab\",\"either\":true}", "either: it has to be of type string or null"},
        {"{\"name\":\"ab\",\"labels\":{\"a\":\"b\"}}", NULL},
        {"{\"name\":\"ab\",\"labels\":{\"a\":1}}", "labels.a: it has to be of type string"},
        {"{\"name\":\"ab\",\"list\":[]}", "list: at least 1 items"},
        {"{\"name\":\"ab\",\"list\":[true,false,true]}", NULL},
        {"{\"name\":\"ab\",\"list\":[true,1]}", "list.1: it has to be of type boolean"},
        {"{\"name\":\"ab\",\"list\":[true,true,true,true]}", "list: at most 3 items"},
        {"{\"name\":\"ab\",\"parts\":[{\"name\":\"cd\",\"parts\":[{\"nam\":\"a\"}]}]}",
         "parts.0.parts.0: member 'name' is missing"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_body(catalog, create, rows[i].text, rows[i].words);
    }
    assert_body(catalog, volume, "[{\"name\":\"ab\"}]", NULL);
    assert_body(catalog, volume, "[{\"name\":\"ab\"},{}]", "1: member 'name' is missing");
    assert_body(catalog, volume, "{}", "type array");
    char deep[4096] = "";
    for (unsigned i = 0; i < 40; i++) {
        strcat(deep, "{\"name\":\"ab\",\"parts\":[");
    }
    for (unsigned i = 0; i < 40; i++) {
        strcat(deep, "]}");
    }
    assert_body(catalog, create, deep, "nested too deeply");
}

static void assert_refused(const struct api_route *route_rows, const struct api_schema *schema_rows,
                           const char *words)
{
    const struct api_route *const route_list[] = {route_rows, NULL};
    const struct api_schema *const schema_list[] = {schema_rows, NULL};
    struct error err = {0};
    struct api_catalog *catalog = NULL;
    assert_int_equal(api_catalog_create(route_list, schema_list, &catalog, &err), -EINVAL);
    assert_non_null(strstr(err.text, words));
    assert_null(catalog);
}

static void test_wrong_tables(void **state)
{
    static const struct api_route none[] = {{0}};
    static const struct api_schema no_json[] = {{"A", "{"}, {0}};
    static const struct api_schema no_object[] = {{"A", "[]"}, {0}};
    static const struct api_schema twice[] = {{"A", "{}"}, {"A", "{}"}, {0}};
    static const struct api_schema no_target[] = {
        {"A", "{\"items\":{\"$ref\":\"#/components/schemas/B\"}}"}, {0}};
    static const struct api_schema one[] = {{"A", "{}"}, {0}};
    static const struct api_route same[] = {
        {"GET", "/a", "a", "", API_PLAIN, NULL, NULL, NULL, nothing},
        {"GET", "/a", "b", "", API_PLAIN, NULL, NULL, NULL, nothing},
        {0}};
    static const struct api_route no_schema[] = {
        {"GET", "/a", "a", "", API_PLAIN, NULL, "[B]", NULL, nothing}, {0}};
    assert_refused(none, no_json, "schema A");
    assert_refused(none, no_object, "schema A");
    assert_refused(none, twice, "twice");
    assert_refused(none, no_target, "schemas/B");
    assert_refused(same, one, "twice");
    assert_refused(no_schema, one, "schema B");
}

static void test_statuses(void **state)
{
    assert_int_equal(api_status(EINVAL), 400);
    assert_int_equal(api_status(EACCES), 403);
    assert_int_equal(api_status(ENOENT), 404);
    assert_int_equal(api_status(EEXIST), 409);
    assert_int_equal(api_status(EPROTONOSUPPORT), 501);
    assert_int_equal(api_status(ENOSPC), 507);
    assert_int_equal(api_status(EIO), 500);
    assert_string_equal(api_status_words(404), "Not Found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_routes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bodies, setup, teardown),
        cmocka_unit_test(test_wrong_tables),
        cmocka_unit_test(test_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
