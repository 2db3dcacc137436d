/* An instance's document in the words of `system`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "manager/instance/container/container.h"
#include "manager/instance/keys.h"
#include "manager/pool/pool.h"

enum form {
    PLAIN,
    BYTES,
    LIST
};

static const struct setting {
    const char *key, *there;
    enum form form;
} plain_settings[] = {
    {"cpus", "cpus"},
    {"cpu_shares", "cpu_shares"},
    {"cpu_set", "cpu_set"},
    {"cpu_pool", "pool"},
    {"memory", "memory", BYTES},
    {"swap", "swap", BYTES},
    {"processes", "processes"},
    {"io_weight", "io_weight"},
    {"io_read", "io_read"},
    {"io_write", "io_write"},
    {"io_read_iops", "io_read_iops"},
    {"io_write_iops", "io_write_iops"},
    {"hostname", "hostname"},
    {"init", "init", LIST},
    {"environment", "environment", LIST},
    {"privileged", "privileged"},
    {"nesting", "nesting"},
    {"seccomp", "seccomp"},
    {"stop_timeout", "stop_timeout"},
    {"stop_signal", "stop_signal"},
    {"search", "search"},
};

/* Only what the document says: what `system` does without being told is no business of ours. */
static json_t *values_of(const json_t *document, const struct setting *setting)
{
    const char *text =
        json_string_value(json_object_get(json_object_get(document, "config"), setting->key));
    if (setting->form == LIST) {
        return instance_values(document, setting->key);
    }
    if (text == NULL) {
        return json_array();
    }
    if (setting->form == PLAIN) {
        return json_pack("[s]", text);
    }
    char bytes[32];
    (void)snprintf(bytes, sizeof(bytes), "%llu",
                   (unsigned long long)instance_bytes(document, setting->key, 1 << 20));
    return json_pack("[s]", bytes);
}

/* Where a device's files are on the host; its source is said. */
static int find_source(const struct job *job, const json_t *device, char out_path[PATH_MAX],
                       struct error *err)
{
    const char *source = instance_property(device, "source");
    const json_t *pool;
    if (!instance_is_volume_share(device)) {
        (void)snprintf(out_path, PATH_MAX, "%s", source);
        return 0;
    }
    int rc = instance_related(job->request, "pools", instance_property(device, "pool"), &pool, err);
    return rc < 0 ? rc : pool_volume_folder(pool, source, out_path, err);
}

static int mounts(const struct job *job, const json_t *document, json_t *list, struct error *err)
{
    json_t *device;
    const char *name;
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        char source[PATH_MAX];
        const char *path = instance_property(device, "path");
        bool is_mount = instance_is_device(device, "share") || instance_is_device(device, "disk");
        if (!is_mount || path == NULL || instance_property(device, "source") == NULL) {
            continue;
        }
        int rc = find_source(job, device, source, err);
        if (rc < 0) {
            return error_prefix(err, rc, "share %s", name);
        }
        bool is_read_only = strcmp(instance_property(device, "readonly"), "true") == 0;
        (void)json_array_append_new(
            list, json_sprintf("%s:%s%s", source, path, is_read_only ? ":ro" : ""));
    }
    return 0;
}

static json_t *disk(const json_t *document)
{
    uint64_t bytes;
    const json_t *root = json_object_get(json_object_get(document, "devices"), "root");
    const char *size = json_string_value(json_object_get(root, "size"));
    return size == NULL || size_parse(size, 1, &bytes, NULL) < 0
               ? json_array()
               : json_pack("[o]", json_sprintf("%llu", (unsigned long long)bytes));
}

int container_settings(const struct job *job, const json_t *document, json_t **out_settings,
                       struct error *err)
{
    json_t *settings = json_object(), *mount = json_array();
    int rc = mounts(job, document, mount, err);
    if (rc < 0) {
        json_decref(mount);
        json_decref(settings);
        return rc;
    }
    for (size_t i = 0; i < ARRAY_COUNT(plain_settings); i++) {
        (void)json_object_set_new(settings, plain_settings[i].there,
                                  values_of(document, &plain_settings[i]));
    }
    (void)json_object_set_new(settings, "mount", mount);
    (void)json_object_set_new(settings, "disk", disk(document));
    *out_settings = settings;
    return 0;
}

json_t *container_words(const json_t *settings, const json_t *old)
{
    json_t *words = json_array(), *values, *value;
    const char *key;
    json_object_foreach((json_t *)settings, key, values)
    {
        size_t i;
        const json_t *before = json_object_get(old, key);
        if (before == NULL ? json_array_size(values) == 0 : json_equal(before, values)) {
            continue;
        }
        const struct config_key *row = config_find_key(key, strlen(key));
        if (row->is_list || json_array_size(values) == 0) {
            (void)json_array_append_new(words, json_sprintf("%s=", key));
        }
        json_array_foreach(values, i, value)
        {
            (void)json_array_append_new(
                words,
                json_sprintf("%s%s%s", key, row->is_list ? "+=" : "=", json_string_value(value)));
        }
    }
    return words;
}

static void add_file(json_t *list, const char *path, json_t *text)
{
    (void)json_array_append_new(list, json_pack("{s:s, s:o}", "path", path, "text", text));
}

json_t *container_first_files(const json_t *document)
{
    json_t *list = json_array(), *key;
    json_t *keys = instance_values(document, "ssh_keys");
    size_t i;
    json_t *text = json_string("");
    json_array_foreach(keys, i, key)
    {
        json_t *longer = json_sprintf("%s%s\n", json_string_value(text), json_string_value(key));
        json_decref(text);
        text = longer;
    }
    if (json_array_size(keys) != 0) {
        add_file(list, "/root/.ssh/authorized_keys", json_incref(text));
    }
    json_decref(text);
    json_decref(keys);
    const char *user_data = instance_value(document, "user_data");
    if (user_data != NULL) {
        const char *name = json_string_value(json_object_get(document, "name"));
        const char *uuid = json_string_value(json_object_get(document, "uuid"));
        const char *hostname = instance_value(document, "hostname");
        add_file(list, "/var/lib/cloud/seed/nocloud/user-data", json_string(user_data));
        add_file(list, "/var/lib/cloud/seed/nocloud/meta-data",
                 json_sprintf("instance-id: %s\nlocal-hostname: %s\n", uuid != NULL ? uuid : name,
                              hostname != NULL ? hostname : name));
    }
    return list;
}

json_t *container_clone_files(void)
{
    static const char *const keys[] = {"rsa", "ecdsa", "ed25519", "dsa"};
    json_t *list = json_array();
    /* Empty: systemd makes a new one when it starts. */
    add_file(list, "/etc/machine-id", json_string(""));
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/etc/ssh/ssh_host_%s_key", keys[i]);
        (void)json_array_append_new(list, json_pack("{s:s}", "path", path));
        (void)snprintf(path, sizeof(path), "/etc/ssh/ssh_host_%s_key.pub", keys[i]);
        (void)json_array_append_new(list, json_pack("{s:s}", "path", path));
    }
    /* Debian's sshd does not start without host keys, and makes none. */
    add_file(list, "/etc/systemd/system/ssh.service.d/hull-host-keys.conf",
             json_string("[Service]\nExecStartPre=\nExecStartPre=-/usr/bin/ssh-keygen -A\n"
                         "ExecStartPre=/usr/sbin/sshd -t\n"));
    return list;
}
