/* New file systems as mounts that are attached nowhere yet (fsopen, fsconfig, fsmount). */
#ifndef CONTAINER_MOUNT_FILESYSTEM_H
#define CONTAINER_MOUNT_FILESYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/compiler.h"
#include "base/core/error.h"

struct filesystem_request {
    const char *type, *source; /* source: NULL for none */
    const char *data;  /* options of the file system, separated by commas; "" or NULL for none */
    const char *label; /* of SELinux: one more option "context"; NULL: none */
    unsigned long superblock_flags, superblock_cleared; /* MS_* */
    uint64_t attributes;                                /* MOUNT_ATTR_* */
};

/* Some options only mount(2) takes (values beyond 255 bytes; file systems of the old interface): then the file system is mounted by
 * it on the directory 'target_fd' (-1: never), and '*out_fd' is -1. Else '*out_fd' is the mount's descriptor. */
int must_check filesystem_open(const struct filesystem_request *request, int target_fd, int *out_fd,
                               struct error *err);

/* Changes a file system that is mounted: 'mount_fd' is the mount's root. */
int must_check filesystem_reconfigure(const struct filesystem_request *request, int mount_fd,
                                      struct error *err);

/* The option at *cursor, which moves behind it: "name" or "name=value", with commas in quotes or behind a backslash belonging to the
 * value. Writes it to 'out_option', NUL-ended, with '=' replaced by NUL and 'out_value' behind it (NULL: none). Returns 1, 0 at the end, or
 * -E2BIG for an option beyond 'size'. */
int must_check filesystem_next_option(const char **cursor, char *out_option, size_t size,
                                      char **out_value);

#endif
