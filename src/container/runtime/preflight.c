/* Looking at all processes' descriptors, namespaces, sockets and locks. What is known to end in an error of criu's, which is
 * hard to read and comes when half of the container has been stopped and written, is told here in words. */
#include "container/runtime/preflight.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/host/file.h"

#define TOLD_BYTES 400 /* of an error's text */

struct scan {
    const struct preflight_options *options;
    pid_t first; /* of the container */
    char told[TOLD_BYTES];
    unsigned count;    /* of problems */
    uint64_t *sockets; /* inodes */
    size_t socket_count;
};

static const struct {
    const char *start, *what;
} untold_kinds[] = {
    {"anon_inode:[io_uring]", "an io_uring"},
    {"anon_inode:bpf", "an eBPF object"},
    {"anon_inode:[perf_event]", "a performance counter"},
    {"anon_inode:[userfaultfd]", "a userfaultfd"},
    {"anon_inode:kvm", "a virtual machine"},
    {"anon_inode:seccomp notify", "a seccomp listener"},
    {"anon_inode:[fscontext]", "a file system that is being mounted"},
    {"anon_inode:landlock", "a Landlock ruleset"},
    {"/secretmem", "secret memory"},
    {"anon_inode:[secretmem]", "secret memory"},
};

static void tell(struct scan *scan, pid_t pid, const char *does, const char *what)
{
    char name[32] = "", path[64], text[TOLD_BYTES];
    (void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, name, sizeof(name) - 1) > 0) {
        name[strcspn(name, "\n")] = '\0';
    }
    size_t used = strlen(scan->told);
    (void)snprintf(text, sizeof(text), "%sprocess %d (%s) %s %s", used != 0 ? "; " : "", (int)pid,
                   name, does, what);
    if (used + strlen(text) < sizeof(scan->told)) { /* what does not fit is only counted */
        memcpy(scan->told + used, text, strlen(text) + 1);
    }
    scan->count++;
}

/* Those that every container has, pseudo terminals, and tun. */
static bool is_usual_device(dev_t device)
{
    unsigned ma = major(device), mi = minor(device);
    return (ma == 1 && (mi == 3 || mi == 5 || mi == 7 || mi == 8 || mi == 9)) ||
           (ma == 5 && mi <= 2) || (ma >= 136 && ma <= 143) || (ma == 10 && mi == 200);
}

struct descriptor_info {
    bool
        watches_without_handles; /* inotify on a file system that gives none (overlay without nfs_export) */
    bool is_locked;
};

/* proc(5), /proc/PID/fdinfo. */
static struct descriptor_info read_info(pid_t pid, const char *fd)
{
    struct descriptor_info result = {0};
    char path[300], line[512];
    (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%s", (int)pid, fd);
    FILE *info = fopen(path, "re");
    while (info != NULL && fgets(line, sizeof(line), info) != NULL) {
        result.is_locked |= strncmp(line, "lock:", 5) == 0;
        result.watches_without_handles |=
            strncmp(line, "inotify wd:", 11) == 0 &&
            (strstr(line, "fhandle-bytes:") == NULL || strstr(line, "fhandle-bytes:0 ") != NULL);
    }
    if (info != NULL) {
        (void)fclose(info);
    }
    return result;
}

static void note_socket(struct scan *scan, const char *target)
{
    unsigned long long inode;
    if (sscanf(target, "socket:[%llu]", &inode) != 1) {
        return;
    }
    size_t count = scan->socket_count;
    uint64_t *more =
        count % 64 == 0 ? realloc(scan->sockets, (count + 64) * sizeof(*more)) : scan->sockets;
    if (more != NULL) {
        scan->sockets = more;
        more[scan->socket_count++] = inode;
    }
}

static void look_at_descriptor(struct scan *scan, pid_t pid, int folder, const char *fd)
{
    char target[4096], what[4200];
    ssize_t size = readlinkat(folder, fd, target, sizeof(target) - 1);
    struct stat info;
    if (size < 0) {
        return; /* closed meanwhile */
    }
    target[size] = '\0';
    note_socket(scan, target);
    for (size_t i = 0; i < ARRAY_COUNT(untold_kinds); i++) {
        if (strncmp(target, untold_kinds[i].start, strlen(untold_kinds[i].start)) == 0) {
            tell(scan, pid, "has", untold_kinds[i].what);
            return;
        }
    }
    struct descriptor_info details = read_info(pid, fd);
    if (details.is_locked && !scan->options->allows_locks) {
        tell(scan, pid, "holds", "a file lock (--file-locks)");
    }
    if (details.watches_without_handles) {
        tell(scan, pid, "watches files by inotify on", "a file system without file handles");
    } else if (fstatat(folder, fd, &info, 0) == 0 &&
               (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) && !is_usual_device(info.st_rdev)) {
        (void)snprintf(what, sizeof(what), "%.200s (%u:%u)", target, major(info.st_rdev),
                       minor(info.st_rdev));
        tell(scan, pid, "has open the device", what);
    }
}

static void look_at_descriptors(struct scan *scan, pid_t pid)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] != '.') {
            look_at_descriptor(scan, pid, dirfd(folder), entry->d_name);
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
}

