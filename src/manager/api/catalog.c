#include "manager/api/catalog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/command/options.h"
#include "base/core/size.h"

#define MAX_WAIT_S 3600
/* Of a path in which a word may stand for several: each more multiplies the ways to divide it. */
#define MAX_PARTS 16

struct api_catalog {
    const struct api_route **routes;
    size_t count;
    json_t *schemas;
};

static int add_schemas(struct api_catalog *catalog, const struct api_schema *table,
                       struct error *err)
{
    for (; table->name != NULL; table++) {
        json_error_t reason;
        json_t *schema = json_loads(table->text, JSON_REJECT_DUPLICATES, &reason);
        if (!json_is_object(schema)) {
            json_decref(schema);
            return error_set(err, EINVAL, "schema %s: line %d: %s", table->name, reason.line,
                             reason.text);
        }
        if (json_object_get(catalog->schemas, table->name) != NULL) {
            json_decref(schema);
            return error_set(err, EINVAL, "schema %s: it is there twice", table->name);
        }
        if (json_object_set_new(catalog->schemas, table->name, schema) < 0) {
            return error_set_errno(err, ENOMEM, "schema %s", table->name);
        }
    }
    return 0;
}

static int check_refs(const struct api_catalog *catalog, const char *of, const json_t *value,
                      struct error *err)
{
    static const char prefix[] = "#/components/schemas/";
    const char *name;
    const json_t *member;
    size_t i;
    int rc = 0;
    json_object_foreach((json_t *)value, name, member)
    {
        const char *ref = strcmp(name, "$ref") == 0 ? json_string_value(member) : NULL;
        if (ref != NULL && (strncmp(ref, prefix, strlen(prefix)) != 0 ||
                            json_object_get(catalog->schemas, ref + strlen(prefix)) == NULL)) {
            return error_set(err, EINVAL, "schema %s: there is no %s", of, ref);
        }
        if (rc == 0) {
            rc = check_refs(catalog, of, member, err);
        }
    }
    json_array_foreach(value, i, member)
    {
        if (rc == 0) {
            rc = check_refs(catalog, of, member, err);
        }
    }
    return rc;
}

static int check_schema_name(const struct api_catalog *catalog, const struct api_route *route,
                             const char *name, struct error *err)
{
    char plain[64];
    if (name == NULL) {
        return 0;
    }
    snprintf(plain, sizeof(plain), "%s", name[0] == '[' ? name + 1 : name);
    plain[strcspn(plain, "]")] = '\0';
    return json_object_get(catalog->schemas, plain) != NULL
               ? 0
               : error_set(err, EINVAL, "route %s %s: there is no schema %s", route->method,
                           route->path, plain);
}

static int add_routes(struct api_catalog *catalog, const struct api_route *table, struct error *err)
{
    for (; table->path != NULL; table++) {
        for (size_t i = 0; i < catalog->count; i++) {
            if (strcmp(catalog->routes[i]->path, table->path) == 0 &&
                strcmp(catalog->routes[i]->method, table->method) == 0) {
                return error_set(err, EINVAL, "route %s %s: it is there twice", table->method,
                                 table->path);
            }
        }
        int rc = check_schema_name(catalog, table, table->body, err);
        if (rc == 0) {
            rc = check_schema_name(catalog, table, table->answer, err);
        }
        const struct api_route **more =
            rc < 0 ? NULL
                   : realloc(catalog->routes, (catalog->count + 1) * sizeof(*catalog->routes));
        if (more == NULL) {
            return rc < 0 ? rc : error_set_errno(err, ENOMEM, "routes");
        }
        catalog->routes = more;
        catalog->routes[catalog->count++] = table;
    }
    return 0;
}

int api_catalog_create(const struct api_route *const *route_tables,
                       const struct api_schema *const *schema_tables,
                       struct api_catalog **out_catalog, struct error *err)
{
    struct api_catalog *catalog = calloc(1, sizeof(*catalog));
    json_t *schemas = json_object();
    if (catalog == NULL || schemas == NULL) {
        free(catalog);
        json_decref(schemas);
        return error_set_errno(err, ENOMEM, "routes");
    }
    catalog->schemas = schemas;
    int rc = 0;
    for (; rc == 0 && *schema_tables != NULL; schema_tables++) {
        rc = add_schemas(catalog, *schema_tables, err);
    }
    const char *name;
    const json_t *schema;
    json_object_foreach(schemas, name, schema)
    {
        if (rc == 0) {
            rc = check_refs(catalog, name, schema, err);
        }
    }
    for (; rc == 0 && *route_tables != NULL; route_tables++) {
        rc = add_routes(catalog, *route_tables, err);
    }
    if (rc < 0) {
        api_catalog_destroy(catalog);
        return rc;
    }
    *out_catalog = catalog;
    return 0;
}

