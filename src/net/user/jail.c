#include "net/user/jail.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/confine.h"
#include "base/host/file.h"
#include "base/host/log.h"

#define NOBODY          65534
#define MAX_DESCRIPTORS 4096 /* guest connections; each is one */
#define RESOLV_CONF     "/etc/resolv.conf"
#define RESOLV_CONF_MAX (64 * 1024)

static int write_file(const char *path, const char *text, size_t size, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    return file_write_all(fd, text, size, path, err);
}

/* What libslirp reads to find the name servers. */
static size_t make_resolv_conf(const char *dns, char *out_text)
{
    if (dns != NULL) {
        return (size_t)snprintf(out_text, RESOLV_CONF_MAX, "nameserver %s\n", dns);
    }
    AUTO_CLOSE int fd = open(RESOLV_CONF, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, out_text, RESOLV_CONF_MAX);
    return size < 0 ? 0 : (size_t)size; /* a host without name servers is no failure */
}

/* Root keeps its user namespace, because it can leave it for another user; others get one, in which they may mount. */
static int enter_namespaces(bool is_root, struct error *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(is_root ? flags : flags | CLONE_NEWUSER) < 0) {
        return error_set_errno(err, errno, "making namespaces");
    }
    if (is_root) {
        return 0;
    }
    char map[64];
    int size = snprintf(map, sizeof(map), "%u %u 1\n", uid, uid);
    int rc = write_file("/proc/self/uid_map", map, (size_t)size, err);
    if (rc == 0) {
        rc = write_file("/proc/self/setgroups", "deny", 4, err);
    }
    if (rc == 0) {
        size = snprintf(map, sizeof(map), "%u %u 1\n", gid, gid);
        rc = write_file("/proc/self/gid_map", map, (size_t)size, err);
    }
    return rc;
}

static int enter_empty_root(const char *resolv_conf, size_t size, struct error *err)
{
    /* pivot_root(2) wants a mount that is not shared; any directory that exists will do to put the new root on. */
    const char *base = "/proc";
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        return error_set_errno(err, errno, "making mounts private");
    }
    if (mount("hull-net-user", base, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "size=128k,nr_inodes=8,mode=0755") < 0) {
        return error_set_errno(err, errno, "mounting an empty root");
    }
    if (chdir(base) < 0 || mkdir("etc", 0755) < 0) {
        return error_set_errno(err, errno, "filling the empty root");
    }
    int rc = write_file("etc/resolv.conf", resolv_conf, size, err);
    if (rc < 0) {
        return rc;
    }
    /* The old root lands over the new one and goes at once. */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        return error_set_errno(err, errno, "changing to the empty root");
    }
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              NULL) < 0) {
        return error_set_errno(err, errno, "making the empty root read-only");
    }
    return 0;
}

/* A user namespace with one user in it has nobody to change to; an empty root makes up for that. */
static int change_user(bool has_own_root, struct error *err)
{
    if (setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
        setresuid(NOBODY, NOBODY, NOBODY) == 0) {
        return 0;
    }
    if (!has_own_root) {
        return error_set_errno(err, errno, "changing to user %d", NOBODY);
    }
    log_info("changing to user %d: %s: going on as root without capabilities", NOBODY,
             strerror(errno));
    return 0;
}

static int drop_privileges(bool is_root, bool has_own_root, struct error *err)
{
    /* The bounding set goes first: dropping from it needs a capability. Numbers beyond the kernel's last fail, harmlessly. */
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++) {
        (void)prctl(PR_CAPBSET_DROP, capability);
    }
    int rc = is_root ? change_user(has_own_root, err) : 0;
    if (rc < 0) {
        return rc;
    }
    capng_clear(CAPNG_SELECT_ALL);
    rc = capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
    if (rc < 0) {
        return error_set(err, EPERM, "dropping capabilities failed (%d)", rc);
    }
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return error_set_errno(err, errno, "giving up new privileges");
    }
    return 0;
}

