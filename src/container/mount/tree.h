/* What the files of this folder share while a container's tree is put together. Inside the folder only. */
#ifndef CONTAINER_MOUNT_TREE_H
#define CONTAINER_MOUNT_TREE_H

#include "container/mount/rootfs.h"

struct rootfs {
    const struct spec *spec;
    char *root; /* path on the host */
    bool no_pivot, has_own_user_namespace, is_rootless;
    int root_tree; /* the root before it is attached, where the runtime opened it; else -1 */
    int root_fd;   /* the container's root, attached; -1 before */
    int devpts_fd; /* the container's own terminals; -1: none mounted */
    size_t tree_count;
    int *
        trees; /* for each mount of the configuration: what the runtime has opened for it, else -1 */
    /* Mounts that become read-only when all is in them. */
    int *late_readonly;
    size_t late_readonly_count;
};

/* mounts.c: all mounts of the configuration, in its order. */
int must_check tree_mount_all(struct rootfs *rootfs, struct degrade *degrade, struct error *err);
/* A bind mount's source as a tree that is attached nowhere. Returns a descriptor. */
int must_check tree_open_source(const struct rootfs *rootfs, const struct spec_mount *mount,
                                struct error *err);
/* Keeps a mount, so that it becomes read-only at the end. */
int must_check tree_make_readonly_later(struct rootfs *rootfs, int mount_fd, struct error *err);

/* control_groups.c: a mount of type cgroup or cgroup2. */
int must_check tree_mount_control_groups(struct rootfs *rootfs, const struct spec_mount *mount,
                                         int target_fd, struct error *err);

/* devices.c: device nodes and links below /dev. */
int must_check tree_make_devices(struct rootfs *rootfs, struct error *err);
/* A descriptor of the host's /dev/null, which is that device. */
int must_check tree_open_null(struct error *err);

/* hide.c: masked and read-only paths. */
int must_check tree_hide_paths(struct rootfs *rootfs, struct error *err);

/* sysctl.c: whether the container owns what they change (in the runtime), and setting them (in the container). */
int must_check tree_check_sysctl(const struct spec *spec, struct error *err);
int must_check tree_set_sysctl(const struct spec *spec, struct error *err);

/* copy_up.c: what is in one directory into another, with owners, modes and extended attributes. */
int must_check tree_copy_up(int from_fd, int to_fd, struct error *err);

#endif