void api_catalog_destroy(struct api_catalog *catalog)
{
    if (catalog != NULL) {
        json_decref(catalog->schemas);
        free(catalog->routes);
        free(catalog);
    }
}

const struct api_route *api_catalog_route(const struct api_catalog *catalog, size_t index)
{
    return index < catalog->count ? catalog->routes[index] : NULL;
}

const json_t *api_catalog_schemas(const struct api_catalog *catalog)
{
    return catalog->schemas;
}

/* Fits 'path' to the rest of a route's pattern. 'takes_many': the first word that needs it may stand for several parts.
 * Words are written to 'match' as they are found. Returns how many parts were taken literally, or -1. */
static int fit(const char *pattern, const char *path, bool takes_many, unsigned word,
               struct route_match *match, size_t used)
{
    int literal = 0;
    while (*pattern != '\0' && *pattern != '{') {
        if (*pattern != *path) {
            return -1;
        }
        literal += *pattern == '/';
        pattern++;
        path++;
    }
    if (*pattern == '\0') {
        match->words[word] = NULL;
        return *path == '\0' ? literal : -1;
    }
    const char *rest = strchr(pattern, '}');
    if (rest == NULL || word >= API_MAX_WORDS) {
        return -1;
    }
    for (size_t length = 1; path[length - 1] != '\0'; length++) {
        char ends_at = path[length];
        if (path[length - 1] == '/' && (!takes_many || length == 1)) {
            return -1;
        }
        if (ends_at != '/' && ends_at != '\0') {
            continue;
        }
        if (used + length + 1 > sizeof(match->text)) {
            return -1;
        }
        match->words[word] = match->text + used;
        memcpy(match->text + used, path, length);
        match->text[used + length] = '\0';
        int more = fit(rest + 1, path + length, takes_many, word + 1, match, used + length + 1);
        if (more >= 0) {
            match->words[word] = match->text + used;
            return literal + more;
        }
    }
    return -1;
}

static void add_allowed(struct route_match *match, const char *method)
{
    size_t length = strlen(match->allow);
    snprintf(match->allow + length, sizeof(match->allow) - length, "%s%s", length > 0 ? ", " : "",
             method);
    if (strcmp(method, "GET") == 0) {
        add_allowed(match, "HEAD");
    }
}

/* The route that takes most of the path literally; 'out_fits': some route does, if not with this method. */
static const struct api_route *find(const struct api_catalog *catalog, const char *method,
                                    const char *path, bool takes_many, struct route_match *match,
                                    bool *out_fits)
{
    int best = -1;
    const struct api_route *found = NULL;
    match->allow[0] = '\0';
    for (size_t i = 0; i < catalog->count; i++) {
        const struct api_route *route = catalog->routes[i];
        int literal = fit(route->path, path, takes_many, 0, match, 0);
        if (literal < 0 || literal < best) {
            continue;
        }
        if (literal > best) {
            best = literal;
            found = NULL;
            match->allow[0] = '\0';
        }
        add_allowed(match, route->method);
        if (strcmp(route->method, method) == 0) {
            found = route;
        }
    }
    *out_fits = best >= 0;
    if (found != NULL) {
        (void)fit(found->path, path, takes_many, 0, match, 0); /* its words */
    }
    return found;
}

static unsigned count_parts(const char *path)
{
    unsigned count = 0;
    for (; *path != '\0'; path++) {
        count += *path == '/';
    }
    return count;
}

int api_catalog_find(const struct api_catalog *catalog, const char *method, const char *path,
                     struct route_match *out_match, struct error *err)
{
    *out_match = (struct route_match){.is_head = strcmp(method, "HEAD") == 0};
    if (strlen(path) >= API_MAX_PATH) {
        return error_set(err, ENAMETOOLONG, "path: at most %d bytes", API_MAX_PATH - 1);
    }
    const char *asked = out_match->is_head ? "GET" : method;
    bool fits = false;
    const struct api_route *route = find(catalog, asked, path, false, out_match, &fits);
    if (!fits && count_parts(path) <= MAX_PARTS) {
        route = find(catalog, asked, path, true, out_match, &fits);
    }
    if (!fits) {
        return error_set(err, ENOENT, "there is no %s: see /v1/openapi.json", path);
    }
    if (route == NULL) {
        return error_set(err, EPERM, "%s %s: accepted are %s", method, path, out_match->allow);
    }
    out_match->route = route;
    return 0;
}

