/* The life of a container's tree: what the runtime opens for it, the mounts, and how it becomes the root. */
#include "container/mount/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/handle.h"
#include "container/mount/idmap.h"
#include "container/mount/tree.h"

CLEANUP_DEFINE(rootfs_cleanup, struct rootfs *, rootfs_destroy, NULL)
#define AUTO_ROOTFS __attribute__((cleanup(rootfs_cleanup)))

/* The runtime opens what the container's root might not reach, and what only the host's root may map. */
static bool is_opened_by_runtime(const struct rootfs *rootfs, const struct spec_mount *mount)
{
    return mount->is_bind && !mount->is_remount &&
           (mount->has_idmap || (rootfs->has_own_user_namespace && !rootfs->is_rootless));
}

static bool has_own_mappings(const struct spec_mount *mount)
{
    return mount->uid_mappings.count > 0 || mount->gid_mappings.count > 0;
}

static int map_tree(const struct spec_mount *mount, int tree, int namespace_fd, struct error *err)
{
    int rc = handle_map_ids(tree, namespace_fd, mount->is_recursive_idmap);
    return rc < 0 ? error_set_errno(
                        err, -rc,
                        "mounting %s: mapping ids (the source's file system may not be able to)",
                        mount->destination)
                  : 0;
}

static int open_tree_of(struct rootfs *rootfs, size_t index, struct error *err)
{
    const struct spec_mount *mount = &rootfs->spec->mounts[index];
    int fd = tree_open_source(rootfs, mount, err);
    if (fd < 0) {
        return error_prefix(err, fd, "mounting %s", mount->destination);
    }
    rootfs->trees[index] = fd;
    /* A copy of a shared mount is its peer, and mounts below it would come to the host. */
    if (rootfs->has_own_user_namespace || (mount->propagation & MS_SHARED) == 0) {
        int rc = handle_propagate(fd, MS_SLAVE | MS_REC);
        if (rc < 0) {
            return error_set_errno(err, -rc, "mounting %s: setting the propagation",
                                   mount->destination);
        }
    }
    if (!mount->has_idmap || !has_own_mappings(mount)) {
        return 0;
    }
    AUTO_HANDLE int namespace_fd =
        idmap_make_namespace(&mount->uid_mappings, &mount->gid_mappings, err);
    return namespace_fd < 0 ? error_prefix(err, namespace_fd, "mounting %s", mount->destination)
                            : map_tree(mount, fd, namespace_fd, err);
}

static int check_mount(const struct rootfs *rootfs, const struct spec_mount *mount,
                       struct error *err)
{
    if (mount->has_idmap && !mount->is_bind) {
        return error_set(err, EINVAL, "mounting %s: only bind mounts take id mappings",
                         mount->destination);
    }
    if (mount->has_idmap && !has_own_mappings(mount) && !rootfs->has_own_user_namespace) {
        return error_set(
            err, EINVAL,
            "mounting %s: id mappings are wanted, and neither the mount nor the container has any",
            mount->destination);
    }
    return 0;
}

int rootfs_create(const struct rootfs_request *request, struct rootfs **out_rootfs,
                  struct error *err)
{
    size_t count = request->spec->mount_count;
    AUTO_ROOTFS struct rootfs *rootfs = calloc(1, sizeof(*rootfs));
    if (rootfs == NULL) {
        return error_set(err, ENOMEM, "no memory for the container's tree");
    }
    *rootfs = (struct rootfs){
        .spec = request->spec,
        .root = strdup(request->root),
        .no_pivot = request->no_pivot,
        .has_own_user_namespace = request->has_own_user_namespace,
        .is_rootless = request->is_rootless,
        .root_tree = -1,
        .root_fd = -1,
        .devpts_fd = -1,
        .trees = malloc((count + 1) * sizeof(int)),
        .late_readonly = malloc((count + 1) * sizeof(int)),
    };
    if (rootfs->root == NULL || rootfs->trees == NULL || rootfs->late_readonly == NULL) {
        return error_set(err, ENOMEM, "no memory for the container's tree");
    }
    rootfs->tree_count = count;
    for (size_t i = 0; i < count; i++) {
        rootfs->trees[i] = -1;
    }
    AUTO_HANDLE int root = open(request->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) {
        return error_set_errno(err, errno, "root file system %s", request->root);
    }
    int rc = tree_check_sysctl(request->spec, err);
    if (rc == 0 && rootfs->has_own_user_namespace && !rootfs->is_rootless) {
        rootfs->root_tree = handle_clone(root, "", true);
        rc = rootfs->root_tree < 0 ? rootfs->root_tree
                                   : handle_propagate(rootfs->root_tree, MS_SLAVE | MS_REC);
        rc = rc < 0 ? error_set_errno(err, -rc, "root file system %s", request->root) : 0;
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct spec_mount *mount = &request->spec->mounts[i];
        rc = check_mount(rootfs, mount, err);
        rc = rc == 0 && is_opened_by_runtime(rootfs, mount) ? open_tree_of(rootfs, i, err) : rc;
    }
    if (rc == 0) {
        *out_rootfs = TAKE_PTR(rootfs);
    }
    return rc;
}

