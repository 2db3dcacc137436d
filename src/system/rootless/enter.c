/* Making a user's namespace, and entering it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/rootless/rootless.h"
#include "system/rootless/space.h"
#include "system/store.h"

/* The root is the user himself. */
#define IDS_NEEDED 65535
#define MAX_RANGES (1u << 20)
#define TRIES      8

extern char **environ;

static int find_ids(const char *path, const char *option, struct rootless_range *out,
                    struct error *err)
{
    uid_t uid = geteuid();
    const struct passwd *user = getpwuid(uid);
    const char *name = user != NULL ? user->pw_name : NULL;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *text = NULL;
    size_t size;
    int rc = fd < 0 ? -ENOENT : file_read_whole(fd, MAX_RANGES, path, &text, &size, err);
    rc = rc < 0 ? rc : rootless_find_range(text, name, uid, IDS_NEEDED, out);
    free(text);
    if (rc == -ENOENT) {
        return error_set(
            err, ENOENT,
            "containers of ordinary users need 65536 more ids, and %s gives user %s none: "
            "as root: usermod %s 100000-165535 %s, or another range that is free",
            path, name != NULL ? name : "of this number", option, name != NULL ? name : "NAME");
    }
    return rc;
}

/* newuidmap PID 0 UID 1 1 FIRST COUNT */
static int map(const char *program, pid_t pid, uint32_t own, const struct rootless_range *range,
               struct error *err)
{
    char text[4][16];
    (void)snprintf(text[0], sizeof(text[0]), "%d", pid);
    (void)snprintf(text[1], sizeof(text[1]), "%u", own);
    (void)snprintf(text[2], sizeof(text[2]), "%u", range->first);
    (void)snprintf(text[3], sizeof(text[3]), "%u", range->count);
    char *argv[] = {
        (char *)(uintptr_t)program, text[0], "0", text[1], "1", "1", text[2], text[3], NULL};
    pid_t helper;
    int status, code = posix_spawnp(&helper, program, NULL, NULL, argv, environ);
    if (code != 0) {
        return error_set(err, code, "%s: %s: containers of ordinary users need the package uidmap",
                         program, strerror(code));
    }
    while (waitpid(helper, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EPERM, "%s refused ids %u and %u more: see /etc/sub%s", program,
                           range->first, range->count - 1, program[3] == 'u' ? "uid" : "gid");
}

/* In the new process: it is there until its namespace is open elsewhere. */
noreturn_fn static void be_mapped(int ready, pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int code = getppid() != parent ? ESRCH : unshare(CLONE_NEWUSER) < 0 ? errno : 0;
    error_ignore((int)write(ready, &code, sizeof(code)));
    for (;;) {
        (void)pause();
    }
}

static int open_new(pid_t pid, int ready, struct error *err)
{
    struct rootless_range uids, gids;
    char path[64];
    int code = ESRCH;
    if (read(ready, &code, sizeof(code)) != sizeof(code) || code != 0) {
        return error_set_errno(err, code, "making a user namespace");
    }
    int rc = find_ids("/etc/subuid", "--add-subuids", &uids, err);
    rc = rc < 0 ? rc : find_ids("/etc/subgid", "--add-subgids", &gids, err);
    rc = rc < 0 ? rc : map("newuidmap", pid, geteuid(), &uids, err);
    rc = rc < 0 ? rc : map("newgidmap", pid, getegid(), &gids, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? error_set_errno(err, errno, "opening %s", path) : fd;
}

static int make_namespace(struct error *err)
{
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "making a user namespace");
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        be_mapped(ready[1], parent);
    }
    close(ready[1]);
    int fd = pid < 0 ? error_set_errno(err, errno, "making a user namespace")
                     : open_new(pid, ready[0], err);
    close(ready[0]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    return fd;
}

/* That of a keeper which runs, should the holder have been killed. */
static int namespace_of(const char *run, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size = sizeof(peer);
    uid_t owner;
    char path[64];
    int length =
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/keeper/%s/keeper.sock", run, name);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path) || fd < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", peer.pid);
    AUTO_CLOSE int found = open(path, O_RDONLY | O_CLOEXEC);
    struct stat own, other;
    bool is_fit = found >= 0 && stat("/proc/self/ns/user", &own) == 0 &&
                  fstat(found, &other) == 0 && own.st_ino != other.st_ino &&
                  ioctl(found, NS_GET_OWNER_UID, &owner) == 0 && owner == geteuid();
    return is_fit ? TAKE_FD(found) : -1;
}

