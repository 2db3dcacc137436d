/* Changing a container's configuration, live where that is possible; and what can be known of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/life/internal.h"

int life_apply(const struct life *life, const struct config *config, struct error *err)
{
    char folder[PATH_MAX], device[32];
    AUTO_FREE char *pool = NULL;
    int rc =
        config->limits.pool != NULL ? pool_find(&life->store, config->limits.pool, &pool, err) : 0;
    if (rc < 0) {
        return rc;
    }
    store_container_path(&life->store, config->name, NULL, folder);
    document_disk_of(folder, device);
    const char *cpus = pool != NULL ? pool : config->limits.cpu_set;
    char all[32];
    (void)snprintf(all, sizeof(all), "0-%ld", sysconf(_SC_NPROCESSORS_CONF) - 1);
    json_t *resources = document_resources(config, cpus != NULL ? cpus : all, device, true);
    AUTO_FREE char *text = json_dumps(resources, JSON_COMPACT);
    json_decref(resources);
    return text != NULL ? runtime_update(&life->runtime, config->name, text, strlen(text), err)
                        : error_set(err, ENOMEM, "no memory for limits");
}

/* A word's key is live; 'out_rewrites': files in /etc are to be written anew. */
static bool is_live(const char *word, bool *out_rewrites)
{
    const struct config_key *key = config_find_key(word, strcspn(word, "+-="));
    static const char *const written[] = {"hostname", "dns", "search"};
    for (size_t i = 0; key != NULL && i < ARRAY_COUNT(written); i++) {
        *out_rewrites = *out_rewrites || strcmp(key->name, written[i]) == 0;
    }
    return key != NULL && key->is_live;
}

static int change(json_t *document, const char *word, struct error *err)
{
    const struct config_key *key = config_find_key(word, strcspn(word, "+-="));
    if (key != NULL && key->is_fixed) {
        return error_set(err, EINVAL, "%s: is set when a container is made", key->name);
    }
    return config_change(document, word, err);
}

/* A disk only grows. */
static int change_disk(const struct life *life, const struct config *before,
                       const struct config *after, bool is_running, struct error *err)
{
    uint64_t old = before->limits.disk_bytes, new = after->limits.disk_bytes;
    if (old == new) {
        return 0;
    }
    if (old == 0 || new < old) {
        return error_set(err, EINVAL, "disk: %s",
                         old == 0 ? "the container was made without a limit"
                                  : "a container's disk can only grow");
    }
    char image[PATH_MAX];
    store_container_path(&life->store, before->name, CONTAINER_DISK, image);
    return is_running
               ? error_set(err, EBUSY, "disk: container %s has to be stopped for its disk to grow",
                           before->name)
               : layers_image_grow(image, NULL, new, err);
}

int life_set(const struct life *life, const char *name, const char *const *words, size_t count,
             bool *out_waits, struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    struct life_index *index;
    struct config *before, *after = NULL;
    int rc = config_load(&life->store, name, &before, err);
    if (rc < 0) {
        return rc;
    }
    rc = life_index_open(life, &index, err);
    if (rc < 0) {
        config_destroy(before);
        return rc;
    }
    bool waits = false, rewrites = false;
    enum life_status status = life_status(life, name);
    bool is_running = status == LIFE_RUNNING || status == LIFE_PAUSED;
    json_t *document = json_deep_copy(before->document);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = change(document, words[i], err);
        waits = (!is_live(words[i], &rewrites) && is_running) || waits;
    }
    rc = rc < 0 ? rc : config_from_json(document, &after, err);
    if (rc == 0) {
        after->name = name;
        rc = life_index_check(index, name, after, err);
    }
    rc = rc < 0 || !life->is_users ? rc : users_check(after, err);
    rc = rc < 0 ? rc : change_disk(life, before, after, is_running, err);
    bool applies =
        rc == 0 && is_running && !(life->is_users && users_may_skip_limits(before, after));
    rc = applies ? life_apply(life, after, err) : rc;
    rc = rc < 0 ? rc : config_save(&life->store, name, document, err);
    if (rc == 0 && rewrites) {
        char marker[PATH_MAX];
        store_container_path(&life->store, name, CONTAINER_WRITTEN, marker);
        (void)unlink(marker);
    }
    life_index_close(index);
    config_destroy(before);
    config_destroy(after);
    json_decref(document);
    if (rc == 0) {
        *out_waits = waits;
    }
    return rc;
}

