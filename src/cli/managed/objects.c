#include "cli/managed/objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"

int object_parse_type(void *into, const char *value, struct error *err)
{
    ((struct object_options *)into)->type = value;
    return 0;
}

int object_parse_description(void *into, const char *value, struct error *err)
{
    ((struct object_options *)into)->description = value;
    return 0;
}

int object_parse_size(void *into, const char *value, struct error *err)
{
    struct object_options *options = into;
    options->size = value;
    return size_parse(value, 1, &options->size_bytes, err);
}

const struct option_spec object_show_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

const struct option_spec object_quiet_table[] = {
    MANAGED_OPTION_QUIET,
    {0},
};

int object_begin(const struct verb *verb, int min, int max, int argc, char **argv, void *into,
                 int *out_count, struct client *client)
{
    struct error err;
    int status = cli_words(verb, min, max, argc, argv, into, out_count);
    return status >= 0 ? status : managed_open(client, &err) < 0 ? cli_fail(&err) : -1;
}

char *object_path(const struct object_kind *kind, const char *name)
{
    const char *slash = strchr(name, '/');
    if (slash == NULL) {
        return kind->folder != NULL ? client_path(kind->collection, kind->folder, name, NULL)
                                    : client_path(kind->collection, name, NULL);
    }
    char *first = strndup(name, (size_t)(slash - name));
    char *path = first != NULL ? client_path(kind->collection, first, slash + 1, NULL) : NULL;
    free(first);
    return path;
}

static void add_texts(json_t *row)
{
    managed_add_size(row, "size_bytes", "size_text");
    managed_add_size(row, "total_bytes", "total_text");
    managed_add_size(row, "free_bytes", "free_text");
    managed_add_time(row, "created_at", "created_text");
    managed_add_words(row, "used_by", "used_text");
}

int object_list(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = object_begin(verb, 0, 0, argc, argv, &options, &count, &client);
    return status >= 0
               ? status
               : managed_list(&client, kind->collection, options.output, kind->columns, add_texts);
}

/* "KEY=VALUE" into the members of a document. */
static int set_word(const struct object_kind *kind, json_t *document, const char *word,
                    struct error *err)
{
    const char *equals = strchr(word, '=');
    if (kind->has_devices) {
        return managed_set(document, word, err);
    }
    if (equals == NULL || equals == word) {
        return error_set(err, EINVAL, "'%.100s': KEY=VALUE", word);
    }
    json_t *config = json_object_get(document, "config");
    if (config == NULL) {
        config = json_object();
        (void)json_object_set_new(document, "config", config);
    }
    char *key = strndup(word, (size_t)(equals - word));
    json_t *value = json_string(equals + 1);
    int rc = key != NULL && value != NULL ? json_object_set(config, key, value) : -1;
    json_decref(value);
    free(key);
    return rc == 0 ? 0 : error_set(err, EINVAL, "'%.100s': not UTF-8", word);
}

