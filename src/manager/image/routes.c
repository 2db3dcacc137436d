/* In hulld: images and their aliases in the API. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "manager/api/api.h"
#include "manager/image/image.h"
#include "manager/image/names.h"
#include "manager/text.h"

/* Builds, imports and exports go side by side; whatever removes images goes alone. */
#define ALL        "images"
#define ALL_SHARED "~images"

/* The names of aliases that mean the digest: a new array. */
static json_t *aliases_of(const json_t *aliases, const char *digest)
{
    json_t *names = json_array();
    const json_t *alias;
    size_t i;
    json_array_foreach(aliases, i, alias)
    {
        if (strcmp(text_or_empty(alias, "digest"), digest) == 0) {
            json_array_append(names, json_object_get(alias, "name"));
        }
    }
    return names;
}

/* The names of instances that were made of it. */
static json_t *users_of(const json_t *instances, const char *digest)
{
    json_t *names = json_array();
    const json_t *instance;
    size_t i;
    json_array_foreach(instances, i, instance)
    {
        if (strcmp(text_or_empty(instance, "image_digest"), digest) == 0) {
            json_array_append(names, json_object_get(instance, "name"));
        }
    }
    return names;
}

struct lists {
    json_t *images, *aliases, *instances;
};

static void drop_lists(struct lists *lists)
{
    json_decref(lists->images);
    json_decref(lists->aliases);
    json_decref(lists->instances);
}

static int read_lists(struct api_call *call, struct lists *out, struct error *err)
{
    struct documents *documents = call->manager->documents;
    *out = (struct lists){0};
    int rc = documents_list(documents, "image", &out->images, err);
    rc = rc < 0 ? rc : documents_list(documents, "alias", &out->aliases, err);
    rc = rc < 0 ? rc : documents_list(documents, "instance", &out->instances, err);
    if (rc < 0) {
        drop_lists(out);
    }
    return rc;
}

static void complete(json_t *image, const struct lists *lists)
{
    const char *digest = text_or_empty(image, "name");
    json_object_set_new(image, "aliases", aliases_of(lists->aliases, digest));
    json_object_set_new(image, "used_by", users_of(lists->instances, digest));
}

static int list_images(struct api_call *call, struct error *err)
{
    struct lists lists;
    json_t *image;
    size_t i;
    int rc = read_lists(call, &lists, err);
    if (rc < 0) {
        return rc;
    }
    json_array_foreach(lists.images, i, image)
    {
        complete(image, &lists);
    }
    call->answer = json_incref(lists.images);
    drop_lists(&lists);
    return 0;
}

/* With its aliases and users. A new reference. */
static int find(struct api_call *call, json_t **out_image, struct error *err)
{
    struct lists lists;
    const json_t *image = NULL;
    int rc = read_lists(call, &lists, err);
    if (rc < 0) {
        return rc;
    }
    rc = image_pick(lists.images, lists.aliases, call->words[0], &image, err);
    if (rc == 0) {
        *out_image = json_deep_copy(image);
        complete(*out_image, &lists);
    }
    drop_lists(&lists);
    return rc;
}

static int get_image(struct api_call *call, struct error *err)
{
    return find(call, &call->answer, err);
}

/* 'request' is taken over. */
static int begin(struct api_call *call, const char *kind, const char *description,
                 const char *const *resources, json_t *request, struct error *err)
{
    int rc = request == NULL ? error_set_errno(err, ENOMEM, "%s", description)
                             : api_begin(call, kind, description, resources, request, err);
    json_decref(request);
    return rc;
}

static int check_alias(const json_t *body, struct error *err)
{
    const char *alias = text_or_empty(body, "alias");
    return alias[0] != '\0' ? image_check_alias(alias, err) : 0;
}

