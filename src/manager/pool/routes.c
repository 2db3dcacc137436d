/* In hulld: pools and volumes in the API. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/api/api.h"
#include "manager/pool/pool.h"
#include "manager/text.h"
#include "manager/users.h"
#include "system/store.h"

static struct users_query pool_query(const char *pool)
{
    return (struct users_query){.type = "disk", .has_shares = true, .key = "pool", .value = pool};
}

static struct users_query volume_query(const json_t *volume)
{
    const char *name = text_or_empty(volume, "name"), *slash = strchr(name, '/');
    return (struct users_query){.type = "disk",
                                .has_shares = true,
                                .key = "pool",
                                .value = text_or_empty(volume, "pool"),
                                .key2 = "source",
                                .value2 = slash != NULL ? slash + 1 : name};
}

/* 'request' is taken over. 'other' may be NULL. */
static int begin(struct api_call *call, const char *kind, const char *description,
                 const char *resource, const char *second, const char *third, json_t *request,
                 struct error *err)
{
    const char *const resources[] = {resource, second, second != NULL ? third : NULL, NULL};
    int rc = request == NULL ? error_set_errno(err, ENOMEM, "%s", description)
                             : api_begin(call, kind, description, resources, request, err);
    json_decref(request);
    return rc;
}

/* Its space, or why it cannot be used. */
static int complete_pool(struct api_call *call, json_t *pool, struct error *err)
{
    json_t *users;
    uint64_t total, available;
    const struct pool_driver *driver;
    struct error why;
    const struct users_query query = pool_query(text_or_empty(pool, "name"));
    int rc = users_find(call->manager->documents, &query, &users, err);
    if (rc < 0) {
        return rc;
    }
    json_object_set_new(pool, "used_by", users);
    if (pool_driver_find(pool, &driver, &why) < 0 ||
        driver->space(pool, &total, &available, &why) < 0) {
        json_object_set_new(pool, "problem", json_string(why.text));
        return 0;
    }
    json_object_set_new(pool, "total_bytes", json_integer((json_int_t)total));
    json_object_set_new(pool, "free_bytes", json_integer((json_int_t)available));
    return 0;
}

static int list_pools(struct api_call *call, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *pool;
    int rc = documents_list(call->manager->documents, "pool", &list, err);
    json_array_foreach(list, i, pool)
    {
        rc = rc < 0 ? rc : complete_pool(call, pool, err);
    }
    if (rc == 0) {
        call->answer = json_incref(list);
    }
    return rc;
}

static int find_pool(const struct api_call *call, const char *name, json_t **out_pool,
                     struct error *err)
{
    return documents_get(call->manager->documents, "pool", name, out_pool, err);
}

static int get_pool(struct api_call *call, struct error *err)
{
    json_auto_t *pool = NULL;
    int rc = find_pool(call, call->words[0], &pool, err);
    if (rc == 0) {
        rc = complete_pool(call, pool, err);
    }
    if (rc == 0) {
        call->answer = json_incref(pool);
    }
    return rc;
}

/* No two pools in one folder, nor one in another. */
static int check_path(struct api_call *call, const char *name, const char *path, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *other;
    int rc = documents_list(call->manager->documents, "pool", &list, err);
    json_array_foreach(list, i, other)
    {
        const char *theirs = text_or_empty(json_object_get(other, "config"), "path");
        size_t length = strlen(theirs), own = strlen(path);
        size_t common = length < own ? length : own;
        bool is_below = length > 0 && strncmp(theirs, path, common) == 0 &&
                        (theirs[common] == '\0' || theirs[common] == '/') &&
                        (path[common] == '\0' || path[common] == '/');
        if (rc == 0 && is_below) {
            rc = error_set(err, EEXIST, "pool %s: %s is in the way of the pool %s at %s", name,
                           path, text_or_empty(other, "name"), theirs);
        }
    }
    return rc;
}

