/* In hulld: exports, imports and templates in the API. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/core/compiler.h"
#include "manager/api/api.h"
#include "manager/image/names.h"
#include "manager/instance/requests.h"
#include "manager/text.h"
#include "manager/transfer/stream.h"
#include "manager/transfer/templates.h"

#define IMAGES        "images"
#define IMAGES_SHARED "~images"

static bool is_asked(const struct api_call *call, const char *key)
{
    return json_is_true(json_object_get(call->body, key));
}

/* A job that also has images as its resource. 'request' is taken over. */
static int begin_with_images(struct api_call *call, const char *kind, const char *verb,
                             const char *name, const char *alias, json_t *request,
                             struct error *err)
{
    static const char *const related[][2] = {
        {"profile", "profiles"}, {"network", "networks"}, {"pool", "pools"}};
    char description[160], instance[96], alias_resource[IMAGE_ALIAS_SIZE + 16];
    json_auto_t *owned = request;
    int rc = request == NULL ? error_set_errno(err, ENOMEM, "a request") : 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(related); i++) {
        json_t *all;
        rc = request_related(call->manager->documents, related[i][0], &all, err);
        rc = rc < 0 ? rc : json_object_set_new(owned, related[i][1], all);
    }
    (void)snprintf(description, sizeof(description), "%s %.64s", verb, name);
    (void)snprintf(instance, sizeof(instance), "instance/%.64s", name);
    (void)snprintf(alias_resource, sizeof(alias_resource), "alias/%s", alias != NULL ? alias : "");
    const char *const resources[] = {instance, IMAGES_SHARED, alias != NULL ? alias_resource : NULL,
                                     NULL};
    return rc < 0 ? rc : api_begin(call, kind, description, resources, owned, err);
}

static int find_instance(struct api_call *call, const char *name, json_t **out_document,
                         struct error *err)
{
    int rc = documents_get(call->manager->documents, "instance", name, out_document, err);
    return rc == -ENOENT ? error_set(err, ENOENT, "instance %.64s does not exist", name) : rc;
}

static int export_instance(struct api_call *call, struct error *err)
{
    const char *compress = text_of(call->body, "compress");
    json_auto_t *document = NULL;
    int rc = find_instance(call, call->words[0], &document, err);
    if (rc < 0) {
        return rc;
    }
    json_t *request =
        json_pack("{s:s, s:O, s:b, s:s}", "name", call->words[0], "document", document, "snapshots",
                  is_asked(call, "snapshots"), "compress", compress != NULL ? compress : "zstd");
    return request_begin(call, "instance-export", "exporting", call->words[0], NULL, document,
                         request, err);
}

static int check_known(struct api_call *call, const char *kind, const char *name, struct error *err)
{
    return name == NULL || documents_has(call->manager->documents, kind, name)
               ? 0
               : error_set(err, ENOENT, "%s %.64s does not exist", kind, name);
}

static int import_instance(struct api_call *call, struct error *err)
{
    const char *name = text_or_empty(call->body, "name");
    const char *network = text_of(call->body, "network"), *pool = text_of(call->body, "pool");
    const json_t *profiles = json_object_get(call->body, "profiles"), *item;
    size_t i;
    int rc = place_check_instance_name(name, err);
    if (rc == 0 && documents_has(call->manager->documents, "instance", name)) {
        rc = error_set(err, EEXIST, "instance %s exists already: import it by another name", name);
    }
    rc = rc < 0 ? rc : check_known(call, "network", network, err);
    rc = rc < 0 ? rc : check_known(call, "pool", pool, err);
    json_array_foreach(profiles, i, item)
    {
        rc = rc < 0 ? rc : check_known(call, "profile", json_string_value(item), err);
    }
    if (rc < 0) {
        return rc;
    }
    json_t *known = json_array();
    json_auto_t *images = NULL;
    rc = documents_list(call->manager->documents, "image", &images, err);
    json_array_foreach(images, i, item)
    {
        (void)json_array_append(known, json_object_get(item, "name"));
    }
    json_t *request =
        json_pack("{s:s, s:b, s:b, s:b, s:o, s:s*, s:s*, s:O*}", "name", name, "keep_identity",
                  is_asked(call, "keep_identity"), "as_new", is_asked(call, "as_new"), "trusted",
                  is_asked(call, "trusted"), "known", known, "network", network, "pool", pool,
                  "chosen_profiles", profiles);
    if (rc < 0) {
        json_decref(request);
        return rc;
    }
    /* Nobody knows yet which networks and pools it uses; the job says when one is not there. */
    return begin_with_images(call, "instance-import", "importing", name, NULL, request, err);
}

