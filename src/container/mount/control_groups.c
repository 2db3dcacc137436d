/* Mounts of type cgroup and cgroup2: the container's own groups in the host's layout. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/filesystem.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

#define GROUPS_DIR       "/sys/fs/cgroup"
#define GROUPS_MAX_BYTES 65536 /* of /proc/self/cgroup */

/* One line of /proc/self/cgroup. */
struct hierarchy {
    const char *controllers; /* "cpu,cpuacct", "name=systemd", "" for v2 */
    const char *directory;   /* below GROUPS_DIR, and in the container */
    const char *path;        /* of the process's group; relative to the cgroup namespace */
};

static bool is_unified_host(void)
{
    struct statfs fs;
    return statfs(GROUPS_DIR, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

static int attach_with(const struct spec_mount *mount, int tree, bool is_new, int target_fd,
                       struct error *err)
{
    int rc = handle_apply(tree, mount->recursive_attributes_set,
                          mount->recursive_attributes_cleared, true);
    if (rc == 0 && !is_new) {
        rc = handle_apply(tree, mount->attributes_set, mount->attributes_cleared, false);
    }
    rc = rc < 0 ? rc : handle_attach(tree, target_fd);
    return rc < 0 ? error_set_errno(err, -rc, "attaching control groups") : 0;
}

/* A copy of the process's own group, without any way up. */
static int bind_group(const struct spec_mount *mount, const struct hierarchy *hierarchy,
                      int target_fd, struct error *err)
{
    char path[PATH_MAX];
    int length =
        snprintf(path, sizeof(path), GROUPS_DIR "%s%s%s", *hierarchy->directory != '\0' ? "/" : "",
                 hierarchy->directory, hierarchy->path);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return error_set(err, ENAMETOOLONG, "a control group's path is too long");
    }
    AUTO_HANDLE int tree = handle_clone(AT_FDCWD, path, false);
    if (tree == -ENOENT) { /* inside of a container that shows its own group as the top */
        path[(size_t)length - strlen(hierarchy->path)] = '\0';
        tree = handle_clone(AT_FDCWD, path, false);
    }
    int rc = tree < 0 ? tree : handle_propagate(tree, MS_SLAVE);
    return rc < 0 ? error_set_errno(err, -rc, "control group %s", path)
                  : attach_with(mount, tree, false, target_fd, err);
}

/* The hierarchy as the process's cgroup namespace shows it. */
static int mount_hierarchy(const struct spec_mount *mount, const struct hierarchy *hierarchy,
                           int target_fd, struct error *err)
{
    char data[128];
    bool is_named = strncmp(hierarchy->controllers, "name=", 5) == 0;
    (void)snprintf(data, sizeof(data), "%s%s", is_named ? "none," : "", hierarchy->controllers);
    struct filesystem_request request = {
        .type = *hierarchy->controllers == '\0' ? "cgroup2" : "cgroup",
        .source = *hierarchy->controllers == '\0' ? "cgroup2" : "cgroup",
        .data = data,
        .attributes = mount->attributes_set,
    };
    AUTO_HANDLE int tree = -1;
    int rc = filesystem_open(&request, -1, &tree, err);
    return rc < 0 ? rc : attach_with(mount, tree, true, target_fd, err);
}

static bool has_own_namespace(const struct rootfs *rootfs)
{
    return spec_find_namespace(rootfs->spec, CLONE_NEWCGROUP) != NULL;
}

/* A user namespace that does not own the cgroup namespace may not mount, but bind. */
static int mount_or_bind(const struct rootfs *rootfs, const struct spec_mount *mount,
                         const struct hierarchy *hierarchy, int target_fd, struct error *err)
{
    if (!has_own_namespace(rootfs)) {
        return bind_group(mount, hierarchy, target_fd, err);
    }
    int rc = mount_hierarchy(mount, hierarchy, target_fd, err);
    return rc == -EPERM || rc == -EBUSY ? bind_group(mount, hierarchy, target_fd, err) : rc;
}

/* Cuts a line of /proc/self/cgroup ("4:memory:/a/b") into its parts. */
static bool parse_line(char *line, struct hierarchy *out)
{
    char *controllers = strchr(line, ':');
    char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (path == NULL) {
        return false;
    }
    *controllers++ = '\0';
    *path++ = '\0';
    bool is_named = strncmp(controllers, "name=", 5) == 0;
    *out = (struct hierarchy){
        .controllers = controllers,
        .directory = *controllers == '\0' ? "unified"
                     : is_named           ? controllers + 5
                                          : controllers,
        .path = path,
    };
    return true;
}

static int make_links(int dir_fd, const struct hierarchy *hierarchy, struct error *err)
{
    if (strchr(hierarchy->controllers, ',') == NULL) {
        return 0;
    }
    char names[256];
    (void)snprintf(names, sizeof(names), "%s", hierarchy->controllers);
    char *saved = NULL;
    for (char *name = strtok_r(names, ",", &saved); name != NULL;
         name = strtok_r(NULL, ",", &saved)) {
        if (symlinkat(hierarchy->directory, dir_fd, name) < 0 && errno != EEXIST) {
            return error_set_errno(err, errno, "linking %s to %s", name, hierarchy->directory);
        }
    }
    return 0;
}

static int mount_one(const struct rootfs *rootfs, const struct spec_mount *mount, int dir_fd,
                     const struct hierarchy *hierarchy, struct error *err)
{
    char host[PATH_MAX];
    (void)snprintf(host, sizeof(host), GROUPS_DIR "/%s", hierarchy->directory);
    if (access(host, F_OK) < 0) {
        return 0; /* the kernel has it, and the host has it mounted nowhere */
    }
    if (mkdirat(dir_fd, hierarchy->directory, 0755) < 0) {
        return error_set_errno(err, errno, "making a directory for %s", hierarchy->directory);
    }
    AUTO_HANDLE int target =
        openat(dir_fd, hierarchy->directory, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
    if (target < 0) {
        return error_set_errno(err, errno, "opening the directory for %s", hierarchy->directory);
    }
    int rc = mount_or_bind(rootfs, mount, hierarchy, target, err);
    return rc < 0 ? error_prefix(err, rc, "control groups of %s", hierarchy->directory)
                  : make_links(dir_fd, hierarchy, err);
}

static int read_groups(char **out_text, struct error *err)
{
    AUTO_HANDLE int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    char *text = fd < 0 ? NULL : calloc(1, GROUPS_MAX_BYTES);
    ssize_t size = text == NULL ? -1 : read(fd, text, GROUPS_MAX_BYTES - 1);
    if (size < 0) {
        free(text);
        return error_set_errno(err, errno, "reading /proc/self/cgroup");
    }
    *out_text = text;
    return 0;
}

static int mount_all_hierarchies(struct rootfs *rootfs, const struct spec_mount *mount,
                                 char *groups, int target_fd, struct error *err)
{
    struct filesystem_request request = {
        .type = "tmpfs",
        .source = "tmpfs",
        .data = "mode=755",
        .attributes = mount->attributes_set & ~(uint64_t)MOUNT_ATTR_RDONLY,
        .label = NULL,
    };
    AUTO_HANDLE int tmpfs = -1;
    int rc = filesystem_open(&request, -1, &tmpfs, err);
    rc = rc < 0 ? rc : attach_with(&(struct spec_mount){0}, tmpfs, true, target_fd, err);
    char *saved = NULL;
    for (char *line = strtok_r(groups, "\n", &saved); rc == 0 && line != NULL;
         line = strtok_r(NULL, "\n", &saved)) {
        struct hierarchy hierarchy;
        if (parse_line(line, &hierarchy)) {
            rc = mount_one(rootfs, mount, tmpfs, &hierarchy, err);
        }
    }
    uint64_t all = mount->attributes_set | mount->recursive_attributes_set;
    return rc == 0 && (all & MOUNT_ATTR_RDONLY) ? tree_make_readonly_later(rootfs, tmpfs, err) : rc;
}

/* The process's group of v2, where the host has nothing else. */
static int mount_unified(const struct rootfs *rootfs, const struct spec_mount *mount, char *groups,
                         int target_fd, struct error *err)
{
    struct hierarchy unified = {.controllers = "", .directory = "", .path = "/"};
    char *line = strncmp(groups, "0::", 3) == 0 ? groups : strstr(groups, "\n0::");
    if (line != NULL) {
        line += *line == '\n';
        line[strcspn(line, "\n")] = '\0';
        unified.path = line + strlen("0::");
    }
    return mount_or_bind(rootfs, mount, &unified, target_fd, err);
}

int tree_mount_control_groups(struct rootfs *rootfs, const struct spec_mount *mount, int target_fd,
                              struct error *err)
{
    AUTO_FREE char *groups = NULL;
    int rc = read_groups(&groups, err);
    if (rc < 0) {
        return rc;
    }
    if (is_unified_host()) {
        rc = mount_unified(rootfs, mount, groups, target_fd, err);
    } else if (strcmp(mount->type, "cgroup2") == 0) {
        struct hierarchy unified = {.controllers = "", .directory = "unified", .path = "/"};
        rc = mount_hierarchy(mount, &unified, target_fd, err);
    } else {
        rc = mount_all_hierarchies(rootfs, mount, groups, target_fd, err);
    }
    if (rc == 0 && mount->propagation != 0) {
        AUTO_HANDLE int top =
            beneath_open(rootfs->root_fd, mount->destination, O_PATH | O_DIRECTORY, 0);
        rc = top < 0 ? top : handle_propagate(top, mount->propagation);
        rc = rc < 0 ? error_set_errno(err, -rc, "setting the propagation of control groups") : 0;
    }
    return rc;
}
