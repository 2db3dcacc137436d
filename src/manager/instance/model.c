/* Instances' documents: checks, profiles, files. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "manager/instance/instance.h"
#include "manager/instance/keys.h"
#include "manager/text.h"
#include "system/config/yaml.h"
#include "system/store.h"

#define FILE_NAME    "instance.yaml"
#define MAX_SIZE     (4u << 20)
#define MAX_DEVICES  64
#define MAX_PROFILES 16

const char *instance_status_name(enum instance_status status)
{
    static const char *const names[] = {
        [INSTANCE_STOPPED] = "stopped", [INSTANCE_STARTING] = "starting",
        [INSTANCE_RUNNING] = "running", [INSTANCE_PAUSED] = "paused",
        [INSTANCE_ERROR] = "error",
    };
    return names[status];
}

static unsigned kind_of(const json_t *document)
{
    const char *kind = text_of(document, "kind");
    return kind == NULL                     ? 0
           : strcmp(kind, "container") == 0 ? KEY_CONTAINER
           : strcmp(kind, "vm") == 0        ? KEY_VM
                                            : 0;
}

const struct instance_driver *instance_driver(const json_t *document)
{
    return kind_of(document) == KEY_VM ? &vm_driver : &container_driver;
}

static const char *kind_name(unsigned kinds)
{
    return kinds == KEY_VM ? "VMs" : "containers";
}

static int unknown_key(const char *device, const char *name, struct error *err)
{
    const char *nearest;
    (void)instance_find_key(device, name, &nearest);
    return error_set(err, EINVAL, "%.60s: there is no such %s%s%s%s", name,
                     device != NULL ? "property of this type of device" : "key",
                     nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                     nearest != NULL ? "'?" : "");
}

static int check_items(const struct instance_key *key, const json_t *value, struct error *err)
{
    size_t i;
    json_t *item;
    int rc = 0;
    json_array_foreach(value, i, item)
    {
        const char *text = json_string_value(item);
        rc = rc < 0         ? rc
             : text == NULL ? error_set(err, EINVAL, "a list of texts")
                            : key->check(text, err);
    }
    return rc;
}

/* One text, with an item on each line. */
static json_t *divide(const char *text)
{
    json_t *list = json_array();
    for (size_t length; *text != '\0'; text += length + (text[length] == '\n')) {
        length = strcspn(text, "\n");
        if (length != 0) {
            (void)json_array_append_new(list, json_stringn(text, length));
        }
    }
    return list;
}

/* 'kinds' 0: of any. */
static int check_value(const char *device, const char *name, const json_t *value, unsigned kinds,
                       struct error *err)
{
    const struct instance_key *key = instance_find_key(device, name, NULL);
    if (key == NULL) {
        return unknown_key(device, name, err);
    }
    if (kinds != 0 && (key->kinds & kinds) == 0) {
        return error_set(err, EINVAL, "%s: only for %s", name, kind_name(key->kinds));
    }
    const char *text = json_string_value(value);
    int rc;
    if (key->is_list && text != NULL) {
        json_t *items = divide(text);
        rc = check_items(key, items, err);
        json_decref(items);
    } else if (key->is_list && json_is_array(value)) {
        rc = check_items(key, value, err);
    } else {
        rc = text != NULL
                 ? key->check(text, err)
                 : error_set(err, EINVAL, key->is_list ? "a text or a list of them" : "a text");
    }
    return rc < 0 ? error_prefix(err, rc, "%s", name) : 0;
}