/* Calls without a condition. No call here names another process or makes one, so a process namespace would add nothing. */
static const int plain_calls[] = {
    /* the sockets of the guest's connections, and of frames */
    SCMP_SYS(bind),
    SCMP_SYS(connect),
    SCMP_SYS(listen),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(close),
    /* resolv.conf, log lines */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(newfstatat),
    /* the C library: memory, locks, time, hash seeds */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(getrandom),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

struct conditional_call {
    int number;
    unsigned argument;
    enum scmp_compare compare;
    uint64_t a, b;
};

static const struct conditional_call conditional_calls[] = {
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_INET},
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_INET6},
    {SCMP_SYS(openat), 2, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY},
    {SCMP_SYS(open), 1, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_GETFL},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_SETFL},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_GETFD},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_SETFD},
    {SCMP_SYS(ioctl), 1, SCMP_CMP_EQ, FIONREAD},
    {SCMP_SYS(ioctl), 1, SCMP_CMP_EQ, FIONBIO},
    {SCMP_SYS(mmap), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
};

/* What a switch asks of tap interfaces that it is given. */
static const struct conditional_call tap_calls[] = {
    {SCMP_SYS(ioctl), 1, SCMP_CMP_EQ, TUNGETIFF},
    {SCMP_SYS(ioctl), 1, SCMP_CMP_EQ, TUNSETVNETHDRSZ},
    {SCMP_SYS(ioctl), 1, SCMP_CMP_EQ, TUNSETOFFLOAD},
};

static int add_conditional(scmp_filter_ctx filter, const struct conditional_call *calls,
                           size_t count)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        const struct conditional_call *call = &calls[i];
        struct scmp_arg_cmp condition = SCMP_CMP(call->argument, call->compare, call->a, call->b);
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call->number, 1, &condition);
    }
    return rc;
}

static int add_rules(scmp_filter_ctx filter, bool is_switch)
{
    int rc = 0;
    for (size_t i = 0; i < ARRAY_COUNT(plain_calls) && rc == 0; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, plain_calls[i], 0);
    }
    if (rc == 0) {
        rc = add_conditional(filter, conditional_calls, ARRAY_COUNT(conditional_calls));
    }
    return rc == 0 && is_switch ? add_conditional(filter, tap_calls, ARRAY_COUNT(tap_calls)) : rc;
}

static int filter_calls(bool is_switch, struct error *err)
{
    /* A refusal, not a kill: a C library may try a call that it can do without. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL) {
        return error_set_errno(err, ENOMEM, "making the filter of system calls");
    }
    int rc = add_rules(filter, is_switch);
    if (rc == 0) {
        rc = seccomp_load(filter);
    }
    seccomp_release(filter);
    return rc < 0 ? error_set_errno(err, -rc, "filtering system calls") : 0;
}

/* Namespaces and root are all or nothing for the caller; what failed is for the log. */
static int enter_own_root(const char *dns, bool is_root, struct error *err)
{
    static char resolv_conf[RESOLV_CONF_MAX];
    size_t size = make_resolv_conf(dns, resolv_conf);
    int rc = enter_namespaces(is_root, err);
    return rc < 0 ? rc : enter_empty_root(resolv_conf, size, err);
}

int jail_enter(const char *dns, bool is_switch, bool outlives_parent, struct error *err)
{
    bool is_root = geteuid() == 0;
    struct error why;
    int rc = enter_own_root(dns, is_root, &why);
    if (rc < 0 && dns != NULL) {
        return error_set(err, -rc, "--dns needs a root directory of its own: %s", why.text);
    }
    if (rc < 0) {
        log_info("no root directory of its own: %s: going on without", why.text);
    }
    rc = drop_privileges(is_root, rc == 0, err);
    if (rc < 0) {
        return rc;
    }
    (void)confine_limit(RLIMIT_CORE, 0);
    (void)confine_limit(RLIMIT_NOFILE, MAX_DESCRIPTORS);
    /* After the change of user, which clears it: prctl(2). */
    if (!outlives_parent && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        return error_set_errno(err, errno, "asking to end with the parent");
    }
    return filter_calls(is_switch, err);
}
