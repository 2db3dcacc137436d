/* Checkpoints: what a container's processes have in memory becomes a file, and processes again. The container's own files stay
 * where they are, so a checkpoint is good until the container runs again; a note beside them has the digest of that checkpoint. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/criu.h"
#include "container/runtime/fault.h"
#include "system/life/internal.h"
#include "system/life/pack.h"

#define MAX_IMAGE (64u << 20) /* of seccomp filters */
#define FILTERS   "seccomp.img"

/* "return SECCOMP_RET_USER_NOTIF", and what becomes of it: a restored filter has no listener, and its calls would fail. */
static const uint8_t notify[] = {0x06, 0, 0, 0, 0, 0, 0xc0, 0x7f};
static const uint8_t allow[] = {0x06, 0, 0, 0, 0, 0, 0xff, 0x7f};

static int silence_filters(const char *folder, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.4000s/" FILTERS, folder);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *data = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_IMAGE, path, &data, &size, err);
    for (size_t at = 0; rc == 0 && at + sizeof(notify) <= size; at++) {
        if (memcmp((char *)data + at, notify, sizeof(notify)) == 0) {
            rc = file_write_at(fd, allow, sizeof(allow), at, path, err);
        }
    }
    return rc;
}

/* A new empty folder below the container's. */
static int make_folder(const struct life *life, const char *name, char out_path[PATH_MAX],
                       struct error *err)
{
    store_container_path(&life->store, name, CONTAINER_IMAGES, out_path);
    int rc = layers_remove(out_path, err);
    return rc == 0 && mkdir(out_path, 0700) < 0 ? error_set_errno(err, errno, "making %s", out_path)
                                                : rc;
}

/* Is there such a container, and may the caller have that done? */
static int check_caller(const struct life *life, const char *name, struct error *err)
{
    struct config *config;
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    config_destroy(config);
    return life->is_users ? error_set(err, EPERM,
                                      "container %s: checkpoints and their restore need root: criu "
                                      "does not work for ordinary users",
                                      name)
                          : 0;
}

/* Mounts below a user namespace of its own are locked there, and criu cannot look behind those that others cover. */
static int check_mounts(const struct life *life, const char *name, struct error *err)
{
    struct config *config;
    int rc = config_load(&life->store, name, &config, err);
    if (rc < 0) {
        return rc;
    }
    bool is_privileged = config->is_privileged;
    config_destroy(config);
    return is_privileged
               ? 0
               : error_set(err, EOPNOTSUPP,
                           "container %s cannot be checkpointed: it has ids of its own, so "
                           "its mounts are locked, which criu cannot write (those made "
                           "with --privileged can be)",
                           name);
}

/* Older ones lock the container's network, and leave it locked if the container goes on. */
static int check_criu(struct error *err)
{
    int rc = criu_check(err);
    return rc < 0 ? rc : criu_check_version(3, 18, err);
}

static int note_digest(const struct life *life, const char *name, const char *digest,
                       struct error *err)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, CONTAINER_CHECKPOINT, path);
    return file_replace(path, digest, 0600, true, err);
}

static int dump(const struct life *life, const struct loaded *loaded, const char *folder,
                const char *file, struct error *err)
{
    const struct checkpoint_options options = {.image_path = folder,
                                               .status_fd = -1,
                                               .leaves_stopped = true,
                                               .allows_locks = true,
                                               .empty_network = true,
                                               .is_system = true,
                                               .terminal = -1};
    char digest[PACK_DIGEST_SIZE], log[PATH_MAX];
    int rc = runtime_checkpoint(&life->runtime, loaded->state.id, &options, err);
    fault_step("checkpoint-dumped");
    (void)snprintf(log, sizeof(log), "%.4000s/dump.log", folder);
    if (rc == 0) {
        (void)unlink(log);
    }
    rc = rc < 0 ? rc : silence_filters(folder, err);
    rc = rc < 0 ? rc : pack_write(folder, file, digest, err);
    fault_step("checkpoint-written");
    if (rc == 0 && (rc = note_digest(life, loaded->state.id, digest, err)) < 0) {
        (void)unlink(file);
    }
    return rc;
}

int life_checkpoint(const struct life *life, const char *name, const char *file, struct error *err)
{
    char folder[PATH_MAX];
    struct loaded loaded;
    bool is_loaded;
    int rc = check_caller(life, name, err);
    AUTO_CLOSE int lock = rc < 0 ? rc : life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    if (access(file, F_OK) == 0) {
        return error_set(err, EEXIST, "%s exists", file);
    }
    enum life_status status = life_look(life, name, &loaded, &is_loaded);
    if (status != LIFE_RUNNING) {
        rc = error_set(err, EINVAL, "container %s is %s, not running", name,
                       life_status_name(status));
    }
    rc = rc < 0 ? rc : check_mounts(life, name, err);
    rc = rc < 0 ? rc : check_criu(err);
    rc = rc < 0 ? rc : make_folder(life, name, folder, err);
    if (rc == 0) {
        rc = life_still_note(life, name, err);
        rc = rc < 0 ? rc : dump(life, &loaded, folder, file, err);
        struct error ignored;
        /* It goes on, or comes to its end. */
        int ended =
            rc == 0 ? life_stop(life, name, true, -1, err) : life_still_end(life, name, &ignored);
        rc = rc < 0 ? rc : ended;
        error_ignore(layers_remove(folder, &ignored));
    }
    if (is_loaded) {
        loaded_close(&loaded);
    }
    return rc;
}

static int read_digest(const struct life *life, const char *name, char digest[PACK_DIGEST_SIZE],
                       struct error *err)
{
    char path[PATH_MAX];
    store_container_path(&life->store, name, CONTAINER_CHECKPOINT, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = fd >= 0 ? read(fd, digest, PACK_DIGEST_SIZE - 1) : -1;
    if (size != PACK_DIGEST_SIZE - 1) {
        return error_set(
            err, ESTALE,
            "container %s has no checkpoint, or has run since: its files are not those "
            "of then",
            name);
    }
    digest[size] = '\0';
    return 0;
}

int life_restore(const struct life *life, const char *name, const char *file, struct error *err)
{
    char folder[PATH_MAX], digest[PACK_DIGEST_SIZE];
    struct error ignored;
    int rc = check_caller(life, name, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int lock = life_lock(life, name, err);
    if (lock < 0) {
        return lock;
    }
    enum life_status status = life_status(life, name);
    if (status != LIFE_STOPPED) {
        return error_set(err, EALREADY, "container %s is %s", name, life_status_name(status));
    }
    rc = read_digest(life, name, digest, err);
    rc = rc < 0 ? rc : check_criu(err);
    rc = rc < 0 ? rc : make_folder(life, name, folder, err);
    if (rc < 0) {
        return rc;
    }
    rc = pack_read(file, digest, folder, err);
    fault_step("restore-unpacked");
    struct life_start start;
    rc = rc < 0 ? rc : life_start_locked(life, name, folder, &start, err);
    rc = rc < 0 ? rc : life_start_end(&start, err);
    error_ignore(layers_remove(folder, &ignored));
    return rc;
}

void life_forget_checkpoint(const struct life *life, const char *name)
{
    char path[PATH_MAX];
    struct error ignored;
    store_container_path(&life->store, name, CONTAINER_CHECKPOINT, path);
    (void)unlink(path);
    store_container_path(&life->store, name, CONTAINER_IMAGES, path);
    error_ignore(layers_remove(path, &ignored)); /* of one that was killed */
}
