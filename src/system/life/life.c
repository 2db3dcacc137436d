/* Where a container is in its life, and what all of its verbs need. */
#include "system/life/life.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/life/internal.h"
#include "system/life/keeper.h"
#include "system/rootless/rootless.h"

int life_open(struct life *out, const char *state, const char *run, const char *keeper,
              struct error *err)
{
    struct life life = {.keeper = keeper, .is_users = !rootless_is_host_root()};
    int rc = store_open(state, run, &life.store, err);
    if (rc < 0) {
        return rc;
    }
    *out = life;
    (void)snprintf(out->oci, sizeof(out->oci), "%s/oci", life.store.run);
    out->runtime = (struct runtime){.root = out->oci,
                                    .manager = CGROUP_MANAGER_FILES,
                                    .is_rootless = life.is_users,
                                    .may_halt = life.is_users};
    return 0;
}

const char *life_status_name(enum life_status status)
{
    static const char *const names[] = {
        [LIFE_STOPPED] = "stopped", [LIFE_STARTING] = "starting", [LIFE_RUNNING] = "running",
        [LIFE_PAUSED] = "paused",   [LIFE_LOST] = "error",
    };
    return names[status];
}

static bool has_keeper(const struct life *life, const char *name)
{
    char path[PATH_MAX];
    store_keeper_path(&life->store, name, KEEPER_LOCK, path);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    /* Asked for, not taken, be it for a moment: that moment would be in the way of a keeper that starts. */
    struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &asked) == 0 && asked.l_type != F_UNLCK;
}

enum life_status life_look(const struct life *life, const char *name, struct loaded *out_loaded,
                           bool *out_is_loaded)
{
    bool is_kept = has_keeper(life, name);
    struct error ignored;
    *out_is_loaded = loaded_open(&life->runtime, name, false, out_loaded, &ignored) == 0;
    if (!*out_is_loaded) {
        return is_kept ? LIFE_STARTING : LIFE_STOPPED;
    }
    enum container_status status = out_loaded->status;
    if (!is_kept) {
        return LIFE_LOST;
    }
    return status == CONTAINER_RUNNING  ? LIFE_RUNNING
           : status == CONTAINER_PAUSED ? LIFE_PAUSED
                                        : LIFE_STARTING;
}

enum life_status life_status(const struct life *life, const char *name)
{
    struct loaded loaded;
    bool is_loaded;
    enum life_status status = life_look(life, name, &loaded, &is_loaded);
    if (is_loaded) {
        loaded_close(&loaded);
    }
    return status;
}

bool life_has_ended(const struct life *life, const char *name, bool *out_has_failed)
{
    char path[PATH_MAX], line[32] = "", word[8];
    int number;
    store_ended_path(&life->store, name, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0 ||
        sscanf(line, "%7s %d", word, &number) != 2) {
        return false;
    }
    /* pid_namespaces(7): SIGINT is what reboot(2) does to the first process for a halt. */
    *out_has_failed = strcmp(word, "signal") == 0 ? number != SIGINT : number != 0;
    return true;
}

static int lock_file(const struct life *life, const char *name, int operation, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/lock%s%s", life->store.run, *name != '\0' ? "-" : "",
                   name);
    for (;;) {
        AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            return error_set_errno(err, errno, "opening %s", path);
        }
        int rc;
        do {
            rc = flock(fd, operation);
        } while (rc < 0 && errno == EINTR);
        struct stat locked;
        if (rc < 0 || fstat(fd, &locked) < 0) {
            return errno == EWOULDBLOCK ? error_set(err, EBUSY, "%s: somebody has it", path)
                                        : error_set_errno(err, errno, "locking %s", path);
        }
        if (locked.st_nlink != 0) { /* or it went with its container while we waited */
            return TAKE_FD(fd);
        }
    }
}

static int lock(const struct life *life, const char *name, int operation, struct error *err)
{
    char folder[PATH_MAX];
    int rc = *name != '\0' ? store_check_name("container", name, err) : 0;
    if (rc < 0) {
        return rc;
    }
    store_container_path(&life->store, name, NULL, folder);
    if (access(folder, F_OK) < 0) {
        return error_set(err, ENOENT, "container %s does not exist", name);
    }
    AUTO_CLOSE int fd = lock_file(life, name, operation, err);
    if (fd < 0) {
        return fd;
    }
    rc = *name != '\0' ? life_still_end(life, name, err) : 0;
    return rc < 0 ? rc : TAKE_FD(fd);
}

int life_lock(const struct life *life, const char *name, struct error *err)
{
    return lock(life, name, LOCK_EX, err);
}

int life_try_lock(const struct life *life, const char *name, struct error *err)
{
    return lock(life, name, LOCK_EX | LOCK_NB, err);
}

int life_release(const struct life *life, const char *name, struct error *err)
{
    AUTO_CLOSE int fd = life_lock(life, name, err);
    return fd < 0 ? fd : 0;
}

int life_connect(const struct life *life, const char *name, char kind, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[PATH_MAX];
    store_keeper_path(&life->store, name, KEEPER_SOCKET, path);
    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: too long for a socket", path);
    }
    memcpy(address.sun_path, path, strlen(path));
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return errno == ENOENT || errno == ECONNREFUSED
                   ? error_set(err, ESRCH, "container %s is not running", name)
                   : error_set_errno(err, errno, "reaching the keeper of container %s", name);
    }
    return send(fd, &kind, 1, MSG_NOSIGNAL) == 1
               ? TAKE_FD(fd)
               : error_set_errno(err, errno, "reaching the keeper of container %s", name);
}

int life_layers(const struct life *life, const struct config *config,
                struct template_layers *out_layers, struct error *err)
{
    if (config->template_digest != NULL) {
        return template_open(&life->store, config->template_digest, false, out_layers, err);
    }
    *out_layers = (struct template_layers){.count = 1};
    out_layers->path[0] = strdup(config->root);
    return out_layers->path[0] != NULL ? 0 : error_set(err, ENOMEM, "no memory for layers");
}

int life_pause(const struct life *life, const char *name, bool is_paused, struct error *err)
{
    enum life_status status = life_status(life, name);
    if (status != (is_paused ? LIFE_RUNNING : LIFE_PAUSED)) {
        int rc = config_check(&life->store, name, err);
        if (rc < 0) {
            return rc;
        }
        return error_set(err, EINVAL, "container %s is %s", name, life_status_name(status));
    }
    return runtime_pause(&life->runtime, name, is_paused, err);
}
