/* A container's configuration: read, checked, changed, written. */
#include "system/config/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/config/yaml.h"

#define FILE_NAME  "config.yaml"
#define MAX_SIZE   (1u << 20)
#define STOP_AFTER 30

static int unknown_key(const char *name, struct error *err)
{
    return error_set(err, EINVAL, "%.60s: there is no such key; `hull ct set --help` lists them",
                     name);
}

static int parse_value(struct config *config, const struct config_key *key, const json_t *value,
                       struct error *err)
{
    if (!json_is_string(value)) {
        return error_set(err, EINVAL, "%s: %s", key->name,
                         key->is_list ? "a list of words" : "one value");
    }
    int rc = key->parse(config, json_string_value(value), err);
    return rc < 0 ? error_prefix(err, rc, "%s", key->name) : 0;
}

static int parse_member(struct config *config, const char *name, const json_t *value,
                        struct error *err)
{
    const struct config_key *key = config_find_key(name, strlen(name));
    if (key == NULL) {
        return unknown_key(name, err);
    }
    if (json_is_null(value)) {
        return 0;
    }
    if (!key->is_list || json_is_string(value)) {
        return parse_value(config, key, value, err);
    }
    if (!json_is_array(value)) {
        return error_set(err, EINVAL, "%s: a list of words", name);
    }
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        int rc = parse_value(config, key, item, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int check_whole(const struct config *config, struct error *err)
{
    if (config->template_digest == NULL && config->root == NULL) {
        return error_set(err, EINVAL, "neither 'template' nor 'root' says what it stands on");
    }
    if (config->template_digest != NULL && config->root != NULL) {
        return error_set(err, EINVAL, "'template' and 'root' exclude each other");
    }
    if (!config->is_privileged && config->id_count == 0) {
        return error_set(err, EINVAL, "ids: missing, and it is not privileged");
    }
    if (config->limits.cpu_set != NULL && config->limits.pool != NULL) {
        return error_set(err, EINVAL, "'cpu_set' and 'pool' exclude each other");
    }
    return 0;
}

int config_from_json(json_t *document, struct config **out_config, struct error *err)
{
    struct config *config = calloc(1, sizeof(*config));
    if (config == NULL) {
        return error_set(err, ENOMEM, "no memory for a configuration");
    }
    config->document = json_incref(document);
    config->stop_timeout_s = STOP_AFTER;
    const char *name;
    json_t *value;
    int rc = json_is_object(document) ? 0 : error_set(err, EINVAL, "no mapping of keys to values");
    json_object_foreach(document, name, value)
    {
        rc = rc < 0 ? rc : parse_member(config, name, value, err);
    }
    rc = rc < 0 ? rc : check_whole(config, err);
    if (rc < 0) {
        config_destroy(config);
        return rc;
    }
    *out_config = config;
    return 0;
}

void config_destroy(struct config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->mount_count; i++) {
        free((void *)config->mounts[i].source);
        free((void *)config->mounts[i].target);
    }
    for (size_t i = 0; i < config->kept_count; i++) {
        free(config->kept[i]);
    }
    json_decref(config->document);
    free(config);
}

static int read_document(const struct store *store, const char *name, json_t **out_document,
                         struct error *err)
{
    char path[PATH_MAX];
    store_container_path(store, name, FILE_NAME, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? error_set(err, ENOENT, "container %s does not exist", name)
                               : error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_SIZE, path, &text, &size, err);
    return rc < 0 ? rc : yaml_parse(text, size, path, out_document, err);
}

int config_load(const struct store *store, const char *name, struct config **out_config,
                struct error *err)
{
    int rc = store_check_name("container", name, err);
    return rc < 0 ? rc : config_load_at(store, name, name, out_config, err);
}

int config_check(const struct store *store, const char *name, struct error *err)
{
    struct config *config;
    int rc = config_load(store, name, &config, err);
    if (rc == 0) {
        config_destroy(config);
    }
    return rc;
}

int config_load_at(const struct store *store, const char *folder, const char *name,
                   struct config **out_config, struct error *err)
{
    json_t *document;
    int rc = read_document(store, folder, &document, err);
    if (rc < 0) {
        return rc;
    }
    struct config *config;
    rc = config_from_json(document, &config, err);
    json_decref(document);
    if (rc < 0) {
        return error_prefix(err, rc, "configuration of container %s", name);
    }
    char *kept = strdup(name);
    if (kept == NULL || config->kept_count == ARRAY_COUNT(config->kept)) {
        free(kept);
        config_destroy(config);
        return error_set(err, ENOMEM, "no memory for a configuration");
    }
    config->kept[config->kept_count++] = kept;
    config->name = kept;
    config->hostname = config->hostname != NULL ? config->hostname : kept;
    *out_config = config;
    return 0;
}

int config_save(const struct store *store, const char *name, const json_t *document,
                struct error *err)
{
    char path[PATH_MAX];
    store_container_path(store, name, FILE_NAME, path);
    AUTO_FREE char *text = NULL;
    int rc = yaml_write(document, &text, err);
    return rc < 0 ? rc : file_replace(path, text, 0600, false, err);
}

static void remove_item(json_t *list, const char *text)
{
    for (size_t i = json_array_size(list); i-- > 0;) {
        if (strcmp(json_string_value(json_array_get(list, i)), text) == 0) {
            (void)json_array_remove(list, i);
        }
    }
}

int config_change(json_t *document, const char *word, struct error *err)
{
    size_t length = strcspn(word, "+-=");
    char sign = word[length];
    const char *value = sign == '=' ? word + length + 1 : word + length + 2;
    bool is_whole = sign == '=' || (sign != '\0' && word[length + 1] == '=');
    const struct config_key *key = config_find_key(word, length);
    if (!is_whole) {
        return error_set(err, EINVAL, "'%.60s': KEY=VALUE", word);
    }
    if (key == NULL) {
        char name[64];
        (void)snprintf(name, sizeof(name), "%.*s", (int)length, word);
        return unknown_key(name, err);
    }
    if (sign != '=' && !key->is_list) {
        return error_set(err, EINVAL, "%s: is no list: %s=%s", key->name, key->name, key->value);
    }
    if (sign == '=' && *value == '\0') {
        (void)json_object_del(document, key->name);
        return 0;
    }
    json_t *item = json_string(value);
    if (item == NULL) {
        return error_set(err, EINVAL, "%s: not UTF-8", key->name);
    }
    if (!key->is_list) {
        return json_object_set_new(document, key->name, item);
    }
    json_t *list = json_object_get(document, key->name);
    if (sign == '=' || !json_is_array(list)) {
        /* A list of one may be written as the one. */
        list = sign != '=' && json_is_string(list) ? json_pack("[O]", list) : json_array();
        (void)json_object_set_new(document, key->name, list);
    }
    if (sign == '-') {
        remove_item(list, value);
        json_decref(item);
    } else {
        (void)json_array_append_new(list, item);
    }
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strverscmp(*(const char *const *)a, *(const char *const *)b); /* web2 before web10 */
}

int config_list(const struct store *store, char ***out_names, size_t *out_count, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/containers", store->state);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    char **names = NULL;
    size_t count = 0;
    int rc = 0;
    for (const struct dirent *entry; rc == 0 && (entry = readdir(folder)) != NULL;) {
        struct error ignored;
        if (store_check_name("container", entry->d_name, &ignored) < 0) {
            continue; /* ".", "..", and what is being made or removed */
        }
        char **more = realloc(names, (count + 1) * sizeof(*names));
        names = more != NULL ? more : names;
        char *name = more != NULL ? strdup(entry->d_name) : NULL;
        if (name == NULL) {
            rc = error_set(err, ENOMEM, "listing containers: no memory");
        } else {
            names[count++] = name;
        }
    }
    (void)closedir(folder);
    if (rc < 0) {
        for (size_t i = 0; i < count; i++) {
            free(names[i]);
        }
        free(names);
        return rc;
    }
    if (count != 0) {
        qsort(names, count, sizeof(*names), compare_names);
    }
    *out_names = names;
    *out_count = count;
    return 0;
}
