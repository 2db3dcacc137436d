/* In a container, as its programs: single steps of attacks. Each prints how it ended: "ok", or the error's name.
 *
 *   attempt STEP [ARGUMENT]... */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECRET      "hull-secret"
#define LINUX_TTY   11 /* TIOCLINUX: what is selected is pasted */
#define DIRECTORY   "/mnt"
#define WATCH_TRIES 10000

static const char *ended(long result)
{
    return result < 0 ? strerrorname_np(errno) : "ok";
}

static int report(const char *name, long result)
{
    printf("%s %s\n", name, ended(result));
    return 0;
}

/* mknod TYPE MAJOR MINOR: makes a node and opens it. */
static int step_mknod(char **arguments)
{
    const char *path = "/tmp/attempt-node";
    mode_t type = arguments[0][0] == 'b' ? S_IFBLK : S_IFCHR;
    (void)unlink(path);
    long result = mknod(path, type | 0600,
                        makedev((unsigned)atoi(arguments[1]), (unsigned)atoi(arguments[2])));
    result = result < 0 ? result : open(path, O_RDONLY);
    report("mknod", result);
    (void)unlink(path);
    return 0;
}

/* write PATH TEXT */
static int step_write(char **arguments)
{
    int fd = open(arguments[0], O_WRONLY);
    return report("write", fd < 0 ? fd : write(fd, arguments[1], strlen(arguments[1])));
}

static int step_mount(char **arguments)
{
    report("mount-tmpfs", mount("none", DIRECTORY, "tmpfs", 0, NULL));
    report("mount-proc", mount("none", DIRECTORY, "proc", 0, NULL));
    report("mount-bind", mount("/", DIRECTORY, NULL, MS_BIND, NULL));
    report("remount-sys", mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    report("unmount-sys", umount2("/proc/sys", MNT_DETACH));
    report("unmount-mask", umount2("/proc/keys", MNT_DETACH));
    report("unmount-proc", umount2("/proc", MNT_DETACH));
    report("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    report("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    return report("pivot_root", syscall(SYS_pivot_root, "/", "/"));
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) {
        printf("%s %s\n", path, ended(-1));
    }
    close(fd);
}

/* In user and mount namespaces of its own, where it is root with all capabilities: then the steps of "mount". */
static int step_nested(char **arguments)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP) < 0) {
        return report("unshare", -1);
    }
    write_text("/proc/self/setgroups", "deny");
    write_text("/proc/self/uid_map", "0 0 1");
    write_text("/proc/self/gid_map", "0 0 1");
    step_mount(arguments);
    (void)umount2(DIRECTORY, MNT_DETACH);
    (void)umount2(DIRECTORY, MNT_DETACH);
    /* CVE-2022-0492: a hierarchy of v1 with its release agent, which the kernel runs on the host. */
    static const char *const controllers[] = {"memory", "rdma", "misc", "pids",
                                              "none,name=attempt"};
    for (size_t i = 0; i < sizeof(controllers) / sizeof(controllers[0]); i++) {
        if (mount("none", DIRECTORY, "cgroup", 0, controllers[i]) == 0) {
            int fd = open(DIRECTORY "/release_agent", O_WRONLY);
            report("release_agent", fd < 0 ? fd : write(fd, "/tmp/agent", 10));
            (void)umount2(DIRECTORY, MNT_DETACH);
        } else {
            report("mount-cgroup", -1);
        }
    }
    return 0;
}

