/* A proc file system that is known to be one: writing to /proc by its path in a container would let an image choose what is
 * written to (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881). */
#ifndef CONTAINER_MOUNT_PROCFS_H
#define CONTAINER_MOUNT_PROCFS_H

#include "base/core/compiler.h"
#include "base/core/error.h"

/* The root of a new proc file system of the caller's pid namespace that is mounted nowhere; where the caller may make none, that of
 * /proc after a check that it is the root of one. The caller closes it. Returns a descriptor. */
int must_check procfs_open(struct error *err);

/* A file of it ("self/attr/exec"): never one that something is mounted over. Returns a descriptor or -errno. */
int must_check procfs_open_file(int proc_fd, const char *path, int flags);

/* Opens, writes in one piece, closes. 0 or -errno. */
int must_check procfs_write(int proc_fd, const char *path, const char *text);

#endif
