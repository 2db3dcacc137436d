/* What runs in a template that is being built: apt, the user's command, copies of files. In namespaces of its own, changed to
 * the root, and with what the host lends for the time of the build (/run, /tmp, /dev, names of servers) mounted, so that
 * nothing of it stays.
 *
 * The tree is not trusted: from the change of the root on, all paths are resolved in it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/rootless/rootless.h"
#include "system/template/build.h"
#include "system/template/copy.h"
#include "system/template/host_apt.h"

#define MAX_FILES     64
#define POLICY        "/usr/sbin/policy-rc.d"
#define POLICY_TEXT   "#!/bin/sh\nexit 101\n"
#define MAX_RESOLV    (64u << 10)
#define HOST_RESOLVER "/etc/resolv.conf"

struct inside {
    struct build *build;
    const char *const *files; /* to be copied; may be NULL */
    bool needs_network;
    bool is_last; /* what the build has left goes */
};

static int mount_layers(const struct build *build, char out_root[PATH_MAX], struct error *err)
{
    char upper[PATH_MAX], work[PATH_MAX];
    build_path(build, "root", out_root);
    if (build->base.count == 0) {
        return 0;
    }
    build_path(build, "root", upper);
    build_path(build, "work", work);
    build_path(build, "target", out_root);
    struct layers_mount request = {.lower = (const char *const *)build->base.path,
                                   .lower_count = build->base.count,
                                   .upper = upper,
                                   .work = work,
                                   .target = out_root};
    return layers_mount(&request, err);
}

static int clone_tree(const struct build *build, const char *name, struct error *err)
{
    char path[PATH_MAX];
    build_path(build, name, path);
    int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    return fd < 0 ? error_set_errno(err, errno, "mounting %s", path) : fd;
}