static int build_image(struct api_call *call, struct error *err)
{
    const struct distribution *distribution;
    char description[160], resource[IMAGE_ALIAS_SIZE + 16];
    const char *alias = text_or_empty(call->body, "alias");
    int rc = distribution_find(text_or_empty(call->body, "distribution"), &distribution, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(description, sizeof(description), "building the image %.100s",
                   alias[0] != '\0' ? alias : distribution->name);
    (void)snprintf(resource, sizeof(resource), "alias/%s",
                   alias[0] != '\0' ? alias : distribution->name);
    const char *const resources[] = {ALL_SHARED, resource, NULL};
    return begin(call, "image-build", description, resources, json_deep_copy(call->body), err);
}

static int import_image(struct api_call *call, struct error *err)
{
    char description[160];
    static const char *const resources[] = {ALL_SHARED, NULL};
    const char *path = text_or_empty(call->body, "path"), *url = text_or_empty(call->body, "url");
    if ((path[0] != '\0') == (url[0] != '\0')) {
        return error_set(err, EINVAL, "importing an image: needs a path of the host, or a url");
    }
    if (path[0] != '\0' && path[0] != '/') {
        return error_set(err, EINVAL, "path '%.100s': a whole path of the host", path);
    }
    (void)snprintf(description, sizeof(description), "importing the image %.120s",
                   path[0] != '\0' ? path : url);
    return begin(call, "image-import", description, resources, json_deep_copy(call->body), err);
}

static int make_image(struct api_call *call, struct error *err)
{
    int rc = check_alias(call->body, err);
    if (rc < 0) {
        return rc;
    }
    return strcmp(text_or_empty(call->body, "source"), "build") == 0 ? build_image(call, err)
                                                                     : import_image(call, err);
}

static int say_users(const char *name, const json_t *users, struct error *err)
{
    char list[IMAGE_USERS_SIZE];
    image_list_users(users, list);
    return error_set(err, EBUSY, "image %.64s: is used by %s: delete what uses it first", name,
                     list);
}

static int delete_image(struct api_call *call, struct error *err)
{
    char description[160], resource[96];
    json_t *image;
    int rc = find(call, &image, err);
    if (rc < 0) {
        return rc;
    }
    const json_t *users = json_object_get(image, "used_by");
    const char *digest = text_or_empty(image, "name");
    if (json_array_size(users) > 0) {
        rc = say_users(call->words[0], users, err);
        json_decref(image);
        return rc;
    }
    (void)snprintf(description, sizeof(description), "deleting the image %.100s", call->words[0]);
    (void)snprintf(resource, sizeof(resource), "image/%.71s", digest);
    const char *const resources[] = {ALL, resource, NULL};
    json_t *request =
        json_pack("{s:s, s:O}", "digest", digest, "aliases", json_object_get(image, "aliases"));
    rc = begin(call, "image-delete", description, resources, request, err);
    json_decref(image);
    return rc;
}

static bool has_form(const json_t *image, const char *form)
{
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(image, "forms"), i, one)
    {
        if (json_is_string(one) && strcmp(json_string_value(one), form) == 0) {
            return true;
        }
    }
    return false;
}

static int export_image(struct api_call *call, struct error *err)
{
    char description[160], resource[96];
    json_t *image;
    const char *form = text_or_empty(call->body, "form"), *path = text_or_empty(call->body, "path");
    int rc = path[0] == '/'
                 ? find(call, &image, err)
                 : error_set(err, EINVAL, "path '%.100s': a whole path of the host", path);
    if (rc < 0) {
        return rc;
    }
    if (form[0] == '\0') {
        form = has_form(image, "container") ? "container" : "vm";
    }
    if (!has_form(image, form)) {
        json_decref(image);
        return error_set(err, ENOENT, "image %.64s: has no form for %ss", call->words[0], form);
    }
    (void)snprintf(description, sizeof(description), "exporting the image %.100s", call->words[0]);
    (void)snprintf(resource, sizeof(resource), "~image/%.71s", text_or_empty(image, "name"));
    const char *const resources[] = {ALL_SHARED, resource, NULL};
    json_t *request =
        json_pack("{s:s, s:s, s:s, s:s}", "digest", text_or_empty(image, "name"), "path", path,
                  "form", form, "format", text_or_empty(call->body, "format"));
    rc = begin(call, "image-export", description, resources, request, err);
    json_decref(image);
    return rc;
}

