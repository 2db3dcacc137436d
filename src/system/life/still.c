/* A running container stands still while its files are copied: its processes, and its disk, if it has one of its own. A
 * note beside its keeper says so from before the first to behind the last. Whoever stands still has the container's
 * lock, so that the next one to take that lock after a process that was killed finds the note, and has the container go
 * on. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/fault.h"
#include "system/life/internal.h"
#include "system/life/keeper.h"

#define PAUSED_HERE   'p' /* the note: its processes are to go on afterwards */
#define PAUSED_BEFORE 'b' /* they stood still before */
#define STOPPED_HERE  's' /* by SIGSTOP, for a checkpoint */

static void note_path(const struct life *life, const char *name, char out_path[PATH_MAX])
{
    store_keeper_path(&life->store, name, KEEPER_STILL, out_path);
}

/* Where the keeper, in a mount namespace of its own, has mounted the container's disk. */
static int find_disk(const struct life *life, const char *name, char out_path[PATH_MAX],
                     struct error *err)
{
    char path[PATH_MAX];
    struct ucred keeper;
    socklen_t size = sizeof(keeper);
    AUTO_CLOSE int connection = life_connect(life, name, KEEPER_WATCH, err);
    if (connection < 0) {
        return connection;
    }
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &keeper, &size) < 0) {
        return error_set_errno(err, errno, "looking for the keeper of container %s", name);
    }
    store_keeper_path(&life->store, name, KEEPER_DISK, path);
    int length = snprintf(out_path, PATH_MAX, "/proc/%d/root%s", (int)keeper.pid, path);
    return length < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "%.100s...: too long", path);
}

static int pause_all(const struct life *life, const struct config *config, bool is_running,
                     char out_disk[PATH_MAX], struct error *err)
{
    bool has_disk = config->limits.disk_bytes != 0;
    int rc = has_disk ? find_disk(life, config->name, out_disk, err) : 0;
    if (rc == 0 && is_running) {
        rc = runtime_pause(&life->runtime, config->name, true, err);
    }
    fault_step("still-paused");
    if (rc == 0 && has_disk) {
        rc = layers_image_freeze(out_disk, true, err);
    }
    fault_step("still-frozen");
    return rc;
}

static int write_note(const struct life *life, const char *name, char note, struct error *err)
{
    char path[PATH_MAX];
    note_path(life, name, path);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 || write(fd, &note, 1) != 1
               ? error_set_errno(err, fd < 0 ? errno : ENOSPC, "writing %s", path)
               : 0;
}

int life_still_note(const struct life *life, const char *name, struct error *err)
{
    return write_note(life, name, STOPPED_HERE, err);
}

int life_still_begin(const struct life *life, const struct config *config, char out_disk[PATH_MAX],
                     struct error *err)
{
    enum life_status status = life_status(life, config->name);
    out_disk[0] = '\0';
    if (status != LIFE_RUNNING && status != LIFE_PAUSED) {
        return 0;
    }
    bool is_running = status == LIFE_RUNNING;
    int rc = write_note(life, config->name, is_running ? PAUSED_HERE : PAUSED_BEFORE, err);
    rc = rc < 0 ? rc : pause_all(life, config, is_running, out_disk, err);
    if (rc < 0) {
        struct error ignored;
        error_ignore(life_still_end(life, config->name, &ignored));
    }
    return rc;
}

int life_still_end(const struct life *life, const char *name, struct error *err)
{
    char path[PATH_MAX], disk[PATH_MAX], note = PAUSED_HERE;
    struct error ignored;
    struct config *config;
    note_path(life, name, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || read(fd, &note, 1) < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "reading %s", path);
    }
    int rc = 0;
    if (note == STOPPED_HERE) {
        life_forget_checkpoint(life, name);
        rc = runtime_kill(&life->runtime, name, SIGCONT, true, err);
        rc = rc == -ENOENT ? 0 : rc;
    } else if (config_load(&life->store, name, &config, &ignored) == 0) {
        bool has_disk = config->limits.disk_bytes != 0;
        config_destroy(config);
        /* The disk first: what runs may have to write to it. */
        if (has_disk && find_disk(life, name, disk, &ignored) == 0) {
            rc = layers_image_freeze(disk, false, err);
        }
    }
    if (rc == 0 && note == PAUSED_HERE && life_status(life, name) == LIFE_PAUSED) {
        rc = runtime_pause(&life->runtime, name, false, err);
    }
    if (rc == 0) {
        (void)unlink(path); /* or its keeper has */
    }
    return rc;
}
