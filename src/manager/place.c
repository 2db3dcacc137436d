#include "manager/place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"

static int set_path(char *out, const char *what, const char *folder, const char *rest,
                    struct error *err)
{
    int length = snprintf(out, PLACE_MAX_PATH, "%s%s", folder, rest);
    if (length < 0 || length >= PLACE_MAX_PATH) {
        return error_set(err, ENAMETOOLONG, "%s folder %s: at most %d bytes", what, folder,
                         PLACE_MAX_PATH - 1);
    }
    return 0;
}

/* $variable, or $HOME/beside. */
static int user_folder(const char *variable, const char *beside, char out[PLACE_MAX_PATH],
                       struct error *err)
{
    const char *chosen = getenv(variable);
    if (chosen != NULL && chosen[0] == '/') {
        return set_path(out, variable, chosen, "/hull", err);
    }
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/') {
        return error_set(err, ENOENT, "neither %s nor HOME names a folder", variable);
    }
    char rest[64];
    snprintf(rest, sizeof(rest), "/%s/hull", beside);
    return set_path(out, variable, home, rest, err);
}

static int run_of_user(char out[PLACE_MAX_PATH], struct error *err)
{
    const char *chosen = getenv("XDG_RUNTIME_DIR");
    if (chosen != NULL && chosen[0] == '/') {
        return set_path(out, "XDG_RUNTIME_DIR", chosen, "/hull", err);
    }
    /* Where a session without systemd has none; made with mode 0700, and checked to be the user's. */
    snprintf(out, PLACE_MAX_PATH, "/tmp/hull-%u", (unsigned)geteuid());
    return 0;
}

static int find(const char *state, struct place *out_place, struct error *err)
{
    bool is_root = geteuid() == 0;
    *out_place = (struct place){.is_root = is_root, .has_owners = is_root};
    if (state == NULL) {
        state = getenv("HULL_STATE");
    }
    if (state != NULL && state[0] != '\0') {
        char full[PATH_MAX] = "";
        if (state[0] != '/' && getcwd(full, sizeof(full) - 1) == NULL) {
            return error_set(err, errno, "state folder %s", state);
        }
        int length = snprintf(out_place->state, PLACE_MAX_PATH, "%s%s%s", full,
                              full[0] != '\0' ? "/" : "", state);
        if (length < 0 || length >= PLACE_MAX_PATH - 8) {
            return error_set(err, ENAMETOOLONG, "state folder %s: at most %d bytes", state,
                             PLACE_MAX_PATH - 9);
        }
        int rc = set_path(out_place->run, "run", out_place->state, "/run", err);
        return rc < 0 ? rc : set_path(out_place->cache, "cache", out_place->state, "/cache", err);
    }
    if (out_place->is_root) {
        strcpy(out_place->state, "/var/lib/hull");
        strcpy(out_place->run, "/run/hull");
        strcpy(out_place->cache, "/var/cache/hull");
        return 0;
    }
    int rc = user_folder("XDG_DATA_HOME", ".local/share", out_place->state, err);
    if (rc == 0) {
        rc = user_folder("XDG_CACHE_HOME", ".cache", out_place->cache, err);
    }
    return rc < 0 ? rc : run_of_user(out_place->run, err);
}

static int make_folder(const char *path, struct error *err)
{
    int rc = file_make_folders(path, 0700, 0755, err);
    if (rc < 0) {
        return rc;
    }
    struct stat info;
    if (lstat(path, &info) < 0) {
        return error_set(err, errno, "folder %s", path);
    }
    if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid()) {
        return error_set(err, EACCES, "folder %s: belongs to somebody else", path);
    }
    return 0;
}

int place_open(const char *state, struct place *out_place, struct error *err)
{
    int rc = find(state, out_place, err);
    const char *folders[] = {out_place->state, out_place->run, out_place->cache};
    for (unsigned i = 0; rc == 0 && i < 3; i++) {
        rc = make_folder(folders[i], err);
    }
    return rc;
}

int place_find_socket(char out_path[PLACE_MAX_PATH], struct error *err)
{
    const char *chosen = getenv("HULL_SOCKET");
    if (chosen != NULL && chosen[0] != '\0') {
        return set_path(out_path, "HULL_SOCKET", chosen, "", err);
    }
    struct place place;
    int rc = find(NULL, &place, err);
    return rc < 0 ? rc : set_path(out_path, "run", place.run, "/hulld.sock", err);
}

static void join(const char *folder, const char *area, const char *name, const char *file,
                 char out_path[PATH_MAX])
{
    snprintf(out_path, PATH_MAX, "%s/%s%s%s%s%s", folder, area, name != NULL ? "/" : "",
             name != NULL ? name : "", file != NULL ? "/" : "", file != NULL ? file : "");
}

void place_state_path(const struct place *place, const char *area, const char *name,
                      const char *file, char out_path[PATH_MAX])
{
    join(place->state, area, name, file, out_path);
}

void place_run_path(const struct place *place, const char *area, const char *name, const char *file,
                    char out_path[PATH_MAX])
{
    join(place->run, area, name, file, out_path);
}

int place_check_instance_name(const char *name, struct error *err)
{
    size_t length = strlen(name);
    size_t fits = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
    if (length == 0 || length > 63 || fits != length || name[0] == '-' || name[length - 1] == '-') {
        return error_set(
            err, EINVAL,
            "name '%s' of an instance: letters, digits and '-', at most 63, neither begin nor end with '-'",
            name);
    }
    return 0;
}