static void close_all(int *fds, size_t count)
{
    for (size_t i = 0; fds != NULL && i < count; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    free(fds);
}

void rootfs_destroy(struct rootfs *rootfs)
{
    if (rootfs == NULL) {
        return;
    }
    close_all(rootfs->trees, rootfs->tree_count);
    close_all(rootfs->late_readonly, rootfs->late_readonly_count);
    int fds[] = {rootfs->root_tree, rootfs->root_fd, rootfs->devpts_fd};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    free(rootfs->root);
    free(rootfs);
}

int rootfs_map(struct rootfs *rootfs, pid_t container, struct error *err)
{
    AUTO_HANDLE int namespace_fd = -1;
    for (size_t i = 0; i < rootfs->tree_count; i++) {
        const struct spec_mount *mount = &rootfs->spec->mounts[i];
        if (!mount->has_idmap || has_own_mappings(mount) || rootfs->trees[i] < 0) {
            continue;
        }
        if (namespace_fd < 0) {
            char path[64];
            (void)snprintf(path, sizeof(path), "/proc/%d/ns/user", container);
            namespace_fd = open(path, O_RDONLY | O_CLOEXEC);
            if (namespace_fd < 0) {
                return error_set_errno(err, errno, "opening %s", path);
            }
        }
        int rc = map_tree(mount, rootfs->trees[i], namespace_fd, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* What a path lies on must not be shared: the root would appear on the host as well, and cannot be pivoted to. */
static int make_parent_private(const char *path)
{
    char parent[PATH_MAX];
    if (strlen(path) >= sizeof(parent)) {
        return -ENAMETOOLONG;
    }
    memcpy(parent, path, strlen(path) + 1);
    for (;;) {
        AUTO_HANDLE int fd = open(parent, O_PATH | O_CLOEXEC);
        struct statx st;
        if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, 0, &st) < 0) {
            return -errno;
        }
        char *slash = strrchr(parent, '/');
        bool is_top = slash == NULL || parent[1] == '\0';
        if ((st.stx_attributes & STATX_ATTR_MOUNT_ROOT) || is_top) {
            return handle_propagate(fd, MS_PRIVATE);
        }
        slash[slash == parent ? 1 : 0] = '\0';
    }
}

static int propagate_host(const struct rootfs *rootfs, struct error *err)
{
    unsigned long wanted = rootfs->spec->linux_.rootfs_propagation;
    bool stays_shared = (wanted & MS_SHARED) != 0 && !rootfs->has_own_user_namespace;
    int rc = 0;
    if (!stays_shared) {
        AUTO_HANDLE int top = open("/", O_PATH | O_CLOEXEC);
        rc = top < 0
                 ? -errno
                 : handle_propagate(top, MS_REC | ((wanted & MS_PRIVATE) ? MS_PRIVATE : MS_SLAVE));
    } else {
        AUTO_FREE char *real = realpath(rootfs->root, NULL);
        rc = real == NULL ? -errno : make_parent_private(real);
    }
    return rc < 0 ? error_set_errno(err, -rc, "setting the propagation of the host's mounts") : 0;
}

/* Over its own path, where hooks look for it; where the container's root cannot go there, over "/". */
static int attach_root(struct rootfs *rootfs, struct error *err)
{
    AUTO_HANDLE int tree = TAKE_FD(rootfs->root_tree);
    if (tree < 0) {
        tree = handle_clone(AT_FDCWD, rootfs->root, true);
    }
    if (tree < 0) {
        return error_set_errno(err, -tree, "root file system %s", rootfs->root);
    }
    AUTO_HANDLE int target = open(rootfs->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (target < 0 && errno == EACCES) {
        target = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    int rc = target < 0 ? -errno : handle_attach(tree, target);
    if (rc < 0) {
        return error_set_errno(err, -rc, "attaching the root file system %s", rootfs->root);
    }
    rootfs->root_fd = TAKE_FD(tree);
    return 0;
}

int rootfs_mount(struct rootfs *rootfs, struct degrade *degrade, struct error *err)
{
    mode_t mask = umask(0);
    int rc = propagate_host(rootfs, err);
    rc = rc < 0 ? rc : attach_root(rootfs, err);
    rc = rc < 0 ? rc : tree_mount_all(rootfs, degrade, err);
    rc = rc < 0 ? rc : tree_make_devices(rootfs, err);
    (void)umask(mask);
    return rc;
}

int rootfs_root(const struct rootfs *rootfs)
{
    return rootfs->root_fd;
}

static int change_root(const struct rootfs *rootfs, struct error *err)
{
    if (fchdir(rootfs->root_fd) < 0) {
        return error_set_errno(err, errno, "entering the root file system");
    }
    /* Old root and new one on the same directory: no place in the image is needed for the old one. */
    if (syscall(SYS_pivot_root, ".", ".") < 0) {
        return error_set_errno(err, errno, "pivot_root to %s", rootfs->root);
    }
    if (rootfs->spec->linux_.rootfs_propagation &
        MS_SHARED) { /* or the host's mounts would go as well */
        if (mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0) {
            return error_set_errno(err, errno, "setting the propagation of the host's root");
        }
    }
    if (umount2(".", MNT_DETACH) < 0) {
        return error_set_errno(err, errno, "detaching the host's root");
    }
    return 0;
}

/* Mounts of /proc and /sys that the container has not got by its configuration would stay reachable behind the chroot. */
static int detach_host_kernel_files(const struct rootfs *rootfs, struct error *err)
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    if (list == NULL) {
        return error_set_errno(err, errno, "reading the list of mounts");
    }
    AUTO_FREE char *line = NULL;
    AUTO_FREE char *real = realpath(rootfs->root, NULL);
    size_t room = 0, root_size = real == NULL ? 0 : strlen(real);
    while (getline(&line, &room, list) >= 0) {
        char path[PATH_MAX], type[64];
        const char *options = strstr(line, " - ");
        if (options == NULL || sscanf(line, "%*s %*s %*s %*s %4095s", path) != 1 ||
            sscanf(options, " - %63s", type) != 1) {
            continue;
        }
        bool is_kernel = strcmp(type, "proc") == 0 || strcmp(type, "sysfs") == 0;
        bool is_below = real != NULL && strncmp(path, real, root_size) == 0 &&
                        (path[root_size] == '/' || path[root_size] == '\0');
        if (!is_kernel || is_below) {
            continue;
        }
        (void)mount(NULL, path, NULL, MS_SLAVE | MS_REC,
                    NULL); /* it is in all but odd cases already */
        if (umount2(path, MNT_DETACH) < 0 && (errno == EINVAL || errno == EPERM) &&
            mount("tmpfs", path, "tmpfs", 0, "nr_inodes=1") < 0) {
            int rc = error_set_errno(err, errno, "hiding %s", path);
            (void)fclose(list);
            return rc;
        }
    }
    (void)fclose(list);
    return 0;
}

static int move_root(const struct rootfs *rootfs, struct error *err)
{
    int rc = detach_host_kernel_files(rootfs, err);
    if (rc < 0) {
        return rc;
    }
    if (fchdir(rootfs->root_fd) < 0 ||
        move_mount(rootfs->root_fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        chroot(".") < 0) {
        return error_set_errno(err, errno, "moving %s to the root", rootfs->root);
    }
    return 0;
}

/* After the host's root went, so that a root that is shared from here on has no peers there. */
static int finish_root(const struct rootfs *rootfs, int root_fd, struct error *err)
{
    unsigned long wanted = rootfs->spec->linux_.rootfs_propagation;
    int rc =
        wanted & (MS_SHARED | MS_SLAVE | MS_UNBINDABLE) ? handle_propagate(root_fd, wanted) : 0;
    if (rc == 0 && rootfs->spec->is_root_readonly) {
        rc = handle_apply(root_fd, MOUNT_ATTR_RDONLY, 0, false);
    }
    return rc < 0 ? error_set_errno(err, -rc, "setting the options of the root file system") : 0;
}

int rootfs_enter(struct rootfs *rootfs, struct error *err)
{
    int rc = tree_set_sysctl(rootfs->spec, err);
    rc = rc < 0 ? rc : tree_hide_paths(rootfs, err);
    for (size_t i = 0; rc == 0 && i < rootfs->late_readonly_count; i++) {
        rc = handle_apply(rootfs->late_readonly[i], MOUNT_ATTR_RDONLY, 0, false);
        rc = rc < 0 ? error_set_errno(err, -rc, "making a mount read-only") : 0;
    }
    rc = rc < 0 ? rc : rootfs->no_pivot ? move_root(rootfs, err) : change_root(rootfs, err);
    if (rc == 0 && chdir("/") < 0) {
        rc = error_set_errno(err, errno, "entering the root");
    }
    return rc < 0 ? rc : finish_root(rootfs, rootfs->root_fd, err);
}

int rootfs_enter_locked(struct rootfs *rootfs, int mount_namespace_fd, struct error *err)
{
    if (setns(mount_namespace_fd, CLONE_NEWNS) < 0) {
        return error_set_errno(err, errno, "joining the locked mount namespace");
    }
    AUTO_HANDLE int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || chdir("/") < 0) {
        return error_set_errno(err, errno, "entering the root");
    }
    unsigned long wanted = rootfs->spec->linux_.rootfs_propagation;
    int rc = wanted & (MS_SHARED | MS_UNBINDABLE) ? handle_propagate(root, wanted) : 0;
    return rc < 0 ? error_set_errno(err, -rc, "setting the propagation of the root") : 0;
}