int object_create(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    struct object_options options = {.type = kind->default_type};
    struct client client;
    struct error err;
    int count;
    int status = object_begin(verb, 1, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    const char *description = options.description != NULL ? options.description : "";
    json_t *body =
        json_pack("{s:s, s:s, s:{}}", "name", argv[0], "description", description, "config");
    if (body == NULL) {
        error_set(&err, EINVAL, "%s %.100s: its words are not UTF-8", kind->noun, argv[0]);
        return cli_fail(&err);
    }
    if (kind->type_key != NULL) {
        (void)json_object_set_new(body, kind->type_key, json_string(options.type));
    }
    int rc = 0;
    for (int i = 1; rc == 0 && i < count; i++) {
        rc = set_word(kind, body, argv[i], &err);
    }
    status = rc < 0 ? cli_fail(&err)
                    : managed_do(&client, "POST", kind->collection, body, options.managed.is_quiet,
                                 NULL);
    json_decref(body);
    return status;
}

/* As a table, a part that is a list stands below the rest. */
static void show(const struct object_kind *kind, enum output_format format, json_t *info)
{
    json_auto_t *part = NULL;
    json_t *row;
    size_t i;
    if (kind->part != NULL && format == OUTPUT_TABLE) {
        part = json_incref(json_object_get(info, kind->part));
        (void)json_object_del(info, kind->part); /* it need not have it */
    }
    output_object(format, info);
    if (json_array_size(part) == 0) {
        return;
    }
    json_array_foreach(part, i, row)
    {
        managed_add_size(row, "received_bytes", "received_text");
        managed_add_size(row, "sent_bytes", "sent_text");
    }
    printf("\n");
    output_list(format, kind->part_columns, part, NULL);
}

int object_info(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct error err;
    json_t *info;
    int count;
    int status = object_begin(verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = object_path(kind, argv[0]);
    int rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
    free(path);
    if (rc < 0) {
        return cli_fail(&err);
    }
    show(kind, options.output, info);
    json_decref(info);
    return CLI_OK;
}

/* Applies a merge patch. */
static void merge(json_t *target, const json_t *change)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)change, key, value)
    {
        json_t *old = json_object_get(target, key);
        if (json_is_null(value)) {
            (void)json_object_del(target, key);
        } else if (json_is_object(value) && json_is_object(old)) {
            merge(old, value);
        } else {
            (void)json_object_set(target, key, value);
        }
    }
}

static int replace(struct client *client, const char *path, const json_t *change, bool is_quiet)
{
    struct error err;
    json_t *document;
    if (client_call(client, "GET", path, NULL, NULL, &document, &err) < 0) {
        return cli_fail(&err);
    }
    merge(document, change);
    int status = managed_do(client, "PUT", path, document, is_quiet, NULL);
    json_decref(document);
    return status;
}

static int patch(const struct object_kind *kind, struct client *client, const char *name,
                 const json_t *body, bool is_quiet)
{
    char *path = object_path(kind, name);
    int status = kind->is_replaced ? replace(client, path, body, is_quiet)
                                   : managed_do(client, "PATCH", path, body, is_quiet, NULL);
    free(path);
    return status;
}

int object_edit(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    static const char *const keys[] = {"description", "config", "devices"};
    struct managed_options options = {0};
    struct client client;
    struct error err;
    json_t *info, *change;
    int count;
    int status = object_begin(verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = object_path(kind, argv[0]);
    int rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
    free(path);
    if (rc < 0) {
        return cli_fail(&err);
    }
    json_t *before = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        json_t *value = json_object_get(info, keys[i]);
        if (value != NULL) {
            (void)json_object_set(before, keys[i], value);
        }
    }
    rc = managed_edit(argv[0], before, &change, &err);
    json_decref(before);
    json_decref(info);
    if (rc < 0) {
        return cli_fail(&err);
    }
    if (change == NULL) {
        (void)fputs("hull: nothing was changed\n", stderr);
        return CLI_OK;
    }
    status = patch(kind, &client, argv[0], change, options.is_quiet);
    json_decref(change);
    return status;
}

int object_set(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct error err;
    int count;
    int status = object_begin(verb, 2, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_object();
    int rc = 0;
    for (int i = 1; rc == 0 && i < count; i++) {
        rc = set_word(kind, body, argv[i], &err);
    }
    status = rc < 0 ? cli_fail(&err) : patch(kind, &client, argv[0], body, options.is_quiet);
    json_decref(body);
    return status;
}

int object_delete(const struct object_kind *kind, const struct verb *verb, int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct batch batch;
    int count;
    int status = object_begin(verb, 1, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    batch_begin(&batch, &client, "deleting", options.is_quiet);
    for (int i = 0; i < count; i++) {
        char *path = object_path(kind, argv[i]);
        batch_try(&batch, "DELETE", path, NULL);
        free(path);
    }
    return batch_end(&batch, NULL);
}