static int check_image(struct api_call *call, struct error *err)
{
    char description[160], resource[96];
    json_t *image;
    int rc = find(call, &image, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(description, sizeof(description), "checking the image %.100s", call->words[0]);
    (void)snprintf(resource, sizeof(resource), "~image/%.71s", text_or_empty(image, "name"));
    const char *const resources[] = {ALL_SHARED, resource, NULL};
    rc = begin(call, "image-check", description, resources,
               json_pack("{s:s}", "digest", text_or_empty(image, "name")), err);
    json_decref(image);
    return rc;
}

/* Those that nobody calls or uses; each of them is a resource, so that no instance is made of it meanwhile. */
static int prune_images(struct api_call *call, struct error *err)
{
    struct lists lists;
    json_t *image;
    size_t i, count = 0;
    int rc = read_lists(call, &lists, err);
    if (rc < 0) {
        return rc;
    }
    json_t *unused = json_array(), *known = json_array(), *names = json_array();
    const char **resources = calloc(json_array_size(lists.images) + 2, sizeof(*resources));
    json_array_foreach(lists.images, i, image)
    {
        complete(image, &lists);
        json_array_append(known, json_object_get(image, "name"));
        if (resources != NULL && json_array_size(json_object_get(image, "aliases")) == 0 &&
            json_array_size(json_object_get(image, "used_by")) == 0) {
            json_array_append(unused, json_object_get(image, "name"));
            json_array_append_new(names, json_sprintf("image/%s", text_or_empty(image, "name")));
            resources[count] = json_string_value(json_array_get(names, count));
            count++;
        }
    }
    if (resources != NULL) {
        resources[count] = ALL;
    }
    json_t *request = json_pack("{s:O, s:O}", "images", unused, "known", known);
    rc = resources == NULL ? error_set_errno(err, ENOMEM, "removing unused images")
                           : begin(call, "image-prune", "removing unused images", resources,
                                   json_incref(request), err);
    json_decref(request);
    json_decref(unused);
    json_decref(known);
    json_decref(names);
    free(resources);
    drop_lists(&lists);
    return rc;
}

static int list_aliases(struct api_call *call, struct error *err)
{
    return documents_list(call->manager->documents, "alias", &call->answer, err);
}

static int get_alias(struct api_call *call, struct error *err)
{
    return documents_get(call->manager->documents, "alias", call->words[0], &call->answer, err);
}

static int put_alias(struct api_call *call, struct error *err)
{
    json_t *image;
    const char *name = call->words[0];
    int rc = image_check_alias(name, err);
    rc = rc < 0 ? rc
                : image_find(call->manager->documents, text_or_empty(call->body, "image"), &image,
                             err);
    if (rc < 0) {
        return rc;
    }
    json_t *alias = json_pack("{s:s, s:s}", "name", name, "digest", text_or_empty(image, "name"));
    json_decref(image);
    rc = documents_put(call->manager->documents, "alias", name, alias, err);
    if (rc < 0) {
        json_decref(alias);
        return rc;
    }
    call->answer = alias;
    return 0;
}

static int delete_alias(struct api_call *call, struct error *err)
{
    const char *name = call->words[0];
    if (!documents_has(call->manager->documents, "alias", name)) {
        return error_set(err, ENOENT, "alias %.64s: there is none", name);
    }
    return operations_drop(call->manager->operations, "alias", name, err);
}

const struct api_route image_routes[] = {
    {"GET", "/v1/images", "listImages", "All images.", API_PLAIN, NULL, "[Image]", NULL,
     list_images},
    {"POST", "/v1/images", "createImage",
     "Builds an image of a distribution's packages, or imports one.", API_OPERATION, "ImageRequest",
     "Operation", NULL, make_image},
    {"POST", "/v1/images/prune", "pruneImages",
     "Removes images that have no alias and that no instance uses.", API_OPERATION, NULL,
     "Operation", NULL, prune_images},
    {"GET", "/v1/images/{name}", "getImage",
     "An image, by alias, digest or the beginning of a digest.", API_PLAIN, NULL, "Image", NULL,
     get_image},
    {"DELETE", "/v1/images/{name}", "deleteImage", "Deletes an image and its aliases.",
     API_OPERATION, NULL, "Operation", NULL, delete_image},
    {"POST", "/v1/images/{name}/export", "exportImage", "Writes an image to a file of the host.",
     API_OPERATION, "ImageExport", "Operation", NULL, export_image},
    {"POST", "/v1/images/{name}/check", "checkImage",
     "Compares an image's files with their digests.", API_OPERATION, NULL, "Operation", NULL,
     check_image},
    {"GET", "/v1/aliases", "listAliases", "All aliases of images.", API_PLAIN, NULL, "[Alias]",
     NULL, list_aliases},
    {"GET", "/v1/aliases/{name}", "getAlias", "An alias.", API_PLAIN, NULL, "Alias", NULL,
     get_alias},
    {"PUT", "/v1/aliases/{name}", "putAlias",
     "Makes an alias mean an image, whatever it meant before.", API_PLAIN, "AliasRequest", "Alias",
     NULL, put_alias},
    {"DELETE", "/v1/aliases/{name}", "deleteAlias", "Takes an alias away; the image stays.",
     API_PLAIN, NULL, NULL, NULL, delete_alias},
    {0},
};

#define TEXT "{\"type\":\"string\"}"
#define LIST "{\"type\":\"array\",\"items\":" TEXT "}"

const struct api_schema image_schemas[] = {
    {"Image",
     "{\"type\":\"object\",\"required\":[\"name\",\"forms\"],\"properties\":{"
     "\"name\":{\"type\":\"string\",\"description\":\"the digest of its content\"},\"description\":" TEXT
     ","
     "\"os\":{\"type\":\"object\",\"properties\":{\"id\":" TEXT ",\"version\":" TEXT
     ",\"codename\":" TEXT "}},"
     "\"architecture\":" TEXT ",\"packages\":" LIST ",\"size_bytes\":{\"type\":\"integer\"},"
     "\"created_at\":{\"type\":\"string\",\"format\":\"date-time\"},\"source\":" TEXT
     ",\"forms\":" LIST ","
     "\"vm\":{\"type\":\"object\",\"properties\":{\"disk\":" TEXT ",\"format\":" TEXT ","
     "\"virtual_size_bytes\":{\"type\":\"integer\"},\"kernel\":" TEXT ",\"initrd\":" TEXT
     ",\"append\":" TEXT "}},"
     "\"aliases\":" LIST ",\"used_by\":" LIST "}}"},
    {"ImageRequest",
     "{\"type\":\"object\",\"required\":[\"source\"],\"additionalProperties\":false,\"properties\":{"
     "\"source\":{\"type\":\"string\",\"enum\":[\"build\",\"import\"]},"
     "\"alias\":{\"type\":\"string\",\"maxLength\":128},"
     "\"distribution\":{\"type\":\"string\",\"description\":\"build: debian/12 ...\"},"
     "\"variant\":{\"type\":\"string\",\"enum\":[\"minimal\",\"standard\",\"web\"]},"
     "\"packages\":{\"type\":\"array\",\"maxItems\":128,\"items\":{\"type\":\"string\",\"minLength\":1}},"
     "\"forms\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"enum\":[\"container\",\"vm\"]}},"
     "\"path\":{\"type\":\"string\",\"description\":\"import: a file or folder of the host\"},"
     "\"url\":{\"type\":\"string\",\"description\":\"import: http://, https:// or docker://\"},"
     "\"format\":{\"type\":\"string\",\"enum\":[\"tar\",\"qcow2\",\"raw\",\"vmdk\",\"vhdx\",\"oci\"]},"
     "\"kernel\":{\"type\":\"string\",\"description\":\"import of a disk: a kernel of the host to boot it with\"},"
     "\"initrd\":" TEXT ",\"append\":{\"type\":\"string\",\"maxLength\":511}}}"},
    {"ImageExport",
     "{\"type\":\"object\",\"required\":[\"path\"],\"additionalProperties\":false,\"properties\":{"
     "\"path\":{\"type\":\"string\",\"description\":\"a file of the host that is not there yet\"},"
     "\"form\":{\"type\":\"string\",\"enum\":[\"container\",\"vm\"]},"
     "\"format\":{\"type\":\"string\",\"enum\":[\"tar.zst\",\"tar.gz\",\"tar.xz\",\"tar\",\"qcow2\",\"raw\",\"vmdk\","
     "\"vhdx\"]}}}"},
    {"Alias",
     "{\"type\":\"object\",\"required\":[\"name\",\"digest\"],\"properties\":{\"name\":" TEXT
     ",\"digest\":" TEXT "}}"},
    {"AliasRequest",
     "{\"type\":\"object\",\"required\":[\"image\"],\"additionalProperties\":false,\"properties\":{"
     "\"image\":{\"type\":\"string\",\"description\":\"alias, digest or the beginning of a digest\"}}}"},
    {0},
};