/* Calls for each container in turn; stops at the first failure. */
static int each(const struct life *life,
                int (*fn)(const struct life *, const char *, void *, struct error *), void *ctx,
                struct error *err)
{
    char **names;
    size_t count;
    int rc = config_list(&life->store, &names, &count, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < count; i++) {
        rc = rc < 0 ? rc : fn(life, names[i], ctx, err);
        free(names[i]);
    }
    free(names);
    return rc;
}

static int apply_if_in_pool(const struct life *life, const char *name, void *ctx, struct error *err)
{
    struct config *config;
    struct error ignored;
    if (config_load(&life->store, name, &config, &ignored) < 0) {
        return 0;
    }
    const char *pool = ctx;
    enum life_status status = life_status(life, name);
    bool is_in = config->limits.pool != NULL && strcmp(config->limits.pool, pool) == 0 &&
                 (status == LIFE_RUNNING || status == LIFE_PAUSED);
    int rc = is_in ? life_apply(life, config, err) : 0;
    config_destroy(config);
    return rc;
}

int life_apply_pool(const struct life *life, const char *pool, struct error *err)
{
    return each(life, apply_if_in_pool, (void *)pool, err);
}

static void add_addresses(const struct config *config, int family, const char *key, json_t *info)
{
    char text[NETWORK_TEXT_SIZE];
    json_t *list = json_array();
    for (size_t i = 0; i < config->card_count; i++) {
        for (size_t j = 0; j < config->cards[i].address_count; j++) {
            if (config->cards[i].addresses[j].family == family) {
                network_format(&config->cards[i].addresses[j], false, text);
                (void)json_array_append_new(list, json_string(text));
            }
        }
    }
    (void)json_object_set_new(info, key, list);
}

static void add_running(const struct loaded *loaded, json_t *info)
{
    json_t *degraded = json_object_get(loaded->state.data, "degraded");
    (void)json_object_set_new(info, "pid", json_integer(loaded->state.pid));
    if (degraded != NULL) {
        (void)json_object_set(info, "degraded", degraded);
    }
    life_add_usage(loaded, info);
    (void)json_object_set_new(info, "limits_hit", life_count(loaded));
}

static void add_text(json_t *info, const char *key, const char *text)
{
    (void)json_object_set_new(info, key, text != NULL ? json_string(text) : json_null());
}

int life_info(const struct life *life, const char *name, json_t **out_info, struct error *err)
{
    struct config *config;
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    struct loaded loaded;
    bool is_loaded;
    enum life_status status = life_look(life, name, &loaded, &is_loaded);
    json_t *info = json_object();
    add_text(info, "name", name);
    add_text(info, "kind", "container");
    add_text(info, "status", life_status_name(status));
    add_text(info, "image",
             config->template_name != NULL     ? config->template_name
             : config->template_digest != NULL ? config->template_digest
                                               : config->root);
    add_text(info, "digest", config->template_digest);
    add_addresses(config, AF_INET, "ipv4", info);
    add_addresses(config, AF_INET6, "ipv6", info);
    (void)json_object_set_new(info, "cpus",
                              config->limits.cpus_milli != 0
                                  ? json_real((double)config->limits.cpus_milli / 1000)
                                  : json_null());
    (void)json_object_set_new(info, "memory_bytes",
                              config->limits.memory_bytes != 0
                                  ? json_integer((json_int_t)config->limits.memory_bytes)
                                  : json_null());
    add_text(info, "created_at", config->created);
    (void)json_object_set_new(info, "autostart", json_boolean(config->starts_with_host));
    (void)json_object_set_new(info, "order", json_integer(config->start_order));
    if (status == LIFE_RUNNING || status == LIFE_PAUSED) {
        add_running(&loaded, info);
    }
    if (is_loaded) {
        loaded_close(&loaded);
    }
    (void)json_object_set(info, "config", config->document);
    config_destroy(config);
    *out_info = info;
    return 0;
}

int life_upgrade(const struct life *life, const char *name, bool *out_is_new, struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    struct config *config;
    struct template_layers layers = {0};
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    if (config->template_name == NULL) {
        rc = error_set(err, EINVAL, "container %s was not made of a template with a name", name);
    }
    rc = rc < 0 ? rc : template_open(&life->store, config->template_name, true, &layers, err);
    bool is_new = rc == 0 && strcmp(layers.digest, config->template_digest) != 0;
    if (is_new) {
        (void)json_object_set_new(config->document, "template", json_string(layers.digest));
        rc = config_save(&life->store, name, config->document, err);
    }
    template_close(&layers);
    config_destroy(config);
    if (rc == 0) {
        *out_is_new = is_new;
    }
    return rc;
}
