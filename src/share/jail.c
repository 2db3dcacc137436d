#include "share/jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/host/confine.h"
#include "base/host/file.h"
#include "base/host/log.h"

#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif

static int write_file(const char *path, const char *text, size_t size, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    return file_write_all(fd, text, size, path, err);
}

/* Root has all ids in files that it needs; others get a user namespace, in which they may mount, and in which only they themselves
 * have a name. */
static int enter_namespaces(struct error *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
    if (unshare(uid == 0 ? flags : flags | CLONE_NEWUSER) < 0) {
        return error_set_errno(err, errno, "making namespaces");
    }
    if (uid == 0) {
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

static int open_tree_of(int fd, const char *path, bool is_recursive)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;
    return (int)syscall(SYS_open_tree, fd, path, flags | (is_recursive ? AT_RECURSIVE : 0));
}

/* The folder alone, with whatever is mounted below it, as the root; nothing in it is a device or runs. */
static int enter_root(int folder_fd, bool is_readonly, struct error *err)
{
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                    (is_readonly ? MOUNT_ATTR_RDONLY : 0),
        .propagation = 1ul << 18 /* MS_PRIVATE */,
    };
    struct mount_attr outside = {.propagation = 1ul << 18};
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &outside, sizeof(outside)) < 0) {
        return error_set_errno(err, errno, "making mounts private");
    }
    AUTO_CLOSE int tree = open_tree_of(folder_fd, "", true);
    if (tree < 0 || syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                            sizeof(attributes)) < 0) {
        return error_set_errno(err, errno, "taking a copy of the folder's mounts");
    }
    if (syscall(SYS_move_mount, tree, "", folder_fd, "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ||
        fchdir(tree) < 0) {
        return error_set_errno(err, errno, "mounting the folder");
    }
    /* The old root lands over the new one and goes at once. */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || syscall(SYS_umount2, ".", MNT_DETACH) < 0 ||
        chdir("/") < 0) {
        return error_set_errno(err, errno, "changing to the folder as the root");
    }
    return 0;
}

static int open_folder(const char *folder, struct error *err)
{
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0
               ? fd
               : error_set(err, errno, "share %s: %s: an existing folder", folder, strerror(errno));
}

/* Namespaces and root are all or nothing for the caller; what failed is for the log. */
static int enter_own_root(const char *folder, bool is_readonly, int *out_proc_fd, struct error *err)
{
    int rc = enter_namespaces(err);
    if (rc < 0) {
        return rc;
    }
    /* Once more: descriptors from before lead into the old namespace's mounts. */
    AUTO_CLOSE int folder_fd = open_folder(folder, err);
    /* A mount of its own, so that ".." leads nowhere. */
    int proc_fd = open_tree_of(AT_FDCWD, "/proc/self/fd", false);
    if (proc_fd >= 0) {
        close(*out_proc_fd);
        *out_proc_fd = proc_fd;
    }
    return folder_fd < 0 ? folder_fd : enter_root(folder_fd, is_readonly, err);
}

/* For where it is not the root: the path by which /proc/self/fd shows the folder. */
static int find_path(int proc_fd, int folder_fd, char *out_path, struct error *err)
{
    char name[16];
    (void)snprintf(name, sizeof(name), "%d", folder_fd);
    ssize_t size = readlinkat(proc_fd, name, out_path, PATH_MAX - 1);
    out_path[MAX(size, 0)] = '\0';
    return size < 0 ? error_set_errno(err, errno, "reading /proc/self/fd") : 0;
}

int share_jail_enter_folder(const char *folder, bool is_readonly, int *out_fd, char *out_path,
                            struct error *err)
{
    AUTO_CLOSE int folder_fd = open_folder(folder, err);
    if (folder_fd < 0) {
        return folder_fd;
    }
    AUTO_CLOSE int proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc_fd < 0) {
        return error_set_errno(err, errno, "share %s: opening /proc/self/fd", folder);
    }
    struct error why;
    out_path[0] = '\0';
    int rc = enter_own_root(folder, is_readonly, &proc_fd, &why);
    if (rc == 0) {
        close(folder_fd);
        folder_fd = open_folder("/", err);
        rc = folder_fd < 0 ? folder_fd : 0;
    } else {
        log_info("share %s: no root of its own: %s: going on without", folder, why.text);
        rc = find_path(proc_fd, folder_fd, out_path, err);
    }
    if (rc == 0 && fchdir(proc_fd) < 0) {
        rc = error_set_errno(err, errno, "share %s: entering /proc/self/fd", folder);
    }
    if (rc == 0) {
        *out_fd = TAKE_FD(folder_fd);
        (void)umask(0); /* modes are the guest's */
    }
    return rc;
}