static int open_stream(struct api_call *call, struct error *err)
{
    const char *id = call->words[0];
    size_t length = strlen(id);
    json_auto_t *operation = NULL;
    struct error ignored;
    if (length != OPERATION_ID_SIZE - 1 || strspn(id, "0123456789abcdef") != length ||
        documents_get(call->manager->documents, "operation", id, &operation, &ignored) < 0) {
        return error_set(err, ENOENT, "operation %.64s: there is none", id);
    }
    return stream_connect(&call->manager->place, id, &call->session_fd, err);
}

static int find_template(struct api_call *call, const char *name, json_t **out_alias,
                         struct error *err)
{
    int rc = documents_get(call->manager->documents, "alias", name, out_alias, err);
    if (rc == 0 && !json_is_object(json_object_get(*out_alias, "template"))) {
        json_decref(*out_alias);
        rc = -ENOENT;
    }
    return rc == -ENOENT ? error_set(err, ENOENT, "template %.100s does not exist", name) : rc;
}

/* As clients see it. */
static json_t *describe(struct api_call *call, const json_t *alias)
{
    static const char *const copied[] = {"size_bytes", "architecture", "os", "forms"};
    json_auto_t *image = NULL;
    struct error ignored;
    json_t *row = json_deep_copy(json_object_get(alias, "template"));
    (void)json_object_set(row, "name", json_object_get(alias, "name"));
    (void)json_object_set(row, "digest", json_object_get(alias, "digest"));
    if (documents_get(call->manager->documents, "image", text_or_empty(alias, "digest"), &image,
                      &ignored) == 0) {
        for (size_t i = 0; i < ARRAY_COUNT(copied); i++) {
            (void)json_object_set(row, copied[i], json_object_get(image, copied[i]));
        }
    }
    return row;
}

static int list_templates(struct api_call *call, struct error *err)
{
    json_auto_t *aliases = NULL;
    const json_t *alias;
    size_t i;
    int rc = documents_list(call->manager->documents, "alias", &aliases, err);
    if (rc < 0) {
        return rc;
    }
    call->answer = json_array();
    json_array_foreach(aliases, i, alias)
    {
        if (json_is_object(json_object_get(alias, "template"))) {
            (void)json_array_append_new(call->answer, describe(call, alias));
        }
    }
    return 0;
}

static int get_template(struct api_call *call, struct error *err)
{
    json_auto_t *alias = NULL;
    int rc = find_template(call, call->words[0], &alias, err);
    if (rc == 0) {
        call->answer = describe(call, alias);
    }
    return rc;
}

static int create_template(struct api_call *call, struct error *err)
{
    const char *instance = text_or_empty(call->body, "instance");
    const char *name = text_of(call->body, "name");
    name = name != NULL ? name : instance;
    int rc = image_check_alias(name, err);
    if (rc == 0 && documents_has(call->manager->documents, "alias", name) &&
        !is_asked(call, "replace")) {
        rc = error_set(err, EEXIST, "an image or template is called %.100s already", name);
    }
    json_auto_t *document = NULL;
    rc = rc < 0 ? rc : find_instance(call, instance, &document, err);
    if (rc < 0) {
        return rc;
    }
    json_t *request = json_pack(
        "{s:s, s:O, s:s, s:s, s:b}", "name", instance, "document", document, "template", name,
        "description", text_or_empty(call->body, "description"), "live", is_asked(call, "live"));
    return begin_with_images(call, "template-create", "making a template of", instance, name,
                             request, err);
}

/* How many of a list's documents have that member. */
static unsigned count_with(const json_t *list, const char *key, const char *value)
{
    const json_t *item;
    size_t i;
    unsigned count = 0;
    json_array_foreach(list, i, item)
    {
        count += strcmp(text_or_empty(item, key), value) == 0;
    }
    return count;
}

/* Its image goes with it, unless something else has it. */
static int delete_template(struct api_call *call, struct error *err)
{
    char description[160], resource[96];
    const char *name = call->words[0];
    json_auto_t *alias = NULL, *aliases = NULL, *instances = NULL;
    struct documents *documents = call->manager->documents;
    int rc = find_template(call, name, &alias, err);
    rc = rc < 0 ? rc : documents_list(documents, "alias", &aliases, err);
    rc = rc < 0 ? rc : documents_list(documents, "instance", &instances, err);
    if (rc < 0) {
        return rc;
    }
    const char *digest = text_or_empty(alias, "digest");
    bool is_alone = count_with(aliases, "digest", digest) == 1 &&
                    count_with(instances, "image_digest", digest) == 0;
    (void)snprintf(description, sizeof(description), "deleting the template %.100s", name);
    (void)snprintf(resource, sizeof(resource), "image/%.71s", digest);
    const char *const resources[] = {is_alone ? IMAGES : IMAGES_SHARED, resource, NULL};
    json_auto_t *request =
        json_pack("{s:s, s:s, s:b}", "template", name, "digest", digest, "with_image", is_alone);
    return api_begin(call, "template-delete", description, resources, request, err);
}

