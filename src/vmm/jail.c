#include "vmm/jail.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/host/confine.h"
#include "base/host/file.h"
#include "base/host/log.h"

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* Heaps that threads share. */
#define HEAP_COUNT 4

/* The user has no namespace privileges of its own: one more namespace, in which it is itself, gives them. */
static bool enter_user_namespace(void)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0) {
        return false;
    }
    const struct {
        const char *path;
        unsigned id;
    } maps[] = {{"/proc/self/uid_map", uid}, {"/proc/self/gid_map", gid}};
    AUTO_CLOSE int deny = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
    (void)!write(deny, "deny",
                 4); /* the kernel's condition for the next file; it tells if it is not met */
    for (size_t i = 0; i < ARRAY_COUNT(maps); i++) {
        char text[64];
        int length = snprintf(text, sizeof(text), "%u %u 1\n", maps[i].id, maps[i].id);
        AUTO_CLOSE int fd = open(maps[i].path, O_WRONLY | O_CLOEXEC);
        if (write(fd, text, (size_t)length) != length) {
            log_debug("jail: %s: %s, ignoring", maps[i].path, strerror(errno));
        }
    }
    return true;
}

static void limit(int resource, const char *name, rlim_t most)
{
    int rc = confine_limit(resource, most);
    if (rc < 0) {
        log_debug("jail: limit %s: %s, ignoring", name, strerror(-rc));
    }
}

bool jail_enter_early(bool stays_root)
{
    /* Without it the filter could not be installed by an ordinary user, and a set-uid program might be started. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        log_debug("jail: no new privileges: %s, ignoring", strerror(errno));
    }
    limit(RLIMIT_CORE, "core", 0); /* a core would hold the guest's memory */
    limit(RLIMIT_NOFILE, "nofile", 4096);
    bool is_root = geteuid() == 0;
    bool has_own = is_root ? unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET) == 0
                           : enter_user_namespace();
    if (!has_own) {
        log_debug("jail: namespaces: %s, ignoring", strerror(errno));
    }
    if (is_root && stays_root) {
        int rc = drop_capabilities();
        if (rc < 0) {
            log_debug("jail: capabilities: %s, ignoring", strerror(-rc));
        }
    }
    return has_own;
}

/* An empty, read-only file system in the place of the host's, in our own mount namespace. */
static int drop_root_folder(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k") <
            0 ||
        chdir("/proc") < 0) {
        return -errno;
    }
    /* pivot_root(2): the old root ends up on top of the new one, and off it goes. */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        return -errno;
    }
    return 0;
}

static int drop_user(const struct jail_needs *needs, struct error *err)
{
    if (geteuid() != 0 || needs->uid == 0) {
        /* A new user namespace gave capabilities in it, which have done their work. */
        int rc = drop_capabilities();
        return rc < 0 ? error_set_errno(err, -rc, "jail: dropping capabilities") : 0;
    }
    /* glibc does it on all threads; leaving uid 0 clears the capabilities of each: capabilities(7). */
    if (setgroups(0, NULL) < 0 || setresgid(needs->gid, needs->gid, needs->gid) < 0 ||
        setresuid(needs->uid, needs->uid, needs->uid) < 0) {
        return error_set_errno(err, errno, "jail: leaving the root user");
    }
    return 0;
}

int jail_enter_late(const struct jail_needs *needs, struct error *err)
{
    /* Without a mount namespace of our own it would be the host's root folder that goes. Unix sockets are found through
     * /proc/self/fd. */
    if (needs->has_own_mounts && !needs->has_unix_sockets) {
        int rc = drop_root_folder();
        if (rc < 0) {
            log_debug("jail: empty root folder: %s, ignoring", strerror(-rc));
        }
    }
    int rc = drop_user(needs, err);
    if (rc < 0) {
        return rc;
    }
    /* Both are cleared or set anew by a change of user: prctl(2). */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0) {
        return error_set_errno(err, errno, "jail: process attributes");
    }
    /* The C library reads the time zone's file on the first conversion of a date, even of UTC. */
    tzset();
    /* Without a limit the C library counts the CPUs in a file of /sys when threads come to need more heaps. */
    if (mallopt(M_ARENA_MAX, HEAP_COUNT) == 0) {
        return error_set(err, EINVAL, "jail: limiting the heaps to %d", HEAP_COUNT);
    }
    return jail_filter_install(needs, err);
}
