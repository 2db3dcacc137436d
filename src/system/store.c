/* Folders and names. */
#include "system/store.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"

#define MAX_NAME 64

static int make_below(const char *folder, const char *name, mode_t mode, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return file_make_folders(path, mode, 0755, err);
}

int store_open(const char *state, const char *run, struct store *out, struct error *err)
{
    struct store store;
    const char *given = state != NULL ? state : STORE_DEFAULT_STATE;
    bool is_default = strcmp(given, STORE_DEFAULT_STATE) == 0;
    int rc = file_make_folders(given, 0711, 0755, err);
    if (rc < 0) {
        return rc;
    }
    char real[PATH_MAX];
    if (realpath(given, real) == NULL) {
        return error_set_errno(err, errno, "opening %s", given);
    }
    if (strlen(real) + sizeof("/run") > sizeof(store.state) ||
        (run != NULL && strlen(run) >= sizeof(store.run))) {
        return error_set(err, ENAMETOOLONG, "%.100s...: longer than %d bytes",
                         run != NULL ? run : real, STORE_MAX_PATH);
    }
    (void)snprintf(store.state, sizeof(store.state), "%s", real);
    bool is_said = run != NULL;
    (void)snprintf(store.run, sizeof(store.run), "%s%s",
                   is_said      ? run
                   : is_default ? STORE_DEFAULT_RUN
                                : real,
                   is_said || is_default ? "" : "/run");
    /* Roots of containers are reached by ids that are not their owners': 0711. What has secrets is 0700. */
    rc = make_below(store.state, "containers", 0711, err);
    rc = rc < 0 ? rc : make_below(store.state, "templates/names", 0711, err);
    rc = rc < 0 ? rc : make_below(store.run, "oci", 0700, err);
    rc = rc < 0 ? rc : make_below(store.run, "keeper", 0700, err);
    rc = rc < 0 ? rc : make_below(store.run, "root", 0711, err);
    if (rc == 0) {
        *out = store;
    }
    return rc;
}

static void join(const char *folder, const char *kind, const char *name, const char *file,
                 char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/%s/%s%s%s", folder, kind, name, file != NULL ? "/" : "",
                   file != NULL ? file : "");
}

void store_container_path(const struct store *store, const char *name, const char *file,
                          char out_path[PATH_MAX])
{
    join(store->state, "containers", name, file, out_path);
}

void store_keeper_path(const struct store *store, const char *name, const char *file,
                       char out_path[PATH_MAX])
{
    join(store->run, "keeper", name, file, out_path);
}

void store_ended_path(const struct store *store, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/ended-%s", store->run, name);
}

void store_template_path(const struct store *store, const char *digest, const char *file,
                         char out_path[PATH_MAX])
{
    join(store->state, "templates", digest, file, out_path);
}

int store_check_name(const char *what, const char *name, struct error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char all[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(name);
    bool is_good = length > 0 && length <= MAX_NAME && strspn(name, letters) > 0 &&
                   strspn(name, all) == length;
    char shown[101];
    size_t used = 0;
    for (; name[used] != '\0' && used < sizeof(shown) - 1; used++) {
        shown[used] = (unsigned char)name[used] < ' ' || name[used] == 0x7f ? '?' : name[used];
    }
    shown[used] = '\0';
    return is_good ? 0
                   : error_set(err, EINVAL,
                               "%s name '%s': 1 to %d letters, digits, '-', '_' and '.', the "
                               "first a letter or digit",
                               what, shown, MAX_NAME);
}
