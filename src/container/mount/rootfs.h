/* The container's file tree: root, mounts, devices, masked and read-only paths.
 *
 * Whatever lies below the root is opened with openat2 and RESOLVE_IN_ROOT and used by descriptor: links in an image lead
 * nowhere else. /proc and /sys are verified to be what they should be before they are written to. */
#ifndef CONTAINER_MOUNT_ROOTFS_H
#define CONTAINER_MOUNT_ROOTFS_H

#include "container/degrade.h"
#include "container/spec/spec.h"

struct rootfs_request {
    const struct spec *spec;
    const char *
        root; /* absolute path on the host; relative sources of bind mounts begin at the current directory */
    bool no_pivot; /* --no-pivot: MS_MOVE and chroot, for an initramfs */
    bool has_own_user_namespace;
    bool is_rootless;
};

/* In the runtime, before the container's process begins: opens what the container's own process may not be able to
 * (bind sources, id-mapped trees with mappings of their own). The descriptors are inherited. Checks that the root file system is there.
 * Ownership: the caller's, by rootfs_destroy in both processes. */
struct rootfs;
int must_check rootfs_create(const struct rootfs_request *request, struct rootfs **out_rootfs,
                             struct error *err);
void rootfs_destroy(struct rootfs *rootfs);

/* In the runtime, once the container's user namespace has its mappings and before rootfs_mount there: id-mapped trees that take those
 * of the container. The trees are the ones that the container's process has inherited, so nothing is handed over. */
int must_check rootfs_map(struct rootfs *rootfs, pid_t container, struct error *err);

/* In the container's process, in its own mount namespace, still with the host's root: propagation, the root, mounts, devices
 * and links in /dev. Hooks createContainer run after it. */
int must_check rootfs_mount(struct rootfs *rootfs, struct degrade *degrade, struct error *err);
/* The container's root, from rootfs_mount on, on loan: for what else is to be done below it. */
int rootfs_root(const struct rootfs *rootfs);

/* Masked and read-only paths, sysctl; then the tree becomes '/', the host's goes, a read-only root. */
int must_check rootfs_enter(struct rootfs *rootfs, struct error *err);

/* A root of a user namespace that keeps CAP_SYS_ADMIN could undo what rootfs_enter hid or made read-only: all those mounts belong to
 * its own namespace. This makes a copy of the container's mount namespace in which nothing of it can be undone (the kernel locks what
 * it copies between user namespaces). In the runtime, while the container's process waits behind rootfs_enter; not for rootless
 * callers (-EPERM). rootfs_needs_lock: whether it is worth it. Returns a descriptor of the new mount namespace. */
bool rootfs_needs_lock(const struct rootfs_request *request);
int must_check rootfs_lock(pid_t container, struct error *err);
/* In the container's process: goes there, and does what is left after it (propagation of the root). */
int must_check rootfs_enter_locked(struct rootfs *rootfs, int mount_namespace_fd,
                                   struct error *err);

/* A terminal of the container's own devpts, after rootfs_mount; becomes /dev/console with 'has_console', and belongs to
 * 'uid'. 'rootfs' NULL: of the tree that the caller is in. The master is the caller's; its TIOCGPTPEER opens the slave without a path.
 * 'out_name': of the slave, as the container sees it. */
int must_check rootfs_open_terminal(struct rootfs *rootfs, uint32_t uid, bool has_console,
                                    int *out_master, char *out_name, size_t name_size,
                                    struct error *err);

#endif