static int mount_tree(int fd, const char *path, struct error *err)
{
    if ((mkdir(path, 0755) < 0 && errno != EEXIST) ||
        move_mount(fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
        return error_set_errno(err, errno, "mounting %s of the template", path);
    }
    return 0;
}

static const struct node {
    const char *path;
    unsigned major, minor;
} nodes[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
             {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};

/* In a user's namespace no node can be made: mounts of the host's. */
static int clone_nodes(int out_fds[ARRAY_COUNT(nodes)], struct error *err)
{
    bool is_hosts = rootless_is_host_root();
    for (size_t i = 0; i < ARRAY_COUNT(nodes); i++) {
        out_fds[i] = is_hosts
                         ? -1
                         : open_tree(AT_FDCWD, nodes[i].path,
                                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
        if (!is_hosts && out_fds[i] < 0) {
            return error_set_errno(err, errno, "lending %s to the template", nodes[i].path);
        }
    }
    return 0;
}

static int make_node(const struct node *node, int clone)
{
    if (clone < 0) {
        return mknod(node->path, S_IFCHR | 0666, makedev(node->major, node->minor));
    }
    AUTO_CLOSE int target = open(node->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return target < 0 ? -1 : move_mount(clone, "", AT_FDCWD, node->path, MOVE_MOUNT_F_EMPTY_PATH);
}

static int mount_devices(const int clones[ARRAY_COUNT(nodes)], struct error *err)
{
    static const struct {
        const char *path, *target;
    } links[] = {{"/dev/fd", "/proc/self/fd"},
                 {"/dev/stdin", "/proc/self/fd/0"},
                 {"/dev/stdout", "/proc/self/fd/1"},
                 {"/dev/stderr", "/proc/self/fd/2"},
                 {"/dev/ptmx", "pts/ptmx"}};
    (void)umask(0);
    int rc = mkdir("/dev", 0755) < 0 && errno != EEXIST ? -1 : 0;
    rc = rc < 0 ? rc : mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k");
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(nodes); i++) {
        rc = make_node(&nodes[i], clones[i]);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(links); i++) {
        rc = symlink(links[i].target, links[i].path);
    }
    rc = rc < 0 ? rc : mkdir("/dev/shm", 01777);
    rc = rc < 0 ? rc : mkdir("/dev/pts", 0755);
    rc = rc < 0 ? rc
                : mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                        "newinstance,ptmxmode=0666,mode=0620");
    (void)umask(022);
    return rc < 0 ? error_set_errno(err, errno, "making /dev of the template") : 0;
}

/* A file of ours at a path inside, in place of whatever else than a plain file is there. */
static int write_inside(const char *path, mode_t mode, const char *data, size_t size,
                        struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    return fd < 0 ? error_set_errno(err, errno, "writing %s of the template", path)
                  : file_write_all(fd, data, size, path, err);
}

/* Lends the host's names of servers; an empty file stays there, as the runtime writes its own. */
static int lend_resolver(const char *text, size_t size, struct error *err)
{
    static const char lent[] = "/run/hull/resolv.conf";
    struct stat st;
    (void)unlink(lent); /* of the step before */
    int rc = write_inside(lent, 0644, text, size, err);
    if (rc < 0) {
        return rc;
    }
    if (lstat(HOST_RESOLVER, &st) < 0 || !S_ISREG(st.st_mode)) {
        (void)mkdir("/etc", 0755);   /* it may be there */
        (void)unlink(HOST_RESOLVER); /* the same */
        rc = write_inside(HOST_RESOLVER, 0644, "", 0, err);
    }
    if (rc == 0 && mount(lent, HOST_RESOLVER, NULL, MS_BIND, NULL) < 0) {
        rc = error_set_errno(err, errno, "mounting " HOST_RESOLVER " of the template");
    }
    return rc;
}

/* No service is started by the packages that bring one. */
static int forbid_services(struct error *err)
{
    struct stat st;
    if (stat("/usr/sbin", &st) < 0 || stat("/var/lib/dpkg/status", &st) < 0 ||
        lstat(POLICY, &st) == 0) {
        return 0;
    }
    return write_inside(POLICY, 0755, POLICY_TEXT, strlen(POLICY_TEXT), err);
}

static bool is_regular(const char *path, struct stat *out_st)
{
    return lstat(path, out_st) == 0 && S_ISREG(out_st->st_mode);
}

/* Files that are written for each container are empty, and what makes a machine one of a kind is not there. */
static int clean(const struct build *build, struct error *err)
{
    static const char *const of_host[] = {HOST_RESOLVER, "/etc/hostname", "/etc/hosts"};
    static const char machine_id[] = "/etc/machine-id";
    char text[sizeof(POLICY_TEXT)] = "";
    struct stat st;
    AUTO_CLOSE int policy = open(POLICY, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (policy >= 0 && read(policy, text, sizeof(text)) == sizeof(POLICY_TEXT) - 1 &&
        memcmp(text, POLICY_TEXT, sizeof(POLICY_TEXT) - 1) == 0 && unlink(POLICY) < 0) {
        return error_set_errno(err, errno, "removing " POLICY " of the template");
    }
    if (is_regular(machine_id, &st) && st.st_size > 0 && truncate(machine_id, 0) < 0) {
        return error_set_errno(err, errno, "emptying %s of the template", machine_id);
    }
    if (mkdir("/etc", 0755) < 0 && errno != EEXIST) {
        return error_set_errno(err, errno, "making /etc of the template");
    }
    for (size_t i = 0; build->base.count == 0 && i < ARRAY_COUNT(of_host); i++) {
        if (is_regular(of_host[i], &st) && st.st_size == 0) {
            continue;
        }
        (void)unlink(of_host[i]); /* it may not be there */
        int rc = write_inside(of_host[i], 0644, "", 0, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int open_sources(const char *const *files, int out_fds[MAX_FILES], struct error *err)
{
    for (size_t i = 0; files != NULL && files[i] != NULL; i++) {
        char path[PATH_MAX];
        if (i == MAX_FILES) {
            return error_set(err, E2BIG, "more than %d files", MAX_FILES);
        }
        (void)snprintf(path, sizeof(path), "%.*s", (int)(strrchr(files[i], ':') - files[i]),
                       files[i]);
        out_fds[i] = open(path, O_PATH | O_CLOEXEC);
        if (out_fds[i] < 0) {
            return error_set_errno(err, errno, "copying %s", path);
        }
    }
    return 0;
}

/* In the new process. Descriptors go with it. */
static int enter(void *ctx, struct error *err)
{
    const struct inside *inside = ctx;
    char root[PATH_MAX];
    int fds[MAX_FILES], devices[ARRAY_COUNT(nodes)];
    AUTO_FREE void *resolver = NULL;
    size_t resolver_size = 0;
    if (inside->needs_network) {
        AUTO_CLOSE int fd = open(HOST_RESOLVER, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            error_ignore(file_read_whole(fd, MAX_RESOLV, HOST_RESOLVER, &resolver, &resolver_size,
                                         NULL)); /* apt will say what it lacks */
        }
    }
    int rc = open_sources(inside->files, fds, err);
    rc = rc < 0 ? rc : mount_layers(inside->build, root, err);
    int run = rc < 0 ? rc : clone_tree(inside->build, "scratch/run", err);
    int tmp = run < 0 ? run : clone_tree(inside->build, "scratch/tmp", err);
    rc = tmp < 0 ? tmp : clone_nodes(devices, err);
    if (rc < 0) {
        return rc;
    }
    if (chdir(root) < 0 || chroot(".") < 0 || chdir("/") < 0) {
        return error_set_errno(err, errno, "changing the root to %s", root);
    }
    rc = mount_tree(run, "/run", err);
    rc = rc < 0 ? rc : mount_tree(tmp, "/tmp", err);
    rc = rc < 0 ? rc : mount_devices(devices, err);
    if (rc == 0 && ((mkdir("/proc", 0755) < 0 && errno != EEXIST) ||
                    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)) {
        rc = error_set_errno(err, errno, "mounting /proc of the template");
    }
    (void)sethostname("template", 8); /* it is ours, and only for messages */
    if (rc == 0 && inside->needs_network) {
        rc = lend_resolver(resolver != NULL ? resolver : "", resolver_size, err);
        rc = rc < 0 ? rc : forbid_services(err);
    }
    for (size_t i = 0; rc == 0 && inside->files != NULL && inside->files[i] != NULL; i++) {
        rc = copy_in(fds[i], strrchr(inside->files[i], ':') + 1, err);
    }
    return rc == 0 && inside->is_last ? clean(inside->build, err) : rc;
}

static int make_scratch(const struct build *build, struct error *err)
{
    static const struct {
        const char *name;
        mode_t mode;
    } folders[] = {{"scratch/run", 0755},
                   {"scratch/run/lock", 01777},
                   {"scratch/run/hull", 0755},
                   {"scratch/run/hull/lists", 0755},
                   {"scratch/run/hull/lists/partial", 0755},
                   {"scratch/run/hull/cache", 0755},
                   {"scratch/run/hull/cache/archives", 0755},
                   {"scratch/run/hull/cache/archives/partial", 0755},
                   {"scratch/run/hull/none", 0755},
                   {"scratch/run/hull/log", 0755},
                   {"scratch/tmp", 01777}};
    for (size_t i = 0; i < ARRAY_COUNT(folders); i++) {
        char path[PATH_MAX];
        build_path(build, folders[i].name, path);
        if ((mkdir(path, 0755) < 0 && errno != EEXIST) || chmod(path, folders[i].mode) < 0) {
            return error_set_errno(err, errno, "making the folder %s", path);
        }
    }
    return 0;
}

static int run_inside(struct inside *inside, const char *what, const char *const *argv,
                      struct error *err)
{
    static const char *const plain[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "TERM=dumb",
        "LC_ALL=C.UTF-8",
        "DEBIAN_FRONTEND=noninteractive",
        "APT_CONFIG=/run/hull/apt.conf",
    };
    static const char *const lent[] = {"http_proxy", "https_proxy", "no_proxy"};
    char proxies[ARRAY_COUNT(lent)][512];
    const char *environment[ARRAY_COUNT(plain) + ARRAY_COUNT(lent) + 1];
    size_t count = 0;
    for (; count < ARRAY_COUNT(plain); count++) {
        environment[count] = plain[count];
    }
    for (size_t i = 0; i < ARRAY_COUNT(lent); i++) {
        const char *value = getenv(lent[i]);
        if (value != NULL && inside->needs_network && strlen(value) < 400) {
            (void)snprintf(proxies[i], sizeof(proxies[i]), "%s=%s", lent[i], value);
            environment[count++] = proxies[i];
        }
    }
    environment[count] = NULL;
    const struct boxed program = {.what = what,
                                  .prepare = enter,
                                  .prepare_ctx = inside,
                                  .argv = argv,
                                  .environment = environment,
                                  .line = build_apt_line,
                                  .poll = build_poll,
                                  .ctx = inside->build};
    return boxed_run(&program, err);
}

int build_script(struct build *build, const char *what, const char *script, struct error *err)
{
    const char *const argv[] = {"sh", "-euc", script, NULL};
    struct inside inside = {.build = build};
    int rc = make_scratch(build, err);
    return rc < 0 ? rc : run_inside(&inside, what, argv, err);
}

static int install(struct build *build, struct inside *inside, struct error *err)
{
    static const char *const update[] = {"apt-get", "update", NULL};
    static const char *const before[] = {
        "apt-get", "install", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "--"};
    const char *const *packages = build->request->packages;
    size_t count = 0;
    while (packages[count] != NULL) {
        count++;
    }
    AUTO_FREE const char **argv = calloc(ARRAY_COUNT(before) + count + 1, sizeof(*argv));
    if (argv == NULL) {
        return error_set_errno(err, ENOMEM, "installing packages");
    }
    memcpy(argv, before, sizeof(before));
    memcpy(argv + ARRAY_COUNT(before), packages, count * sizeof(*argv));
    build_phase(build, "reading lists of packages", 2, 15, 8);
    int rc = host_apt_lend(build, err);
    rc = rc < 0 ? rc : run_inside(inside, "apt-get update", update, err);
    if (rc == 0) {
        build_phase(build, "installing packages", 15, 80, 0);
        rc = run_inside(inside, "apt-get install", argv, err);
    }
    return rc;
}

/* Logs, caches and copies that dpkg leaves; and keys that each container is to have of its own. */
static const char debian_clean[] =
    "rm -rf /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /var/log/apt/*\n"
    "rm -f /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log /var/log/faillog\n"
    "rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache\n"
    "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/dbus/machine-id\n"
    "rm -f /var/lib/systemd/random-seed /etc/.pwd.lock\n";

/* The folder root/ is there already, and is the upper one from now on: it looks like the one that it covers. */
static int make_upper(const struct build *build, struct error *err)
{
    char path[PATH_MAX];
    struct stat st;
    build_path(build, "work", path);
    if (mkdir(path, 0700) < 0) {
        return error_set_errno(err, errno, "making the folder %s", path);
    }
    build_path(build, "root", path);
    if (stat(build->base.path[0], &st) < 0 || chmod(path, st.st_mode & 07777) < 0 ||
        chown(path, st.st_uid, st.st_gid) < 0) {
        return error_set_errno(err, errno, "making the folder %s", path);
    }
    return 0;
}

int build_inside(struct build *build, bool has_packages, struct error *err)
{
    const struct template_build *request = build->request;
    char path[PATH_MAX];
    struct inside inside = {.build = build, .needs_network = true};
    struct inside last = {.build = build, .files = request->files, .is_last = true};
    int rc = make_scratch(build, err);
    if (rc == 0 && build->base.count > 0) {
        rc = make_upper(build, err);
    }
    if (rc == 0 && request->packages != NULL && request->packages[0] != NULL && !has_packages) {
        rc = install(build, &inside, err);
    }
    if (rc == 0 && request->run != NULL) {
        /* The command may use the files. */
        const char *const argv[] = {"sh", "-euc", request->run, NULL};
        inside.files = request->files;
        last.files = NULL;
        build_phase(build, "running the command", 80, 95, 0);
        rc = run_inside(&inside, "the command", argv, err);
    }
    build_phase(build, "cleaning", 95, 96, 0);
    build_path(build, build->base.count > 0 ? "" : "root/var/lib/dpkg/status", path);
    if (rc == 0 && (build->base.count > 0 ? build->suite[0] != '\0' : access(path, F_OK) == 0)) {
        rc = build_script(build, "cleaning", debian_clean, err);
    }
    return rc < 0 ? rc : run_inside(&last, "cleaning", NULL, err);
}