static int create_pool(struct api_call *call, struct error *err)
{
    char now[32], path[PATH_MAX], description[128], resource[96];
    const char *name = text_or_empty(call->body, "name");
    const struct pool_driver *driver;
    int rc = store_check_name("pool", name, err);
    if (rc < 0) {
        return rc;
    }
    if (documents_has(call->manager->documents, "pool", name)) {
        return error_set(err, EEXIST, "pool %s: there is one of that name", name);
    }
    json_auto_t *document = json_deep_copy(call->body);
    manager_time(now);
    if (json_object_get(document, "driver") == NULL) {
        json_object_set_new(document, "driver", json_string("dir"));
    }
    if (json_object_get(document, "description") == NULL) {
        json_object_set_new(document, "description", json_string(""));
    }
    if (json_object_get(document, "config") == NULL) {
        json_object_set_new(document, "config", json_object());
    }
    json_t *config = json_object_get(document, "config");
    if (json_object_get(config, "path") == NULL) {
        place_state_path(&call->manager->place, "pools", name, NULL, path);
        json_object_set_new(config, "path", json_string(path));
    }
    const char *chosen = text_or_empty(config, "path");
    if (chosen[0] != '/' || strstr(chosen, "/../") != NULL || strstr(chosen, "//") != NULL ||
        strstr(chosen, "/./") != NULL || chosen[strlen(chosen) - 1] == '/') {
        return error_set(err, EINVAL, "pool %s: config.path '%.100s': an absolute path of a folder",
                         name, chosen);
    }
    json_object_set_new(document, "created_at", json_string(now));
    rc = pool_driver_find(document, &driver, err);
    if (rc == 0) {
        rc = driver->check(document, err);
    }
    if (rc == 0) {
        rc = check_path(call, name, chosen, err);
    }
    snprintf(description, sizeof(description), "making the pool %.64s", name);
    snprintf(resource, sizeof(resource), "pool/%.64s", name);
    return rc < 0 ? rc
                  : begin(call, "pool-create", description, resource, "pools", NULL,
                          json_pack("{s:O}", "document", document), err);
}

static int change_pool(struct api_call *call, struct error *err)
{
    json_auto_t *pool = NULL;
    json_t *description = json_object_get(call->body, "description");
    int rc = find_pool(call, call->words[0], &pool, err);
    if (rc == 0 && description != NULL) {
        json_object_set(pool, "description", description);
        rc = documents_put(call->manager->documents, "pool", call->words[0], pool, err);
    }
    if (rc == 0) {
        call->answer = json_incref(pool);
    }
    return rc;
}

static int refuse_volumes(struct api_call *call, const char *pool, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *volume;
    int rc = documents_list(call->manager->documents, "volume", &list, err);
    json_array_foreach(list, i, volume)
    {
        if (rc == 0 && strcmp(text_or_empty(volume, "pool"), pool) == 0) {
            rc = error_set(err, EBUSY, "pool %s: the volume %s is in it", pool,
                           text_or_empty(volume, "name"));
        }
    }
    return rc;
}

static int begin_pool(struct api_call *call, const char *kind, const char *verb, const json_t *pool,
                      struct error *err)
{
    char description[128], resource[96];
    snprintf(description, sizeof(description), "%s the pool %.64s", verb, call->words[0]);
    snprintf(resource, sizeof(resource), "pool/%.64s", call->words[0]);
    return begin(call, kind, description, resource, NULL, NULL,
                 json_pack("{s:O}", "document", (json_t *)pool), err);
}

static int delete_pool(struct api_call *call, struct error *err)
{
    json_auto_t *pool = NULL;
    const char *name = call->words[0];
    const struct users_query query = pool_query(name);
    int rc = find_pool(call, name, &pool, err);
    if (rc == 0) {
        rc = users_refuse(call->manager->documents, &query, "pool", name, err);
    }
    if (rc == 0) {
        rc = refuse_volumes(call, name, err);
    }
    return rc < 0 ? rc : begin_pool(call, "pool-delete", "deleting", pool, err);
}

static int check_pool(struct api_call *call, struct error *err)
{
    json_auto_t *pool = NULL;
    int rc = find_pool(call, call->words[0], &pool, err);
    return rc < 0 ? rc : begin_pool(call, "pool-check", "checking", pool, err);
}

static int complete_volume(struct api_call *call, json_t *volume, struct error *err)
{
    json_t *users;
    const struct users_query query = volume_query(volume);
    int rc = users_find(call->manager->documents, &query, &users, err);
    if (rc == 0) {
        json_object_set_new(volume, "used_by", users);
    }
    return rc;
}

static int list_volumes(struct api_call *call, struct error *err)
{
    json_auto_t *list = NULL;
    size_t i;
    json_t *volume;
    const char *pool = text_or_empty(call->query, "pool");
    int rc = documents_list(call->manager->documents, "volume", &list, err);
    json_auto_t *answer = json_array();
    json_array_foreach(list, i, volume)
    {
        if (rc == 0 && (pool[0] == '\0' || strcmp(text_or_empty(volume, "pool"), pool) == 0)) {
            rc = complete_volume(call, volume, err);
            json_array_append(answer, volume);
        }
    }
    if (rc == 0) {
        call->answer = json_incref(answer);
    }
    return rc;
}

static int find_volume(const struct api_call *call, json_t **out_volume, struct error *err)
{
    char name[160];
    snprintf(name, sizeof(name), "%.64s/%.80s", call->words[0], call->words[1]);
    return documents_get(call->manager->documents, "volume", name, out_volume, err);
}

static int get_volume(struct api_call *call, struct error *err)
{
    json_auto_t *volume = NULL;
    int rc = find_volume(call, &volume, err);
    if (rc == 0) {
        rc = complete_volume(call, volume, err);
    }
    if (rc == 0) {
        call->answer = json_incref(volume);
    }
    return rc;
}

