/* The description of all routes, OpenAPI 3.1, from the tables. */
#include <stdio.h>
#include <string.h>

#include "base/host/file.h"
#include "manager/api/catalog.h"

static json_t *schema_ref(const char *name)
{
    char ref[96];
    if (name[0] == '[') {
        snprintf(ref, sizeof(ref), "#/components/schemas/%.*s", (int)strcspn(name + 1, "]"),
                 name + 1);
        return json_pack("{s:s, s:{s:s}}", "type", "array", "items", "$ref", ref);
    }
    snprintf(ref, sizeof(ref), "#/components/schemas/%s", name);
    return json_pack("{s:s}", "$ref", ref);
}

static json_t *json_content(const char *schema)
{
    return json_pack("{s:{s:o*}}", "application/json", "schema",
                     schema != NULL ? schema_ref(schema) : NULL);
}

static void add_parameter(json_t *parameters, const char *where, const char *name, size_t length,
                          const char *help, const char *type)
{
    /* Where there is no memory left a parameter is missing from the description. */
    (void)json_array_append_new(parameters,
                                json_pack("{s:s%, s:s, s:b, s:s*, s:{s:s}}", "name", name, length,
                                          "in", where, "required", strcmp(where, "path") == 0,
                                          "description", help, "schema", "type", type));
}

static json_t *parameters_of(const struct api_route *route)
{
    json_t *parameters = json_array();
    for (const char *word = strchr(route->path, '{'); word != NULL; word = strchr(word, '{')) {
        size_t length = strcspn(++word, "}");
        add_parameter(parameters, "path", word, length, NULL, "string");
    }
    for (const struct api_query *row = route->query; row != NULL && row->name != NULL; row++) {
        add_parameter(parameters, "query", row->name, strlen(row->name), row->help, "string");
    }
    if (route->kind == API_OPERATION) {
        add_parameter(parameters, "query", "wait", 4,
                      "Seconds to wait for the operation's end before answering", "integer");
    }
    return parameters;
}

static json_t *responses_of(const struct api_route *route)
{
    json_t *responses = json_pack("{s:{s:s, s:o}}", "default", "description", "An error", "content",
                                  json_content("Error"));
    json_t *fine = NULL;
    switch (route->kind) {
    case API_OPERATION:
        (void)json_object_set_new(responses, "202",
                                  json_pack("{s:s, s:o, s:{s:{s:s, s:{s:s}}}}", "description",
                                            "The operation, which has not ended yet", "content",
                                            json_content("Operation"), "headers", "Location",
                                            "description", "Where to ask for it", "schema", "type",
                                            "string"));
        fine = json_pack("{s:s, s:o}", "description", "The operation, at its end", "content",
                         json_content("Operation"));
        break;
    case API_SESSION:
    case API_EVENTS:
        (void)json_object_set_new(
            responses, "101",
            json_pack("{s:s}", "description",
                      route->kind == API_EVENTS
                          ? "A WebSocket: an event as JSON in each text message"
                          : "A WebSocket: frames of a session as binary messages"));
        return responses;
    case API_TEXT:
        fine = json_pack("{s:s, s:{s:{s:{s:s}}}}", "description", "A text", "content", "text/plain",
                         "schema", "type", "string");
        break;
    case API_PLAIN:
        fine = json_pack("{s:s, s:o}", "description", "It is done", "content",
                         json_content(route->answer));
        break;
    }
    (void)json_object_set_new(responses, "200", fine);
    return responses;
}

/* "instances" of "/v1/instances/{name}". */
static json_t *tags_of(const struct api_route *route)
{
    const char *area = route->path + strlen("/v1/");
    return json_pack("[s%]", area, strcspn(area, "/."));
}

static json_t *describe(const struct api_route *route)
{
    json_t *row = json_pack("{s:s, s:s, s:o, s:o, s:o}", "operationId", route->id, "summary",
                            route->summary, "tags", tags_of(route), "parameters",
                            parameters_of(route), "responses", responses_of(route));
    if (route->body != NULL) {
        (void)json_object_set_new(
            row, "requestBody",
            json_pack("{s:b, s:o}", "required", 1, "content", json_content(route->body)));
    }
    return row;
}

json_t *api_openapi(void)
{
    struct api_catalog *catalog = NULL;
    struct error err = {0};
    if (api_catalog_create_all(&catalog, &err) < 0) {
        return NULL;
    }
    json_t *paths = json_object();
    const struct api_route *route;
    for (size_t i = 0; (route = api_catalog_route(catalog, i)) != NULL; i++) {
        if (json_object_get(paths, route->path) == NULL) {
            (void)json_object_set_new(paths, route->path, json_object());
        }
        char method[16] = "";
        for (size_t k = 0; route->method[k] != '\0' && k < sizeof(method) - 1; k++) {
            method[k] = (char)(route->method[k] | 0x20);
        }
        (void)json_object_set_new(json_object_get(paths, route->path), method, describe(route));
    }
    json_t *document =
        json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:{s:O}}", "openapi", "3.1.0", "info", "title",
                  "Hull", "version", HULL_VERSION, "description",
                  "VMs and containers on one host. What takes time is an operation.", "paths",
                  paths, "components", "schemas", api_catalog_schemas(catalog));
    api_catalog_destroy(catalog);
    return document;
}