static int step_modules(char **arguments)
{
    int fd = open("/proc/self/exe", O_RDONLY);
    report("init_module", syscall(SYS_init_module, "", 0L, ""));
    report("finit_module", syscall(SYS_finit_module, fd, "", 0));
    report("delete_module", syscall(SYS_delete_module, "none", 0));
    report("kexec_load", syscall(SYS_kexec_load, 0L, 0L, NULL, 0L));
    report("iopl", syscall(SYS_iopl, 3));
    report("swapon", syscall(SYS_swapon, "/bin/busybox", 0));
    report("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0 /* CAD_OFF */, NULL));
    report("settime", clock_settime(CLOCK_REALTIME, &(struct timespec){.tv_sec = 1}));
    return report("open_by_handle", syscall(SYS_open_by_handle_at, AT_FDCWD,
                                            "\10\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0", O_RDONLY));
}

/* processes PID: a process outside. */
static int step_processes(char **arguments)
{
    pid_t pid = (pid_t)atoi(arguments[0]);
    char data[16], path[64];
    struct iovec here = {data, sizeof(data)}, there = {(void *)&report, sizeof(data)};
    report("ptrace", ptrace(PTRACE_ATTACH, pid, NULL, NULL));
    report("read", process_vm_readv(pid, &here, 1, &there, 1, 0));
    static const char *const names[] = {"ns/mnt", "ns/pid", "ns/net", "ns/user", "ns/uts",
                                        "root",   "cwd",    "exe",    "mem"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, names[i]);
        int fd = open(path, O_RDONLY);
        report(names[i], fd < 0 ? fd : strncmp(names[i], "ns/", 3) == 0 ? setns(fd, 0) : 0);
    }
    return 0;
}

/* setns: the namespaces of process 1, which here are the own ones. */
static int step_setns(char **arguments)
{
    int fd = open("/proc/1/ns/mnt", O_RDONLY);
    report("mnt", fd < 0 ? fd : setns(fd, CLONE_NEWNS));
    fd = open("/proc/1/ns/user", O_RDONLY);
    return report("user", fd < 0 ? fd : setns(fd, CLONE_NEWUSER));
}

/* The way out of a chroot: a second one below, with a descriptor from before. */
static int step_chroot(char **arguments)
{
    int before = open("/", O_RDONLY | O_DIRECTORY);
    if (before < 0 || chroot(DIRECTORY) < 0 || fchdir(before) < 0) {
        return report("chroot", -1);
    }
    for (int i = 0; i < 64; i++) {
        if (chdir("..") < 0) {
            return report("chdir", -1);
        }
    }
    report("chroot", chroot("."));
    return report("outside", access(arguments[0], F_OK));
}

static int step_terminal(char **arguments)
{
    char letter = '#', selection = LINUX_TTY;
    report("isatty", isatty(0) ? 0 : -1);
    report("TIOCSTI", ioctl(0, TIOCSTI, &letter));
    report("TIOCLINUX", ioctl(0, TIOCLINUX, &selection));
    report("TIOCCONS", ioctl(0, TIOCCONS, NULL));
    report("TIOCSCTTY", ioctl(0, TIOCSCTTY, 0));
    report("TIOCSCTTY-by-force", ioctl(0, TIOCSCTTY, 1));
    return report("tty", open("/dev/tty", O_RDWR));
}

/* with-key PROGRAM...: below a session keyring with a secret. */
static int step_with_key(char **arguments)
{
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 ||
        syscall(SYS_add_key, "user", SECRET, "x", 1L, KEY_SPEC_SESSION_KEYRING) < 0) {
        return report("key", -1);
    }
    execvp(arguments[0], arguments);
    return report("exec", -1);
}

static int step_find_key(char **arguments)
{
    return report("key", syscall(SYS_request_key, "user", SECRET, NULL, 0));
}

/* All descriptors that are open, and what they are. */
static int step_descriptors(char **arguments)
{
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[4096];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof(target) - 1);
        if (size >= 0) {
            printf("%d %.*s\n", fd, (int)size, target);
        }
    }
    return 0;
}