/* With the volume's pool in the request, shared with others. 'request' is taken over. */
static int begin_volume(struct api_call *call, const char *kind, const char *verb,
                        const char *volume, const char *pool, const char *third, json_t *request,
                        struct error *err)
{
    char description[200], resource[200], shared[96];
    json_t *document = NULL;
    int rc = find_pool(call, pool, &document, err);
    if (rc < 0 || request == NULL) {
        json_decref(request);
        return rc < 0 ? rc : error_set_errno(err, ENOMEM, "volume %s", volume);
    }
    json_object_set_new(request, "pool", document);
    snprintf(description, sizeof(description), "%s the volume %.140s", verb, volume);
    snprintf(resource, sizeof(resource), "volume/%.140s", volume);
    snprintf(shared, sizeof(shared), "~pool/%.64s", pool);
    return begin(call, kind, description, resource, shared, third, request, err);
}

static int create_volume(struct api_call *call, struct error *err)
{
    char now[32], full[160];
    const char *name = text_or_empty(call->body, "name"), *pool = text_or_empty(call->body, "pool");
    const char *type = text_or_empty(call->body, "type");
    json_int_t size = json_integer_value(json_object_get(call->body, "size_bytes"));
    pool = pool[0] != '\0' ? pool : "default";
    type = type[0] != '\0' ? type : "block";
    int rc = store_check_name("volume", name, err);
    if (rc < 0) {
        return rc;
    }
    snprintf(full, sizeof(full), "%.64s/%.64s", pool, name);
    if (documents_has(call->manager->documents, "volume", full)) {
        return error_set(err, EEXIST, "volume %s: there is one of that name", full);
    }
    if (strcmp(type, "block") == 0 && (size <= 0 || size % 512 != 0)) {
        return error_set(err, EINVAL, "volume %s: size_bytes: a multiple of 512, not 0", full);
    }
    manager_time(now);
    json_t *document = json_pack("{s:s,s:s,s:s,s:I,s:s}", "name", full, "pool", pool, "type", type,
                                 "size_bytes", size, "created_at", now);
    return begin_volume(call, "volume-create", "making", full, pool, NULL,
                        json_pack("{s:o}", "document", document), err);
}

/* A volume that nobody uses. */
static int find_unused(const struct api_call *call, json_t **out_volume, struct error *err)
{
    int rc = find_volume(call, out_volume, err);
    if (rc < 0) {
        return rc;
    }
    const struct users_query query = volume_query(*out_volume);
    rc = users_refuse(call->manager->documents, &query, "volume",
                      text_or_empty(*out_volume, "name"), err);
    if (rc < 0) {
        json_decref(*out_volume);
        *out_volume = NULL;
    }
    return rc;
}

static int move_volume(struct api_call *call, const char *to, struct error *err)
{
    json_auto_t *volume = NULL, *target = NULL;
    char full[160], resource[200];
    int rc = find_unused(call, &volume, err);
    if (rc == 0) {
        rc = find_pool(call, to, &target, err);
    }
    if (rc < 0) {
        return rc;
    }
    snprintf(full, sizeof(full), "%.64s/%.80s", to, call->words[1]);
    if (documents_has(call->manager->documents, "volume", full)) {
        return error_set(err, EEXIST, "volume %s: there is one of that name", full);
    }
    snprintf(resource, sizeof(resource), "volume/%.150s", full);
    return begin_volume(call, "volume-move", "moving", text_or_empty(volume, "name"),
                        call->words[0], resource,
                        json_pack("{s:O,s:O}", "document", volume, "to", target), err);
}

static int change_volume(struct api_call *call, struct error *err)
{
    json_t *size = json_object_get(call->body, "size_bytes");
    const char *pool = text_or_empty(call->body, "pool");
    if ((size != NULL) == (pool[0] != '\0')) {
        return error_set(err, EINVAL, "changing a volume: size_bytes or pool");
    }
    if (pool[0] != '\0') {
        return move_volume(call, pool, err);
    }
    json_auto_t *volume = NULL;
    int rc = find_volume(call, &volume, err);
    if (rc == 0 && json_integer_value(size) % 512 != 0) {
        rc = error_set(err, EINVAL, "volume %s: size_bytes: a multiple of 512",
                       text_or_empty(volume, "name"));
    }
    return rc < 0
               ? rc
               : begin_volume(call, "volume-resize", "resizing", text_or_empty(volume, "name"),
                              call->words[0], NULL,
                              json_pack("{s:O,s:O}", "document", volume, "size_bytes", size), err);
}

