#include "manager/api/profiles.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/host/file.h"
#include "manager/instance/instance.h"
#include "system/store.h"

int profiles_list(struct api_call *call, struct error *err)
{
    return documents_list(call->manager->documents, "profile", &call->answer, err);
}

int profiles_get(struct api_call *call, struct error *err)
{
    return documents_get(call->manager->documents, "profile", call->words[0], &call->answer, err);
}

static void tell(struct api_call *call, const char *action, const char *name)
{
    manager_event(call->manager,
                  json_pack("{s:s, s:s, s:s}", "type", "profile", "action", action, "name", name));
}

/* What is missing in 'document' it gets. */
static int put(struct api_call *call, const char *name, json_t *document, struct error *err)
{
    static const char *const objects[] = {"config", "devices"};
    for (unsigned i = 0; i < 2; i++) {
        if (json_object_get(document, objects[i]) == NULL) {
            (void)json_object_set_new(document, objects[i], json_object());
        }
    }
    if (json_object_get(document, "description") == NULL) {
        (void)json_object_set_new(document, "description", json_string(""));
    }
    instance_normalize(document);
    int rc = instance_check_profile(document, err);
    return rc < 0 ? rc : documents_put(call->manager->documents, "profile", name, document, err);
}

int profiles_create(struct api_call *call, struct error *err)
{
    const char *name = json_string_value(json_object_get(call->body, "name"));
    int rc = store_check_name("profile", name, err);
    if (rc < 0) {
        return rc;
    }
    if (documents_has(call->manager->documents, "profile", name)) {
        return error_set(err, EEXIST, "profile %s: it is there already: a name that is free", name);
    }
    json_t *document = json_copy((json_t *)call->body);
    char now[32];
    manager_time(now);
    (void)json_object_set_new(document, "created_at", json_string(now));
    rc = put(call, name, document, err);
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    call->answer = document;
    tell(call, "created", name);
    return 0;
}

int profiles_put(struct api_call *call, struct error *err)
{
    const char *name = call->words[0];
    const char *said = json_string_value(json_object_get(call->body, "name"));
    if (said != NULL && strcmp(said, name) != 0) {
        return error_set(err, EINVAL, "profile %s: its name stays", name);
    }
    json_t *old = NULL;
    int rc = documents_get(call->manager->documents, "profile", name, &old, err);
    if (rc < 0) {
        return rc;
    }
    json_t *document = json_copy((json_t *)call->body);
    (void)json_object_set_new(document, "name", json_string(name));
    (void)json_object_set(document, "created_at", json_object_get(old, "created_at"));
    json_decref(old);
    rc = put(call, name, document, err);
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    call->answer = document;
    tell(call, "changed", name);
    return 0;
}

/* The first instance that has it, or "". */
static int find_user(struct api_call *call, const char *name, char out_user[80], struct error *err)
{
    json_t *list = NULL;
    int rc = documents_list(call->manager->documents, "instance", &list, err);
    size_t i, k;
    const json_t *instance, *profile;
    out_user[0] = '\0';
    json_array_foreach(list, i, instance)
    {
        json_array_foreach(json_object_get(instance, "profiles"), k, profile)
        {
            const char *one = json_string_value(profile);
            if (one != NULL && strcmp(one, name) == 0 && out_user[0] == '\0') {
                snprintf(out_user, 80, "%s", json_string_value(json_object_get(instance, "name")));
            }
        }
    }
    json_decref(list);
    return rc;
}

int profiles_delete(struct api_call *call, struct error *err)
{
    const char *name = call->words[0];
    char user[80];
    if (strcmp(name, "default") == 0) {
        return error_set(err, EBUSY, "profile default: it stays: change it instead");
    }
    int rc = find_user(call, name, user, err);
    if (rc == 0 && user[0] != '\0') {
        rc = error_set(err, EBUSY, "profile %s: instance %s has it", name, user);
    }
    if (rc == 0) {
        rc = operations_drop(call->manager->operations, "profile", name, err);
    }
    if (rc == 0) {
        tell(call, "deleted", name);
    }
    return rc;
}
