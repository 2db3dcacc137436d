/* A container as small as possible for tests of the tree: namespaces, a root file system in a directory of its own, and a function that
 * runs inside. All is done in a private mount namespace below the test's own process. */
#ifndef TESTS_UNIT_CONTAINER_MOUNT_BOX_H
#define TESTS_UNIT_CONTAINER_MOUNT_BOX_H

#include <stdbool.h>
#include <stdint.h>

#include "container/mount/rootfs.h"

#define BOX_MAPPED_ID 100000 /* root of a container with a user namespace, on the host */
#define BOX_USER_ID   1000

struct box {
    struct spec spec;
    uint64_t flags; /* CLONE_NEW* */
    bool no_pivot, locks, is_rootless;
    bool
        is_unprivileged; /* the runtime is an ordinary user (id 1000), with CLONE_NEWUSER and is_rootless */
    bool keeps_host; /* the runtime's own mounts must be the same afterwards */
    /* In the process that plays the runtime: fills 'root' (absolute). NULL: nothing. */
    void (*fill)(const char *root);
    /* In the container's process between rootfs_mount and rootfs_enter. NULL: nothing. */
    void (*between)(struct rootfs *rootfs);
    /* In the container. */
    void (*check)(void);
    const char *expected_error; /* a part of the text that rootfs_* must fail with; NULL: none */
};

/* Runs it; fails the test with what went wrong. */
void box_run(const struct box *box);

/* Whether the tests can run here: else says why and returns false. */
bool box_is_possible(void);

/* One as runtimes make them: six namespaces; proc, dev, sys, cgroup, tmpfs; some masked and read-only paths. */
struct box box_usual(void);

/* In any of those processes: ends the box with this text if 'condition' does not hold. */
#define box_check(condition) box_check_at((condition), #condition, __FILE__, __LINE__)
void box_check_at(bool condition, const char *text, const char *file, int line);

/* A file of at most 4 KiB, as text; the empty string if there is none. The next call overwrites it. */
const char *box_read(const char *path);
void box_write(const char *path, const char *text);
/* The options of the topmost mount at 'path' ("ro,nosuid,relatime"), "" if nothing is mounted there; "TYPE" of it by box_mount_type. */
const char *box_mount_options(const char *path);
const char *box_mount_type(const char *path);
/* All that /proc/self/mountinfo says behind those options. */
const char *box_mount_tail(const char *path);
bool box_has_option(const char *path, const char *option);
bool box_is_device(const char *path, unsigned device_major, unsigned device_minor);
bool box_is_link(const char *path, const char *target);

#endif
