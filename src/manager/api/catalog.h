/* What the tables of routes and schemas say, ready to be asked: which route a request means, and whether its query and its body
 * fit.
 *
 * Requests come from anybody: whatever is found here is bounded and checked.
 *
 * Threads: none. */
#ifndef MANAGER_API_CATALOG_H
#define MANAGER_API_CATALOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/core/error.h"
#include "manager/api/api.h"

#define API_MAX_PATH  1024
#define API_MAX_WORDS 8
#define API_MAX_BODY  (1 << 20)
/* Of a schema's nested values and references. */
#define API_MAX_DEPTH 16

struct api_catalog;

/* The tables: each ends with a row of zeros, the lists with NULL. Errors name what is wrong with them: a schema that is no JSON
 * or names another that there is
 * not, a route that is there twice. */
int must_check api_catalog_create(const struct api_route *const *route_tables,
                                  const struct api_schema *const *schema_tables,
                                  struct api_catalog **out_catalog, struct error *err);
void api_catalog_destroy(struct api_catalog *catalog); /* NULL is fine */
/* Those of hulld's rooms. */
int must_check api_catalog_create_all(struct api_catalog **out_catalog, struct error *err);

/* Row 'index', NULL behind the last one; the schemas by name (an object, borrowed). */
const struct api_route *api_catalog_route(const struct api_catalog *catalog, size_t index);
const json_t *api_catalog_schemas(const struct api_catalog *catalog);

struct route_match {
    const struct api_route *route;
    bool is_head;                         /* HEAD, served by a route of GET */
    const char *words[API_MAX_WORDS + 1]; /* point into 'text' */
    char text[API_MAX_PATH];
    char allow[64]; /* -EPERM: "GET, HEAD, POST" */
};
/* 'path' is decoded. A {word} stands for one part of it; where no route fits so, for several ("debian/12" of an image,
 * "POOL/NAME" of a volume).
 * -ENOENT: there is no such path; -EPERM: not with that method; -ENAMETOOLONG. */
int must_check api_catalog_find(const struct api_catalog *catalog, const char *method,
                                const char *path, struct route_match *out_match, struct error *err);

/* The query's parts, decoded, "name=value" or "name" (which means ""). -EINVAL: the route has no such parameter, or it is there
 * twice. */
int must_check query_add(const struct api_route *route, json_t *query, const char *part,
                         struct error *err);
/* Seconds of "wait": 0 to 3600. -1: it is not said. */
int must_check query_wait(const json_t *query, int *out_seconds, struct error *err);

/* 'size' 0: no body, fine where the route has none. A new reference or NULL. -EINVAL says where: "config.cpus: ...". */
int must_check body_parse(const struct api_catalog *catalog, const struct api_route *route,
                          const char *data, size_t size, json_t **out_body, struct error *err);
/* Against one schema of the catalog, by name; "[Name]" is an array of them. */
int must_check schema_check(const json_t *schemas, const char *name, const json_t *value,
                            struct error *err);

/* The HTTP status of a positive errno, and the words behind a status. */
int api_status(int code);
const char *api_status_words(int status);

#endif
