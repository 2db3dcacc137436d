/* Snapshots and clones: copies of what a container has changed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/fault.h"
#include "system/life/internal.h"

/* STATE/containers/NAME/snapshots/SNAPSHOT/{config.yaml, upper/ or disk.img}: the same as a container's folder, so that it is
 * read as one: as the container "NAME/snapshots/SNAPSHOT". */
static void snapshot_name(const char *name, const char *snapshot, char out_name[PATH_MAX])
{
    (void)snprintf(out_name, PATH_MAX, "%s/snapshots/%s", name, snapshot);
}

struct place {
    char folder[PATH_MAX];
    char files[PATH_MAX]; /* upper/ or disk.img */
    char disk[PATH_MAX];  /* where the disk is mounted; "": it is not */
    bool has_disk;
};

static void find_place(const struct life *life, const char *name, bool has_disk, struct place *out)
{
    store_container_path(&life->store, name, NULL, out->folder);
    store_container_path(&life->store, name, has_disk ? CONTAINER_DISK : CONTAINER_UPPER,
                         out->files);
    out->disk[0] = '\0';
    out->has_disk = has_disk;
}

static int copy_files(const struct place *from, const struct place *to,
                      const struct layers_ids *from_ids, const struct layers_ids *to_ids,
                      struct error *err)
{
    const struct layers_copy request = {
        .from = from->files, .to = to->files, .from_ids = *from_ids, .to_ids = *to_ids};
    return from->has_disk ? layers_image_copy(from->files, from->disk, to->files, err)
                          : layers_copy(&request, err);
}

static struct layers_ids ids_of(const struct config *config)
{
    return (struct layers_ids){.first = config->first_id,
                               .count = config->is_privileged ? 0 : config->id_count};
}

/* Whether the host's name and the like are in the files already. */
static bool is_written(const struct life *life, const char *name)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, CONTAINER_WRITTEN, path);
    return access(path, F_OK) == 0;
}

static int set_written(const struct life *life, const char *name, bool written, struct error *err)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, CONTAINER_WRITTEN, path);
    if (!written) {
        return unlink(path) < 0 && errno != ENOENT
                   ? error_set_errno(err, errno, "removing %s", path)
                   : 0;
    }
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set_errno(err, errno, "making %s", path) : 0;
}

/* Into a folder that nobody sees, and then to its name. */
static int fill(const struct life *life, const char *name, const struct config *config,
                const char *disk, const char *snapshot, struct error *err)
{
    char inner[PATH_MAX], making[PATH_MAX], folders[PATH_MAX], target[PATH_MAX];
    struct place from, to;
    bool has_disk = config->limits.disk_bytes != 0;
    store_container_path(&life->store, name, "snapshots", folders);
    if (mkdir(folders, 0700) < 0 && errno != EEXIST) {
        return error_set_errno(err, errno, "making %s", folders);
    }
    snapshot_name(name, ".making", making);
    find_place(life, name, has_disk, &from);
    (void)snprintf(from.disk, sizeof(from.disk), "%s", disk);
    find_place(life, making, has_disk, &to);
    int rc = layers_remove(to.folder, err);
    if (rc == 0 && mkdir(to.folder, 0700) < 0) {
        rc = error_set_errno(err, errno, "making %s", to.folder);
    }
    const struct layers_ids ids = ids_of(config);
    rc = rc < 0 ? rc : copy_files(&from, &to, &ids, &ids, err);
    rc = rc < 0 ? rc : set_written(life, making, is_written(life, name), err);
    fault_step("snapshot-copied");
    rc = rc < 0 ? rc : config_save(&life->store, making, config->document, err);
    fault_step("snapshot-saved");
    snapshot_name(name, snapshot, inner);
    store_container_path(&life->store, inner, NULL, target);
    if (rc == 0 && rename(to.folder, target) < 0) {
        rc = error_set_errno(err, errno, "making %s", target);
    }
    if (rc < 0) {
        struct error ignored;
        error_ignore(layers_remove(to.folder, &ignored));
    }
    return rc;
}