/* Whether a process that the runtime makes in the same namespaces can be looked into on its way. */
static int step_look(char **arguments)
{
    for (int tries = 0; tries < WATCH_TRIES; tries++) {
        for (int pid = 2; pid < 200; pid++) {
            char path[64], name[64] = "";
            (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
            int fd = open(path, O_RDONLY);
            ssize_t size = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);
            (void)close(fd);
            if (size <= 0 || strcmp(name, "hull-oci:init\n") != 0) {
                continue;
            }
            (void)snprintf(path, sizeof(path), "/proc/%d/root", pid);
            report("root", open(path, O_RDONLY));
            (void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
            report("fd", open(path, O_RDONLY));
            return report("ptrace", ptrace(PTRACE_SEIZE, pid, NULL, NULL));
        }
        (void)usleep(1000);
    }
    return report("look", -1);
}

/* Waits for a process that executes the runtime, gets hold of its program and writes to it once nobody executes it. */
static int step_overwrite(char **arguments)
{
    int program = -1;
    for (int tries = 0; program < 0 && tries < WATCH_TRIES; tries++) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry;
             proc != NULL && program < 0 && (entry = readdir(proc)) != NULL;) {
            char path[300], target[4096] = "";
            (void)snprintf(path, sizeof(path), "/proc/%s/exe", entry->d_name);
            /* The runtime's is the root of a mount of its own, or a file in memory. */
            if (atoi(entry->d_name) > 0 && readlink(path, target, sizeof(target) - 1) > 0 &&
                strncmp(target, "/bin/", 5) != 0) {
                program = open(path, O_RDONLY);
            }
        }
        closedir(proc);
        (void)usleep(1000);
    }
    report("caught", program);
    (void)fflush(stdout);
    int fifo = open(arguments[0], O_RDONLY); /* now it may end */
    (void)close(fifo);
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", program);
    int file = -1;
    for (int tries = 0; file < 0 && tries < 1000; tries++) {
        file = open(path, O_WRONLY);
        if (file < 0 && errno != ETXTBSY) {
            break;
        }
        (void)usleep(10000);
    }
    report("write", file < 0 ? file : write(file, "broken", 6));
    return report("truncate", truncate(path, 0));
}

/* Holds an io_uring open until it is killed. */
static int step_hold_ring(char **arguments)
{
    unsigned char parameters[120] = {0}; /* struct io_uring_params */
    if (syscall(SYS_io_uring_setup, 1, parameters) < 0) {
        return report("io_uring", -1);
    }
    for (;;) {
        (void)pause();
    }
}

/* Holds a lock on a file. */
static int step_hold_lock(char **arguments)
{
    int fd = open("/tmp/lock", O_RDWR | O_CREAT, 0600);
    struct flock lock = {.l_type = F_WRLCK};
    if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        return report("lock", -1);
    }
    for (;;) {
        (void)pause();
    }
}

/* swap A B: exchanges two names until it is killed. */
static int step_swap(char **arguments)
{
    while (syscall(SYS_renameat2, AT_FDCWD, arguments[0], AT_FDCWD, arguments[1],
                   2 /* RENAME_EXCHANGE */) == 0 &&
           getppid() != 1) {
    }
    return report("swap", -1);
}

static const struct {
    const char *name;
    int (*run)(char **arguments);
    int count;
} steps[] = {
    {"mknod", step_mknod, 3},         {"write", step_write, 2},
    {"mount", step_mount, 0},         {"nested", step_nested, 0},
    {"modules", step_modules, 0},     {"processes", step_processes, 1},
    {"setns", step_setns, 0},         {"chroot", step_chroot, 1},
    {"terminal", step_terminal, 0},   {"with-key", step_with_key, 1},
    {"find-key", step_find_key, 0},   {"descriptors", step_descriptors, 0},
    {"overwrite", step_overwrite, 1}, {"look", step_look, 0},
    {"hold-ring", step_hold_ring, 0}, {"hold-lock", step_hold_lock, 0},
    {"swap", step_swap, 2},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (strcmp(argv[1], steps[i].name) == 0 && argc - 2 >= steps[i].count) {
            return steps[i].run(argv + 2);
        }
    }
    fprintf(stderr, "attempt: no such step\n");
    return 2;
}