static int delete_volume(struct api_call *call, struct error *err)
{
    json_auto_t *volume = NULL;
    int rc = find_unused(call, &volume, err);
    return rc < 0 ? rc
                  : begin_volume(call, "volume-delete", "deleting", text_or_empty(volume, "name"),
                                 call->words[0], NULL, json_pack("{s:O}", "document", volume), err);
}

static const struct api_query volume_queries[] = {{"pool", "only those of this pool"}, {0}};

const struct api_route pool_routes[] = {
    {"GET", "/v1/pools", "listPools", "All storage pools.", API_PLAIN, NULL, "[Pool]", NULL,
     list_pools},
    {"POST", "/v1/pools", "createPool", "Makes a storage pool.", API_OPERATION, "PoolRequest",
     "Operation", NULL, create_pool},
    {"GET", "/v1/pools/{name}", "getPool", "A storage pool and its space.", API_PLAIN, NULL, "Pool",
     NULL, get_pool},
    {"PATCH", "/v1/pools/{name}", "changePool", "Changes a storage pool's description.", API_PLAIN,
     "PoolChange", "Pool", NULL, change_pool},
    {"DELETE", "/v1/pools/{name}", "deletePool", "Deletes a storage pool that is empty.",
     API_OPERATION, NULL, "Operation", NULL, delete_pool},
    {"POST", "/v1/pools/{name}/check", "checkPool",
     "Removes what nobody refers to, and merges layers that nobody needs apart.", API_OPERATION,
     NULL, "Operation", NULL, check_pool},
    {"GET", "/v1/volumes", "listVolumes", "All volumes.", API_PLAIN, NULL, "[Volume]",
     volume_queries, list_volumes},
    {"POST", "/v1/volumes", "createVolume", "Makes a volume.", API_OPERATION, "VolumeRequest",
     "Operation", NULL, create_volume},
    {"GET", "/v1/volumes/{pool}/{name}", "getVolume", "A volume.", API_PLAIN, NULL, "Volume", NULL,
     get_volume},
    {"PATCH", "/v1/volumes/{pool}/{name}", "changeVolume",
     "Makes a volume larger, or moves one that nobody uses to another pool.", API_OPERATION,
     "VolumeChange", "Operation", NULL, change_volume},
    {"DELETE", "/v1/volumes/{pool}/{name}", "deleteVolume", "Deletes a volume that nobody uses.",
     API_OPERATION, NULL, "Operation", NULL, delete_volume},
    {0},
};

#define TEXT  "{\"type\":\"string\"}"
#define COUNT "{\"type\":\"integer\",\"minimum\":0}"
#define CONFIG                                                                                     \
    "\"config\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"path\":{"    \
    "\"type\":\"string\",\"minLength\":2,\"maxLength\":1000,\"description\":\"its folder\"}}}"
#define DESCRIPTION "\"description\":{\"type\":\"string\",\"maxLength\":1000}"

const struct api_schema pool_schemas[] = {
    {"Pool",
     "{\"type\":\"object\",\"required\":[\"name\",\"driver\"],\"properties\":{\"name\":" TEXT
     ",\"driver\":" TEXT "," DESCRIPTION "," CONFIG
     ",\"created_at\":{\"type\":\"string\",\"format\":\"date-time\"},\"used_by\":{\"type\":"
     "\"array\",\"items\":" TEXT "},\"total_bytes\":" COUNT ",\"free_bytes\":" COUNT
     ",\"problem\":{\"type\":\"string\",\"description\":\"why it cannot be used\"}}}"},
    {"PoolRequest",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
     "\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":64},\"driver\":{"
     "\"type\":\"string\",\"enum\":[\"dir\",\"btrfs\"]}," DESCRIPTION "," CONFIG "}}"},
    {"PoolChange", "{\"type\":\"object\",\"additionalProperties\":false,"
                   "\"properties\":{" DESCRIPTION "}}"},
    {"Volume", "{\"type\":\"object\",\"required\":[\"name\",\"pool\",\"type\"],\"properties\":{"
               "\"name\":{\"type\":\"string\",\"description\":\"POOL/NAME\"},\"pool\":" TEXT
               ",\"type\":{\"type\":\"string\",\"enum\":[\"block\",\"tree\"]},\"size_bytes\":" COUNT
               ",\"format\":" TEXT ",\"created_at\":{\"type\":\"string\",\"format\":\"date-time\"},"
               "\"used_by\":{\"type\":\"array\",\"items\":" TEXT "}}}"},
    {"VolumeRequest",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,"
     "\"properties\":{\"pool\":" TEXT ",\"name\":{\"type\":\"string\",\"maxLength\":64},"
     "\"type\":{\"type\":\"string\",\"enum\":[\"block\",\"tree\"]},\"size_bytes\":" COUNT "}}"},
    {"VolumeChange", "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
                     "\"size_bytes\":" COUNT ",\"pool\":" TEXT "}}"},
    {0},
};