int life_snapshot(const struct life *life, const char *name, const char *snapshot,
                  struct error *err)
{
    int rc = store_check_name("snapshot", snapshot, err);
    AUTO_CLOSE int lock = rc < 0 ? rc : life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    char inner[PATH_MAX], target[PATH_MAX], disk[PATH_MAX];
    struct config *config;
    rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    snapshot_name(name, snapshot, inner);
    store_container_path(&life->store, inner, NULL, target);
    if (access(target, F_OK) == 0) {
        rc = error_set(err, EEXIST, "container %s has a snapshot %s already", name, snapshot);
    }
    rc = rc < 0 ? rc : life_still_begin(life, config, disk, err);
    if (rc == 0) {
        struct error late;
        rc = fill(life, name, config, disk, snapshot, err);
        if (life_still_end(life, name, &late) < 0 && rc == 0) {
            rc = error_set(err, late.code, "%s", late.text);
        }
    }
    config_destroy(config);
    return rc < 0 ? error_prefix(err, rc, "snapshot %s of container %s", snapshot, name) : 0;
}

static void add_snapshot(const char *folder, const char *name, json_t *list)
{
    char path[PATH_MAX + NAME_MAX + 2], text[32] = "";
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (stat(path, &st) == 0) {
        struct tm parts;
        (void)gmtime_r(&st.st_mtime, &parts);
        (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    (void)json_array_append_new(list, json_pack("{s:s, s:s}", "name", name, "created_at", text));
}

int life_snapshot_list(const struct life *life, const char *name, json_t **out_list,
                       struct error *err)
{
    int rc = config_check(&life->store, name, err);
    if (rc < 0) {
        return rc;
    }
    char folder[PATH_MAX];
    store_container_path(&life->store, name, "snapshots", folder);
    json_t *list = json_array();
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, versionsort);
    for (int i = 0; i < count; i++) {
        struct error ignored;
        if (store_check_name("snapshot", entries[i]->d_name, &ignored) == 0) {
            add_snapshot(folder, entries[i]->d_name, list);
        }
        free(entries[i]);
    }
    free(entries);
    *out_list = list;
    return 0;
}

/* A snapshot's configuration: it is read like a container's. */
static int load_snapshot(const struct life *life, const char *name, const char *snapshot,
                         struct config **out_config, struct error *err)
{
    int rc = store_check_name("container", name, err);
    rc = rc < 0 ? rc : store_check_name("snapshot", snapshot, err);
    char inner[PATH_MAX];
    snapshot_name(name, snapshot, inner);
    rc = rc < 0 ? rc : config_load_at(&life->store, inner, name, out_config, err);
    return rc == -ENOENT ? error_set(err, ENOENT, "container %s has no snapshot %s", name, snapshot)
                         : rc;
}

/* The files and what comes with them. The two names change places, so that there is always one of them. */
static int restore(const struct life *life, const char *name, const char *snapshot,
                   const struct config *config, const struct config *now, struct error *err)
{
    char inner[PATH_MAX], making[PATH_MAX];
    struct place from, to, made;
    bool has_disk = config->limits.disk_bytes != 0;
    snapshot_name(name, snapshot, inner);
    snapshot_name(name, ".restoring", making);
    find_place(life, inner, has_disk, &from);
    find_place(life, name, has_disk, &to);
    store_container_path(&life->store, making, NULL, made.files);
    made.has_disk = has_disk;
    const struct layers_ids ids = ids_of(config), now_ids = ids_of(now);
    int rc = layers_remove(made.files, err);
    rc = rc < 0 ? rc : copy_files(&from, &made, &ids, &now_ids, err);
    fault_step("restore-copied");
    if (rc == 0 && renameat2(AT_FDCWD, made.files, AT_FDCWD, to.files, RENAME_EXCHANGE) < 0) {
        rc = error_set_errno(err, errno, "putting %s in place", to.files);
    }
    fault_step("restore-swapped");
    rc = rc < 0 ? rc : set_written(life, name, is_written(life, inner), err);
    rc = rc < 0 ? rc : config_save(&life->store, name, config->document, err);
    return rc < 0 ? rc : layers_remove(made.files, err);
}

int life_snapshot_restore(const struct life *life, const char *name, const char *snapshot,
                          struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    struct config *config, *now = NULL;
    struct life_index *index = NULL;
    int rc = load_snapshot(life, name, snapshot, &config, err);
    if (rc < 0) {
        return rc;
    }
    rc = config_load(&life->store, name, &now, err);
    if (rc == 0 && life_status(life, name) != LIFE_STOPPED) {
        rc = error_set(err, EBUSY, "container %s has to be stopped for going back to a snapshot",
                       name);
    }
    /* Another may have got an address since. */
    rc = rc < 0 ? rc : life_index_open(life, &index, err);
    rc = rc < 0 ? rc : life_index_check(index, name, config, err);
    rc = rc < 0 ? rc : restore(life, name, snapshot, config, now, err);
    life_index_close(index);
    config_destroy(config);
    config_destroy(now);
    return rc < 0 ? error_prefix(err, rc, "going back to snapshot %s", snapshot) : 0;
}

int life_snapshot_delete(const struct life *life, const char *name, const char *snapshot,
                         struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    struct config *config;
    int rc = load_snapshot(life, name, snapshot, &config, err);
    if (rc < 0) {
        return rc;
    }
    config_destroy(config);
    char inner[PATH_MAX], folder[PATH_MAX];
    snapshot_name(name, snapshot, inner);
    store_container_path(&life->store, inner, NULL, folder);
    return layers_remove(folder, err);
}

/* What is a container's own goes: ids, addresses (the lowest free ones of the same network come), MAC, host name. */
static int renew(const struct life_index *index, const struct config *config, json_t *document,
                 struct error *err)
{
    static const char *const own[] = {"ids", "hostname", "created"};
    for (size_t i = 0; i < ARRAY_COUNT(own); i++) {
        (void)json_object_del(document, own[i]);
    }
    json_t *cards = json_array();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < config->card_count; i++) {
        const struct network_card *card = &config->cards[i];
        char text[256], address[NETWORK_TEXT_SIZE];
        if (card->bridge == NULL) {
            continue; /* who has the switch gives addresses and ports */
        }
        (void)snprintf(text, sizeof(text), "%s=%s,name=%s", card->is_macvlan ? "parent" : "bridge",
                       card->bridge, card->name);
        for (size_t j = 0; rc == 0 && j < card->address_count; j++) {
            struct network_address found;
            struct network_address network = card->addresses[j];
            if (network.family == AF_INET && network_contains(&network, &card->gateway4)) {
                network = card->gateway4; /* not the gateway's */
                network.prefix = card->addresses[j].prefix;
            }
            rc = life_index_find_address(index, card->bridge, &network, &found, err);
            network_format(&found, true, address);
            size_t used = strlen(text);
            (void)snprintf(text + used, sizeof(text) - used, ",ip=%s", address);
        }
        const struct network_address *gateways[] = {&card->gateway4, &card->gateway6};
        for (size_t j = 0; j < ARRAY_COUNT(gateways); j++) {
            if (gateways[j]->family != 0) {
                network_format(gateways[j], false, address);
                size_t used = strlen(text);
                (void)snprintf(text + used, sizeof(text) - used, ",gateway=%s", address);
            }
        }
        (void)json_array_append_new(cards, json_string(text));
    }
    if (config->card_count != 0) {
        (void)json_object_set(document, "network", cards);
    }
    json_decref(cards);
    return rc;
}