static void look_at_namespaces(struct scan *scan, pid_t pid)
{
    static const char *const names[] = {"pid", "user", "ipc", "uts", "time", "cgroup"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[64];
        struct stat first, other;
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)scan->first, names[i]);
        bool is_there = stat(path, &first) == 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, names[i]);
        if (is_there && stat(path, &other) == 0 && first.st_ino != other.st_ino) {
            tell(scan, pid, "is in a nested namespace of the kind", names[i]);
        }
    }
}

static void look_at_tracer(struct scan *scan, pid_t pid)
{
    char path[64], line[256];
    int tracer = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && tracer == 0 && fgets(line, sizeof(line), status) != NULL) {
        (void)sscanf(line, "TracerPid: %d", &tracer);
    }
    if (status != NULL) {
        (void)fclose(status);
    }
    if (tracer != 0) {
        tell(scan, pid, "is", "traced (by a debugger or strace)");
    }
}

static bool is_of_container(const struct scan *scan, uint64_t inode)
{
    for (size_t i = 0; i < scan->socket_count; i++) {
        if (scan->sockets[i] == inode) {
            return true;
        }
    }
    return false;
}

/* proc(5), /proc/net/tcp: the state is field 4, the inode field 10; 01 is ESTABLISHED, 02 to 09 are on the way to it or to the
 * end. */
static void look_at_connections(struct scan *scan, const char *file)
{
    char path[64], line[512];
    (void)snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)scan->first, file);
    FILE *list = fopen(path, "re");
    unsigned state;
    unsigned long long inode;
    bool is_found = false;
    while (list != NULL && fgets(line, sizeof(line), list) != NULL) {
        is_found |= sscanf(line, "%*s %*s %*s %x %*s %*s %*s %*s %*s %llu", &state, &inode) == 2 &&
                    state >= 1 && state <= 9 && is_of_container(scan, inode);
    }
    if (list != NULL) {
        (void)fclose(list);
    }
    if (is_found) {
        tell(scan, scan->first, "or another one has",
             scan->options->is_system ? "TCP connections" : "TCP connections (--tcp-established)");
    }
}

int preflight_check(const struct loaded *loaded, const struct preflight_options *options,
                    struct error *err)
{
    struct scan scan = {.options = options, .first = loaded->state.pid};
    AUTO_FREE pid_t *pids = NULL;
    size_t count;
    int rc = cgroup_processes(loaded->cgroup, &pids, &count, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < count; i++) {
        look_at_descriptors(&scan, pids[i]);
        look_at_namespaces(&scan, pids[i]);
        look_at_tracer(&scan, pids[i]);
    }
    if (!options->allows_tcp) {
        look_at_connections(&scan, "tcp");
        look_at_connections(&scan, "tcp6");
    }
    free(scan.sockets);
    return scan.count == 0
               ? 0
               : error_set(err, EOPNOTSUPP, "container %s cannot be checkpointed (%u reason%s): %s",
                           loaded->state.id, scan.count, scan.count == 1 ? "" : "s", scan.told);
}
