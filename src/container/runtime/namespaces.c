/* Namespaces of a container: opened, joined, made. */
#include "container/runtime/namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const struct {
    uint64_t flag;
    const char *name;      /* in the configuration */
    const char *self_path; /* the runtime's own */
} kinds[NAMESPACE_KINDS] = {
    {CLONE_NEWUSER, "user", "/proc/self/ns/user"},
    {CLONE_NEWPID, "pid", "/proc/self/ns/pid"},
    {CLONE_NEWNET, "network", "/proc/self/ns/net"},
    {CLONE_NEWNS, "mount", "/proc/self/ns/mnt"},
    {CLONE_NEWIPC, "ipc", "/proc/self/ns/ipc"},
    {CLONE_NEWUTS, "uts", "/proc/self/ns/uts"},
    {CLONE_NEWCGROUP, "cgroup", "/proc/self/ns/cgroup"},
    {CLONE_NEWTIME, "time", "/proc/self/ns/time"},
};

static const char *kind_name(uint64_t flag)
{
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (kinds[i].flag == flag) {
            return kinds[i].name;
        }
    }
    return "unknown";
}

static bool is_own(int fd, uint64_t flag)
{
    struct stat own, other;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (kinds[i].flag == flag) {
            return fstat(fd, &other) == 0 && stat(kinds[i].self_path, &own) == 0 &&
                   own.st_ino == other.st_ino && own.st_dev == other.st_dev;
        }
    }
    return false;
}

static int join_later(struct namespaces *n, size_t index, const struct spec_namespace *wanted,
                      struct error *err)
{
    int fd = open(wanted->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return error_set_errno(err, errno, "linux.namespaces[%zu].path: opening %s", index,
                               wanted->path);
    }
    int kind = ioctl(fd, NS_GET_NSTYPE);
    if (kind != (int)wanted->clone_flag) {
        close(fd);
        return error_set(err, EINVAL, "linux.namespaces[%zu].path: %s is no %s namespace", index,
                         wanted->path, kind_name(wanted->clone_flag));
    }
    if (is_own(fd, wanted->clone_flag)) {
        close(
            fd); /* the kernel would refuse to join a user namespace again, and the others are joined for nothing */
        return 0;
    }
    n->joined[n->joined_count].flag = wanted->clone_flag;
    n->joined[n->joined_count++].fd = fd;
    return 0;
}

int namespaces_open(const struct spec *spec, struct namespaces *out, struct error *err)
{
    struct namespaces n = {0};
    const struct spec_linux *linux_ = &spec->linux_;
    for (size_t i = 0; i < linux_->namespace_count; i++) {
        const struct spec_namespace *wanted = &linux_->namespaces[i];
        if (wanted->path != NULL) {
            int rc = join_later(&n, i, wanted, err);
            if (rc < 0) {
                namespaces_close(&n);
                return rc;
            }
        } else if (wanted->clone_flag == CLONE_NEWCGROUP) {
            n.creates_cgroup =
                true; /* its root is where the process is then: after it has joined its groups */
        } else if (wanted->clone_flag == CLONE_NEWTIME) {
            n.creates_time = true; /* offsets can only be written while nobody is in it */
        } else {
            n.created |= wanted->clone_flag;
        }
    }
    if ((n.created & CLONE_NEWUSER) != 0) {
        n.unshared = n.created & ~(uint64_t)(CLONE_NEWUSER | CLONE_NEWPID);
        n.created &= CLONE_NEWUSER | CLONE_NEWPID;
    }
    n.needs_stage = n.creates_time || ((n.created & CLONE_NEWUSER) != 0 && n.joined_count != 0);
    for (size_t i = 0; i < n.joined_count; i++) {
        n.needs_stage |= (n.joined[i].flag & (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWTIME)) != 0;
    }
    *out = n;
    return 0;
}

void namespaces_close(struct namespaces *n)
{
    for (size_t i = 0; i < n->joined_count; i++) {
        close(n->joined[i].fd);
    }
    n->joined_count = 0;
}

static int write_time_offset(const char *file, const char *clock,
                             const struct spec_time_offset *offset, struct error *err)
{
    if (!offset->is_set) {
        return 0;
    }
    char line[64];
    int length = snprintf(line, sizeof(line), "%s %lld %u\n", clock, (long long)offset->seconds,
                          offset->nanoseconds);
    AUTO_CLOSE int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, line, (size_t)length) != length) {
        return error_set_errno(err, errno, "linux.timeOffsets.%s", clock);
    }
    return 0;
}

int namespaces_make_time(struct error *err)
{
    return unshare(CLONE_NEWTIME) < 0 ? error_set_errno(err, errno, "making a time namespace") : 0;
}

int namespaces_set_time(pid_t pid, const struct spec_linux *linux_, struct error *err)
{
    char file[64];
    (void)snprintf(file, sizeof(file), "/proc/%d/timens_offsets", (int)pid);
    int rc = write_time_offset(file, "monotonic", &linux_->monotonic, err);
    return rc < 0 ? rc : write_time_offset(file, "boottime", &linux_->boottime, err);
}

int namespaces_enter_time(struct error *err)
{
    AUTO_CLOSE int fd = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
    return fd < 0 || setns(fd, CLONE_NEWTIME) < 0
               ? error_set_errno(err, errno, "joining the time namespace")
               : 0;
}

/* Those that the caller may join as what he is come before the user namespace, the others behind it. */
int namespaces_join(const struct namespaces *n, const struct spec_linux *linux_, struct error *err)
{
    bool is_done[NAMESPACE_KINDS] = {false};
    for (int turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i < n->joined_count; i++) {
            bool is_user = n->joined[i].flag == CLONE_NEWUSER;
            if (is_done[i] || is_user != (turn == 1)) {
                continue;
            }
            is_done[i] = setns(n->joined[i].fd, (int)n->joined[i].flag) == 0;
            if (!is_done[i] && (turn > 0 || errno != EPERM)) {
                return error_set_errno(err, errno, "joining the %s namespace",
                                       kind_name(n->joined[i].flag));
            }
        }
    }
    if (!n->creates_time || n->makes_time_inside) {
        return 0;
    }
    int rc = namespaces_make_time(err);
    return rc < 0 ? rc : namespaces_set_time(getpid(), linux_, err);
}

/* Where it cannot be, the caller stays the owner. */
void namespaces_take_owner(int64_t uid)
{
    if (uid > 0 && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0) {
        (void)setresuid((uid_t)-1, (uid_t)uid, (uid_t)-1);
    }
}

void namespaces_give_owner_back(int64_t uid)
{
    int code = errno;
    if (uid > 0) {
        (void)setresuid((uid_t)-1, 0, (uid_t)-1);
        (void)prctl(PR_SET_SECUREBITS, 0);
    }
    errno = code;
}

pid_t namespaces_clone(uint64_t flags, int cgroup, bool is_sibling, int *out_pidfd)
{
    int pidfd = -1;
    struct clone_args args = {
        .flags = flags | (out_pidfd != NULL ? CLONE_PIDFD : 0) |
                 (cgroup >= 0 ? CLONE_INTO_CGROUP : 0) | (is_sibling ? CLONE_PARENT : 0),
        .pidfd = (uint64_t)(uintptr_t)&pidfd,
        .exit_signal = is_sibling ? 0 : SIGCHLD, /* with CLONE_PARENT it is the caller's */
        .cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid > 0 && out_pidfd != NULL) {
        *out_pidfd = pidfd;
    }
    return pid;
}