int query_add(const struct api_route *route, json_t *query, const char *part, struct error *err)
{
    char name[64], words[256] = "", hint[64];
    size_t length = strcspn(part, "=");
    snprintf(name, sizeof(name), "%.*s", (int)MIN(length, sizeof(name) - 1), part);
    bool is_known = route->kind == API_OPERATION && strcmp(name, "wait") == 0;
    size_t used = 0;
    if (route->kind == API_OPERATION) {
        used = (size_t)snprintf(words, sizeof(words), "wait");
    }
    for (const struct api_query *row = route->query; row != NULL && row->name != NULL; row++) {
        is_known = is_known || (strcmp(row->name, name) == 0 && length < sizeof(name));
        int more =
            snprintf(words + used, sizeof(words) - used, "%s%s", used > 0 ? "|" : "", row->name);
        used = MIN(used + (size_t)more, sizeof(words) - 1);
    }
    if (!is_known) {
        return nearest_word(name, words, hint, sizeof(hint)) != NULL
                   ? error_set(err, EINVAL, "query: unknown parameter '%s': did you mean '%s'?",
                               name, hint)
                   : error_set(err, EINVAL, "query: unknown parameter '%s'", name);
    }
    if (json_object_get(query, name) != NULL) {
        return error_set(err, EINVAL, "query: parameter '%s' is there twice", name);
    }
    json_t *value = json_string(part[length] == '=' ? part + length + 1 : "");
    if (value == NULL || json_object_set_new(query, name, value) < 0) {
        return error_set(err, EINVAL, "query: parameter '%s' is not UTF-8", name);
    }
    return 0;
}

int query_wait(const json_t *query, int *out_seconds, struct error *err)
{
    const char *text = json_string_value(json_object_get(query, "wait"));
    uint64_t seconds = 0;
    if (text == NULL) {
        *out_seconds = -1;
        return 0;
    }
    int rc = number_parse(text, 0, MAX_WAIT_S, &seconds, err);
    if (rc < 0) {
        return error_prefix(err, rc, "query: wait");
    }
    *out_seconds = (int)seconds;
    return 0;
}

int body_parse(const struct api_catalog *catalog, const struct api_route *route, const char *data,
               size_t size, json_t **out_body, struct error *err)
{
    if (route->body == NULL) {
        /* Clients that always send one: {} is none. */
        if (size == 0 || (size == 2 && memcmp(data, "{}", 2) == 0)) {
            *out_body = NULL;
            return 0;
        }
        return error_set(err, EINVAL, "body: %s %s takes none", route->method, route->path);
    }
    if (size == 0) {
        return error_set(err, EINVAL, "body: it is missing: a JSON value of %s", route->body);
    }
    json_error_t reason;
    json_t *body = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &reason);
    if (body == NULL) {
        return error_set(err, EINVAL, "body: line %d, column %d: %s", reason.line, reason.column,
                         reason.text);
    }
    int rc = schema_check(catalog->schemas, route->body, body, err);
    if (rc < 0) {
        json_decref(body);
        return rc;
    }
    *out_body = body;
    return 0;
}

int api_status(int code)
{
    switch (code) {
    case EINVAL:
    case ENAMETOOLONG:
    case ERANGE:
        return 400;
    case EACCES:
    case EPERM:
        return 403;
    case ENOENT:
        return 404;
    case EEXIST:
    case EBUSY:
    case ESRCH:
    case EALREADY:
        return 409;
    case EPROTONOSUPPORT:
    case EOPNOTSUPP:
        return 501;
    case ENOSPC:
    case EDQUOT:
        return 507;
    default:
        return 500;
    }
}

const char *api_status_words(int status)
{
    static const struct {
        int status;
        const char *words;
    } rows[] = {
        {200, "OK"},
        {202, "Accepted"},
        {400, "Bad Request"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {409, "Conflict"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {426, "Upgrade Required"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        if (rows[i].status == status) {
            return rows[i].words;
        }
    }
    return "Unknown";
}
