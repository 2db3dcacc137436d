/* What crashes have left on the host. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/life/internal.h"

struct check {
    const struct life *life;
    bool repairs;
    void (*found)(void *ctx, const char *what, bool is_repaired);
    void *ctx;
    int left;
};

/* 'rc': of the repair, if there was one. */
static void tell(struct check *check, int rc, const struct error *err, const char *kind,
                 const char *name, const char *state)
{
    char what[600];
    (void)snprintf(what, sizeof(what), "%s %s: %s", kind, name, state);
    if (check->repairs && rc < 0) {
        size_t used = strlen(what);
        (void)snprintf(what + used, sizeof(what) - used, ": cannot be removed: %s", err->text);
    }
    bool is_repaired = check->repairs && rc == 0;
    check->left += !is_repaired;
    check->found(check->ctx, what, is_repaired);
}

static bool has_config(const struct life *life, const char *name)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, "config.yaml", path);
    return access(path, F_OK) == 0;
}

static void each_entry(const char *folder, void (*fn)(struct check *check, const char *name),
                       struct check *check)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            fn(check, entry->d_name);
        }
    }
    (void)closedir(dir);
}

/* Somebody starts it or works on it: nothing of it is left over. Else nobody does, until *out_lock is closed (-1: there is no
 * such container). */
static bool is_busy(const struct check *check, const char *name, int *out_lock)
{
    struct error err;
    int lock = life_try_lock(check->life, name, &err);
    *out_lock = lock < 0 ? -1 : lock;
    return lock == -EBUSY;
}

/* What somebody works on is not left over: whoever makes a snapshot has the container's lock. */
static void check_hidden(struct check *check, const char *container, const char *folder,
                         const char *prefix)
{
    char path[PATH_MAX], what[NAME_MAX + 128];
    (void)snprintf(path, sizeof(path), "%s", folder);
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *name = entry->d_name;
        if (strncmp(name, prefix, strlen(prefix)) != 0 || strcmp(name, ".") == 0 ||
            strcmp(name, "..") == 0) {
            continue;
        }
        struct error err = {0};
        char tree[PATH_MAX + NAME_MAX + 2];
        (void)snprintf(tree, sizeof(tree), "%s/%s", path, name);
        (void)snprintf(what, sizeof(what), "%s of container %s", name, container);
        int rc = check->repairs ? layers_remove(tree, &err) : 0;
        tell(check, rc, &err, "files", what, "half made or half removed");
    }
    (void)closedir(dir);
}

/* Copies beside the trees that they were to be, and what was moved away to be removed. */
static void check_inside(struct check *check, const char *name)
{
    char path[PATH_MAX];
    AUTO_CLOSE int lock = -1;
    if (is_busy(check, name, &lock)) {
        return;
    }
    store_container_path(&check->life->store, name, NULL, path);
    check_hidden(check, name, path, ".hull-");
    check_hidden(check, name, path, "config.yaml.");
    store_container_path(&check->life->store, name, "snapshots", path);
    check_hidden(check, name, path, ".");
}

/* STATE/containers: what was being made or removed, and folders without a configuration. */
static void check_files(struct check *check, const char *name)
{
    char path[PATH_MAX];
    struct error err = {0}, ignored;
    bool is_container = store_check_name("container", name, &ignored) == 0;
    struct config *config;
    if (is_container && config_load(&check->life->store, name, &config, &err) == 0) {
        config_destroy(config);
        check_inside(check, name);
        return;
    }
    if (is_container && has_config(check->life, name)) {
        check->left++; /* somebody may want to mend it */
        check->found(check->ctx, err.text, false);
        return;
    }
    store_container_path(&check->life->store, name, NULL, path);
    int rc = check->repairs ? layers_remove(path, &err) : 0;
    tell(check, rc, &err, "container files", name, "half made or half removed");
}

/* RUN/oci: containers that run, or ran, without a keeper. */
static void check_runtime(struct check *check, const char *name)
{
    struct error err = {0};
    AUTO_CLOSE int lock = -1;
    if (name[0] == '.' || is_busy(check, name, &lock) ||
        life_status(check->life, name) != LIFE_LOST) {
        return;
    }
    int rc = check->repairs ? runtime_delete(&check->life->runtime, name, true, &err) : 0;
    tell(check, rc, &err, "container", name, "has processes or groups and no keeper");
}

/* RUN/keeper: folders of keepers that were killed. */
static void check_keeper(struct check *check, const char *name)
{
    char path[PATH_MAX];
    struct error err = {0};
    AUTO_CLOSE int lock = -1;
    if (is_busy(check, name, &lock) || life_status(check->life, name) != LIFE_STOPPED) {
        return;
    }
    store_keeper_path(&check->life->store, name, NULL, path);
    int rc = check->repairs ? layers_remove(path, &err) : 0;
    tell(check, rc, &err, "run folder of", name, "its keeper has gone");
}

static void check_root(struct check *check, const char *name)
{
    char path[PATH_MAX];
    struct error err = {0};
    AUTO_CLOSE int lock = -1;
    if (is_busy(check, name, &lock) || life_status(check->life, name) != LIFE_STOPPED) {
        return;
    }
    (void)snprintf(path, sizeof(path), "%s/root/%s", check->life->store.run, name);
    int rc =
        check->repairs && rmdir(path) < 0 ? error_set_errno(&err, errno, "removing %s", path) : 0;
    tell(check, rc, &err, "mount point of", name, "its keeper has gone");
}

struct device_check {
    struct check *check;
    char **names;
    size_t count;
};

/* A pair whose container does not run. Those of other stores are not ours to judge. */
static void check_device(const char *device, void *ctx)
{
    struct device_check *d = ctx;
    for (size_t i = 0; i < d->count; i++) {
        for (size_t card = 0; card < CONFIG_MAX_CARDS; card++) {
            char own[IFNAMSIZ];
            struct error err = {0};
            document_host_name(&d->check->life->store, d->names[i], card, own);
            AUTO_CLOSE int lock = -1;
            if (strcmp(own, device) != 0 || is_busy(d->check, d->names[i], &lock) ||
                life_status(d->check->life, d->names[i]) != LIFE_STOPPED) {
                continue;
            }
            int rc = d->check->repairs ? network_detach_card(device, &err) : 0;
            tell(d->check, rc, &err, "network device", device, "its container does not run");
        }
    }
}

int life_check(const struct life *life, bool repairs,
               void (*found)(void *ctx, const char *what, bool is_repaired), void *ctx,
               struct error *err)
{
    struct check check = {.life = life, .repairs = repairs, .found = found, .ctx = ctx};
    AUTO_CLOSE int lock = life_lock(life, "", err);
    if (lock < 0) {
        return lock;
    }
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/containers", life->store.state);
    each_entry(path, check_files, &check);
    each_entry(life->oci, check_runtime, &check);
    (void)snprintf(path, sizeof(path), "%s/keeper", life->store.run);
    each_entry(path, check_keeper, &check);
    (void)snprintf(path, sizeof(path), "%s/root", life->store.run);
    each_entry(path, check_root, &check);
    struct device_check devices = {.check = &check};
    int rc = config_list(&life->store, &devices.names, &devices.count, err);
    rc = rc < 0 ? rc : network_each_veth(DOCUMENT_DEVICE_PREFIX, check_device, &devices, err);
    for (size_t i = 0; i < devices.count; i++) {
        free(devices.names[i]);
    }
    free(devices.names);
    return rc < 0 ? rc : check.left;
}