static int check_config(const json_t *config, unsigned kinds, struct error *err)
{
    const char *name;
    json_t *value;
    if (config != NULL && !json_is_object(config)) {
        return error_set(err, EINVAL, "config: keys and values");
    }
    json_object_foreach((json_t *)config, name, value)
    {
        int rc = check_value(NULL, name, value, kinds, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static bool is_type(const char *type)
{
    size_t length = strlen(type);
    for (const char *word = instance_device_types();;) {
        size_t size = strcspn(word, "|");
        if (size == length && memcmp(word, type, length) == 0) {
            return true;
        }
        if (word[size] == '\0') {
            return false;
        }
        word += size + 1;
    }
}

/* Without a type it is a part of what a profile has. */
static int check_device(const json_t *device, unsigned kinds, struct error *err)
{
    const char *name, *type = text_of(device, "type");
    json_t *value;
    if (!json_is_object(device)) {
        return error_set(err, EINVAL, "properties and values");
    }
    bool is_none = type != NULL && strcmp(type, "none") == 0;
    if (json_object_get(device, "type") != NULL && !is_none && (type == NULL || !is_type(type))) {
        return error_set(err, EINVAL, "type '%.40s': one of %s", type != NULL ? type : "",
                         instance_device_types());
    }
    if (type != NULL && strcmp(type, "serial") == 0 && kinds == KEY_CONTAINER) {
        return error_set(err, EINVAL, "type serial: only for VMs");
    }
    json_object_foreach((json_t *)device, name, value)
    {
        if (strcmp(name, "type") == 0) {
            continue;
        }
        int rc = type == NULL
                     ? (json_is_string(value) ? 0 : error_set(err, EINVAL, "%.60s: a text", name))
                 : is_none ? error_set(err, EINVAL,
                                       "%.60s: a device that is none has no properties", name)
                           : check_value(type, name, value, kinds, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int check_devices(const json_t *devices, unsigned kinds, struct error *err)
{
    const char *name;
    json_t *device;
    if (devices != NULL && (!json_is_object(devices) || json_object_size(devices) > MAX_DEVICES)) {
        return error_set(err, EINVAL, "devices: at most %d, by name", MAX_DEVICES);
    }
    json_object_foreach((json_t *)devices, name, device)
    {
        int rc = store_check_name("device", name, err);
        rc = rc < 0 ? rc : check_device(device, kinds, err);
        if (rc < 0) {
            return error_prefix(err, rc, "device %.64s", name);
        }
    }
    return 0;
}

enum member_type {
    TEXT,
    TEXTS,
    OBJECT,
    ARRAY,
    BOOL
};

struct member {
    const char *name;
    enum member_type type;
    bool is_needed;
};

static const struct member instance_members[] = {
    {"name", TEXT, true}, {"kind", TEXT, true},
    {"uuid", TEXT},       {"description", TEXT},
    {"image", TEXT},      {"image_digest", TEXT},
    {"profiles", TEXTS},  {"config", OBJECT},
    {"devices", OBJECT},  {"created_at", TEXT},
    {"snapshots", ARRAY}, {"snapshot", TEXT},
    {"incomplete", BOOL}, {0},
};

static const struct member profile_members[] = {
    {"name", TEXT, true}, {"description", TEXT}, {"config", OBJECT},
    {"devices", OBJECT},  {"created_at", TEXT},  {0},
};

static const struct member snapshot_members[] = {
    {"name", TEXT, true}, {"created_at", TEXT}, {"memory", BOOL},
    {"parent", TEXT},     {"automatic", BOOL},  {0},
};

static bool is_of(const json_t *value, enum member_type type)
{
    size_t i;
    json_t *item;
    switch (type) {
    case TEXT:
        return json_is_string(value);
    case OBJECT:
        return json_is_object(value);
    case BOOL:
        return json_is_boolean(value);
    case ARRAY:
    case TEXTS:
        break;
    }
    json_array_foreach(value, i, item)
    {
        if (type == TEXTS && !json_is_string(item)) {
            return false;
        }
    }
    return json_is_array(value);
}

static int check_members(const json_t *document, const struct member *members, struct error *err)
{
    static const char *const words[] = {[TEXT] = "a text",
                                        [TEXTS] = "a list of texts",
                                        [OBJECT] = "keys and values",
                                        [ARRAY] = "a list",
                                        [BOOL] = "true or false"};
    const char *name;
    json_t *value;
    if (!json_is_object(document)) {
        return error_set(err, EINVAL, "an object is expected");
    }
    json_object_foreach((json_t *)document, name, value)
    {
        const struct member *member = members;
        while (member->name != NULL && strcmp(member->name, name) != 0) {
            member++;
        }
        if (member->name == NULL) {
            return error_set(err, EINVAL, "%.60s: there is no such member", name);
        }
        if (!is_of(value, member->type)) {
            return error_set(err, EINVAL, "%s: %s", name, words[member->type]);
        }
    }
    for (const struct member *member = members; member->name != NULL; member++) {
        if (member->is_needed && json_object_get(document, member->name) == NULL) {
            return error_set(err, EINVAL, "%s: missing", member->name);
        }
    }
    return 0;
}

static int check_snapshots(const json_t *list, struct error *err)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        int rc = check_members(item, snapshot_members, err);
        rc = rc < 0 ? rc : store_check_name("snapshot", text_of(item, "name"), err);
        if (rc < 0) {
            return error_prefix(err, rc, "snapshots");
        }
    }
    return 0;
}

int instance_check(const json_t *document, struct error *err)
{
    int rc = check_members(document, instance_members, err);
    rc = rc < 0 ? rc : place_check_instance_name(text_of(document, "name"), err);
    if (rc < 0) {
        return rc;
    }
    unsigned kind = kind_of(document);
    if (kind == 0) {
        return error_set(err, EINVAL, "kind '%.40s': container or vm", text_of(document, "kind"));
    }
    const json_t *profiles = json_object_get(document, "profiles");
    size_t i;
    json_t *item;
    json_array_foreach(profiles, i, item)
    {
        rc = store_check_name("profile", json_string_value(item), err);
        if (rc < 0) {
            return rc;
        }
    }
    if (i > MAX_PROFILES) {
        return error_set(err, EINVAL, "profiles: at most %d", MAX_PROFILES);
    }
    rc = check_config(json_object_get(document, "config"), kind, err);
    rc = rc < 0 ? rc : check_devices(json_object_get(document, "devices"), kind, err);
    rc = rc < 0 ? rc : check_snapshots(json_object_get(document, "snapshots"), err);
    return rc < 0 ? error_prefix(err, rc, "instance %s", text_of(document, "name")) : 0;
}

int instance_check_profile(const json_t *profile, struct error *err)
{
    int rc = check_members(profile, profile_members, err);
    rc = rc < 0 ? rc : store_check_name("profile", text_of(profile, "name"), err);
    rc = rc < 0 ? rc : check_config(json_object_get(profile, "config"), 0, err);
    rc = rc < 0 ? rc : check_devices(json_object_get(profile, "devices"), 0, err);
    return rc < 0 ? error_prefix(err, rc, "profile") : 0;
}

/* What only the whole can show. */
static int check_expanded_device(const char *name, const json_t *device, unsigned kind,
                                 struct error *err)
{
    static const struct {
        const char *type, *property;
        unsigned kinds;
    } needed[] = {
        {"share", "source", KEY_BOTH},
        {"share", "path", KEY_CONTAINER},
        {"forward", "listen", KEY_BOTH},
        {"forward", "connect", KEY_BOTH},
    };
    const char *type = text_of(device, "type");
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++) {
        if (strcmp(type, needed[i].type) == 0 && (needed[i].kinds & kind) != 0 &&
            text_of(device, needed[i].property) == NULL) {
            return error_set(err, EINVAL, "%s: missing", needed[i].property);
        }
    }
    if (strcmp(type, "nic") == 0 && kind == KEY_CONTAINER && text_of(device, "name") == NULL &&
        strlen(name) >= IFNAMSIZ) {
        return error_set(err, EINVAL, "name: missing, and that of the device is too long");
    }
    if (strcmp(type, "disk") == 0 && kind == KEY_CONTAINER && strcmp(name, "root") != 0 &&
        (text_of(device, "source") == NULL || text_of(device, "path") == NULL)) {
        return error_set(err, EINVAL, "a container's disks, but for root, have source and path");
    }
    return 0;
}

static int check_expanded(const json_t *document, struct error *err)
{
    unsigned kind = kind_of(document);
    const json_t *config = json_object_get(document, "config");
    int rc = check_config(config, kind, err);
    rc = rc < 0 ? rc : check_devices(json_object_get(document, "devices"), kind, err);
    const char *cpus = text_of(config, "cpus");
    if (rc == 0 && kind == KEY_VM && cpus != NULL) {
        uint64_t ignored;
        rc = number_parse(cpus, 1, 64, &ignored, err);
        rc = rc < 0 ? error_prefix(err, rc, "cpus") : 0;
    }
    if (rc == 0 && text_of(config, "cpu_set") != NULL && text_of(config, "cpu_pool") != NULL) {
        rc = error_set(err, EINVAL, "cpu_set and cpu_pool exclude each other");
    }
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        rc = rc < 0 ? rc : check_expanded_device(name, device, kind, err);
        if (rc < 0) {
            return error_prefix(err, rc, "device %.64s", name);
        }
    }
    return rc;
}

/* Another type replaces the device, the same one adds to it. */
static void merge_device(json_t *devices, const char *name, const json_t *device)
{
    json_t *old = json_object_get(devices, name);
    const char *type = text_of(device, "type"), *old_type = text_of(old, "type");
    bool is_same = type == NULL || (old_type != NULL && strcmp(type, old_type) == 0);
    if (old != NULL && is_same) {
        (void)json_object_update(old, (json_t *)device);
    } else {
        (void)json_object_set_new(devices, name, json_deep_copy(device));
    }
}

static void merge(json_t *config, json_t *devices, const json_t *from)
{
    const char *name;
    json_t *device, *value;
    json_object_foreach(json_object_get(from, "config"), name, value)
    {
        (void)json_object_set(config, name, value);
    }
    json_object_foreach(json_object_get(from, "devices"), name, device)
    {
        merge_device(devices, name, device);
    }
}

/* Devices that are none go, and so does a card's address whose card a profile gave and has no more. */
static int remove_none(json_t *devices, struct error *err)
{
    const char *name;
    json_t *device;
    void *next;
    json_object_foreach_safe(devices, next, name, device)
    {
        const char *type = text_of(device, "type");
        bool is_left =
            type == NULL && json_object_size(device) == 1 && text_of(device, "mac") != NULL;
        if (type == NULL && !is_left) {
            return error_set(err, EINVAL, "device %.64s: type: missing: one of %s", name,
                             instance_device_types());
        }
        if (is_left || strcmp(type, "none") == 0) {
            (void)json_object_del(devices, name);
        }
    }
    return 0;
}

int instance_expand(const json_t *document, const json_t *profiles, json_t **out_expanded,
                    struct error *err)
{
    const char *name = text_of(document, "name");
    json_t *config = json_object(), *devices = json_object(), *item;
    size_t i;
    int rc = 0;
    json_array_foreach(json_object_get(document, "profiles"), i, item)
    {
        const json_t *profile = json_object_get(profiles, json_string_value(item));
        if (profile == NULL && rc == 0) {
            rc = error_set(err, ENOENT, "profile %.64s: there is none", json_string_value(item));
        }
        merge(config, devices, profile);
    }
    merge(config, devices, document);
    rc = rc < 0 ? rc : remove_none(devices, err);
    json_t *expanded = json_copy((json_t *)document);
    (void)json_object_set_new(expanded, "config", config);
    (void)json_object_set_new(expanded, "devices", devices);
    rc = rc < 0 ? rc : check_expanded(expanded, err);
    if (rc < 0) {
        json_decref(expanded);
        return error_prefix(err, rc, "instance %s", name);
    }
    *out_expanded = expanded;
    return 0;
}

static json_t *as_text(const json_t *value)
{
    char text[64];
    if (json_is_boolean(value)) {
        return json_string(json_is_true(value) ? "true" : "false");
    }
    if (json_is_integer(value)) {
        (void)snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
        return json_string(text);
    }
    if (json_is_real(value)) {
        (void)snprintf(text, sizeof(text), "%.10g", json_real_value(value));
        return json_string(text);
    }
    return NULL;
}

static void normalize(json_t *object)
{
    const char *name;
    json_t *value;
    void *next;
    json_object_foreach_safe(object, next, name, value)
    {
        json_t *text = as_text(value);
        if (text != NULL) {
            (void)json_object_set_new(object, name, text);
        }
    }
}

void instance_normalize(json_t *document)
{
    const char *name;
    json_t *device;
    normalize(json_object_get(document, "config"));
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        normalize(device);
    }
}

int instance_save(const struct place *place, const json_t *document, struct error *err)
{
    char folder[PATH_MAX], path[PATH_MAX];
    const char *name = text_of(document, "name");
    AUTO_FREE char *text = NULL;
    place_state_path(place, "instances", name, NULL, folder);
    place_state_path(place, "instances", name, FILE_NAME, path);
    int rc = file_make_folders(folder, 0700, 0755, err);
    rc = rc < 0 ? rc : yaml_write(document, &text, err);
    rc = rc < 0 ? rc : file_replace(path, text, 0600, true, err);
    return rc < 0 ? error_prefix(err, rc, "saving instance %s", name) : 0;
}

/* In YAML as it is read here all scalars are texts. */
static void restore_types(json_t *object, const struct member *members)
{
    for (const struct member *member = members; member->name != NULL; member++) {
        const char *text = text_of(object, member->name);
        if (member->type == BOOL && text != NULL) {
            (void)json_object_set_new(object, member->name,
                                      json_boolean(strcmp(text, "true") == 0));
        }
        if (json_is_null(json_object_get(object, member->name))) {
            (void)json_object_del(object, member->name);
        }
    }
}

int instance_load(const struct place *place, const char *name, json_t **out_document,
                  struct error *err)
{
    char path[PATH_MAX];
    int rc = place_check_instance_name(name, err);
    if (rc < 0) {
        return rc;
    }
    place_state_path(place, "instances", name, FILE_NAME, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? error_set(err, ENOENT, "instance %s: there is none", name)
                               : error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    json_t *document;
    rc = file_read_whole(fd, MAX_SIZE, path, &text, &size, err);
    rc = rc < 0 ? rc : yaml_parse(text, size, path, &document, err);
    if (rc < 0) {
        return rc;
    }
    restore_types(document, instance_members);
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(document, "snapshots"), i, item)
    {
        restore_types(item, snapshot_members);
    }
    rc = instance_check(document, err);
    if (rc == 0 && strcmp(text_of(document, "name"), name) != 0) {
        rc = error_set(err, EINVAL, "it is the document of %s", text_of(document, "name"));
    }
    if (rc < 0) {
        json_decref(document);
        return error_prefix(err, rc, "%s", path);
    }
    *out_document = document;
    return 0;
}
