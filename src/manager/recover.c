#include "manager/recover.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/instance/instance.h"

static int recover_one(struct manager *manager, const char *name, bool *out_is_done,
                       struct error *err)
{
    char path[PATH_MAX];
    json_t *document = NULL;
    *out_is_done = false;
    place_state_path(&manager->place, "instances", name, "instance.yaml", path);
    if (place_check_instance_name(name, NULL) < 0 || access(path, F_OK) < 0 ||
        documents_has(manager->documents, "instance", name)) {
        return 0;
    }
    struct error why = {0};
    int rc = instance_load(&manager->place, name, &document, &why);
    if (rc == 0) {
        rc = instance_check(document, &why);
    }
    const char *said = json_string_value(json_object_get(document, "name"));
    if (rc == 0 && (said == NULL || strcmp(said, name) != 0)) {
        rc = error_set(&why, EINVAL, "it is another one's: %s", said != NULL ? said : "nobody's");
    }
    if (rc < 0) {
        log_warning("instance %s: %s: %s, ignoring", name, path, why.text);
        json_decref(document);
        return 0;
    }
    rc = documents_put(manager->documents, "instance", name, document, err);
    json_decref(document);
    *out_is_done = rc == 0;
    return rc;
}

int recover_instances(struct manager *manager, unsigned *out_count, struct error *err)
{
    char path[PATH_MAX];
    *out_count = 0;
    place_state_path(&manager->place, "instances", NULL, NULL, path);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "folder %s", path);
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(folder)) != NULL) {
        bool is_done = false;
        if (entry->d_name[0] != '.') {
            rc = recover_one(manager, entry->d_name, &is_done, err);
        }
        *out_count += is_done;
    }
    closedir(folder);
    return rc;
}
