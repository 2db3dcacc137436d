/* The id mappings of a new user namespace. */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/idmap.h"
#include "container/process/process.h"

#define NUMBER_MAX_BYTES 11 /* of 32 bits, and the end */

extern char **environ;

static int write_file(pid_t pid, const char *name, const char *text)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    size_t size = strlen(text);
    ssize_t written = write(fd, text, size); /* the kernel takes a mapping in one piece only */
    return written < 0 ? -errno : (size_t)written != size ? -EIO : 0;
}

/* newuidmap PID CONTAINER HOST SIZE ...: allowed to by /etc/subuid. */
static int run_helper(const char *program, pid_t pid, const struct spec_id_mappings *mappings,
                      struct error *err)
{
    size_t count = 2 + 3 * mappings->count;
    AUTO_FREE char *numbers = malloc(count * NUMBER_MAX_BYTES);
    AUTO_FREE char **args = calloc(count + 1, sizeof(*args));
    if (numbers == NULL || args == NULL) {
        return error_set(err, ENOMEM, "no memory for the arguments of %s", program);
    }
    args[0] = (char *)(uintptr_t)program;
    for (size_t i = 1; i < count; i++) {
        size_t field = i < 2 ? 0 : (i - 2) % 3;
        const struct spec_id_mapping *m = i < 2 ? NULL : &mappings->item[(i - 2) / 3];
        uint32_t value = i < 2        ? (uint32_t)pid
                         : field == 0 ? m->container_id
                         : field == 1 ? m->host_id
                                      : m->size;
        args[i] = numbers + i * NUMBER_MAX_BYTES;
        (void)snprintf(args[i], NUMBER_MAX_BYTES, "%u", value);
    }
    pid_t helper;
    int rc = posix_spawnp(&helper, program, NULL, NULL, args, environ);
    if (rc != 0) {
        return error_set_errno(err, rc, "starting %s (needed for id mappings beyond one's own id)",
                               program);
    }
    int status;
    while (waitpid(helper, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "waiting for %s", program);
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EPERM,
                           "%s refused the id mappings: see /etc/subuid and /etc/subgid", program);
}

static bool is_own_id_alone(const struct spec_id_mappings *mappings, uint32_t own)
{
    return mappings->count == 1 && mappings->item[0].size == 1 && mappings->item[0].host_id == own;
}

static int write_map(pid_t pid, const char *name, const struct spec_id_mappings *mappings)
{
    AUTO_FREE char *text = idmap_format(mappings);
    return text == NULL ? -ENOMEM : write_file(pid, name, text);
}

/* The kernel lets everybody map his own id; more only with rights, as the root of a user namespace has them, or by the helper. */
static int map_uids(pid_t pid, const struct spec_id_mappings *mappings, bool is_rootless,
                    struct error *err)
{
    int rc = is_rootless && geteuid() != 0 && !is_own_id_alone(mappings, geteuid())
                 ? -EPERM
                 : write_map(pid, "uid_map", mappings);
    if (rc == -EPERM && is_rootless) {
        return run_helper("newuidmap", pid, mappings, err);
    }
    return rc < 0 ? error_set_errno(err, -rc, "linux.uidMappings: writing uid_map") : 0;
}

static int map_gids(pid_t pid, const struct spec_id_mappings *mappings, bool is_rootless,
                    struct error *err)
{
    int rc = -EPERM;
    if (!is_rootless || geteuid() == 0) {
        rc = write_map(pid, "gid_map", mappings);
    }
    if (is_rootless && rc == -EPERM && is_own_id_alone(mappings, getegid())) {
        /* Without this a member of a group could leave it by setgroups, and with it what the group is denied. */
        rc = write_file(pid, "setgroups", "deny");
        rc = rc < 0 && rc != -ENOENT ? rc : write_map(pid, "gid_map", mappings);
    }
    if (rc == -EPERM && is_rootless) {
        return run_helper("newgidmap", pid, mappings, err);
    }
    return rc < 0 ? error_set_errno(err, -rc, "linux.gidMappings: writing gid_map") : 0;
}

int process_map_ids(pid_t pid, const struct spec_linux *linux_, bool is_rootless, struct error *err)
{
    int rc = linux_->gid_mappings.count == 0
                 ? 0
                 : map_gids(pid, &linux_->gid_mappings, is_rootless, err);
    return rc < 0 || linux_->uid_mappings.count == 0
               ? rc
               : map_uids(pid, &linux_->uid_mappings, is_rootless, err);
}