static int drop_privileges(bool keeps_owners, struct error *err)
{
    /* Without FSETID the kernel takes set-user-ID bits off files that are written. */
    static const unsigned for_files[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SETUID,
                                         CAP_SETGID};
    /* The bounding set goes first: dropping from it needs a capability. Numbers beyond the kernel's last fail, harmlessly. */
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++) {
        (void)prctl(PR_CAPBSET_DROP, capability);
    }
    (void)capng_get_caps_process();
    bool had[ARRAY_COUNT(for_files)];
    for (size_t i = 0; i < ARRAY_COUNT(for_files); i++) {
        had[i] = capng_have_capability(CAPNG_PERMITTED, for_files[i]) != 0;
    }
    capng_clear(CAPNG_SELECT_ALL);
    for (size_t i = 0; keeps_owners && i < ARRAY_COUNT(for_files); i++) {
        if (had[i]) {
            (void)capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, for_files[i]);
        }
    }
    int rc = capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
    if (rc < 0) {
        return error_set(err, EPERM, "dropping capabilities failed (%d)", rc);
    }
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return error_set_errno(err, errno, "giving up new privileges");
    }
    return 0;
}

/* None of them makes or names another process, or a socket. */
static const int plain_calls[] = {
    /* the VM */
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    /* files by name */
    SCMP_SYS(openat),
    SCMP_SYS(openat2),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(readlinkat),
    SCMP_SYS(readlink),
    SCMP_SYS(symlinkat),
    SCMP_SYS(mknodat),
    SCMP_SYS(mkdirat),
    SCMP_SYS(unlinkat),
    SCMP_SYS(renameat),
    SCMP_SYS(renameat2),
    SCMP_SYS(linkat),
    SCMP_SYS(fchownat),
    SCMP_SYS(fchmodat),
    SCMP_SYS(utimensat),
    SCMP_SYS(getxattr),
    SCMP_SYS(setxattr),
    SCMP_SYS(listxattr),
    SCMP_SYS(removexattr),
    /* open files */
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(fstatfs),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(lseek),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(copy_file_range),
    SCMP_SYS(getdents64),
    /* whose files they are */
    SCMP_SYS(setfsuid),
    SCMP_SYS(setfsgid),
    SCMP_SYS(capget),
    SCMP_SYS(capset),
    SCMP_SYS(geteuid),
    SCMP_SYS(getegid),
    /* the C library */
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

/* Code that is there is all there is. */
static int add_rules(scmp_filter_ctx filter)
{
    static const int of_memory[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect)};
    int rc = 0;
    for (size_t i = 0; i < ARRAY_COUNT(plain_calls) && rc == 0; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, plain_calls[i], 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(of_memory) && rc == 0; i++) {
        struct scmp_arg_cmp condition = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, of_memory[i], 1, &condition);
    }
    return rc;
}

static int filter_calls(struct error *err)
{
    /* A refusal, not a kill: a C library may try a call that it can do without. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL) {
        return error_set_errno(err, ENOMEM, "making the filter of system calls");
    }
    int rc = add_rules(filter);
    if (rc == 0) {
        rc = seccomp_load(filter);
    }
    seccomp_release(filter);
    return rc < 0 ? error_set_errno(err, -rc, "filtering system calls") : 0;
}

int share_jail_close(bool keeps_owners, struct error *err)
{
    (void)confine_limit(RLIMIT_CORE, 0);
    int rc = drop_privileges(keeps_owners, err);
    return rc < 0 ? rc : filter_calls(err);
}
