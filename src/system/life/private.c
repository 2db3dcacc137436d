/* What a container has of its own, the files above its template: out of it and into it, with owners as the container sees
 * them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/life/internal.h"
#include "system/template/boxed.h"

/* One copy: between an upper layer, perhaps in a disk of its own, and a folder. */
struct moving {
    const char *folder;   /* of others */
    char files[PATH_MAX]; /* upper/ or disk.img */
    char mount[PATH_MAX]; /* where the disk is mounted, in a process of its own */
    bool has_disk, is_out;
    struct layers_ids ids;
    int (*poll)(void *ctx);
    void *ctx;
};

static int copy_progress(void *ctx, uint64_t done_bytes, uint64_t done_files)
{
    const struct moving *moving = ctx;
    return moving->poll != NULL ? moving->poll(moving->ctx) : 0;
}

static int copy(struct moving *moving, const char *upper, struct error *err)
{
    const struct layers_ids seen = {.first = 0, .count = moving->ids.count};
    const struct layers_copy out = {.from = upper,
                                    .to = moving->folder,
                                    .from_ids = moving->ids,
                                    .to_ids = seen,
                                    .progress = copy_progress,
                                    .ctx = moving};
    const struct layers_copy in = {.from = moving->folder,
                                   .to = upper,
                                   .from_ids = seen,
                                   .to_ids = moving->ids,
                                   .progress = copy_progress,
                                   .ctx = moving};
    int rc = moving->is_out ? 0 : layers_remove(upper, err);
    return rc < 0 ? rc : layers_copy(moving->is_out ? &out : &in, err);
}

static int copy_with_disk(void *ctx, struct error *err)
{
    struct moving *moving = ctx;
    char upper[PATH_MAX], work[PATH_MAX];
    int rc = layers_image_mount(moving->files, moving->mount, err);
    (void)snprintf(upper, sizeof(upper), "%.3900s/upper", moving->mount);
    (void)snprintf(work, sizeof(work), "%.3900s/work", moving->mount);
    if (rc == 0) { /* one that was never started has none */
        rc = layers_make_upper(upper, work, &moving->ids, err);
        rc = rc == -EEXIST ? 0 : rc;
    }
    return rc < 0 ? rc : copy(moving, upper, err);
}

static int move_files(struct moving *moving, struct error *err)
{
    if (!moving->has_disk) {
        return copy(moving, moving->files, err);
    }
    (void)snprintf(moving->mount, sizeof(moving->mount), "%.3900s.disk", moving->folder);
    if (mkdir(moving->mount, 0700) < 0 && errno != EEXIST) {
        return error_set_errno(err, errno, "making %s", moving->mount);
    }
    const struct boxed program = {.what = "copying a container's files",
                                  .prepare = copy_with_disk,
                                  .prepare_ctx = moving,
                                  .poll = moving->poll,
                                  .ctx = moving->ctx};
    int rc = boxed_run(&program, err);
    (void)rmdir(moving->mount); /* what is mounted there went with the process */
    return rc;
}

static void inner_name(const char *name, const char *snapshot, char out_name[PATH_MAX])
{
    (void)snprintf(out_name, PATH_MAX, snapshot != NULL ? "%s/snapshots/%s" : "%s", name, snapshot);
}

static struct layers_ids ids_of(const struct config *config)
{
    return (struct layers_ids){.first = config->first_id,
                               .count = config->is_privileged ? 0 : config->id_count};
}

static void find_files(const struct life *life, const char *inner, const struct config *config,
                       struct moving *moving)
{
    moving->has_disk = config->limits.disk_bytes != 0;
    moving->ids = ids_of(config);
    store_container_path(&life->store, inner, moving->has_disk ? CONTAINER_DISK : CONTAINER_UPPER,
                         moving->files);
}

int life_private_out(const struct life *life, const char *name, const char *snapshot,
                     const struct life_private *private, struct template_layers *out_layers,
                     struct error *err)
{
    char inner[PATH_MAX];
    struct moving moving = {
        .folder = private->folder, .is_out = true, .poll = private->poll, .ctx = private->ctx};
    struct config *config;
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    inner_name(name, snapshot, inner);
    int rc = config_load_at(&life->store, inner, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    if (snapshot == NULL && life_status(life, name) != LIFE_STOPPED) {
        rc = error_set(err, EBUSY, "container %s has to be stopped", name);
    }
    if (rc == 0 && config->template_digest == NULL) {
        rc = error_set(err, EOPNOTSUPP, "container %s stands on no image", name);
    }
    find_files(life, inner, config, &moving);
    rc = rc < 0 ? rc : move_files(&moving, err);
    rc = rc < 0 ? rc : life_layers(life, config, out_layers, err);
    config_destroy(config);
    return rc < 0 ? error_prefix(err, rc, "reading container %s", name) : 0;
}

/* A snapshot that has nothing of its own yet, under a name that nobody looks at. */
static int make_snapshot(const struct life *life, const char *name, const struct config *config,
                         char out_inner[PATH_MAX], struct error *err)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, "snapshots", path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        return error_set_errno(err, errno, "making %s", path);
    }
    inner_name(name, ".making", out_inner);
    store_container_path(&life->store, out_inner, NULL, path);
    int rc = layers_remove(path, err);
    if (rc == 0 && mkdir(path, 0700) < 0) {
        rc = error_set_errno(err, errno, "making %s", path);
    }
    store_container_path(&life->store, out_inner, CONTAINER_DISK, path);
    if (rc == 0 && config->limits.disk_bytes != 0) {
        rc = layers_image_create(path, config->limits.disk_bytes, err);
    }
    return rc < 0 ? rc : config_save(&life->store, out_inner, config->document, err);
}

static int name_snapshot(const struct life *life, const char *name, const char *inner,
                         const char *snapshot, struct error *err)
{
    char from[PATH_MAX], to[PATH_MAX], named[PATH_MAX];
    inner_name(name, snapshot, named);
    store_container_path(&life->store, inner, NULL, from);
    store_container_path(&life->store, named, NULL, to);
    return rename(from, to) < 0 ? error_set_errno(err, errno, "making %s", to) : 0;
}

int life_private_in(const struct life *life, const char *name, const char *snapshot,
                    const struct life_private *private, struct error *err)
{
    char inner[PATH_MAX];
    struct moving moving = {.folder = private->folder, .poll = private->poll, .ctx = private->ctx};
    struct config *config;
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    int rc = snapshot != NULL ? store_check_name("snapshot", snapshot, err) : 0;
    rc = rc < 0 ? rc : config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    inner_name(name, NULL, inner);
    rc = snapshot != NULL ? make_snapshot(life, name, config, inner, err) : 0;
    find_files(life, inner, config, &moving);
    rc = rc < 0 ? rc : move_files(&moving, err);
    if (rc == 0 && snapshot != NULL) {
        rc = name_snapshot(life, name, inner, snapshot, err);
    }
    config_destroy(config);
    return rc < 0 ? error_prefix(err, rc, "writing container %s", name) : 0;
}
