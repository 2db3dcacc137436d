/* Documents against files, in both directions. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/program.h"
#include "manager/check/check.h"
#include "manager/containers.h"
#include "manager/image/image.h"
#include "manager/instance/instance.h"
#include "manager/text.h"
#include "system/layers/layers.h"
#include "system/life/life.h"

/* Is its own document in its folder the one that the database has? */
static bool is_kept(const struct place *place, const json_t *document)
{
    static const char *const members[] = {"name", "kind", "uuid", "config", "devices"};
    json_auto_t *kept = NULL;
    bool is_same = instance_load(place, text_or_empty(document, "name"), &kept, NULL) == 0;
    for (unsigned i = 0; is_same && i < sizeof(members) / sizeof(members[0]); i++) {
        const json_t *left = json_object_get(kept, members[i]);
        const json_t *right = json_object_get(document, members[i]);
        is_same = json_equal(left, right) ||
                  (json_object_size(left) == 0 && json_object_size(right) == 0);
    }
    return is_same;
}

static int check_instance(struct check *check, const json_t *document, struct error *err)
{
    const struct place *place = &check->job->place;
    const char *name = text_or_empty(document, "name");
    char why[ERROR_TEXT_SIZE] = "";
    const struct instance_driver *driver = instance_driver(document);
    if (json_is_true(json_object_get(document, "incomplete"))) {
        /* Nobody works on it: all operations have ended. */
        int rc = 0;
        if (check->repairs) {
            rc = driver->remove(check->job, document, err);
            rc = rc < 0 ? rc : job_drop(check->job, "instance", name, err);
        }
        check_found(check, check->repairs && rc == 0, "instance", name, "was never made whole");
        return rc;
    }
    if (!is_kept(place, document)) {
        int rc = check->repairs ? instance_save(place, document, err) : 0;
        check_found(check, check->repairs && rc == 0, "instance", name,
                    "its instance.yaml is missing or differs from the database");
        if (rc < 0) {
            return rc;
        }
    }
    if (driver->status(place, name, why, sizeof(why)) == INSTANCE_ERROR) {
        check_found(check, false, "instance", name, why);
    }
    return 0;
}

/* A folder that the database knows nothing of: taken up again if it says what it is, else put aside. */
static int take_up(struct check *check, const char *name, struct error *err)
{
    const struct place *place = &check->job->place;
    json_auto_t *document = NULL;
    struct error problem = {0};
    if (instance_load(place, name, &document, &problem) == 0) {
        int rc =
            check->repairs ? job_put(check->job, "instance", name, json_incref(document), err) : 0;
        check_found(check, check->repairs && rc == 0, "instance", name,
                    "has a folder, and the database does not know it");
        return rc;
    }
    char from[PATH_MAX], to[PATH_MAX], lost[PATH_MAX], label[300];
    bool is_aside = false;
    if (check->repairs) {
        snprintf(label, sizeof(label), "%s-%lld", name, (long long)time(NULL));
        place_state_path(place, "instances", name, NULL, from);
        place_state_path(place, "lost", NULL, NULL, lost);
        place_state_path(place, "lost", label, NULL, to);
        is_aside = (mkdir(lost, 0700) == 0 || errno == EEXIST) && rename(from, to) == 0;
    }
    check_found(check, is_aside, "folder", name, problem.text);
    return 0;
}

static int each_folder(struct check *check, const char *area, const char *kind,
                       int (*unknown)(struct check *, const char *, struct error *),
                       struct error *err)
{
    char path[PATH_MAX];
    place_state_path(&check->job->place, area, NULL, NULL, path);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "folder %s", path);
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.' && !documents_has(check->documents, kind, entry->d_name)) {
            rc = unknown(check, entry->d_name, err);
        }
    }
    closedir(folder);
    return rc;
}

int check_instances(struct check *check, struct error *err)
{
    json_auto_t *list = NULL;
    int rc = documents_list(check->documents, "instance", &list, err);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        rc = check_instance(check, json_array_get(list, i), err);
    }
    return rc < 0 ? rc : each_folder(check, "instances", "instance", take_up, err);
}

/* Files of an image that nobody can name are of no use. */
static int unknown_image(struct check *check, const char *name, struct error *err)
{
    char path[PATH_MAX];
    place_state_path(&check->job->place, "images", name, NULL, path);
    int rc = check->repairs ? layers_remove(path, err) : 0;
    check_found(check, check->repairs && rc == 0, "image", name,
                "has files, and the database does not know it");
    return rc;
}

static bool has_form(const json_t *image, const char *form)
{
    size_t i;
    json_t *each;
    json_array_foreach(json_object_get(image, "forms"), i, each)
    {
        if (strcmp(json_string_value(each) != NULL ? json_string_value(each) : "", form) == 0) {
            return true;
        }
    }
    return false;
}

int check_images(struct check *check, struct error *err)
{
    json_auto_t *list = NULL;
    int rc = documents_list(check->documents, "image", &list, err);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *image = json_array_get(list, i);
        const char *name = text_or_empty(image, "name");
        struct image_vm_files files;
        struct error problem = {0};
        char path[PATH_MAX];
        if (has_form(image, "vm") &&
            image_vm_files(&check->job->place, image, &files, &problem) < 0) {
            check_found(check, false, "image", name, problem.text);
        }
        place_state_path(&check->job->place, "templates", name, NULL, path);
        if (has_form(image, "container") && access(path, F_OK) < 0) {
            check_found(check, false, "image", name, "its template is missing");
        }
    }
    json_auto_t *aliases = NULL;
    rc = rc < 0 ? rc : documents_list(check->documents, "alias", &aliases, err);
    for (size_t i = 0; rc == 0 && i < json_array_size(aliases); i++) {
        const json_t *alias = json_array_get(aliases, i);
        const char *name = text_or_empty(alias, "name");
        if (!documents_has(check->documents, "image", text_or_empty(alias, "digest"))) {
            rc = check->repairs ? job_drop(check->job, "alias", name, err) : 0;
            check_found(check, check->repairs && rc == 0, "alias", name,
                        "names an image that is not there");
        }
    }
    return rc < 0 ? rc : each_folder(check, "images", "image", unknown_image, err);
}

static void found_container(void *ctx, const char *what, bool is_repaired)
{
    check_found(ctx, is_repaired, "containers", "", what);
}

int check_containers(struct check *check, struct error *err)
{
    struct life life;
    char keeper[PATH_MAX];
    if (!check->job->place.has_owners) {
        return 0;
    }
    int rc = program_find("hull-ct-keeper", false, keeper, sizeof(keeper), err);
    rc = rc < 0 ? rc : containers_open(&check->job->place, keeper, &life, err);
    rc = rc < 0 ? rc : life_check(&life, check->repairs, found_container, check, err);
    return rc < 0 ? rc : 0;
}