/* Members of objects that 'over' lacks. */
static void add_missing(json_t *over, const json_t *below)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)below, key, value)
    {
        json_t *mine = json_object_get(over, key);
        if (mine == NULL) {
            (void)json_object_set_new(over, key, json_deep_copy(value));
        } else if (json_is_object(mine) && json_is_object(value)) {
            add_missing(mine, value);
        }
    }
}

int template_apply(struct documents *documents, const char *image, const json_t *body,
                   json_t **out_body, struct error *err)
{
    static const char *const keys[] = {"kind", "profiles", "config", "devices"};
    json_auto_t *alias = NULL;
    json_t *copy = json_deep_copy(body);
    const json_t *settings = NULL;
    if (documents_has(documents, "alias", image)) {
        int rc = documents_get(documents, "alias", image, &alias, err);
        if (rc < 0) {
            json_decref(copy);
            return rc;
        }
        settings = json_object_get(alias, "template");
    }
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        json_t *value = json_object_get(settings, keys[i]), *mine = json_object_get(copy, keys[i]);
        if (value != NULL && mine == NULL) {
            (void)json_object_set_new(copy, keys[i], json_deep_copy(value));
        } else if (json_is_object(value) && json_is_object(mine)) {
            add_missing(mine, value);
        }
    }
    *out_body = copy;
    return 0;
}

const struct api_route transfer_routes[] = {
    {"POST", "/v1/instances/{name}/export", "exportInstance",
     "Exports an instance as one file, which the operation's stream gives", API_OPERATION,
     "InstanceExport", NULL, NULL, export_instance},
    {"POST", "/v1/imports", "importInstance",
     "Makes an instance of an exported one, whose file the operation's stream takes", API_OPERATION,
     "InstanceImport", NULL, NULL, import_instance},
    {"GET", "/v1/operations/{id}/stream", "openOperationStream",
     "The bytes of an export (STDOUT frames) or import (STDIN frames, then eof)", API_SESSION, NULL,
     NULL, NULL, open_stream},
    {"GET", "/v1/templates", "listTemplates", "All templates", API_PLAIN, NULL, "[Template]", NULL,
     list_templates},
    {"POST", "/v1/templates", "createTemplate",
     "Makes an image of an instance, and keeps what others are launched with", API_OPERATION,
     "TemplateCreate", NULL, NULL, create_template},
    {"GET", "/v1/templates/{name}", "getTemplate", "A template", API_PLAIN, NULL, "Template", NULL,
     get_template},
    {"DELETE", "/v1/templates/{name}", "deleteTemplate",
     "Deletes a template, and its image unless something else has that", API_OPERATION, NULL, NULL,
     NULL, delete_template},
    {0},
};

#define TEXT    "{\"type\":\"string\"}"
#define BOOLEAN "{\"type\":\"boolean\"}"

const struct api_schema transfer_schemas[] = {
    {"InstanceExport",
     "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
     "\"snapshots\":" BOOLEAN ",\"compress\":{\"type\":\"string\",\"enum\":[\"zstd\",\"none\"]}}}"},
    {"InstanceImport",
     "{\"type\":\"object\",\"required\":[\"name\"],\"additionalProperties\":false,\"properties\":{"
     "\"name\":" TEXT ",\"keep_identity\":{\"type\":\"boolean\",\"description\":\"uuid and "
     "addresses of its cards stay\"},"
     "\"as_new\":{\"type\":\"boolean\",\"description\":\"it gets another machine-id and other "
     "keys\"},"
     "\"trusted\":{\"type\":\"boolean\",\"description\":\"also what reaches into this host\"},"
     "\"network\":" TEXT ",\"pool\":" TEXT
     ",\"profiles\":{\"type\":\"array\",\"maxItems\":64,\"items\":" TEXT "}}}"},
    {"Template",
     "{\"type\":\"object\",\"required\":[\"name\",\"digest\"],\"properties\":{\"name\":" TEXT
     ",\"digest\":" TEXT ",\"kind\":" TEXT ",\"from\":" TEXT ",\"description\":" TEXT
     ",\"created_at\":" TEXT ",\"architecture\":" TEXT ",\"os\":{\"type\":\"object\"},"
     "\"forms\":{\"type\":\"array\",\"items\":" TEXT "},\"size_bytes\":{\"type\":\"integer\"},"
     "\"profiles\":{\"type\":\"array\",\"items\":" TEXT "},\"config\":{\"type\":\"object\"},"
     "\"devices\":{\"type\":\"object\"}}}"},
    {"TemplateCreate",
     "{\"type\":\"object\",\"required\":[\"instance\"],\"additionalProperties\":false,"
     "\"properties\":{\"instance\":" TEXT ",\"name\":{\"type\":\"string\",\"maxLength\":128},"
     "\"description\":{\"type\":\"string\",\"maxLength\":1000},\"live\":" BOOLEAN
     ",\"replace\":" BOOLEAN "}}"},
    {0},
};