static int find_namespace(const char *run)
{
    char path[STORE_MAX_PATH + 16];
    (void)snprintf(path, sizeof(path), "%s/keeper", run);
    DIR *folder = opendir(path);
    int found = -1;
    for (const struct dirent *entry;
         folder != NULL && found < 0 && (entry = readdir(folder)) != NULL;) {
        found = entry->d_name[0] != '.' ? namespace_of(run, entry->d_name) : -1;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return found;
}

static int listen_at(const struct sockaddr_un *address, struct error *err)
{
    (void)unlink(address->sun_path); /* of one that was killed */
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return fd < 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ||
                   listen(fd, SOMAXCONN) < 0
               ? error_set_errno(err, errno, "listening at %s", address->sun_path)
               : TAKE_FD(fd);
}

/* Of numbers that are in nobody's way. */
static int move_up(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, SPACE_FD_LOCK + 1);
}

static int spawn_holder(const char *keeper, int listener, int namespace_fd, int lock,
                        struct error *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    pid_t pid;
    sigemptyset(&none);
    sigfillset(&all);
    AUTO_CLOSE int from_listener = move_up(listener);
    AUTO_CLOSE int from_namespace = move_up(namespace_fd);
    AUTO_CLOSE int from_lock = move_up(lock);
    if (from_listener < 0 || from_namespace < 0 || from_lock < 0) {
        return error_set_errno(err, errno, "starting %s", keeper);
    }
    (void)posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; i++) {
        (void)posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    }
    (void)posix_spawn_file_actions_adddup2(&actions, from_listener, SPACE_FD_LISTENER);
    (void)posix_spawn_file_actions_adddup2(&actions, from_namespace, SPACE_FD_NAMESPACE);
    (void)posix_spawn_file_actions_adddup2(&actions, from_lock, SPACE_FD_LOCK);
    (void)posix_spawn_file_actions_addclosefrom_np(&actions, SPACE_FD_LOCK + 1);
    (void)posix_spawn_file_actions_addchdir_np(&actions, "/");
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                    POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    char *argv[] = {"hull-ct-keeper", "--hold", NULL}, *environment[] = {NULL};
    int code = posix_spawn(&pid, keeper, &actions, &attributes, argv, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attributes);
    return code != 0 ? error_set_errno(err, code, "starting %s", keeper) : 0;
}

static int open_lock(const char *run, struct error *err)
{
    char path[STORE_MAX_PATH + 16];
    (void)snprintf(path, sizeof(path), "%s/" SPACE_LOCK, run);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set_errno(err, errno, "opening %s", path) : fd;
}

/* One at a time does; whoever waited finds a holder. */
static int start_holder(const char *run, const char *keeper, const struct sockaddr_un *address,
                        struct error *err)
{
    AUTO_CLOSE int lock = open_lock(run, err);
    AUTO_CLOSE int holders = lock < 0 ? -1 : open_lock(run, err); /* with a lock of its own */
    if (lock < 0 || holders < 0) {
        return lock < 0 ? lock : holders;
    }
    while (flock(lock, LOCK_EX) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "locking %s/" SPACE_LOCK, run);
        }
    }
    int connection, known;
    if (space_connect(address, &connection, &known) == 0) {
        close(connection);
        close(known);
        return 0;
    }
    AUTO_CLOSE int kept = find_namespace(run);
    if (kept < 0) {
        kept = make_namespace(err);
    }
    if (kept < 0) {
        return kept;
    }
    AUTO_CLOSE int listener = listen_at(address, err);
    return listener < 0 ? listener : spawn_holder(keeper, listener, kept, holders, err);
}

int rootless_enter(const char *run, const char *keeper, struct error *err)
{
    struct sockaddr_un address;
    int connection = -1, namespace_fd = -1;
    int rc = space_address(run, &address, err);
    rc = rc < 0 ? rc : file_make_folders(run, 0700, 0755, err);
    bool is_found = false;
    for (unsigned i = 0; rc == 0 && !is_found && i < TRIES; i++) {
        is_found = space_connect(&address, &connection, &namespace_fd) == 0;
        rc = is_found ? 0 : start_holder(run, keeper, &address, err);
    }
    if (rc < 0) {
        return rc;
    }
    if (!is_found) {
        return error_set(err, EAGAIN, "%s: whoever holds the user's namespace ends at once",
                         address.sun_path);
    }
    /* The connection stays open until this process ends, and is handed to nobody. */
    if (setns(namespace_fd, CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0) {
        rc = error_set_errno(err, errno, "entering the user's namespace");
    }
    close(namespace_fd);
    if (rc < 0) {
        close(connection);
    }
    return rc;
}
