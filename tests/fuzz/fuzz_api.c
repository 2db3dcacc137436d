/* Rubbish as a request: three parts, divided by newlines: method and path, query, body. What is accepted keeps what the rest of hulld relies on. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "manager/api/catalog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int nothing(struct api_call *call, struct error *err)
{
    return 0;
}

static const struct api_query query_rows[] = {{"follow", ""}, {"lines", ""}, {0}};
static const struct api_route routes[] = {
    {"GET", "/v1/a", "a", "", API_PLAIN, NULL, NULL, query_rows, nothing},
    {"POST", "/v1/a", "b", "", API_OPERATION, "A", NULL, NULL, nothing},
    {"GET", "/v1/a/{name}", "c", "", API_PLAIN, NULL, NULL, NULL, nothing},
    {"PUT", "/v1/a/{name}/b/{other}", "d", "", API_OPERATION, "[A]", NULL, query_rows, nothing},
    {"GET", "/v1/a/{name}/b", "e", "", API_TEXT, NULL, NULL, NULL, nothing},
    {0},
};
static const struct api_schema schemas[] = {
    {"A", "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
          "\"properties\":{\"name\":{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"maxLength\":9},"
          "\"size\":{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":10},"
          "\"kind\":{\"enum\":[\"vm\",\"container\"]},"
          "\"list\":{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"number\"}},"
          "\"labels\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}},"
          "\"parts\":{\"items\":{\"$ref\":\"#/components/schemas/A\"}}}}"},
    {0},
};

static struct api_catalog *make_catalog(void)
{
    static const struct api_route *const route_list[] = {routes, NULL};
    static const struct api_schema *const schema_list[] = {schemas, NULL};
    struct api_catalog *catalog = NULL;
    invariant(api_catalog_create(route_list, schema_list, &catalog, NULL) == 0);
    return catalog;
}

static void check_words(const struct route_match *match, const char *path)
{
    unsigned count = 0, expected = 0;
    for (; match->words[count] != NULL; count++) {
        invariant(match->words[count][0] != '\0' && strstr(path, match->words[count]) != NULL);
    }
    for (const char *at = match->route->path; (at = strchr(at, '{')) != NULL; at++) {
        expected++;
    }
    invariant(count == expected);
}

static void try_request(const struct api_catalog *catalog, const char *method, const char *path,
                        char *query_text, const char *body_text, size_t body_size)
{
    struct route_match match;
    struct error err = {0};
    if (api_catalog_find(catalog, method, path, &match, &err) < 0) {
        invariant(err.text[0] != '\0');
        return;
    }
    check_words(&match, path);
    json_t *query = json_object(), *body = NULL;
    for (char *rest = query_text, *part; (part = strsep(&rest, "&")) != NULL;) {
        error_ignore(query_add(match.route, query, part, &err));
    }
    int seconds = 0;
    if (query_wait(query, &seconds, &err) == 0) {
        invariant(seconds >= -1 && seconds <= 3600);
    }
    err = (struct error){0};
    int rc = body_parse(catalog, match.route, body_text, body_size, &body, &err);
    invariant(rc == 0 || (body == NULL && err.text[0] != '\0'));
    if (body != NULL) {
        invariant(match.route->body != NULL);
        const json_t *one = json_is_array(body) ? json_array_get(body, 0) : body;
        invariant(one == NULL || json_is_string(json_object_get(one, "name")));
    }
    json_decref(body);
    json_decref(query);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api_catalog *catalog;
    if (catalog == NULL) {
        catalog = make_catalog();
    }
    char *text = malloc(size + 1);
    invariant(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    /* hulld takes no NUL in a path or query; a body may have one. */
    char *method = text, *path = strchr(text, ' '), *query = strchr(text, '\n');
    char *body = query == NULL ? NULL : strchr(query + 1, '\n');
    if (body != NULL && path != NULL && path < query) {
        *path++ = *query++ = *body++ = '\0';
        size_t body_size = size - (size_t)(body - text);
        char *exact = malloc(body_size + (body_size == 0)); /* reading beyond it is seen */
        invariant(exact != NULL);
        memcpy(exact, body, body_size);
        try_request(catalog, method, path, query, exact, body_size);
        free(exact);
    }
    free(text);
    return 0;
}
