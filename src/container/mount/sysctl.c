/* Kernel parameters of the container's own namespaces. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/mount/handle.h"
#include "container/mount/procfs.h"
#include "container/mount/tree.h"

/* sysctl(8): with a slash before any dot, slashes separate and dots belong to names; else dots separate and slashes are dots in
 * names (net.ipv4.conf.eth0/1.rp_filter). Writes "net/ipv4/...". */
static int to_path(const char *name, char out_path[static NAME_MAX + 1])
{
    size_t size = strlen(name);
    if (size == 0 || size > NAME_MAX) {
        return -EINVAL;
    }
    size_t first = strcspn(name, "./");
    bool has_slashes = name[first] == '/';
    for (size_t i = 0; i <= size; i++) {
        char c = name[i];
        out_path[i] = has_slashes ? c : c == '.' ? '/' : c == '/' ? '.' : c;
    }
    for (const char *part = out_path; part != NULL;
         part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (part[0] == '.' && (length == 1 || (length == 2 && part[1] == '.')))) {
            return -EINVAL;
        }
    }
    return 0;
}

/* Whether the container gets a namespace that is not the one of the runtime. */
static bool has_own_namespace(const struct spec *spec, uint64_t flag, const char *self)
{
    const struct spec_namespace *namespace_ = spec_find_namespace(spec, flag);
    if (namespace_ == NULL || namespace_->path == NULL) {
        return namespace_ != NULL;
    }
    struct stat own, joined;
    return stat(self, &own) == 0 && stat(namespace_->path, &joined) == 0 &&
           (own.st_ino != joined.st_ino || own.st_dev != joined.st_dev);
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_of_ipc(const char *path)
{
    static const char *const names[] = {
        "kernel/msgmax",      "kernel/msgmnb",      "kernel/msgmni",      "kernel/sem",
        "kernel/shmall",      "kernel/shmmax",      "kernel/shmmni",      "kernel/shm_rmid_forced",
        "kernel/msg_next_id", "kernel/sem_next_id", "kernel/shm_next_id", "kernel/auto_msgmni",
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(path, names[i]) == 0) {
            return true;
        }
    }
    return starts_with(path, "fs/mqueue/");
}

static int check_one(const struct spec *spec, const char *name, struct error *err)
{
    char path[NAME_MAX + 1];
    if (to_path(name, path) < 0) {
        return error_set(err, EINVAL, "sysctl \"%s\" is not a name of a kernel parameter", name);
    }
    if (is_of_ipc(path)) {
        return has_own_namespace(spec, CLONE_NEWIPC, "/proc/self/ns/ipc")
                   ? 0
                   : error_set(err, EINVAL,
                               "sysctl \"%s\" is not allowed in the host's ipc namespace", name);
    }
    if (starts_with(path, "net/")) {
        return has_own_namespace(spec, CLONE_NEWNET, "/proc/self/ns/net")
                   ? 0
                   : error_set(err, EINVAL,
                               "sysctl \"%s\" is not allowed in the host's network namespace",
                               name);
    }
    if (strcmp(path, "kernel/hostname") == 0) {
        return error_set(err, EINVAL, "sysctl \"%s\": the field \"hostname\" sets this", name);
    }
    if ((strcmp(path, "kernel/domainname") == 0 &&
         has_own_namespace(spec, CLONE_NEWUTS, "/proc/self/ns/uts")) ||
        (starts_with(path, "user/") &&
         has_own_namespace(spec, CLONE_NEWUSER, "/proc/self/ns/user"))) {
        return 0;
    }
    return error_set(err, EINVAL, "sysctl \"%s\" is not in a separate kernel namespace", name);
}

int tree_check_sysctl(const struct spec *spec, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < spec->linux_.sysctl.count; i++) {
        rc = check_one(spec, spec->linux_.sysctl.item[i].name, err);
    }
    return rc;
}

int tree_set_sysctl(const struct spec *spec, struct error *err)
{
    const struct spec_pairs *pairs = &spec->linux_.sysctl;
    if (pairs->count == 0) {
        return 0;
    }
    AUTO_HANDLE int proc = procfs_open(err);
    AUTO_HANDLE int sys = proc < 0 ? -1 : procfs_open_file(proc, "sys", O_PATH | O_DIRECTORY);
    if (sys < 0) {
        return proc < 0 ? proc : error_set_errno(err, -sys, "opening /proc/sys");
    }
    for (size_t i = 0; i < pairs->count; i++) {
        char path[NAME_MAX + 1];
        int rc = to_path(pairs->item[i].name, path);
        rc = rc < 0 ? rc : procfs_write(sys, path, pairs->item[i].value);
        if (rc < 0) {
            return error_set_errno(err, -rc, "sysctl \"%s\"", pairs->item[i].name);
        }
    }
    return 0;
}
