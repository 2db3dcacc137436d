#include "manager/users.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/instance/instance.h"
#include "manager/instance/requests.h"

static bool has_property(const json_t *device, const char *key, const char *value)
{
    const char *its = instance_property(device, key);
    return its != NULL && strcmp(its, value) == 0;
}

static bool uses(const json_t *document, const struct users_query *query)
{
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(document, "devices"), name, device)
    {
        bool is_meant = instance_is_device(device, query->type) ||
                        (query->has_shares && instance_is_volume_share(device));
        if (is_meant && has_property(device, query->key, query->value) &&
            (query->key2 == NULL || has_property(device, query->key2, query->value2))) {
            return true;
        }
    }
    return false;
}

int users_find(struct documents *documents, const struct users_query *query, json_t **out_names,
               struct error *err)
{
    json_auto_t *instances = NULL, *profiles = NULL, *names = json_array();
    int rc = documents_list(documents, "instance", &instances, err);
    if (rc == 0) {
        rc = request_related(documents, "profile", &profiles, err);
    }
    if (rc < 0) {
        return rc;
    }
    size_t i;
    json_t *document;
    const char *name;
    json_array_foreach(instances, i, document)
    {
        json_auto_t *expanded = NULL;
        /* One whose profiles are damaged counts with what it says itself. */
        bool is_whole = instance_expand(document, profiles, &expanded, NULL) == 0;
        if (uses(is_whole ? expanded : document, query)) {
            json_array_append(names, json_object_get(document, "name"));
        }
    }
    json_object_foreach(profiles, name, document)
    {
        if (uses(document, query)) {
            json_array_append_new(names, json_sprintf("profile %s", name));
        }
    }
    *out_names = json_incref(names);
    return 0;
}

int users_refuse(struct documents *documents, const struct users_query *query, const char *what,
                 const char *name, struct error *err)
{
    json_auto_t *names = NULL;
    char text[140] = "";
    size_t i, used = 0;
    json_t *user;
    int rc = users_find(documents, query, &names, err);
    if (rc < 0 || json_array_size(names) == 0) {
        return rc;
    }
    json_array_foreach(names, i, user)
    {
        int length = snprintf(text + used, sizeof(text) - used, "%s%s", i > 0 ? ", " : "",
                              json_string_value(user));
        if (length < 0 || (size_t)length >= sizeof(text) - used - 4) {
            snprintf(text + used, sizeof(text) - used, "...");
            break;
        }
        used += (size_t)length;
    }
    return error_set(err, EBUSY, "%s %.64s: is used by %s", what, name, text);
}
