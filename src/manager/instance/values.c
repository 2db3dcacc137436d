/* What documents say: values, properties, and those made up. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/core/size.h"
#include "manager/instance/instance.h"
#include "manager/instance/keys.h"

static const char *value_or_fallback(const json_t *object, const char *device, const char *name)
{
    const char *value = json_string_value(json_object_get(object, name));
    const struct instance_key *key = instance_find_key(device, name, NULL);
    return value != NULL || key == NULL ? value : key->fallback;
}

const char *instance_value(const json_t *document, const char *key)
{
    return value_or_fallback(json_object_get(document, "config"), NULL, key);
}

bool instance_is_set(const json_t *document, const char *key)
{
    const char *value = instance_value(document, key);
    return value != NULL && strcmp(value, "true") == 0;
}

uint64_t instance_bytes(const json_t *document, const char *key, uint64_t bare_unit)
{
    uint64_t bytes;
    const char *value = instance_value(document, key);
    return value != NULL && size_parse(value, bare_unit, &bytes, NULL) == 0 ? bytes : 0;
}

json_t *instance_values(const json_t *document, const char *key)
{
    json_t *value = json_object_get(json_object_get(document, "config"), key);
    if (json_is_array(value)) {
        return json_incref(value);
    }
    json_t *list = json_array();
    const char *text = json_string_value(value);
    for (size_t length; text != NULL && *text != '\0'; text += length + (text[length] == '\n')) {
        length = strcspn(text, "\n");
        if (length != 0) {
            (void)json_array_append_new(list, json_stringn(text, length));
        }
    }
    return list;
}

const char *instance_property(const json_t *device, const char *name)
{
    const char *type = json_string_value(json_object_get(device, "type"));
    return type != NULL ? value_or_fallback(device, type, name) : NULL;
}

bool instance_is_device(const json_t *device, const char *type)
{
    const char *own = json_string_value(json_object_get(device, "type"));
    return own != NULL && strcmp(own, type) == 0;
}

bool instance_is_volume_share(const json_t *device)
{
    const char *source = json_string_value(json_object_get(device, "source"));
    return instance_is_device(device, "share") && source != NULL && source[0] != '/';
}

int instance_related(const json_t *request, const char *kind, const char *name,
                     const json_t **out_document, struct error *err)
{
    const json_t *all = json_object_get(request, kind);
    const json_t *found = json_object_get(all, name);
    if (found != NULL) {
        *out_document = found;
        return 0;
    }
    char names[160] = "";
    size_t used = 0;
    const char *other;
    json_t *ignored;
    json_object_foreach((json_t *)all, other, ignored)
    {
        if (used < sizeof(names)) {
            used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
                                     used != 0 ? ", " : "", other);
        }
    }
    return error_set(err, ENOENT, "%.*s %.64s: there is none; there are: %s",
                     (int)(strlen(kind) - 1), kind, name, used != 0 ? names : "none");
}

json_t *instance_forwards(const json_t *document, const char *nic)
{
    const json_t *devices = json_object_get(document, "devices");
    const char *name, *first = NULL;
    json_t *device, *list = json_array();
    json_object_foreach((json_t *)devices, name, device)
    {
        if (instance_is_device(device, "nic") && (first == NULL || strcmp(name, first) < 0)) {
            first = name;
        }
    }
    json_object_foreach((json_t *)devices, name, device)
    {
        const char *to =
            instance_is_device(device, "forward") ? instance_property(device, "nic") : "";
        to = to != NULL ? to : first;
        if (to != NULL && strcmp(to, nic) == 0) {
            (void)json_array_append(list, device);
        }
    }
    return list;
}

static int fill_random(void *data, size_t size, struct error *err)
{
    return getrandom(data, size, 0) == (ssize_t)size
               ? 0
               : error_set_errno(err, errno, "asking for random numbers");
}

int instance_make_uuid(char out_uuid[INSTANCE_UUID_SIZE], struct error *err)
{
    uint8_t b[16];
    int rc = fill_random(b, sizeof(b), err);
    if (rc < 0) {
        return rc;
    }
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 9562: version 4, of random numbers */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    (void)snprintf(out_uuid, INSTANCE_UUID_SIZE,
                   "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                   b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
                   b[14], b[15]);
    return 0;
}

static int add_mac(json_t *document, const char *name, struct error *err)
{
    uint8_t random[3];
    char text[INSTANCE_MAC_SIZE];
    int rc = fill_random(random, sizeof(random), err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(text, sizeof(text), "52:54:00:%02x:%02x:%02x", random[0], random[1], random[2]);
    json_t *devices = json_object_get(document, "devices");
    if (devices == NULL) {
        devices = json_object();
        (void)json_object_set_new(document, "devices", devices);
    }
    json_t *device = json_object_get(devices, name);
    if (device == NULL) {
        device = json_object();
        (void)json_object_set_new(devices, name, device);
    }
    (void)json_object_set_new(device, "mac", json_string(text));
    return 0;
}

int instance_add_macs(json_t *document, const json_t *expanded, struct error *err)
{
    const char *name;
    json_t *device;
    int rc = 0;
    json_object_foreach(json_object_get(expanded, "devices"), name, device)
    {
        if (rc == 0 && instance_is_device(device, "nic") &&
            json_object_get(device, "mac") == NULL) {
            rc = add_mac(document, name, err);
        }
    }
    return rc;
}

void instance_format_time(char out_text[32])
{
    struct tm parts;
    time_t now = time(NULL);
    (void)gmtime_r(&now, &parts);
    (void)strftime(out_text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts);
}
