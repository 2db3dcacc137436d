/* instance-change: another configuration, live where that is possible. */
#include <errno.h>
#include <string.h>

#include "manager/instance/keys.h"
#include "manager/instance/work.h"

/* What one may change; the rest stays as it is. */
static const char *const changed_members[] = {"description", "profiles", "config", "devices"};

/* RFC 7396: null takes away. */
static void merge_patch(json_t *target, const json_t *patch)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)patch, name, value)
    {
        json_t *old = json_object_get(target, name);
        if (json_is_null(value)) {
            (void)json_object_del(target, name);
        } else if (json_is_object(value)) {
            if (!json_is_object(old)) {
                old = json_object();
                (void)json_object_set_new(target, name, old);
            }
            merge_patch(old, value);
        } else {
            (void)json_object_set(target, name, value);
        }
    }
}

void instance_change(json_t *document, const json_t *replacement, const json_t *patch)
{
    for (size_t i = 0; i < ARRAY_COUNT(changed_members); i++) {
        const char *name = changed_members[i];
        const json_t *value = json_object_get(replacement, name);
        if (replacement != NULL && value != NULL) {
            (void)json_object_set_new(document, name, json_deep_copy(value));
        } else if (replacement != NULL) {
            (void)json_object_del(document, name);
        }
        value = json_object_get(patch, name);
        if (value != NULL) {
            json_t *part = json_pack("{s:O}", name, value);
            merge_patch(document, part);
            json_decref(part);
        }
    }
    instance_normalize(document);
}

static int check_fixed_value(const char *device, const struct instance_key *key, const json_t *old,
                             const json_t *new, struct error *err)
{
    const json_t *before = json_object_get(old, key->name);
    const json_t *after = json_object_get(new, key->name);
    bool is_same = before == NULL || after == NULL ? before == after : json_equal(before, after);
    return is_same ? 0
                   : error_set(err, EINVAL, "%s%s%s: is set when an instance is made",
                               device != NULL ? device : "", device != NULL ? ": " : "", key->name);
}

int instance_check_change(const json_t *old, const json_t *new, struct error *err)
{
    const json_t *devices = json_object_get(new, "devices");
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        if (!key->is_fixed) {
            continue;
        }
        int rc = key->device == NULL ? check_fixed_value(NULL, key, json_object_get(old, "config"),
                                                         json_object_get(new, "config"), err)
                                     : 0;
        const char *name;
        json_t *device;
        json_object_foreach((json_t *)devices, name, device)
        {
            const json_t *before = json_object_get(json_object_get(old, "devices"), name);
            if (rc == 0 && before != NULL && key->device != NULL &&
                instance_is_device(device, key->device)) {
                rc = check_fixed_value(name, key, before, device, err);
            }
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* A card keeps its address when its document is replaced by one that says nothing of it. */
static int keep_macs(struct work *work, const json_t *old, struct error *err)
{
    const char *name;
    json_t *device, *mine = NULL;
    json_object_foreach(json_object_get(work->expanded, "devices"), name, device)
    {
        const json_t *before = json_object_get(json_object_get(old, "devices"), name);
        json_t *mac = json_object_get(before, "mac");
        if (!instance_is_device(device, "nic") || mac == NULL ||
            json_object_get(device, "mac") != NULL) {
            continue;
        }
        json_t *part = json_pack("{s:{s:{s:O}}}", "devices", name, "mac", mac);
        merge_patch(work->document, part);
        json_decref(part);
        mine = mac;
    }
    return mine != NULL ? work_expand(work, err) : 0;
}

int work_change(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    int rc = work_open(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    json_t *old = json_incref(work.expanded);
    bool waits = false;
    instance_change(work.document, json_object_get(job->request, "replacement"),
                    json_object_get(job->request, "patch"));
    rc = instance_check(work.document, err);
    rc = rc < 0 ? rc : work_expand(&work, err);
    rc = rc < 0 ? rc : keep_macs(&work, old, err);
    rc = rc < 0 ? rc : work_add_macs(&work, err);
    rc = rc < 0 ? rc : instance_check_change(old, work.expanded, err);
    rc = rc < 0 ? rc : job_step(job, "changing", NULL, err);
    rc = rc < 0 ? rc : work.driver->change(job, work.expanded, old, &waits, err);
    rc = rc < 0 ? rc : work_publish(&work, err);
    if (rc == 0) {
        work_event(&work, "changed");
        *out_result = work_result(&work);
        (void)json_object_set_new(*out_result, "waits_for_restart", json_boolean(waits));
    }
    json_decref(old);
    work_close(&work);
    return rc;
}
