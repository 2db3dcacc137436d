#include "manager/defaults.h"

#include <limits.h>

#include "base/host/file.h"

/* Keeps what is there; takes 'document' over. */
static int put(struct manager *manager, const char *kind, json_t *document, struct error *err)
{
    const char *name = json_string_value(json_object_get(document, "name"));
    int rc = document == NULL ? error_set_errno(err, ENOMEM, "making the default %s", kind) : 0;
    if (rc == 0 && !documents_has(manager->documents, kind, name)) {
        rc = documents_put(manager->documents, kind, name, document, err);
    }
    json_decref(document);
    return rc;
}

static int put_all(struct manager *manager, const char *pool_path, struct error *err)
{
    char now[32];
    manager_time(now);
    int rc = put(manager, "pool",
                 json_pack("{s:s, s:s, s:{s:s}, s:s, s:s}", "name", "default", "driver", "dir",
                           "config", "path", pool_path, "description", "", "created_at", now),
                 err);
    if (rc == 0) {
        rc = put(manager, "network",
                 json_pack("{s:s, s:s, s:s, s:{}, s:s}", "name", "default", "type",
                           manager->place.is_root ? "nat" : "user", "description", "", "config",
                           "created_at", now),
                 err);
    }
    if (rc == 0) {
        rc = put(manager, "profile",
                 json_pack("{s:s, s:s, s:{}, s:{s:{s:s, s:s}, s:{s:s, s:s}}, s:s}", "name",
                           "default", "description", "", "config", "devices", "root", "type",
                           "disk", "pool", "default", "eth0", "type", "nic", "network", "default",
                           "created_at", now),
                 err);
    }
    /* Says that all of this was done. */
    return rc < 0 ? rc
                  : put(manager, "setting",
                        json_pack("{s:s, s:s}", "name", "defaults", "created_at", now), err);
}

int defaults_make(struct manager *manager, bool *out_is_new, struct error *err)
{
    *out_is_new = !documents_has(manager->documents, "setting", "defaults");
    if (!*out_is_new) {
        return 0;
    }
    char path[PATH_MAX];
    place_state_path(&manager->place, "pools", "default", NULL, path);
    int rc = file_make_folders(path, 0700, 0755, err);
    if (rc == 0) {
        rc = documents_begin(manager->documents, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = put_all(manager, path, err);
    if (rc < 0) {
        documents_rollback(manager->documents);
        return rc;
    }
    return documents_commit(manager->documents, err);
}
