/* A mount namespace in which a container's own root cannot undo the mounts that it began with. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/mount/handle.h"
#include "container/mount/rootfs.h"

bool rootfs_needs_lock(const struct rootfs_request *request)
{
    const struct spec_process *process = &request->spec->process;
    return request->has_own_user_namespace && !request->is_rootless && request->spec->has_process &&
           (!process->has_capabilities || (process->bounding & (UINT64_C(1) << CAP_SYS_ADMIN)));
}

/* Copies the container's namespace into one that the host owns, and that into one of the container: each copy across owners locks
 * all flags and mounts. Returns where it failed, or 0. */
static int copy_namespaces(int mount_namespace, int user_namespace)
{
    return setns(mount_namespace, CLONE_NEWNS) < 0    ? -1
           : unshare(CLONE_NEWNS) < 0                 ? -1
           : setns(user_namespace, CLONE_NEWUSER) < 0 ? -1
                                                      : unshare(CLONE_NEWNS);
}

static int open_namespace(pid_t pid, const char *name)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The process that copies: says how it went, then holds the namespace until the caller closes his end, or is gone. */
noreturn_fn static void hold_copy(int socket, int mount_namespace, int user_namespace)
{
    int result = copy_namespaces(mount_namespace, user_namespace) < 0 ? errno : 0;
    char byte;
    bool is_told = write(socket, &result, sizeof(result)) == (ssize_t)sizeof(result);
    _exit(is_told && read(socket, &byte, 1) == 0 ? 0 : 1);
}

int rootfs_lock(pid_t container, struct error *err)
{
    AUTO_HANDLE int mounts = open_namespace(container, "mnt");
    AUTO_HANDLE int users = open_namespace(container, "user");
    int ends[2];
    if (mounts < 0 || users < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        return error_set_errno(err, errno, "opening the container's namespaces");
    }
    struct clone_args args = {.exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) {
        close(ends[0]);
        hold_copy(ends[1], mounts, users);
    }
    int result = pid < 0 ? errno : EIO;
    close(ends[1]);
    ssize_t size;
    do {
        size = pid < 0 ? 0 : read(ends[0], &result, sizeof(result));
    } while (size < 0 && errno == EINTR);
    int locked = -1;
    if (size == (ssize_t)sizeof(result) && result == 0) {
        locked = open_namespace((pid_t)pid, "mnt");
        result = locked < 0 ? errno : 0;
    } else if (result == 0) {
        result = EIO; /* it ended early */
    }
    close(ends[0]);
    while (pid > 0 && waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return result != 0 ? error_set_errno(err, result, "locking the container's mounts") : locked;
}
