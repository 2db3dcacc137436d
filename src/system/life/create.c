/* Making and removing containers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/fault.h"
#include "system/life/internal.h"

/* What is being made has a name that no container can have. */
#define MAKING ".making-%s"

static void set_text(json_t *document, const char *key, const char *text)
{
    (void)json_object_set_new(document, key, json_string(text));
}

static int add_template(struct life_index *index, json_t *document, struct error *err)
{
    const char *name = json_string_value(json_object_get(document, "template_name"));
    if (name == NULL) {
        return 0;
    }
    const struct template_layers *layers;
    int rc = life_index_template(index, name, &layers, err);
    if (rc < 0) {
        return rc;
    }
    set_text(document, "template", layers->digest);
    if (layers->name[0] != '\0') {
        set_text(document, "template_name", layers->name);
    } else {
        (void)json_object_del(document, "template_name"); /* a digest was given */
    }
    return 0;
}

static int add_ids(const struct life_index *index, json_t *document, struct error *err)
{
    const char *privileged = json_string_value(json_object_get(document, "privileged"));
    if (json_object_get(document, "ids") != NULL ||
        (privileged != NULL && strcmp(privileged, "true") == 0)) {
        return 0;
    }
    uint32_t first, count;
    int rc = life_index_ids(index, &first, &count, err);
    if (rc == 0) {
        char text[32];
        (void)snprintf(text, sizeof(text), "%u:%u", first, count);
        set_text(document, "ids", text);
    }
    return rc;
}

static void add_time(json_t *document)
{
    char text[32];
    struct tm parts;
    time_t now = time(NULL);
    (void)gmtime_r(&now, &parts);
    (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    set_text(document, "created", text);
}

/* The container's private files: empty, or another's. */
static int make_private(const struct life *life, const char *making, const struct config *config,
                        const struct life_source *source, struct error *err)
{
    char path[PATH_MAX], work[PATH_MAX];
    const struct layers_ids ids = {.first = config->first_id,
                                   .count = config->is_privileged ? 0 : config->id_count};
    if (config->limits.disk_bytes != 0) {
        store_container_path(&life->store, making, CONTAINER_DISK, path);
        return source != NULL ? layers_image_copy(source->files, source->disk, path, err)
                              : layers_image_create(path, config->limits.disk_bytes, err);
    }
    store_container_path(&life->store, making, CONTAINER_UPPER, path);
    store_container_path(&life->store, making, CONTAINER_WORK, work);
    int rc = layers_make_upper(path, work, &ids, err);
    if (rc < 0 || source == NULL) {
        return rc;
    }
    const struct layers_copy request = {
        .from = source->files, .to = path, .from_ids = source->ids, .to_ids = ids};
    rc = layers_remove(path, err);
    return rc < 0 ? rc : layers_copy(&request, err);
}

/* The folder under a name that nobody looks at, then under its own. */
static int make_files(const struct life *life, const char *name, const struct config *config,
                      const struct life_source *source, struct error *err)
{
    char making[96], folder[PATH_MAX], path[PATH_MAX];
    (void)snprintf(making, sizeof(making), MAKING, name);
    store_container_path(&life->store, making, NULL, folder);
    int rc = layers_remove(folder, err);
    /* Others must get through to the upper layer, and see nothing else. */
    if (rc == 0 && mkdir(folder, 0711) < 0) {
        rc = error_set_errno(err, errno, "making %s", folder);
    }
    fault_step("create-folder");
    rc = rc < 0 ? rc : make_private(life, making, config, source, err);
    fault_step("create-files");
    rc = rc < 0 ? rc : config_save(&life->store, making, config->document, err);
    fault_step("create-saved");
    store_container_path(&life->store, name, NULL, path);
    if (rc == 0 && rename(folder, path) < 0) {
        rc = error_set_errno(err, errno, "making %s", path);
    }
    if (rc < 0) {
        struct error ignored;
        error_ignore(layers_remove(folder, &ignored));
    }
    return rc;
}

int life_create(struct life_index *index, const char *name, json_t *document, struct error *err)
{
    return life_create_copy(index, name, document, NULL, err);
}

int life_create_copy(struct life_index *index, const char *name, json_t *document,
                     const struct life_source *source, struct error *err)
{
    const struct life *life = life_index_life(index);
    char folder[PATH_MAX];
    int rc = store_check_name("container", name, err);
    if (rc < 0) {
        return rc;
    }
    store_container_path(&life->store, name, NULL, folder);
    if (access(folder, F_OK) == 0) {
        return error_set(err, EEXIST, "container %s exists already", name);
    }
    add_time(document);
    struct config *config = NULL;
    rc = add_template(index, document, err);
    rc = rc < 0 ? rc : add_ids(index, document, err);
    rc = rc < 0 ? rc : config_from_json(document, &config, err);
    rc = rc < 0 || !life->is_users ? rc : users_check(config, err);
    rc = rc < 0 ? rc : life_index_check(index, name, config, err);
    if (rc == 0 && config->root != NULL && access(config->root, X_OK) < 0) {
        rc = error_set_errno(err, errno, "root file system %s", config->root);
    }
    if (rc == 0 && config->limits.pool != NULL) {
        AUTO_FREE char *cpus = NULL;
        rc = pool_find(&life->store, config->limits.pool, &cpus, err);
    }
    rc = rc < 0 ? rc : make_files(life, name, config, source, err);
    rc = rc < 0 ? rc : life_index_add(index, name, config, err);
    config_destroy(config);
    return rc < 0 ? error_prefix(err, rc, "creating container %s", name) : 0;
}

int life_delete(const struct life *life, const char *name, bool is_forced, struct error *err)
{
    char folder[PATH_MAX];
    int rc = store_check_name("container", name, err);
    if (rc < 0) {
        return rc;
    }
    store_container_path(&life->store, name, NULL, folder);
    if (access(folder, F_OK) < 0) {
        return error_set(err, ENOENT, "container %s does not exist", name);
    }
    enum life_status status = life_status(life, name);
    if (status != LIFE_STOPPED && is_forced) {
        rc = life_stop(life, name, true, 0, err);
        if (rc < 0 && rc != -ESRCH) {
            return rc;
        }
    } else if (status != LIFE_STOPPED) {
        return error_set(err, EBUSY, "container %s is %s: --force ends it", name,
                         life_status_name(status));
    }
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    if (life_status(life, name) != LIFE_STOPPED) {
        return error_set(err, EBUSY, "container %s was started meanwhile", name);
    }
    rc = layers_remove(folder, err);
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/lock-%s", life->store.run, name);
    (void)unlink(path);
    store_ended_path(&life->store, name, path);
    (void)unlink(path);
    return rc;
}