int life_clone(const struct life *life, const char *name, const char *snapshot,
               const char *new_name, const char *const *words, size_t word_count, struct error *err)
{
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    char inner[PATH_MAX];
    struct config *config;
    struct life_index *index = NULL;
    int rc = snapshot != NULL ? load_snapshot(life, name, snapshot, &config, err)
                              : config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    if (config->limits.disk_bytes != 0 && !config->is_privileged) {
        rc = error_set(err, EOPNOTSUPP,
                       "container %s has a disk of its own, whose files have its ids: "
                       "it cannot be cloned",
                       name);
    }
    json_t *document = json_deep_copy(config->document);
    rc = rc < 0 ? rc : life_index_open(life, &index, err);
    rc = rc < 0 ? rc : renew(index, config, document, err);
    for (size_t i = 0; rc == 0 && i < word_count; i++) {
        rc = config_change(document, words[i], err);
    }
    if (rc == 0) {
        struct error late;
        struct place from;
        if (snapshot != NULL) {
            snapshot_name(name, snapshot, inner);
        }
        find_place(life, snapshot != NULL ? inner : name, config->limits.disk_bytes != 0, &from);
        char disk[PATH_MAX] = "";
        rc = snapshot == NULL ? life_still_begin(life, config, disk, err) : 0;
        const struct life_source source = {
            .files = from.files, .disk = disk, .ids = ids_of(config)};
        rc = rc < 0 ? rc : life_create_copy(index, new_name, document, &source, err);
        if (snapshot == NULL && life_still_end(life, name, &late) < 0 && rc == 0) {
            rc = error_set(err, late.code, "%s", late.text);
        }
    }
    life_index_close(index);
    json_decref(document);
    config_destroy(config);
    return rc < 0 ? error_prefix(err, rc, "cloning container %s", name) : 0;
}
